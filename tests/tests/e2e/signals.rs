//! Security events, from a transmitter that is polled (RFC 8936) to the wire.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path as File;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead::tokens::sign::Signer;
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::{Scene, office_and_servers};
use bulkhead_tests::wait_until;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const ISSUER: &str = "https://idp.example";
const AUDIENCE: &str = "https://access.example";

/// A transmitter on the gateway's own loopback.
struct Transmitter {
    signer: Signer,
    port: u16,
    waiting: Arc<Mutex<VecDeque<(String, String)>>>,
    /// Bodies of the polls.
    polls: Arc<Mutex<Vec<Value>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    ids: AtomicU32,
}

impl Transmitter {
    /// Starts it, and writes what the gateway has to know of it into the scene's directory.
    fn start(scene: &Scene) -> Transmitter {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let signer = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
        let directory = scene.config().parent().unwrap().to_owned();
        write(&directory.join("ca.pem"), &made.cert.pem());
        write(&directory.join("keys.json"), &json!({ "keys": [signer.public_jwk()] }).to_string());
        write(&directory.join("poll"), "poll-s3cret");
        let listener = scene.lab.gateway.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (waiting, polls) = (Arc::<Mutex<VecDeque<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let thread = {
            let (waiting, polls, stopping) = (waiting.clone(), polls.clone(), stopping.clone());
            let config = Arc::new(config);
            std::thread::spawn(move || {
                while !stopping.load(Ordering::SeqCst) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            let _ = serve(stream, &config, &waiting, &polls, &stopping);
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            })
        };
        let ids = AtomicU32::new(0);
        Transmitter { signer, port, waiting, polls, stopping, thread: Some(thread), ids }
    }

    /// What the configuration says of it.
    fn configuration(&self, scene: &Scene) -> String {
        let directory = scene.config().parent().unwrap().display().to_string();
        format!(
            "[identity.transmitters.idp]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
             keys_file = \"{directory}/keys.json\"\nca_file = \"{directory}/ca.pem\"\n\
             poll = \"https://localhost:{}/poll\"\npoll_token_file = \"{directory}/poll\"\nposture = \"compliant\"\n",
            self.port
        )
    }

    fn token(&self, id: &str, event: &str, more: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "jti": id, "iat": now,
            "sub_id": { "format": "email", "email": "alice@example.org" },
            "events": { format!("{CAEP}{event}"): more },
        });
        self.signer.sign("secevent+jwt", &claims)
    }

    /// Sends an event, and returns the token.
    fn send(&self, event: &str, more: Value) -> String {
        let id = format!("id-{}", self.ids.fetch_add(1, Ordering::Relaxed));
        let token = self.token(&id, event, more);
        self.send_token(&id, &token);
        token
    }

    fn send_token(&self, id: &str, token: &str) {
        self.waiting.lock().unwrap().push_back((id.to_owned(), token.to_owned()));
    }

    /// Waits until a poll has told what became of this one.
    fn told(&self, id: &str) -> Result<(), Value> {
        let mut told = None;
        wait_until("a poll tells what became of the event", || {
            for poll in self.polls.lock().unwrap().iter() {
                if poll["ack"].as_array().is_some_and(|ack| ack.iter().any(|acked| acked == id)) {
                    told = Some(Ok(()));
                } else if let Some(why) = poll["setErrs"].get(id) {
                    told = Some(Err(why.clone()));
                }
            }
            told.is_some()
        });
        told.unwrap()
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(path: &File, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Answers one request: at once when there is an event, else after a while.
fn serve(
    stream: TcpStream,
    config: &Arc<rustls::ServerConfig>,
    waiting: &Mutex<VecDeque<(String, String)>>,
    polls: &Mutex<Vec<Value>>,
    stopping: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let connection = rustls::ServerConnection::new(config.clone()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut reader = BufReader::new(&mut stream);
    let (mut length, mut authorized) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap_or(0);
        }
        authorized |= line == "authorization: bearer poll-s3cret";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    polls.lock().unwrap().push(serde_json::from_slice(&body)?);
    let until = Instant::now() + Duration::from_secs(6);
    while waiting.lock().unwrap().is_empty() && Instant::now() < until && !stopping.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let sets: serde_json::Map<String, Value> =
        waiting.lock().unwrap().drain(..).map(|(id, token)| (id, token.into())).collect();
    let (status, body) =
        if authorized { (200, json!({ "sets": sets }).to_string()) } else { (401, "{}".to_owned()) };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

fn rules() -> String {
    allow("alice", "office", "servers", "udp/5432")
        + "users = \"alice@example.org\"\n"
        + &allow("fresh", "office", "servers", "udp/22")
        + "users = \"any\"\nrequire = { mfa_max_age = \"1h\" }\n"
        + &allow("calm", "office", "servers", "udp/8443")
        + "users = \"any\"\nrequire = { risk_below = 50 }\n"
        + &allow("healthy", "office", "servers", "udp/445")
        + "require = { posture = \"compliant\" }\n"
        + "[postures.compliant]\ndisk_encrypted = true\n"
}

fn stage() -> Option<(Scene, Transmitter)> {
    let mut scene = Scene::build(office_and_servers())?;
    let transmitter = Transmitter::start(&scene);
    let config = Config::new(rules() + &transmitter.configuration(&scene));
    scene.run(&config);
    Some((scene, transmitter))
}

fn sign_in(scene: &Scene, source: std::net::IpAddr, user: &str) {
    let source = source.to_string();
    let more = ["--user", user, "--mfa-age", "1s", "--risk", "10", "--posture", "compliant"];
    scene.json(&[&["session", "add", "--address", &source][..], &more].concat());
}

#[test]
fn n6_c11_an_event_cuts_the_live_connections_of_its_subject_and_of_nobody_else() {
    let Some((scene, transmitter)) = stage() else { return };
    let alice = scene.path("office", "servers", Family::V4);
    let bob = bulkhead_tests::frames::Path { source: scene.peer("office").nth(Family::V4, 1), ..alice };
    sign_in(&scene, alice.source, "alice@example.org");
    sign_in(&scene, bob.source, "bob@example.org");
    scene.crosses("office", "servers", &alice.udp(4000, 5432, b"alice"));
    scene.crosses("office", "servers", &bob.udp(4000, 22, b"bob"));
    wait_until("the transmitter is polled", || !transmitter.polls.lock().unwrap().is_empty());
    let begun = Instant::now();
    let token = transmitter.send("session-revoked", json!({}));
    assert_eq!(transmitter.told("id-0"), Ok(()), "and that is told when no packet crosses any more");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    scene.stays_out("office", "servers", &alice.udp(4000, 5432, b"on the live connection"));
    scene.crosses("office", "servers", &bob.udp(4000, 22, b"bob goes on"));
    // She signs in again; the same event again is nothing.
    sign_in(&scene, alice.source, "alice@example.org");
    transmitter.send_token("id-0", &token);
    transmitter.send("credential-change", json!({ "change_type": "create" }));
    assert_eq!(transmitter.told("id-1"), Ok(()));
    let why = transmitter.polls.lock().unwrap().iter().find_map(|poll| poll["setErrs"].get("id-0").cloned());
    assert_eq!(why.unwrap()["err"], "invalid_request");
    scene.crosses("office", "servers", &alice.udp(4001, 5432, b"a replay ends nothing"));
    scene.nothing_arrived("servers", "office");
}

#[test]
fn events_take_away_a_factor_a_calm_risk_and_a_healthy_device_one_by_one() {
    let Some((scene, transmitter)) = stage() else { return };
    let alice = scene.path("office", "servers", Family::V4);
    sign_in(&scene, alice.source, "alice@example.org");
    for port in [22, 8443, 445] {
        scene.crosses("office", "servers", &alice.udp(4000, port, b"everything holds"));
    }
    let steps = [
        ("credential-change", json!({ "change_type": "revoke" }), 22),
        ("risk-level-change", json!({ "current_level": "HIGH" }), 8443),
        ("device-compliance-change", json!({ "current_status": "not-compliant" }), 445),
    ];
    let mut open = vec![22, 8443, 445];
    for (index, (event, more, closes)) in steps.into_iter().enumerate() {
        transmitter.send(event, more);
        assert_eq!(transmitter.told(&format!("id-{index}")), Ok(()));
        open.retain(|port| *port != closes);
        scene.stays_out("office", "servers", &alice.udp(4000, closes, b"no more"));
        for port in &open {
            scene.crosses("office", "servers", &alice.udp(4000, *port, b"still"));
        }
    }
    scene.crosses("office", "servers", &alice.udp(4000, 5432, b"she is still who she is"));
    // What gives back is taken only of what is reported, not of what is shown.
    transmitter.send("risk-level-change", json!({ "current_level": "LOW" }));
    transmitter.send("assurance-level-change", json!({ "change_direction": "increase" }));
    assert_eq!((transmitter.told("id-3"), transmitter.told("id-4")), (Ok(()), Ok(())));
    scene.crosses("office", "servers", &alice.udp(4000, 8443, b"calm again"));
    scene.stays_out("office", "servers", &alice.udp(4000, 22, b"a factor has to be shown"));
    scene.nothing_arrived("servers", "office");
}

#[test]
fn c11_what_is_not_for_us_or_not_theirs_changes_nothing_and_is_told_to_them() {
    let Some((scene, transmitter)) = stage() else { return };
    let alice = scene.path("office", "servers", Family::V4);
    sign_in(&scene, alice.source, "alice@example.org");
    let stranger = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
    let claims = |aud: &str, id: &str| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        json!({
            "iss": ISSUER, "aud": aud, "jti": id, "iat": now,
            "sub_id": { "format": "email", "email": "alice@example.org" },
            "events": { format!("{CAEP}session-revoked"): {} },
        })
    };
    for (id, token, err) in [
        ("x1", stranger.sign("secevent+jwt", &claims(AUDIENCE, "x1")), "invalid_key"),
        (
            "x2",
            transmitter.signer.sign("secevent+jwt", &claims("https://other.example", "x2")),
            "invalid_audience",
        ),
        ("x3", transmitter.signer.sign("JWT", &claims(AUDIENCE, "x3")), "invalid_request"),
        ("x4", transmitter.signer.sign("secevent+jwt", &claims(AUDIENCE, "another")), "invalid_request"),
    ] {
        transmitter.send_token(id, &token);
        assert_eq!(transmitter.told(id).unwrap_err()["err"], err, "{id}");
    }
    scene.crosses("office", "servers", &alice.udp(4000, 5432, b"nothing has changed"));
    scene.nothing_arrived("servers", "office");
}

/// Members of a subject that sessions do not have keep no event from them (SSF 1.0, section 8.1.3.1).
#[test]
fn an_event_about_a_group_reached_a_user_who_is_not_in_it() {
    let Some((scene, transmitter)) = stage() else { return };
    let alice = scene.path("office", "servers", Family::V4);
    sign_in(&scene, alice.source, "alice@example.org");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let revoke = |member: &str| {
        let user = json!({ "format": "email", "email": "alice@example.org" });
        let other = json!({ "format": "opaque", "id": "of somebody else" });
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "jti": member, "iat": now,
            "sub_id": { "format": "complex", "user": user, member: other },
            "events": { format!("{CAEP}session-revoked"): {} },
        });
        transmitter.send_token(member, &transmitter.signer.sign("secevent+jwt", &claims));
        assert_eq!(transmitter.told(member), Ok(()), "it was taken");
    };
    revoke("group");
    scene.crosses("office", "servers", &alice.udp(4000, 5432, b"it is not about her"));
    revoke("tenant");
    let before = scene.drops();
    scene.stays_out("office", "servers", &alice.udp(4000, 5432, b"it is"));
    scene.expect_drops(&before, &[("identity_revoked", 1)]);
    scene.nothing_arrived("servers", "office");
}

#[test]
fn a_secret_that_cannot_be_used_is_told_when_the_policy_comes_and_not_when_a_user_waits() {
    let Some(mut scene) = Scene::build(office_and_servers()) else { return };
    let directory = scene.config().parent().unwrap().to_owned();
    let lacking = directory.join("lacking");
    let alarms = |scene: &Scene| scene.status()["alarms"].to_string();
    let provider = |secret: &File| {
        Config::new(format!(
            "[portal]\nports = [\"office\"]\nname = \"portal.test\"\n\
             [identity.providers.corp]\nissuer = \"{ISSUER}\"\nclient_id = \"bulkhead\"\nclient_secret_file = \"{}\"\n",
            secret.display()
        ))
    };
    // From the start on.
    scene.run(&provider(&lacking));
    let told = format!("nobody can sign in with the provider corp: {}: No such file", lacking.display());
    assert!(alarms(&scene).contains(&told), "{}", alarms(&scene));
    // With a reload, which comes in force all the same.
    let open = directory.join("open");
    write(&open, "s3cret");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    scene.reload(&provider(&open));
    let told = format!("{}: others can read or change it", open.display());
    assert!(alarms(&scene).contains(&told), "{}", alarms(&scene));
    let shut = directory.join("shut");
    write(&shut, "s3cret");
    scene.reload(&provider(&shut));
    assert!(!alarms(&scene).contains("shut"), "{}", alarms(&scene));
}

#[test]
fn what_was_told_of_somebody_who_was_not_there_was_forgotten_and_signing_in_anew_wiped_it_out() {
    let Some((scene, transmitter)) = stage() else { return };
    let alice = scene.path("office", "servers", Family::V4);
    let source = alice.source.to_string();
    let sign_in = || scene.json(&["session", "add", "--address", &source, "--user", "alice@example.org"]);
    // Nobody is there yet.
    transmitter.send("device-compliance-change", json!({ "current_status": "not-compliant" }));
    transmitter.send("risk-level-change", json!({ "current_level": "HIGH" }));
    assert_eq!((transmitter.told("id-0"), transmitter.told("id-1")), (Ok(()), Ok(())));
    for round in 0..2 {
        sign_in();
        let before = scene.drops();
        scene.stays_out("office", "servers", &alice.udp(4000 + round, 445, b"not healthy"));
        scene.stays_out("office", "servers", &alice.udp(4000 + round, 8443, b"at risk"));
        scene.expect_drops(&before, &[("posture_failed", 1), ("risk_too_high", 1)]);
        scene.json(&["session", "revoke", "--all"]);
    }
    transmitter.send("device-compliance-change", json!({ "current_status": "compliant" }));
    transmitter.send("risk-level-change", json!({ "current_level": "LOW" }));
    assert_eq!((transmitter.told("id-2"), transmitter.told("id-3")), (Ok(()), Ok(())));
    sign_in();
    for port in [445, 8443] {
        scene.crosses("office", "servers", &alice.udp(4002, port, b"as was told last"));
    }
    // What an operator says is newer.
    scene.json(&["session", "add", "--address", &source, "--user", "alice@example.org", "--risk", "60"]);
    scene.stays_out("office", "servers", &alice.udp(4003, 8443, b"at risk"));
    scene.nothing_arrived("servers", "office");
}
