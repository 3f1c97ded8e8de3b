//! What is watched, and what is kept of it: from the components and the policies that use pods.

use std::time::Duration;

use regex::Regex;

use super::keep::{Keep, Keys};
use crate::config::kubernetes::Access;
use crate::config::pods::{BeforeFirstList, PodFilter, Pods as PodsExtension};
use crate::config::processor::kubernetes::{Field, FieldOf, K8sAttributes, Metadata};
use crate::config::{Config, Extension, Processor};
use crate::policies::{Plan, PodText};

/// Where annotations name an attribute of OpenTelemetry themselves.
pub const OTEL_ANNOTATION: &str = "resource.opentelemetry.io/";

/// What is watched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How the API server is reached.
    pub access: Access,
    /// Which pods.
    pub filter: PodFilter,
    /// The most that are kept.
    pub max_pods: usize,
    /// How long the start waits for them.
    pub first_list_timeout: Duration,
    /// Whether senders that are told by their address must wait for the first list.
    pub refuse_before_first_list: bool,
    /// How long an unknown address is told to come back.
    pub newcomer_grace: Duration,
    /// How long ended pods are remembered.
    pub ended_pods_grace: Duration,
    /// The labels and annotations that components name.
    pub keep: Keep,
    /// The key of the configuration that says which node, for messages.
    pub place: String,
}

impl Settings {
    /// What the components of a configuration that run ask for; none: no pods are watched.
    pub fn of(config: &Config) -> Option<Self> {
        let extension = config.running_by_id().find_map(|(id, extension)| match extension {
            Extension::Pods(pods) => Some((id, &**pods)),
            _ => None,
        });
        let processors = config.used_processors().filter_map(|(id, processor)| match processor {
            Processor::K8sAttributes(keys) if keys.watches() => Some((id, &**keys)),
            _ => None,
        });
        let processors: Vec<_> = processors.collect();
        if extension.is_none() && processors.is_empty() {
            return None;
        }
        let place = extension.map(|(id, _)| format!("extensions.{id}"));
        let place = place.or_else(|| processors.first().map(|(id, _)| format!("processors.{id}")));
        let waits = |keys: &K8sAttributes| match keys.wait_for_metadata {
            true => keys.wait_for_metadata_timeout,
            false => Duration::ZERO,
        };
        let longest = processors.iter().map(|(_, keys)| waits(keys)).max();
        let of_processor = processors.first().map(|(_, keys)| &keys.filter);
        let access = |auth_type, context: &Option<String>| Access { auth_type, context: context.clone() };
        let standard = PodsExtension::default();
        let pods = extension.map_or(&standard, |(_, pods)| pods);
        let mut keep = Keep::default();
        processors.iter().for_each(|(_, keys)| keep_for(keys, &mut keep));
        Some(Self {
            access: match (extension, processors.first()) {
                (None, Some((_, keys))) => access(keys.auth_type, &keys.context),
                _ => access(pods.auth_type, &pods.context),
            },
            filter: match (extension, of_processor) {
                (None, Some(filter)) => filter.clone(),
                _ => pods.filter.clone(),
            },
            max_pods: pods.max_pods,
            first_list_timeout: match (extension, longest) {
                (None, Some(longest)) => longest,
                _ => pods.first_list_timeout,
            },
            refuse_before_first_list: pods.before_first_list == BeforeFirstList::Refuse,
            newcomer_grace: pods.newcomer_grace,
            ended_pods_grace: pods.ended_pods_grace,
            keep,
            place: place.unwrap_or_default(),
        })
    }
}

fn keep_for(keys: &K8sAttributes, keep: &mut Keep) {
    let of_containers = [Metadata::ContainerName, Metadata::ImageName, Metadata::ImageTag];
    keep.containers |= keys.metadata().iter().any(|(_, metadata)| of_containers.contains(metadata));
    for field in &keys.extract.labels {
        let of = match field.from {
            FieldOf::Pod => &mut keep.pod_labels,
            FieldOf::Namespace => &mut keep.namespace_labels,
        };
        add(field, of);
    }
    for field in &keys.extract.annotations {
        let of = match field.from {
            FieldOf::Pod => &mut keep.pod_annotations,
            FieldOf::Namespace => &mut keep.namespace_annotations,
        };
        add(field, of);
    }
    if keys.extract.otel_annotations
        && let Ok(pattern) = Regex::new(&format!("^{}", regex::escape(OTEL_ANNOTATION)))
    {
        keep.pod_annotations.add_pattern(&pattern);
    }
}

fn add(field: &Field, keys: &mut Keys) {
    if let Some(key) = &field.key {
        keys.add(key);
    }
    // A bad pattern was refused with the configuration.
    if let Some(Ok(pattern)) = field.key_regex.as_deref().map(whole) {
        keys.add_pattern(&pattern);
    }
}

/// A regular expression that fits keys as a whole, as the Collector reads it.
///
/// # Errors
/// It is no regular expression.
pub fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

/// What a revision of the policies asks for.
pub(super) fn keep_of_policies(plan: &Plan) -> Keep {
    let mut keep = Keep::default();
    for text in plan.pod_texts() {
        match text {
            PodText::Namespace => {}
            PodText::NamespaceLabel(key) => keep.namespace_labels.add(key),
            PodText::NamespaceAnnotation(key) => keep.namespace_annotations.add(key),
            PodText::PodLabel(key) => keep.pod_labels.add(key),
            PodText::PodAnnotation(key) => keep.pod_annotations.add(key),
        }
    }
    keep
}
