use super::*;
use crate::sampling::threshold::RANDOMNESS_VALUES;

pub(super) fn adjusted(cut: u64) -> f64 {
    RANDOMNESS_VALUES as f64 / (RANDOMNESS_VALUES - cut) as f64
}

pub(super) fn random(rng: &mut fastrand::Rng) -> u64 {
    rng.u64(..RANDOMNESS_VALUES)
}

/// Mean and its standard error of estimates over truth.
pub(super) fn mean(estimates: &[f64]) -> (f64, f64) {
    let n = estimates.len() as f64;
    let mean = estimates.iter().sum::<f64>() / n;
    let variance = estimates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// Sends `rates[i]` items in second `i`; what was kept in each and the estimates over all.
fn send(budget: Budget, rates: &[u64], seed: u64) -> (Vec<f64>, f64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut cap, start) = (Cap::default(), Instant::now());
    let (mut kept, mut estimate) = (vec![0.0; rates.len()], 0.0);
    for (second, rate) in rates.iter().enumerate() {
        for i in 0..*rate {
            let now = start + TICK * second as u32 + TICK.mul_f64(i as f64 / *rate as f64);
            let item = (Threshold::ALWAYS, Some(Randomness::from_low_bits(random(&mut rng))));
            if let Some(threshold) = cap.decide(budget, item, 1.0, now).threshold {
                kept[second] += 1.0;
                estimate += threshold.adjusted_count();
            }
        }
    }
    (kept, estimate)
}

const FIVE_HUNDRED: Budget = Budget { per_second: 500.0, burst: TICK };

#[test]
fn a_steady_excess_is_cut_to_the_budget() {
    let (kept, _) = send(FIVE_HUNDRED, &[10_000; 60], 1);
    let steady = &kept[10..];
    let (mean, _) = mean(steady);
    let worst = steady.iter().copied().fold(0.0, f64::max);
    assert!((470.0..=510.0).contains(&mean), "{mean}");
    assert!(worst < 620.0, "{worst}");
}

#[test]
fn a_jump_costs_a_logarithm_and_is_paid_back() {
    let mut rates = [100; 25];
    rates[5..].fill(50_000);
    let (kept, _) = send(FIVE_HUNDRED, &rates, 2);
    assert_eq!(kept[..5], [100.0; 5], "below the budget everything is kept");
    // b * (1 + ln(n / b)) = 2,803
    assert!((2_600.0..=3_000.0).contains(&kept[5]), "{}", kept[5]);
    let (mean, _) = mean(&kept[5..]);
    assert!((440.0..=560.0).contains(&mean), "{mean}");
}

#[test]
fn counts_at_ingest_are_unbiased_whatever_the_load_does() {
    let check = |rates: &[u64]| {
        let truth = rates.iter().sum::<u64>() as f64;
        let budget = Budget { per_second: 50.0, burst: TICK * 2 };
        let estimates: Vec<f64> = (0..300).map(|seed| send(budget, rates, seed).1 / truth).collect();
        let (mean, error) = mean(&estimates);
        assert!((mean - 1.0).abs() < 3.0 * error, "{rates:?}: {mean} within 3 x {error} of 1");
    };
    check(&[1000; 5]);
    check(&[10, 10, 3000, 10, 500]);
    check(&[2000, 0, 0, 700, 60, 40]);
}

#[test]
fn the_budget_is_what_passes_before_the_threshold_rises() {
    let (mut cap, now) = (Cap::default(), Instant::now());
    let budget = Budget { per_second: 10.0, burst: TICK * 3 };
    let mut decide = |randomness: u64| {
        cap.decide(budget, (Threshold::ALWAYS, Some(Randomness::from_low_bits(randomness))), 1.0, now)
            .threshold
    };
    for randomness in 1..=30 {
        assert_eq!(decide(randomness), Some(Threshold::ALWAYS), "{randomness}");
    }
    assert_eq!(decide(31), Some(Threshold::ALWAYS), "decided before it is offered");
    assert_eq!(decide(1), None);
    assert_eq!(decide(2), Threshold::new(2));
}

#[test]
fn spans_of_one_trace_stand_or_fall_together_and_a_giant_goes_into_debt_once() {
    let (mut cap, start) = (Cap::default(), Instant::now());
    let budget = Budget { per_second: 10.0, burst: TICK };
    let mut decide = |randomness: u64, at: u64| {
        let item = (Threshold::ALWAYS, Some(Randomness::from_low_bits(randomness)));
        cap.decide(budget, item, 1.0, start + TICK * at as u32)
    };
    let first: Vec<Verdict> = (0..100).map(|_| decide(7, 0)).collect();
    assert!(first.iter().all(|verdict| verdict.threshold == Some(Threshold::ALWAYS)));
    assert_eq!(first.iter().filter(|verdict| verdict.oversized).count(), 1, "said once a tick");
    let kept = |verdicts: Vec<Verdict>| verdicts.iter().filter(|v| v.threshold.is_some()).count();
    assert_eq!(kept((0..100).map(|_| decide(7, 1)).collect()), 2, "90 are owed");
    assert_eq!(kept((0..100).map(|_| decide(7, 2)).collect()), 0);
    assert_eq!(kept((0..100).map(|_| decide(7, 30)).collect()), 100, "the debt is paid");
}

#[test]
fn without_randomness_items_pass_only_while_everything_does() {
    let (mut cap, now) = (Cap::default(), Instant::now());
    let budget = Budget { per_second: 10.0, burst: TICK };
    let mut decide = || cap.decide(budget, (Threshold::ALWAYS, None), 1.0, now).threshold;
    let kept = (0..100).filter(|_| decide().is_some()).count();
    assert_eq!(kept, 11);
}

#[test]
fn a_higher_threshold_of_the_item_stays() {
    let (mut cap, now) = (Cap::default(), Instant::now());
    let base = Threshold::parse("8").unwrap();
    let verdict = cap.decide(FIVE_HUNDRED, (base, Some(Randomness::MAX)), 1.0, now);
    assert_eq!(verdict.threshold, Some(base));
}

#[test]
fn a_cap_is_idle_once_its_credit_is_back() {
    let (mut cap, start) = (Cap::default(), Instant::now());
    let budget = Budget { per_second: 10.0, burst: TICK };
    assert!(cap.is_idle(start));
    for _ in 0..30 {
        cap.decide(budget, (Threshold::ALWAYS, Some(Randomness::MAX)), 1.0, start);
    }
    assert!(!cap.is_idle(start + TICK * 2));
    assert!(cap.is_idle(start + TICK * 3));
}
