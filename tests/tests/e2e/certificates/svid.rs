//! Workloads that show SPIFFE X.509-SVIDs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::gateway;
use bulkhead_tests::https::{self, Shown};
use bulkhead_tests::scene::{Scene, office_and_servers, text};
use bulkhead_tests::wait_until;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;
use time::OffsetDateTime;

use super::{door, listens, path, portal, show};

/// The authority of a trust domain.
pub struct TrustDomain {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl TrustDomain {
    pub fn new() -> TrustDomain {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "example.org");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        TrustDomain { issuer: Issuer::new(params, key), pem }
    }

    /// An SVID with its key.
    pub fn svid(&self, id: &str, lasts: Duration) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(60);
        params.not_after = OffsetDateTime::now_utc() + lasts;
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }
}

/// A gateway that knows one workload.
pub fn scene(start: impl FnOnce(&mut Scene, &Config)) -> Option<(Scene, TrustDomain)> {
    let mut scene = Scene::build(office_and_servers())?;
    let domain = TrustDomain::new();
    let bundle = scene.config().with_file_name("example.org.pem");
    fs::write(&bundle, &domain.pem).expect("it is written");
    let config = config(&bundle, "batch");
    start(&mut scene, &config);
    Some((scene, domain))
}

fn config(bundle: &std::path::Path, tag: &str) -> Config {
    let rules = allow("batch", "office", "servers", "udp/5432")
        + "require = { devices = { tags = [\"batch\"] } }\n"
        + &allow("other", "office", "servers", "udp/53")
        + "require = { devices = { tags = [\"other\"] } }\n"
        + &format!("[[workload]]\nname = \"billing\"\nspiffe = \"{ID}\"\ntags = [\"{tag}\"]\n")
        + &format!("[identity.trust_domains.\"example.org\"]\nbundle = {bundle:?}\n");
    Config::new(rules + &portal())
}

pub const ID: &str = "spiffe://example.org/billing/api";

fn files(scene: &Scene, (certificate, key): &(rcgen::Certificate, KeyPair)) -> (PathBuf, PathBuf) {
    let at = |name: &str| scene.config().with_file_name(name);
    let (certificate_file, key_file) = (at("svid.pem"), at("svid.key"));
    fs::write(&certificate_file, certificate.pem()).expect("it is written");
    fs::write(&key_file, key.serialize_pem()).expect("it is written");
    (certificate_file, key_file)
}

#[test]
fn a_workload_is_known_by_its_svid_and_no_longer_than_that_holds() {
    let Some((scene, domain)) = scene(|scene, config| scene.run(config)) else { return };
    listens(&scene);
    let path = path(&scene);
    let before = scene.drops();
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"before"));
    scene.expect_drops(&before, &[("not_authenticated", 1)]);
    let (certificate, key) = files(&scene, &domain.svid(ID, Duration::from_secs(9)));
    let Some((code, said)) = show(&scene, &certificate, &key) else { return };
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("workload billing ({ID}) is known at ")), "{said}");
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"after"));
    scene.stays_out("office", "servers", &path.udp(4000, 53, b"not its"));
    let session = scene.json(&["session", "list"])["sessions"][0].clone();
    assert_eq!(
        (text(&session, "proof"), text(&session["device"], "credential")),
        ("spiffe".into(), ID.into())
    );
    assert!(session["left_s"].as_u64().is_some_and(|left| left <= 9), "{session}");
    let address = scene.host_address("office", Family::V4).to_string();
    let explained =
        scene.cli(&["explain", "--from", &address, "--to", "servers", "--port", "udp/5432"]).stdout;
    assert!(explained.contains(ID), "{explained}");
    // It shows another in time, and the connection goes on.
    let (certificate, key) = files(&scene, &domain.svid(ID, Duration::from_secs(14)));
    assert_eq!(show(&scene, &certificate, &key).map(|(code, _)| code), Some(0));
    std::thread::sleep(Duration::from_secs(9));
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"the first one has ended"));
    std::thread::sleep(Duration::from_secs(6));
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"the second one too"));
}

#[test]
fn a_workload_could_not_be_locked_out_by_the_id_that_it_shows() {
    let Some((scene, domain)) = scene(|scene, config| scene.run(config)) else { return };
    listens(&scene);
    let path = path(&scene);
    let (certificate, key) = files(&scene, &domain.svid(ID, Duration::from_secs(3600)));
    let Some((code, said)) = show(&scene, &certificate, &key) else { return };
    assert_eq!(code, 0, "{said}");
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"billing"));
    let other = scene.cli(&["lock", "--spiffe", "spiffe://example.org/billing"]);
    assert!(other.code == 0 && other.stdout.contains("0 session(s) ended"), "{other:?}");
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"another workload"));
    let told = scene.cli(&["lock", "--spiffe", ID, "--reason", "its key has leaked"]);
    let words = format!("workload {ID} is locked out; 1 session(s) ended");
    assert!(told.code == 0 && told.stdout.contains(&words), "{told:?}");
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"on the live connection"));
    let (_, said) = show(&scene, &certificate, &key).expect("curl is there");
    assert!(said.contains("locked") && scene.json(&["session", "list"])["sessions"] == json!([]), "{said}");
    let wrong = scene.cli(&["lock", "--spiffe", "spiffe://Example.org/billing"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("its trust domain has"), "{wrong:?}");
    assert_eq!(scene.cli(&["unlock", "--spiffe", ID]).code, 0);
    assert_eq!(show(&scene, &certificate, &key).map(|(code, _)| code), Some(0));
    scene.crosses("office", "servers", &path.udp(4001, 5432, b"with a new key"));
}

#[test]
fn an_svid_of_nobody_known_or_of_another_authority_opens_nothing_and_each_reason_is_told() {
    let Some((scene, domain)) = scene(|scene, config| scene.run(config)) else { return };
    listens(&scene);
    let hour = Duration::from_secs(3600);
    let elsewhere = TrustDomain::new();
    let mut expired = domain.svid(ID, Duration::ZERO);
    std::thread::sleep(Duration::from_millis(1100));
    for ((certificate, key), told) in [
        (
            domain.svid("spiffe://example.org/other", hour),
            "no workload is configured as spiffe://example.org/other",
        ),
        (
            domain.svid("spiffe://example.com/billing/api", hour),
            "nothing is configured of the trust domain example.com",
        ),
        (domain.svid("spiffe://example.org/billing/../api", hour), "it names no SPIFFE ID"),
        (elsewhere.svid(ID, hour), "it was not signed by an authority that is believed"),
        (std::mem::replace(&mut expired, domain.svid(ID, hour)), "it has expired"),
    ] {
        let shown = Shown { chain: certificate.pem().into_bytes(), key: key.serialize_der() };
        let answer = https::show(scene.host("office"), door(&scene), &shown).expect("it is answered");
        assert_eq!(answer.status, 403, "{told}: {answer:?}");
        assert!(answer.body.contains(told), "{told}: {answer:?}");
    }
    scene.stays_out("office", "servers", &path(&scene).udp(4000, 5432, b"nothing"));
    let audit = scene.cli(&["audit", "log", "-o", "json"]).stdout;
    assert_eq!(audit.matches("sign_in_refused").count(), 5, "{audit}");
}

#[test]
fn authorities_are_rotated_without_a_reload_and_a_reload_that_says_otherwise_ends_the_session() {
    let Some((scene, before)) = scene(|scene, config| scene.run(config)) else { return };
    listens(&scene);
    let (hour, after) = (Duration::from_secs(3600), TrustDomain::new());
    let bundle = scene.config().with_file_name("example.org.pem");
    let shows = |domain: &TrustDomain| {
        let (certificate, key) = domain.svid(ID, hour);
        let shown = Shown { chain: certificate.pem().into_bytes(), key: key.serialize_der() };
        https::show(scene.host("office"), door(&scene), &shown).expect("it is answered").status
    };
    assert_eq!((shows(&before), shows(&after)), (303, 403));
    fs::write(&bundle, &after.pem).expect("it is written");
    assert_eq!((shows(&before), shows(&after)), (403, 303));
    fs::write(&bundle, "not a bundle").expect("it is written");
    assert_eq!(shows(&after), 503);
    assert!(scene.status()["alarms"].to_string().contains("no SVID of example.org can be verified"));
    let path = path(&scene);
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"it is known still"));
    scene.write(&config(&bundle, "batch"));
    assert_eq!(scene.cli(&["reload"]).code, 0);
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"the policy says the same"));
    scene.write(&config(&bundle, "other"));
    assert_eq!(scene.cli(&["reload"]).code, 0);
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"it says otherwise"));
    scene.stays_out("office", "servers", &path.udp(4000, 53, b"and it has not shown itself again"));
    assert_eq!(scene.json(&["session", "list"])["sessions"].as_array().map(Vec::len), Some(0));
}

#[test]
fn the_agent_shows_an_svid_whenever_its_file_changes_and_before_the_session_ends() {
    let Some((scene, domain)) = scene(|scene, config| scene.run(config)) else { return };
    listens(&scene);
    let at = door(&scene).to_string();
    let fingerprint = text(&crate::portal::status(&scene), "fingerprint");
    let (certificate, key) =
        files(&scene, &domain.svid("spiffe://example.org/other", Duration::from_secs(3600)));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let args =
        ["agent", "svid", "--cert", &certificate, "--key", &key, "--at", &at, "--fingerprint", &fingerprint];
    let once = |args: &[&str]| {
        let all = [args, &["--once"]].concat();
        scene.host("office").namespace.run(|| gateway::run_with(&all, ""))
    };
    let refused = once(&args);
    assert!(refused.code == 1 && refused.stderr.contains("the gateway says 403"), "{refused:?}");
    assert!(
        refused.stderr.contains("no workload is configured as spiffe://example.org/other"),
        "{refused:?}"
    );
    files(&scene, &domain.svid(ID, Duration::from_secs(3600)));
    let known = once(&args);
    assert!(
        known.code == 0 && known.stdout.contains(&format!("workload billing ({ID}) is known at")),
        "{known:?}"
    );
    let wrong = "ab".repeat(32);
    let other = once(&[&args[..8], &["--fingerprint", &wrong]].concat());
    assert!(
        other.code == 1 && other.stderr.contains("another certificate than the fingerprint says"),
        "{other:?}"
    );
    assert_eq!(scene.cli(&["session", "revoke", "--all"]).code, 0);
    // It runs, as beside a SPIRE agent.
    files(&scene, &domain.svid("spiffe://example.org/other", Duration::from_secs(3600)));
    let started = scene.host("office").namespace.run(|| {
        let mut command = std::process::Command::new(gateway::program());
        command.args(args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()
    });
    let mut agent = Running(started.expect("it starts"));
    let path = path(&scene);
    std::thread::sleep(Duration::from_millis(500));
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"it is not this workload"));
    files(&scene, &domain.svid(ID, Duration::from_secs(8)));
    let sessions = || scene.json(&["session", "list"])["sessions"].as_array().map_or(0, Vec::len);
    wait_until("it has shown the new one", || sessions() == 1);
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"known"));
    files(&scene, &domain.svid(ID, Duration::from_secs(20)));
    std::thread::sleep(Duration::from_secs(10));
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"the first one has ended long ago"));
    assert!(agent.0.try_wait().expect("it is ours").is_none(), "it runs on");
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
