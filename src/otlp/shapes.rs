//! The messages of OTLP that are only checked, as tables: what each field number holds and what one
//! message costs decoded.
//!
//! Messages the walk also locates things in (`walk.rs`) and attributes and values (`check.rs`) are
//! written out there. Costs are the sizes of the decoded types, so that they cannot drift.

use opentelemetry_proto::tonic::common::v1::EntityRef;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, SummaryDataPoint,
};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};

use super::check::numbers;
use super::keys::metric;
use crate::wire::{BYTES, key};

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// No field of this number is known.
    Unknown,
    /// One varint.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// Four bytes.
    Fixed32,
    /// A string.
    Text,
    /// Any number of strings.
    Texts,
    /// Bytes.
    Blob,
    /// Any number of varints, packed or not.
    Varints,
    /// Any number of eight bytes, packed or not.
    Fixed64s,
    /// A `KeyValue`.
    Attribute,
    /// Another message of this file.
    Message(&'static Shape),
}

/// The fields of one message, by their number.
#[derive(Debug)]
pub(super) struct Shape {
    /// Bytes one such message takes decoded.
    pub(super) cost: usize,
    /// `fields[number]`; what lies beyond is unknown.
    pub(super) fields: &'static [Kind],
}

use Kind::{Attribute, Blob, Fixed32, Fixed64, Fixed64s, Message, Text, Texts, Unknown, Varint, Varints};

const fn cost<T>() -> usize {
    size_of::<T>()
}

/// `Resource`. It is part of its owner: no cost of its own.
pub(super) static RESOURCE: Shape =
    Shape { cost: 0, fields: &[Unknown, Attribute, Varint, Message(&ENTITY_REF)] };

static ENTITY_REF: Shape = Shape { cost: cost::<EntityRef>(), fields: &[Unknown, Text, Text, Texts, Texts] };

/// `Span.Event`.
pub(super) static EVENT: Shape =
    Shape { cost: cost::<Event>(), fields: &[Unknown, Fixed64, Text, Attribute, Varint] };

/// `Span.Link`.
pub(super) static LINK: Shape =
    Shape { cost: cost::<Link>(), fields: &[Unknown, Blob, Blob, Text, Attribute, Varint, Fixed32] };

/// `NumberDataPoint`.
pub(super) static NUMBER: Shape = Shape {
    cost: cost::<NumberDataPoint>(),
    fields: &[Unknown, Unknown, Fixed64, Fixed64, Fixed64, Message(&EXEMPLAR), Fixed64, Attribute, Varint],
};

/// `HistogramDataPoint`.
pub(super) static HISTOGRAM: Shape = Shape {
    cost: cost::<HistogramDataPoint>(),
    fields: &[
        Unknown,
        Unknown,
        Fixed64,
        Fixed64,
        Fixed64,
        Fixed64,
        Fixed64s,
        Fixed64s,
        Message(&EXEMPLAR),
        Attribute,
        Varint,
        Fixed64,
        Fixed64,
    ],
};

/// `ExponentialHistogramDataPoint`.
pub(super) static EXPONENTIAL: Shape = Shape {
    cost: cost::<ExponentialHistogramDataPoint>(),
    fields: &[
        Unknown,
        Attribute,
        Fixed64,
        Fixed64,
        Fixed64,
        Fixed64,
        Varint,
        Fixed64,
        Message(&BUCKETS),
        Message(&BUCKETS),
        Varint,
        Message(&EXEMPLAR),
        Fixed64,
        Fixed64,
        Fixed64,
    ],
};

static BUCKETS: Shape = Shape { cost: cost::<Buckets>(), fields: &[Unknown, Varint, Varints] };

/// `SummaryDataPoint`.
pub(super) static SUMMARY: Shape = Shape {
    cost: cost::<SummaryDataPoint>(),
    fields: &[Unknown, Unknown, Fixed64, Fixed64, Fixed64, Fixed64, Message(&QUANTILE), Attribute, Varint],
};

static QUANTILE: Shape = Shape { cost: cost::<ValueAtQuantile>(), fields: &[Unknown, Fixed64, Fixed64] };

static EXEMPLAR: Shape = Shape {
    cost: cost::<Exemplar>(),
    fields: &[Unknown, Unknown, Fixed64, Fixed64, Blob, Blob, Fixed64, Attribute],
};

/// What holds the data points of a metric.
#[derive(Debug)]
pub(super) struct Points {
    /// Its data points.
    pub(super) shape: &'static Shape,
    /// Its own field numbers, as a set.
    pub(super) known: u32,
    /// The key of attributes in its data points.
    pub(super) attribute: u32,
}

/// The gauge, sum, histogram, … that a metric's field of this key holds.
pub(super) fn points_of(field: u32) -> Option<&'static Points> {
    static GAUGE: Points = Points { shape: &NUMBER, known: numbers(&[1]), attribute: key(7, BYTES) };
    static SUM: Points = Points { shape: &NUMBER, known: numbers(&[1, 2, 3]), attribute: key(7, BYTES) };
    static BUCKETED: Points = Points { shape: &HISTOGRAM, known: numbers(&[1, 2]), attribute: key(9, BYTES) };
    static SCALED: Points = Points { shape: &EXPONENTIAL, known: numbers(&[1, 2]), attribute: key(1, BYTES) };
    static QUANTILES: Points = Points { shape: &SUMMARY, known: numbers(&[1]), attribute: key(7, BYTES) };
    match field {
        metric::GAUGE => Some(&GAUGE),
        metric::SUM => Some(&SUM),
        metric::HISTOGRAM => Some(&BUCKETED),
        metric::EXPONENTIAL => Some(&SCALED),
        metric::SUMMARY => Some(&QUANTILES),
        _ => None,
    }
}
