//! The read-only API and the status page, for people on this machine.
//!
//! A page in a browser could reach loopback by a name that resolves to it (DNS rebinding), so only
//! questions for `localhost`, for an address, or for the configured host are answered.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::readiness::Readiness;
use super::server::{Answer, Handler, Question};
use super::status::status;
use crate::internal_telemetry::Telemetry;
use crate::otlp::Signal;
use crate::outcome::{Account, Books, DroppedReason, RefusedReason};
use crate::tasks::TaskInfo;

/// Tasks listed at most; with more connections than that the numbers say enough.
const MAX_TASKS: usize = 10_000;

/// Makes JSON when asked.
pub type Json = Arc<dyn Fn() -> Value + Send + Sync>;

/// Makes JSON about a tenant when asked; `None` if the text is not a tenant id.
pub type JsonOfTenant = Arc<dyn Fn(&str) -> Option<Value> + Send + Sync>;

/// What the API tells, and who knows it.
#[derive(Clone)]
pub struct Api {
    /// Books, tasks, what the program says it is.
    pub telemetry: Telemetry,
    /// Where in its life the collector is.
    pub readiness: Readiness,
    /// `GET /v1/revisions`: in force, last good, refused with problems.
    pub revisions: Json,
    /// `GET /v1/policies/effective?tenant=`: what holds for the tenant.
    pub effective_policies: JsonOfTenant,
}

impl Api {
    /// Answers for the API; `endpoint` is the configured address, whose host may be asked for too.
    pub fn handler(self, endpoint: &str) -> Handler {
        let own_host = host_of(endpoint).to_ascii_lowercase();
        Arc::new(move |question: &Question| match is_expected(question.host(), &own_host) {
            true => self.answer(question),
            false => Answer::text(403, "this host name is not served here\n"),
        })
    }

    fn answer(&self, question: &Question) -> Answer {
        match question.path() {
            "/" => Answer::text(200, self.page()),
            "/v1/status" => {
                Answer::json(200, &status(&self.telemetry.read(), self.readiness.state(), (self.revisions)()))
            }
            "/v1/revisions" => Answer::json(200, &(self.revisions)()),
            "/v1/policies/effective" => self.effective(question),
            "/v1/tenants" => Answer::json(200, &self.tenants()),
            "/debug/tasks" => Answer::json(200, &self.tasks()),
            path => Answer::json(404, &json!({ "error": format!("there is nothing at {path}") })),
        }
    }

    fn effective(&self, question: &Question) -> Answer {
        let Some(tenant) = question.parameter("tenant") else {
            return Answer::json(400, &json!({ "error": "the parameter `tenant` is missing" }));
        };
        match (self.effective_policies)(&tenant) {
            Some(policies) => Answer::json(200, &policies),
            None => Answer::json(400, &json!({ "error": "the parameter `tenant` is not a tenant id" })),
        }
    }

    fn tenants(&self) -> Value {
        let accounts = self.telemetry.ledger().accounts();
        let of = |account: &Arc<Account>| {
            let label = account.label().to_string();
            let tenant = json!({
                "policies": (self.effective_policies)(&label),
                "refused_requests": refused_requests(account),
                "signals": signals(account),
            });
            (label, tenant)
        };
        let tenants: Map<String, Value> = accounts.iter().map(of).collect();
        json!({ "tenants": tenants, "totals": books(&self.telemetry.ledger().totals()) })
    }

    fn tasks(&self) -> Value {
        let families = self.telemetry.read();
        let count = |name: &str| families.sum(name, &[]) as u64;
        let list: Vec<_> = self.telemetry.tasks(MAX_TASKS).iter().map(task).collect();
        json!({
            "alive": count("tollgate_tasks_alive"),
            "aborted": count("tollgate_tasks_aborted_total"),
            "overdue": count("tollgate_tasks_overdue_total"),
            "workers": count("tollgate_workers"),
            "requests": count("tollgate_receiver_in_flight_requests"),
            "tasks": list,
        })
    }

    fn page(&self) -> String {
        let mut page = format!("tollgate {}\n\n", env!("CARGO_PKG_VERSION"));
        let families = self.telemetry.read();
        let uptime = families.sum("otelcol_process_uptime", &[]) as u64;
        let mebibytes = families.sum("otelcol_process_memory_rss", &[]) / f64::from(1 << 20);
        let state = self.readiness.state().as_str();
        let policies = families.points("tollgate_policies_info").first();
        let revision = policies.and_then(|point| Some(point.labels.first()?.1.as_str()));
        // Writing to a String cannot fail.
        let _written = write!(
            page,
            "state     {state}\nup        {uptime} s\nmemory    {mebibytes:.1} MiB\npolicies  {}\n\n",
            revision.unwrap_or("none"),
        );
        page += &row(["tenant", "signal", "received", "refused", "sampled out", "sent", "dropped", "queued"]);
        for account in self.telemetry.ledger().accounts() {
            for signal in Signal::ALL {
                let books = account.signal(signal).read();
                if books != Books::default() {
                    page += &books_row(account.label().as_str(), signal, &books);
                }
            }
        }
        page += "\n/v1/status\n/v1/tenants\n/v1/revisions\n/v1/policies/effective?tenant=\n/debug/tasks\n";
        page
    }
}

fn books_row(tenant: &str, signal: Signal, books: &Books) -> String {
    let (refused, dropped) = (books.refused_total(), books.dropped_total());
    let numbers = [books.received, refused, books.sampled_out, books.sent, dropped, books.queued];
    let numbers = numbers.map(|number| number.to_string());
    let [received, refused, sampled_out, sent, dropped, queued] = numbers.each_ref().map(String::as_str);
    row([tenant, signal.as_str(), received, refused, sampled_out, sent, dropped, queued])
}

fn row(cells: [&str; 8]) -> String {
    let [tenant, signal, numbers @ ..] = cells;
    let numbers = numbers.map(|number| format!("{number:>12}")).concat();
    format!("{tenant:24} {signal:8}{numbers}\n")
}

fn task(task: &TaskInfo) -> Value {
    json!({
        "name": task.name,
        "parent": &*task.parent,
        "age_seconds": task.age.as_secs_f64(),
        "state": task.state.as_str(),
        "spawned_at": task.spawned_at.to_string(),
    })
}

fn signals(account: &Account) -> Value {
    let read = Signal::ALL.map(|signal| (signal, account.signal(signal).read()));
    let used = read.iter().filter(|(_, books)| *books != Books::default());
    let signals: Map<String, Value> =
        used.map(|(signal, read)| (signal.as_str().to_owned(), books(read))).collect();
    Value::Object(signals)
}

fn refused_requests(account: &Account) -> Value {
    nonzero(RefusedReason::ALL.iter().map(|r| (r.as_str().to_owned(), account.refused_requests(*r))))
}

fn books(books: &Books) -> Value {
    let refused = RefusedReason::ALL.iter().map(|r| (r.as_str().to_owned(), books.refused[*r as usize]));
    let dropped = DroppedReason::ALL.iter().map(|r| (r.as_str().to_owned(), books.dropped[*r as usize]));
    json!({
        "received": books.received,
        "copied": books.copied,
        "recovered": books.recovered,
        "refused": nonzero(refused),
        "sampled_out": books.sampled_out,
        "sent": books.sent,
        "dropped": nonzero(dropped),
        "stored": books.stored,
        "queued": books.queued,
        "queued_bytes": books.queued_bytes,
    })
}

fn nonzero(reasons: impl Iterator<Item = (String, u64)>) -> Value {
    reasons.filter(|(_, items)| *items > 0).map(|(reason, items)| (reason, Value::from(items))).collect()
}

/// The host without port and brackets.
fn host_of(endpoint: &str) -> &str {
    let host = match endpoint.strip_prefix('[') {
        Some(bracketed) => return bracketed.split(']').next().unwrap_or(bracketed),
        None => endpoint,
    };
    host.rsplit_once(':').map_or(host, |(host, _)| host)
}

fn is_expected(asked: Option<&str>, own_host: &str) -> bool {
    let host = asked.map(|asked| host_of(asked).to_ascii_lowercase());
    host.is_some_and(|host| {
        host == "localhost" || host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host == own_host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_expected_hosts_are_served() {
        let check = |asked: Option<&str>, expected: bool| {
            assert_eq!(is_expected(asked, "gate.internal"), expected, "{asked:?}");
        };
        check(Some("localhost:55679"), true);
        check(Some("LOCALHOST"), true);
        check(Some("127.0.0.1:55679"), true);
        check(Some("[::1]:55679"), true);
        check(Some("10.0.0.7"), true);
        check(Some("gate.internal:55679"), true);
        check(Some("evil.example:55679"), false);
        check(Some("localhost.evil.example"), false);
        check(Some(""), false);
        check(None, false);
    }
}
