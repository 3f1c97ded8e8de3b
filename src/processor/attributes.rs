//! `resource` and `attributes`, as the Collector's: insert, update, upsert and delete.
//!
//! Values are prepared once; an action whose source is absent does nothing.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName};

use super::Work;
use super::filter::Filter;
use crate::config::processor as config;
use crate::otlp::{AttributeValue, Draft, ItemId, PartId, Value};

/// What one `resource` or `attributes` processor does.
#[derive(Debug)]
pub struct Attributes {
    of: Of,
    actions: Vec<Action>,
    include: Option<Filter>,
    exclude: Option<Filter>,
}

/// Whose attributes are edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Resources,
    Items,
}

#[derive(Debug)]
struct Action {
    kind: config::ActionKind,
    key: String,
    source: Source,
}

/// Where a value comes from.
#[derive(Debug)]
enum Source {
    None,
    Value(AttributeValue),
    Attribute(String),
    Metadata(HeaderName),
    ClientAddress,
}

impl Attributes {
    /// The processor `resource`.
    pub fn resource(config: &config::Resource) -> Self {
        let actions = config.attributes.iter().map(Action::new).collect();
        Self { of: Of::Resources, actions, include: None, exclude: None }
    }

    /// The processor `attributes`.
    pub fn items(config: &config::Attributes) -> Self {
        let filter = |rule: &Option<config::Match>| rule.as_ref().map(Filter::new);
        let actions = config.actions.iter().map(Action::new).collect();
        Self { of: Of::Items, actions, include: filter(&config.include), exclude: filter(&config.exclude) }
    }

    /// Notes the edits.
    pub(super) fn run(&self, work: &mut Work<'_>) {
        let Work { draft, headers, peer, .. } = work;
        for part in draft.parts() {
            match self.of {
                Of::Resources => self.edit(draft, Owner::Part(part), (headers, *peer)),
                Of::Items => draft.for_each_item(part, |draft, item| {
                    if self.applies(draft, part, item) {
                        self.edit(draft, Owner::Item(item), (headers, *peer));
                    }
                }),
            }
        }
    }

    fn applies(&self, draft: &Draft<'_>, part: PartId, item: ItemId) -> bool {
        let matches = |filter: &Filter| filter.matches(draft, part, item);
        self.include.as_ref().is_none_or(matches) && !self.exclude.as_ref().is_some_and(matches)
    }

    fn edit(&self, draft: &mut Draft<'_>, owner: Owner, context: (&HeaderMap, Option<SocketAddr>)) {
        for action in &self.actions {
            action.edit(draft, owner, context);
        }
    }
}

/// A resource or an item.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Part(PartId),
    Item(ItemId),
}

impl Owner {
    fn get<'d>(self, draft: &'d Draft<'_>, key: &str) -> Option<Value<'d>> {
        match self {
            Owner::Part(part) => draft.resource_attribute(part, key),
            Owner::Item(item) => draft.item_attribute(item, key),
        }
    }

    fn set(self, draft: &mut Draft<'_>, key: &str, value: &AttributeValue) {
        match self {
            Owner::Part(part) => draft.set_resource_attribute(part, key, value),
            Owner::Item(item) => draft.set_item_attribute(item, key, value),
        }
    }

    fn delete(self, draft: &mut Draft<'_>, key: &str) {
        match self {
            Owner::Part(part) => draft.delete_resource_attribute(part, key),
            Owner::Item(item) => draft.delete_item_attribute(item, key),
        }
    }
}

impl Action {
    fn new(config: &config::Action) -> Self {
        let value = config.value.as_ref().map(|value| Source::Value(constant(value)));
        let attribute = config.from_attribute.clone().map(Source::Attribute);
        let context = config.from_context.as_deref().and_then(Source::context);
        let source = value.or(attribute).or(context).unwrap_or(Source::None);
        Self { kind: config.action, key: config.key.clone(), source }
    }

    fn edit(&self, draft: &mut Draft<'_>, owner: Owner, context: (&HeaderMap, Option<SocketAddr>)) {
        let is_there = owner.get(draft, &self.key).is_some();
        let wanted = match self.kind {
            config::ActionKind::Delete => return owner.delete(draft, &self.key),
            config::ActionKind::Insert => !is_there,
            config::ActionKind::Update => is_there,
            config::ActionKind::Upsert => true,
        };
        if !wanted {
            return;
        }
        if let Source::Value(value) = &self.source {
            owner.set(draft, &self.key, value);
        } else if let Some(value) = self.source.find(draft, owner, context) {
            owner.set(draft, &self.key, &value);
        }
    }
}

impl Source {
    /// `metadata.<key>` or `client.address`; anything else was refused with the configuration.
    fn context(text: &str) -> Option<Self> {
        match text.strip_prefix("metadata.") {
            Some(key) => key.parse().ok().map(Source::Metadata),
            None => (text == "client.address").then_some(Source::ClientAddress),
        }
    }

    fn find(
        &self,
        draft: &Draft<'_>,
        owner: Owner,
        (headers, peer): (&HeaderMap, Option<SocketAddr>),
    ) -> Option<AttributeValue> {
        match self {
            Source::None => None,
            Source::Value(value) => Some(value.clone()),
            Source::Attribute(key) => owner.get(draft, key).map(Value::to_owned),
            Source::Metadata(name) => {
                let values: Vec<&str> =
                    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
                (!values.is_empty()).then(|| AttributeValue::Str(values.join(";")))
            }
            Source::ClientAddress => peer.map(|peer| AttributeValue::Str(peer.ip().to_string())),
        }
    }
}

pub(super) fn constant(value: &config::AttributeValue) -> AttributeValue {
    match value {
        config::AttributeValue::Bool(value) => AttributeValue::Bool(*value),
        config::AttributeValue::Int(value) => AttributeValue::Int(*value),
        config::AttributeValue::Double(value) => AttributeValue::Double(*value),
        config::AttributeValue::Str(text) => AttributeValue::Str(text.clone()),
    }
}
