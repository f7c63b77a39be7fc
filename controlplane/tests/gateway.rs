//! The thin whole slice: the program itself between two zones, real packets, every verb once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bulkhead::lab::{self, Child, Lab, Namespace, RouteTarget, VethOptions, Zone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bulkhead");
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for a packet that shall not come.
const SILENCE: Duration = Duration::from_millis(700);

const CONFIG: &str = r#"
version = 1
[gateway]
control = "CONTROL"
state = "STATE"
connections = 4096
connections_v6 = 4096
[ports.office]
interface = "office"
[ports.servers]
interface = "servers"
[segments.office]
port = "office"
networks = ["10.1.0.0/24", "fd00:1::/64"]
[segments.servers]
port = "servers"
networks = ["10.2.0.0/24", "fd00:2::/64"]
[[rule]]
name = "web"
from = "office"
to = "servers"
services = ["tcp/80"]
"#;

/// A directory for one test, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, self.filled(text)).unwrap();
        path
    }

    /// A configuration whose places are in this directory.
    fn filled(&self, text: &str) -> String {
        let text = text.replace("CONTROL", self.control().to_str().unwrap());
        text.replace("STATE", self.0.join("state").to_str().unwrap())
    }

    fn control(&self) -> PathBuf {
        self.0.join("run/control.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Gateway {
    child: Child,
    control: PathBuf,
    _said: mpsc::Receiver<String>,
}

impl Gateway {
    /// Starts the program and waits until it says that it is ready.
    fn start(lab: &Lab, scratch: &Scratch, config: &Path) -> Gateway {
        Gateway::start_with(lab, scratch, config, &[])
    }

    fn start_with(lab: &Lab, scratch: &Scratch, config: &Path, arguments: &[&str]) -> Gateway {
        let mut command = Command::new(PROGRAM);
        command.arg("run").args(arguments).arg("--config").arg(config).stdout(Stdio::piped());
        let mut child = lab.gateway.spawn(&mut command).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            while let Some(Ok(line)) = lines.next() {
                eprintln!("gateway: {line}");
                let _ = say.send(line);
            }
        });
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = said.recv_timeout(left).expect("the gateway did not get ready");
            if line.starts_with("ready") {
                break;
            }
        }
        Gateway { child, control: scratch.control(), _said: said }
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--control").arg(&self.control).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ask(&[arguments, &["-o", "json"]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Recent events of a kind.
    fn events(&self, kind: &str) -> Vec<Value> {
        let output = self.ask(&["events"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|event| event["kind"] == kind).collect()
    }

    /// Waits until the ledger stands still, and checks it.
    fn assert_balanced(&self) {
        let status = self.json(&["status"]);
        let ledger = &status["ledger"];
        assert_eq!(ledger["balanced"], true, "{ledger}");
        let sum =
            ["forwarded", "dropped", "held"].iter().map(|key| ledger[key].as_u64().unwrap()).sum::<u64>();
        assert_eq!(ledger["received"].as_u64().unwrap(), sum);
    }
}

fn zones() -> Lab {
    Lab::new(&[
        Zone::new("office", "10.1.0.0/24", "fd00:1::/64"),
        Zone::new("servers", "10.2.0.0/24", "fd00:2::/64"),
    ])
    .unwrap()
}

/// A server in the zone that sends back what it gets, a thread for each client.
fn serve_echo(lab: &Lab, address: SocketAddr) {
    let listener = lab.host("servers").namespace.run(|| TcpListener::bind(address)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            std::thread::spawn(move || {
                let mut bytes = [0; 16_384];
                while let Ok(count) = stream.read(&mut bytes) {
                    if count == 0 || stream.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
}

fn connect(lab: &Lab, address: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let stream = lab.host("office").namespace.run(|| TcpStream::connect_timeout(&address, patience))?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
    let sent: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
    let mut copy = stream.try_clone()?;
    let outgoing = sent.clone();
    let sender = std::thread::spawn(move || copy.write_all(&outgoing));
    let mut back = vec![0; bytes];
    stream.read_exact(&mut back)?;
    sender.join().unwrap()?;
    assert!(back == sent, "the bytes came back changed");
    Ok(())
}

#[test]
fn a_gateway_lets_through_what_its_policy_says_and_obeys_every_verb() {
    if !lab::available() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let (lab, scratch) = (zones(), Scratch::new("slice"));
    let config = scratch.write("bulkhead.toml", CONFIG);
    let v4: SocketAddr = (IpAddr::from(lab.host("servers").v4[0]), 80).into();
    let v6: SocketAddr = (IpAddr::from(lab.host("servers").v6[0]), 80).into();
    let closed: SocketAddr = (v4.ip(), 22).into();
    for address in [v4, v6, closed] {
        serve_echo(&lab, address);
    }
    let mut gateway = Gateway::start(&lab, &scratch, &config);

    // What the policy allows crosses, and nothing else.
    let mut first = connect(&lab, v4, PATIENCE).expect("the web is allowed");
    echo(&mut first, 300_000).unwrap();
    let mut second = connect(&lab, v6, PATIENCE).expect("the web is allowed over IPv6");
    echo(&mut second, 300_000).unwrap();
    assert!(connect(&lab, closed, SILENCE).is_err(), "port 22 is not allowed");
    gateway.assert_balanced();

    listings(&gateway, &lab);
    reload(&lab, &scratch, &gateway, &config, [&mut first, &mut second], closed);
    cut(&gateway, &mut first, &lab, v4);

    // A second gateway is refused, and the first does not notice.
    let mut another = Command::new(PROGRAM);
    another.arg("run").arg("--config").arg(&config).stderr(Stdio::piped());
    let mut another = lab.gateway.spawn(&mut another).unwrap();
    assert!(!another.wait().unwrap().success());
    let mut why = String::new();
    another.stderr.take().unwrap().read_to_string(&mut why).unwrap();
    assert!(why.contains(&format!("already running, pid {}", gateway.child.id())), "{why}");

    // Stopped, it closes everything; unloaded, there is nothing of it left.
    gateway.assert_balanced();
    let stopped = gateway.ask(&["stop"]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert!(gateway.child.wait().unwrap().success());
    lab.set_kernel_forwarding(true).unwrap();
    assert!(connect(&lab, v4, SILENCE).is_err(), "a stopped gateway lets nothing through");
    let mut unload = Command::new(PROGRAM);
    unload.args(["stop", "--unload", "--config"]).arg(&config);
    assert!(lab.gateway.spawn(&mut unload).unwrap().wait().unwrap().success());
    connect(&lab, v4, PATIENCE).expect("without steering the kernel forwards");
    let gone = gateway.ask(&["status"]);
    let why = String::from_utf8_lossy(&gone.stderr);
    assert!(!gone.status.success() && why.contains(scratch.control().to_str().unwrap()), "{why}");
}

/// Every listing tells what happened so far.
fn listings(gateway: &Gateway, lab: &Lab) {
    let status = gateway.json(&["status"]);
    assert_eq!((&status["generation"], &status["workers_alive"]), (&1.into(), &1.into()));
    assert_eq!(status["kernel_forwarding"], serde_json::json!([]));
    assert_eq!(status["ports"][0]["name"], "office");
    let rules = gateway.json(&["rules"]);
    assert_eq!((&rules["rules"][0]["rule"], &rules["rules"][0]["connections"]), (&"web".into(), &2.into()));
    assert!(rules["rules"][0]["bytes"].as_u64().unwrap() > 1_200_000);
    assert_eq!(rules["rules"][1]["rule"], Value::Null);
    assert!(rules["rules"][1]["packets"].as_u64().unwrap() > 0);
    let list = gateway.json(&[
        "connections",
        "list",
        "--port",
        "tcp/80",
        "--from",
        "office",
        "--state",
        "established",
    ]);
    assert_eq!((&list["matched"], &list["connections"][0]["rule"]), (&2.into(), &"web".into()));
    let none = gateway.json(&["connections", "list", "--from", "servers"]);
    assert_eq!(none["matched"], 0);
    let drops = gateway.json(&["drops"]);
    let no_rule = drops["drops"].as_array().unwrap().iter().find(|row| row["reason"] == "no_rule").unwrap();
    assert!(
        no_rule["packets"].as_u64().unwrap() > 0 && no_rule["help"].as_str().unwrap().contains("default")
    );
    let sources = gateway.json(&["drops", "--sources"]);
    assert_eq!(sources["top"][0]["source"], lab.host("office").v4[0].to_string());
    let explained = gateway.json(&["explain", "--from", "office", "--to", "servers", "--port", "tcp/80"]);
    assert_eq!(explained["answers"][0]["rule"], "web");
    assert_eq!(gateway.events("opened").len(), 2);
    let denied = gateway.events("denied");
    assert_eq!(
        (&denied[0]["reason"], &denied[0]["from"], &denied[0]["to"]),
        (&"no_rule".into(), &"office".into(), &"servers".into())
    );
}

/// A bad file changes nothing; a good one is in force when the command returns, for live connections too.
fn reload(
    lab: &Lab,
    scratch: &Scratch,
    gateway: &Gateway,
    config: &Path,
    [first, second]: [&mut TcpStream; 2],
    closed: SocketAddr,
) {
    let bad = scratch.write(
        "bad.toml",
        &CONFIG.replace("servers = [", "serverz = [").replace("to = \"servers\"", "to = \"serverz\""),
    );
    let refused = gateway.ask(&["reload", bad.to_str().unwrap()]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(why.contains("did you mean `servers`?") && why.contains("bad.toml"), "{why}");
    let failing = "[[test]]\nname = \"wrong\"\nfrom = \"office\"\nto = \"servers\"\nport = \"tcp/80\"\nexpect = \"deny\"\n";
    let failing = scratch.write("failing.toml", &format!("{CONFIG}{failing}"));
    assert_eq!(gateway.ask(&["reload", failing.to_str().unwrap()]).status.code(), Some(3));
    let resized = scratch.write("resized.toml", &CONFIG.replace("connections = 4096", "connections = 8192"));
    let refused = gateway.ask(&["reload", resized.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("connections: 4096 → 8192"));
    assert_eq!(gateway.json(&["status"])["generation"], 1);
    echo(first, 10_000).expect("the old policy runs on");

    // IPv6 is no longer allowed, port 22 is.
    let text = CONFIG.replace("tcp/80\"]", "tcp/80\", \"tcp/22\"]").replace(", \"fd00:2::/64\"", "");
    std::fs::write(config, scratch.filled(&text)).unwrap();
    plan(gateway, config);
    let reloaded = gateway.json(&["reload"]);
    assert_eq!((&reloaded["generation"], &reloaded["rules"]), (&2.into(), &1.into()));
    echo(first, 10_000).expect("still allowed");
    second.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(echo(second, 1000).is_err(), "no longer allowed");
    connect(lab, closed, PATIENCE).expect("allowed now");
    let rules = gateway.json(&["rules"]);
    assert_eq!(rules["rules"][0]["connections"], 3, "counters survive by the rule's name");
    gateway.assert_balanced();
}

/// A plan names what the file would gain and lose, counts the live connections it would cut, and changes nothing.
fn plan(gateway: &Gateway, file: &Path) {
    let output = gateway.ask(&["plan", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [gained, lost] = plan["access"].as_array().unwrap().as_slice() else { panic!("{plan:#}") };
    assert_eq!((&gained["change"], &gained["services"][0]), (&"gained".into(), &"tcp/22".into()));
    assert_eq!((&lost["change"], &lost["services"][0]), (&"lost".into(), &"tcp/80".into()));
    assert_eq!((&lost["to"][0]["old"], &lost["to"][0]["new"]), (&"servers".into(), &Value::Null));
    assert_eq!(lost["witness"]["after"]["reason"], "no_destination_segment");
    assert_eq!(plan["connections"]["stay"], 1);
    let cut = &plan["connections"]["cut"];
    assert_eq!((&cut[0]["rule"], &cut[0]["connections"]), (&"web".into(), &1.into()), "{cut}");
    assert_eq!(gateway.json(&["status"])["generation"], 1);
    let told = String::from_utf8(gateway.ask(&["plan", file.to_str().unwrap()]).stdout).unwrap();
    assert!(told.contains("live connections: 1 would be cut, 1 stay") && !told.contains('\x1b'), "{told}");
    let same = gateway.ask(&["plan", file.with_file_name("bad.toml").to_str().unwrap()]);
    assert_eq!(same.status.code(), Some(1), "a bad file is an error");
}

fn cut(gateway: &Gateway, first: &mut TcpStream, lab: &Lab, address: SocketAddr) {
    let all = gateway.ask(&["connections", "kill"]);
    assert!(!all.status.success(), "killing everything has to be said");
    let counted =
        gateway.json(&["connections", "kill", "--port", "tcp/80", "--state", "established", "--dry-run"]);
    assert_eq!((&counted["matched"], &counted["killed"]), (&1.into(), &0.into()));
    echo(first, 1000).expect("a dry run cuts nothing");
    assert_eq!(gateway.json(&["connections", "kill", "--port", "tcp/80"])["killed"], 1);
    first.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(echo(first, 1000).is_err(), "it was cut");
    let cut = gateway.events("cut");
    assert!(cut.iter().any(|event| event["reason"] == "killed" && event["rule"] == "web"), "{cut:?}");
    let mut again = connect(lab, address, PATIENCE).expect("a new connection may be opened");
    echo(&mut again, 1000).unwrap();
}

/// Waits until this holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(process: &Child, signal: Signal) {
    kill(Pid::from_raw(process.id() as i32), signal).unwrap();
}

/// Runs the program in the gateway's namespace to its end.
fn run_to_end(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = lab.gateway.spawn(&mut command).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn a_gateway_refuses_to_start_where_it_could_not_keep_its_promises() {
    if !lab::available() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let (lab, scratch) = (zones(), Scratch::new("refusal"));
    let config = scratch.write("bulkhead.toml", CONFIG);
    let config = config.to_str().unwrap();
    lab.set_kernel_forwarding(true).unwrap();
    let (code, said) = run_to_end(&lab, &["run", "--config", config]);
    assert_eq!(code, Some(1));
    assert!(said.contains("net.ipv4.ip_forward") && said.contains("--manage-forwarding"), "{said}");
    lab.set_kernel_forwarding(false).unwrap();

    let failing = "[[test]]\nname = \"wrong\"\nfrom = \"office\"\nto = \"servers\"\nport = \"tcp/80\"\nexpect = \"deny\"\n";
    let failing = scratch.write("failing.toml", &format!("{CONFIG}{failing}"));
    let (code, said) = run_to_end(&lab, &["run", "--config", failing.to_str().unwrap()]);
    assert_eq!(code, Some(3));
    assert!(said.contains("test \"wrong\" failed"), "{said}");

    let missing = scratch.write(
        "missing.toml",
        &CONFIG.replace("\"office\"\n[ports.servers]", "\"nowhere\"\n[ports.servers]"),
    );
    let (code, said) = run_to_end(&lab, &["run", "--config", missing.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(said.contains("nowhere: there is no such interface"), "{said}");
}

#[test]
fn a_gateway_undoes_what_others_do_to_it() {
    if !lab::available() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let (lab, scratch) = (zones(), Scratch::new("watch"));
    let config = scratch.write("bulkhead.toml", CONFIG);
    let web: SocketAddr = (IpAddr::from(lab.host("servers").v4[0]), 80).into();
    serve_echo(&lab, web);
    lab.set_kernel_forwarding(true).unwrap();
    let gateway = Gateway::start_with(&lab, &scratch, &config, &["--manage-forwarding"]);
    assert_eq!(lab.gateway.sysctl("net.ipv4.ip_forward").unwrap(), "0");
    let mut follower = Command::new(PROGRAM);
    follower.args(["events", "--follow", "--control"]).arg(&gateway.control).stdout(Stdio::piped());
    let mut follower = lab.gateway.spawn(&mut follower).unwrap();
    let mut followed = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut alarm = |text: &str| loop {
        let line = followed.next().expect("the follower ended").unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["kind"] == "alarm" && event["message"].as_str().unwrap().contains(text) {
            break;
        }
    };
    eventually("the follower is there", || gateway.json(&["status"])["uptime_s"].as_u64().unwrap() > 0);

    lab.set_kernel_forwarding(true).unwrap();
    alarm("turned the kernel's forwarding on");
    eventually("forwarding goes off again", || lab.gateway.sysctl("net.ipv4.ip_forward").unwrap() == "0");

    let index = lab.gateway.link("office").unwrap().index;
    assert!(lab.gateway.run(|| bulkhead_dataplane::steering::detach(index)).unwrap());
    alarm("attached again");
    let attached = lab.gateway.run(|| bulkhead_dataplane::steering::attached_program(index)).unwrap();
    assert!(attached.is_some_and(|program| program.ours));
    let mut stream = connect(&lab, web, PATIENCE).unwrap();
    echo(&mut stream, 1000).unwrap();

    // SIGHUP reloads; a bad file is told and changes nothing.
    std::fs::write(&config, "version = 2").unwrap();
    signal(&gateway.child, Signal::SIGHUP);
    alarm("reload refused");
    scratch.write("bulkhead.toml", CONFIG);
    signal(&gateway.child, Signal::SIGHUP);
    eventually("generation 2", || gateway.json(&["status"])["generation"] == 2);
    echo(&mut stream, 1000).unwrap();

    // Killed, it stays closed; started again, it replaces what is left.
    signal(&gateway.child, Signal::SIGKILL);
    drop(gateway);
    lab.set_kernel_forwarding(true).unwrap();
    assert!(connect(&lab, web, SILENCE).is_err(), "a killed gateway lets nothing through");
    let mut gateway = Gateway::start_with(&lab, &scratch, &config, &["--manage-forwarding"]);
    let mut stream = connect(&lab, web, PATIENCE).unwrap();
    echo(&mut stream, 1000).unwrap();
    only_root_may_ask(&scratch);
    signal(&gateway.child, Signal::SIGTERM);
    assert!(gateway.child.wait().unwrap().success());
}

/// Even where the file's mode would let others in.
fn only_root_may_ask(scratch: &Scratch) {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let ask = || {
        let mut command = Command::new(PROGRAM);
        command.arg("status").arg("--control").arg(scratch.control()).uid(65_534).gid(65_534);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = ask();
    assert!(code == Some(1) && said.contains("only root may talk to the gateway"), "{said}");
    for (path, mode) in [(scratch.control().parent().unwrap().to_owned(), 0o755), (scratch.control(), 0o666)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let (code, said) = ask();
    assert!(code == Some(1) && said.contains("you are uid 65534"), "{said}");
}

#[test]
fn a_port_whose_interface_comes_back_is_taken_up_again() {
    if !lab::available() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let (lab, scratch) = (zones(), Scratch::new("back"));
    let config = scratch.write("bulkhead.toml", CONFIG);
    let gateway = Gateway::start(&lab, &scratch, &config);
    let office = lab.host("office");
    lab.gateway.delete_link("office").unwrap();
    eventually("the port is down", || {
        let port = &gateway.json(&["status"])["ports"][0];
        port["up"] == false && port["mode"] == "down"
    });
    Namespace::veth((&lab.gateway, "office"), (&office.namespace, "eth0"), &VethOptions::default()).unwrap();
    // As in the laboratory: AF_XDP needs finished checksums.
    let offloads = || afxdp::device::Offloads { gro: true, ..afxdp::device::Offloads::sending() };
    office.namespace.disable_offloads("eth0", offloads()).unwrap();
    lab.gateway.add_address("office", "10.1.0.1/24".parse().unwrap()).unwrap();
    office.namespace.add_address("eth0", "10.1.0.2/24".parse().unwrap()).unwrap();
    let everywhere = "0.0.0.0/0".parse().unwrap();
    office.namespace.add_route(everywhere, RouteTarget::Gateway(office.gateway_v4.into()), 0).unwrap();
    eventually("the port is up", || {
        let port = &gateway.json(&["status"])["ports"][0];
        port["up"] == true && port["mode"] == "copy"
    });
    let web: SocketAddr = (IpAddr::from(lab.host("servers").v4[0]), 80).into();
    serve_echo(&lab, web);
    let mut stream = connect(&lab, web, PATIENCE).unwrap();
    echo(&mut stream, 1000).unwrap();
    gateway.assert_balanced();
}
