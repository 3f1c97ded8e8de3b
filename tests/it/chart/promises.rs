//! What the chart promises whoever installs it.

use serde_json::{Value, json};

use super::{all_rendered, container, file, objects, of_kind, template, with, workload};

#[test]
fn selectors_never_change() {
    for (mode, name, component) in [
        ("daemonset", "gate-tollgate-agent", "agent-collector"),
        ("deployment", "gate-tollgate", "standalone-collector"),
        ("statefulset", "gate-tollgate", "statefulset-collector"),
    ] {
        let objects = objects(&with(mode, &["service.enabled=true"]).unwrap());
        let expected = json!({
            "app.kubernetes.io/name": "tollgate",
            "app.kubernetes.io/instance": "gate",
            "app.kubernetes.io/component": component,
        });
        let workload = workload(&objects);
        assert_eq!(workload["metadata"]["name"], name);
        assert_eq!(workload["spec"]["selector"], json!({ "matchLabels": expected }), "{mode}");
        for service in of_kind(&objects, "Service") {
            assert_eq!(service["spec"]["selector"], expected, "{mode}");
        }
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(labels[key], *value, "{mode}");
        }
    }
}

/// The workload as the API server compares it.
fn pod_template(mode: &str, set: &[&str]) -> Value {
    workload(&objects(&with(mode, set).unwrap())).clone()
}

#[test]
fn policies_never_restart_a_pod_and_configuration_always_does() {
    for mode in ["daemonset", "deployment", "statefulset"] {
        let before = pod_template(mode, &[]);
        let policies = &[
            "policies.config.version=1",
            "policies.config.revision=2",
            "policies.config.identity.anonymous=refuse",
        ];
        assert_eq!(pod_template(mode, policies), before, "{mode}");
        let endpoint = pod_template(mode, &["destination.endpoint=backend:4317"]);
        let checksum = |workload: &Value| {
            workload["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone()
        };
        assert!(checksum(&before).is_string());
        assert_ne!(checksum(&endpoint), checksum(&before), "{mode}");
        assert_eq!(
            pod_template(mode, &["enableConfigChecksumAnnotation=false"])["metadata"],
            before["metadata"]
        );
    }
}

#[test]
fn policies_are_mounted_as_a_directory() {
    for rendered in all_rendered() {
        let objects = &rendered.objects;
        for mount in container(objects)["volumeMounts"].as_array().unwrap() {
            assert!(mount["subPath"].is_null() && mount["subPathExpr"].is_null(), "{}", rendered.name());
        }
    }
}

/// Whether the pods may ask the API server.
pub(super) fn is_watching(objects: &[Value]) -> bool {
    workload(objects)["spec"]["template"]["spec"]["automountServiceAccountToken"] == true
}

#[test]
fn who_follows_the_policies_may_read_this_one_config_map_and_write_events() {
    for (mode, name) in [("daemonset", "gate-tollgate-agent"), ("deployment", "gate-tollgate")] {
        let objects = objects(&with(mode, &["policies.watch.enabled=true"]).unwrap());
        assert!(is_watching(&objects));
        let map = format!("{name}-policies");
        let rules = json!([
            { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"] },
        ]);
        let role = of_kind(&objects, "Role")[0];
        assert_eq!(role["rules"], rules);
        let binding = of_kind(&objects, "RoleBinding")[0];
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        let account = &workload(&objects)["spec"]["template"]["spec"]["serviceAccountName"];
        let subject = json!({ "kind": "ServiceAccount", "name": account, "namespace": "telemetry" });
        assert_eq!(binding["subjects"], json!([subject]));
        let config: Value = serde_saphyr::from_str(&file(&objects, "-config").unwrap()).unwrap();
        let keys = json!({ "name": map, "key": "policies.yaml" });
        assert_eq!(config["extensions"]["policies"]["config_map"], keys);
        // Its own name, for the Events it writes.
        let environment = container(&objects)["env"].as_array().unwrap();
        assert!(environment.iter().any(|variable| variable["name"] == "OTEL_K8S_POD_NAME"));
    }
}

#[test]
fn who_wants_attributes_of_pods_may_read_pods_and_namespaces_and_watches_as_few_as_possible() {
    let on = ["presets.kubernetesAttributes.enabled=true"];
    let of_node = json!({ "filter": { "node_from_env_var": "K8S_NODE_NAME" } });
    let of_cluster = json!({ "cluster_wide": true });
    for (mode, name, pods) in
        [("daemonset", "gate-tollgate-agent", of_node), ("deployment", "gate-tollgate", of_cluster)]
    {
        let objects = objects(&with(mode, &on).unwrap());
        assert!(is_watching(&objects));
        let rules = json!([{ "apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["get", "list", "watch"] }]);
        let role = of_kind(&objects, "ClusterRole")[0];
        assert_eq!(role["rules"], rules);
        assert_eq!(role["metadata"]["name"], format!("telemetry-{name}"));
        let binding = of_kind(&objects, "ClusterRoleBinding")[0];
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        let account = &workload(&objects)["spec"]["template"]["spec"]["serviceAccountName"];
        let subject = json!({ "kind": "ServiceAccount", "name": account, "namespace": "telemetry" });
        assert_eq!(binding["subjects"], json!([subject]));
        let config: Value = serde_saphyr::from_str(&file(&objects, "-config").unwrap()).unwrap();
        assert_eq!(config["extensions"]["pods"], pods);
        let processors = &config["service"]["pipelines"]["logs"]["processors"];
        assert_eq!(*processors, json!(["memory_limiter", "k8s_attributes", "tenant", "sampling"]));
        let environment = container(&objects)["env"].as_array().unwrap();
        let node = environment.iter().find(|variable| variable["name"] == "K8S_NODE_NAME").unwrap();
        assert_eq!(node["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
        let without = with(mode, &[on[0], "rbac.create=false"]).unwrap();
        assert!(!without.contains("kind: ClusterRole"));
    }
}

#[test]
fn pods_live_long_enough_to_drain() {
    for rendered in all_rendered() {
        let objects = &rendered.objects;
        let container = container(objects);
        let arguments =
            container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
        let grace =
            arguments.filter_map(|argument| argument.strip_prefix("--shutdown-grace=")).next().unwrap();
        let grace: i64 = grace.strip_suffix('s').unwrap().parse().unwrap();
        let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap();
        let period = workload(objects)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_i64();
        assert!(period.unwrap() >= sleep + grace + 2, "{}", rendered.name());
    }
}

#[test]
fn probes_ask_the_health_check_and_give_a_start_its_time() {
    let probes = |set: &[&str]| {
        let objects = objects(&with("statefulset", set).unwrap());
        let config: Value = serde_saphyr::from_str(&file(&objects, "-config").unwrap()).unwrap();
        let container = container(&objects);
        let probes = ["startupProbe", "livenessProbe", "readinessProbe"].map(|key| container[key].clone());
        (probes, config["extensions"]["health_check"].clone())
    };
    let (all, health) = probes(&["livenessProbe.httpGet.port=8080", "readinessProbe.httpGet.port=8080"]);
    assert_eq!(health, json!({ "endpoint": "${env:MY_POD_IP}:8080", "path": "/" }));
    for probe in &all {
        assert_eq!(probe["httpGet"], json!({ "port": 8080, "path": "/" }));
    }
    // As long as the start may wait for the first list of pods (`pods.first_list_timeout`).
    let number = |key: &str| all[0][key].as_u64().unwrap();
    assert!(number("periodSeconds") * number("failureThreshold") >= 300);
    let (none, _) = probes(&["startupProbe=null"]);
    assert_eq!(none[0], Value::Null);
    let (own, _) = probes(&["startupProbe.httpGet.port=13133", "startupProbe.httpGet.path=/"]);
    assert_eq!(own[0], json!({ "httpGet": { "port": 13133, "path": "/" } }));
}

#[test]
fn agents_take_traffic_of_their_node_only() {
    let objects_of = |set: &[&str]| objects(&with("daemonset", set).unwrap());
    let objects = objects_of(&[]);
    assert!(of_kind(&objects, "Service").iter().all(|service| service["spec"]["clusterIP"] == "None"));
    assert_eq!(container(&objects)["ports"][0]["hostPort"], 4317);
    let objects = objects_of(&["service.enabled=true", "ports.otlp.hostPort=0"]);
    let services = of_kind(&objects, "Service");
    let service = services.iter().find(|service| service["spec"]["clusterIP"] != "None").unwrap();
    assert_eq!(service["spec"]["internalTrafficPolicy"], "Local");
    assert!(container(&objects)["ports"][0]["hostPort"].is_null());
    let gateway = super::objects(&with("deployment", &[]).unwrap());
    assert!(container(&gateway)["ports"][0]["hostPort"].is_null());
}

#[test]
fn an_autoscaler_owns_the_replicas() {
    for mode in ["deployment", "statefulset"] {
        assert_eq!(pod_template(mode, &[])["spec"]["replicas"], 2);
        assert!(pod_template(mode, &["autoscaling.enabled=true"])["spec"]["replicas"].is_null());
        let keda = ["keda.enabled=true", "keda.triggers[0].type=cpu"];
        assert!(pod_template(mode, &keda)["spec"]["replicas"].is_null());
    }
}

#[test]
fn a_whole_configuration_is_passed_on_unmerged() {
    let values = super::chart().join("ci/gateway-config.yaml");
    let objects = objects(&template(&values));
    let rendered: Value = serde_saphyr::from_str(&file(&objects, "-config").unwrap()).unwrap();
    let text = std::fs::read_to_string(values).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(rendered, values["config"]);
    assert!(rendered["processors"].as_object().unwrap().contains_key("batch"), "null is kept");
}

#[test]
fn files_are_passed_on_as_they_are() {
    let chart = super::chart();
    let folder = tempfile::tempdir().unwrap();
    let (config, policies) = (folder.path().join("collector.yaml"), folder.path().join("policies.yaml"));
    let text = super::root().join("examples/quickstart/collector.yaml");
    let text = std::fs::read_to_string(text).unwrap();
    std::fs::write(&config, text.replace("  health_check:", "  health_check: { endpoint: \":13133\" }"))
        .unwrap();
    std::fs::copy(super::root().join("config/policies.yaml"), &policies).unwrap();
    let set = [
        format!("--set-file=config={}", config.display()),
        format!("--set-file=policies.config={}", policies.display()),
    ];
    let arguments =
        ["template", "gate", chart.to_str().unwrap(), "--set=mode=deployment", "--set", super::IMAGE];
    let objects = objects(&super::helm(&[&arguments[..], &[&set[0], &set[1]]].concat()).unwrap());
    for (name_ends, path) in [("-config", config), ("-policies", policies)] {
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(file(&objects, name_ends).unwrap().trim_end(), text.trim_end());
    }
}

#[test]
fn only_a_statefulset_that_was_asked_claims_volumes() {
    for rendered in all_rendered() {
        let objects = &rendered.objects;
        let claims = !workload(objects)["spec"]["volumeClaimTemplates"].is_null();
        let text = std::fs::read_to_string(&rendered.values).unwrap();
        assert_eq!(claims, text.contains("persistence: { enabled: true"), "{}", rendered.name());
    }
}

#[test]
fn a_queue_on_disk_is_on_its_own_volume_which_the_program_may_write() {
    let set = ["destination.persistence.enabled=true", "destination.endpoint=backend:4317"];
    for last_good in ["true", "false"] {
        let last_good = format!("policies.lastGood.enabled={last_good}");
        let objects = objects(&with("statefulset", &[set[0], set[1], &last_good]).unwrap());
        let config: Value = serde_saphyr::from_str(&file(&objects, "-config").unwrap()).unwrap();
        let storage = &config["extensions"]["file_storage"];
        assert_eq!(config["exporters"]["otlp_grpc"]["sending_queue"], json!({ "storage": "file_storage" }));
        assert!(config["service"]["extensions"].as_array().unwrap().contains(&json!("file_storage")));
        let mounts = container(&objects)["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["mountPath"] == storage["directory"]).unwrap();
        assert_ne!(mount["readOnly"], true);
        let spec = &workload(&objects)["spec"];
        let claim = &spec["volumeClaimTemplates"][0];
        assert_eq!(claim["metadata"]["name"], mount["name"]);
        assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "20Gi");
        assert_eq!(storage["max_size"], "16GiB");
        let pod = &spec["template"]["spec"]["securityContext"];
        assert_eq!((&pod["fsGroup"], &pod["runAsGroup"]), (&json!(65532), &json!(65532)));
    }
}

#[test]
fn notes_tell_the_next_step() {
    let chart = super::chart();
    for (mode, told) in [
        ("daemonset", "status.hostIP, port 4317"),
        ("deployment", "gate-tollgate.telemetry.svc:4317"),
        ("statefulset", "The queue is in memory"),
    ] {
        let mode = format!("mode={mode}");
        let notes = super::helm(&[
            "install",
            "gate",
            chart.to_str().unwrap(),
            "--namespace",
            "telemetry",
            "--dry-run=client",
            "--set",
            &mode,
            "--set",
            super::IMAGE,
        ])
        .unwrap();
        let notes = notes.split("NOTES:").nth(1).unwrap();
        for told in [
            told,
            "NOTHING IS SENT ON YET",
            "helm test gate",
            "--set-file policies.config=",
            "rollout status",
        ] {
            assert!(notes.contains(told), "{mode}: {told:?} is missing:\n{notes}");
        }
    }
}

/// Names of entries of a list.
fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|entry| entry["name"].as_str().unwrap()).collect()
}

#[test]
fn what_an_object_refers_to_is_there() {
    for rendered in all_rendered() {
        let objects = &rendered.objects;
        let named = |kind: &str, name: &Value| {
            assert!(
                of_kind(objects, kind).iter().any(|object| object["metadata"]["name"] == *name)
                    || ["platform-collector", "platform-policies", "tollgate-policies", "shared"]
                        .contains(&name.as_str().unwrap()),
                "{kind} {name} in {}",
                rendered.name()
            );
        };
        let workload = workload(objects);
        let pod = &workload["spec"]["template"]["spec"];
        named("ServiceAccount", &pod["serviceAccountName"]);
        let mut volumes = names(&pod["volumes"]);
        for volume in pod["volumes"].as_array().unwrap().iter().filter(|v| v["configMap"].is_object()) {
            named("ConfigMap", &volume["configMap"]["name"]);
        }
        let claims = workload["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
        volumes.extend(claims.map(|claim| claim["metadata"]["name"].as_str().unwrap()));
        let container = container(objects);
        for mount in names(&container["volumeMounts"]) {
            assert!(volumes.contains(&mount), "{mount} in {}", rendered.name());
        }
        let ports = names(&container["ports"]);
        for service in of_kind(objects, "Service") {
            for port in service["spec"]["ports"].as_array().unwrap() {
                let target = port["targetPort"].as_str().unwrap();
                assert!(ports.contains(&target), "{target} in {}", rendered.name());
            }
        }
        if !workload["spec"]["serviceName"].is_null() {
            named("Service", &workload["spec"]["serviceName"]);
        }
        for scaler in objects.iter().filter(|object| !object["spec"]["scaleTargetRef"].is_null()) {
            let target = &scaler["spec"]["scaleTargetRef"];
            assert_eq!(
                (&target["kind"], &target["name"]),
                (&workload["kind"], &workload["metadata"]["name"])
            );
        }
        for budget in of_kind(objects, "PodDisruptionBudget").iter().chain(&of_kind(objects, "PodMonitor")) {
            assert_eq!(budget["spec"]["selector"], workload["spec"]["selector"], "{}", rendered.name());
        }
    }
}
