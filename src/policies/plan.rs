//! The compiled policies: what every request reads, never changed once made.
//!
//! Not here: how a file becomes a plan (`document`, `rule`), how a plan decides (`sampling::rules`).
//! Invariant: a plan passed every check; one request sees one plan.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::condition::{Condition, ResourceDimension, ResourceTest};
use super::glob::Glob;
use super::identity::Identity;
use super::limits::{Limits, RuleLimit};
use super::test_case::TestCase;
use crate::flow::Share;
use crate::identity::TenantId;
use crate::otlp::PerSignal;

/// One revision of the policies, compiled.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `revision`, as its author wrote it.
    pub revision: Option<String>,
    /// SHA-256 of the text, in lower-case hexadecimal digits.
    pub sha256: String,
    /// How to find tenant and model, and where to write them.
    pub enrichment: Enrichment,
    /// Who may speak for whom.
    pub identity: Identity,
    /// Where a tenant may be named, in the order they are tried.
    pub claims: Vec<Claim>,
    /// What becomes of data nobody claims.
    pub anonymous: Anonymous,
    /// What becomes of a request of several tenants of which one is over its limit.
    pub mixed_requests: MixedRequests,
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// The tests of resources, as the rules' conditions number them.
    pub resource_tests: Vec<ResourceTest>,
    /// The embedded tests.
    pub tests: Vec<TestCase>,
    pub(super) blocks: Blocks,
    pub(super) default_label: Arc<str>,
    /// The rules with a cap that are not off.
    pub(super) limited_rules: Vec<usize>,
}

impl Plan {
    /// What holds for a tenant; all tenants a pattern stands for share it.
    pub fn block(&self, tenant: &str) -> &Arc<Block> {
        let blocks = &self.blocks;
        let by_glob = || blocks.globs.iter().find(|(glob, _)| glob.matches(tenant)).map(|(_, block)| block);
        blocks.exact.get(tenant).or_else(by_glob).unwrap_or(&blocks.fallback)
    }

    /// What holds for a tenant of a tier that has no entry of its own.
    pub fn tier_block(&self, tier: &str) -> &Block {
        self.blocks.tiers.get(tier).unwrap_or(&self.blocks.fallback)
    }

    /// Whether the rate or size of anybody's requests is limited.
    pub fn limits_anybody(&self) -> bool {
        let blocks = &self.blocks;
        let globs = blocks.globs.iter().map(|(_, block)| block);
        let mut all =
            blocks.exact.values().chain(globs).chain(blocks.tiers.values()).chain([&blocks.fallback]);
        let standard = Limits::default().max_request_bytes;
        all.any(|block| block.limits.meters() || block.limits.max_request_bytes < standard)
    }

    /// What it asks of pods and namespaces.
    pub fn pod_texts(&self) -> impl Iterator<Item = &PodText> {
        let tenants = self.identity.authenticate.iter().flat_map(|source| source.pod_texts());
        let fields = [&self.enrichment.model_name, &self.enrichment.model_version];
        let models = fields.into_iter().flat_map(|field| &field.from).filter_map(|origin| match origin {
            Origin::Pod(text) => Some(text),
            _ => None,
        });
        tenants.chain(models)
    }

    /// The tenants listed by their exact id.
    pub fn configured_tenants(&self) -> impl Iterator<Item = &str> {
        self.blocks.exact.keys().map(String::as_str)
    }

    /// The revision for labels, stamps and people: as its author wrote it, else the digest's first twelve digits.
    pub fn revision_name(&self) -> &str {
        self.revision.as_deref().unwrap_or_else(|| self.sha256.get(..12).unwrap_or_default())
    }

    /// The caps of rules, with the rules' indices.
    pub fn rule_limits(&self) -> impl Iterator<Item = (usize, RuleLimit)> + '_ {
        self.limited_rules.iter().filter_map(|index| Some((*index, self.rules.get(*index)?.limit?)))
    }

    /// Whether a label names one of these rules.
    pub fn has_rule(&self, name: &str) -> bool {
        name == DEFAULT_RULE || self.rules.iter().any(|rule| &*rule.name == name)
    }

    /// [`Plan::rule_name`], shared.
    pub fn rule_label(&self, rule: Option<usize>) -> &Arc<str> {
        rule.and_then(|index| self.rules.get(index)).map_or(&self.default_label, |rule| &rule.name)
    }

    /// The name of a rule for labels and stamps; `_default` where no rule decided.
    pub fn rule_name(&self, rule: Option<usize>) -> &str {
        rule.and_then(|index| self.rules.get(index)).map_or(DEFAULT_RULE, |rule| &rule.name)
    }
}

/// The name under which `sampling` of defaults, tiers and tenants is reported.
pub const DEFAULT_RULE: &str = "_default";

/// `defaults`, `tiers` and `tenants`, merged.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks {
    pub(super) exact: HashMap<String, Arc<Block>>,
    /// The most specific first.
    pub(super) globs: Vec<(Glob, Arc<Block>)>,
    pub(super) tiers: HashMap<String, Arc<Block>>,
    pub(super) fallback: Arc<Block>,
}

/// What holds for one tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The tenant's tier.
    pub tier: Option<Arc<str>>,
    /// The probability of spans no rule decides about, in (0, 1].
    pub rate: f64,
    /// How much may come in.
    pub limits: Limits,
    /// What it may have of each queue; the guarantee holds for tenants listed by exact id.
    pub queue: Share,
}

impl Default for Block {
    fn default() -> Self {
        Self { tier: None, rate: 1.0, limits: Limits::default(), queue: Share::DEFAULT }
    }
}

/// `enrichment`: what is written to every resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrichment {
    /// The attribute that carries the tenant.
    pub tenant_attribute: String,
    /// The model's name.
    pub model_name: ModelField,
    /// The model's version.
    pub model_version: ModelField,
    /// `stamp: [rule]`: write `sampling.rule` to kept items.
    pub stamp_rule: bool,
    /// `stamp: [revision]`: write `sampling.revision` to kept items.
    pub stamp_revision: bool,
}

/// Where a model's name or version is found and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelField {
    /// The resource attribute to write.
    pub attribute: String,
    /// Where to look, in order.
    pub from: Vec<Origin>,
}

/// A place a value may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `resource.<k>`
    Resource(String),
    /// `attributes.<k>`, of the item.
    Attribute(String),
    /// `header.<n>`, of the request.
    Header(HeaderName),
    /// `pod_label.<k>` and `pod_annotation.<k>`, of the pod at the sender's address.
    Pod(PodText),
}

impl Enrichment {
    /// What holds where the file says nothing.
    pub(super) fn standard() -> Self {
        let resource = |key: &str| Origin::Resource(key.to_owned());
        let item = |key: &str| Origin::Attribute(key.to_owned());
        let label = |key: &str| Origin::Pod(PodText::PodLabel(key.to_owned()));
        let names = ["gen_ai.response.model", "gen_ai.request.model"];
        let name_origins = names.into_iter().flat_map(|key| [resource(key), item(key)]);
        let name_origins = name_origins.chain(MODEL_LABELS.map(label));
        Self {
            tenant_attribute: "tenant.id".to_owned(),
            model_name: ModelField { attribute: "model.name".to_owned(), from: name_origins.collect() },
            model_version: ModelField {
                attribute: "model.version".to_owned(),
                from: vec![resource("service.version"), label(VERSION_LABEL)],
            },
            stamp_rule: false,
            stamp_revision: false,
        }
        .with_same_named_first()
    }

    fn with_same_named_first(mut self) -> Self {
        for field in [&mut self.model_name, &mut self.model_version] {
            field.from.splice(0..0, ModelField::same_named(&field.attribute));
        }
        self
    }
}

/// Labels by which model servers name the model of a pod: KServe, Seldon, llm-d, Ray.
const MODEL_LABELS: [&str; 4] =
    ["serving.kserve.io/inferenceservice", "seldon-deployment-id", "llm-d.ai/model", "ray.io/cluster"];
/// The recommended label for the version of what runs in a pod.
const VERSION_LABEL: &str = "app.kubernetes.io/version";

impl ModelField {
    /// The places that name the attribute itself: the resource, and an annotation of its pod.
    pub(super) fn same_named(attribute: &str) -> [Origin; 2] {
        let annotation = format!("resource.opentelemetry.io/{attribute}");
        [Origin::Resource(attribute.to_owned()), Origin::Pod(PodText::PodAnnotation(annotation))]
    }
}

/// Something a pod or its namespace says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodText {
    /// `namespace`: its name.
    Namespace,
    /// `namespace_label.<k>`
    NamespaceLabel(String),
    /// `namespace_annotation.<k>`
    NamespaceAnnotation(String),
    /// `pod_label.<k>`
    PodLabel(String),
    /// `pod_annotation.<k>`
    PodAnnotation(String),
}

impl PodText {
    /// Reads `namespace`, `namespace_label.<k>` and so on.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "namespace" || text == "namespace_label.kubernetes.io/metadata.name" {
            return Some(PodText::Namespace);
        }
        let (of, key) = text.split_once('.').filter(|(_, key)| !key.is_empty())?;
        let key = key.to_owned();
        match of {
            "namespace_label" => Some(PodText::NamespaceLabel(key)),
            "namespace_annotation" => Some(PodText::NamespaceAnnotation(key)),
            "pod_label" => Some(PodText::PodLabel(key)),
            "pod_annotation" => Some(PodText::PodAnnotation(key)),
            _ => None,
        }
    }

    /// Whether whoever may create pods decides what it says.
    pub fn is_the_pods_own(&self) -> bool {
        matches!(self, PodText::PodLabel(_) | PodText::PodAnnotation(_))
    }
}

/// Where a sender may name its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// A header or gRPC metadata key.
    Header(HeaderName),
    /// A resource attribute.
    Resource(String),
}

/// `identity.anonymous`: what becomes of data without a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anonymous {
    /// The request is refused.
    Refuse,
    /// It belongs to `_overflow`.
    Overflow,
    /// It belongs to this tenant.
    Tenant(TenantId),
}

/// `identity.mixed_requests`: what becomes of a request of several tenants if one is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MixedRequests {
    /// All of it is refused, and sent again: nothing is lost, neighbours wait.
    #[default]
    Whole,
    /// The limited tenant's items are rejected for good, the rest is taken.
    Partial,
}

/// One rule, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Unique; a metric label.
    pub name: Arc<str>,
    /// The signals it looks at.
    pub signals: PerSignal<bool>,
    /// What it matches.
    pub condition: Condition,
    /// What it does.
    pub action: Action,
    /// `factor`
    pub factor: f64,
    /// `at_least`, 0 without one.
    pub at_least: f64,
    /// `at_most`, 1 without one.
    pub at_most: f64,
    /// When it applies.
    pub active: Active,
    /// Whether it has an effect.
    pub mode: Mode,
    /// How its probability combines with an incoming threshold.
    pub upstream: Upstream,
    /// The value whose traces get one decision.
    pub group_by: Option<ResourceDimension>,
    /// The cap on what it keeps.
    pub limit: Option<RuleLimit>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Why it is there.
    pub reason: Option<String>,
}

impl Rule {
    /// Whether the walk ends here.
    pub fn is_terminal(&self) -> bool {
        self.action != Action::Modify
    }
}

/// What a rule does to what it matches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Keeps with this probability, in (0, 1].
    Rate(f64),
    /// Keeps everything.
    Keep,
    /// Leaves everything out.
    Drop,
    /// Only changes what later rules give.
    Modify,
}

/// Whether a rule has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It has.
    #[default]
    Enforce,
    /// It is evaluated and counted, without effect.
    Shadow,
    /// It is skipped.
    Off,
}

/// How a sampling stage combines its probability with the threshold it finds on an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Upstream {
    /// The stricter of the two: the probability is that of the whole chain.
    #[default]
    Equalize,
    /// This stage's share of what the earlier stages let through.
    Multiply,
}

/// When a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Active {
    /// From here on, inclusive.
    pub from: Option<jiff::Timestamp>,
    /// Up to here, exclusive.
    pub until: Option<jiff::Timestamp>,
    /// How long before `until` it begins to fade; zero: it ends at once.
    pub fade: Duration,
}

impl Active {
    /// How much the rule applies at a time: 1 in full, 0 not at all.
    pub fn weight(&self, at: jiff::Timestamp) -> f64 {
        if self.from.is_some_and(|from| at < from) || self.until.is_some_and(|until| at >= until) {
            return 0.0;
        }
        let Some(until) = self.until.filter(|_| !self.fade.is_zero()) else { return 1.0 };
        (until.duration_since(at).as_secs_f64() / self.fade.as_secs_f64()).min(1.0)
    }

    /// Whether it applies at all times.
    pub fn is_always(&self) -> bool {
        self.from.is_none() && self.until.is_none()
    }
}
