use std::time::Duration;

use super::*;

#[test]
fn sizes_are_read_and_written() {
    let rows = [
        ("4096", Some(4096)),
        ("512Mi", Some(512 << 20)),
        ("64MiB", Some(64 << 20)),
        ("1G", Some(1_000_000_000)),
        ("1.5 KiB", Some(1536)),
        ("10b", Some(10)),
        ("0", Some(0)),
        ("100m", None),
        ("1e6", None),
        ("-1", None),
        ("", None),
        ("1.5.5M", None),
        ("99999999999T", None),
    ];
    for (text, expected) in rows {
        assert_eq!(ByteSize::parse(text).ok(), expected.map(ByteSize), "{text}");
    }
    assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
    assert_eq!(ByteSize(1000).to_string(), "1000");
    assert_eq!(
        ByteSize::parse("100m").unwrap_err().to_string(),
        "`100m` is ambiguous: m means milli in Kubernetes; write 100Mi or 100M"
    );
}

#[test]
fn probabilities_are_read_and_written() {
    let rows = [
        ("10%", Some(0.1)),
        ("0.1", Some(0.1)),
        ("1/10", Some(0.1)),
        ("1.0", Some(1.0)),
        ("100 %", Some(1.0)),
        ("1e-9", Some(1e-9)),
        ("1", None),
        ("0.0", None),
        ("0%", None),
        ("101%", None),
        ("1/0", None),
        ("NaN", None),
        ("-0.1", None),
        ("", None),
        ("%", None),
    ];
    for (text, expected) in rows {
        let read = Probability::parse(text).ok().map(Probability::get);
        assert_eq!(read, expected, "{text}");
    }
    assert_eq!(Probability::parse("1").unwrap_err().to_string(), "1 is ambiguous; write 100% or 1%");
    assert_eq!(Probability::parse("1/3").unwrap().to_string(), "33.333333333333%");
    assert_eq!(Probability::ONE.to_string(), "100%");
}

#[test]
fn rates_are_read() {
    let rows = [
        ("100", Some(100.0)),
        ("0.5/s", Some(0.5)),
        ("2k", Some(2000.0)),
        ("1M", Some(1e6)),
        ("0", None),
        ("-1", None),
        ("inf", None),
        ("fast", None),
    ];
    for (text, expected) in rows {
        let read = Rate::parse(text).ok().map(Rate::per_second);
        assert_eq!(read, expected, "{text}");
    }
}

#[test]
fn durations_are_read_and_written() {
    let rows = [
        ("0", Some((0, "0s"))),
        ("0s", Some((0, "0s"))),
        ("1.5s", Some((1_500_000, "1.5s"))),
        (".5s", Some((500_000, "500ms"))),
        ("1h30m0s", Some((5_400_000_000, "1h30m"))),
        ("100us", Some((100, "100us"))),
        ("100µs", Some((100, "100us"))),
        ("2d", Some((172_800_000_000, "48h"))),
        ("1m5s", Some((65_000_000, "1m5s"))),
        ("10", None),
        ("-5s", None),
        ("soon", None),
        ("", None),
    ];
    for (text, expected) in rows {
        let read = duration::parse(text).ok();
        let micros = expected.map(|(micros, _)| Duration::from_micros(micros));
        assert_eq!(read, micros, "{text}");
        if let Some((_, written)) = expected {
            assert_eq!(duration::format(read.unwrap()), written);
        }
    }
}
