//! Texts and numbers against what a schema says about them: units, lengths, patterns, ranges.

use serde_json::Value as Json;

use super::{Node, Value};
use crate::units;

/// What is wrong, and what to do about it.
pub(super) type Wrong = (String, Option<String>);

pub(super) fn wrong_text(text: &str, schema: &Json) -> Option<Wrong> {
    let unit = match schema.get("format").and_then(Json::as_str) {
        Some("duration") => units::duration::parse(text).err().map(|e| e.to_string()),
        Some("bytes") => units::ByteSize::parse(text).err().map(|e| e.to_string()),
        Some("probability") => units::Probability::parse(text).err().map(|e| e.to_string()),
        Some("rate") => units::Rate::parse(text).err().map(|e| e.to_string()),
        _ => None,
    };
    if let Some(message) = unit {
        return Some((message, None));
    }
    let limit = |key: &str| schema.get(key).and_then(Json::as_u64);
    let length = text.chars().count() as u64;
    if limit("minLength").is_some_and(|min| length < min) {
        let message = match length {
            0 => "cannot be empty".to_owned(),
            _ => format!("shorter than {} characters", limit("minLength")?),
        };
        return Some((message, None));
    }
    if limit("maxLength").is_some_and(|max| length > max) {
        return Some((format!("longer than {} characters", limit("maxLength")?), None));
    }
    let pattern = schema.get("pattern").and_then(Json::as_str)?;
    let fits = regex::Regex::new(pattern).ok()?.is_match(text);
    (!fits).then(|| (format!("does not match the pattern {pattern}"), None))
}

pub(super) fn wrong_number(node: &Node, schema: &Json) -> Option<Wrong> {
    let (number, shown) = match node.value {
        #[allow(clippy::cast_precision_loss, reason = "bounds are far from 2^53 or powers of two")]
        Value::Int(number) => (number as f64, number.to_string()),
        Value::Float(number) => (number, number.to_string()),
        _ => return None,
    };
    let format = schema.get("format").and_then(Json::as_str).unwrap_or_default();
    let unit = match format {
        "probability" if matches!(node.value, Value::Int(_)) => {
            units::Probability::parse(&shown).err().map(|e| e.to_string())
        }
        "probability" => units::Probability::new(number).err().map(|e| e.to_string()),
        "rate" => units::Rate::new(number).err().map(|e| e.to_string()),
        "duration" if number != 0.0 => units::duration::parse(&shown).err().map(|e| e.to_string()),
        _ => None,
    };
    if let Some(message) = unit {
        return Some((message, None));
    }
    let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
    let (least, most) = type_range(format);
    let least = bound("minimum").map_or(least, |min| min.max(least));
    let most = bound("maximum").map_or(most, |max| max.min(most));
    let above = bound("exclusiveMinimum").unwrap_or(f64::NEG_INFINITY);
    let below = bound("exclusiveMaximum").unwrap_or(f64::INFINITY);
    let inside = number >= least && number <= most && number > above && number < below;
    if inside || (number.is_infinite() && least.is_infinite() && most.is_infinite()) {
        return None;
    }
    let mut rules = Vec::new();
    if above > f64::NEG_INFINITY && above >= least {
        rules.push(format!("above {above}"));
    } else if least > f64::NEG_INFINITY {
        rules.push(format!("at least {least}"));
    }
    if below < f64::INFINITY && below <= most {
        rules.push(format!("below {below}"));
    } else if most < f64::INFINITY {
        rules.push(format!("at most {most}"));
    }
    let rules = rules.join(" and ");
    Some((format!("{shown} is out of range; it must be {rules}"), None))
}

/// The range of a number type. Ends of 64-bit ranges are powers of two, so exact enough here.
pub(super) fn type_range(format: &str) -> (f64, f64) {
    match format {
        "uint8" => (0.0, f64::from(u8::MAX)),
        "uint16" => (0.0, f64::from(u16::MAX)),
        "uint32" => (0.0, f64::from(u32::MAX)),
        "uint64" | "uint" | "bytes" => (0.0, 18_446_744_073_709_551_615.0),
        "int8" => (f64::from(i8::MIN), f64::from(i8::MAX)),
        "int16" => (f64::from(i16::MIN), f64::from(i16::MAX)),
        "int32" => (f64::from(i32::MIN), f64::from(i32::MAX)),
        "int64" | "int" => (-9_223_372_036_854_775_808.0, 9_223_372_036_854_775_807.0),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }
}
