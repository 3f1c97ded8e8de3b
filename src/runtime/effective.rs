//! What holds for one tenant, and how much of it is used, as the API tells it.

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::policies::Limits;
use crate::tenant::{Class, Directory};
use crate::units::duration;

/// `GET /v1/policies/effective?tenant=`; `None` if the text is neither a tenant id nor `_overflow`.
pub(super) fn effective(directory: &Directory, tenant: &str) -> Option<Value> {
    let overflow = TenantId::overflow();
    let id = if tenant == overflow.as_str() { overflow } else { TenantId::new(tenant).ok()? };
    let block = directory.plan().block(id.as_str());
    let share = directory.plan().share(id.as_str());
    let (class, authenticated) = directory.standing(&id);
    Some(json!({
        "tenant": id.as_str(),
        "class": class.map(Class::as_str),
        "authenticated": authenticated,
        "revision": directory.plan().revision_name(),
        "tier": block.tier.as_deref(),
        "sampling": { "rate": block.rate },
        "queue": {
            "weight": share.weight,
            "guaranteed_bytes": share.guaranteed_bytes,
            "max_share": share.max_share,
        },
        "limits": limits(&block.limits),
        "left": left(directory, &id),
    }))
}

fn limits(limits: &Limits) -> Value {
    let mut map = Map::new();
    let mut add = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    add("requests_per_second", limits.requests_per_second.map(Value::from));
    add("bytes_per_second", limits.bytes_per_second.map(Value::from));
    add("spans_per_second", limits.items_per_second[Signal::Traces].map(Value::from));
    add("log_records_per_second", limits.items_per_second[Signal::Logs].map(Value::from));
    add("data_points_per_second", limits.items_per_second[Signal::Metrics].map(Value::from));
    add("kept_spans_per_second", limits.kept_spans_per_second.map(Value::from));
    add("burst", Some(duration::format(limits.burst).into()));
    add("sustained", (!limits.sustained.is_zero()).then(|| duration::format(limits.sustained).into()));
    add("max_request_bytes", Some(limits.max_request_bytes.into()));
    add("max_in_flight_bytes", limits.max_in_flight_bytes.map(Value::from));
    add("export_in_flight", limits.export_in_flight.map(Value::from));
    add("max_attribute_value_bytes", limits.max_attribute_value_bytes.map(Value::from));
    add("max_attributes_per_item", limits.max_attributes_per_item.map(Value::from));
    add("max_events_per_span", limits.max_events_per_span.map(Value::from));
    add("max_links_per_span", limits.max_links_per_span.map(Value::from));
    add("max_model_versions", Some(limits.max_model_versions.into()));
    Value::Object(map)
}

/// What the tenant may send at once now; `null` as long as nothing was charged.
fn left(directory: &Directory, id: &TenantId) -> Value {
    let Some(meter) = directory.table().meters().find(id) else { return Value::Null };
    let fills = meter.fills(Instant::now()).into_iter();
    let mut map: Map<String, Value> =
        fills.map(|(limit, tokens)| (limit.to_owned(), Value::from(tokens.floor()))).collect();
    map.insert("bytes_in_flight".to_owned(), meter.in_flight().into());
    Value::Object(map)
}
