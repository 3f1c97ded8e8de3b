//! Pods of the chart against the pod security standard `restricted`, and the rights they get.
//!
//! The rules are those of the standard as of Kubernetes 1.34, for pods on Linux.

use serde_json::{Value, json};

use super::promises::is_watching;
use super::{Rendered, all_rendered, of_kind, with, workload};

/// The kinds of volumes a restricted pod may have.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Everything in a pod that the standard forbids.
fn forbidden(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod[key] == true {
            found.push(key.to_owned());
        }
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        found.extend(kinds.filter(|kind| !VOLUMES.contains(&kind.as_str())).cloned());
    }
    let of_pod = &pod["securityContext"];
    if of_pod["sysctls"].as_array().is_some_and(|list| !list.is_empty()) {
        found.push("sysctls".to_owned());
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in pod[list].as_array().into_iter().flatten() {
            found.extend(forbidden_container(container, of_pod));
        }
    }
    found
}

fn forbidden_container(container: &Value, of_pod: &Value) -> Vec<String> {
    let own = &container["securityContext"];
    let either = |key: &str| if own[key].is_null() { &of_pod[key] } else { &own[key] };
    let capabilities = &own["capabilities"];
    let holds = |list: &Value, wanted: &str| list.as_array().is_some_and(|all| all.contains(&json!(wanted)));
    let added = capabilities["add"].as_array().into_iter().flatten();
    let ports = container["ports"].as_array().into_iter().flatten();
    let profile = &either("seccompProfile")["type"];
    let rules = [
        ("runAsNonRoot", either("runAsNonRoot") == true),
        ("runAsUser", either("runAsUser") != 0),
        ("seccompProfile", profile == "RuntimeDefault" || profile == "Localhost"),
        ("privileged", own["privileged"] != true),
        ("allowPrivilegeEscalation", own["allowPrivilegeEscalation"] == false),
        ("capabilities.drop", holds(&capabilities["drop"], "ALL")),
        ("capabilities.add", added.into_iter().all(|name| name == "NET_BIND_SERVICE")),
        ("procMount", own["procMount"].is_null() || own["procMount"] == "Default"),
        ("hostPort", ports.into_iter().all(|port| port["hostPort"].is_null() || port["hostPort"] == 0)),
    ];
    rules.into_iter().filter(|(_, kept)| !kept).map(|(rule, _)| rule.to_owned()).collect()
}

fn pods(rendered: &[Value]) -> Vec<&Value> {
    let tests = of_kind(rendered, "Pod").into_iter().map(|pod| &pod["spec"]);
    tests.chain([&workload(rendered)["spec"]["template"]["spec"]]).collect()
}

#[test]
fn every_pod_is_restricted_but_for_the_ports_of_agents_on_their_node() {
    let mut restricted = 0;
    for rendered in all_rendered() {
        let agent = workload(&rendered.objects)["kind"] == "DaemonSet";
        let mut found: Vec<_> = pods(&rendered.objects)
            .into_iter()
            .flat_map(forbidden)
            .filter(|rule| !agent || rule != "hostPort")
            .collect();
        // These ask for it.
        let asks = |word: &str| std::fs::read_to_string(&rendered.values).unwrap().contains(word);
        found.retain(|rule| rule != "hostNetwork" || !asks("hostNetwork: true"));
        assert_eq!(found, Vec::<String>::new(), "{}", rendered.name());
        restricted += 1;
    }
    assert!(restricted >= 20, "{restricted}");
    let values = |name: &str| -> &'static Rendered {
        all_rendered().iter().find(|rendered| rendered.name().ends_with(name)).unwrap()
    };
    for pod in pods(&values("ci/agent-restricted.yaml").objects) {
        assert_eq!(forbidden(pod), Vec::<String>::new());
    }
}

#[test]
fn a_pod_that_gives_something_up_is_found_out() {
    let found = |set: &[&str]| {
        let objects = super::objects(&with("deployment", set).unwrap());
        forbidden(&workload(&objects)["spec"]["template"]["spec"])
    };
    assert_eq!(found(&[]), Vec::<String>::new());
    let check = |set: &str, rule: &str| assert_eq!(found(&[set]), [rule], "{set}");
    check("securityContext.privileged=true", "privileged");
    check("securityContext.allowPrivilegeEscalation=true", "allowPrivilegeEscalation");
    check("securityContext.capabilities.drop=null", "capabilities.drop");
    check("securityContext.capabilities.add[0]=SYS_ADMIN", "capabilities.add");
    check("podSecurityContext.runAsNonRoot=false", "runAsNonRoot");
    check("podSecurityContext.runAsUser=0", "runAsUser");
    check("podSecurityContext.seccompProfile.type=Unconfined", "seccompProfile");
}

#[test]
fn nobody_gets_rights_unasked_and_every_container_has_limits() {
    for rendered in all_rendered() {
        let objects = &rendered.objects;
        let knows_pods = rendered.manifests.contains("k8s_attributes:");
        for kind in ["ClusterRole", "ClusterRoleBinding"] {
            let expected = usize::from(knows_pods);
            assert_eq!(of_kind(objects, kind).len(), expected, "{kind} in {}", rendered.name());
        }
        for kind in ["Role", "RoleBinding"] {
            let allowed = usize::from(is_watching(objects));
            assert!(of_kind(objects, kind).len() <= allowed, "{kind} in {}", rendered.name());
        }
        let asks = knows_pods || rendered.manifests.contains("config_map:");
        assert_eq!(is_watching(objects), asks, "{}", rendered.name());
        for pod in of_kind(objects, "Pod") {
            assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        }
        for pod in pods(objects) {
            assert_eq!(pod["enableServiceLinks"], false);
            assert_eq!(pod["securityContext"]["runAsUser"], 65532);
            let container = &pod["containers"][0];
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
            assert!(container["resources"]["limits"]["memory"].is_string(), "{}", rendered.name());
        }
    }
}
