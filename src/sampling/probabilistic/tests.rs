use super::randomness::hashed;
use super::*;

fn sampler(mode: Mode, percentage: f32) -> Settings {
    Settings { mode, percentage, hash_seed: 0, fail_closed: true, precision: 4 }
}

fn trace_id(hex: &str) -> [u8; 16] {
    u128::from_str_radix(hex, 16).unwrap().to_be_bytes()
}

#[test]
fn every_row_of_the_vectors_is_decided_alike() {
    let mut rows = 0;
    for line in include_str!("../../../tests/vectors/probabilistic_sampler.tsv").lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let column: Vec<&str> = line.split('\t').collect();
        let settings = Settings {
            mode: match column[0] {
                "hash_seed" => Mode::HashSeed,
                "proportional" => Mode::Proportional,
                _ => Mode::Equalizing,
            },
            percentage: column[1].parse::<f64>().unwrap() as f32,
            hash_seed: column[2].parse().unwrap(),
            precision: column[3].parse().unwrap(),
            fail_closed: column[4] == "true",
        };
        let priority = match column[5] {
            "must" => Some(Scalar::Int(1)),
            "never" => Some(Scalar::Str("0")),
            _ => None,
        };
        let mut out = String::new();
        let decision =
            Sampler::new(settings).unwrap().span(Some(trace_id(column[6])), column[7], priority, &mut out);
        let after = match (decision.keep, decision.rewritten) {
            (true, true) => out.as_str(),
            (true, false) => column[7],
            _ => "",
        };
        assert_eq!((if decision.keep { "1" } else { "0" }, after), (column[8], column[9]), "{line}");
        rows += 1;
    }
    assert_eq!(rows, 549);
}

#[test]
fn hashes_have_the_documented_values() {
    let check = |seed: u32, input: &[u8], expected: &str| {
        assert_eq!(hashed(seed, input).text().as_str(), expected);
    };
    check(0, &[0; 16], "6ea82e749fe455");
    check(0, &trace_id("0af7651916cd43dd8448eb211c80319c"), "886c204b10dde4");
    check(22, &trace_id("0af7651916cd43dd8448eb211c80319c"), "f984040d03019e");
    check(22, b"order-1", "d9d034210b098b");
}

#[test]
fn percentages_have_the_documented_thresholds() {
    let check = |percentage: f32, mode: Mode, precision: u8, expected: &str| {
        let share = Sampler::new(Settings { precision, ..sampler(mode, percentage) }).unwrap().share;
        let text = match share {
            Share::Fixed(threshold) => threshold.text().to_string(),
            _ => "never".to_owned(),
        };
        assert_eq!(text, expected, "{percentage} {mode:?} {precision}");
    };
    for (percentage, hash, one, four, fourteen) in [
        (0.0061, "never", "fffc", "fffc009", "fffc0097"),
        (1.0, "fd74", "fd", "fd70a", "fd70a3d70a3d71"),
        (33.3, "aac4", "b", "aac1", "aac08333333334"),
        (99.9, "0044", "004", "004189", "004188f5c28f6"),
        (12.5, "e", "e", "e", "e"),
        (100.0, "0", "0", "0", "0"),
        (250.0, "0", "0", "0", "0"),
    ] {
        check(percentage, Mode::HashSeed, 4, hash);
        check(percentage, Mode::Equalizing, 1, one);
        check(percentage, Mode::Equalizing, 4, four);
        check(percentage, Mode::Equalizing, 14, fourteen);
    }
}

#[test]
fn bad_settings_are_refused() {
    let new = |percentage: f32, precision: u8| {
        Sampler::new(Settings { precision, ..sampler(Mode::Proportional, percentage) })
    };
    assert_eq!(new(-1.0, 4), Err(BadSettings::Percentage(-1.0)));
    assert!(matches!(new(f32::NAN, 4), Err(BadSettings::Percentage(_))));
    assert!(matches!(new(f32::INFINITY, 4), Err(BadSettings::Percentage(_))));
    assert_eq!(new(1e-15, 4), Err(BadSettings::TooSmall(1e-15)));
    assert_eq!(new(1.0, 0), Err(BadSettings::Precision(0)));
    assert_eq!(new(1.0, 15), Err(BadSettings::Precision(15)));
    assert!(new(0.0, 4).is_ok());
}

#[test]
fn priority_of_a_span_comes_last() {
    let decide = |settings: Settings, trace_state: &str, priority: Scalar<'_>| {
        let mut out = String::new();
        let id = Some(trace_id("ff"));
        Sampler::new(settings).unwrap().span(id, trace_state, Some(priority), &mut out)
    };
    let half = sampler(Mode::Proportional, 50.0);
    assert!(decide(half, "", Scalar::Str("0x1p-2")).keep);
    assert!(decide(half, "bad", Scalar::Double(0.5)).keep, "over fail_closed");
    let open = Settings { fail_closed: false, ..half };
    assert!(!decide(open, "bad", Scalar::Int(0)).keep);
    assert!(decide(open, "bad", Scalar::Int(-1)).keep, "negative is ignored");
    assert!(!decide(half, "", Scalar::Str("1e999")).keep, "unparsable is ignored");
    assert!(!decide(half, "", Scalar::Bool(true)).keep);
    let decision = decide(sampler(Mode::HashSeed, 0.0), "", Scalar::Int(1));
    assert_eq!((decision.keep, decision.decider), (true, Decider::Priority));
}

#[test]
fn logs_carry_their_marks_in_attributes() {
    let all = Sampler::new(sampler(Mode::Equalizing, 50.0)).unwrap();
    let kept = all.log(&LogFacts { randomness: Some("80000000000000"), ..LogFacts::default() });
    let half = Threshold::parse("8");
    let expected =
        LogDecision { keep: true, decider: Decider::Randomness, randomness: None, threshold: half };
    assert_eq!(kept, expected);
    let stricter =
        LogFacts { randomness: Some("e0000000000000"), threshold: Some("c"), ..LogFacts::default() };
    assert_eq!(all.log(&stricter).threshold, Threshold::parse("c"));
    assert!(!all.log(&LogFacts { randomness: Some("8"), ..stricter }).keep, "malformed fails closed");
    let contradicted = LogFacts { randomness: Some("90000000000000"), ..stricter };
    assert!(!all.log(&contradicted).keep);
    assert_eq!(all.log(&LogFacts::default()).decider, Decider::Missing);
}

#[test]
fn logs_are_hashed_by_trace_id_or_attribute() {
    let settings = Settings { hash_seed: 22, ..sampler(Mode::HashSeed, 100.0) };
    let all = Sampler::new(settings).unwrap();
    let order = LogFacts { from_attribute: Some(b"order-1"), hash_trace_id: true, ..LogFacts::default() };
    let by_order = all.log(&order);
    assert_eq!(by_order.randomness, Randomness::parse("d9d034210b098b"));
    assert_eq!((by_order.keep, by_order.decider), (true, Decider::FromAttribute));
    let id = Some(trace_id("0af7651916cd43dd8448eb211c80319c"));
    let by_id = all.log(&LogFacts { trace_id: id, ..order });
    assert_eq!(by_id.randomness, Randomness::parse("f984040d03019e"));
    assert_eq!(all.log(&LogFacts { trace_id: id, hash_trace_id: false, ..order }), by_order);
    assert!(!all.log(&LogFacts { threshold: Some("0"), ..order }).keep, "already marked");
    let open = Sampler::new(Settings { fail_closed: false, ..settings }).unwrap().log(&LogFacts::default());
    assert_eq!((open.keep, open.randomness, open.threshold), (true, None, Some(Threshold::ALWAYS)));
}

#[test]
fn the_priority_of_a_log_is_a_percentage_of_its_own() {
    let check = |percentage: f32, priority: Scalar<'_>, th: Option<&str>| {
        let randomness = Some("c0000000000000");
        let facts = LogFacts { randomness, priority: Some(priority), ..LogFacts::default() };
        let decision = Sampler::new(sampler(Mode::Equalizing, percentage)).unwrap().log(&facts);
        assert_eq!(decision.threshold, th.and_then(Threshold::parse), "{percentage} {priority:?}");
        assert_eq!(decision.keep, th.is_some());
    };
    check(10.0, Scalar::Int(50), Some("8"));
    check(90.0, Scalar::Double(50.0), Some("8"));
    check(90.0, Scalar::Int(10), None);
    check(50.0, Scalar::Int(0), Some("8"));
    check(50.0, Scalar::Int(101), Some("8"));
    check(50.0, Scalar::Str("1"), Some("8"));
    check(0.0, Scalar::Int(50), Some("8"));
}
