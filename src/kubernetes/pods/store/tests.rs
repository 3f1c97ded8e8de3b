use serde_json::{Value, json};

use super::super::keep::Keep;
use super::super::record::Known;
use super::*;

fn pod(uid: &str, ips: &[&str], extra: Value) -> PodView {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let mut pod = json!({
        "metadata": {
            "name": format!("pod-{uid}"), "namespace": "shop", "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": { "nodeName": "n1" },
        "status": { "phase": "Running", "podIPs": ips, "hostIP": "192.168.0.1" },
    });
    merge(&mut pod, extra);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

fn started(at: &str) -> Value {
    json!({ "status": { "startTime": at } })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn store() -> (Store, Arc<Keep>, Instant) {
    (Store::new(100, Duration::from_secs(60)), Arc::default(), Instant::now())
}

fn holder(store: &Store, address: &str) -> Option<(String, bool)> {
    store.at(ip(address)).map(|pod| (pod.uid.to_string(), pod.has_ended()))
}

fn has(uid: &str, ended: bool) -> Option<(String, bool)> {
    Some((uid.to_owned(), ended))
}

#[test]
fn a_pod_is_found_by_each_of_its_addresses() {
    let (mut store, keep, now) = store();
    store.apply(&pod("a", &["10.0.0.1", "fd00::1"], json!({})), &keep, now);
    assert_eq!(holder(&store, "10.0.0.1"), has("a", false));
    assert_eq!(holder(&store, "fd00::1"), has("a", false));
    store.apply(&pod("a", &["10.0.0.2"], json!({})), &keep, now);
    assert_eq!(["10.0.0.1", "fd00::1"].map(|ip| holder(&store, ip)), [None, None]);
    assert_eq!(holder(&store, "10.0.0.2"), has("a", false));
}

#[test]
fn pods_of_the_hosts_network_have_no_address_of_their_own() {
    let (mut store, keep, now) = store();
    store.apply(&pod("a", &["192.168.0.1"], json!({ "spec": { "hostNetwork": true } })), &keep, now);
    assert_eq!(holder(&store, "192.168.0.1"), None);
    assert!(store.is_host(ip("192.168.0.1")) && store.with_uid("a").is_some());
    store.end("a", now);
    store.sweep(now + Duration::from_secs(60));
    assert!(!store.is_host(ip("192.168.0.1")));
}

#[test]
fn the_newest_running_pod_owns_an_address() {
    for newest_first in [true, false] {
        let (mut store, keep, now) = store();
        let mut pods = [
            pod("old", &["10.0.0.1"], started("2026-01-01T10:00:00Z")),
            pod("new", &["10.0.0.1"], started("2026-01-01T11:00:00Z")),
        ];
        if newest_first {
            pods.reverse();
        }
        pods.iter().for_each(|pod| {
            store.apply(pod, &keep, now);
        });
        assert_eq!(holder(&store, "10.0.0.1"), has("new", false));
        store.end("new", now);
        assert_eq!(holder(&store, "10.0.0.1"), has("old", false), "a running one before one that ended");
        store.end("old", now);
        assert_eq!(holder(&store, "10.0.0.1"), has("new", true));
    }
}

#[test]
fn a_completed_pod_does_not_keep_its_address_from_the_next() {
    let (mut store, keep, now) = store();
    store.apply(&pod("job", &["10.0.0.1"], started("2026-01-01T11:00:00Z")), &keep, now);
    store.apply(&pod("job", &["10.0.0.1"], json!({ "status": { "phase": "Succeeded" } })), &keep, now);
    assert_eq!(holder(&store, "10.0.0.1"), has("job", true));
    store.apply(&pod("next", &["10.0.0.1"], started("2026-01-01T10:00:00Z")), &keep, now);
    assert_eq!(holder(&store, "10.0.0.1"), has("next", false));
}

#[test]
fn ended_pods_are_forgotten_after_their_grace() {
    let (mut store, keep, now) = store();
    store.apply(&pod("a", &["10.0.0.1"], json!({})), &keep, now);
    store.end("a", now);
    store.sweep(now + Duration::from_secs(59));
    assert_eq!(holder(&store, "10.0.0.1"), has("a", true));
    store.sweep(now + Duration::from_secs(60));
    assert_eq!((holder(&store, "10.0.0.1"), store.len()), (None, 0));
}

#[test]
fn a_relist_ends_who_is_gone_and_changes_nothing_else() {
    let (mut store, keep, now) = store();
    let [a, b] =
        ["a", "b"].map(|uid| pod(uid, &[if uid == "a" { "10.0.0.1" } else { "10.0.0.2" }], json!({})));
    for view in [&a, &b] {
        store.apply(view, &keep, now);
    }
    let stamp = store.with_uid("a").unwrap().stamp;
    store.begin_round();
    store.apply(&a, &keep, now);
    store.end_round(now);
    assert_eq!(store.with_uid("a").unwrap().stamp, stamp);
    assert_eq!(holder(&store, "10.0.0.2"), has("b", true));
    // The next list has it again.
    store.apply(&b, &keep, now);
    assert_eq!(holder(&store, "10.0.0.2"), has("b", false));
    store.sweep(now + Duration::from_secs(120));
    assert_eq!(holder(&store, "10.0.0.2"), has("b", false));
}

#[test]
fn there_is_room_for_so_many_pods_and_ended_ones_go_first() {
    let (mut store, keep, now) = store();
    store.bound(2, Duration::from_secs(60));
    let apply = |store: &mut Store, uid: &str| store.apply(&pod(uid, &[], json!({})), &keep, now);
    assert_eq!([apply(&mut store, "a"), apply(&mut store, "b")], [Applied::Known; 2]);
    assert_eq!(apply(&mut store, "c"), Applied::LeftOut);
    assert_eq!(apply(&mut store, "a"), Applied::Known);
    store.end("a", now);
    assert_eq!((apply(&mut store, "c"), store.len()), (Applied::Known, 2));
    assert!(store.with_uid("a").is_none());
}

#[test]
fn churn_and_lists_that_contradict_each_other_are_bounded() {
    let (mut store, keep, now) = store();
    // No pod is like another, and all come within the grace.
    for number in 0..20_000 {
        let address = IpAddr::from((0x0a00_0000_u32 + number).to_be_bytes());
        let uid = format!("u{number}");
        let owner =
            json!([{ "kind": "Job", "name": format!("job-{number}"), "uid": uid, "controller": true }]);
        let view = pod(&uid, &[&address.to_string()], json!({ "metadata": { "ownerReferences": owner } }));
        assert_eq!(store.apply(&view, &keep, now), Applied::Known);
        store.end(&uid, now);
    }
    assert!(store.pods.len() <= 100 && store.addresses.len() <= 100 && store.ended.len() <= 200);
    assert_eq!(store.hosts.len(), 1);
    // Every second list leaves everybody out.
    let views: Vec<PodView> = (0..50).map(|number| pod(&format!("s{number}"), &[], json!({}))).collect();
    for round in 0..1000 {
        let now = now + Duration::from_millis(round);
        store.begin_round();
        for view in views.iter().filter(|_| round % 2 == 0) {
            store.apply(view, &keep, now);
        }
        store.end_round(now);
        assert!(store.pods.len() <= 100 && store.ended.len() <= 200, "round {round}");
    }
}

#[test]
fn who_was_not_told_to_have_ended_stays_known_however_long() {
    let (mut store, keep, now) = store();
    store.apply(&pod("a", &["10.0.0.1"], json!({})), &keep, now);
    store.sweep(now + Duration::from_secs(24 * 3600));
    assert_eq!(holder(&store, "10.0.0.1"), has("a", false));
}

#[test]
fn owners_are_told_without_asking_for_them() {
    let (mut store, keep, now) = store();
    let mut check = |owner: (&str, &str), hash: Option<&str>, expected: (Option<&str>, Option<&str>)| {
        let labels = hash.map_or(json!({}), |hash| json!({ "pod-template-hash": hash }));
        let owners = json!([
            { "kind": "Other", "name": "x", "uid": "y" },
            { "kind": owner.0, "name": owner.1, "uid": "o", "controller": true },
        ]);
        let extra = json!({ "metadata": { "labels": labels, "ownerReferences": owners } });
        store.apply(&pod("a", &[], extra), &keep, now);
        let pod = store.with_uid("a").unwrap();
        assert_eq!(pod.owner(owner.0), Some((owner.1, "o")));
        assert_eq!((pod.deployment(), pod.cronjob()), expected, "{owner:?}");
    };
    check(("ReplicaSet", "web-6d4cf56db6"), Some("6d4cf56db6"), (Some("web"), None));
    check(("ReplicaSet", "web-a-b-6d4cf56db6"), Some("6d4cf56db6"), (Some("web-a-b"), None));
    check(("ReplicaSet", "bare-abc"), None, (None, None));
    check(("ReplicaSet", "cut-off-6d4c"), Some("6d4cf56db6"), (None, None));
    check(("StatefulSet", "db-6d4cf56db6"), Some("6d4cf56db6"), (None, None));
    check(("Job", "backup-29384756"), None, (None, Some("backup")));
    check(("Job", "migrate-7"), None, (None, None));
}

#[test]
fn only_what_was_asked_for_is_kept_and_the_rest_is_told_apart() {
    let (mut store, _, now) = store();
    let mut keep = Keep::default();
    keep.pod_labels.add("app");
    keep.pod_annotations.add_pattern(&regex::Regex::new("^x/").unwrap());
    let keep = Arc::new(keep);
    let extra = json!({ "metadata": {
        "labels": { "app": "web", "team": "a" },
        "annotations": { "x/long": "v".repeat(300), "x/short": "v" },
    } });
    store.apply(&pod("a", &[], extra), &keep, now);
    let pod = store.with_uid("a").unwrap();
    assert_eq!((pod.label("app"), pod.label("team")), (Known::Value("web"), Known::NotYet));
    assert_eq!((pod.annotation("x/short"), pod.annotation("x/long")), (Known::Value("v"), Known::Absent));
    assert_eq!(pod.labels().count() + pod.annotations().count(), 2);
}

#[test]
fn namespaces_come_and_go() {
    let (mut store, _, _) = store();
    let mut keep = Keep::default();
    keep.namespace_labels.add("tenant");
    let keep = Arc::new(keep);
    let namespace = |name: &str, tenant: &str| -> NamespaceView {
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "tenant": tenant } } }))
            .unwrap()
    };
    store.apply_namespace(&namespace("shop", "acme"), &keep);
    let first = store.namespace("shop").unwrap().clone();
    store.begin_namespace_round();
    store.apply_namespace(&namespace("shop", "acme"), &keep);
    store.apply_namespace(&namespace("bank", "globex"), &keep);
    assert!(Arc::ptr_eq(&first, store.namespace("shop").unwrap()));
    store.apply_namespace(&namespace("shop", "globex"), &keep);
    assert_eq!(store.namespace("shop").unwrap().label("tenant"), Known::Value("globex"));
    store.begin_namespace_round();
    store.apply_namespace(&namespace("bank", "globex"), &keep);
    store.end_namespace_round();
    assert!(store.namespace("shop").is_none());
    store.end_namespace("bank");
    assert_eq!(store.namespaces(), 0);
}
