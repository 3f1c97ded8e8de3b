//! From the update of a ConfigMap at the API server to the revision the admin API names, and what the watch
//! weighs.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::api_server::ApiServer;
use crate::support::PATIENCE;
use crate::support::figures::{Bound, Figure, median, quantile};
use crate::support::tollgate::{Tollgate, policies_yaml};

const CHANGES: usize = 50;
/// What the median change may take.
const MEDIAN_MS: f64 = 1000.0;
/// Between two changes, so that each starts from rest.
const PAUSE: Duration = Duration::from_millis(50);
/// Until memory has settled after the start.
const REST: Duration = Duration::from_secs(2);
const PATH: &str = "/api/v1/namespaces/telemetry/configmaps/rules";

/// A collector of one pipeline that follows what is named here.
fn collector_yaml(extension: &str) -> String {
    format!(
        "receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: 127.0.0.1:0 }} }} }} }}
processors: {{ tenant: , sampling: }}
exporters: {{ nop: }}
extensions:
  admin: {{ endpoint: 127.0.0.1:0 }}
  policies: {extension}
service:
  extensions: [admin, policies]
  telemetry: {{ metrics: {{ level: none }} }}
  pipelines:
    traces: {{ receivers: [otlp], processors: [tenant, sampling], exporters: [nop] }}
"
    )
}

pub(crate) fn measure(runtime: &Runtime, binary: &Path) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mount = folder.path().join("policies.yaml");
    std::fs::write(&mount, policies_yaml("mount")).expect("a writable folder");
    let server = runtime.block_on(ApiServer::start());
    put(&server, "change-0");
    let kubeconfig = server.kubeconfig(folder.path(), "telemetry");
    let environment = [("KUBECONFIG", kubeconfig.to_str().expect("a path in UTF-8"))];
    let start = |extension: &str| {
        Tollgate::with_environment(binary, &collector_yaml(extension), &mount, &environment)
    };
    let without = start("{}");
    std::thread::sleep(REST);
    let resident = without.program.resident();
    drop(without);
    let tollgate = start("{ config_map: { name: rules, auth_type: kubeConfig } }");
    wait_for(&tollgate, "change-0");
    runtime.block_on(server.watched("configmaps"));
    std::thread::sleep(REST);
    let watching = tollgate.program.resident();
    let mut times: Vec<f64> = (1..=CHANGES).map(|number| change(&server, &tollgate, number)).collect();
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (median(&times), quantile(&times, 0.99));
    println!("{CHANGES} changes of a ConfigMap in force after {p50:.1} ms (median), {p99:.1} ms (p99)");
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (idle, added) = (mebibytes(resident), mebibytes(watching) - mebibytes(resident));
    println!("idle {idle:.1} MiB without the watch, {added:.1} MiB more with it");
    vec![Figure { name: "kubernetes.policies_median_ms".into(), value: p50, bound: Bound::AtMost(MEDIAN_MS) }]
}

fn put(server: &ApiServer, revision: &str) {
    server.put(PATH, json!({ "data": { "policies.yaml": policies_yaml(revision) } }));
}

fn wait_for(tollgate: &Tollgate, revision: &str) {
    if !tollgate.admin().wait_for_revision(revision, PATIENCE) {
        tollgate.program.fail(&format!("did not take {revision}"));
    }
}

/// Makes one change; returns the milliseconds until it is in force.
fn change(server: &ApiServer, tollgate: &Tollgate, number: usize) -> f64 {
    std::thread::sleep(PAUSE);
    let revision = format!("change-{number}");
    let start = Instant::now();
    put(server, &revision);
    wait_for(tollgate, &revision);
    start.elapsed().as_secs_f64() * 1000.0
}
