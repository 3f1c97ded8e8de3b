//! Model name and version: found in the order of the policies, written to the resource.
//!
//! Where only the items know, a resource whose items differ is cut into pieces of one model each.

use std::borrow::Cow;
use std::collections::HashMap;

use http::HeaderMap;

use crate::otlp::{Draft, ItemId, PartId};
use crate::policies::{Enrichment, ModelField, Origin};

/// Name and version, as far as known.
type Model<'d> = [Option<Cow<'d, str>>; 2];

/// The number of items whose models could not be told apart; nothing is written for them.
const MIXED: u16 = u16::MAX;

/// Writes the model of each item of a part to its resource; a part whose items differ is split, and
/// `part` is the first of the pieces.
pub(super) fn write_model(enrichment: &Enrichment, headers: &HeaderMap, draft: &mut Draft<'_>, part: PartId) {
    let fields = [&enrichment.model_name, &enrichment.model_version];
    let asks_items = fields.iter().any(|field| asks_items(field, headers, draft, part));
    if !asks_items {
        let model = fields.map(|field| find(field, headers, draft, (part, None)).map(Cow::into_owned));
        set(fields, draft, part, &model);
        return;
    }
    let (models, numbers) = number(fields, headers, draft, part);
    let mut numbers = numbers.into_iter();
    let pieces = draft.split(part, |_draft, _item| numbers.next().unwrap_or(MIXED));
    for (number, piece) in pieces.made {
        if let Some(model) = models.get(usize::from(number)) {
            set(fields, draft, piece, model);
        }
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
    fields: [&ModelField; 2],
    headers: &HeaderMap,
    draft: &Draft<'_>,
    part: PartId,
) -> (Vec<[Option<String>; 2]>, Vec<u16>) {
    let mut known: HashMap<Model<'_>, u16> = HashMap::new();
    let mut numbers: Vec<u16> = Vec::new();
    let mut last: Option<(Model<'_>, u16)> = None;
    for item in draft.items(part) {
        let model = fields.map(|field| find(field, headers, draft, (part, Some(item))));
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

/// Whether the items have a say: no origin before the first item attribute gives a value.
fn asks_items(field: &ModelField, headers: &HeaderMap, draft: &Draft<'_>, part: PartId) -> bool {
    for origin in &field.from {
        match origin {
            Origin::Attribute(_) => return true,
            origin if look(origin, headers, draft, (part, None)).is_some() => return false,
            _ => {}
        }
    }
    false
}

/// The first origin that gives a value which is not empty.
fn find<'d>(
    field: &ModelField,
    headers: &'d HeaderMap,
    draft: &'d Draft<'_>,
    place: (PartId, Option<ItemId>),
) -> Option<Cow<'d, str>> {
    field.from.iter().find_map(|origin| look(origin, headers, draft, place))
}

fn look<'d>(
    origin: &Origin,
    headers: &'d HeaderMap,
    draft: &'d Draft<'_>,
    (part, item): (PartId, Option<ItemId>),
) -> Option<Cow<'d, str>> {
    let text = match origin {
        Origin::Resource(key) => draft.resource_attribute(part, key)?.to_text(),
        Origin::Attribute(key) => draft.item_attribute(item?, key)?.to_text(),
        Origin::Header(name) => headers.get(name)?.to_str().ok()?.into(),
    };
    (!text.is_empty()).then_some(text)
}
