//! Black-box tests: they start the real program, talk OTLP to it, and end with the conservation law.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    reason = "tests fail by panicking and own their tasks for a few seconds"
)]

mod backpressure;
mod batching;
mod cancellation;
mod capacity;
mod chart;
mod cli;
mod clients;
mod config_map;
mod documents;
mod durable;
mod edge;
mod examples;
mod failover;
mod fairness;
mod gate;
mod harness;
mod healthcheck;
mod hostile;
mod identity;
mod image;
mod layers;
mod life;
mod limits;
mod own_telemetry;
mod pods;
mod processors;
mod real_api_server;
mod reload;
mod routing;
mod sampling;
mod status;
mod strain;
mod supply_chain;
mod tls;
mod windows;
