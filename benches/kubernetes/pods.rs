//! What knowing pods weighs, on a node and for a whole cluster, and what a look-up takes.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::config::KubeConfigOptions;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tollgate::config::Config;
use tollgate::internal_telemetry::Telemetry;
use tollgate::kubernetes::pods::{Pods, Sender, Settings};
use tollgate::tasks::Scope;
use tollgate::yaml::Source;

use crate::api_server::ApiServer;
use crate::support::figures::{Bound, Figure};
use crate::support::tollgate::{Tollgate, policies_yaml};

/// What a node has by default at most.
const ON_NODE: u32 = 110;
const IN_CLUSTER: u32 = 10_000;
const NAMESPACES: u32 = 100;
const LOOKUPS: u32 = 2_000_000;
/// Until memory has settled after the start.
const REST: Duration = Duration::from_secs(2);

fn collector_yaml(processors: &str, extension: &str) -> String {
    let (used, listed) = match extension {
        "" => ("tenant", "admin"),
        _ => ("k8s_attributes, tenant", "admin, pods"),
    };
    format!(
        "receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: 127.0.0.1:0 }} }} }} }}
processors: {{ tenant: , {processors} }}
exporters: {{ nop: }}
extensions:
  admin: {{ endpoint: 127.0.0.1:0 }}
  {extension}
service:
  extensions: [{listed}]
  telemetry: {{ metrics: {{ level: none }} }}
  pipelines:
    traces: {{ receivers: [otlp], processors: [{used}], exporters: [nop] }}
"
    )
}

fn extension(which: &str) -> String {
    format!("pods: {{ auth_type: kubeConfig, first_list_timeout: 5m, {which} }}")
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

/// A pod as clusters have them: about 6 KB, of which little is kept.
fn pod(number: u32, node: &str) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.com:5000/team/{name}:1.{}", number % 50),
            "env": (0..12).map(|n| json!({ "name": format!("VARIABLE_{n}"), "value": "a value of some length" })).collect::<Vec<_>>(),
            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
            "volumeMounts": [{ "name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }],
        })
    };
    json!({
        "metadata": {
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "app.kubernetes.io/name": format!("app-{}", number % 500), "pod-template-hash": "6d4cf56db6",
                "app.kubernetes.io/version": format!("1.{}", number % 50), "team": format!("team-{}", number % 40),
            },
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(2000) },
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:status": { "f:conditions": {} } } }],
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                "name": format!("app-{}-6d4cf56db6", number % 500), "uid": format!("00000000-0000-4000-9000-{number:012}"),
            }],
        },
        "spec": { "nodeName": node, "containers": [container("main"), container("sidecar")] },
        "status": {
            "phase": "Running", "startTime": "2026-01-01T00:00:10Z", "hostIP": "192.168.0.1",
            "podIP": address(number).to_string(), "podIPs": [{ "ip": address(number).to_string() }],
            "conditions": (0..4).map(|n| json!({ "type": format!("Condition{n}"), "status": "True" })).collect::<Vec<_>>(),
        },
    })
}

fn cluster() -> (Runtime, ApiServer) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    // As in a cluster: by TLS, with an authority of its own.
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .expect("a certificate with its key");
    let server = runtime.block_on(ApiServer::start_tls(Arc::new(tls), &own.cert.pem()));
    for number in 0..IN_CLUSTER {
        let node = if number < ON_NODE { "n0".to_owned() } else { format!("n{}", 1 + number / ON_NODE) };
        let path =
            format!("/api/v1/namespaces/ns-{}/pods/app-{number}-6d4cf56db6-x7x9z", number % NAMESPACES);
        server.put(&path, pod(number, &node));
    }
    for number in 0..NAMESPACES {
        let labels = json!({ "metadata": { "labels": { "tenant": format!("t{number}") } } });
        server.put(&format!("/api/v1/namespaces/ns-{number}"), labels);
    }
    (runtime, server)
}

pub(crate) fn measure(binary: &Path) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let policies = folder.path().join("policies.yaml");
    std::fs::write(&policies, policies_yaml("pods")).expect("a writable folder");
    let (_threads, server) = cluster();
    let kubeconfig = server.kubeconfig(folder.path(), "default");
    let environment = [("KUBECONFIG", kubeconfig.to_str().expect("a path in UTF-8"))];
    let labels = "k8s_attributes: { extract: { labels: [
        { key: app.kubernetes.io/version }, { key: tenant, from: namespace } ] } }";
    let resident = |processors: &str, extension: &str| {
        let config = collector_yaml(processors, extension);
        let tollgate = Tollgate::with_environment(binary, &config, &policies, &environment);
        std::thread::sleep(REST);
        tollgate.program.resident() as f64 / f64::from(1 << 20)
    };
    let none = resident("", "");
    let nobody = resident(labels, &extension("filter: { node: nowhere }"));
    let node = resident(labels, &extension("filter: { node: n0 }"));
    let whole = resident(labels, &extension("cluster_wide: true"));
    println!(
        "idle {none:.1} MiB; {nobody:.1} MiB with a watch of a node without pods, {node:.1} MiB with {ON_NODE} pods, \
         {whole:.1} MiB with {IN_CLUSTER} pods"
    );
    let (found, unknown) = lookups(&kubeconfig);
    println!("a look-up among {IN_CLUSTER} pods takes {found:.0} ns, of an unknown address {unknown:.0} ns");
    let at_most = |name: &str, value: f64, bound: f64| Figure {
        name: format!("kubernetes.{name}"),
        value,
        bound: Bound::AtMost(bound),
    };
    vec![
        at_most("pods_110_over_no_pods_mib", node - nobody, 4.0),
        at_most("pods_110_over_no_watch_mib", node - none, 4.0),
        // What kube's own reflector of metadata takes is 99 MiB, of whole pods 297.
        at_most("pods_10000_resident_mib", whole, 40.0),
        at_most("pod_lookup_ns", found.max(unknown), 1000.0),
    ]
}

/// Nanoseconds of a look-up of a known and of an unknown address.
fn lookups(kubeconfig: &Path) -> (f64, f64) {
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let text = collector_yaml("k8s_attributes:", &extension("cluster_wide: true, newcomer_grace: 0s"));
    let (config, _) =
        Config::parse(&[Source::new("bench", text)], &[], &|_| None).expect("a good configuration");
    let settings = Settings::of(&config).expect("pods are watched");
    let (pods, scope) = (Pods::new(&Telemetry::detached()), Scope::root("bench"));
    own.block_on(async {
        let file = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let client = kube::Client::try_from(config.expect("a configuration")).expect("a client");
        pods.follow_by(client, settings, &scope).await.expect("a watch");
        assert!(pods.first_list().await, "the pods are listed");
    });
    let time = |first: u32| {
        let start = Instant::now();
        for number in 0..LOOKUPS {
            // A stride that visits all addresses and defeats caches.
            let at = address(first + number.wrapping_mul(7919) % IN_CLUSTER);
            let is_known = matches!(black_box(pods.identify(Some(at))), Sender::Pod(_));
            assert_eq!(is_known, first == 0);
        }
        start.elapsed().as_nanos() as f64 / f64::from(LOOKUPS)
    };
    let taken = (time(0), time(1 << 20));
    own.block_on(scope.close(Instant::now() + REST));
    taken
}
