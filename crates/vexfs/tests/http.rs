//! The API beside the store's socket: over TCP with a key, on a socket of its own, and without a mount.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod mounted;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mounted::{Mounted, stdout, vexfs};

const FILES: [(&str, &str); 1] = [("bread.md", "Knead the dough and bake it.\n")];

/// An address that nobody listens on.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Sends a request, gives the status and the body.
fn ask(stream: &mut (impl Read + Write), headers: &str, route: &str, body: &str) -> (u16, String) {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let length = body.len();
    write!(
        stream,
        "{method} {route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[test]
fn over_tcp_whoever_has_the_key_asks_as_the_daemons_user() {
    let address = free_address();
    let mount = Mounted::with(&FILES, &["-o", &format!("http={address}")]);
    mount.settle();
    let tcp = |headers: &str, route: &str, body: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        ask(&mut stream, headers, route, body)
    };
    assert_eq!(tcp("", "/v1/status", "").0, 401);
    assert_eq!(tcp("Authorization: Bearer nonsense\r\n", "/v1/status", "").0, 401);
    // Through the mount there is no way to the key.
    assert!(!mount.join(".vexfs/api-key").exists() && !mount.ls("").contains(&".vexfs".to_owned()));
    assert!(!mount.read(".vexfs/status.json").contains("api-key"));
    mount.umount();
    let key = std::fs::read_to_string(mount.source().join(".vexfs/api-key")).unwrap();
    mount.mount(&["-o", &format!("http={address}")]);
    mount.settle();
    let with_key = format!("Authorization: Bearer {}\r\n", key.trim());
    let (status, answer) = tcp(&with_key, "/v1/search", "{\"query\":\"baking\"}");
    assert!(status == 200 && answer.contains("bread.md"), "{answer}");
    assert_eq!(
        tcp(&format!("api-key: {}\r\n", key.trim()), "/v1/status", "").0,
        200
    );
    assert_eq!(tcp(&with_key, "/v1/search", "{\"what\":1}").0, 400);
}

#[test]
fn addresses_that_others_reach_and_files_that_are_no_sockets_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["source", "mnt"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let file = dir.path().join("precious");
    std::fs::write(&file, "x").unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for http in [
        "http=0.0.0.0:0".to_owned(),
        "http=192.0.2.1:80".into(),
        format!("http=unix:{}", file.display()),
    ] {
        let output = vexfs(&["mount", &at("source"), &at("mnt"), "-o", &http]);
        assert!(!output.status.success(), "{http}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("http="), "{http}: {said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
}

#[test]
fn a_socket_of_its_own_knows_its_callers() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api");
    let mount = Mounted::with(&FILES, &["-o", &format!("http=unix:{}", socket.display())]);
    mount.settle();
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let (status, answer) = ask(&mut stream, "", "/v1/search", "{\"query\":\"baking\"}");
    assert!(status == 200 && answer.contains("bread.md"), "{answer}");
    mount.umount();
    assert!(!socket.exists());
    mount.mount(&[]);
}

#[test]
fn a_directory_is_served_without_a_mount() {
    let mount = Mounted::with(&FILES, &[]);
    mount.settle();
    mount.umount();
    let source = mount.source();
    let address = free_address();
    let mut served = Command::new(env!("CARGO_BIN_EXE_vexfs"))
        .args([
            "serve",
            source.to_str().unwrap(),
            "--http",
            &address,
            "--rescan",
            "1",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(served.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.trim_end().ends_with("socket"), "{line}");
    let search = |query: &str| {
        stdout(&vexfs(&[
            "search",
            "-C",
            source.to_str().unwrap(),
            "--wait",
            query,
        ]))
    };
    assert_eq!(search("baking").lines().next(), Some("bread.md"));
    std::fs::write(source.join("sea.md"), "The ferry to the island leaves at noon.\n").unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while search("boat to an island").lines().next() != Some("sea.md") {
        assert!(Instant::now() < end, "the tree is looked at every second");
        std::thread::sleep(Duration::from_millis(200));
    }
    let key = std::fs::read_to_string(source.join(".vexfs/api-key")).unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    assert_eq!(
        ask(
            &mut stream,
            &format!("api-key: {}\r\n", key.trim()),
            "/v1/status",
            ""
        )
        .0,
        200
    );
    let pid = rustix::process::Pid::from_child(&served);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(served.wait().unwrap().success());
    mount.mount(&[]);
}
