//! The extension `health_check`: the Collector's answers to probes.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::readiness::Readiness;
use super::server::{Answer, Handler, Question};
use crate::config::extensions;

/// Makes the handler of probes.
#[derive(Debug)]
pub struct HealthCheck;

impl HealthCheck {
    /// Answers 200 while `readiness` is ready, else 503.
    pub fn handler(config: &extensions::HealthCheck, readiness: &Readiness) -> Handler {
        let (config, readiness) = (config.clone(), readiness.clone());
        Arc::new(move |question: &Question| match matches(&config.path, question.path()) {
            true => answer(&config, &readiness),
            false => Answer::text(404, "not the path of the health check\n"),
        })
    }
}

/// `/` stands for every path, as with the Collector; probes of old charts ask for any.
fn matches(configured: &str, asked: &str) -> bool {
    configured == "/" || configured == asked
}

fn answer(config: &extensions::HealthCheck, readiness: &Readiness) -> Answer {
    let since = readiness.ready_since();
    let status = if since.is_some() { 200 } else { 503 };
    if let Some(body) = &config.response_body {
        let body = if since.is_some() { &body.healthy } else { &body.unhealthy };
        return Answer::text(status, body);
    }
    let body = match since {
        Some((at, instant)) => json!({
            "status": "Server available",
            "upSince": at.to_string(),
            "uptime": go_duration(instant.elapsed()),
        }),
        // The Collector writes the first instant there is, and clients may want the key.
        None => json!({
            "status": "Server not available",
            "upSince": "0001-01-01T00:00:00Z",
            "uptime": "",
        }),
    };
    Answer::json(status, &body)
}

/// A duration as Go prints it, `1h2m3.5s`, because clients parse it.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = Duration::new(seconds % 60, duration.subsec_nanos());
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _written = match (hours, minutes) {
        (0, 0) => Ok(()),
        (0, minutes) => write!(text, "{minutes}m"),
        (hours, minutes) => write!(text, "{hours}h{minutes}m"),
    };
    text + &format!("{}s", rest.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_gos() {
        let check = |millis: u64, expected: &str| {
            assert_eq!(go_duration(Duration::from_millis(millis)), expected);
        };
        check(0, "0s");
        check(1_500, "1.5s");
        check(62_000, "1m2s");
        check(3_600_000, "1h0m0s");
        check(90_061_001, "25h1m1.001s");
    }
}
