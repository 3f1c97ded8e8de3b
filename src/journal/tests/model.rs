//! Any sequence of appends, ends, restarts, kills and power losses, held against a model, and shrunk.

use proptest::collection::vec;
use proptest::prelude::*;

use super::disk::{Faults, Mutant};
use super::life::{Caller, Life, Step};
use crate::journal::types::Options;

fn step() -> impl Strategy<Value = Step> {
    let caller = prop_oneof![4 => Just(Caller::Waits), 1 => Just(Caller::Left)];
    let append = (vec(1_usize..3000, 1..4), caller);
    prop_oneof![
        6 => vec(append, 1..4).prop_map(Step::Append),
        5 => vec(0_usize..100, 1..10).prop_map(Step::End),
        1 => (0_usize..100).prop_map(Step::SetAside),
        3 => (0_u64..300).prop_map(Step::Wait),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerLoss),
        1 => (1_u64..80).prop_map(Step::Fuse),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_journal_is_as_its_model(seed in any::<u32>(), steps in vec(step(), 1..60)) {
        let options = Options { segment_size: 8 << 10, ..Options::for_size(256 << 10, 8 << 10) };
        let life = Life::start(u64::from(seed), Mutant::None, Faults::default(), options);
        let mut life = life.map_err(TestCaseError::fail)?;
        for step in &steps {
            life.step(step).map_err(TestCaseError::fail)?;
        }
        life.finish().map_err(TestCaseError::fail)?;
    }
}
