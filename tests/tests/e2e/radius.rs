//! RADIUS accounting, from a switch in a zone to the wire. The switch is FreeRADIUS's `radclient`, where it is installed.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Family, Path};
use bulkhead_tests::scene::{Scene, office_and_servers, zone};
use bulkhead_tests::wait_until;

fn stage() -> Option<(Scene, Config)> {
    let mut zones = office_and_servers();
    zones.push(zone("switches", 3));
    let mut scene = Scene::build(zones)?;
    if Command::new("radclient").arg("-v").output().is_err() {
        let name = std::thread::current().name().unwrap_or("a scenario").to_owned();
        let _ = writeln!(std::io::stderr(), "SKIP {name}: radclient (freeradius-utils) is not installed");
        return None;
    }
    let secret = scene.config().with_file_name("switch.secret");
    std::fs::write(&secret, "s3cret").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let rules = allow("staff", "office", "servers", "udp/5432")
        + "users = { groups = [\"staff\"] }\n"
        + &format!(
            "[identity.radius]\nports = [\"switches\"]\n[identity.radius.clients.switch]\naddress = \"{}\"\n\
             secret_file = \"{}\"\ngroups = \"staff\"\n",
            scene.host_address("switches", Family::V4),
            secret.display()
        );
    let config = Config::new(rules);
    scene.run(&config);
    Some((scene, config))
}

/// The switch says something. Returns whether it was answered.
fn tell(scene: &Scene, secret: &str, (status, session): (&str, &str), path: &Path, more: &str) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let attributes = format!(
        "Acct-Status-Type = {status}\nAcct-Session-Id = \"{session}\"\nUser-Name = \"alice\"\nFramed-IP-Address = {}\n\
         Event-Timestamp = {now}\n{more}\n",
        path.source
    );
    let host = scene.host("switches");
    let to = format!("{}:1813", host.gateway_v4);
    let mut command = Command::new("radclient");
    command.args(["-t", "1", "-r", "2", &to, "acct", secret]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = host.namespace.run(|| command.spawn()).unwrap();
    child.stdin.take().unwrap().write_all(attributes.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.contains("Received Accounting-Response") && output.status.success()
}

/// As it asks radclient to sign.
const SIGNED: &str = "Message-Authenticator = 0x00";

fn heard(scene: &Scene, secret: &str, status: &str, path: &Path) -> bool {
    tell(scene, secret, (status, "s1"), path, SIGNED)
}

#[test]
fn n2_n6_a_switch_says_who_has_come_and_who_has_gone() {
    let Some((scene, config)) = stage() else { return };
    let path = scene.path("office", "servers", Family::V4);
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"nobody yet"));
    wait_until("the gateway listens", || heard(&scene, "s3cret", "Start", &path));
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"alice"));
    let sessions = scene.json(&["session", "list"]);
    let session = &sessions["sessions"][0];
    assert_eq!((&session["user"], &session["proof"]), (&"alice".into(), &"radius".into()), "{sessions}");
    assert!(heard(&scene, "s3cret", "Interim-Update", &path));
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"still alice"));
    assert!(heard(&scene, "s3cret", "Stop", &path));
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"on the live connection"));
    assert!(heard(&scene, "s3cret", "Start", &path), "it is answered");
    scene.stays_out("office", "servers", &path.udp(4001, 5432, b"but over is over"));
    // Another login of hers; a client that may tell no more takes it along.
    assert!(tell(&scene, "s3cret", ("Start", "s2"), &path, SIGNED));
    scene.crosses("office", "servers", &path.udp(4002, 5432, b"alice again"));
    scene.reload(&Config {
        rules: config.rules.split("[identity.radius]").next().unwrap().to_owned(),
        ..config
    });
    wait_until("her session ends", || {
        scene.json(&["session", "list"])["sessions"].as_array().is_some_and(Vec::is_empty)
    });
    scene.nothing_arrived("servers", "office");
}

#[test]
fn a_switch_without_the_secret_or_without_a_message_authenticator_is_not_heard() {
    let Some((scene, _)) = stage() else { return };
    let path = scene.path("office", "servers", Family::V4);
    wait_until("the gateway listens", || heard(&scene, "s3cret", "Accounting-On", &path));
    assert!(!heard(&scene, "wrong", "Start", &path));
    assert!(!tell(&scene, "s3cret", ("Start", "s1"), &path, ""), "RFC 2866 alone is not enough");
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"nobody"));
    let alarms = scene.status()["alarms"].to_string();
    assert!(alarms.contains("RADIUS client switch is not heard"), "{alarms}");
    assert!(!alarms.contains("s3cret"));
    scene.nothing_arrived("servers", "office");
}
