//! Round trips between protobuf, JSON and prost's types, over generated requests.
//!
//! Requests are made from the message tables and a tape of arbitrary bytes, in every form protobuf
//! allows: any order, interleaved, repeated and merged, packed or not, with unknown fields and groups.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::otlp::protobuf::{Builder, Raw};
use crate::otlp::schema::{Field, Kind, Presence};

const LIMITS: Limits =
    Limits { max_bytes: 1 << 20, decoded_budget: 16 << 20, index_budget: 12 << 20, max_depth: 96 };

/// Decisions for a generator; past its end all of them are 0.
struct Tape(std::vec::IntoIter<u8>);

impl Tape {
    fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into_iter())
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.0.next().unwrap_or(0)) % end
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 1
    }

    fn number(&mut self) -> u64 {
        let bits = match self.below(6) {
            0 => return 0,
            1 => return 1,
            2 => return u64::MAX,
            3 => 8,
            4 => 32,
            _ => 64,
        };
        let mut bytes = [0; 8];
        bytes.fill_with(|| self.0.next().unwrap_or(0));
        u64::from_le_bytes(bytes) >> (64 - bits)
    }

    fn double(&mut self) -> f64 {
        match self.below(8) {
            0 => 0.0,
            1 => f64::NAN,
            2 => f64::INFINITY,
            3 => f64::NEG_INFINITY,
            4 => -0.0,
            5 => self.below(1000) as f64 / 10.0,
            // Any bits; of NaNs JSON knows only one.
            _ => Some(f64::from_bits(self.number())).filter(|value| !value.is_nan()).unwrap_or(0.5),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(12)).map(|_| self.below(256) as u8).collect()
    }

    fn text(&mut self) -> String {
        (0..self.below(6))
            .map(|_| ['a', '"', '\\', '\n', '\0', 'é', '😀', '\u{2028}'][self.below(8)])
            .collect()
    }
}

/// A request of this signal in some legal form.
fn request(signal: Signal, tape: &mut Tape) -> Vec<u8> {
    let mut builder = Builder::default();
    put_message(Message::request(signal), tape, 0, &mut builder);
    builder.finish()
}

fn put_message(message: &'static Message, tape: &mut Tape, depth: usize, builder: &mut Builder) {
    let nests = message.name == "AnyValue" && depth > 14;
    let fields = if nests { &message.fields[..4] } else { message.fields };
    // Most fields are far down: lead there first.
    let leads_down = |field: &&Field| match field.kind {
        Kind::Message(inner) => {
            !["Resource", "InstrumentationScope", "EntityRef", "KeyValue"].contains(&inner.name)
        }
        _ => false,
    };
    let down: Vec<_> = fields.iter().filter(leads_down).collect();
    if depth < 5 && !down.is_empty() && !tape.chance(6) {
        put_field(down[tape.below(down.len())], tape, depth, builder);
    }
    for _ in 0..tape.below(8) {
        put_field(&fields[tape.below(fields.len())], tape, depth, builder);
        if tape.chance(12) {
            let number = 2000 + tape.below(3) as u32;
            builder.put(Some(number), Raw::Delimited(&tape.bytes()));
        }
        if tape.chance(20) {
            builder.varint(2000 << 3 | 3);
            builder.put(Some(1), Raw::Varint(tape.number()));
            builder.varint(2000 << 3 | 4);
        }
    }
}

fn put_field(field: &'static Field, tape: &mut Tape, depth: usize, builder: &mut Builder) {
    let number = Some(field.number);
    match field.kind {
        Kind::Message(inner) => {
            let open = builder.open(field.number);
            put_message(inner, tape, depth + 1, builder);
            builder.close(open);
        }
        Kind::String => builder.put(number, Raw::Delimited(tape.text().as_bytes())),
        Kind::Bytes => builder.put(number, Raw::Delimited(&tape.bytes())),
        Kind::Id(size) => {
            let id: Vec<u8> = (0..size).map(|_| tape.below(256) as u8).collect();
            builder.put(number, Raw::Delimited(if tape.chance(4) { &[] } else { &id }));
        }
        kind if field.presence == Presence::Repeated && tape.chance(2) => {
            let open = builder.open(field.number);
            for _ in 0..tape.below(4) {
                builder.put(None, scalar(kind, tape));
            }
            builder.close(open);
        }
        kind => builder.put(number, scalar(kind, tape)),
    }
}

fn scalar(kind: Kind, tape: &mut Tape) -> Raw<'static> {
    match kind {
        Kind::Double => Raw::Fixed64(tape.double().to_bits()),
        Kind::Fixed64 | Kind::Sfixed64 => Raw::Fixed64(tape.number()),
        Kind::Fixed32 => Raw::Fixed32(tape.number() as u32),
        Kind::Bool => Raw::Varint(tape.below(2) as u64),
        Kind::Enum(names) => Raw::Varint(match tape.below(4) {
            0 => u64::MAX,
            _ => tape.below(names.len()) as u64,
        }),
        Kind::Uint32 | Kind::Sint32 => Raw::Varint(u64::from(tape.number() as u32)),
        Kind::Int32 => Raw::Varint(i64::from(tape.number() as i32) as u64),
        _ => Raw::Varint(tape.number()),
    }
}

/// What prost makes of the bytes, encoded again: equal bytes are equal structures, NaNs included.
fn canonical(signal: Signal, bytes: &[u8]) -> Vec<u8> {
    fn through<T: prost::Message + Default>(bytes: &[u8]) -> Vec<u8> {
        T::decode(bytes).unwrap().encode_to_vec()
    }
    match signal {
        Signal::Traces => through::<ExportTraceServiceRequest>(bytes),
        Signal::Metrics => through::<ExportMetricsServiceRequest>(bytes),
        Signal::Logs => through::<ExportLogsServiceRequest>(bytes),
    }
}

fn to_text(signal: Signal, request: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    from_protobuf(signal, request, &mut text);
    text
}

/// The same request as another client may write it.
fn restyled(message: &'static Message, value: &Value, tape: &mut Tape) -> Value {
    let mut pairs = Vec::new();
    for (key, value) in value.as_object().unwrap() {
        let field = &message.fields[message.position_of_key(key).unwrap()];
        let key = if tape.chance(2) { snake_case(key) } else { key.clone() };
        let value = match value {
            Value::Array(elements) => {
                elements.iter().map(|element| restyled_value(field, element, tape)).collect()
            }
            value => restyled_value(field, value, tape),
        };
        pairs.insert(tape.below(pairs.len() + 1), (key, value));
    }
    if tape.chance(4) {
        pairs.push(("unknown".to_owned(), serde_json::json!([{ "a": [null, 1e3, "\u{0}"] }])));
    }
    let unset = message.fields.iter().find(|field| value.get(field.name).is_none());
    if let Some(field) = unset.filter(|_| tape.chance(4)) {
        pairs.push((field.name.to_owned(), Value::Null));
    }
    Value::Object(Map::from_iter(pairs))
}

fn restyled_value(field: &Field, value: &Value, tape: &mut Tape) -> Value {
    let text = value.as_str().unwrap_or_default();
    let plain = !tape.chance(2);
    match field.kind {
        Kind::Message(inner) => restyled(inner, value, tape),
        _ if plain => value.clone(),
        Kind::Int64 | Kind::Sfixed64 => text.parse::<i64>().unwrap().into(),
        Kind::Uint64 | Kind::Fixed64 => text.parse::<u64>().unwrap().into(),
        Kind::Uint32 | Kind::Sint32 | Kind::Int32 | Kind::Fixed32 => value.to_string().into(),
        Kind::Double if text.is_empty() => value.to_string().into(),
        Kind::Id(_) => text.to_uppercase().into(),
        Kind::Bytes => text.replace('+', "-").replace('/', "_").trim_end_matches('=').into(),
        Kind::Enum(names) => {
            let named = names.iter().find(|(_, number)| value == number);
            named.map_or(value.clone(), |(name, _)| (*name).into())
        }
        _ => value.clone(),
    }
}

fn snake_case(key: &str) -> String {
    let pairs = key.chars().map(|letter| match letter.is_ascii_uppercase() {
        true => format!("_{}", letter.to_ascii_lowercase()),
        false => letter.to_string(),
    });
    pairs.collect()
}

fn any_signal() -> impl Strategy<Value = Signal> {
    prop::sample::select(Signal::ALL.to_vec())
}

fn any_tape() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1500)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn protobuf_comes_back_from_json_as_it_was(signal in any_signal(), tape in any_tape()) {
        let request = request(signal, &mut Tape::new(tape));
        let text = to_text(signal, &request);
        prop_assert!(!text.contains(&b'\n'));
        let back = to_protobuf(signal, &text, &LIMITS).unwrap();
        prop_assert_eq!(canonical(signal, &back), canonical(signal, &request));
        prop_assert_eq!(to_text(signal, &back), text);
    }

    #[test]
    fn every_way_to_write_a_request_reads_the_same(
        signal in any_signal(), tape in any_tape(), style in any_tape(),
    ) {
        let request = request(signal, &mut Tape::new(tape));
        let value = serde_json::from_slice(&to_text(signal, &request)).unwrap();
        let restyled = restyled(Message::request(signal), &value, &mut Tape::new(style));
        let text = serde_json::to_string_pretty(&restyled).unwrap();
        let back = to_protobuf(signal, text.as_bytes(), &LIMITS);
        prop_assert!(back.is_ok(), "{}\n{text}", back.unwrap_err());
        prop_assert_eq!(canonical(signal, &back.unwrap()), canonical(signal, &request));
    }

    #[test]
    fn damaged_text_is_refused_or_read_as_valid_protobuf(
        signal in any_signal(), tape in any_tape(),
        damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..4), end in any::<u16>(),
    ) {
        let mut text = to_text(signal, &request(signal, &mut Tape::new(tape)));
        let length = text.len();
        for (at, byte) in damage {
            let alphabet = b"\"{}[],:0-e.nNtf\\u a";
            text[usize::from(at) % length] = alphabet[usize::from(byte) % alphabet.len()];
        }
        text.truncate(usize::from(end).max(1));
        if let Ok(back) = to_protobuf(signal, &text, &LIMITS) {
            canonical(signal, &back);
        }
    }

    #[test]
    fn arbitrary_bytes_become_one_line_of_json(signal in any_signal(), bytes in any_tape()) {
        let text = to_text(signal, &bytes);
        prop_assert!(!text.contains(&b'\n'));
        prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok());
    }
}
