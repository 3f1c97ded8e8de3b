//! Whose is it: claims, anonymous data, models.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use super::{ClaimHeaders, ClaimRefused, Directory, Owners, Sender, Tenants, attribute};
use crate::otlp::{Draft, Edits, Index, Limits, Signal};
use crate::outcome::Ledger;
use crate::policies;
use crate::yaml::Source;

fn directory(policies: &str) -> Directory {
    let text = format!("version: 1\nrules: []\n{policies}");
    let (plan, _) = policies::parse(&Source::new("test", text), jiff::Timestamp::UNIX_EPOCH).unwrap();
    let plan = Arc::new(plan);
    let table = Tenants::new(&Arc::<Ledger>::default(), &plan, 10);
    Directory::new(plan, &table)
}

type Attributes = &'static [(&'static str, &'static str)];

fn attributes(pairs: Attributes) -> Vec<KeyValue> {
    let value = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    let pair = |(key, text): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: value(text),
        ..KeyValue::default()
    };
    pairs.iter().map(pair).collect()
}

/// One resource for each entry: its attributes, and those of each of its spans.
fn request(resources: &[(Attributes, &[Attributes])]) -> Bytes {
    let resource_spans = resources.iter().map(|(resource, spans)| ResourceSpans {
        resource: Some(Resource { attributes: attributes(resource), ..Resource::default() }),
        scope_spans: vec![ScopeSpans {
            spans: spans.iter().map(|of| Span { attributes: attributes(of), ..Span::default() }).collect(),
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }.encode_to_vec().into()
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, http::HeaderValue::from_static(value));
    }
    headers
}

fn sender<'a>(directory: &'a Directory, claims: &'a HeaderMap) -> Sender<'a> {
    Sender { directory, caller: directory.callers().anonymous(), claims, foretold: None, pod: None }
}

/// What becomes of a request: for each tenant in order, `tenant model/version xSPANS` of each resource.
fn run(policies: &str, request: Bytes, headers: &HeaderMap) -> Result<Vec<String>, ClaimRefused> {
    let directory = directory(policies);
    let (mut index, mut edits) = (Index::new(), Edits::new());
    let request = index.read(Signal::Traces, &request, &Limits::for_message_size(1 << 20)).unwrap();
    let mut draft = Draft::new(&index, &request, &mut edits);
    let mut owners = Owners::new(&directory);
    let mut headers = headers.clone();
    let claims = ClaimHeaders::take(&directory, &mut headers);
    let sender = sender(&directory, claims.headers());
    attribute(&sender, &headers, &mut draft, &mut owners)?;
    let mut found = Vec::new();
    for group in 0..owners.groups() {
        let Some(bytes) = draft.emit(group) else { continue };
        for resource in ExportTraceServiceRequest::decode(bytes).unwrap().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let get = |key: &str| {
                let found = attributes.iter().find(|kv| kv.key == key);
                match found.and_then(|kv| kv.value.clone()).and_then(|value| value.value) {
                    Some(Value::StringValue(text)) => text,
                    _ => "-".to_owned(),
                }
            };
            let spans: usize = resource.scope_spans.iter().map(|scope| scope.spans.len()).sum();
            let tenant = get("tenant.id");
            assert_eq!(tenant, owners.owner(group).id.as_str(), "the resource says whose it is");
            found.push(format!("{tenant} {}/{} x{spans}", get("model.name"), get("model.version")));
        }
    }
    Ok(found)
}

const CLAIMS: &str = "identity: { claims: [{ header: x-tenant-id }, { resource: tenant.id }], anonymous: 'tenant:unattributed' }\n";

#[test]
fn the_first_claim_that_names_a_tenant_wins() {
    let check = |header: &[(&'static str, &'static str)], resource: Attributes, expected: &str| {
        let found = run(CLAIMS, request(&[(resource, &[&[]])]), &headers(header));
        assert_eq!(found, Ok(vec![format!("{expected} -/- x1")]), "{header:?} {resource:?}");
    };
    check(&[("x-tenant-id", "acme")], &[], "acme");
    check(&[("x-tenant-id", "acme")], &[("tenant.id", "globex")], "acme");
    check(&[], &[("tenant.id", "globex")], "globex");
    check(&[], &[], "unattributed");
    check(&[("x-scope-orgid", "acme")], &[], "unattributed");
}

#[test]
fn what_is_no_tenant_id_claims_nothing() {
    let check = |id: &'static str| {
        let found = run(CLAIMS, request(&[(&[], &[&[]])]), &headers(&[("x-tenant-id", id)]));
        assert_eq!(found, Ok(vec!["unattributed -/- x1".to_owned()]), "{id:?}");
    };
    check("");
    check("..");
    check("a|b");
    check("_overflow");
    check("a b");
}

#[test]
fn a_duplicated_header_is_refused_even_if_both_agree() {
    let twice = headers(&[("x-tenant-id", "acme"), ("x-tenant-id", "acme")]);
    let found = run(CLAIMS, request(&[(&[], &[&[]])]), &twice);
    assert_eq!(found, Err(ClaimRefused::Duplicate { header: "x-tenant-id".into() }));
}

#[test]
fn anonymous_data_goes_where_the_policies_say() {
    let check = |anonymous: &str, expected: Result<&str, ClaimRefused>| {
        let policies = format!("identity: {{ claims: [], anonymous: {anonymous} }}\n");
        let found = run(&policies, request(&[(&[("tenant.id", "x")], &[&[]])]), &HeaderMap::new());
        assert_eq!(found, expected.map(|tenant| vec![format!("{tenant} -/- x1")]), "{anonymous}");
    };
    check("refuse", Err(ClaimRefused::Anonymous));
    check("overflow", Ok("_overflow"));
    check("'tenant:nobody'", Ok("nobody"));
}

#[test]
fn one_request_of_many_tenants_becomes_one_message_each() {
    let resources: [(Attributes, &[Attributes]); 4] = [
        (&[("tenant.id", "a")], &[&[], &[]]),
        (&[("tenant.id", "b")], &[&[]]),
        (&[("tenant.id", "a")], &[&[]]),
        (&[], &[&[]]),
    ];
    let found = run(CLAIMS, request(&resources), &HeaderMap::new()).unwrap();
    assert_eq!(found, ["unattributed -/- x1", "a -/- x2", "a -/- x1", "b -/- x1"]);
}

#[test]
fn the_model_is_found_in_the_order_of_the_policies() {
    let check = |resource: Attributes, span: Attributes, expected: &str| {
        let found = run(CLAIMS, request(&[(resource, &[span])]), &HeaderMap::new());
        assert_eq!(found, Ok(vec![format!("unattributed {expected} x1")]), "{resource:?} {span:?}");
    };
    check(&[("model.name", "m"), ("model.version", "1")], &[], "m/1");
    check(&[("gen_ai.request.model", "asked"), ("service.version", "2")], &[], "asked/2");
    check(&[("gen_ai.request.model", "asked"), ("gen_ai.response.model", "got")], &[], "got/-");
    check(&[], &[("gen_ai.request.model", "of-span")], "of-span/-");
    check(&[("model.name", "")], &[("gen_ai.request.model", "of-span")], "of-span/-");
    check(&[("model.name", "m")], &[("gen_ai.request.model", "of-span")], "m/-");
}

#[test]
fn a_resource_whose_spans_name_different_models_is_split() {
    let spans: &[Attributes] = &[
        &[("gen_ai.request.model", "a")],
        &[("gen_ai.request.model", "b")],
        &[],
        &[("gen_ai.request.model", "a")],
    ];
    let mut found = run(CLAIMS, request(&[(&[("service.version", "1")], spans)]), &HeaderMap::new()).unwrap();
    found.sort();
    assert_eq!(found, ["unattributed -/1 x1", "unattributed a/1 x2", "unattributed b/1 x1"]);
}

#[test]
fn headers_can_name_the_model() {
    let policies = format!("{CLAIMS}enrichment: {{ model_name: {{ from: [header.x-model] }} }}\n");
    let found = run(&policies, request(&[(&[], &[&[]])]), &headers(&[("x-model", "m")]));
    assert_eq!(found, Ok(vec!["unattributed m/- x1".to_owned()]));
}

#[test]
fn the_attribute_that_carries_the_tenant_is_configured_and_overwritten() {
    let policies = format!("{CLAIMS}enrichment: {{ tenant: {{ attribute: org }} }}\n");
    let request = request(&[(&[("org", "spoofed"), ("tenant.id", "acme")], &[&[]])]);
    let directory = directory(&policies);
    let (mut index, mut edits) = (Index::new(), Edits::new());
    let request = index.read(Signal::Traces, &request, &Limits::for_message_size(1 << 20)).unwrap();
    let mut draft = Draft::new(&index, &request, &mut edits);
    let mut owners = Owners::new(&directory);
    let none = HeaderMap::new();
    attribute(&sender(&directory, &none), &none, &mut draft, &mut owners).unwrap();
    let part = draft.parts().next().unwrap();
    assert_eq!(draft.resource_attribute(part, "org").and_then(|value| value.as_str()), Some("acme"));
}
