//! Tollgate itself, the release binary, as a measured process. All that these benchmarks know about its
//! command line, its files, its `ready` event and its admin API is in this file.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use super::http2::FRAME;
use super::program::Program;

/// Where the exporter sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Destination {
    /// To a sink.
    Sink(SocketAddr),
    /// To a port where nobody listens: everything stays in the queue.
    Nowhere,
}

/// How one is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// The program.
    pub(crate) binary: &'a Path,
    /// Where it sends.
    pub(crate) destination: Destination,
    /// The policies file it watches.
    pub(crate) policies: &'a Path,
}

/// The program as this build made it.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tollgate");

/// A running Tollgate with its files.
pub(crate) struct Tollgate {
    pub(crate) program: Program,
    /// Where it takes OTLP/gRPC.
    pub(crate) otlp: SocketAddr,
    admin: SocketAddr,
    _folders: Vec<tempfile::TempDir>,
}

impl Tollgate {
    /// Starts one on one worker thread, because that is what the relays it is compared with have.
    pub(crate) fn start(setup: Setup<'_>) -> Self {
        Self::with_config(setup.binary, &collector_yaml(setup.destination), setup.policies)
    }

    /// As [`Tollgate::start`], for senders that prove themselves by [`KEY`] and are told apart, limited and
    /// served in turns by the tenant they name.
    pub(crate) fn start_with_tenancy(setup: Setup<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a writable temporary folder");
            path
        };
        let keys = file("api-keys", format!("gateway: {KEY_SHA256}\n"));
        let policies = file("policies.yaml", policies_yaml("tenancy").replace(ANYBODY, PROVEN) + TENANCY);
        let config = collector_yaml(setup.destination)
            .replace("extensions:\n", &format!("extensions:\n  api_keys: {{ file: '{}' }}\n", keys.display()))
            .replace("extensions: [admin]", "extensions: [admin, api_keys]");
        let mut tollgate = Self::with_config(setup.binary, &config, &policies);
        tollgate._folders.push(folder);
        tollgate
    }

    /// Starts one on one worker thread with a configuration that has a receiver `otlp` and the admin API.
    pub(crate) fn with_config(binary: &Path, config_text: &str, policies: &Path) -> Self {
        Self::with_environment(binary, config_text, policies, &[])
    }

    /// The same, with variables in its environment.
    pub(crate) fn with_environment(
        binary: &Path,
        config_text: &str,
        policies: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        let more = ["--workers=1".into(), "--policies".into(), policies.into()];
        Self::by((&[binary.into()], environment), config_text, &more)
    }

    /// Starts one by a command that ends in the program, with variables in its environment and more arguments.
    pub(crate) fn by(
        (command, environment): (&[OsString], &[(&str, &str)]),
        config_text: &str,
        more: &[OsString],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("collector.yaml");
        std::fs::write(&config, config_text).expect("a writable temporary folder");
        let words = ["run", "--log-format=json", "--config"].map(OsString::from);
        let arguments = [&command[1..], &words, &[config.into()], more].concat();
        let mut program = Program::guarded("tollgate", Path::new(&command[0]), &arguments, environment);
        let addresses = announced_addresses(&mut program);
        let address = |name: &str| match addresses.iter().find(|(known, _)| known == name) {
            Some((_, address)) => *address,
            None => program.fail(&format!("announced no address of {name}: {addresses:?}")),
        };
        let (otlp, admin) = (address("otlp/grpc"), address("admin"));
        Self { program, otlp, admin, _folders: vec![folder] }
    }

    /// A connection to the admin API.
    pub(crate) fn admin(&self) -> Admin {
        Admin::connect(self.admin)
    }
}

/// What the event `ready` announces, the one line in which all bound addresses are named:
/// `{"event":"ready","addresses":"otlp/grpc=127.0.0.1:4317 admin=127.0.0.1:55679",…}`.
fn announced_addresses(program: &mut Program) -> Vec<(String, SocketAddr)> {
    loop {
        let line = program.next_line();
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["event"] == "ready" {
            let pairs = event["addresses"].as_str().unwrap_or_default().split_whitespace();
            let pairs = pairs.filter_map(|pair| pair.split_once('='));
            return pairs.filter_map(|(name, address)| Some((name.into(), address.parse().ok()?))).collect();
        }
    }
}

/// Tenant tagging and sampling on, uncompressed, merged into requests of 1000 spans, the size that costs least.
///
/// The queue makes the client wait when it is full, so that a closed loop is slowed down and not refused, and
/// is small against what a run sends, so that what is measured is the flow and not the filling of a queue.
fn collector_yaml(destination: Destination) -> String {
    let (endpoint, queue_bytes) = match destination {
        Destination::Sink(address) => (address, 32 << 20),
        Destination::Nowhere => (closed_port(), 1 << 30),
    };
    format!(
        r"receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: 127.0.0.1:0, max_recv_msg_size_mib: 16, http2: {{ max_frame_size: {FRAME} }} }}
processors:
  tenant:
  sampling:
exporters:
  otlp_grpc:
    endpoint: http://{endpoint}
    compression: none
    tls: {{ insecure: true }}
    retry_on_failure: {{ max_elapsed_time: 0s }}
    sending_queue:
      sizer: bytes
      queue_size: {queue_bytes}
      max_bytes: {queue_bytes}
      block_on_overflow: true
      batch: {{ flush_timeout: 100ms, sizer: items, min_size: 1000, max_size: 1000 }}
extensions:
  admin: {{ endpoint: 127.0.0.1:0 }}
service:
  extensions: [admin]
  telemetry:
    metrics:
      readers:
        - pull: {{ exporter: {{ prometheus: {{ host: 127.0.0.1, port: 0 }} }} }}
  pipelines:
    traces: {{ receivers: [otlp], processors: [tenant, sampling], exporters: [otlp_grpc] }}
"
    )
}

/// The key of [`Tollgate::start_with_tenancy`] and its SHA-256.
pub(crate) const KEY: &str = "relay-key";
const KEY_SHA256: &str = "f03f5ae3ec5478bc0baf12a049cba5844090fc9b751a19b3a0e3e2113cbb1cc5";

/// Who is believed what it claims, without and with tenancy.
const ANYBODY: &str = "  anonymous: tenant:unattributed\n";
const PROVEN: &str = "  anonymous: refuse
  authenticate: [{ api_key: { verifier: api_keys } }]
  principals: [{ principal: gateway, may_assert: [\"*\"] }]
";

/// Tenants of a tier, with limits that nobody reaches and every request is charged to.
const TENANCY: &str = "
tiers:
  standard:
    limits:
      requests_per_second: 1e9
      bytes_per_second: 1TiB
      spans_per_second: 1e9
      kept_spans_per_second: 1e9
      max_in_flight_bytes: 1GiB
      max_model_versions: 20
    queue: { weight: 2, max_share: 0.9 }
tenants:
  \"tenant-*\": { tier: standard }
";

/// The port of a socket that is closed again: connections to it are refused.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    listener.local_addr().expect("a bound socket has an address")
}

/// Policies with a rule that reads status and duration of every span and keeps them all in the end: the
/// bytes that leave are the same for whatever is compared.
pub(crate) fn policies_yaml(revision: &str) -> String {
    format!(
        r#"version: 1
revision: "{revision}"
identity:
  claims: [{{ header: x-scope-orgid }}]
  anonymous: tenant:unattributed
defaults:
  sampling: {{ rate: 100% }}
rules:
  - name: keep-errors-and-slow
    scope: span
    match: {{ any: [{{ status: error }}, {{ duration: {{ gt: 2s }} }}] }}
    keep: true
"#
    )
}

/// A folder with one policies file, as Kubernetes mounts a ConfigMap: the file is a link through `..data`,
/// which is a link to the folder of the day and is swapped in one step.
///
/// ```text
/// policies.yaml ─▶ ..data/policies.yaml      ..data ─▶ ..revision-7      ..revision-7/policies.yaml
/// ```
pub(crate) struct ConfigMap {
    folder: tempfile::TempDir,
}

impl ConfigMap {
    const FILE: &str = "policies.yaml";

    /// Mounts one that holds [`policies_yaml`] of `revision`.
    pub(crate) fn mount(revision: &str) -> Self {
        let map = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        map.prepare(revision);
        map.swap();
        std::os::unix::fs::symlink(Path::new("..data").join(Self::FILE), map.file()).expect("a new link");
        map
    }

    /// The path a program is given.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join(Self::FILE)
    }

    /// Writes what [`ConfigMap::swap`] puts in force.
    pub(crate) fn prepare(&self, revision: &str) {
        let name = format!("..{revision}");
        let folder = self.folder.path().join(&name);
        std::fs::create_dir(&folder).expect("a revision is mounted once");
        std::fs::write(folder.join(Self::FILE), policies_yaml(revision)).expect("a writable folder");
        std::os::unix::fs::symlink(&name, self.folder.path().join("..data_tmp")).expect("a new link");
    }

    /// Swaps the folders, the only step a reader can see.
    pub(crate) fn swap(&self) {
        let folder = self.folder.path();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a prepared revision");
    }
}

/// The admin API over one kept connection.
pub(crate) struct Admin {
    address: SocketAddr,
    stream: TcpStream,
}

impl Admin {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the admin API accepts connections");
        stream.set_nodelay(true).expect("a connected socket takes options");
        stream.set_read_timeout(Some(PATIENCE)).expect("a connected socket takes options");
        Self { address, stream }
    }

    /// The revision in force, as named in its file.
    pub(crate) fn active_revision(&mut self) -> Option<String> {
        let revisions = self.get("/v1/revisions");
        let revisions: Value = serde_json::from_slice(&revisions).expect("the admin API speaks JSON");
        revisions.pointer("/in_force/revision").and_then(Value::as_str).map(str::to_owned)
    }

    /// How many workers there are.
    pub(crate) fn workers(&mut self) -> Option<u64> {
        let tasks: Value = serde_json::from_slice(&self.get("/debug/tasks")).ok()?;
        tasks["workers"].as_u64()
    }

    /// Waits until `revision` is in force; false if that does not happen within `patience`.
    pub(crate) fn wait_for_revision(&mut self, revision: &str, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        while self.active_revision().as_deref() != Some(revision) {
            if tokio::time::Instant::now() > deadline {
                return false;
            }
            // Fine against the bound of 250 ms, coarse against the cost of a question.
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// One GET of HTTP/1.1 whose answer has a length.
    fn get(&mut self, path: &str) -> Vec<u8> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        self.stream.write_all(request.as_bytes()).expect("the admin API reads");
        let mut answer = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some((head, body)) = split_head(&answer)
                && body.len() >= content_length(head)
            {
                return body.to_vec();
            }
            match self.stream.read(&mut buffer) {
                Ok(length @ 1..) => answer.extend_from_slice(&buffer[..length]),
                end => panic!("{path}: the admin API stopped answering: {end:?}"),
            }
        }
    }
}

fn split_head(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]))
}

fn content_length(head: &str) -> usize {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}
