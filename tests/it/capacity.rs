//! Capacity follows the control group, and what cannot fit into its memory does not start.

use std::path::Path;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gate::gate;
use crate::harness::{Grpc, Http, Item, Metrics, Sink, Tollgate, eventually, spans};

const MIB: f64 = 1_048_576.0;

/// A folder that looks like the mounted control groups of a container, version 2.
fn tree(cpu_max: &str, memory_max: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
    limit(root.path(), cpu_max, memory_max);
    root
}

fn limit(root: &Path, cpu_max: &str, memory_max: &str) {
    std::fs::write(root.join("cpu.max"), cpu_max).unwrap();
    std::fs::write(root.join("memory.max"), memory_max).unwrap();
}

fn pool(metrics: &Metrics, name: &str) -> f64 {
    metrics.sum("tollgate_memory_pool_bytes", &[("pool", name)])
}

#[tokio::test]
async fn workers_and_memory_follow_the_control_group_without_a_restart() {
    let sink = Sink::start().await;
    let root = tree("100000 100000", "268435456");
    let argument = format!("--cgroup-root={}", root.path().display());
    let tollgate = Tollgate::with(&gate(&sink)).argument(&argument).start().await;
    let metrics = tollgate.metrics().await;
    assert_eq!(metrics.sum("tollgate_workers", &[]), 1.0);
    assert_eq!(metrics.sum("tollgate_cpu_limit", &[]), 1.0);
    assert_eq!(metrics.sum("tollgate_memory_limit_bytes", &[]), 256.0 * MIB);
    assert_eq!(pool(&metrics, "requests"), 64.0 * MIB);
    assert_eq!(metrics.sum("tollgate_exporter_queue_capacity_bytes", &[]), 128.0 * MIB);
    assert!(metrics.sum("tollgate_memory_pool_bytes", &[]) <= 256.0 * MIB);
    let told = tollgate.event("memory.pools").unwrap();
    assert_eq!(told["limit"], 268_435_456_u64, "{told}");
    assert!(told["pools"].as_str().unwrap().contains("queue/otlp_grpc="), "{told}");

    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("one worker")])).await.unwrap();
    sink.wait_for("traces", 1).await;

    let most = std::thread::available_parallelism().unwrap().get().min(2);
    limit(root.path(), "200000 100000", "134217728");
    let metrics = eventually("the new limits", || async {
        let metrics = tollgate.metrics().await;
        let workers = metrics.sum("tollgate_workers", &[]) == most as f64;
        (workers && metrics.sum("tollgate_memory_limit_bytes", &[]) == 128.0 * MIB).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.sum("tollgate_cpu_limit", &[]), 2.0);
    assert_eq!(pool(&metrics, "requests"), 32.0 * MIB);
    let queue = metrics.sum("tollgate_exporter_queue_capacity_bytes", &[]);
    assert!((50.0 * MIB..60.0 * MIB).contains(&queue), "{queue}");
    // The old connection goes on, new ones and the consumers use all workers.
    grpc.spans(spans(&[], &[Item::named("more")])).await.unwrap();
    for i in 0..4 {
        let another = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
        another.spans(spans(&[], &[Item::named(format!("{i}"))])).await.unwrap();
    }
    sink.wait_for("traces", 6).await;

    limit(root.path(), "50000 100000", "max");
    let metrics = eventually("one worker again", || async {
        let metrics = tollgate.metrics().await;
        (metrics.sum("tollgate_workers", &[]) == 1.0).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.sum("tollgate_cpu_limit", &[]), 0.5);
    assert!(metrics.sum("tollgate_memory_limit_bytes", &[]) > 256.0 * MIB);
    grpc.spans(spans(&[], &[Item::named("last")])).await.unwrap();
    sink.wait_for("traces", 7).await;
    // Consumers that moved are gone: as many as configured are left.
    eventually("ten consumers", || async {
        let (_, page) = tollgate.get("admin", "/debug/tasks").await;
        (page.matches("\"consumer\"").count() == 10).then_some(())
    })
    .await;
    tollgate.stop().await;
}

#[test]
fn what_cannot_fit_is_refused_with_every_pool_and_the_way_out() {
    let root = tree("max 100000", "134217728");
    let config = "yaml:receivers: { otlp: { protocols: { grpc: { endpoint: '127.0.0.1:0' } } } }
exporters: { otlp_grpc: { endpoint: 'http://127.0.0.1:1', sending_queue: { max_bytes: 200MiB } }, nop: }
service: { pipelines: { traces: { receivers: [otlp], exporters: [otlp_grpc, nop] } } }
";
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let output =
        command.arg("run").arg("--config").arg(config).arg("--cgroup-root").arg(root.path()).output();
    let output = output.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{told}");
    for part in [
        "the memory limit of 128MiB is too small",
        "program: 24MiB",
        "tenants (policies.max_dynamic_tenants): 7.8MiB",
        "queue of otlp_grpc (sending_queue.max_bytes, and 15 %): 230.0MiB",
        "raise the limit, or lower sending_queue.max_bytes",
    ] {
        assert!(told.contains(part), "no {part:?} in:\n{told}");
    }
}

#[tokio::test]
async fn requests_beyond_their_pool_are_refused_and_leave_nothing_behind() {
    let sink = Sink::start().await;
    let root = tree("max 100000", "67108864");
    let argument = format!("--cgroup-root={}", root.path().display());
    let tollgate = Tollgate::with(&gate(&sink)).argument(&argument).start().await;
    let requests = pool(&tollgate.metrics().await, "requests");
    assert!(requests < 12.0 * MIB, "{requests}");
    let address = tollgate.address("otlp/http").to_owned();
    // Larger than could ever be had: refused for good.
    assert!(told(&mut begin(&address, 6 << 20, 0).await).await.starts_with("HTTP/1.1 413 "));
    // Bodies that are begun and not ended hold what has arrived.
    let mut begun = Vec::new();
    for _ in 0..3 {
        begun.push(begin(&address, 3 << 20, (3 << 20) - 1).await);
    }
    eventually("the bodies to be held", || async {
        let held = tollgate.metrics().await.sum("tollgate_requests_held_bytes", &[]);
        (held == 9.0 * MIB - 3.0).then_some(())
    })
    .await;
    // Who comes when all is held is told to come back.
    let refused = told(&mut begin(&address, 3 << 20, 0).await).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: "), "{refused}");
    drop(begun);
    eventually("everything given back", || async {
        (tollgate.metrics().await.sum("tollgate_requests_held_bytes", &[]) == 0.0).then_some(())
    })
    .await;
    let http = Http::new(&address).tenant("acme");
    assert_eq!(http.protobuf("/v1/traces", &spans(&[], &[Item::named("fits")])).await.status(), 200);
    sink.wait_for("traces", 1).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

/// A POST of which so many bytes of the body are sent.
async fn begin(address: &str, length: usize, sent: usize) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![0; sent]).await.unwrap();
    socket
}

/// The head of the answer.
async fn told(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
