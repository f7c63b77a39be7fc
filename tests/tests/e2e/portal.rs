//! The portal, as clients in the zones meet it.

pub mod browser;
mod hostile;
mod passkeys;
mod passkeys_browser;
mod rogue;
mod sign_in;
mod testssl;

use std::fs;
use std::net::SocketAddr;

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::https::{self, dial, get};
use bulkhead_tests::scene::{Scene, number, office_and_servers};
use bulkhead_tests::wait_until;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use serde_json::Value;

/// A portal in the office, and a way that needs nobody.
pub fn config() -> Config {
    let portal = format!("[portal]\nports = [\"office\"]\nredirect_port = 80\nname = \"{}\"\n", https::NAME);
    Config::new(allow("plain", "office", "servers", "tcp/80 udp/53") + &portal)
}

/// Where it listens, for clients of the office.
pub fn place(scene: &Scene, family: Family) -> SocketAddr {
    let host = scene.host("office");
    let address = match family {
        Family::V4 => host.gateway_v4.into(),
        Family::V6 => host.gateway_v6.into(),
    };
    SocketAddr::new(address, 443)
}

/// What `status` says of it.
pub fn status(scene: &Scene) -> Value {
    scene.json(&["status"])["portal"].clone()
}

/// Waits until it listens everywhere.
pub fn listens(scene: &Scene) {
    let places = || status(scene)["listening"].as_array().map_or(0, Vec::len);
    wait_until("the portal listens", || places() == 4);
}

#[test]
fn n1_without_a_session_the_portal_is_there_for_its_segment_and_for_no_other() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    for family in Family::BOTH {
        let page = get(scene.host("office"), place(&scene, family), "/", None);
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.body.contains("<h1>Sign in</h1>") && page.body.contains("in <strong>office</strong>"));
        assert!(
            page.body.contains("tcp/80") && page.body.contains("Open without signing in"),
            "{}",
            page.body
        );
        let hosts = [scene.host_address("office", family).to_string()];
        assert!(page.body.contains(&hosts[0]), "it says from where: {}", page.body);
    }
    // And nothing else of the gateway is, nor behind it what asks who it is.
    let office = scene.host("office");
    for port in [22, 53, 8443] {
        let address = SocketAddr::new(office.gateway_v4.into(), port);
        let dialled = office
            .namespace
            .run(|| std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300)));
        assert!(dialled.is_err(), "{address}");
    }
    // Steering lets nobody else's packets to it.
    let servers = scene.host("servers");
    for address in [place(&scene, Family::V4), SocketAddr::new(servers.gateway_v4.into(), 443)] {
        let dialled = servers
            .namespace
            .run(|| std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300)));
        assert!(dialled.is_err(), "{address}");
    }
}

/// As in containers whose list of system calls has none for the scheduler.
#[test]
fn where_time_slices_are_refused_the_portal_did_not_begin() {
    let refuse = || {
        let rules = [(libc::SYS_sched_setattr, Vec::new())].into();
        let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        let architecture = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        apply_filter(&program).unwrap();
    };
    // It holds for a thread and what it starts.
    let scene = std::thread::spawn(move || {
        refuse();
        let Some(scene) = Scene::start(&config()) else { return };
        listens(&scene);
        assert_eq!(get(scene.host("office"), place(&scene, Family::V4), "/", None).status, 200);
    });
    scene.join().unwrap();
}

#[test]
fn the_portals_process_is_nobody_with_nothing() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    let pid = number(&status(&scene), "pid");
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let field = |name: &str| {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
        line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid"), ["65534"; 4]);
    assert_eq!(field("Gid"), ["65534"; 4]);
    assert_eq!(field("Groups"), [""; 0]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(
        (field("NoNewPrivs"), field("Seccomp"), field("Threads")),
        (vec!["1".to_owned()], vec!["2".to_owned()], vec!["1".to_owned()])
    );
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("root may read it");
    assert_eq!(environment, b"");
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).expect("root may read it");
    assert!(arguments.ends_with(b"\0portal\0"), "{:?}", String::from_utf8_lossy(&arguments));
    // It answers after all that: what is shut is not what it needs.
    assert_eq!(get(scene.host("office"), place(&scene, Family::V4), "/style.css", None).status, 200);
}

#[test]
fn a_portal_that_is_killed_is_started_again_and_nothing_else_notices() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    let mut open = scene.open_tcp("office", "servers", Family::V4, (4000, 80));
    let (before, pid) = (status(&scene), number(&status(&scene), "pid"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    open.talks();
    wait_until("another process listens", || {
        let now = status(&scene);
        now["pid"] != before["pid"] && now["listening"].as_array().is_some_and(|places| places.len() == 4)
    });
    let after = status(&scene);
    assert_eq!(number(&after, "restarts"), 1);
    assert_eq!(after["fingerprint"], before["fingerprint"], "the same certificate");
    assert_eq!(get(scene.host("office"), place(&scene, Family::V4), "/", None).status, 200);
    open.talks();
    let alarms = scene.json(&["status"])["alarms"].to_string();
    assert!(alarms.contains("the portal does not run: it was killed by SIGKILL"), "{alarms}");
}

#[test]
fn a_reload_moves_the_portal_and_takes_it_away() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    let office = scene.host("office");
    let moved = Config { rules: config().rules.replace("redirect_port = 80", "port = 8443"), ..config() };
    scene.write(&moved);
    assert_eq!(scene.cli(&["reload"]).code, 0);
    let elsewhere = SocketAddr::new(office.gateway_v4.into(), 8443);
    wait_until("it listens elsewhere", || dial(office, elsewhere).is_ok());
    assert_eq!(get(office, elsewhere, "/", None).status, 200);
    scene.write(&Config::new(allow("plain", "office", "servers", "tcp/80")));
    assert_eq!(scene.cli(&["reload"]).code, 0);
    wait_until("there is none", || status(&scene).is_null());
    let dialled = office
        .namespace
        .run(|| std::net::TcpStream::connect_timeout(&elsewhere, std::time::Duration::from_millis(300)));
    assert!(dialled.is_err());
}

#[test]
fn in_the_clear_browsers_are_sent_to_tls_and_nothing_else_is_taken() {
    use std::io::{Read, Write};
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    let office = scene.host("office");
    let plain = SocketAddr::new(office.gateway_v4.into(), 80);
    let said = |request: String| {
        let mut stream = dial(office, plain).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let asked = |host: &str| said(format!("GET /generate_204 HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for (host, location) in [
        ("captive.example.org", format!("https://{}/", https::NAME)),
        (&office.gateway_v4.to_string(), format!("https://{}/", office.gateway_v4)),
    ] {
        let text = asked(host);
        assert!(
            text.starts_with("HTTP/1.1 302 ") && text.contains(&format!("location: {location}\r\n")),
            "{text}"
        );
    }
    let form = said("POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nuser=a".to_owned());
    assert!(form.starts_with("HTTP/1.1 403 "), "{form}");
}

#[test]
fn an_address_that_comes_later_is_listened_at_too() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    let office = scene.host("office");
    scene.lab.gateway.add_address("office", "10.1.0.9/24".parse().unwrap()).expect("an address");
    wait_until("it listens there", || status(&scene)["listening"].as_array().is_some_and(|l| l.len() == 6));
    let later: SocketAddr = "10.1.0.9:443".parse().unwrap();
    assert_eq!(get(office, later, "/", None).status, 200);
    assert_eq!(number(&status(&scene), "restarts"), 0, "by the same process");
}

#[test]
fn certificate_files_are_taken_and_followed_and_a_broken_one_is_told_and_changes_nothing() {
    let Some(mut scene) = Scene::build(office_and_servers()) else { return };
    let directory = scene.config().parent().expect("a directory").to_owned();
    let (certificate, key) = (directory.join("c.pem"), directory.join("k.pem"));
    let write = || {
        let made = rcgen::generate_simple_self_signed([https::NAME.to_owned()]).expect("a certificate");
        fs::write(&key, made.signing_key.serialize_pem()).expect("it is written");
        fs::write(&certificate, made.cert.pem()).expect("it is written");
    };
    write();
    let files = format!("certificate = {certificate:?}\nkey = {key:?}\n");
    scene.run(&Config { rules: config().rules + &files, ..config() });
    listens(&scene);
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let page = get(office, portal, "/", None);
    assert_eq!(page.header("strict-transport-security"), Some("max-age=31536000"));
    let before = status(&scene);
    fs::write(&certificate, "no certificate").expect("it is written");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(status(&scene)["pid"], before["pid"], "the old one serves");
    assert_eq!(get(office, portal, "/", None).status, 200);
    write();
    wait_until("another certificate is shown", || {
        let now = status(&scene);
        now["fingerprint"] != before["fingerprint"]
            && now["listening"].as_array().is_some_and(|places| places.len() == 4)
    });
    assert_eq!(get(office, portal, "/", None).status, 200);
}

#[test]
fn a_portal_that_cannot_begin_is_an_alarm_and_the_gateway_works_without() {
    let rules = config().rules.replace("redirect_port = 80", "user = \"nobody-is-called-so\"");
    let Some(scene) = Scene::start(&Config { rules, ..config() }) else { return };
    wait_until("it is told", || {
        status(&scene)["trouble"].as_str().is_some_and(|t| t.contains("there is no user nobody-is-called-so"))
    });
    assert!(scene.cli(&["status"]).stdout.contains("DOES NOT RUN"));
    let mut open = scene.open_tcp("office", "servers", Family::V4, (4000, 80));
    open.talks();
}
