//! The tables against the descriptors that were compiled from the `.proto` files.

use std::collections::BTreeMap;

use super::*;
use crate::otlp::protobuf::{Fields, Raw};

#[test]
fn keys_are_found_in_both_spellings_and_no_other() {
    let check = |key: &str, expected: Option<&str>| {
        let found = messages::SPAN.position_of_key(key).map(|place| messages::SPAN.fields[place].name);
        assert_eq!(found, expected, "{key}");
    };
    check("startTimeUnixNano", Some("startTimeUnixNano"));
    check("start_time_unix_nano", Some("startTimeUnixNano"));
    check("name", Some("name"));
    check("StartTimeUnixNano", None);
    check("start_timeUnixNano", None);
    check("start_time_unix_nano_", None);
    check("start_time_unix_nan", None);
    check("_name", None);
    check("", None);
}

#[test]
fn tables_say_what_the_proto_files_say() {
    let (official, enums) = official();
    let mut tables = BTreeMap::new();
    for signal in Signal::ALL {
        visit(Message::request(signal), &mut tables);
        visit(Message::response(signal), &mut tables);
    }
    // `TracesData` and the like are for files, not for requests.
    let wanted = official.keys().filter(|name| !name.ends_with("sData"));
    assert!(wanted.eq(tables.keys()), "{:?}", tables.keys());
    for table in tables.values() {
        let expected = &official[table.name];
        assert_eq!(&described(table), expected, "{}", table.name);
        assert!(table.fields.len() <= 31, "{}: JSON notes seen fields in 31 bits", table.name);
    }
    for kind in tables.values().flat_map(|table| table.fields).map(|field| field.kind) {
        if let Kind::Enum(names) = kind {
            let names: Vec<_> = names.iter().map(|(name, number)| (name.to_string(), *number)).collect();
            assert!(enums.contains(&names), "{names:?}");
        }
    }
}

fn visit(message: &'static Message, tables: &mut BTreeMap<&'static str, &'static Message>) {
    if tables.insert(message.name, message).is_some() {
        return;
    }
    for field in message.fields {
        if let Kind::Message(inner) = field.kind {
            visit(inner, tables);
        }
    }
}

/// A field as text: `number name type presence`.
fn described(message: &Message) -> Vec<String> {
    message
        .fields
        .iter()
        .map(|field| {
            let kind = match field.kind {
                Kind::Id(_) => "Bytes".to_owned(),
                Kind::Enum(_) => "Enum".to_owned(),
                Kind::Message(inner) => inner.name.to_owned(),
                kind => format!("{kind:?}"),
            };
            format!("{} {} {kind} {:?}", field.number, field.name, field.presence)
        })
        .collect()
}

type Messages = BTreeMap<String, Vec<String>>;
type Enums = Vec<Vec<(String, i32)>>;

fn official() -> (Messages, Enums) {
    let (mut messages, mut enums) = (Messages::new(), Enums::new());
    for file in delimited(opentelemetry_proto::DESCRIPTORS, 1) {
        let package = text(file, 2);
        if package.contains("profiles") || package.contains("tracez") {
            continue;
        }
        for message in delimited(file, 4) {
            read_message(message, &mut messages, &mut enums);
        }
        enums.extend(delimited(file, 5).map(read_enum));
    }
    (messages, enums)
}

fn read_message(message: &[u8], messages: &mut Messages, enums: &mut Enums) {
    let fields = delimited(message, 2).map(read_field).collect();
    assert_eq!(messages.insert(text(message, 1), fields), None);
    for nested in delimited(message, 3) {
        read_message(nested, messages, enums);
    }
    enums.extend(delimited(message, 4).map(read_enum));
}

fn read_field(field: &[u8]) -> String {
    let type_name = text(field, 6).rsplit('.').next().unwrap_or_default().to_owned();
    let kind = match number(field, 5) {
        Some(1) => "Double",
        Some(3) => "Int64",
        Some(4) => "Uint64",
        Some(5) => "Int32",
        Some(6) => "Fixed64",
        Some(7) => "Fixed32",
        Some(8) => "Bool",
        Some(9) => "String",
        Some(11) => &type_name,
        Some(12) => "Bytes",
        Some(13) => "Uint32",
        Some(14) => "Enum",
        Some(16) => "Sfixed64",
        Some(17) => "Sint32",
        other => panic!("type {other:?} is not in OTLP"),
    };
    let presence = match (number(field, 4), number(field, 9), number(field, 17)) {
        (Some(3), None, None) => Presence::Repeated,
        (_, Some(_), Some(1)) => Presence::Explicit,
        (_, Some(_), None) => Presence::OneOf,
        _ => Presence::Implicit,
    };
    format!("{} {} {kind} {presence:?}", number(field, 3).unwrap_or_default(), text(field, 10))
}

fn read_enum(described: &[u8]) -> Vec<(String, i32)> {
    delimited(described, 2)
        .map(|value| (text(value, 1), number(value, 2).unwrap_or_default() as i32))
        .collect()
}

fn delimited(message: &[u8], wanted: u32) -> impl Iterator<Item = &[u8]> {
    Fields::of(message).map(Result::unwrap).filter_map(move |field| match field {
        (number, Raw::Delimited(bytes)) if number == wanted => Some(bytes),
        _ => None,
    })
}

fn text(message: &[u8], wanted: u32) -> String {
    let bytes = delimited(message, wanted).next().unwrap_or_default();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn number(message: &[u8], wanted: u32) -> Option<u64> {
    Fields::of(message).map(Result::unwrap).find_map(|field| match field {
        (number, Raw::Varint(value)) if number == wanted => Some(value),
        _ => None,
    })
}
