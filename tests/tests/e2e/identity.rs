//! People and devices that say who they are, from the command line at their own end to packets that cross.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use bulkhead::identity::{totp, unix_s};
use bulkhead::lab::RouteTarget;
use bulkhead::portal::wire::Secret;
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Family, Path};
use bulkhead_tests::gateway::{self, Ran};
use bulkhead_tests::https;
use bulkhead_tests::scene::{Scene, number, text};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::portal::place;

const PASSWORD: &str = "correct horse battery";

fn config() -> Config {
    let rules = allow("plain", "office", "servers", "udp/53")
        + &allow("alice", "office", "servers", "tcp/5432 udp/5432")
        + "users = \"alice\"\nrequire = { mfa_max_age = \"1h\" }\n"
        + &allow("fresh", "office", "servers", "tcp/22 udp/22")
        + "users = \"alice\"\nrequire = { mfa_max_age = \"8s\" }\n"
        + &allow("known", "office", "servers", "udp/445")
        + "users = \"any\"\n"
        + &allow("healthy", "office", "servers", "tcp/1433 udp/1433")
        + "require = { devices = { enrolled = true, tags = [\"laptop\"] }, posture = \"compliant\" }\n"
        + "[postures.compliant]\ndisk_encrypted = true\nos_patch_max_age = \"30d\"\n"
        + "[identity]\nheartbeat = \"10s\"\n";
    let portal = format!("[portal]\nports = [\"office\"]\nname = \"{}\"\n", https::NAME);
    Config::new(rules + &portal)
}

/// A scene with a portal, and a user with a password and an authenticator, whose key is returned.
fn begin() -> Option<(Scene, Secret)> {
    let scene = Scene::start(&config())?;
    bulkhead_tests::wait_until("the portal listens", || {
        super::portal::status(&scene)["listening"].as_array().is_some_and(|places| places.len() == 2)
    });
    assert_eq!(scene.cli_with(&["user", "add", "alice", "--password-stdin"], PASSWORD).code, 0);
    let key = text(&scene.json(&["user", "totp", "alice"])["authenticator"], "key");
    Some((scene, Secret::new(key)))
}

/// The code that alice's app shows so many steps from now.
fn code(key: &Secret, steps: u64) -> String {
    totp::code(key, unix_s(SystemTime::now()) + 30 * steps).expect("it is a key")
}

/// What alice's own machine keeps.
fn home(scene: &Scene) -> PathBuf {
    scene.state().with_file_name("alices-machine")
}

/// Runs a verb on the office's host.
fn at_office(scene: &Scene, args: &[&str], input: &str) -> Ran {
    let home = home(scene);
    let args = [args, &["--state", home.to_str().expect("a path of text")]].concat();
    scene.host("office").namespace.run(|| gateway::run_with(&args, input))
}

fn portal(scene: &Scene) -> String {
    format!("https://{}", scene.host("office").gateway_v4)
}

fn fingerprint(scene: &Scene) -> String {
    text(&super::portal::status(scene), "fingerprint")
}

fn login(scene: &Scene, key: &Secret, steps: u64) -> Ran {
    let (portal, fingerprint) = (portal(scene), fingerprint(scene));
    let args =
        ["login", "--portal", &portal, "--fingerprint", &fingerprint, "--user", "alice", "--password-stdin"];
    at_office(scene, &args, &format!("{PASSWORD}\n{}\n", code(key, steps)))
}

/// From the office's host itself, whose kernel speaks to the portal.
fn path(scene: &Scene) -> Path {
    let source = scene.host_address("office", Family::V4);
    Path { source, ..scene.path("office", "servers", Family::V4) }
}

/// Asks the portal as a program at this address of the office's host.
fn ask_from(scene: &Scene, source: IpAddr, ask: &str, cookie: Option<&str>, fields: &Value) -> Value {
    let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
    let stream = https::dial_from(scene.host("office"), source, place(scene, family)).expect("it listens");
    let mut client =
        https::Client::over(stream, &[&rustls::version::TLS13], &[b"http/1.1"]).expect("it speaks TLS");
    let cookie = cookie.map(|cookie| format!("Authorization: Bearer {cookie}\r\n")).unwrap_or_default();
    let body = fields.to_string();
    let head = format!(
        "POST /api/v1/{ask} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n{cookie}\
         Content-Length: {}\r\n\r\n{body}",
        https::NAME,
        body.len()
    );
    client.send(head.as_bytes()).expect("it takes the request");
    serde_json::from_str(&client.answer().expect("it answers").body).expect("JSON")
}

#[test]
fn n2_n6_a_password_and_a_code_open_what_the_rules_say_and_logging_out_cuts_it() {
    let Some((scene, key)) = begin() else { return };
    let path = path(&scene);
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"nobody"));
    let wrong = at_office(
        &scene,
        &[
            "login",
            "--portal",
            &portal(&scene),
            "--fingerprint",
            &"00".repeat(32),
            "--user",
            "alice",
            "--password-stdin",
        ],
        PASSWORD,
    );
    assert!(wrong.code == 1 && wrong.stderr.contains("another certificate"), "{wrong:?}");
    let ran = login(&scene, &key, 0);
    assert!(ran.code == 0 && ran.stdout.starts_with("alice at "), "{ran:?}");
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"alice"));
    let row = &scene.json(&["session", "list"])["sessions"][0];
    assert_eq!((text(row, "user"), text(row, "proof")), ("alice".to_owned(), "password".to_owned()));
    assert!(row["mac"].is_string(), "{row}");
    let who = at_office(&scene, &["whoami"], "");
    assert!(who.code == 0 && who.stdout.contains("alice") && who.stdout.contains("allowed"), "{who:?}");
    assert_eq!(at_office(&scene, &["logout"], "").code, 0);
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"the open connection"));
    let who = at_office(&scene, &["whoami"], "");
    assert!(who.code == 1 && who.stdout.contains("nobody is signed in"), "{who:?}");
    // The code was used.
    let again = login(&scene, &key, 0);
    assert!(again.code == 1 && again.stderr.contains("does not take it"), "{again:?}");
    // Nothing secret was logged (C13).
    let output = scene.gateway().output();
    for secret in [PASSWORD, key.reveal()] {
        assert!(!output.contains(secret), "{output}");
    }
}

#[test]
fn a_second_factor_that_ages_out_cuts_and_stepping_up_lets_go_on() {
    let Some((scene, key)) = begin() else { return };
    let path = path(&scene);
    assert_eq!(login(&scene, &key, 0).code, 0);
    let shown = Instant::now();
    scene.crosses("office", "servers", &path.udp(4000, 22, b"fresh"));
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"an hour is enough"));
    std::thread::sleep(Duration::from_millis(8_200).saturating_sub(shown.elapsed()));
    let before = scene.drops();
    scene.stays_out("office", "servers", &path.udp(4000, 22, b"the open connection"));
    scene.stays_out("office", "servers", &path.udp(4001, 22, b"another one"));
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"not this one"));
    scene.expect_drops(&before, &[("expired", 1), ("mfa_too_old", 1)]);
    let id = text(&scene.json(&["session", "list"])["sessions"][0], "id");
    let stepped =
        at_office(&scene, &["login", "--step-up", "--password-stdin"], &format!("{}\n", code(&key, 1)));
    assert_eq!(stepped.code, 0, "{stepped:?}");
    scene.crosses("office", "servers", &path.udp(4002, 22, b"fresh again"));
    assert_eq!(text(&scene.json(&["session", "list"])["sessions"][0], "id"), id, "the same session");
}

#[test]
fn n7_n8_a_cookie_opens_nothing_elsewhere_and_none_survives_a_sign_in() {
    let Some((scene, key)) = begin() else { return };
    let host = scene.host("office");
    let (mine, others): (IpAddr, IpAddr) = (host.v4[0].into(), host.v6[0].into());
    let sign_in = |source, cookie: Option<&str>, steps| {
        let password =
            ask_from(&scene, source, "password", cookie, &json!({ "user": "alice", "password": PASSWORD }));
        let attempt = text(&password, "attempt");
        // What was begun here ends nowhere else.
        let elsewhere = if source == mine { others } else { mine };
        let fields = json!({ "attempt": attempt, "code": code(&key, steps) });
        assert_eq!(ask_from(&scene, elsewhere, "totp", cookie, &fields)["why"], "stale");
        text(&ask_from(&scene, source, "totp", cookie, &fields), "cookie")
    };
    let planted = "A".repeat(43);
    let first = sign_in(mine, Some(&planted), 0);
    assert_ne!(first, planted, "the cookie is always the gateway's own");
    let session = |source, cookie: &str| {
        let standing = ask_from(&scene, source, "standing", Some(cookie), &json!({}));
        standing["session"]["user"].as_str().map(str::to_owned)
    };
    assert_eq!(session(mine, &planted), None);
    assert_eq!(session(mine, &first).as_deref(), Some("alice"));
    assert_eq!(session(others, &first), None, "stolen");
    assert_eq!(ask_from(&scene, others, "sign_out", Some(&first), &json!({}))["say"], "signed_out");
    assert_eq!(session(mine, &first).as_deref(), Some("alice"), "and nobody else ends the session");
    let stolen = json!({ "attempt": null, "code": code(&key, 1) });
    assert_eq!(ask_from(&scene, others, "totp", Some(&first), &stolen)["why"], "not_signed_in");
    let second = sign_in(mine, Some(&first), 1);
    assert_eq!((session(mine, &first), session(mine, &second).as_deref()), (None, Some("alice")));
}

#[test]
fn c5_wrong_passwords_wait_and_unknown_users_look_the_same() {
    let Some((scene, _)) = begin() else { return };
    let source: IpAddr = scene.host("office").v4[0].into();
    let guess = |user: &str| {
        ask_from(&scene, source, "password", None, &json!({ "user": user, "password": "a wrong password" }))
    };
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        known.push(text(&guess("alice"), "why"));
        unknown.push(text(&guess("nobody-at-all"), "why"));
    }
    assert_eq!(known, ["wrong", "wrong", "wrong", "wrong", "wrong", "wrong", "too_many"]);
    assert_eq!(unknown, known);
    let waits = guess("alice");
    assert!(number(&waits, "retry_after_s") >= 1, "{waits}");
    scene.gateway().expect_said(&["`alice`: wrong password"]);
    let output = scene.gateway().output();
    assert!(!output.contains("nobody-at-all"), "{output}");
}

/// Enrolls the office's host as laptop-7.
fn enroll(scene: &Scene, code: &str) -> Ran {
    let (portal, fingerprint) = (portal(scene), fingerprint(scene));
    let at = ["agent", "enroll", "--portal", &portal, "--fingerprint", &fingerprint];
    at_office(scene, &[&at[..], &["--device", "laptop-7", "--code", code]].concat(), "")
}

#[test]
fn n9_an_enrolled_device_is_known_while_it_is_heard_and_as_healthy_as_it_says() {
    let Some((scene, key)) = begin() else { return };
    let path = path(&scene);
    let made = scene.json(&["device", "enroll", "laptop-7", "--tag", "laptop"]);
    let enroll = |code: &str| enroll(&scene, code);
    let guessed = enroll(&"A".repeat(43));
    assert!(guessed.code == 1 && guessed.stderr.contains("does not take it"), "{guessed:?}");
    let made = text(&made["code"], "code");
    assert_eq!(enroll(&made).code, 0);
    assert_eq!(enroll(&made).code, 1, "a code serves once");
    // That overwrote nothing: the key of before is still there.
    let healthy = ["agent", "run", "--once", "--fact", "disk_encrypted=true", "--fact", "os_patch_age=86400"];
    let said = at_office(&scene, &healthy, "");
    assert!(
        said.code == 0 && said.stdout.contains("laptop-7") && said.stdout.contains("nobody signed in"),
        "{said:?}"
    );
    scene.crosses("office", "servers", &path.udp(4000, 1433, b"the device alone"));
    scene.stays_out("office", "servers", &path.udp(4000, 445, b"it is no user"));
    // Its user signs in, and it is still the same device.
    assert_eq!(login(&scene, &key, 0).code, 0);
    scene.crosses("office", "servers", &path.udp(4000, 1433, b"still the device"));
    scene.crosses("office", "servers", &path.udp(4000, 445, b"and a user"));
    let before = scene.drops();
    let ill = ["agent", "run", "--once", "--fact", "disk_encrypted=false", "--fact", "os_patch_age=86400"];
    assert_eq!(at_office(&scene, &ill, "").code, 0);
    let back = Path { destination: path.source, ..scene.path("servers", "office", Family::V4) };
    // What the portal has said arrived there too.
    let _ = scene.arrived("servers", "office");
    scene.stays_out("servers", "office", &back.udp(1433, 4000, b"an answer on the open connection"));
    scene.stays_out("office", "servers", &path.udp(4001, 1433, b"a new one"));
    scene.crosses("office", "servers", &path.udp(4000, 445, b"which does not ask for health"));
    scene.expect_drops(&before, &[("identity_revoked", 1), ("posture_failed", 1)]);
    assert_eq!(at_office(&scene, &healthy, "").code, 0);
    let heard = Instant::now();
    scene.crosses("office", "servers", &path.udp(4002, 1433, b"healthy again"));
    // Not heard of for longer than a heartbeat.
    std::thread::sleep(Duration::from_millis(10_300).saturating_sub(heard.elapsed()));
    scene.stays_out("office", "servers", &path.udp(4003, 1433, b"nobody knows the device"));
    scene.crosses("office", "servers", &path.udp(4003, 445, b"the user is still there"));
    assert_eq!(at_office(&scene, &healthy, "").code, 0);
    scene.crosses("office", "servers", &path.udp(4004, 1433, b"heard again"));
    assert_eq!(number(&scene.json(&["device", "revoke", "laptop-7"]), "sessions"), 1);
    scene.stays_out("office", "servers", &path.udp(4004, 1433, b"revoked"));
    let refused = at_office(&scene, &healthy, "");
    assert!(refused.code == 1 && refused.stderr.contains("does not take it"), "{refused:?}");
}

#[test]
fn a_locked_device_is_not_known_again_by_its_next_statement() {
    let Some((scene, key)) = begin() else { return };
    let path = path(&scene);
    let code = text(&scene.json(&["device", "enroll", "laptop-7", "--tag", "laptop"])["code"], "code");
    assert_eq!(enroll(&scene, &code).code, 0);
    let healthy = ["agent", "run", "--once", "--fact", "disk_encrypted=true", "--fact", "os_patch_age=86400"];
    scene.json(&["lock", "--device", "laptop-7", "--reason", "lost"]);
    // Its user may sign in, on what nobody knows to be that device.
    assert_eq!(login(&scene, &key, 0).code, 0);
    scene.crosses("office", "servers", &path.udp(4000, 445, b"the user"));
    let said = at_office(&scene, &healthy, "");
    assert!(said.code == 1 && said.stderr.contains("locked"), "{said:?}");
    scene.stays_out("office", "servers", &path.udp(4001, 1433, b"by the device"));
    scene.stays_out("office", "servers", &path.udp(4000, 445, b"and now it is known where the user is"));
    assert_eq!(scene.json(&["session", "list"])["sessions"], json!([]));
    scene.json(&["unlock", "--device", "laptop-7"]);
    assert_eq!(at_office(&scene, &healthy, "").code, 0);
    scene.crosses("office", "servers", &path.udp(4002, 1433, b"found again"));
}

#[test]
fn a_guessed_code_is_not_recorded_as_an_enrolment() {
    let Some((scene, _)) = begin() else { return };
    let code = text(&scene.json(&["device", "enroll", "laptop-7"])["code"], "code");
    let changes = || {
        let records = scene.json(&["audit", "log"])["records"].as_array().expect("records").clone();
        let of = records.into_iter().filter(|record| record["kind"] == "device_changed");
        of.map(|record| text(&record["what"], "change")).collect::<Vec<_>>()
    };
    assert_eq!(enroll(&scene, &"A".repeat(43)).code, 1);
    assert_eq!(changes(), ["invited"]);
    assert_eq!(enroll(&scene, &code).code, 0);
    assert_eq!(changes(), ["invited", "enrolled"]);
}

#[test]
fn c6_what_a_device_has_signed_serves_once_at_one_address_and_for_its_own_key() {
    use bulkhead::tokens::sign::Signer;
    let Some((scene, _)) = begin() else { return };
    let host = scene.host("office");
    let (mine, others): (IpAddr, IpAddr) = (host.v4[0].into(), host.v6[0].into());
    let signer = || Signer::from_pkcs8(&Signer::generate().expect("a key")).expect("a key");
    let (key, other_key) = (signer(), signer());
    let challenge = |source| text(&ask_from(&scene, source, "challenge", None, &json!({})), "nonce");
    let code = text(&scene.json(&["device", "enroll", "laptop-7"])["code"], "code");
    let token =
        key.sign("bulkhead-enrolment+jwt", &json!({ "device": "laptop-7", "nonce": challenge(mine) }));
    let fields =
        json!({ "device": "laptop-7", "code": code, "key": key.public_jwk().to_string(), "token": token });
    assert_eq!(ask_from(&scene, mine, "device_enroll", None, &fields)["say"], "enrolled");
    let statement = |key: &Signer, nonce: &str, typ: &str| {
        let payload = json!({ "device": "laptop-7", "nonce": nonce, "facts": {} });
        json!({ "device": "laptop-7", "token": key.sign(typ, &payload) })
    };
    let typ = "bulkhead-statement+jwt";
    let ask = |source, fields: &Value| text(&ask_from(&scene, source, "statement", None, fields), "say");
    let nonce = challenge(mine);
    let overheard = statement(&key, &nonce, typ);
    assert_eq!(ask(others, &overheard), "refused", "its challenge was another address's");
    assert_eq!(ask(mine, &statement(&other_key, &nonce, typ)), "refused", "another key");
    assert_eq!(
        ask(mine, &statement(&key, &nonce, "bulkhead-enrolment+jwt")),
        "refused",
        "another kind of token"
    );
    assert_eq!(ask(mine, &statement(&key, &"A".repeat(43), typ)), "refused", "no challenge of ours");
    assert_eq!(ask(mine, &overheard), "begun");
    assert_eq!(ask(mine, &overheard), "refused", "replayed");
    assert_eq!(
        ask(mine, &json!({ "device": "laptop-8", "token": overheard["token"] })),
        "refused",
        "another device"
    );
}

#[test]
fn n5_two_users_behind_one_address_are_never_merged() {
    let network: IpNet = "10.9.0.0/24".parse().unwrap();
    let segment = |name: &str, port: &str, network: &str| {
        format!("[segments.{name}]\nport = \"{port}\"\nnetworks = [\"{network}\"]\n")
    };
    let segments = segment("office", "office", "10.1.0.0/24")
        + &segment("servers", "servers", "10.2.0.0/24")
        + &segment("branch", "office", &network.to_string());
    let rules = allow("known", "branch", "servers", "udp/445")
        + "users = \"any\"\n"
        + &format!("[portal]\nports = [\"office\"]\nname = \"{}\"\n", https::NAME);
    let Some(scene) = Scene::start(&Config { segments: Some(segments), ..Config::new(rules) }) else {
        return;
    };
    let office = scene.host("office");
    let nat = |last: u8| IpAddr::from([10, 9, 0, last]);
    for last in [5, 6] {
        office.namespace.add_address(office.interface, IpNet::from(nat(last))).unwrap();
    }
    scene.lab.gateway.add_route(network, RouteTarget::Gateway(office.v4[0].into()), 0).unwrap();
    bulkhead_tests::wait_until("the portal listens", || {
        super::portal::status(&scene)["listening"].as_array().is_some_and(|places| places.len() == 2)
    });
    for user in ["alice", "bob"] {
        assert_eq!(scene.cli_with(&["user", "add", user, "--password-stdin"], PASSWORD).code, 0);
    }
    let sign_in = |source, user: &str| {
        ask_from(&scene, source, "password", None, &json!({ "user": user, "password": PASSWORD }))
    };
    let sessions = || scene.json(&["session", "list"])["sessions"].as_array().expect("a list").clone();
    let path = |source| Path { source, ..scene.path("office", "servers", Family::V4) };

    assert_eq!(sign_in(nat(5), "alice")["say"], "begun");
    assert!(sessions()[0]["mac"].is_null(), "behind a router: {:?}", sessions());
    scene.crosses("office", "servers", &path(nat(5)).udp(4000, 445, b"alice"));
    // A wrong password puts nobody out.
    let wrong = json!({ "user": "bob", "password": "another password" });
    assert_eq!(ask_from(&scene, nat(5), "password", None, &wrong)["why"], "wrong");
    scene.crosses("office", "servers", &path(nat(5)).udp(4000, 445, b"still alice"));
    let both = sign_in(nat(5), "bob");
    assert_eq!((&both["say"], &both["why"]), (&json!("refused"), &json!("shared")), "{both}");
    assert!((590..=600).contains(&number(&both, "retry_after_s")), "{both}");
    assert!(sessions().is_empty());
    scene.stays_out("office", "servers", &path(nat(5)).udp(4000, 445, b"the open connection"));
    assert_eq!(sign_in(nat(5), "alice")["why"], "shared", "neither of them for a while");
    let alarms = scene.status()["alarms"].to_string();
    assert!(alarms.contains("`bob` signed in at 10.9.0.5, where `alice` was signed in"), "{alarms}");

    // Who signs out first makes room for the next.
    let cookie = text(&sign_in(nat(6), "alice"), "cookie");
    assert_eq!(ask_from(&scene, nat(6), "sign_out", Some(&cookie), &json!({}))["say"], "signed_out");
    assert_eq!(sign_in(nat(6), "bob")["say"], "begun");
    scene.crosses("office", "servers", &path(nat(6)).udp(4000, 445, b"bob"));
}

#[test]
fn n7_a_cookie_was_worth_as_much_to_another_machine_that_had_taken_the_address() {
    let Some((scene, key)) = begin() else { return };
    let host = scene.host("office");
    let mine: IpAddr = host.v4[0].into();
    let password =
        ask_from(&scene, mine, "password", None, &json!({ "user": "alice", "password": PASSWORD }));
    let fields = json!({ "attempt": text(&password, "attempt"), "code": code(&key, 0) });
    let cookie = text(&ask_from(&scene, mine, "totp", None, &fields), "cookie");
    let ask = |ask: &str| ask_from(&scene, mine, ask, Some(&cookie), &json!({}));
    assert_eq!(ask("standing")["session"]["user"], "alice");
    // Another machine answers to her address now, and its owner has her cookie.
    let become_mac = |mac| {
        host.namespace.set_mac(host.interface, mac).unwrap();
        scene.lab.gateway.add_neighbour("office", mine, mac).unwrap();
    };
    become_mac([2, 0, 0, 0, 0, 99]);
    // So long it may take until the gateway has heard of it.
    std::thread::sleep(Duration::from_millis(500));
    let standing = ask("standing");
    assert_eq!((&standing["session"], &standing["is_taken"]), (&Value::Null, &json!(true)), "{standing}");
    // Within minutes of her code: whoever adds a passkey now is her from then on.
    assert_eq!(ask("passkey_register_begin")["why"], "not_signed_in");
    assert_eq!(ask("sign_out")["say"], "signed_out");
    scene.gateway().expect_said(&["a cookie was shown by another machine"]);
    become_mac(host.mac);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(ask("standing")["session"]["user"], "alice", "nobody has ended it");
}

#[test]
fn a_user_who_was_disabled_while_the_password_was_looked_at_was_let_in() {
    let Some((scene, _)) = begin() else { return };
    let source: IpAddr = scene.host("office").v4[0].into();
    let bob =
        |add: &str| assert_eq!(scene.cli_with(&["user", add, "bob", "--password-stdin"], PASSWORD).code, 0);
    bob("add");
    let (change, undo) = (["user", "disable", "bob"], ["user", "enable", "bob"]);
    for delay_ms in [10, 20, 30, 40, 60, 80, 100, 140] {
        let answer = std::thread::scope(|scope| {
            let signing_in = scope.spawn(|| {
                ask_from(&scene, source, "password", None, &json!({ "user": "bob", "password": PASSWORD }))
            });
            // The hash of a password takes a while.
            std::thread::sleep(Duration::from_millis(delay_ms));
            assert_eq!(scene.cli(&change).code, 0);
            signing_in.join().unwrap()
        });
        assert_eq!(scene.json(&["session", "list"])["sessions"], json!([]), "after {delay_ms} ms: {answer}");
        assert_eq!(scene.cli(&undo).code, 0);
    }
}

#[test]
fn a_sign_in_that_began_with_the_old_password_could_be_finished_after_it_was_changed() {
    let Some((scene, key)) = begin() else { return };
    let source: IpAddr = scene.host("office").v4[0].into();
    let password =
        ask_from(&scene, source, "password", None, &json!({ "user": "alice", "password": PASSWORD }));
    let fields = json!({ "attempt": text(&password, "attempt"), "code": code(&key, 0) });
    let passwd = scene.cli_with(&["user", "passwd", "alice", "--password-stdin"], "another password of hers");
    assert_eq!(passwd.code, 0, "{passwd:?}");
    assert_eq!(ask_from(&scene, source, "totp", None, &fields)["why"], "stale");
    assert_eq!(scene.json(&["session", "list"])["sessions"], json!([]));
}

#[test]
fn sessions_outlived_the_way_by_which_they_had_begun() {
    let Some((scene, key)) = begin() else { return };
    let path = path(&scene);
    assert_eq!(login(&scene, &key, 0).code, 0);
    scene.crosses("office", "servers", &path.udp(4000, 5432, b"alice"));
    let shut = Config {
        rules: config().rules.replace("[identity]\n", "[identity]\npasswords = false\n"),
        ..config()
    };
    scene.reload(&shut);
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"on the live connection"));
    assert_eq!(scene.json(&["session", "list"])["sessions"], json!([]));
}

#[test]
fn a_device_that_was_heard_all_the_time_was_cut_off_when_its_session_was_over() {
    let short = Config {
        rules: config().rules.replace("[identity]\n", "[identity]\nsession = \"12s\"\n"),
        ..config()
    };
    let Some(scene) = Scene::start(&short) else { return };
    bulkhead_tests::wait_until("the portal listens", || {
        super::portal::status(&scene)["listening"].as_array().is_some_and(|places| places.len() == 2)
    });
    let code = text(&scene.json(&["device", "enroll", "laptop-7", "--tag", "laptop"])["code"], "code");
    assert_eq!(enroll(&scene, &code).code, 0);
    let healthy = ["agent", "run", "--once", "--fact", "disk_encrypted=true", "--fact", "os_patch_age=86400"];
    let path = path(&scene);
    let begun = Instant::now();
    for round in 0..5_u32 {
        std::thread::sleep((4 * round * Duration::from_secs(1)).saturating_sub(begun.elapsed()));
        assert_eq!(at_office(&scene, &healthy, "").code, 0);
        scene.crosses("office", "servers", &path.udp(4000, 1433, b"the same connection"));
    }
    let events = scene.cli(&["events", "--last", "200"]).stdout;
    assert!(events.contains("\"opened\"") && !events.contains("\"cut\""), "{events}");
}

#[test]
fn n4_whoever_is_given_the_address_next_is_nobody_and_takes_the_place_by_signing_in() {
    let Some((scene, key)) = begin() else { return };
    let host = scene.host("office");
    let source: IpAddr = host.v4[0].into();
    let hers = path(&scene);
    assert_eq!(login(&scene, &key, 0).code, 0);
    scene.crosses("office", "servers", &hers.udp(4000, 445, b"alice"));
    assert_eq!(scene.cli_with(&["user", "add", "bob", "--password-stdin"], PASSWORD).code, 0);
    // She has left, and her lease is over: another machine is given the address.
    let next = [2, 0, 0, 0, 0, 98];
    host.namespace.set_mac(host.interface, next).unwrap();
    scene.lab.gateway.add_neighbour("office", source, next).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let theirs = Path { from: next, ..hers };
    let before = scene.drops();
    scene.stays_out("office", "servers", &theirs.udp(4000, 445, b"her connection"));
    scene.stays_out("office", "servers", &theirs.udp(4001, 445, b"a new one"));
    scene.expect_drops(&before, &[("address_taken", 1), ("not_authenticated", 1)]);
    let bob = json!({ "user": "bob", "password": PASSWORD });
    assert_eq!(ask_from(&scene, source, "password", None, &bob)["say"], "begun");
    scene.crosses("office", "servers", &theirs.udp(4002, 445, b"bob"));
    scene.stays_out("office", "servers", &theirs.udp(4002, 5432, b"not alice"));
    scene.stays_out("office", "servers", &hers.udp(4000, 445, b"her own machine, come back"));
    scene.stays_out("office", "servers", &hers.udp(4003, 445, b"her own machine, come back"));
    let sessions = scene.json(&["session", "list"])["sessions"].clone();
    assert_eq!((sessions.as_array().unwrap().len(), &sessions[0]["user"]), (1, &json!("bob")), "{sessions}");
}
