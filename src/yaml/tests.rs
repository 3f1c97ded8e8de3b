use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::units::{ByteSize, Probability, Rate};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// A duration.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    timeout: Duration,
    size: Option<ByteSize>,
    rules: Vec<Rule>,
    tls: Option<Tls>,
    headers: Headers,
    mode: Mode,
    small: u8,
    name: String,
    share: Option<Probability>,
    per_second: Option<Rate>,
    pick: Option<Pick>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            size: None,
            rules: Vec::new(),
            tls: None,
            headers: Headers::default(),
            mode: Mode::Fast,
            small: 1,
            name: String::new(),
            share: None,
            per_second: None,
            pick: None,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-secret" = true))]
#[serde(transparent)]
struct Headers(BTreeMap<String, String>);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
    #[serde(default)]
    target: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    insecure: bool,
    #[schemars(extend("x-secret" = true))]
    key_pem: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Quick.
    Fast,
    /// Thorough.
    Slow,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Pick {
    All,
    First { count: u32 },
    Named(Rule),
}

fn load(text: &str) -> Result<File, Vec<String>> {
    let mut problems = Problems::new();
    let node = parse(&Source::new("f.yaml", text)).map_err(|p| p.lines())?;
    let file = read(&node, &mut problems);
    file.ok_or_else(|| problems.lines())
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    match load(text) {
        Ok(file) => assert!(expected.is_empty(), "accepted: {file:?}"),
        Err(lines) => assert_eq!(lines, expected, "in {text:?}"),
    }
}

#[test]
fn every_problem_is_reported_at_once_with_place_path_and_suggestion() {
    check(
        "timeout: 10\nrules:\n- id: a\n  targt: 3\n- target: -1\nmode: fsat\nsmall: 300\nname: 7\n",
        &[
            "f.yaml:1:10: timeout: 10 has no unit; write for example 10s or 10ms",
            "f.yaml:4:3: rules[0].targt: unknown key; did you mean `target`?",
            "f.yaml:5:3: rules[1]: the key `id` is missing",
            "f.yaml:5:11: rules[1].target: -1 is out of range; it must be at least 0 and at most 4294967295",
            "f.yaml:6:7: mode: unknown value `fsat`; did you mean `fast`?",
            "f.yaml:7:8: small: 300 is out of range; it must be at least 0 and at most 255",
            "f.yaml:8:7: name: expected a string, found a whole number; put the value in quotes",
        ],
    );
}

#[test]
fn values_are_read_in_all_their_forms() {
    let file = load(
        "timeout: 1.5s\nsize: 64MiB\nrules: [{id: a, target: 3}, ]\nshare: 10%\nper_second: 2\n\
         mode: slow\npick: {first: {count: 2}}\nheaders: {a: b}\n",
    )
    .unwrap();
    assert_eq!(file.timeout, Duration::from_millis(1500));
    assert_eq!(file.size, Some(ByteSize(64 << 20)));
    assert_eq!(file.rules.len(), 1);
    assert_eq!(file.share.unwrap().get(), 0.1);
    assert_eq!(file.per_second.unwrap().per_second(), 2.0);
    assert_eq!(file.mode, Mode::Slow);
    assert_eq!(file.pick, Some(Pick::First { count: 2 }));
}

#[test]
fn null_means_the_default() {
    let file = load("timeout:\nrules:\ntls:\nheaders:\nsize:\nmode:\nname: ~\n").unwrap();
    assert_eq!(file, File::default());
    assert_eq!(load("").unwrap(), File::default());
}

#[test]
fn alternatives_are_told_apart_by_their_key() {
    check("pick: {frist: {count: 1}}", &["f.yaml:1:8: pick.frist: unknown key; did you mean `first`?"]);
    check(
        "pick: {first: {cuont: 1}}",
        &[
            "f.yaml:1:8: pick.first: the key `count` is missing",
            "f.yaml:1:16: pick.first.cuont: unknown key; did you mean `count`?",
        ],
    );
    check("pick: some", &["f.yaml:1:7: pick: unknown value `some`; allowed: `all`"]);
    assert_eq!(load("pick: all").unwrap().pick, Some(Pick::All));
}

#[test]
fn bad_yaml_is_refused_with_its_place() {
    check(
        "a: 1\na: 2\nb: 3\nb: 1\n",
        &[
            "f.yaml:2:1: a key that is already there; the first one is on line 1",
            "f.yaml:4:1: a key that is already there; the first one is on line 3",
        ],
    );
    check("a: &x 1\n", &["f.yaml:1:7: anchors and aliases are not supported here"]);
    check("a: 1\n---\nb: 1\n", &["f.yaml:2:1: a second document; one file holds one document"]);
    assert!(load("a: [1").is_err());
    assert!(load(&"[".repeat(300)).is_err());
    assert!(load(&format!("{}{}", "a: {".repeat(70), "}".repeat(70))).is_err());
}

#[test]
fn aliases_and_merge_keys_are_expanded_where_allowed() {
    let source = Source::new("c.yaml", "a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\nc: *x\n");
    let node = parse_with_aliases(&source).unwrap();
    assert_eq!(node.at("b.k").unwrap().value, Value::Int(3));
    assert_eq!(node.at("b.l").unwrap().value, Value::Int(2));
    assert_eq!(node.at("c.l").unwrap().value, Value::Int(2));
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n".to_owned();
    for level in 1..10 {
        let item = format!("*a{},", level - 1).repeat(9);
        text.push_str(&format!("a{level}: &a{level} [{item}]\n"));
    }
    assert!(parse_with_aliases(&Source::new("bomb", text)).is_err());
}

#[test]
fn aliases_cannot_nest_deeper_than_text() {
    let mut text = "a0: &a0 1\n".to_owned();
    for level in 1..40 {
        text.push_str(&format!("a{level}: &a{level} [[*a{}]]\n", level - 1));
    }
    let problems = parse_with_aliases(&Source::new("f.yaml", text)).unwrap_err();
    assert!(problems.to_string().contains("nested deeper than 64 levels"), "{problems}");
}

#[test]
fn a_problem_is_shown_with_the_line_and_a_caret() {
    let text = "rules:\n  - id: a\n    targt: 3\n";
    let node = parse(&Source::new("f.yaml", text)).unwrap();
    let mut problems = Problems::new();
    assert_eq!(read::<File>(&node, &mut problems), None);
    let expected = "\
error: unknown key
 --> f.yaml:3:5
  |
3 |     targt: 3
  |     ^^^^^
  |
  = at: rules[0].targt
  = help: did you mean `target`?
  = help: keys here: id, target

1 error";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn no_secret_is_shown() {
    let texts = [
        "headers: {x: hunter2, y: [hunter2]}\n",
        "tls: {key_pem: hunter2, insecure: 3}\n",
        "tls:\n  key_pme: hunter2\n",
        "tls:\n  key_pem: [hunter2]\n",
        "authorization: hunter2\n",
        "headers: {x: hunter2, x: hunter2}\n",
        "api_token: \"hunter2\n",
    ];
    for text in texts {
        let shown = match parse(&Source::new("f.yaml", text)) {
            Err(problems) => problems.to_string(),
            Ok(node) => {
                let mut problems = Problems::new();
                assert_eq!(read::<File>(&node, &mut problems), None);
                problems.to_string()
            }
        };
        assert!(!shown.contains("hunter2"), "{text}\n{shown}");
    }
}

#[test]
fn plain_scalars_have_the_types_of_the_core_schema() {
    let rows = [
        ("", Value::Null),
        ("~", Value::Null),
        ("true", Value::Bool(true)),
        ("yes", Value::Str("yes".into())),
        ("0x1F", Value::Int(31)),
        ("0123", Value::Int(83)),
        ("-5", Value::Int(-5)),
        ("1_000", Value::Int(1000)),
        ("1.5", Value::Float(1.5)),
        ("1e3", Value::Float(1000.0)),
        (".5", Value::Float(0.5)),
        ("1.2.3", Value::Str("1.2.3".into())),
        ("10s", Value::Str("10s".into())),
        ("+", Value::Str("+".into())),
        ("2024-01-01", Value::Str("2024-01-01".into())),
    ];
    for (text, expected) in rows {
        assert_eq!(resolve_plain(text), expected, "{text:?}");
    }
}

#[test]
fn paths_find_nodes() {
    let text = "a:\n- b: {\"x.y\": 1}\n";
    let node = parse(&Source::new("f.yaml", text)).unwrap();
    assert_eq!(node.at("a[0].b[\"x.y\"]").unwrap().value, Value::Int(1));
    assert_eq!(node.at("a[1]"), None);
    assert_eq!(join_key("a[0].b", "x.y"), "a[0].b[\"x.y\"]");
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("a:"),
        Just("timeout: "),
        Just("\n"),
        Just("\r\n"),
        Just("  "),
        Just("- "),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just("\""),
        Just("'"),
        Just("é😀"),
        Just("\u{feff}"),
        Just("\t"),
        Just("&x "),
        Just("*x"),
        Just("<<: "),
        Just("!!str "),
        Just("|\n"),
        Just("#c"),
        Just("key_pem: "),
        Just("headers: "),
        Just("rules: "),
        Just("10s"),
        Just("---\n"),
        Just("\0"),
        Just("? "),
        Just(", "),
        Just("- id: 1\n  "),
        Just("\u{2028}"),
        Just("%YAML 1.2\n"),
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in pieces()) {
        let source = Source::new("f.yaml", text);
        for tree in [parse(&source), parse_with_aliases(&source)] {
            let problems = match tree {
                Err(problems) => problems,
                Ok(node) => {
                    let mut problems = Problems::new();
                    let _ = read::<File>(&node, &mut problems);
                    problems
                }
            };
            prop_assert!(problems.to_string().len() < 1_000_000);
        }
    }
}
