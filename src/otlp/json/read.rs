//! JSON text to protobuf, in one pass over the text.
//!
//! `serde_json` reads tokens and visits; a visitor looks the key up in the message's table and appends
//! the field to a [`Builder`]. The first fault is kept beside serde's error, which only knows the place.

use std::fmt::Write as _;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{Fault, JsonError};
use super::scalar::{self, Scalar};
use crate::otlp::Limits;
use crate::otlp::protobuf::{Builder, Raw};
use crate::otlp::schema::{Field, Kind, Message, Presence};

/// The bit of a message's set of seen fields that stands for its `oneof`; no table has 32 fields.
const CHOICE_SEEN: u32 = 1 << 31;

/// Reads `text` as a message of this type.
pub(super) fn message(message: &'static Message, text: &[u8], limits: &Limits) -> Result<Vec<u8>, JsonError> {
    let mut state = State::new(text.len(), limits);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    // Only known messages recurse, and they are counted; what is unknown is skipped without recursion.
    deserializer.disable_recursion_limit();
    let result = deserializer
        .deserialize_map(RootVisitor { message, state: &mut state })
        .and_then(|()| deserializer.end());
    match result {
        Ok(()) => Ok(state.builder.finish()),
        Err(error) => Err(state.error(&error)),
    }
}

struct State {
    builder: Builder,
    limits: Limits,
    /// Bytes of an id or of base64, before they become a field.
    scratch: Vec<u8>,
    path: Vec<Step>,
    /// How many messages enclose the present place, the request itself not counted.
    depth: usize,
    stop: Option<Stop>,
}

enum Step {
    Key(&'static str),
    Index(usize),
}

/// Why reading stopped, other than for bad syntax.
enum Stop {
    Fault(Fault),
    TooLarge { limit: usize },
}

impl State {
    fn new(text_length: usize, limits: &Limits) -> Self {
        let limits = Limits {
            max_bytes: limits.max_bytes.min(Limits::MAX_BYTES),
            max_depth: limits.max_depth.clamp(16, Limits::MAX_DEPTH),
            ..*limits
        };
        // Ids shrink to half and keys to nothing, so this rarely grows.
        let builder = Builder::with_capacity((text_length / 2).min(limits.max_bytes));
        Self { builder, limits, scratch: Vec::new(), path: Vec::new(), depth: 0, stop: None }
    }

    /// Notes the fault; serde's error adds the place on its way up.
    fn fault<E: Error>(&mut self, fault: Fault) -> E {
        self.stop = Some(Stop::Fault(fault));
        E::custom("")
    }

    fn check_size<E: Error>(&mut self) -> Result<(), E> {
        let limit = if self.builder.size() > self.limits.max_bytes {
            self.limits.max_bytes
        } else if self.builder.cost() > self.limits.decoded_budget {
            self.limits.decoded_budget
        } else {
            return Ok(());
        };
        self.stop = Some(Stop::TooLarge { limit });
        Err(E::custom(""))
    }

    fn error(self, error: &serde_json::Error) -> JsonError {
        let fault = match self.stop {
            Some(Stop::TooLarge { limit }) => return JsonError::TooLarge { limit },
            Some(Stop::Fault(fault)) => fault,
            None => syntax(error),
        };
        // serde counts columns from 0 where a value is missing.
        let (line, column) = (error.line(), error.column().max(1));
        JsonError::Malformed { line, column, path: path_text(&self.path), fault }
    }

    /// Appends a scalar, with its field number or as an element of a packed field.
    fn put(&mut self, field: &Field, place: Place, scalar: Scalar<'_>) -> Result<(), Fault> {
        let kind = field.kind;
        self.scratch.clear();
        let raw = match kind {
            Kind::String => Raw::Delimited(scalar::text(kind, scalar)?.as_bytes()),
            Kind::Bool => Raw::Varint(scalar::boolean(kind, scalar)?.into()),
            Kind::Int32 => Raw::Varint(sign_extended(scalar::integer(kind, scalar)?)),
            Kind::Int64 => Raw::Varint(scalar::integer::<i64>(kind, scalar)? as u64),
            Kind::Uint32 => Raw::Varint(scalar::integer::<u32>(kind, scalar)?.into()),
            Kind::Uint64 => Raw::Varint(scalar::integer(kind, scalar)?),
            Kind::Sint32 => Raw::Varint(zigzag(scalar::integer(kind, scalar)?).into()),
            Kind::Fixed32 => Raw::Fixed32(scalar::integer(kind, scalar)?),
            Kind::Fixed64 => Raw::Fixed64(scalar::integer(kind, scalar)?),
            Kind::Sfixed64 => Raw::Fixed64(scalar::integer::<i64>(kind, scalar)? as u64),
            Kind::Double => Raw::Fixed64(scalar::double(kind, scalar)?.to_bits()),
            Kind::Enum(names) => Raw::Varint(sign_extended(scalar::enumeration(kind, names, scalar)?)),
            Kind::Bytes => {
                scalar::base64(scalar::text(kind, scalar)?, &mut self.scratch)?;
                Raw::Delimited(&self.scratch)
            }
            Kind::Id(size) => {
                scalar::hex(scalar::text(kind, scalar)?, size, &mut self.scratch)?;
                Raw::Delimited(&self.scratch)
            }
            Kind::Message(_) => {
                let (expected, found) = (scalar::expected(kind), scalar.type_name());
                return Err(Fault::WrongType { expected, found });
            }
        };
        let absent = field.presence == Presence::Implicit && is_default(raw);
        if !absent {
            self.builder.put((place != Place::Packed).then_some(field.number), raw);
        }
        Ok(())
    }
}

fn sign_extended(value: i32) -> u64 {
    i64::from(value) as u64
}

fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

fn is_default(raw: Raw<'_>) -> bool {
    matches!(raw, Raw::Varint(0) | Raw::Fixed64(0) | Raw::Fixed32(0) | Raw::Delimited([]))
}

fn syntax(error: &serde_json::Error) -> Fault {
    if error.is_data() {
        // Only the outermost value leaves its type to serde, whose text would repeat the value.
        return Fault::WrongType { expected: AN_OBJECT, found: "another value" };
    }
    let mut detail = error.to_string();
    if let Some(place) = detail.rfind(" at line ") {
        detail.truncate(place);
    }
    Fault::Syntax { detail }
}

fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            // Writing to a string cannot fail.
            Step::Index(index) => write!(text, "[{index}]").unwrap_or_default(),
        }
    }
    text
}

struct RootVisitor<'a> {
    message: &'static Message,
    state: &'a mut State,
}

impl<'de> Visitor<'de> for RootVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        read_fields(self.message, self.state, map)
    }
}

fn read_fields<'de, A: MapAccess<'de>>(
    message: &'static Message,
    state: &mut State,
    mut map: A,
) -> Result<(), A::Error> {
    let mut seen = 0;
    while let Some(key) = map.next_key_seed(KeySeed { message, seen: &mut seen, state })? {
        let Some(field) = key else {
            map.next_value::<IgnoredAny>()?;
            continue;
        };
        state.path.push(Step::Key(field.name));
        map.next_value_seed(ValueVisitor { field, place: Place::Field, seen: &mut seen, state })?;
        state.path.pop();
    }
    Ok(())
}

/// A key of an object: the field it names, if there is one.
struct KeySeed<'a> {
    message: &'static Message,
    seen: &'a mut u32,
    state: &'a mut State,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        let Some(position) = self.message.position_of_key(key) else { return Ok(None) };
        let field = &self.message.fields[position];
        if *self.seen & 1 << position != 0 {
            return Err(self.state.fault(Fault::DuplicateField { field: field.name }));
        }
        *self.seen |= 1 << position;
        Ok(Some(field))
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind the field's key.
    Field,
    /// In the field's array, each element with the field's number.
    Element,
    /// In the field's array, without number.
    Packed,
}

struct ValueVisitor<'a> {
    field: &'static Field,
    place: Place,
    seen: &'a mut u32,
    state: &'a mut State,
}

impl ValueVisitor<'_> {
    /// Refuses anything but an array behind the key of a repeated field, arrays elsewhere, and a second
    /// field of a `oneof`.
    fn begin<E: Error>(&mut self, found: &'static str) -> Result<(), E> {
        let wants_array = self.field.presence == Presence::Repeated && self.place == Place::Field;
        if wants_array != (found == AN_ARRAY) {
            let expected = if wants_array { AN_ARRAY } else { scalar::expected(self.field.kind) };
            return Err(self.state.fault(Fault::WrongType { expected, found }));
        }
        if self.field.presence == Presence::OneOf {
            if *self.seen & CHOICE_SEEN != 0 {
                return Err(self.state.fault(Fault::SecondChoice { field: self.field.name }));
            }
            *self.seen |= CHOICE_SEEN;
        }
        Ok(())
    }

    fn scalar<E: Error>(mut self, scalar: Scalar<'_>) -> Result<(), E> {
        self.begin(scalar.type_name())?;
        match self.state.put(self.field, self.place, scalar) {
            Ok(()) => self.state.check_size(),
            Err(fault) => Err(self.state.fault(fault)),
        }
    }

    fn enter_message<E: Error>(&mut self) -> Result<(), E> {
        let limit = self.state.limits.max_depth;
        self.state.depth += 1;
        if self.state.depth > limit { Err(self.state.fault(Fault::Depth { limit })) } else { Ok(()) }
    }
}

const AN_ARRAY: &str = "an array";
const AN_OBJECT: &str = "an object";

impl<'de> DeserializeSeed<'de> for ValueVisitor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(scalar::expected(self.field.kind))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Scalar::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Scalar::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Scalar::Signed(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Scalar::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.scalar(Scalar::Text(text))
    }

    /// `null` is no value; in an array it is an empty one, so that the others keep their places.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        let number = (self.place != Place::Packed).then_some(self.field.number);
        match (self.place, self.field.kind) {
            (Place::Field, _) => {}
            (_, Kind::String | Kind::Bytes | Kind::Id(_) | Kind::Message(_)) => {
                self.state.builder.put(number, Raw::Delimited(&[]));
            }
            (_, Kind::Fixed64 | Kind::Sfixed64 | Kind::Double) => {
                self.state.builder.put(number, Raw::Fixed64(0));
            }
            (_, Kind::Fixed32) => self.state.builder.put(number, Raw::Fixed32(0)),
            _ => self.state.builder.put(number, Raw::Varint(0)),
        }
        self.state.check_size()
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.begin(AN_ARRAY)?;
        let Self { field, seen, state, .. } = self;
        let packed = match field.kind {
            Kind::String | Kind::Bytes | Kind::Id(_) | Kind::Message(_) => None,
            _ => Some(state.builder.open(field.number)),
        };
        let place = if packed.is_some() { Place::Packed } else { Place::Element };
        for index in 0.. {
            state.path.push(Step::Index(index));
            if seq.next_element_seed(ValueVisitor { field, place, seen, state })?.is_none() {
                break;
            }
            state.path.pop();
        }
        state.path.pop();
        if let Some(packed) = packed {
            state.builder.close_or_forget(packed);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        self.begin(AN_OBJECT)?;
        let Kind::Message(message) = self.field.kind else {
            let expected = scalar::expected(self.field.kind);
            return Err(self.state.fault(Fault::WrongType { expected, found: AN_OBJECT }));
        };
        self.enter_message()?;
        let open = self.state.builder.open(self.field.number);
        self.state.check_size()?;
        read_fields(message, self.state, map)?;
        self.state.builder.close(open);
        self.state.depth -= 1;
        Ok(())
    }
}
