//! Values that cannot work are refused, and the message says what to do.

use serde_json::Value;

use super::{chart, template_of, with};

/// An extension of its own configuration, listening where it does by default.
const HEALTH: &str = "config.service.extensions[0]=health_check";

/// The complaint about a mode with settings.
fn refused(mode: &str, set: &[&str]) -> String {
    with(mode, set).expect_err(&format!("{mode} with {set:?} is not refused"))
}

#[test]
fn typos_are_refused_at_every_level() {
    for (set, told) in [
        ("replicas=3", "'replicas' not allowed"),
        ("image.repo=x", "'repo' not allowed"),
        ("ports.otlp.hostPorts=4317", "'hostPorts' not allowed"),
        ("ports.otpl.enabled=true", "missing property 'containerPort'"),
        ("resources.limit.memory=1Gi", "'limit' not allowed"),
        ("policies.lastGood.persistence.storageClass=fast", "'storageClass' not allowed"),
        ("policies.checksum=true", "'checksum' not allowed"),
        ("service.internalTrafficPolicy=local", "/service/internalTrafficPolicy"),
        ("livenessProbe.httpGet.prot=1", "'prot' not allowed"),
        ("autoscaling.targetCPU=70", "'targetCPU' not allowed"),
        ("presets.logCollection.enabled=false", "'logCollection' not allowed"),
        ("destination.protocol=http", "/destination/protocol"),
        ("destination.queueBytes=64MB", "/destination/queueBytes"),
        ("useGOMEMLIMIT=true", "'useGOMEMLIMIT' not allowed"),
        ("workers=many", "/workers"),
        ("policies.watch.name=x", "'name' not allowed"),
        ("presets.kubernetesAttributes.extractPodLabels=true", "'extractPodLabels' not allowed"),
        ("rbac.rules=x", "'rules' not allowed"),
        ("image.digest=sha256:abc", "/image/digest"),
    ] {
        let message = refused("deployment", &[set]);
        assert!(message.contains(told), "{set}: {message}");
    }
    let message = refused("daemonsets", &[]);
    assert!(message.contains("'daemonset', 'deployment', 'statefulset'"), "{message}");
}

#[test]
fn values_of_a_parent_chart_are_taken() {
    with("deployment", &["enabled=true", "global.clusterName=x"]).unwrap();
}

#[test]
fn what_cannot_work_is_refused_with_the_way_out() {
    let own = "config.receivers.otlp.protocols.grpc.endpoint=localhost:4317";
    for (mode, set, told) in [
        ("daemonset", &["presets.hostMetrics.enabled=true"][..], "no such preset yet"),
        ("daemonset", &["podDisruptionBudget.enabled=true"], "is for gateways"),
        ("daemonset", &["autoscaling.enabled=true"], "is for gateways"),
        ("daemonset", &["rollout.rollingUpdate.maxSurge=1"], "hostPort: 0"),
        ("daemonset", &["rollout.strategy=Recreate"], "RollingUpdate, OnDelete"),
        ("daemonset", &["serviceMonitor.enabled=true", "ports.metrics.enabled=true"], "podMonitor"),
        ("deployment", &["podMonitor.enabled=true"], "ports.metrics.enabled: true"),
        ("deployment", &["keda.enabled=true"], "keda.triggers"),
        ("deployment", &["keda.enabled=true", "autoscaling.enabled=true"], "enable one of the two"),
        ("deployment", &["configMap.create=false"], "configMap.existingName is needed"),
        ("deployment", &["configMap.existingName=x"], "configMap.create: false"),
        ("deployment", &["policies.configMap.existingName=x"], "policies.configMap.create: false"),
        ("deployment", &["policies.lastGood.persistence.enabled=true"], "mode statefulset"),
        ("deployment", &["destination.persistence.enabled=true"], "only its pods keep their volumes"),
        (
            "statefulset",
            &["destination.persistence.enabled=true", "destination.queueBytes=1GiB"],
            "set one of the two",
        ),
        (
            "statefulset",
            &["destination.persistence.enabled=true", "destination.persistence.maxSize=20GiB"],
            "maxSize (20GiB) must be less than size (20Gi)",
        ),
        (
            "daemonset",
            &["policies.watch.enabled=true", "policies.configMap.create=false"],
            "there is no ConfigMap to follow",
        ),
        (
            "daemonset",
            &["policies.watch.enabled=true", own],
            "`config_map: { name: gate-tollgate-agent-policies }`",
        ),
        ("daemonset", &["policies.watch.enabled=true", "serviceAccount.create=false"], "serviceAccount.name"),
        (
            "daemonset",
            &["presets.kubernetesAttributes.enabled=true", "serviceAccount.create=false"],
            "serviceAccount.name",
        ),
        ("daemonset", &["presets.kubernetesAttributes.enabled=true", own], "your config does not watch pods"),
        ("deployment", &["terminationGracePeriodSeconds=30"], "at least 32"),
        ("deployment", &["shutdownGraceSeconds=60", "terminationGracePeriodSeconds=60"], "at least 67"),
        (
            "deployment",
            &["ports.otlp.enabled=false", "ports.otlp-http.enabled=false"],
            "would receive nothing",
        ),
        ("deployment", &["readinessProbe.httpGet.port=8080"], "must be the same"),
        ("deployment", &[own], "health_check"),
        ("deployment", &[own, "config.extensions.health_check=null", HEALTH], "on the pod's address"),
        ("deployment", &[own, "destination.endpoint=x:1"], "write the exporter there"),
        (
            "deployment",
            &["autoscaling.enabled=true", "autoscaling.targetCPUUtilizationPercentage=0"],
            "no metric",
        ),
    ] {
        let message = refused(mode, set);
        assert!(message.contains(told), "{mode} {set:?}: {message}");
    }
    let message = template_of(&chart(), None, &["mode=deployment"]).unwrap_err();
    assert!(message.contains("image.repository is needed"), "{message}");
}

#[test]
fn older_kubernetes_is_refused() {
    let chart = chart();
    let arguments = ["template", chart.to_str().unwrap(), "--set=mode=daemonset", "--set", super::IMAGE];
    let on = |version: &str| super::helm(&[&arguments[..], &["--kube-version", version]].concat());
    on("1.30.0").unwrap();
    let message = on("1.29.9").unwrap_err();
    assert!(message.contains(">=1.30.0"), "{message}");
}

fn schema() -> Value {
    let text = std::fs::read_to_string(chart().join("values.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every object of the schema with its path.
fn walk<'a>(path: &str, schema: &'a Value, visit: &mut dyn FnMut(&str, &'a Value)) {
    visit(path, schema);
    let children = schema["properties"].as_object().into_iter().flatten();
    for (name, child) in children {
        walk(&format!("{path}.{name}"), child, visit);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            walk(&format!("{path}[]"), &schema[key], visit);
        }
    }
}

#[test]
fn the_schema_is_closed_or_says_why_it_is_open() {
    let schema = schema();
    let mut objects = 0;
    walk("", &schema, &mut |path, schema| {
        let types = schema["type"].to_string();
        if !types.contains("object") {
            return;
        }
        objects += 1;
        let closed = schema["additionalProperties"] == false || schema["propertyNames"].is_object();
        assert!(closed || schema["$comment"].is_string(), "{path} is open without a reason");
    });
    assert!(objects > 60, "{objects}");
}

#[test]
fn values_and_schema_name_the_same_keys() {
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let schema = schema();
    let mut schemas = 0;
    walk("", &schema, &mut |path, schema| {
        let Some(properties) = schema["properties"].as_object() else { return };
        // Entries of lists have no default, neither have the objects of others.
        if path.contains("[]") {
            return;
        }
        let here = path.split('.').skip(1).try_fold(&values, |value, key| value.get(key));
        let Some(Value::Object(here)) = here else { return };
        if here.is_empty() {
            return;
        }
        // What is only refused with an explanation need not be offered.
        let is_offered = |key: &str| {
            !properties[key]["$comment"].as_str().is_some_and(|comment| comment.contains("is refused"))
        };
        let known =
            properties.keys().filter(|key| (*key != "enabled" || !path.is_empty()) && is_offered(key));
        let known: Vec<_> = known.collect();
        let mut written: Vec<_> = here.keys().collect();
        let mut known = known;
        known.sort();
        written.sort();
        assert_eq!(known, written, "{path}");
        schemas += 1;
    });
    assert!(schemas > 25, "{schemas}");
}
