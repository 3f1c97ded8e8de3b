//! Keys of the connectors: from pipelines to pipelines.
//!
//! `routing` and `failover` have the Collector's keys; own are `tenants` and `tiers` of a route and
//! `retry_on_failure` of a failover. Here only what is written is checked; how connectors and pipelines
//! fit together is checked in `config::connections`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::exporter::{Found, Problem, RetryOnFailure, SendingQueue, check_queue};
use super::null::null_is_default;

/// One connector of the configuration, by its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Connector {
    /// `routing`.
    Routing(Routing),
    /// `failover`.
    Failover(Box<Failover>),
}

impl Connector {
    /// What waits to be sent, of a connector that has a queue.
    pub fn sending_queue(&self) -> Option<&SendingQueue> {
        match self {
            Connector::Routing(_) => None,
            Connector::Failover(failover) => Some(&failover.sending_queue),
        }
    }

    /// Every list of pipelines it names, and its path below the connector.
    pub fn lists(&self) -> Vec<(String, &[String])> {
        match self {
            Connector::Routing(routing) => {
                let table = routing.table.iter().enumerate();
                let rows = table.map(|(n, route)| (format!("table[{n}].pipelines"), &route.pipelines[..]));
                std::iter::once(("default_pipelines".to_owned(), &routing.default_pipelines[..]))
                    .chain(rows)
                    .collect()
            }
            Connector::Failover(failover) => {
                let levels = failover.priority_levels.iter().enumerate();
                levels.map(|(n, level)| (format!("priority_levels[{n}]"), &level[..])).collect()
            }
        }
    }
}

/// The connector `routing`: sends each tenant's data to pipelines of its own. The first route that matches
/// takes the data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// Where data goes that no route matches. Default: none, it is required: what matches nothing would be
    /// lost.
    #[serde(deserialize_with = "null_is_default")]
    pub default_pipelines: Vec<String>,
    /// Without effect: conditions of Tollgate cannot fail. Default: propagate. Range: propagate, ignore,
    /// silent.
    pub error_mode: ErrorMode,
    /// The routes, tried in this order. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub table: Vec<Route>,
}

/// What the Collector does when a condition fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ErrorMode {
    /// The data is refused.
    #[default]
    Propagate,
    /// The condition does not match, which is logged.
    Ignore,
    /// The condition does not match.
    Silent,
}

/// One route. All that is written must match; something must be written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// Ids of tenants, or globs (`*`, `?`, escape `\`). Every pipeline that leads to the connector needs the
    /// processor `tenant`. Tollgate's own key. Default: any tenant.
    #[serde(deserialize_with = "null_is_default")]
    pub tenants: Vec<String>,
    /// Names of tiers in the policies file. As `tenants`. Tollgate's own key. Default: any tier.
    #[serde(deserialize_with = "null_is_default")]
    pub tiers: Vec<String>,
    /// What the condition looks at. Default: resource. Range: resource, request.
    pub context: Context,
    /// A comparison: `attributes["key"] == "value"` of a resource, or `request["header"] == "value"`, or
    /// with `!=`. Headers that prove or name the sender are not there; that is what `tenants` is for.
    /// Default: none.
    pub condition: String,
    /// The Collector's older form of `condition`: `route() where …`. Default: none.
    pub statement: String,
    /// The pipelines, of every signal that comes here. At least one.
    #[serde(deserialize_with = "null_is_default")]
    pub pipelines: Vec<String>,
}

/// What the condition of a route looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Context {
    /// Attributes of resources.
    #[default]
    Resource,
    /// Headers of the request.
    Request,
}

/// A condition as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What is looked at.
    pub context: Context,
    /// The attribute or header.
    pub key: String,
    /// What it is compared with.
    pub value: String,
    /// Whether both must be equal; otherwise they must differ, and what is missing differs.
    pub equal: bool,
}

impl Route {
    /// The condition, if one is written.
    ///
    /// # Errors
    /// Where and what cannot be read: the file is refused.
    pub fn comparison(&self) -> Result<Option<Comparison>, (&'static str, &'static str)> {
        let (at, text) = match (self.condition.trim(), self.statement.trim()) {
            ("", "") => return Ok(None),
            (condition, "") => ("condition", condition),
            ("", statement) => {
                let form = ("statement", "write `route() where …`, or the rest of it as `condition`");
                let rest = statement.strip_prefix("route()").map(str::trim_start);
                ("statement", rest.and_then(|rest| rest.strip_prefix("where ")).ok_or(form)?.trim())
            }
            _ => return Err(("statement", "`condition` and `statement` are the same; leave one away")),
        };
        match self.context {
            Context::Resource => {
                let text = text.strip_prefix("resource.").unwrap_or(text);
                let wanted = "only `attributes[\"key\"] == \"value\"` or `!=` is available in Tollgate";
                compare(text, "attributes", self.context).ok_or((at, wanted))
            }
            Context::Request => {
                let wanted = "only `request[\"header\"] == \"value\"` or `!=` is available in Tollgate";
                compare(text, "request", self.context).ok_or((at, wanted))
            }
        }
        .map(Some)
    }
}

/// Reads `name["key"] == "value"`.
fn compare(text: &str, name: &str, context: Context) -> Option<Comparison> {
    let (key, rest) = quoted(text.strip_prefix(name)?.trim_start().strip_prefix('[')?.trim_start())?;
    let rest = rest.trim_start().strip_prefix(']')?.trim_start();
    let (operator, rest) = rest.split_at_checked(2)?;
    let (value, rest) = quoted(rest.trim_start())?;
    let equal = match operator {
        "==" => true,
        "!=" => false,
        _ => return None,
    };
    rest.trim().is_empty().then(|| Comparison { context, key: key.into(), value: value.into(), equal })
}

/// A text in quotes without escapes, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let (inside, rest) = text.strip_prefix('"')?.split_once('"')?;
    (!inside.contains('\\')).then_some((inside, rest))
}

impl Routing {
    /// Every problem of this connector.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let mut add = |at: String, text: &'static str| {
            found.push(Found { at, problem: Problem::Contradiction(text) });
        };
        if self.default_pipelines.is_empty() {
            let lost = "default_pipelines is required: what no route matches would be lost; to lose it on \
                        purpose, name a pipeline with the exporter `nop`";
            add(String::new(), lost);
        }
        for (n, route) in self.table.iter().enumerate() {
            if let Err((key, text)) = route.comparison() {
                add(format!("table[{n}].{key}"), text);
            } else if route.tenants.is_empty() && route.tiers.is_empty() && route.comparison() == Ok(None) {
                add(format!("table[{n}]"), "a route needs `tenants`, `tiers` or `condition`");
            }
            if route.pipelines.is_empty() {
                add(format!("table[{n}].pipelines"), "a route needs at least one pipeline");
            }
            for (m, glob) in route.tenants.iter().enumerate() {
                let escapes = glob.chars().rev().take_while(|c| *c == '\\').count();
                if glob.is_empty() || escapes % 2 == 1 {
                    add(format!("table[{n}].tenants[{m}]"), "not a tenant id and not a glob");
                }
            }
        }
        found
    }
}

/// The connector `failover`: one queue before several destinations. Data goes to the first level that
/// works; what one does not take goes to the next at once, and back once the better one works again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Failover {
    /// The levels, the best first. The pipelines of a level lead to one exporter and have no processors:
    /// what waits does not know yet where it will go. Of the exporter, `sending_queue` and
    /// `retry_on_failure` are not used here. At least two levels.
    #[serde(deserialize_with = "null_is_default")]
    pub priority_levels: Vec<Vec<String>>,
    /// How long a level that failed is left alone before one request tries it again; scattered by a tenth.
    /// Default: 10m. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub retry_interval: Duration,
    /// Without effect, as in the Collector. Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub retry_gap: Duration,
    /// Without effect, as in the Collector. Default: 0.
    pub max_retries: u64,
    /// What waits to be sent, to whichever level.
    #[serde(deserialize_with = "null_is_default")]
    pub sending_queue: SendingQueue,
    /// What happens when no level takes the data. Tollgate's own key.
    #[serde(deserialize_with = "null_is_default")]
    pub retry_on_failure: RetryOnFailure,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            priority_levels: Vec::new(),
            retry_interval: Duration::from_secs(600),
            retry_gap: Duration::ZERO,
            max_retries: 0,
            sending_queue: SendingQueue::default(),
            retry_on_failure: RetryOnFailure::default(),
        }
    }
}

impl Failover {
    /// Every problem of this connector.
    pub fn check(&self) -> Vec<Found> {
        let mut found = check_queue(&self.sending_queue, &self.retry_on_failure);
        let mut add = |at: String, problem| found.push(Found { at, problem });
        if self.priority_levels.len() < 2 {
            let problem = Problem::Contradiction("a failover needs at least two levels");
            add("priority_levels".into(), problem);
        }
        for (n, level) in self.priority_levels.iter().enumerate() {
            if level.is_empty() {
                let problem = Problem::Contradiction("a level needs at least one pipeline");
                add(format!("priority_levels[{n}]"), problem);
            }
        }
        if self.retry_interval.is_zero() {
            add("retry_interval".into(), Problem::Zero);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_comparisons_of_one_attribute_or_header() {
        let check = |json: serde_json::Value, expected: Result<Option<(&str, &str, bool)>, &str>| {
            let route: Route = serde_json::from_value(json.clone()).unwrap();
            let read = route.comparison();
            let read = read
                .as_ref()
                .map_err(|(at, _)| *at)
                .map(|read| read.as_ref().map(|c| (c.key.as_str(), c.value.as_str(), c.equal)));
            assert_eq!(read, expected, "{json}");
        };
        use serde_json::json;
        check(json!({}), Ok(None));
        check(json!({"condition": "attributes[\"a\"] == \"b c\""}), Ok(Some(("a", "b c", true))));
        check(json!({"condition": " resource.attributes[ \"a\" ]!=\"\" "}), Ok(Some(("a", "", false))));
        let statement = "route() where attributes[\"a\"] == \"b\"";
        check(json!({ "statement": statement }), Ok(Some(("a", "b", true))));
        check(
            json!({"context": "request", "condition": "request[\"X-A\"] == \"b\""}),
            Ok(Some(("X-A", "b", true))),
        );
        check(json!({"condition": "request[\"a\"] == \"b\""}), Err("condition"));
        check(json!({"condition": "attributes[\"a\"] == \"b\" and true"}), Err("condition"));
        check(json!({"condition": "attributes[\"a\"] =~ \"b\""}), Err("condition"));
        check(json!({"condition": "attributes[\"a\\\\\"] == \"b\""}), Err("condition"));
        check(json!({"statement": "attributes[\"a\"] == \"b\""}), Err("statement"));
        check(json!({"statement": statement, "condition": "x"}), Err("statement"));
    }
}
