//! The real program as a child process; when a test fails, its config, log and metrics are printed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::{Metrics, eventually};

/// A running `tollgate run`.
pub struct Tollgate {
    child: Option<Child>,
    pub addresses: HashMap<String, String>,
    log: Arc<Mutex<Vec<serde_json::Value>>>,
    config: String,
    pub dir: tempfile::TempDir,
    last_metrics: Mutex<Option<Metrics>>,
}

/// How it ended.
pub struct Ended {
    pub log: Vec<serde_json::Value>,
}

/// What to start.
pub struct Start {
    config: String,
    policies: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    keep_readers: bool,
    wrapper: Vec<String>,
    dir: tempfile::TempDir,
}

/// Everything on ports of the system's choice.
pub const EPHEMERAL: &str = "
receivers:
  otlp:
    protocols:
      grpc: { endpoint: 127.0.0.1:0 }
      http: { endpoint: 127.0.0.1:0 }
";

/// A metrics endpoint on a port of the system's choice.
const READERS: &str = "[{pull: {exporter: {prometheus: {host: 127.0.0.1, port: 0}}}}]";

impl Start {
    /// Uses a policies file with this text, at `policies/policies.yaml` below the folder of the process.
    pub fn policies(mut self, text: &str) -> Self {
        self.policies = Some(text.to_owned());
        self
    }

    /// Names no policies file on the command line.
    pub fn without_policies(mut self) -> Self {
        self.policies = None;
        self
    }

    /// Adds a command line argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sets an environment variable.
    pub fn environment(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Takes the configuration's own readers of metrics; the test sees to a free port.
    pub fn keep_readers(mut self) -> Self {
        self.keep_readers = true;
        self
    }

    /// Starts the program by a command that ends in executing its arguments.
    pub fn by(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the program and waits for its `ready` event.
    pub async fn start(self) -> Tollgate {
        let config = self.dir.path().join("collector.yaml");
        std::fs::write(&config, &self.config).unwrap();
        let words = self.wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_tollgate")]);
        let words: Vec<&str> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("run").arg("--config").arg(&config).arg("--log-format=json");
        command.arg("--set=extensions.admin.endpoint=127.0.0.1:0");
        if !self.keep_readers {
            command.arg(format!("--set=service.telemetry.metrics.readers={READERS}"));
        }
        if let Some(policies) = &self.policies {
            let path = self.dir.path().join("policies/policies.yaml");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, policies).unwrap();
            command.arg("--policies").arg(&path);
        }
        command.args(&self.arguments).envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(serde_json::Value::String(line));
                lines.lock().unwrap().push(line);
            }
        });
        let mut tollgate = Tollgate {
            child: Some(child),
            addresses: HashMap::new(),
            log,
            config: self.config,
            dir: self.dir,
            last_metrics: Mutex::default(),
        };
        tollgate.wait_until_ready().await;
        tollgate
    }
}

impl Tollgate {
    /// A configuration; `{otlp}` stands for an otlp receiver on ports of the system's choice.
    pub fn with(config: &str) -> Start {
        Start {
            config: config.replace("{otlp}", EPHEMERAL),
            policies: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            keep_readers: false,
            wrapper: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    async fn wait_until_ready(&mut self) {
        let addresses = eventually("the ready event", || async {
            let ended = self.child_has_ended();
            assert!(!ended, "tollgate ended before it was ready");
            self.event("ready").and_then(|event| event["addresses"].as_str().map(str::to_owned))
        })
        .await;
        self.addresses = addresses
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, address)| (name.to_owned(), address.to_owned()))
            .collect();
    }

    fn child_has_ended(&self) -> bool {
        let pid = self.pid();
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = state.rsplit(") ").next().unwrap_or("").chars().next();
        matches!(state, None | Some('Z'))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The address announced under this name, for example `otlp/grpc`.
    pub fn address(&self, name: &str) -> &str {
        self.addresses.get(name).unwrap_or_else(|| panic!("no address {name}: {:?}", self.addresses))
    }

    /// The first log line with this event name, as its fields.
    pub fn event(&self, name: &str) -> Option<serde_json::Value> {
        let log = self.log.lock().unwrap();
        log.iter().find(|line| line["event"] == name).cloned()
    }

    /// How many log lines have this event name so far.
    pub fn events(&self, name: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line["event"] == name).count()
    }

    /// All log lines so far.
    pub fn log(&self) -> Vec<serde_json::Value> {
        self.log.lock().unwrap().clone()
    }

    /// The policies file, if one was given.
    pub fn policies_path(&self) -> PathBuf {
        self.dir.path().join("policies/policies.yaml")
    }

    /// GET over plain HTTP/1.1; status and body.
    pub async fn get(&self, name: &str, path: &str) -> (u16, String) {
        get(self.address(name), path).await
    }

    /// Scrapes the metrics.
    pub async fn metrics(&self) -> Metrics {
        let (status, text) = self.get("metrics", "/metrics").await;
        assert_eq!(status, 200, "{text}");
        let metrics = Metrics { text };
        *self.last_metrics.lock().unwrap() = Some(metrics.clone());
        metrics
    }

    /// Waits until the queues are empty and the books balance.
    pub async fn settled(&self) -> Metrics {
        eventually("empty queues and balanced books", || async {
            let metrics = self.metrics().await;
            let queued = metrics.sum("tollgate_queued_items", &[]);
            (queued == 0.0 && metrics.unbalanced().is_empty()).then_some(metrics)
        })
        .await
    }

    /// Sends a signal, such as `TERM` or `HUP`.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// SIGKILL; waits for the end.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that was ever resident, in bytes.
    pub fn peak_resident(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// SIGTERM; waits for the end and checks what every test wants: exit code 0, the conservation law,
    /// no task left, nothing abandoned.
    pub async fn stop(self) -> Ended {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits for the end of a program that was told to stop.
    pub async fn ended(mut self) -> Ended {
        let status = eventually("the end of the process", || {
            let status = self.child.as_mut().unwrap().try_wait().unwrap();
            async move { status }
        })
        .await;
        let ended = eventually("the stopped event", || async { self.event("stopped") }).await;
        assert_eq!(status.code(), Some(0), "{ended}");
        assert_eq!(ended["balanced"], true, "{ended}");
        assert_eq!(ended["abandoned"], 0, "{ended}");
        assert_eq!(ended["tasks_alive"], 0, "{ended}");
        assert_eq!(
            ended["left"], "",
            "descriptors, connections, requests and queues are back at none: {ended}"
        );
        assert_eq!(self.events("task.overdue"), 0, "no task outlived its scope");
        self.child = None;
        Ended { log: self.log() }
    }
}

impl Drop for Tollgate {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- configuration\n{}", self.config);
            let log = self.log.lock().unwrap();
            eprintln!("--- last log lines");
            log.iter().skip(log.len().saturating_sub(40)).for_each(|line| eprintln!("{line}"));
            if let Some(metrics) = &*self.last_metrics.lock().unwrap() {
                eprintln!("--- last metrics");
                metrics.text.lines().filter(|l| !l.starts_with('#')).for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// GET over plain HTTP/1.1; status and body.
pub async fn get(address: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, dechunk(head, body))
}

fn dechunk(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut text) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    text
}
