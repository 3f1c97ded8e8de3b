//! Which pods are watched: the extension `pods`, and the filter it shares with `k8s_attributes`.
//!
//! Only keys, defaults and what can be checked without a cluster; `crate::kubernetes` does the work.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kubernetes::{Access, AuthType};
use super::{ComponentId, Config, Extension, Processor};
use crate::yaml::{Node, Problems};

/// The most pods somebody may ask for.
const MAX_PODS: usize = 200_000;
/// No start waits longer.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Nobody new is unknown for longer.
const MAX_NEWCOMER: Duration = Duration::from_secs(60);
/// Data of a pod that ended comes later only if it went astray.
const MAX_ENDED: Duration = Duration::from_secs(3600);

/// Knows the pods and, where needed, the namespaces of the cluster, so that the policies can tell whose data
/// it is by the address it comes from (`identity.authenticate: [{ pod: {} }]`). There is one watch of pods
/// in the program: the processor `k8s_attributes` uses the same, and brings it along without this extension.
/// It needs `get`, `list` and `watch` of pods, and of namespaces where their labels or annotations are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pods {
    /// How the API server is reached: as the pod's service account, or by `$KUBECONFIG`, else
    /// `~/.kube/config`. Default: serviceAccount.
    pub auth_type: AuthType,
    /// The context of the kubeconfig. Default: its current one.
    pub context: Option<String>,
    /// Which pods: on an agent those of its node. Default: none, it is needed unless `cluster_wide`.
    pub filter: PodFilter,
    /// Watches the pods of the whole cluster, on a gateway for example; every replica then holds all of
    /// them in memory, about 1 KB a pod. Default: false.
    pub cluster_wide: bool,
    /// The most pods that are kept; those beyond are counted and unknown. Default: 20000.
    /// Range: 1 to 200000.
    #[schemars(range(min = 1, max = 200_000))]
    pub max_pods: usize,
    /// How long the start waits for the first list of pods before data is taken; 0 does not wait.
    /// Default: 10s. Range: 0 to 5m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub first_list_timeout: Duration,
    /// What becomes of data whose sender is told by its address while no list of pods was had yet.
    /// Default: refuse.
    pub before_first_list: BeforeFirstList,
    /// How long a sender whose address is not known yet is told to come back, counted from its first
    /// request: a new pod may send before the API server tells its address. Default: 10s. Range: 0 to 1m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub newcomer_grace: Duration,
    /// How long a pod that ended is remembered, for attributes of data that comes late. Its address never
    /// tells a tenant any more. Default: 1m. Range: 0 to 1h.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub ended_pods_grace: Duration,
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            auth_type: AuthType::default(),
            context: None,
            filter: PodFilter::default(),
            cluster_wide: false,
            max_pods: 20_000,
            first_list_timeout: Duration::from_secs(10),
            before_first_list: BeforeFirstList::Refuse,
            newcomer_grace: Duration::from_secs(10),
            ended_pods_grace: Duration::from_secs(60),
        }
    }
}

/// What becomes of data while no list of pods was had yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BeforeFirstList {
    /// The client is told to come back: nothing is attributed wrongly, and clients must keep it meanwhile.
    #[default]
    Refuse,
    /// Its sender counts as unknown: `identity.anonymous` of the policies decides.
    Unknown,
}

/// Which pods are watched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PodFilter {
    /// Only the pods of this node. Default: none.
    pub node: Option<String>,
    /// Only the pods of the node that this environment variable names; it must be set where Tollgate runs.
    /// It wins over `node`. Default: none.
    pub node_from_env_var: Option<String>,
    /// Only the pods of this namespace. Default: none.
    pub namespace: Option<String>,
    /// Only pods whose labels fit. Default: none.
    pub labels: Vec<LabelFilter>,
    /// Only pods whose fields fit, as far as the API server selects by them. Default: none.
    pub fields: Vec<FieldFilter>,
}

/// What a label must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelFilter {
    /// The label's key.
    #[schemars(length(min = 1))]
    pub key: String,
    /// The value it is compared with; not used by `exists` and `does-not-exist`. Default: empty.
    #[serde(default)]
    pub value: String,
    /// How it is compared. Default: equals.
    #[serde(default)]
    pub op: LabelOperator,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelOperator {
    /// It has the value.
    #[default]
    Equals,
    /// It does not have the value.
    NotEquals,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// What a field must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldFilter {
    /// The field, such as `spec.nodeName`.
    #[schemars(length(min = 1))]
    pub key: String,
    /// The value it is compared with.
    pub value: String,
    /// How it is compared. Default: equals.
    #[serde(default)]
    pub op: FieldOperator,
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FieldOperator {
    /// It has the value.
    #[default]
    Equals,
    /// It does not have the value.
    NotEquals,
}

/// What is wrong with the extension `pods`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing says which pods.
    #[error(
        "which pods? On an agent write filter.node_from_env_var: K8S_NODE_NAME, on a gateway cluster_wide: true"
    )]
    WhichPods,
    /// Two keys that contradict each other.
    #[error("`cluster_wide` and a filter by node exclude each other")]
    BothWays,
    /// A number or duration outside its range.
    #[error("must be from {0} to {1}")]
    Range(&'static str, &'static str),
    /// A name that is empty.
    #[error("must not be empty")]
    Empty,
    /// A context without a kubeconfig.
    #[error("has no effect unless `auth_type` is kubeConfig")]
    NoKubeconfig,
}

impl Pods {
    /// Every problem, with the key it is at; all of them are errors.
    pub fn check(&self) -> Vec<(&'static str, Problem)> {
        let mut found = self.filter.check();
        match (self.cluster_wide, self.filter.is_by_node()) {
            (false, false) => found.push(("", Problem::WhichPods)),
            (true, true) => found.push(("cluster_wide", Problem::BothWays)),
            _ => {}
        }
        if self.context.is_some() && self.auth_type != AuthType::KubeConfig {
            found.push(("context", Problem::NoKubeconfig));
        }
        let ranges = [
            (self.first_list_timeout <= MAX_WAIT, "first_list_timeout", ("0s", "5m")),
            (self.newcomer_grace <= MAX_NEWCOMER, "newcomer_grace", ("0s", "1m")),
            (self.ended_pods_grace <= MAX_ENDED, "ended_pods_grace", ("0s", "1h")),
            ((1..=MAX_PODS).contains(&self.max_pods), "max_pods", ("1", "200000")),
        ];
        let wrong = ranges.into_iter().filter(|(good, ..)| !good);
        found.extend(wrong.map(|(_, at, (from, to))| (at, Problem::Range(from, to))));
        found
    }
}

impl PodFilter {
    /// Whether it leaves the pods of one node.
    pub fn is_by_node(&self) -> bool {
        self.node.is_some() || self.node_from_env_var.is_some()
    }

    /// Every problem, with the key of the component it is at.
    pub(super) fn check(&self) -> Vec<(&'static str, Problem)> {
        let names = [
            (&self.node, "filter.node"),
            (&self.node_from_env_var, "filter.node_from_env_var"),
            (&self.namespace, "filter.namespace"),
        ];
        let empty = names.into_iter().filter(|(name, _)| name.as_deref() == Some(""));
        empty.map(|(_, at)| (at, Problem::Empty)).collect()
    }

    /// The label selector, as the API server reads it.
    pub fn label_selector(&self) -> Option<String> {
        let terms = self.labels.iter().map(|LabelFilter { key, value, op }| match op {
            LabelOperator::Equals => format!("{key}={value}"),
            LabelOperator::NotEquals => format!("{key}!={value}"),
            LabelOperator::Exists => key.clone(),
            LabelOperator::DoesNotExist => format!("!{key}"),
        });
        joined(terms.collect())
    }

    /// The field selector, as the API server reads it; `node` is the name found for the filter by node.
    pub fn field_selector(&self, node: Option<&str>) -> Option<String> {
        let terms = self.fields.iter().map(|FieldFilter { key, value, op }| match op {
            FieldOperator::Equals => format!("{key}={value}"),
            FieldOperator::NotEquals => format!("{key}!={value}"),
        });
        joined(node.map(|node| format!("spec.nodeName={node}")).into_iter().chain(terms).collect())
    }
}

/// A component that watches pods, and what it says of that.
struct Watcher<'c> {
    section: &'static str,
    id: &'c ComponentId,
    filter: &'c PodFilter,
    access: Access,
    cluster_wide: bool,
}

/// Checks that all components that watch pods mean the same pods, for there is one watch.
pub(super) fn check_together(config: &Config, tree: &Node, problems: &mut Problems) {
    let access = |auth_type, context: &Option<String>| Access { auth_type, context: context.clone() };
    let extensions = config.running_by_id().filter_map(|(id, extension)| match extension {
        Extension::Pods(pods) => Some(Watcher {
            section: "extensions",
            id,
            filter: &pods.filter,
            access: access(pods.auth_type, &pods.context),
            cluster_wide: pods.cluster_wide,
        }),
        _ => None,
    });
    let processors = config.used_processors().filter_map(|(id, processor)| match processor {
        Processor::K8sAttributes(keys) if keys.watches() => Some(Watcher {
            section: "processors",
            id,
            filter: &keys.filter,
            access: access(keys.auth_type, &keys.context),
            cluster_wide: false,
        }),
        _ => None,
    });
    let watchers: Vec<Watcher<'_>> = extensions.chain(processors).collect();
    let Some((first, others)) = watchers.split_first() else { return };
    let report =
        |watcher: &Watcher<'_>, problems: &mut Problems, message: String, help: &str, is_error: bool| {
            let path = format!("{}.{}", watcher.section, watcher.id);
            let node = tree.get(watcher.section).and_then(|section| section.get(watcher.id.as_str()));
            let node = node.unwrap_or(tree);
            match is_error {
                true => problems.error_at(node, &path, message, Some(help.to_owned())),
                false => problems.warning_at(node, &path, message, Some(help.to_owned())),
            }
        };
    for other in others {
        let silent = other.section == "processors" && *other.filter == PodFilter::default();
        let same_pods = other.filter == first.filter || (silent && first.section == "extensions");
        let same_access = other.access == first.access || (silent && first.section == "extensions");
        if !same_pods || !same_access {
            let message = format!("watches other pods than {}.{}", first.section, first.id);
            let help = "there is one watch: write the same filter, auth_type and context in both";
            report(other, problems, message, help, true);
        }
    }
    let is_whole = first.section == "processors" && !first.filter.is_by_node() && !first.cluster_wide;
    if is_whole {
        let message = "watches the pods of the whole cluster, and holds them in memory";
        let help = "on an agent write filter.node_from_env_var: K8S_NODE_NAME; on a gateway list the \
                    extension `pods` with cluster_wide: true";
        report(first, problems, message.to_owned(), help, false);
    }
}

fn joined(terms: Vec<String>) -> Option<String> {
    (!terms.is_empty()).then(|| terms.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_read_as_the_api_server_writes_them() {
        let label = |op, value: &str| LabelFilter { key: "app".into(), value: value.into(), op };
        let filter = PodFilter {
            labels: vec![
                label(LabelOperator::Equals, "a"),
                label(LabelOperator::NotEquals, "b"),
                label(LabelOperator::Exists, ""),
                label(LabelOperator::DoesNotExist, ""),
            ],
            fields: vec![FieldFilter {
                key: "status.phase".into(),
                value: "Running".into(),
                op: FieldOperator::NotEquals,
            }],
            ..PodFilter::default()
        };
        assert_eq!(filter.label_selector().as_deref(), Some("app=a,app!=b,app,!app"));
        assert_eq!(
            filter.field_selector(Some("n1")).as_deref(),
            Some("spec.nodeName=n1,status.phase!=Running")
        );
        assert_eq!(PodFilter::default().field_selector(None), None);
    }

    #[test]
    fn it_must_be_said_which_pods() {
        let at = |pods: &Pods| pods.check().into_iter().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(at(&Pods::default()), [""]);
        let of_node = PodFilter { node_from_env_var: Some("K8S_NODE_NAME".into()), ..PodFilter::default() };
        assert_eq!(at(&Pods { filter: of_node.clone(), ..Pods::default() }), [""; 0]);
        assert_eq!(at(&Pods { cluster_wide: true, ..Pods::default() }), [""; 0]);
        let both = Pods { cluster_wide: true, filter: of_node, max_pods: 0, ..Pods::default() };
        assert_eq!(at(&both), ["cluster_wide", "max_pods"]);
    }
}
