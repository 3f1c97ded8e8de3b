//! Tollgate: an OpenTelemetry collector for platforms with many tenants and many model versions.
//!
//! The tour of one request: a [`receiver`] reads it, [`pipeline`] checks and indexes the bytes
//! ([`otlp`]), runs the processors on the index ([`tenant`], [`sampling`], [`processor`]), writes one
//! [`batch`] per tenant, and hands every batch to the [`queue`] of each [`exporter`]; only then is the
//! client told OK. Where each item ended is written down in [`outcome`].
//!
//! Modules stand in layers: a module imports only from groups above its own, and modules of one group
//! do not know each other. `tests/it/layers.rs` reads the list below and enforces it.

// layer: ground
pub mod cgroup;
pub mod compression;
pub mod identity;
pub mod table;
pub mod tasks;
pub mod units;
pub mod wire;
// layer: text with positions
pub mod yaml;
// layer: OTLP on the wire
pub mod otlp;
// layer: what becomes of items, and in whose line they wait
pub mod flow;
pub mod outcome;
// layer: what flows
pub mod batch;
// layer: records on disk
pub mod journal;
// layer: files
pub mod config;
pub mod policies;
// layer: certificates
pub mod tls;
// layer: own metrics and logs
pub mod internal_telemetry;
// layer: the API server
pub mod kubernetes;
// layer: who sends
pub mod authentication;
// layer: decisions and buffers
pub mod queue;
pub mod sampling;
// layer: whose data
pub mod tenant;
// layer: components
pub mod exporter;
pub mod processor;
// layer: the graph
pub mod pipeline;
// layer: edges
pub mod admin;
pub mod receiver;
// layer: life
pub mod runtime;
// layer: command line
pub mod cli;
