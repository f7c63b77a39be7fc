//! curl, iperf3 and ssh: they do their work, and no packet of theirs is dropped for what TCP did.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::Scene;
use bulkhead_tests::wait_until;
use serde_json::Value;

use crate::{lacks, printed};

/// No packet of a connection was taken for a forgery, but for these reasons.
fn nothing_dropped_of_connections(scene: &Scene, but: &[&str]) {
    let dropped = scene.drops();
    for reason in
        ["tcp_out_of_window", "tcp_invalid", "no_connection", "fragment_timeout", "fragment_overlap"]
    {
        assert!(but.contains(&reason) || !dropped.contains_key(reason), "{dropped:?}");
    }
}

/// The address as curl, ssh and iperf3 want it.
fn host_of(scene: &Scene, family: Family) -> String {
    scene.host_address("servers", family).to_string()
}

/// A web server that gives every client so many bytes.
fn serve(scene: &Scene, family: Family, bytes: usize) {
    let address = SocketAddr::new(scene.host_address("servers", family), 80);
    let listener = scene.host("servers").namespace.run(|| TcpListener::bind(address)).expect("it listens");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut request = BufReader::new(stream.try_clone().expect("a second handle"));
                let mut line = String::new();
                while request.read_line(&mut line).is_ok_and(|length| length > 2) {
                    line.clear();
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
                let mut stream = stream;
                // A client that hangs up early is its own affair.
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&vec![b'b'; bytes]);
            });
        }
    });
}

#[test]
fn curl_fetches_many_files_at_once() {
    const BYTES: usize = 4 << 20;
    if lacks("curl") {
        return;
    }
    let Some(scene) = Scene::start(&Config::new(allow("web", "office", "servers", "tcp/80"))) else { return };
    for family in Family::BOTH {
        serve(&scene, family, BYTES);
        let host = host_of(&scene, family);
        let host = if family == Family::V6 { format!("[{host}]") } else { host };
        let urls: Vec<String> = (1..=12).map(|number| format!("http://{host}/{number}")).collect();
        let mut args = vec!["--silent", "--show-error", "--globoff", "--fail", "--parallel"];
        args.extend(["--write-out", "%{size_download}\\n"]);
        for url in &urls {
            args.extend(["--output", "/dev/null", url]);
        }
        let text = printed(scene.host("office"), "curl", &args);
        let sizes: Vec<&str> = text.lines().collect();
        assert_eq!(sizes, [BYTES.to_string().as_str(); 12], "{family:?}");
    }
    nothing_dropped_of_connections(&scene, &[]);
}

/// One run of iperf3; its report.
fn iperf(scene: &Scene, family: Family, options: &[&str]) -> Value {
    let host = host_of(scene, family);
    let mut command = Command::new("iperf3");
    command
        .args(["--server", "--one-off", "--forceflush", "--bind", &host])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut server = scene.host("servers").namespace.spawn(&mut command).expect("the server starts");
    let mut said =
        BufReader::new(server.stdout.take().expect("it is captured")).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("listening")), "the server does not listen");
    let args = [&["--client", &host, "--json", "--time", "2"], options].concat();
    let report = printed(scene.host("office"), "iperf3", &args);
    // It ends by itself.
    said.for_each(drop);
    serde_json::from_str(&report).expect("a report in JSON")
}

#[test]
fn iperf3_measures_both_directions_streams_in_parallel_and_fragmented_datagrams() {
    if lacks("iperf3") {
        return;
    }
    let services = "tcp/5201 udp/5201";
    let Some(scene) = Scene::start(&Config::new(allow("iperf", "office", "servers", services))) else {
        return;
    };
    for family in Family::BOTH {
        carries_much(&scene, family, &["--parallel", "4"]);
        carries_much(&scene, family, &["--reverse"]);
        for length in ["1000", "4000"] {
            let options = ["--udp", "--bitrate", "4M", "--length", length];
            let sum = &iperf(&scene, family, &options)["end"]["sum"];
            let (sent, lost) =
                (sum["packets"].as_u64().unwrap_or(0), sum["lost_packets"].as_u64().unwrap_or(0));
            assert!(sent > 100 && lost * 20 < sent, "{family:?} {length}: {lost} of {sent} lost");
        }
    }
    // A receiver ends its stream by a reset, and what was in flight to it then is of no connection any more (W5).
    nothing_dropped_of_connections(&scene, &["tcp_invalid"]);
}

fn carries_much(scene: &Scene, family: Family, options: &[&str]) {
    let report = iperf(scene, family, options);
    let bytes = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
    assert!(bytes > 4 << 20, "{family:?} {options:?}: {bytes} bytes in two seconds");
}

#[test]
fn ssh_logs_in_and_carries_a_file_both_ways() {
    const BYTES: usize = 2 << 20;
    if lacks("sshd") || lacks("ssh") || lacks("ssh-keygen") {
        return;
    }
    let Some(scene) = Scene::start(&Config::new(allow("ssh", "office", "servers", "tcp/22"))) else { return };
    let directory = scene.config().parent().expect("a directory").to_owned();
    let file = |name: &str| directory.join(name).display().to_string();
    for key in ["host", "user"] {
        printed(scene.host("office"), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &file(key)]);
    }
    fs::copy(directory.join("user.pub"), directory.join("authorized")).expect("the key is copied");
    // Where sshd keeps the directory that its unprivileged part sees.
    fs::create_dir_all("/run/sshd").expect("sshd's directory");
    for family in Family::BOTH {
        let host = host_of(&scene, family);
        let settings = [
            format!("ListenAddress={host}"),
            format!("HostKey={}", file("host")),
            format!("AuthorizedKeysFile={}", file("authorized")),
            format!("PidFile={}", file("sshd.pid")),
            "StrictModes=no".into(),
            "UsePAM=no".into(),
            "PermitRootLogin=yes".into(),
        ];
        let mut command = Command::new(crate::path_of("sshd"));
        command.args(["-D", "-e", "-f", "/dev/null"]).stderr(Stdio::null());
        command.args(settings.iter().flat_map(|setting| ["-o", setting]));
        let _server = scene.host("servers").namespace.spawn(&mut command).expect("sshd starts");
        let address: SocketAddr = SocketAddr::new(scene.host_address("servers", family), 22);
        let office = &scene.host("office").namespace;
        wait_until("sshd listens", || {
            let connected =
                office.run(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)));
            connected.is_ok()
        });
        let common =
            ["-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o"];
        let (level, key, user) = ("LogLevel=ERROR", file("user"), format!("root@{host}"));
        let login = [common.as_slice(), &[level, "-i", &key, &user]].concat();
        let ask = |what: &str| printed(scene.host("office"), "ssh", &[login.as_slice(), &[what]].concat());
        assert_eq!(ask("echo who is there").trim(), "who is there");
        assert_eq!(ask(&format!("head -c {BYTES} /dev/zero | tr '\\0' b")).len(), BYTES);
        let there = format!("head -c {BYTES} /dev/zero | ssh {} wc -c", login.join(" "));
        assert_eq!(printed(scene.host("office"), "sh", &["-c", &there]).trim(), BYTES.to_string());
    }
    nothing_dropped_of_connections(&scene, &[]);
}
