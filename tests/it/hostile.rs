//! Senders that mean no good: they get refusals, others notice nothing, and nothing stays behind.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::gate::gate;
use crate::harness::{Answer, Grpc, Http, Item, Sink, Tollgate, eventually, spans};

fn descriptors(tollgate: &Tollgate) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", tollgate.pid())).unwrap().count()
}

#[tokio::test]
async fn connections_that_broke_off_leave_no_task_and_no_descriptor() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    sink.wait_for("traces", 1).await;
    tollgate.settled().await;
    drop(grpc);
    let quiet = async || {
        let metrics = tollgate.metrics().await;
        (metrics.sum("tollgate_receiver_connections", &[]) == 0.0)
            .then(|| (metrics.sum("tollgate_tasks_alive", &[]), descriptors(&tollgate)))
    };
    let (tasks, fds) = eventually("no connection", &quiet).await;
    let begun: [&[u8]; 4] = [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03garbage",
    ];
    for round in 0..50 {
        for bytes in begun {
            for address in ["otlp/grpc", "otlp/http"] {
                let mut socket = TcpStream::connect(tollgate.address(address)).unwrap();
                socket.write_all(bytes).unwrap();
                if round % 2 == 0 {
                    socket.shutdown(std::net::Shutdown::Write).unwrap();
                }
            }
        }
    }
    eventually("the tasks and descriptors of before", || async {
        let (tasks_now, fds_now) = quiet().await?;
        (tasks_now <= tasks && fds_now <= fds).then_some(())
    })
    .await;
    tollgate.stop().await;
}

#[tokio::test]
async fn clients_that_never_finish_do_not_hold_up_the_end() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).argument("--shutdown-grace=1h").start().await;
    let mut held = Vec::new();
    for bytes in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], b"GET /", b""] {
        for name in ["otlp/grpc", "otlp/http", "metrics", "health_check", "admin"] {
            let mut socket = TcpStream::connect(tollgate.address(name)).unwrap();
            socket.write_all(bytes).unwrap();
            held.push(socket);
        }
    }
    let ended = tollgate.stop().await;
    let stopped = ended.log.iter().find(|line| line["event"] == "stopped").unwrap();
    assert_eq!(stopped["tasks_aborted"], 0, "{stopped}");
    for mut socket in held {
        let _closed = socket.read_to_end(&mut Vec::new());
    }
}

#[tokio::test]
async fn tenants_without_end_and_with_hostile_names_leave_the_metrics_readable() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let claims = |names: Vec<String>| {
        let mut request = spans(&[], &[]);
        request.resource_spans = names
            .iter()
            .flat_map(|n| spans(&[("tenant.id", n)], &[Item::named("x")]).resource_spans)
            .collect();
        request
    };
    for hundred in 0..20 {
        let request = claims((0..100).map(|i| format!("tenant-{hundred}-{i}")).collect());
        eventually("room in the queue", || async { grpc.spans(request.clone()).await.ok() }).await;
    }
    let hostile = ["a\"} 1\nx{b=\"", "a\\", "../..", "\u{0}", " ", "{}", "é", "_overflow"];
    let mut hostile: Vec<String> = hostile.iter().map(|name| (*name).to_owned()).collect();
    hostile.push("x".repeat(100_000));
    let count = hostile.len();
    grpc.spans(claims(hostile)).await.unwrap();
    let http = Http::new(tollgate.address("otlp/http")).tenant("a\"}{");
    assert_eq!(http.protobuf("/v1/traces", &spans(&[], &[Item::named("x")])).await.status(), 200);
    sink.wait_for("traces", 2000 + count + 1).await;
    let metrics = tollgate.metrics().await;
    assert_eq!(metrics.sum("tollgate_received_items_total", &[]), (2000 + count + 1) as f64);
    assert!(metrics.sum("tollgate_received_items_total", &[("tenant", "_overflow")]) >= 1000.0);
    let series = metrics.text.lines().filter(|line| line.starts_with("tollgate_received_items_total{"));
    assert!(series.count() <= 1001);
    for line in metrics.text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
    }
    tollgate.stop().await;
}

#[tokio::test]
async fn secrets_are_in_no_log_and_on_no_page_whatever_fails() {
    let (sink, own) = (Sink::start().await, Sink::start().await);
    sink.answer(Answer::Invalid);
    own.answer(Answer::Invalid);
    let exporter = "exporters: {
  otlp_http: { endpoint: '{sink}', headers: { authorization: CANARY-1 }, retry_on_failure: { enabled: false } },
  otlp_grpc: { endpoint: '{grpc}', tls: { insecure: true }, headers: [{ name: x-key, value: CANARY-2 }], retry_on_failure: { enabled: false } } }
";
    let exporter = exporter.replace("{sink}", &sink.url()).replace("{grpc}", &sink.address().to_string());
    let config = format!(
        "{{otlp}}
processors: {{ tenant: , attributes: {{ actions: [{{ key: k, action: upsert, from_context: metadata.authorization }}] }} }}
{exporter}
extensions: {{ admin: }}
service:
  extensions: [admin]
  telemetry:
    logs: {{ level: debug }}
    metrics:
      readers:
        - pull: {{ exporter: {{ prometheus: {{ host: 127.0.0.1, port: 0 }} }} }}
        - periodic: {{ interval: 100, exporter: {{ otlp: {{ endpoint: '{}', headers: [{{ name: x-key, value: '${{env:OWN_KEY}}' }}] }} }} }}
  pipelines:
    traces: {{ receivers: [otlp], processors: [tenant, attributes], exporters: [otlp_http, otlp_grpc] }}
",
        own.url()
    );
    let tollgate = Tollgate::with(&config).keep_readers().environment("OWN_KEY", "CANARY-3").start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.header("authorization", "CANARY-4");
    grpc.spans(spans(&[], &[Item::named("CANARY-5").attribute("k", "CANARY-6")])).await.unwrap();
    let http = Http::new(tollgate.address("otlp/http")).header("authorization", "CANARY-7");
    http.post("/v1/traces", "application/json", "{\"resourceSpans\": \"CANARY-8\"}").await;
    http.post("/v1/traces?key=CANARY-9", "text/plain", "CANARY-10").await;
    eventually("every failure", || async {
        let told = ["exporter.send_failed", "telemetry.push_failed", "request.refused"];
        told.iter().all(|event| tollgate.events(event) > 0).then_some(())
    })
    .await;
    std::fs::write(
        tollgate.dir.path().join("collector.yaml"),
        config.replace("admin: }", "admin: { x: CANARY-11 } }"),
    )
    .unwrap();
    tollgate.signal("HUP");
    eventually("the refusal", || async { tollgate.event("config.refused") }).await;
    let mut told = format!("{:?}{}", tollgate.log(), tollgate.metrics().await.text);
    for page in
        ["/", "/v1/tenants", "/v1/revisions", "/debug/tasks", "/v1/policies/effective?tenant=unattributed"]
    {
        told += &tollgate.get("admin", page).await.1;
    }
    let found: Vec<_> =
        told.match_indices("CANARY").map(|(at, _)| &told[at.saturating_sub(200)..at + 20]).collect();
    assert!(found.is_empty(), "{found:#?}");
    tollgate.settled().await;
    tollgate.stop().await;
}
