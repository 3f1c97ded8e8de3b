//! The image, built by buildah from the Containerfile that users build, except that the binary was built outside:
//! base images need a registry. It is the profile `image`, larger than a release and otherwise the same.
//!
//! Not here: the stage `compiled`, other architectures, registries.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::{Value, json};

use crate::harness::eventually;

/// What an image may have on disk.
const MAX_BYTES: u64 = 40_000_000;
const SBOM: &str = "usr/share/sbom/tollgate.cdx.json";
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The standard output of a command that must succeed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: run ./test once"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn folder() -> PathBuf {
    root().join("target/image-test")
}

/// Buildah with a store of its own below `target/`.
fn buildah(arguments: &[&str]) -> Command {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs", "--root"]).arg(folder().join("store"));
    command.arg("--runroot").arg(folder().join("run")).args(arguments);
    command
}

/// Lays out the root and builds the image; returns the root.
fn build(name: &str) -> PathBuf {
    let binary = root().join("target/image/tollgate");
    assert!(binary.exists(), "{} is missing: run ./test, which builds it", binary.display());
    let laid_out = folder().join(name);
    output(Command::new(root().join("image/layout")).args([&binary, &laid_out]));
    let tag = format!("localhost/tollgate:{name}");
    let build =
        ["build", "--isolation", "chroot", "--timestamp", "0", "--build-arg", "BINARY=given", "--tag"];
    output(buildah(&build).args([&tag, "--file"]).arg(root().join("Containerfile")).arg(&laid_out));
    laid_out
}

/// The image `localhost/tollgate:one` and the root it was built from; built once.
fn image() -> &'static Path {
    static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Err(error) = std::fs::remove_dir_all(folder()) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}: {error}", folder().display());
        }
        std::fs::create_dir_all(folder()).unwrap();
        build("one")
    });
    &IMAGE
}

fn inspect(name: &str) -> Value {
    let tag = format!("localhost/tollgate:{name}");
    serde_json::from_str(&output(&mut buildah(&["inspect", "--type", "image", &tag]))).unwrap()
}

/// A container of the image; removed at the end.
struct Container(String);

impl Container {
    fn create() -> Self {
        image();
        Self(output(&mut buildah(&["from", "localhost/tollgate:one"])).trim().to_owned())
    }

    /// The image's program with arguments; files are mounted read-only.
    fn tollgate(&self, mounts: &[(&Path, &str)], arguments: &[&str]) -> Command {
        let mut command = buildah(&["run", "--isolation", "chroot"]);
        for (from, to) in mounts {
            command.arg("--volume").arg(format!("{}:{to}:ro", from.display()));
        }
        command.args([&self.0, "--", "/tollgate"]).args(arguments);
        command
    }

    /// Everything in its root file system but kernel files, as `path mode uid:gid size`.
    fn files(&self) -> Vec<String> {
        let mounted = output(&mut buildah(&["mount", &self.0]));
        let mut find = Command::new("find");
        find.current_dir(mounted.trim()).args(["-mindepth", "1", "-printf", "%P %m %U:%G %s\n"]);
        let mut files: Vec<_> = output(&mut find).lines().map(str::to_owned).collect();
        output(&mut buildah(&["umount", &self.0]));
        files.sort();
        files
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = buildah(&["rm", &self.0]).output();
    }
}

#[test]
fn the_image_says_what_it_is_and_how_it_runs() {
    image();
    let image = inspect("one");
    let config = &image["OCIv1"]["config"];
    let values: Value = serde_saphyr::from_str(&read("charts/tollgate/values.yaml")).unwrap();
    let pod = &values["podSecurityContext"];
    assert_eq!(config["User"], format!("{}:{}", pod["runAsUser"], pod["runAsGroup"]));
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/tollgate"]));
    assert_eq!(config["Cmd"], json!(["run"]));
    assert_eq!(config["Volumes"], json!({ "/var/lib/tollgate": {} }));
    let ports = ["4317/tcp", "4318/tcp", "8888/tcp", "13133/tcp"];
    let ports: serde_json::Map<_, _> = ports.into_iter().map(|port| (port.to_owned(), json!({}))).collect();
    assert_eq!(config["ExposedPorts"], Value::Object(ports));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!(label("title"), "tollgate");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(config["Labels"]["tollgate.sbom"], format!("/{SBOM}"));
    let manifest: Value = serde_json::from_str(image["Manifest"].as_str().unwrap()).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let size: u64 = layers.iter().map(|layer| layer["size"].as_u64().unwrap()).sum();
    assert!(layers.len() == 1 && size < MAX_BYTES, "{size} bytes in {} layers", layers.len());
}

#[test]
fn there_is_nothing_in_it_but_the_program_what_it_needs_and_one_writable_folder() {
    let container = Container::create();
    let before = container.files();
    let names: Vec<_> = before.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    let expected = [
        "etc 755 0:0",
        "etc/ssl 755 0:0",
        "etc/ssl/certs 755 0:0",
        &format!("{AUTHORITIES} 644 0:0"),
        "tollgate 755 0:0",
        "usr 755 0:0",
        "usr/share 755 0:0",
        "usr/share/sbom 755 0:0",
        &format!("{SBOM} 644 0:0"),
        "var 755 0:0",
        "var/lib 755 0:0",
        "var/lib/tollgate 750 65532:65532",
    ];
    assert_eq!(names, expected);
    let version = output(&mut container.tollgate(&[], &["--version"]));
    assert_eq!(version, format!("tollgate {}\n", env!("CARGO_PKG_VERSION")));
    for config in ["config/default.yaml", "config/collector.yaml"] {
        let (file, mounted) = (root().join(config), "/collector.yaml");
        let validate = ["validate", "--strict", "--config", mounted];
        output(&mut container.tollgate(&[(&file, mounted)], &validate));
    }
    // What buildah itself mounts into the root appears in it.
    let mounts = ["collector.yaml", "dev", "proc", "run", "sys", "etc/host", "etc/resolv.conf", "tmp"];
    let written = container.files().into_iter().filter(|line| !before.contains(line));
    let written: Vec<_> = written.filter(|line| !mounts.iter().any(|path| line.starts_with(path))).collect();
    assert_eq!(written, Vec::<String>::new(), "a read-only root would have refused this");
}

#[test]
fn two_builds_have_one_digest() {
    image();
    build("two");
    let pushed = |name: &str| {
        let target = format!("oci:{}:latest", folder().join(format!("{name}.oci")).display());
        output(&mut buildah(&["push", "--quiet", &format!("localhost/tollgate:{name}"), &target]));
        let index = read(&format!("target/image-test/{name}.oci/index.json"));
        let index: Value = serde_json::from_str(&index).unwrap();
        index["manifests"][0]["digest"].as_str().unwrap().to_owned()
    };
    assert_eq!(inspect("one")["FromImageDigest"], inspect("two")["FromImageDigest"]);
    assert_eq!(pushed("one"), pushed("two"));
}

#[test]
fn the_bill_of_materials_of_the_image_is_that_of_its_lock_file() {
    let listed = std::fs::read_to_string(image().join("root").join(SBOM)).unwrap();
    assert_eq!(listed, output(&mut Command::new(root().join("sbom"))));
}

/// A line of `/proc/PID/status`.
fn status(pid: &str, key: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"))?;
    Some(line.to_owned())
}

/// The process whose command line holds `word` and begins with `/tollgate`: the one in the container.
fn process(word: &str) -> Option<String> {
    let entries = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    entries.map(|name| name.into_string().unwrap()).find(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with("/tollgate\0") && line.contains(word)
    })
}

/// The program in a container.
struct Running {
    child: Child,
    /// A word of its command line that no other process has.
    word: String,
    events: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(mut command: Command, word: String) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = events.clone();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                seen.lock().unwrap().push(event["event"].as_str().unwrap_or(&line).to_owned());
            }
        });
        Self { child, word, events }
    }

    async fn event(&self, name: &str) {
        eventually(name, || async {
            self.events.lock().unwrap().iter().any(|event| event == name).then_some(())
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- events\n{:#?}", self.events.lock().unwrap());
        }
        if let Some(pid) = process(&self.word) {
            let _ = Command::new("kill").arg(pid).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn it_serves_as_nobody_with_the_authorities_of_the_image_and_drains_when_told_to() {
    let container = Container::create();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("collector.yaml");
    // An exporter over TLS without `ca_file` starts only if the system's authorities can be read.
    let text = "
receivers: { otlp: { protocols: { grpc: { endpoint: '127.0.0.1:0' } } } }
exporters: { otlp_http: { endpoint: 'https://localhost:9' } }
service:
  telemetry: { metrics: { level: none } }
  pipelines: { traces: { receivers: [otlp], exporters: [otlp_http] } }
";
    std::fs::write(&config, text).unwrap();
    let mounted = format!("{}.yaml", folder.path().display());
    let run = ["run", "--log-format=json", "--config", &mounted];
    let command = container.tollgate(&[(&config, &mounted)], &run);
    let mut running = Running::start(command, mounted);
    running.event("ready").await;
    let pid = process(&running.word).expect("it runs");
    for key in ["Uid", "Gid"] {
        assert_eq!(status(&pid, key).unwrap(), "65532\t65532\t65532\t65532", "{key}");
    }
    assert_eq!(status(&pid, "CapEff").unwrap(), "0000000000000000");
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    running.event("stopped").await;
    let ended = eventually("the end of the container", || {
        let ended = running.child.try_wait().unwrap();
        async move { ended }
    });
    assert!(ended.await.success());
}

/// The instructions of a Containerfile as words, comments left out.
fn instructions(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(words).collect()
}

#[test]
fn the_stage_that_compiles_has_every_file_that_the_sources_embed() {
    let containerfile = instructions(&read("Containerfile"));
    let stages = containerfile.iter().filter(|line| line[0] == "FROM").count();
    assert_eq!(stages, 5, "compiled, debug, given, laid-out and image");
    let compiled = containerfile.iter().skip_while(|line| line[0] != "FROM");
    let compiled = compiled.take_while(|line| !line.ends_with(&["debug".to_owned()]));
    let copies = compiled.filter(|line| line[0] == "COPY");
    let copied: Vec<_> =
        copies.flat_map(|line| &line[1..line.len() - 1]).map(|path| root().join(path)).collect();
    for source in &copied {
        assert!(source.exists(), "the Containerfile copies {}", source.display());
    }
    let mut folders = vec![root().join("src")];
    let mut embedded = 0;
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            // Tests stand last in a file or in a file of their own.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let is_test =
                path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
            for line in text.lines().filter(|_| !is_test) {
                let Some((_, rest)) =
                    line.split_once("include_str!(\"").or(line.split_once("include_bytes!(\""))
                else {
                    continue;
                };
                let file =
                    path.parent().unwrap().join(rest.split('"').next().unwrap()).canonicalize().unwrap();
                let there = copied.iter().any(|copied| file.starts_with(copied));
                assert!(there, "the Containerfile copies no {}", file.display());
                embedded += 1;
            }
        }
    }
    assert!(embedded >= 3, "{embedded}");
}
