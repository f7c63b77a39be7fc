//! What `testssl.sh` finds at the portal and at the certificate port.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead_tests::config::Config;
use bulkhead_tests::frames::Family;
use bulkhead_tests::https;
use bulkhead_tests::scene::{Scene, office_and_servers, text};
use bulkhead_tests::wait_until;
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::Value;
use time::OffsetDateTime;

use super::{config, listens, place, status};

/// The longest that one run takes, seconds; alone it takes about 60.
const PATIENCE_S: &str = "400";
/// Protocols; forward secrecy; who chooses, and what; what is shown; every vulnerability that it knows of.
const CHECKS: [&str; 5] =
    ["--protocols", "--pfs", "--server-preference", "--server-defaults", "--vulnerable"];
/// What is no fault of the gateway's: the installed openssl has no GOST, which nobody is offered either.
const EXPLAINED: [&str; 1] = ["engine_problem"];
/// With a certificate of the gateway's own making, which is known by its fingerprint: no authority has signed it, so none could
/// revoke it.
const EXPLAINED_OF_OWN: [&str; 3] = ["engine_problem", "cert_chain_of_trust", "cert_revocation"];
/// What it says when it has not found out whether sessions are resumed, which is only information. `openssl s_client -sess_out`
/// has nothing to send, so it hangs up, on a busy machine before the ticket of TLS 1.3 is there, with any server; with the
/// empty file that it leaves behind, `-sess_in` ends before it connects.
const NOT_FOUND_OUT: (&str, &str, &str) =
    ("sessionresumption_ticket", "WARN", "check failed because of connect problem");
const NOT_OFFERED: &str = "not offered";
/// What it says of itself to be good.
const GOOD: [&str; 17] = [
    "SSLv2",
    "SSLv3",
    "TLS1_3",
    "PFS",
    "heartbleed",
    "CCS",
    "ticketbleed",
    "ROBOT",
    "secure_renego",
    "secure_client_renego",
    "CRIME_TLS",
    "BREACH",
    "POODLE_SSL",
    "DROWN",
    "LOGJAM",
    "LUCKY13",
    "RC4",
];

/// As Debian calls it, or as its makers do.
fn program() -> Option<String> {
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", "command -v testssl || command -v testssl.sh"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    output.status.success().then_some(path)
}

/// A portal with its port for certificates; `None` with a line where the program is missing.
fn scene(test: &str) -> Option<(String, Scene)> {
    let Some(program) = program() else {
        let _ = writeln!(std::io::stderr(), "SKIP {test}: testssl.sh is not installed");
        return None;
    };
    Some((program, Scene::build(office_and_servers())?))
}

/// Runs the gateway with these lines more in `[portal]`.
fn run(scene: &mut Scene, more: &str) {
    let rules = config().rules + "certificate_port = 8443\n" + more;
    scene.run(&Config { rules, ..config() });
    listens(scene);
    wait_until("the door is open", || status(scene)["certificates"].as_array().is_some_and(|l| l.len() == 2));
}

/// An authority, and a certificate of it with its key, as a company gives them to its servers; PEM.
fn issued() -> [(&'static str, String); 3] {
    let key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let above = authority.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, key);
    let own = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([https::NAME.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, https::NAME);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.crl_distribution_points =
        vec![CrlDistributionPoint { uris: vec!["http://pki.test/revoked.crl".to_owned()] }];
    params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(3600);
    params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(90 * 86_400);
    let certificate = params.signed_by(&own, &issuer).expect("a certificate").pem();
    [("authority.pem", above), ("portal.pem", certificate), ("portal.key", own.serialize_pem())]
}

/// What it finds there, by name.
fn findings(
    program: &str,
    scene: &Scene,
    at: SocketAddr,
    more: &[&str],
) -> BTreeMap<String, (String, String)> {
    let file = scene.state().with_file_name("testssl.json");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", PATIENCE_S, program, "--quiet", "--color=0", "--warnings=batch"]);
    command.arg("--nodns=none").arg(format!("--ip={}", at.ip()));
    command.args(CHECKS).args(more).arg("--jsonfile").arg(&file);
    command.arg(format!("https://{}:{}", https::NAME, at.port()));
    // It finds out what openssl can do by connecting to the name `invalid.`, some forty times before it says a word; where
    // nobody answers questions of DNS, each takes ten seconds. Here it connects to nobody instead.
    command.env("NXCONNECT", "127.0.0.1:0");
    command.stdin(Stdio::null());
    let output = scene.host("office").namespace.run(|| command.output()).expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let list = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Vec<Value>>(&bytes).ok());
    let list = list.unwrap_or_else(|| panic!("{}: {said}", output.status));
    let found: BTreeMap<_, _> =
        list.iter().map(|row| (text(row, "id"), (text(row, "severity"), text(row, "finding")))).collect();
    assert!(found.contains_key("scanTime"), "it did not end: {said}");
    found
}

/// It has looked at this very server, and found nothing that is not explained.
fn is_clean(scene: &Scene, found: &BTreeMap<String, (String, String)>, explained: &[&str]) {
    let told: Vec<_> = found
        .iter()
        .filter(|(_, (severity, _))| !["OK", "INFO", "DEBUG"].contains(&severity.as_str()))
        .filter(|(id, _)| !explained.contains(&id.as_str()))
        .filter(|(id, (severity, finding))| {
            (id.as_str(), severity.as_str(), finding.as_str()) != NOT_FOUND_OUT
        })
        .collect();
    assert!(told.is_empty(), "{told:#?}");
    let is = |id: &str| found.get(id).unwrap_or_else(|| panic!("{id} was not looked at: {found:#?}"));
    for id in GOOD {
        assert_eq!(is(id).0, "OK", "{id}: {:?}", is(id));
    }
    for id in ["TLS1", "TLS1_1"] {
        assert_eq!(is(id).1, NOT_OFFERED, "{id}");
    }
    let fingerprint = text(&status(scene), "fingerprint").replace(':', "");
    assert_eq!(is("cert_fingerprintSHA256").1, fingerprint);
}

#[test]
fn c8_testssl_finds_nothing_at_the_portal() {
    let Some((program, mut scene)) = scene("c8_testssl_finds_nothing_at_the_portal") else { return };
    let [authority, certificate, key] = issued().map(|(name, pem)| {
        let path = scene.config().with_file_name(name);
        fs::write(&path, pem).expect("it is written");
        path.display().to_string()
    });
    run(&mut scene, &format!("certificate = {certificate:?}\nkey = {key:?}\n"));
    let portal = place(&scene, Family::V4);
    let found = findings(&program, &scene, portal, &["--headers", "--add-ca", &authority]);
    is_clean(&scene, &found, &EXPLAINED);
    assert_eq!(found["cert_chain_of_trust"].0, "OK", "{:?}", found["cert_chain_of_trust"]);
    assert!(found["TLS1_2"].1.starts_with("offered"), "{:?}", found["TLS1_2"]);
    // Everything that is offered is an AEAD with forward secrecy.
    let suites = &found["PFS_ciphers"].1;
    assert_eq!(suites.split_whitespace().count(), 6, "{suites}");
    assert!(
        suites.split_whitespace().all(|name| name.contains("GCM") || name.contains("POLY1305")),
        "{suites}"
    );
    // Whoever asks so often was not held up: these are no requests.
    assert_eq!(https::get(scene.host("office"), portal, "/", None).status, 200);
}

#[test]
fn c8_testssl_finds_nothing_at_the_certificate_port() {
    let Some((program, mut scene)) = scene("c8_testssl_finds_nothing_at_the_certificate_port") else {
        return;
    };
    run(&mut scene, "");
    let door = SocketAddr::new(place(&scene, Family::V4).ip(), 8443);
    let found = findings(&program, &scene, door, &[]);
    is_clean(&scene, &found, &EXPLAINED_OF_OWN);
    assert_eq!(found["TLS1_2"].1, NOT_OFFERED, "1.3 only");
    assert_eq!(found["PFS_ciphers"].1.split_whitespace().count(), 3, "{:?}", found["PFS_ciphers"]);
    let alarms = scene.status()["alarms"].to_string();
    assert!(!alarms.contains("killed for what it did"), "{alarms}");
}
