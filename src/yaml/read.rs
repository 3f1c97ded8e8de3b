//! Tree to typed value: the check against the schema, then serde.
//!
//! The tree that serde sees is the one the check returns: nulls have become empty maps or vanished,
//! substituted scalars are text where text is wanted. Not here: the check itself (`check`).

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::check::Checker;
use super::{Entry, Location, Node, Problems, Value, join_index, join_key};

/// Reads a typed value from a tree: checks the whole tree against the type's schema, reporting every
/// problem, and deserialises only if there was none.
pub fn read<T: DeserializeOwned + JsonSchema>(node: &Node, problems: &mut Problems) -> Option<T> {
    read_at(node, "", problems)
}

/// As [`read`], for a part of a file: `path` is where `node` stands in it.
pub fn read_at<T: DeserializeOwned + JsonSchema>(
    node: &Node,
    path: &str,
    problems: &mut Problems,
) -> Option<T> {
    let schema = schemars::schema_for!(T).to_value();
    let before = problems.errors();
    let checked = Checker::new(&schema, problems).root(node, path);
    if problems.errors() > before {
        return None;
    }
    match T::deserialize(At { node: &checked, path }) {
        Ok(value) => Some(value),
        Err(error) => {
            let (location, at) = match error.place {
                Some((location, at)) => (location, at),
                None => (node.location.clone(), path.to_owned()),
            };
            problems.error(&location, &at, error.message, None);
            None
        }
    }
}

/// What a type's own `Deserialize` found wrong, and where.
#[derive(Debug)]
struct Refused {
    message: String,
    place: Option<(Location, String)>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl serde::de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), place: None }
    }
}

impl Refused {
    fn or_at(mut self, location: &Location, path: &str) -> Self {
        if self.place.is_none() {
            self.place = Some((location.clone(), path.to_owned()));
        }
        self
    }
}

/// A node and its path.
#[derive(Clone, Copy)]
struct At<'n, 'p> {
    node: &'n Node,
    path: &'p str,
}

impl<'n> Deserializer<'n> for At<'n, '_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Refused> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visit_int(*value, visitor),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Str(text) => visitor.visit_borrowed_str(text),
            Value::Seq(items) => {
                visitor.visit_seq(Items { items: items.iter().enumerate(), path: self.path })
            }
            Value::Map(entries) => {
                visitor.visit_map(Entries { entries: entries.iter(), value: None, path: self.path })
            }
        };
        result.map_err(|error| error.or_at(&self.node.location, self.path))
    }

    fn deserialize_option<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'n>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let result = visitor.visit_newtype_struct(self);
        result.map_err(|error| error.or_at(&self.node.location, self.path))
    }

    fn deserialize_enum<V: Visitor<'n>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let result = match (&self.node.value, self.node.as_str()) {
            (Value::Map(entries), _) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant {
                    name: &entry.key,
                    body: Some(&entry.value),
                    path: self.path,
                }),
                _ => Err(Refused::custom("expected exactly one key")),
            },
            (_, Some(name)) => visitor.visit_enum(Variant { name, body: None, path: self.path }),
            _ => Err(Refused::custom(format!("expected a string, found {}", self.node.kind()))),
        };
        result.map_err(|error| error.or_at(&self.node.location, self.path))
    }

    serde::forward_to_deserialize_any! {
        <W: Visitor<'n>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// Numbers of 128 bits are unknown to most visitors, so the narrowest fitting type is offered.
fn visit_int<'n, V: Visitor<'n>>(value: i128, visitor: V) -> Result<V::Value, Refused> {
    if let Ok(value) = u64::try_from(value) {
        visitor.visit_u64(value)
    } else if let Ok(value) = i64::try_from(value) {
        visitor.visit_i64(value)
    } else {
        visitor.visit_i128(value)
    }
}

struct Items<'n, 'p> {
    items: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
    path: &'p str,
}

impl<'n> SeqAccess<'n> for Items<'n, '_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'n>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let path = join_index(self.path, index);
        seed.deserialize(At { node, path: &path }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'n, 'p> {
    entries: std::slice::Iter<'n, Entry>,
    value: Option<&'n Entry>,
    path: &'p str,
}

impl<'n> MapAccess<'n> for Entries<'n, '_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'n>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        let Some(entry) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key: BorrowedStrDeserializer<'n, Refused> = BorrowedStrDeserializer::new(&entry.key);
        let result = seed.deserialize(key).map(Some);
        let place = |error: Refused| error.or_at(&entry.key_location, &join_key(self.path, &entry.key));
        result.map_err(place)
    }

    fn next_value_seed<S: DeserializeSeed<'n>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        let Some(entry) = self.value.take() else {
            return Err(Refused::custom("a value without a key"));
        };
        let path = join_key(self.path, &entry.key);
        let node = &entry.value;
        let result = seed.deserialize(At { node, path: &path });
        result.map_err(|error| error.or_at(&node.location, &path))
    }
}

struct Variant<'n, 'p> {
    name: &'n str,
    body: Option<&'n Node>,
    path: &'p str,
}

impl<'n, 'p> EnumAccess<'n> for Variant<'n, 'p> {
    type Error = Refused;
    type Variant = Body<'n>;

    fn variant_seed<S: DeserializeSeed<'n>>(self, seed: S) -> Result<(S::Value, Body<'n>), Refused> {
        let name: StrDeserializer<'_, Refused> = StrDeserializer::new(self.name);
        let value = seed.deserialize(name)?;
        let path = join_key(self.path, self.name);
        Ok((value, Body { body: self.body, path }))
    }
}

struct Body<'n> {
    body: Option<&'n Node>,
    path: String,
}

impl<'n> Body<'n> {
    fn node(&self) -> Result<At<'n, '_>, Refused> {
        match self.body {
            Some(node) => Ok(At { node, path: &self.path }),
            None => Err(Refused::custom("expected a map with this one key")),
        }
    }
}

impl<'n> VariantAccess<'n> for Body<'n> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        match self.body.is_none_or(|node| node.is_null() || node.entries().is_empty()) {
            true => Ok(()),
            false => Err(Refused::custom("this takes nothing")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'n>>(self, seed: T) -> Result<T::Value, Refused> {
        seed.deserialize(self.node()?)
    }

    fn tuple_variant<V: Visitor<'n>>(self, _len: usize, visitor: V) -> Result<V::Value, Refused> {
        self.node()?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'n>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.node()?.deserialize_any(visitor)
    }
}
