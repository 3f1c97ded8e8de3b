//! Model name and version: found in the order of the policies, written to the resource.
//!
//! Where only the items know, a resource whose items differ is cut into pieces of one model each.

use std::borrow::Cow;
use std::collections::HashMap;

use http::HeaderMap;

use crate::kubernetes::pods::{Found, Known};
use crate::otlp::{Draft, ItemId, PartId, Value};
use crate::policies::{Enrichment, ModelField, Origin, PodText};

/// Name and version, as far as known.
type Model<'d> = [Option<Cow<'d, str>>; 2];

/// The number of items whose models could not be told apart; nothing is written for them.
const MIXED: u16 = u16::MAX;

/// Writes the model of each item of a part to its resource; a part whose items differ is split, and
/// `part` is the first of the pieces.
pub(super) fn write_model(enrichment: &Enrichment, request: About<'_>, draft: &mut Draft<'_>, part: PartId) {
    let fields = [&enrichment.model_name, &enrichment.model_version];
    let settled = fields.map(|field| Settled::of(field, request, draft, part));
    if settled.iter().all(|settled| settled.asked.is_empty()) {
        return set(fields, draft, part, &settled.map(|settled| settled.otherwise));
    }
    let (models, numbers) = number(&settled, draft, part);
    let mut numbers = numbers.into_iter();
    let pieces = draft.split(part, |_draft, _item| numbers.next().unwrap_or(MIXED));
    for (number, piece) in pieces.made {
        if let Some(model) = models.get(usize::from(number)) {
            set(fields, draft, piece, model);
        }
    }
}

/// What is known of all items of a request.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) pod: Option<&'a Found>,
}

impl<'a> About<'a> {
    /// What the sender's pod says; of its namespace nothing is asked here.
    fn pod_text(&self, text: &PodText) -> Option<&'a str> {
        let pod = &self.pod?.pod;
        let known = match text {
            PodText::PodLabel(key) => pod.label(key),
            PodText::PodAnnotation(key) => pod.annotation(key),
            PodText::Namespace | PodText::NamespaceLabel(_) | PodText::NamespaceAnnotation(_) => {
                Known::Absent
            }
        };
        known.value()
    }
}

/// What can be said of one field of a part's model without its items.
struct Settled<'p> {
    /// The item attributes that come first, as far as any item may have them.
    asked: Vec<&'p str>,
    /// What resource and headers say where an item has none of those.
    otherwise: Option<String>,
}

impl<'p> Settled<'p> {
    fn of(field: &'p ModelField, request: About<'_>, draft: &Draft<'_>, part: PartId) -> Self {
        let mut asked = Vec::new();
        for origin in &field.from {
            let text = match origin {
                Origin::Attribute(key) => {
                    asked.extend(draft.may_have_item_attribute(key).then_some(key.as_str()));
                    None
                }
                Origin::Resource(key) => draft.resource_attribute(part, key).map(Value::to_text),
                Origin::Header(name) => {
                    request.headers.get(name).and_then(|value| value.to_str().ok()).map(Cow::Borrowed)
                }
                Origin::Pod(text) => request.pod_text(text).map(Cow::Borrowed),
            };
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                return Self { asked, otherwise: Some(text.into_owned()) };
            }
        }
        Self { asked, otherwise: None }
    }

    /// What an item says, which may be what all say that say nothing.
    fn ask<'d>(&'d self, draft: &'d Draft<'_>, item: ItemId) -> Option<Cow<'d, str>> {
        let said = self.asked.iter().find_map(|key| {
            let text = draft.item_attribute(item, key)?.to_text();
            (!text.is_empty()).then_some(text)
        });
        said.or(self.otherwise.as_deref().map(Cow::Borrowed))
    }
}

fn set(fields: [&ModelField; 2], draft: &mut Draft<'_>, part: PartId, model: &[Option<String>; 2]) {
    for (field, text) in fields.into_iter().zip(model) {
        if let Some(text) = text {
            draft.set_resource_attribute(part, &field.attribute, text.as_str());
        }
    }
}

/// The models of a part's items, and for each item in order the number of its model.
fn number(
    settled: &[Settled<'_>; 2],
    draft: &Draft<'_>,
    part: PartId,
) -> (Vec<[Option<String>; 2]>, Vec<u16>) {
    let mut known: HashMap<Model<'_>, u16> = HashMap::new();
    let mut numbers: Vec<u16> = Vec::new();
    let mut last: Option<(Model<'_>, u16)> = None;
    for item in draft.items(part) {
        let model = settled.each_ref().map(|settled| settled.ask(draft, item));
        let number = match &last {
            Some((same, number)) if *same == model => *number,
            _ => {
                let next = known.len().min(usize::from(MIXED)) as u16;
                let number = match next {
                    MIXED => known.get(&model).copied().unwrap_or(MIXED),
                    _ => *known.entry(model.clone()).or_insert(next),
                };
                last = Some((model, number));
                number
            }
        };
        numbers.push(number);
    }
    let mut models = vec![[None, None]; known.len()];
    for (model, number) in known {
        models[usize::from(number)] = model.map(|text| text.map(Cow::into_owned));
    }
    (models, numbers)
}
