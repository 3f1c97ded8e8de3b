//! `tollgate healthcheck` from outside; the program it asks is asked in `chart::running`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

fn healthcheck(arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("healthcheck").args(arguments).output().unwrap();
    let text = output.stdout.into_iter().chain(output.stderr).collect();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Answers connections with these statuses, one after the other.
fn server(statuses: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let _read = stream.read(&mut [0; 1024]);
            let _written =
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    url
}

#[test]
fn the_exit_code_is_the_answer() {
    let check = |status: &'static [&'static str], code: i32, told: &str| {
        let (exit, text) = healthcheck(&["--url", &server(status)]);
        assert_eq!(exit, Some(code), "{status:?}: {text}");
        assert!(text.contains(told), "{told:?} in {text}");
    };
    check(&["200 OK"], 0, "200 OK");
    check(&["204 No Content"], 0, "204");
    check(&["503 Service Unavailable"], 1, "503 Service Unavailable");
    check(&["301 Moved Permanently"], 1, "301");
    check(&["404 Not Found"], 1, "404");
}

#[test]
fn nobody_there_and_nobody_answering_are_failures() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (exit, text) = healthcheck(&["--url", &url, "--timeout=200ms"]);
    assert_eq!(exit, Some(1));
    assert!(text.contains("no answer in 200ms"), "{text}");
    drop(listener);
    let (exit, text) = healthcheck(&["--url", &url]);
    assert_eq!(exit, Some(1));
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn waiting_outlasts_a_start() {
    let statuses: &[&str] = &["503 Service Unavailable", "503 Service Unavailable", "200 OK"];
    let (exit, text) = healthcheck(&["--url", &server(statuses), "--wait=30s"]);
    assert_eq!(exit, Some(0), "{text}");
}

#[test]
fn other_schemes_are_refused() {
    let (exit, text) = healthcheck(&["--url", "https://localhost:13133/"]);
    assert_eq!(exit, Some(1));
    assert!(text.contains("http://host:port/path"), "{text}");
    assert_eq!(healthcheck(&["--url", "not a url"]).0, Some(2));
}
