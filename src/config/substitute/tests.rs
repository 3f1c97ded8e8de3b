use super::*;

fn env(name: &str) -> Option<String> {
    let value = match name {
        "A" => "one",
        "NUMBER" => "8080",
        "ZERO" => "0123",
        "EMPTY" => "",
        "NAME" => "A",
        "MAP" => "{x: 1, y: \"${A}\"}",
        "LOOP" => "${LOOP}",
        "DOLLAR" => "a$$b",
        "ODD" => "{not: yaml",
        "BOOL" => "true",
        _ => return None,
    };
    Some(value.to_owned())
}

fn run(text: &str) -> (Node, Problems) {
    let source = Source::new("c.yaml", text);
    let node = parse_with_aliases(&source).unwrap();
    let mut problems = Problems::new();
    let node = substitute(&node, &env, &mut problems);
    (node, problems)
}

#[track_caller]
fn check(text: &str, expected: Value) {
    let (node, problems) = run(&format!("k: '{text}'"));
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(node.at("k").unwrap().value, expected, "{text}");
}

#[track_caller]
fn check_problem(text: &str, expected: &str) {
    let (_, problems) = run(&format!("k: '{text}'"));
    assert_eq!(problems.lines(), [format!("c.yaml:1:4: k: {expected}")]);
}

fn text(text: &str) -> Value {
    Value::Str(text.to_owned())
}

#[test]
fn references_in_all_their_forms() {
    check("${env:A}", text("one"));
    check("${A}", text("one"));
    check("${env:NOPE:-two}", text("two"));
    check("${NOPE:-}", Value::Null);
    check("${EMPTY:-two}", Value::Null);
    check("x${EMPTY:-two}y", text("xy"));
    check("${yaml:5}", Value::Int(5));
    check("$A", text("$A"));
    check("$$", text("$"));
    check("a } b", text("a } b"));
    check("} ${A}", text("} one"));
    check("no ${ end", text("no ${ end"));
}

#[test]
fn a_whole_reference_takes_any_type_and_keeps_its_text() {
    let rows = [("ZERO", Value::Int(83), "0123"), ("BOOL", Value::Bool(true), "true")];
    for (name, value, original) in rows {
        let (node, _) = run(&format!("k: ${{env:{name}}}"));
        let node = node.at("k").unwrap();
        assert_eq!((&node.value, node.as_str()), (&value, Some(original)));
    }
    let (node, _) = run("k: ${MAP}");
    assert_eq!(node.at("k.x").unwrap().value, Value::Int(1));
    assert_eq!(node.at("k.y").unwrap().value, text("one"));
    check("${ODD}", text("{not: yaml"));
}

#[test]
fn a_reference_inside_text_is_spliced_as_text() {
    check("localhost:${NUMBER}", text("localhost:8080"));
    check("${A}${ZERO}", text("one0123"));
    check("a ${DOLLAR}", text("a a$b"));
    check_problem("a ${MAP}", "`${MAP}` inside text must be a single value, not a list or map");
}

#[test]
fn inner_references_resolve_first() {
    check("${env:${NAME}}", text("one"));
    check("${NOPE:-${A}}", text("one"));
}

#[test]
fn escaped_references_stay() {
    check("$${A}", text("${A}"));
    check("$$$${A}", text("$${A}"));
    check("$$${A}", text("$one"));
    check("${A} $${A}", text("one ${A}"));
    check("$${A} ${A}", text("${A} ${A}"));
}

#[test]
fn bad_references_are_reported() {
    check_problem(
        "${env:1A}",
        "`1A` is not an environment variable's name; a name is letters, digits and underscores and begins with no digit",
    );
    check_problem("${LOOP}", "still has references after 1000 rounds; does a value refer to itself?");
    check_problem(
        "${ftp:x}",
        "unknown scheme `ftp` in a reference; the schemes are env, file and yaml; `$$` stands for a single `$`",
    );
    check_problem("${env:$A}", "`${env:$A}` holds a `$`, which a reference cannot");
    check_problem(
        "${NOPE}",
        "the environment variable `NOPE` is not set; the value is null; write ${env:NOPE:-text} for a default",
    );
}

#[test]
fn an_unset_variable_is_a_warning_and_null() {
    let (node, problems) = run("k: ${NOPE}");
    assert!(node.at("k").unwrap().is_null() && !problems.has_errors());
}

#[test]
fn files_keep_their_own_places() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part.yaml");
    std::fs::write(&part, "a:\n  b: ${A}\n").unwrap();
    let loops = folder.path().join("loop.yaml");
    std::fs::write(&loops, format!("x: ${{file:{0}}}\ny: 1\n", loops.display())).unwrap();
    let (node, problems) = run(&format!("k: ${{file:{}}}", part.display()));
    let inner = node.at("k.a.b").unwrap();
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(inner.value, text("one"));
    assert_eq!((inner.location.file(), inner.location.line), (part.to_str().unwrap(), 2));
    let (_, problems) = run(&format!("k: ${{file:{}}}", loops.display()));
    assert!(problems.to_string().contains("does a file refer to itself?"), "{problems}");
}
