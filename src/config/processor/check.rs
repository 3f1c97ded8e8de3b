//! What a schema cannot say about the keys of processors.

use regex::Regex;

use super::{Action, ActionKind, AttributeSource, AttributeValue, Attributes, Batch, Match, MatchType};
use super::{MemoryLimiter, ProbabilisticSampler, Resource, SamplerMode};
use crate::config::pods;

/// A problem of the keys of a processor and where it is.
pub type Found = crate::config::found::Found<Problem>;

/// What is wrong with the keys of a processor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A list that must not be empty.
    #[error("at least one action is needed")]
    NoAction,
    /// None or several of the keys that say what to write.
    #[error("{0} needs exactly one of `value`, `from_attribute` and `from_context`")]
    OneSource(&'static str),
    /// A value where none is used.
    #[error("delete takes none of `value`, `from_attribute` and `from_context`")]
    NoSource,
    /// Not a place in the context of a request.
    #[error("`{0}` is not known; write metadata.<key> or client.address")]
    Context(String),
    /// Not a regular expression.
    #[error("not a regular expression: {0}")]
    Pattern(String),
    /// A match that matches nothing in particular.
    #[error("at least one key besides `match_type` is needed")]
    EmptyMatch,
    /// Not a span kind.
    #[error("`{0}` is not a span kind; the kinds are {1}")]
    SpanKind(String, String),
    /// A share below what 56 bits can express.
    #[error("{0} is out of range; it must be 0 or from 100 / 2^56 percent up")]
    Percentage(String),
    /// A key that another one excludes.
    #[error("has no effect unless {0}")]
    NoEffectUnless(&'static str),
    /// No interval between measurements.
    #[error("`check_interval` must be written and above 0")]
    NoInterval,
    /// No limit at all.
    #[error("one of `limit_mib` and `limit_percentage` must be above 0")]
    NoLimit,
    /// A spike as large as the limit.
    #[error("{spike} must be below the limit, {limit}")]
    Spike {
        /// What is written.
        spike: u32,
        /// The limit it belongs to.
        limit: u32,
    },
    /// A maximum below the wanted size.
    #[error("{max} is below send_batch_size, {size}")]
    BatchSize {
        /// What is written.
        max: u32,
        /// The wanted size.
        size: u32,
    },
    /// A metadata key twice.
    #[error("`{0}` is already in the list; case does not matter")]
    DuplicateKey(String),
    /// A filter of pods.
    #[error(transparent)]
    Pods(#[from] pods::Problem),
    /// A duration above its range.
    #[error("must be at most {0}")]
    TooLong(&'static str),
    /// An attribute of pods that is not there, and the way out.
    #[error("`{0}` is not available; {1}")]
    NoMetadata(String, String),
    /// None or both of two keys.
    #[error("exactly one of `key` and `key_regex` is needed")]
    OneKey,
    /// A list longer than is useful.
    #[error("at most {0} are allowed")]
    TooMany(usize),
    /// None or too many sources.
    #[error("1 to {0} sources are needed")]
    Sources(usize),
    /// An attribute by which pods are not found.
    #[error(
        "pods are not found by `{0}`; k8s.pod.ip and k8s.pod.uid lead to a pod, k8s.pod.name, \
         k8s.namespace.name and k8s.node.name can confirm it"
    )]
    AssociationName(String),
    /// Sources that confirm a pod, and none that leads to one.
    #[error("add a source that leads to a pod: the connection, k8s.pod.ip or k8s.pod.uid")]
    NoLead,
}

impl Problem {
    /// Whether the program cannot start with it; otherwise it is a warning.
    pub fn is_error(&self) -> bool {
        !matches!(self, Problem::NoEffectUnless(_))
    }
}

type Findings = Vec<Found>;

fn add(found: &mut Findings, at: impl Into<String>, problem: Problem) {
    found.push(Found { at: at.into(), problem });
}

impl Resource {
    /// Every problem of this processor, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::new();
        check_actions("attributes", &self.attributes, &mut found);
        found
    }
}

impl Attributes {
    /// Every problem of this processor, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::new();
        check_actions("actions", &self.actions, &mut found);
        if let Some(include) = &self.include {
            check_match("include", include, &mut found);
        }
        if let Some(exclude) = &self.exclude {
            check_match("exclude", exclude, &mut found);
        }
        found
    }
}

fn check_actions(key: &str, actions: &[Action], found: &mut Findings) {
    if actions.is_empty() {
        add(found, key, Problem::NoAction);
    }
    for (index, action) in actions.iter().enumerate() {
        let at = format!("{key}[{index}]");
        let given = [action.value.is_some(), action.from_attribute.is_some(), action.from_context.is_some()];
        let given = given.into_iter().filter(|given| *given).count();
        match (action.action, given) {
            (ActionKind::Delete, 0) => {}
            (ActionKind::Delete, _) => add(found, at.clone(), Problem::NoSource),
            (_, 1) => {}
            (ActionKind::Insert, _) => add(found, at.clone(), Problem::OneSource("insert")),
            (ActionKind::Update, _) => add(found, at.clone(), Problem::OneSource("update")),
            (ActionKind::Upsert, _) => add(found, at.clone(), Problem::OneSource("upsert")),
        }
        let context = action.from_context.as_deref();
        let known = |context: &&str| {
            let header = context.strip_prefix("metadata.");
            *context == "client.address" || header.is_some_and(|key| !key.is_empty())
        };
        if let Some(context) = context.filter(|context| !known(context)) {
            add(found, format!("{at}.from_context"), Problem::Context(context.to_owned()));
        }
    }
}

/// The kinds of spans, in the order of their numbers.
pub const SPAN_KINDS: [&str; 6] = [
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];

fn check_match(at: &str, rule: &Match, found: &mut Findings) {
    let lists = [
        ("services", &rule.services),
        ("span_names", &rule.span_names),
        ("span_kinds", &rule.span_kinds),
        ("log_bodies", &rule.log_bodies),
        ("log_severity_texts", &rule.log_severity_texts),
        ("metric_names", &rule.metric_names),
    ];
    let pairs = [("resources", &rule.resources), ("attributes", &rule.attributes)];
    let empty = lists.iter().all(|(_, list)| list.is_empty())
        && pairs.iter().all(|(_, list)| list.is_empty())
        && rule.libraries.is_empty()
        && rule.log_severity_number.is_none();
    if empty {
        add(found, at, Problem::EmptyMatch);
    }
    if rule.match_type == MatchType::Strict {
        let unknown = rule.span_kinds.iter().enumerate();
        for (index, kind) in unknown.filter(|(_, kind)| !SPAN_KINDS.contains(&kind.as_str())) {
            let problem = Problem::SpanKind(kind.clone(), SPAN_KINDS.join(", "));
            add(found, format!("{at}.span_kinds[{index}]"), problem);
        }
        return;
    }
    for (key, list) in lists {
        for (index, text) in list.iter().enumerate() {
            check_pattern(format!("{at}.{key}[{index}]"), text, found);
        }
    }
    for (key, list) in pairs {
        for (index, pair) in list.iter().enumerate() {
            if let Some(AttributeValue::Str(text)) = &pair.value {
                check_pattern(format!("{at}.{key}[{index}].value"), text, found);
            }
        }
    }
    for (index, library) in rule.libraries.iter().enumerate() {
        check_pattern(format!("{at}.libraries[{index}].name"), &library.name, found);
        if let Some(version) = &library.version {
            check_pattern(format!("{at}.libraries[{index}].version"), version, found);
        }
    }
}

fn check_pattern(at: String, text: &str, found: &mut Findings) {
    if let Err(error) = Regex::new(text) {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        add(found, at, Problem::Pattern(reason.to_owned()));
    }
}

impl ProbabilisticSampler {
    /// Every problem of this processor, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::new();
        // The smallest share that a threshold of 56 bits can express.
        const LEAST: f64 = 1.0 / (1_u64 << 56) as f64;
        let percentage = self.sampling_percentage;
        let share = f64::from(percentage) / 100.0;
        if !percentage.is_finite() || percentage < 0.0 || (share > 0.0 && share < LEAST) {
            add(&mut found, "sampling_percentage", Problem::Percentage(percentage.to_string()));
        }
        let hashes = matches!(self.mode, SamplerMode::Unset | SamplerMode::HashSeed);
        let only_hash_seed = Problem::NoEffectUnless("`mode` is hash_seed");
        if !hashes && self.hash_seed != 0 {
            add(&mut found, "hash_seed", only_hash_seed.clone());
        }
        if !hashes && !self.from_attribute.is_empty() {
            add(&mut found, "from_attribute", only_hash_seed);
        }
        let by_record = self.attribute_source == AttributeSource::Record;
        if by_record && self.from_attribute.is_empty() {
            add(
                &mut found,
                "attribute_source",
                Problem::NoEffectUnless("`from_attribute` names an attribute"),
            );
        }
        found
    }
}

impl MemoryLimiter {
    /// Every problem of this processor, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::new();
        if self.check_interval.is_zero() {
            add(&mut found, "", Problem::NoInterval);
        }
        let (mib, percent) = (self.limit_mib, self.limit_percentage);
        if mib == 0 && percent == 0 {
            add(&mut found, "", Problem::NoLimit);
        }
        let spikes = [
            ("spike_limit_mib", self.spike_limit_mib, mib),
            ("spike_limit_percentage", self.spike_limit_percentage, percent),
        ];
        for (key, spike, limit) in spikes {
            if limit > 0 && spike >= limit {
                add(&mut found, key, Problem::Spike { spike, limit });
            }
        }
        found
    }
}

impl Batch {
    /// Every problem of this processor, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::new();
        let (max, size) = (self.send_batch_max_size, self.send_batch_size);
        if max > 0 && max < size {
            add(&mut found, "send_batch_max_size", Problem::BatchSize { max, size });
        }
        for (index, key) in self.metadata_keys.iter().enumerate() {
            let before = &self.metadata_keys[..index];
            if before.iter().any(|known| known.eq_ignore_ascii_case(key)) {
                add(&mut found, format!("metadata_keys[{index}]"), Problem::DuplicateKey(key.clone()));
            }
        }
        found
    }
}
