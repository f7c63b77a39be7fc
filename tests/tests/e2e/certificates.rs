//! Certificates that clients show at the door: devices by those of the gateway's own authority, workloads by their SVIDs.

mod browser;
mod rogue;
mod svid;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path as File, PathBuf};
use std::process::Command;

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Family, Path};
use bulkhead_tests::gateway::{self, Ran};
use bulkhead_tests::https;
use bulkhead_tests::scene::{Scene, number, text};
use bulkhead_tests::wait_until;

/// A way for enrolled laptops, one for whoever is healthy too, and a door.
fn config() -> Config {
    let rules = allow("plain", "office", "servers", "tcp/80 udp/53")
        + &allow("laptops", "office", "servers", "udp/5432 tcp/5432")
        + "require = { devices = { enrolled = true, tags = [\"laptop\"] } }\n"
        + &allow("healthy", "office", "servers", "udp/1433")
        + "require = { devices = { enrolled = true }, posture = \"compliant\" }\n"
        + "[postures.compliant]\ndisk_encrypted = true\n";
    Config::new(rules + &portal())
}

fn portal() -> String {
    format!("[portal]\nports = [\"office\"]\ncertificate_port = 8443\nname = \"{}\"\n", https::NAME)
}

fn listens(scene: &Scene) {
    wait_until("the door is open", || {
        let status = super::portal::status(scene);
        ["listening", "certificates"].iter().all(|key| status[key].as_array().is_some_and(|l| l.len() == 2))
    });
}

fn door(scene: &Scene) -> SocketAddr {
    SocketAddr::new(scene.host("office").gateway_v4.into(), 8443)
}

/// From the very host that shows certificates.
fn path(scene: &Scene) -> Path {
    let (office, source) = (scene.host("office"), scene.host_address("office", Family::V4));
    Path { from: office.mac, source, ..scene.path("office", "servers", Family::V4) }
}

fn home(scene: &Scene) -> PathBuf {
    scene.state().with_file_name("laptop")
}

/// Runs a verb on the office's host.
fn at_office(scene: &Scene, args: &[&str]) -> Ran {
    let home = home(scene);
    let mut all = args.to_vec();
    let home = home.display().to_string();
    all.extend(["--state", &home]);
    scene.host("office").namespace.run(|| gateway::run_with(&all, ""))
}

/// Enrolls the office's host as a laptop.
fn enroll(scene: &Scene) {
    let code = text(&scene.json(&["device", "enroll", "laptop-7", "--tag", "laptop"])["code"], "code");
    let portal = format!("https://{}", scene.host("office").gateway_v4);
    let fingerprint = text(&super::portal::status(scene), "fingerprint");
    let args =
        ["agent", "enroll", "--portal", &portal, "--fingerprint", &fingerprint, "--device", "laptop-7"];
    let ran = at_office(scene, &[&args[..], &["--code", &code]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = at_office(scene, &["agent", "certificate", "--pem", &pem(scene)]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// What curl says, and its exit code; `None` with a line where there is none.
fn curl(scene: &Scene, args: &[&str]) -> Option<(i32, String)> {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: curl is not installed");
        return None;
    }
    let url = format!("https://{}/", door(scene));
    let output = scene.host("office").namespace.run(|| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--insecure", "--max-time", "15"]).args(args).arg(&url);
        command.output().expect("curl runs")
    });
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some((output.status.code().unwrap_or(-1), said.into_owned()))
}

/// Shows a certificate with curl.
fn show(scene: &Scene, certificate: &File, key: &File) -> Option<(i32, String)> {
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    curl(scene, &["--include", "--cert", &certificate, "--key", &key])
}

/// Where the laptop's certificate for curl is, with its key.
fn pem(scene: &Scene) -> String {
    home(scene).join("curl.pem").display().to_string()
}

/// Shows that with curl.
fn show_device(scene: &Scene) -> Option<(i32, String)> {
    curl(scene, &["--include", "--cert", &pem(scene)])
}

#[test]
fn n6_a_device_is_known_by_the_certificate_that_curl_shows_until_it_is_revoked() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    enroll(&scene);
    let path = path(&scene);
    let before = scene.drops();
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"before"));
    scene.expect_drops(&before, &[("not_authenticated", 1)]);
    let Some((code, said)) = show_device(&scene) else { return };
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("HTTP/1.1 303 See Other\r\n"), "{said}");
    assert!(said.contains(&format!("location: https://{}/\r\n", https::NAME)), "{said}");
    assert!(said.contains("set-cookie: __Host-bulkhead="), "{said}");
    let address = scene.host_address("office", Family::V4);
    assert!(said.contains(&format!("device laptop-7 is known at {address} (office) until 2")), "{said}");
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"after"));
    let before = scene.drops();
    scene.stays_out("office", "servers", &path.udp(4000, 1433, b"of its health nothing is known"));
    scene.expect_drops(&before, &[("posture_unknown", 1)]);
    // Everywhere it is named.
    let session = &scene.json(&["session", "list"])["sessions"][0];
    assert_eq!(
        (text(session, "proof"), text(&session["device"], "name")),
        ("device".into(), "laptop-7".into())
    );
    let credential = text(&session["device"], "credential");
    assert!(credential.starts_with("certificate ") && credential.len() > 30, "{credential}");
    let shown = scene.cli(&["session", "show", &text(session, "id")]).stdout;
    assert!(shown.contains(&format!("laptop-7 (enrolled, tagged laptop), by {credential}")), "{shown}");
    let audit = scene.cli(&["audit", "log", "-o", "json"]).stdout;
    assert!(audit.contains(&credential), "{audit}");
    // Shown again it is the same session, and the connection goes on.
    assert_eq!(show_device(&scene).map(|(code, _)| code), Some(0));
    assert_eq!(scene.json(&["session", "list"])["sessions"][0]["id"], session["id"]);
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"again"));
    assert_eq!(scene.cli(&["device", "revoke", "laptop-7"]).code, 0);
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"the live connection"));
    scene.stays_out("office", "servers", &path.udp(4001, 5432, b"a new one"));
    let (code, said) = show_device(&scene).expect("curl is there");
    assert!(code == 0 && said.starts_with("HTTP/1.1 403 "), "{said}");
    assert!(said.contains("the certificate proves nothing here: device laptop-7 was revoked"), "{said}");
    assert_eq!(scene.json(&["session", "list"])["sessions"].as_array().map(Vec::len), Some(0));
    let status = super::portal::status(&scene);
    assert_eq!((number(&status, "shown"), number(&status, "recognised")), (3, 2));
}

#[test]
fn a_certificate_joins_the_session_of_whoever_is_signed_in_on_the_device_and_locks_hold() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    enroll(&scene);
    let path = path(&scene);
    let address = scene.host_address("office", Family::V4).to_string();
    scene.json(&["session", "add", "--address", &address, "--user", "alice"]);
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"on no device that is known"));
    if show_device(&scene).is_none() {
        return;
    }
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"on her laptop"));
    let session = scene.json(&["session", "list"])["sessions"][0].clone();
    assert_eq!(
        (text(&session, "user"), text(&session["device"], "name")),
        ("alice".into(), "laptop-7".into())
    );
    // Revoked, it is hers still, and on no device.
    assert_eq!(scene.cli(&["device", "revoke", "laptop-7"]).code, 0);
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"the live connection"));
    assert_eq!(scene.json(&["session", "list"])["sessions"][0]["user"], "alice");
    enroll(&scene);
    assert_eq!(scene.cli(&["session", "revoke", "--user", "alice"]).code, 0);
    assert_eq!(scene.cli(&["lock", "--device", "laptop-7", "--reason", "lost"]).code, 0);
    let (_, said) = show_device(&scene).expect("curl is there");
    assert!(said.starts_with("HTTP/1.1 403 ") && said.contains("locked"), "{said}");
    scene.stays_out("office", "servers", &path.udp(4001, 5432, b"locked out"));
}

#[test]
fn c6_a_thief_with_the_certificate_and_a_client_without_one_get_nothing() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    enroll(&scene);
    let Some((code, said)) = curl(&scene, &["--include"]) else { return };
    assert!(code == 0 && said.starts_with("HTTP/1.1 401 ") && said.contains("no certificate"), "{said}");
    // The certificate, with a key of the thief's own: curl itself refuses that pair, so another client shows it.
    let own = fs::read(home(&scene).join("device.crt")).expect("it is enrolled");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let stolen = https::Shown { chain: own, key: key.serialize_der() };
    let refused = https::show(scene.host("office"), door(&scene), &stolen);
    assert!(refused.is_err(), "{refused:?}");
    // One that somebody made who calls himself the same.
    let own = rcgen::generate_simple_self_signed(["laptop-7".to_owned()]).expect("a certificate");
    let made = https::Shown { chain: own.cert.pem().into_bytes(), key: own.signing_key.serialize_der() };
    let answer = https::show(scene.host("office"), door(&scene), &made).expect("it is answered");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("not signed by an authority that is believed"), "{answer:?}");
    scene.stays_out("office", "servers", &path(&scene).udp(4000, 5432, b"nothing"));
    assert_eq!(scene.json(&["session", "list"])["sessions"].as_array().map(Vec::len), Some(0));
    scene.gateway().expect_said(&["refused at", "not signed by an authority"]);
}

#[test]
fn c9_slow_huge_and_many_clients_at_the_door_keep_nobody_else_out() {
    use std::io::Write;
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    enroll(&scene);
    let office = scene.host("office");
    let other = std::net::IpAddr::from(office.v6[0]);
    let door_v6 = SocketAddr::new(office.gateway_v6.into(), 8443);
    // Clients that say nothing, and clients that say too much, from the other address.
    let mut idle: Vec<_> = (0..40).filter_map(|_| https::dial_from(office, other, door_v6).ok()).collect();
    for stream in idle.iter_mut().take(10) {
        let _ = stream.write_all(&[0x16; 64 * 1024]);
    }
    let begun = std::time::Instant::now();
    let Some((code, said)) = show_device(&scene) else { return };
    assert!(code == 0 && said.starts_with("HTTP/1.1 303 "), "{said}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
    // Processes of one address are few at any time, and all end.
    assert!(doormen(&scene) <= 8, "{}", doormen(&scene));
    wait_until("the processes are gone", || doormen(&scene) == 0);
    let alarms = scene.status()["alarms"].to_string();
    assert!(!alarms.contains("killed for what it did"), "{alarms}");
}

/// Processes with a connection.
fn doormen(scene: &Scene) -> usize {
    children(scene).len()
}

fn children(scene: &Scene) -> Vec<i32> {
    let gateway = number(&scene.status(), "pid");
    let processes = fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let is_door = |pid: &i32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let parent = format!("PPid:\t{gateway}\n");
        read("cmdline").ends_with(b"\0doorman\0")
            && String::from_utf8_lossy(&read("status")).contains(&parent)
    };
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_door).collect()
}

#[test]
fn each_client_has_a_process_of_its_own_that_is_nobody_with_nothing_and_killing_it_costs_only_that_client() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    enroll(&scene);
    if show_device(&scene).is_none() {
        return;
    }
    let path = path(&scene);
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"known"));
    let waiting: Vec<_> =
        (0..2).map(|_| https::dial(scene.host("office"), door(&scene)).expect("it is open")).collect();
    wait_until("each has its process", || doormen(&scene) == 2);
    let field = |pid: i32, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for pid in children(&scene) {
        wait_until("it is confined", || field(pid, "Seccomp") == ["2"]);
        assert_eq!(
            (field(pid, "Uid"), field(pid, "Threads")),
            (vec!["65534".to_owned(); 4], vec!["1".to_owned()])
        );
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(pid, set), ["0000000000000000"], "{set}");
        }
        // Its end of the pair, its connection, and nothing of others.
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("root may look").filter_map(Result::ok);
        let sockets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        let sockets: std::collections::BTreeSet<_> =
            sockets.filter(|link| link.to_string_lossy().starts_with("socket:")).collect();
        assert_eq!(sockets.len(), 2, "{sockets:?}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    wait_until("they are gone", || doormen(&scene) == 0);
    drop(waiting);
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"still known"));
    assert_eq!(show_device(&scene).map(|(code, _)| code), Some(0), "the next has another process");
    assert_eq!(scene.json(&["session", "list"])["sessions"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_reload_moves_the_door_and_takes_it_away() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    let office = scene.host("office");
    let opens = |port: u16| {
        let to = SocketAddr::new(office.gateway_v4.into(), port);
        let patience = std::time::Duration::from_millis(300);
        office.namespace.run(|| std::net::TcpStream::connect_timeout(&to, patience)).is_ok()
    };
    let with = |line: &str| {
        let rules = config().rules.replace("certificate_port = 8443\n", line);
        scene.write(&Config { rules, ..config() });
        assert_eq!(scene.cli(&["reload"]).code, 0);
    };
    with("certificate_port = 9443\n");
    wait_until("it is elsewhere", || opens(9443) && !opens(8443));
    with("");
    wait_until("it is gone", || !opens(9443));
    wait_until("status knows", || super::portal::status(&scene)["certificates"] == serde_json::json!([]));
}

#[test]
fn a_browsers_file_has_the_certificate_and_nobody_reads_it_without_its_password() {
    use std::os::unix::fs::PermissionsExt;
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    enroll(&scene);
    let p12 = home(&scene).join("browser.p12").display().to_string();
    let state = home(&scene).display().to_string();
    let args = ["agent", "certificate", "--p12", &p12, "--password-stdin", "--state", &state];
    let ran = scene.host("office").namespace.run(|| gateway::run_with(&args, "correct horse\n"));
    assert_eq!(ran.code, 0, "{ran:?}");
    for path in [&p12, &pem(&scene)] {
        assert_eq!(fs::metadata(path).expect("it is there").permissions().mode() & 0o777, 0o600, "{path}");
    }
    let with = |password: &str| {
        curl(&scene, &["--include", "--cert-type", "P12", "--cert", &format!("{p12}:{password}")])
    };
    let Some((code, said)) = with("correct horse") else { return };
    assert!(code == 0 && said.starts_with("HTTP/1.1 303 "), "{said}");
    scene.crosses("office", "servers", &path(&scene).udp(4000, 5432, b"known"));
    assert_eq!(with("wrong").map(|(code, _)| code), Some(58), "the file cannot be read");
    // Enrolled again with another key, the device has no such certificate any more.
    let kept = fs::read(pem(&scene)).expect("it is there");
    enroll(&scene);
    fs::write(pem(&scene), kept).expect("it is written");
    let (_, said) = show_device(&scene).expect("curl is there");
    assert!(
        said.starts_with("HTTP/1.1 403 ") && said.contains("was enrolled again, with another key"),
        "{said}"
    );
}
