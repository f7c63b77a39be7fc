//! Passkeys at the portal: registered, shown alone and as a second factor, removed; and everything that does not hold.
//! Over the questions in JSON, with an authenticator in software; `passkeys_browser.rs` has a real browser.

use bulkhead_tests::authenticator::Authenticator;
use bulkhead_tests::config::Config;
use bulkhead_tests::frames::Family;
use bulkhead_tests::https::{self, Answer, ask, get, post};
use bulkhead_tests::passkey::{PRESENT, Passkey, VERIFIED};
use bulkhead_tests::scene::{Scene, text};
use bulkhead_tests::wait_until;
use serde_json::{Value, json};

use super::sign_in::{self, PASSWORD, path};
use super::{listens, place};

const ORIGIN: &str = "https://portal.test";

/// As [`sign_in::config`], with packets for what needs a factor that cannot be phished.
pub fn config() -> Config {
    let base = sign_in::config();
    Config { rules: base.rules.replace("tcp/8200", "tcp/8200\", \"udp/8200"), ..base }
}

/// Alice with her app, and bob with nothing but a password.
pub fn scene() -> Option<(Scene, Authenticator)> {
    let scene = Scene::start(&config())?;
    listens(&scene);
    for name in ["alice", "bob"] {
        let added = scene.cli_with(&["user", "add", name, "--group", "dba", "--password-stdin"], PASSWORD);
        assert_eq!(added.code, 0, "{added:?}");
    }
    let totp = scene.json(&["user", "totp", "alice"]);
    let app = Authenticator::new(&text(&totp["authenticator"], "key"));
    Some((scene, app))
}

/// Somebody at the office's host, with their cookie.
struct Browser<'s> {
    scene: &'s Scene,
    family: Family,
    cookie: Option<String>,
}

impl<'s> Browser<'s> {
    fn new(scene: &'s Scene) -> Browser<'s> {
        Browser { scene, family: Family::V4, cookie: None }
    }

    /// Asks in JSON. A new cookie is kept.
    fn ask(&mut self, question: &str, fields: &Value) -> Value {
        let cookie = self.cookie.as_ref().map(|cookie| format!("Cookie: {cookie}"));
        let mut headers = vec!["Content-Type: application/json", "Sec-Fetch-Site: same-origin"];
        headers.extend(cookie.as_deref());
        let (host, portal) = (self.scene.host("office"), place(self.scene, self.family));
        let first = format!("POST /api/v1/{question}");
        let answer = ask(host, portal, &first, &headers, fields.to_string().as_bytes());
        if let Some(cookie) = answer.cookie() {
            self.cookie = Some(cookie);
        }
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    fn page(&self, path: &str) -> Answer {
        get(self.scene.host("office"), place(self.scene, self.family), path, self.cookie.as_deref())
    }

    fn password(&mut self, user: &str) -> Value {
        self.ask("password", &json!({ "user": user, "password": PASSWORD }))
    }

    fn with_code(&mut self, app: &mut Authenticator) {
        let factor = self.password("alice");
        let begun = self.ask("totp", &json!({ "attempt": factor["attempt"], "code": app.code() }));
        assert_eq!(begun["say"], "begun", "{begun}");
    }

    /// What an authenticator is asked for: the ceremony and its options.
    fn begin(&mut self, attempt: &Value, step_up: bool) -> (Value, Value) {
        let asked = self.ask("passkey_begin", &json!({ "attempt": attempt, "step_up": step_up }));
        assert_eq!(asked["say"], "passkey", "{asked}");
        options(&asked)
    }

    fn finish(&mut self, ceremony: &Value, response: &str) -> Value {
        self.ask("passkey_finish", &json!({ "attempt": ceremony, "response": response }))
    }

    fn show(&mut self, key: &mut Passkey, attempt: &Value, step_up: bool) -> Value {
        let (ceremony, options) = self.begin(attempt, step_up);
        let response = key.shown(&options);
        self.finish(&ceremony, &response)
    }

    fn register(&mut self, name: &str) -> (Passkey, Value) {
        let asked = self.ask("passkey_register_begin", &json!({}));
        assert_eq!(asked["say"], "passkey", "{asked}");
        let (ceremony, options) = options(&asked);
        let mut key = Passkey::new(ORIGIN, https::NAME);
        let response = key.made(&options);
        let fields = json!({ "attempt": ceremony, "name": name, "response": response });
        let added = self.ask("passkey_register_finish", &fields);
        (key, added)
    }
}

fn options(asked: &Value) -> (Value, Value) {
    let options = serde_json::from_str(asked["options"].as_str().expect("options")).expect("JSON");
    (asked["attempt"].clone(), options)
}

fn is_refused(answer: &Value, why: &str) {
    assert_eq!((&answer["say"], &answer["why"]), (&"refused".into(), &why.into()), "{answer}");
}

fn log(scene: &Scene, kind: &str) -> Vec<Value> {
    scene.json(&["audit", "log", "--kind", kind])["records"].as_array().expect("records").clone()
}

#[test]
fn n2_n6_a_passkey_opens_what_cannot_be_phished_and_removing_it_shuts_it_at_once() {
    let Some((scene, mut app)) = scene() else { return };
    let path = path(&scene, Family::V4);
    let vault = |port| path.udp(port, 8200, b"the vault");
    let mut alice = Browser::new(&scene);
    alice.with_code(&mut app);
    scene.stays_out("office", "servers", &vault(4000));
    let page = alice.page("/").body;
    assert!(
        page.contains("cannot be phished") && page.contains("href=\"/passkeys\">Add a passkey"),
        "{page}"
    );
    let (mut key, added) = alice.register("blue key");
    let session = &added["session"];
    assert_eq!(
        (&session["passkeys"][0]["name"], &session["methods"][0]),
        (&"blue key".into(), &"passkey".into())
    );
    // To have one is not to have shown it.
    scene.stays_out("office", "servers", &vault(4001));
    assert!(alice.page("/").body.contains("href=\"/step-up\">Use a passkey"));
    let before = alice.cookie.clone();
    let begun = alice.show(&mut key, &Value::Null, true);
    assert_eq!(begun["standing"]["session"]["phishing_resistant"], true, "{begun}");
    assert_ne!(alice.cookie, before, "a new cookie");
    scene.crosses("office", "servers", &vault(4002));
    // As the second factor of a sign-in, and alone.
    for is_alone in [false, true] {
        alice.ask("sign_out", &json!({}));
        scene.stays_out("office", "servers", &vault(4002));
        let attempt = if is_alone { Value::Null } else { alice.password("alice")["attempt"].clone() };
        let begun = alice.show(&mut key, &attempt, false);
        let session = &begun["standing"]["session"];
        assert_eq!(
            (&session["user"], &session["phishing_resistant"]),
            (&"alice".into(), &true.into()),
            "{begun}"
        );
        assert_eq!(session["proof"], if is_alone { "passkey" } else { "password" });
        scene.crosses("office", "servers", &vault(4003));
        scene.crosses("office", "servers", &path.udp(4003, 5432, b"it is a second factor too"));
    }
    let listed = scene.cli(&["user", "list"]).stdout;
    assert!(listed.contains("PASSKEYS"), "{listed}");
    let shown = scene.json(&["user", "passkeys", "alice"]);
    assert_eq!(
        (&shown["passkeys"][0]["id"], &shown["passkeys"][0]["sign_count"]),
        (&key.id().into(), &4.into())
    );
    // Somebody else's is not hers to remove.
    is_refused(&alice.ask("passkey_remove", &json!({ "id": "AAAA" })), "unknown");
    let removed = alice.ask("passkey_remove", &json!({ "id": key.id() }));
    assert_eq!(removed["say"], "signed_out", "{removed}");
    scene.stays_out("office", "servers", &vault(4003));
    assert!(alice.page("/").body.contains("<h1>Sign in</h1>"));
    is_refused(&alice.show(&mut key, &Value::Null, false), "wrong");
    let changes = log(&scene, "user_changed");
    let of = |change: &str| changes.iter().filter(|record| record["what"]["change"] == change).count();
    assert_eq!((of("given a passkey"), of("left without a passkey")), (1, 1), "{changes:?}");
    let given =
        changes.iter().find(|record| record["what"]["change"] == "given a passkey").expect("it is there");
    assert_eq!((&given["by"]["user"], &given["what"]["passkey_id"]), (&"alice".into(), &key.id().into()));
    assert!(scene.cli(&["audit", "verify"]).code == 0);
}

#[test]
fn n6_an_operator_takes_a_lost_passkey_away_and_what_it_proved_ends() {
    let Some((scene, mut app)) = scene() else { return };
    let path = path(&scene, Family::V4);
    let mut alice = Browser::new(&scene);
    alice.with_code(&mut app);
    let (mut key, _) = alice.register("lost");
    alice.show(&mut key, &Value::Null, true);
    scene.crosses("office", "servers", &path.udp(4000, 8200, b"the vault"));
    let shown = scene.cli(&["user", "passkeys", "alice"]).stdout;
    assert!(shown.contains("lost") && shown.contains(&key.id()) && shown.contains("1 passkey(s)"), "{shown}");
    let wrong = scene.cli(&["user", "passkeys", "alice", "--remove", "AAAA"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("has no passkey `AAAA`"), "{wrong:?}");
    let removed = scene.cli(&["user", "passkeys", "alice", "--remove", &key.id()]);
    assert_eq!(removed.stdout, "alice has a passkey less; 1 session(s) ended\n", "{removed:?}");
    scene.stays_out("office", "servers", &path.udp(4000, 8200, b"the vault"));
    is_refused(&alice.show(&mut key, &Value::Null, false), "wrong");
    assert!(scene.cli(&["user", "passkeys", "nobody"]).stderr.contains("there is no user"));
}

#[test]
fn a_passkey_that_is_there_already_is_not_recorded_as_added_again() {
    let Some((scene, _)) = scene() else { return };
    let mut bob = Browser::new(&scene);
    assert_eq!(bob.password("bob")["say"], "begun");
    let (mut key, added) = bob.register("blue key");
    assert_eq!(added["say"], "standing", "{added}");
    assert_eq!(bob.show(&mut key, &Value::Null, true)["say"], "begun");
    let (ceremony, options) = options(&bob.ask("passkey_register_begin", &json!({})));
    // A browser would not: it is told which there are.
    let fields = json!({ "attempt": ceremony, "name": "again", "response": key.made(&options) });
    is_refused(&bob.ask("passkey_register_finish", &fields), "not_added");
    let given =
        log(&scene, "user_changed").iter().filter(|what| what.to_string().contains("blue key")).count();
    let again = log(&scene, "user_changed").iter().filter(|what| what.to_string().contains("again")).count();
    assert_eq!((given, again), (1, 0));
}

#[test]
fn n7_nobody_adds_a_passkey_with_a_password_a_cookie_or_a_code_that_may_have_been_phished() {
    let Some((scene, mut app)) = scene() else { return };
    let register = |browser: &mut Browser| browser.ask("passkey_register_begin", &json!({}));
    // A thief has the password of somebody who has an app: there is not even a session.
    let mut thief = Browser::new(&scene);
    assert_eq!(thief.password("alice")["say"], "factor");
    is_refused(&register(&mut thief), "not_signed_in");
    // A cookie opens nothing at another address.
    let mut alice = Browser::new(&scene);
    alice.with_code(&mut app);
    let mut elsewhere = Browser { family: Family::V6, cookie: alice.cookie.clone(), ..Browser::new(&scene) };
    is_refused(&register(&mut elsewhere), "not_signed_in");
    // What was begun there is not ended here, nor in another session.
    let asked = register(&mut alice);
    let (ceremony, options) = options(&asked);
    let mut key = Passkey::new(ORIGIN, https::NAME);
    let fields = json!({ "attempt": ceremony, "name": "x", "response": key.made(&options) });
    is_refused(&elsewhere.ask("passkey_register_finish", &fields), "not_signed_in");
    alice.with_code(&mut app);
    is_refused(&alice.ask("passkey_register_finish", &fields), "stale");
    // Her first one, with a fresh code; from then on a code is not enough, and a passkey is.
    let (mut key, added) = alice.register("first");
    assert_eq!(added["say"], "standing", "{added}");
    is_refused(&register(&mut alice), "not_fresh");
    is_refused(&alice.ask("passkey_remove", &json!({ "id": key.id() })), "not_fresh");
    assert!(alice.page("/passkeys").body.contains("with a passkey that you have"));
    alice.show(&mut key, &Value::Null, true);
    let (_, added) = alice.register("second");
    assert_eq!(added["session"]["passkeys"].as_array().map(Vec::len), Some(2), "{added}");
    // Who has no factor at all shows the password just before, once.
    let mut bob = Browser::new(&scene);
    assert_eq!(bob.password("bob")["say"], "begun");
    let (_, added) = bob.register("his");
    assert_eq!(added["session"]["mfa_age_s"], Value::Null, "{added}");
    is_refused(&register(&mut bob), "not_fresh");
    // A session that an operator vouches for is nobody's sign-in.
    let address = scene.host_address("office", Family::V6).to_string();
    scene.json(&["session", "add", "--address", &address, "--user", "bob"]);
    let mut vouched = Browser { family: Family::V6, ..Browser::new(&scene) };
    is_refused(&register(&mut vouched), "not_signed_in");
}

#[test]
fn c5_a_passkey_that_does_not_hold_is_refused_recorded_and_counted() {
    let Some((scene, mut app)) = scene() else { return };
    let mut alice = Browser::new(&scene);
    alice.with_code(&mut app);
    let (mut key, _) = alice.register("hers");
    // Bob's, from the same device, where he takes her place.
    let mut bob = Browser::new(&scene);
    bob.password("bob");
    let (mut his, _) = bob.register("his");
    bob.ask("sign_out", &json!({}));
    let attempt = alice.password("alice")["attempt"].clone();
    // An answer is for one challenge, once.
    let (ceremony, options) = alice.begin(&attempt, false);
    let response = key.shown(&options);
    let mut elsewhere = Browser { family: Family::V6, ..Browser::new(&scene) };
    is_refused(&elsewhere.finish(&ceremony, &response), "stale");
    assert_eq!(alice.finish(&ceremony, &response)["say"], "begun");
    is_refused(&alice.finish(&ceremony, &response), "stale");
    let (ceremony, _) = alice.begin(&Value::Null, false);
    is_refused(&alice.finish(&ceremony, &response), "wrong");
    // What does not hold is used up as what does.
    is_refused(&alice.finish(&ceremony, &response), "stale");
    let refusals = |scene: &Scene| log(scene, "sign_in_refused");
    let why = |record: &Value| text(&record["what"], "why");
    let mut told = vec!["passkey: it answers another challenge"];
    wait_until("it is recorded", || refusals(&scene).len() == told.len());
    // As alice's second factor: bob's; then hers, for another site, another name, without her, and a stranger's.
    let attempt = alice.password("alice")["attempt"].clone();
    is_refused(&alice.show(&mut his, &attempt, false), "wrong");
    key.origin = "https://portal.test.evil.example".to_owned();
    is_refused(&alice.show(&mut key, &attempt, false), "wrong");
    (key.origin, key.rp_id) = (ORIGIN.to_owned(), "evil.example".to_owned());
    is_refused(&alice.show(&mut key, &attempt, false), "wrong");
    (key.rp_id, key.flags) = (https::NAME.to_owned(), PRESENT);
    is_refused(&alice.show(&mut key, &attempt, false), "wrong");
    key.flags = PRESENT | VERIFIED;
    let mut forged = Passkey::new(ORIGIN, https::NAME);
    (forged.id, forged.handle, forged.count) = (key.id.clone(), key.handle.clone(), 99);
    is_refused(&alice.show(&mut forged, &attempt, false), "wrong");
    told.extend([
        "passkey: it is no passkey of the user",
        "passkey: it was shown to another site",
        "passkey: it is a passkey of another name",
        "passkey: the authenticator has not verified its user",
        "passkey: it is not signed by the passkey",
    ]);
    wait_until("all are recorded", || refusals(&scene).len() == told.len());
    let mut known: Vec<String> = refusals(&scene).iter().map(why).collect();
    known.sort();
    told.sort_unstable();
    assert_eq!(known, told);
    assert!(refusals(&scene).iter().all(|record| record["by"]["user"] == "alice"), "{:?}", refusals(&scene));
    // They were six; from now on there are waits, which double. Even the right one has to wait.
    let more = (0..10).map(|_| alice.show(&mut forged, &attempt, false));
    let waits = more.map(|answer| text(&answer, "why")).any(|why| why == "too_many");
    assert!(waits, "guessing goes on without an end");
    let waits = alice.show(&mut key, &attempt, false);
    is_refused(&waits, "too_many");
    let wait_s = waits["retry_after_s"].as_u64().expect("how long");
    std::thread::sleep(std::time::Duration::from_secs(wait_s));
    assert_eq!(alice.show(&mut key, &attempt, false)["say"], "begun");
    assert_eq!(scene.json(&["status"])["alarms"].to_string().matches("passkey").count(), 0);
    // A copy that lags behind: it is signed as it should be.
    key.count = 2;
    is_refused(&alice.show(&mut key, &Value::Null, true), "wrong");
    let alarms = scene.json(&["status"])["alarms"].to_string();
    assert!(alarms.contains("the passkey `hers` of user `alice`") && alarms.contains("a copy"), "{alarms}");
}

#[test]
fn c7_challenges_are_bounded_and_a_flood_of_them_disturbs_nobody_elsewhere() {
    let Some((scene, mut app)) = scene() else { return };
    let mut alice = Browser::new(&scene);
    alice.with_code(&mut app);
    let (mut key, _) = alice.register("hers");
    let (first, options) = alice.begin(&Value::Null, false);
    let mut flood = Browser { family: Family::V6, ..Browser::new(&scene) };
    for _ in 0..20 {
        flood.begin(&Value::Null, false);
    }
    let response = key.shown(&options);
    assert_eq!(alice.finish(&first, &response)["say"], "begun");
    // Of one address the oldest go.
    let (first, options) = alice.begin(&Value::Null, false);
    for _ in 0..8 {
        alice.begin(&Value::Null, false);
    }
    let response = key.shown(&options);
    is_refused(&alice.finish(&first, &response), "stale");
}

#[test]
fn c9_without_a_session_or_in_another_users_name_no_passkey_is_told_or_changed() {
    let Some((scene, mut app)) = scene() else { return };
    let mut alice = Browser::new(&scene);
    alice.with_code(&mut app);
    let (key, _) = alice.register("hers");
    let mut nobody = Browser::new(&scene);
    is_refused(&nobody.ask("passkey_begin", &json!({ "attempt": null, "step_up": true })), "not_signed_in");
    is_refused(&nobody.ask("passkey_begin", &json!({ "attempt": "AAAA", "step_up": false })), "stale");
    is_refused(&nobody.ask("passkey_remove", &json!({ "id": key.id() })), "not_signed_in");
    is_refused(&nobody.finish(&"AAAA".into(), "{}"), "stale");
    // Whom a passkey is of is not told to whoever asks by name: nobody is named.
    let asked = nobody.ask("passkey_begin", &json!({ "attempt": null, "step_up": false }));
    let text = asked.to_string();
    assert!(!text.contains(&key.id()) && !text.contains("alice"), "{text}");
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    assert_eq!(get(office, portal, "/passkeys", None).status, 303);
    for (path, form) in [
        ("/passkey", "attempt=AAAA&response={}"),
        ("/passkeys", "attempt=AAAA&name=x&response={}"),
        ("/passkeys/remove", "id=AAAA"),
    ] {
        let answer = post(office, portal, path, None, form);
        assert!(matches!(answer.status, 401 | 403), "{path}: {answer:?}");
        assert_eq!(post(office, portal, path, None, "").status, 400, "{path}");
    }
}

#[test]
fn where_the_gateways_own_users_may_not_sign_in_there_are_no_passkeys() {
    let base = config();
    let rules = base.rules.clone() + "[identity]\npasswords = false\n";
    let Some(scene) = Scene::start(&Config { rules, ..base }) else { return };
    listens(&scene);
    let mut nobody = Browser::new(&scene);
    is_refused(&nobody.ask("passkey_begin", &json!({ "attempt": null, "step_up": false })), "unknown");
    assert!(!nobody.page("/").body.contains("passkey"), "nor does the page offer them");
}
