use serde_json::json;

use super::*;

fn grpc(json: serde_json::Value) -> OtlpGrpc {
    serde_json::from_value(json).unwrap()
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp { host: host.into(), port }
}

#[test]
fn endpoints_of_grpc_are_read_in_every_form() {
    let check = |text: &str, address: Address, tls: Option<bool>| {
        let expected = Endpoint { address, tls, path: String::new() };
        assert_eq!(Endpoint::grpc(text), Ok(expected), "{text}");
    };
    check("backend:4317", tcp("backend", 4317), None);
    check("backend", tcp("backend", 443), None);
    check("http://backend:4317", tcp("backend", 4317), Some(false));
    check("https://backend:4317/", tcp("backend", 4317), Some(true));
    check("HTTPS://backend", tcp("backend", 443), Some(true));
    check("dns:///backend:4317", tcp("backend", 4317), None);
    check("dns:backend:4317", tcp("backend", 4317), None);
    check("passthrough:///backend:4317", tcp("backend", 4317), None);
    check("[::1]:4317", tcp("::1", 4317), None);
    check("::1", tcp("::1", 443), None);
    check("unix:/run/otlp.sock", Address::Unix("/run/otlp.sock".into()), Some(false));
    check("unix:///run/otlp.sock", Address::Unix("/run/otlp.sock".into()), Some(false));
    check("unix:otlp.sock", Address::Unix("otlp.sock".into()), Some(false));
    let bad = |text: &str, expected: BadEndpoint| assert_eq!(Endpoint::grpc(text), Err(expected), "{text}");
    bad("", BadEndpoint::Empty("localhost:4317"));
    bad(":4317", BadEndpoint::NoHost);
    bad("backend:http", BadEndpoint::BadPort);
    bad("backend:0", BadEndpoint::BadPort);
    bad("dns://8.8.8.8/backend:4317", BadEndpoint::NameServer);
    bad("ftp://backend", BadEndpoint::Scheme);
    bad("https://user@backend", BadEndpoint::Character);
}

#[test]
fn endpoints_of_http_are_urls() {
    let check = |text: &str, address: Address, tls: bool, path: &str| {
        let expected = Endpoint { address, tls: Some(tls), path: path.into() };
        assert_eq!(Endpoint::http(text), Ok(expected), "{text}");
    };
    check("http://backend", tcp("backend", 80), false, "");
    check("https://backend/otlp", tcp("backend", 443), true, "/otlp");
    check("http://[::1]:4318/a?b=c", tcp("::1", 4318), false, "/a?b=c");
    assert_eq!(Endpoint::http("backend:4318"), Err(BadEndpoint::NotUrl));
    assert_eq!(Endpoint::http("http://backend/a b"), Err(BadEndpoint::Character));
}

#[test]
fn null_sections_are_defaults_and_null_keepalive_is_on() {
    let config = grpc(json!({
        "endpoint": "b:1", "tls": null, "headers": null, "retry_on_failure": null,
        "sending_queue": {"batch": null}, "keepalive": null,
    }));
    assert_eq!(config.keepalive, Some(Keepalive::default()));
    assert_eq!(config.sending_queue.batch, Some(Batching::default()));
    assert_eq!(config.check(), []);
    assert_eq!(grpc(json!({})).keepalive, None);
}

#[test]
fn headers_are_a_map_or_a_list_and_never_shown() {
    let map = grpc(json!({"headers": {"x-scope-orgid": "canary"}}));
    let list = grpc(json!({"headers": [{"name": "x-scope-orgid", "value": "canary"}]}));
    for config in [&map, &list] {
        let read: Vec<_> = config.headers.iter().map(|(n, v)| (n, v.reveal())).collect();
        assert_eq!(read, [("x-scope-orgid", "canary")]);
        let shown = format!("{config:?} {}", serde_json::to_string(config).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn other_compressions_are_refused_with_the_allowed_ones() {
    let check = |text: &str, expected: Option<Codec>| {
        assert_eq!(grpc(json!({"compression": text})).compression.codec(), expected, "{text}");
    };
    check("gzip", Some(Codec::Gzip));
    check("zstd", Some(Codec::Zstd));
    check("none", None);
    check("", None);
    let error = serde_json::from_value::<OtlpGrpc>(json!({"compression": "snappy"})).unwrap_err();
    assert!(error.to_string().contains("`gzip`, `zstd`, `none`"), "{error}");
}

#[test]
fn what_cannot_be_honoured_is_a_problem() {
    let check = |json: serde_json::Value, at: &str, text: &str| {
        let mut json = json;
        json["endpoint"] = "http://b:1".into();
        let found = serde_json::from_value::<OtlpHttp>(json.clone()).unwrap().check();
        let shown: Vec<_> = found.iter().map(|f| (f.at.as_str(), f.problem.to_string())).collect();
        assert_eq!(shown, [(at, text.to_owned())], "{json}");
    };
    check(json!({"proxy_url": "http://p"}), "proxy_url", "a proxy is not available in Tollgate");
    check(json!({"auth": {"authenticator": "a"}}), "auth", "authentication is not yet available in Tollgate");
    check(
        json!({"sending_queue": {"storage": "file_storage", "enabled": false}}),
        "sending_queue.storage",
        "there is no queue to keep on disk; write `enabled: true`, or leave `storage` out",
    );
    check(
        json!({"sending_queue": {"batch": {"partition": {"metadata_keys": ["t"]}}}}),
        "sending_queue.batch.partition.metadata_keys",
        "partitions are not yet available in Tollgate",
    );
    check(
        json!({"sending_queue": {"num_consumers": 0}}),
        "sending_queue.num_consumers",
        "0 is outside 1 to 1000",
    );
    check(
        json!({"sending_queue": {"batch": {"max_size": 5}}}),
        "sending_queue.batch.max_size",
        "max_size must be 0 or at least min_size",
    );
    check(
        json!({"retry_on_failure": {"max_elapsed_time": "20s"}}),
        "retry_on_failure.max_elapsed_time",
        "max_elapsed_time must be 0 or at least initial_interval and max_interval",
    );
    check(json!({"headers": {"Content-Type": "x"}}), "headers", "`Content-Type` cannot be set as a header");
    let header = |names: serde_json::Value| json!({"tenant_headers": names, "headers": {"x-team": "a"}});
    let cannot = "cannot be set as a header";
    check(header(json!(["x y"])), "tenant_headers[0]", &format!("`x y` {cannot}"));
    check(header(json!(["a", "TE"])), "tenant_headers[1]", &format!("`TE` {cannot}"));
    check(header(json!(["x-tenant-bin"])), "tenant_headers[0]", &format!("`x-tenant-bin` {cannot}"));
    let twice = "the header is set twice; leave one of them away";
    check(header(json!(["X-Team"])), "tenant_headers[0]", twice);
    check(header(json!(["x-a", "X-A"])), "tenant_headers[1]", twice);
    check(json!({"compression_params": {"level": 10}}), "compression_params.level", "10 is outside -1 to 9");
    check(
        json!({"traces_endpoint": "b:1"}),
        "traces_endpoint",
        "a URL is needed, http://host:port or https://host:port",
    );
}

#[test]
fn a_signal_endpoint_may_stand_alone() {
    let only = |json: serde_json::Value| serde_json::from_value::<OtlpHttp>(json).unwrap().check();
    assert_eq!(only(json!({"traces_endpoint": "http://b:1/t"})), []);
    assert_eq!(only(json!({})).len(), 1);
}

#[test]
fn a_file_needs_a_path_and_only_what_is_there() {
    let found = |json: serde_json::Value| {
        let found = serde_json::from_value::<File>(json).unwrap().check();
        found.into_iter().map(|f| f.at).collect::<Vec<_>>()
    };
    assert!(found(json!({"path": "a", "rotation": null})).is_empty());
    assert_eq!(found(json!({})), ["path"]);
    assert_eq!(
        found(json!({"path": "a", "append": true, "rotation": {"localtime": true}, "format": "proto"})),
        ["append", "rotation.localtime", "format"]
    );
}
