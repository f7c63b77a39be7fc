//! Signing in at the portal: what it opens, for whom, and for how long.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bulkhead_tests::authenticator::Authenticator;
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Family, Path};
use bulkhead_tests::https::{self, Answer, get, post};
use bulkhead_tests::scene::{Scene, text};

use super::{listens, place};

pub const PASSWORD: &str = "correct horse battery";

/// What alice may reach: something with a password, more with a second factor, and what needs one that is fresh.
pub fn config() -> Config {
    let rules = allow("everybody", "office", "servers", "udp/53")
        + &allow("staff", "office", "servers", "udp/8080")
        + "users = \"alice\"\n"
        + &allow("database", "office", "servers", "tcp/5432 udp/5432")
        + "users = { groups = [\"dba\"] }\nrequire = { mfa_max_age = \"1h\" }\n"
        + &allow("healthy", "office", "servers", "tcp/445")
        + "users = \"alice\"\nrequire = { posture = \"compliant\" }\n"
        + &allow("vault", "office", "servers", "tcp/8200")
        + "users = \"alice\"\nrequire = { mfa = \"phishing-resistant\" }\n"
        + &allow("others", "office", "servers", "tcp/22")
        + "users = \"bob\"\n[groups.dba]\n[postures.compliant]\ndisk_encrypted = true\n";
    let portal = format!("[portal]\nports = [\"office\"]\nredirect_port = 80\nname = \"{}\"\n", https::NAME);
    Config::new(rules + &portal)
}

/// A gateway that knows alice, and her app.
pub fn scene() -> Option<(Scene, Authenticator)> {
    let scene = Scene::start(&config())?;
    listens(&scene);
    let added = scene.cli_with(&["user", "add", "alice", "--group", "dba", "--password-stdin"], PASSWORD);
    assert_eq!(added.code, 0, "{added:?}");
    let totp = scene.json(&["user", "totp", "alice"]);
    let app = Authenticator::new(&text(&totp["authenticator"], "key"));
    Some((scene, app))
}

/// The value of a page's hidden field.
fn attempt(page: &Answer) -> String {
    let field = page.body.split("name=\"attempt\" value=\"").nth(1).unwrap_or_else(|| panic!("{page:?}"));
    field.split('"').next().unwrap_or_default().to_owned()
}

/// Signs alice in from the office's host; her cookie.
fn sign_in(scene: &Scene, family: Family, app: &mut Authenticator) -> String {
    let (office, portal) = (scene.host("office"), place(scene, family));
    let form = format!("user=alice&password={}", PASSWORD.replace(' ', "+"));
    let second = post(office, portal, "/sign-in", None, &form);
    assert_eq!((second.status, second.cookie()), (200, None), "{second:?}");
    let form = format!("attempt={}&code={}", attempt(&second), app.code());
    let begun = post(office, portal, "/factor", None, &form);
    assert_eq!((begun.status, begun.header("location")), (303, Some("/")), "{begun:?}");
    begun.cookie().expect("a cookie")
}

/// From the very host that signs in.
pub fn path(scene: &Scene, family: Family) -> Path {
    let (office, source) = (scene.host("office"), scene.host_address("office", family));
    Path { from: office.mac, source, ..scene.path("office", "servers", family) }
}

#[test]
fn n2_signing_in_opens_what_the_rules_say_and_signing_out_shuts_it_at_once() {
    let Some((scene, mut app)) = scene() else { return };
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let path = path(&scene, Family::V4);
    scene.stays_out("office", "servers", &path.udp(4000, 8080, b"before"));
    let cookie = sign_in(&scene, Family::V4, &mut app);
    scene.crosses("office", "servers", &path.udp(4001, 8080, b"alice"));
    scene.crosses("office", "servers", &path.udp(4001, 5432, b"alice with her app"));
    scene.stays_out("office", "servers", &path.udp(4001, 22, b"not hers"));
    // N8: the other family's address is another one.
    let other = self::path(&scene, Family::V6);
    scene.stays_out("office", "servers", &other.udp(4001, 8080, b"another address"));
    let page = get(office, portal, "/", Some(&cookie));
    for shown in [
        "<h1>Signed in as alice</h1>",
        "dba",
        "tcp/5432",
        "Needs a recent report",
        "cannot be phished",
        "ends in 7 h 59 min",
    ] {
        assert!(page.body.contains(shown), "{shown}\n{}", page.body);
    }
    assert!(!page.body.contains("tcp/22"), "what is for others is not told: {}", page.body);
    let captive = get(office, portal, "/captive", Some(&cookie));
    assert_eq!(captive.header("content-type"), Some("application/captive+json"));
    assert!(captive.body.contains("\"captive\":false"), "{}", captive.body);
    let out = post(office, portal, "/sign-out", Some(&cookie), "");
    assert_eq!(out.status, 303);
    scene.stays_out("office", "servers", &path.udp(4001, 8080, b"the same connection"));
    scene.stays_out("office", "servers", &path.udp(4002, 8080, b"another one"));
    assert!(
        get(office, portal, "/", Some(&cookie)).body.contains("<h1>Sign in</h1>"),
        "the cookie opens nothing"
    );
    assert!(get(office, portal, "/captive", None).body.contains("\"captive\":true"));
}

#[test]
fn n6_signing_out_cuts_what_a_real_host_has_open() {
    let Some((scene, mut app)) = scene() else { return };
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let cookie = sign_in(&scene, Family::V4, &mut app);
    let servers = scene.host("servers");
    let database = SocketAddr::new(servers.v4[0].into(), 5432);
    let listener = servers.namespace.run(|| TcpListener::bind(database)).expect("it listens");
    let mut query = https::dial(office, database).expect("the way is open");
    let (mut answering, _) = listener.accept().expect("it is there");
    query.write_all(b"select 1").expect("it goes through");
    answering.read_exact(&mut [0; 8]).expect("it arrives");
    assert_eq!(post(office, portal, "/sign-out", Some(&cookie), "").status, 303);
    query.write_all(b"select 2").expect("it is sent");
    answering.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(answering.read(&mut [0; 8]).is_err(), "nothing of the live connection arrives any more");
}

#[test]
fn n7_a_cookie_is_the_gateways_own_is_new_at_every_sign_in_and_opens_nothing_elsewhere() {
    let Some((scene, mut app)) = scene() else { return };
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    // Somebody has planted one before she signs in.
    let planted = "__Host-bulkhead=planted";
    let form = format!("user=alice&password={}", PASSWORD.replace(' ', "+"));
    let second = post(office, portal, "/sign-in", Some(planted), &form);
    let form = format!("attempt={}&code={}", attempt(&second), app.code());
    // An attempt is of the address where it began.
    let elsewhere = post(office, place(&scene, Family::V6), "/factor", None, &form);
    assert_eq!((elsewhere.status, elsewhere.cookie()), (403, None), "{elsewhere:?}");
    let begun = post(office, portal, "/factor", Some(planted), &form);
    let cookie = begun.cookie().expect("a cookie of her own");
    assert_ne!(cookie, planted);
    let page = |cookie: &str| get(office, portal, "/", Some(cookie)).body;
    assert!(
        page(&cookie).contains("<h1>Signed in as alice</h1>")
            && !page(planted).contains("<h1>Signed in as alice</h1>")
    );
    // Stolen, and shown from another address of the same host.
    let stolen = get(office, place(&scene, Family::V6), "/", Some(&cookie));
    assert!(stolen.body.contains("<h1>Sign in</h1>") && !stolen.body.contains("alice"), "{}", stolen.body);
    let ended = post(office, place(&scene, Family::V6), "/sign-out", Some(&cookie), "");
    assert!([303, 401, 403].contains(&ended.status));
    assert!(page(&cookie).contains("<h1>Signed in as alice</h1>"), "it ended nothing");
    // Signing in again makes another one, and the first opens nothing any more.
    let again = sign_in(&scene, Family::V4, &mut app);
    assert_ne!(again, cookie);
    assert!(
        page(&again).contains("<h1>Signed in as alice</h1>")
            && !page(&cookie).contains("<h1>Signed in as alice</h1>")
    );
}

#[test]
fn c5_wrong_passwords_and_codes_say_the_same_of_users_that_are_there_or_not_and_are_limited() {
    let Some((scene, mut app)) = scene() else { return };
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let try_as = |user: &str| post(office, portal, "/sign-in", None, &format!("user={user}&password=wrong"));
    let (known, unknown) = (try_as("alice"), try_as("nobody-here"));
    assert_eq!((known.status, unknown.status), (403, 403), "{known:?}");
    assert_eq!(known.body, unknown.body.replace("nobody-here", "alice"));
    assert!(
        known.body.contains("role=\"alert\"") && known.body.contains("That was not right"),
        "{}",
        known.body
    );
    // A code is good once.
    let code = app.code();
    let form = format!("user=alice&password={}", PASSWORD.replace(' ', "+"));
    let sign_in = |code: &str| {
        let second = post(office, portal, "/sign-in", None, &form);
        post(office, portal, "/factor", None, &format!("attempt={}&code={code}", attempt(&second)))
    };
    assert_eq!(sign_in(&code).status, 303);
    let replayed = sign_in(&code);
    assert_eq!((replayed.status, replayed.cookie()), (403, None), "{replayed:?}");
    // Guesses end in a lock long before one is right.
    let refused = (0..40).map(|_| try_as("alice")).find(|answer| answer.status == 429);
    let refused = refused.expect("too many");
    assert!(
        refused.header("retry-after").is_some() && refused.body.contains("Too many wrong tries"),
        "{refused:?}"
    );
}

#[test]
fn stepping_up_makes_the_second_factor_fresh_and_programs_can_do_all_of_it_in_json() {
    let Some((scene, mut app)) = scene() else { return };
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let api = |ask: &str, cookie: Option<&str>, body: &str| {
        let bearer = cookie.map(|cookie| format!("Authorization: Bearer {cookie}"));
        let mut headers = vec!["Content-Type: application/json"];
        headers.extend(bearer.as_deref());
        https::ask(office, portal, &format!("POST /api/v1/{ask}"), &headers, body.as_bytes())
    };
    let json = |answer: &Answer| serde_json::from_str::<serde_json::Value>(&answer.body).expect("JSON");
    let factor = api("password", None, &format!("{{\"user\":\"alice\",\"password\":\"{PASSWORD}\"}}"));
    let factor = json(&factor);
    assert_eq!((text(&factor, "say"), factor["methods"][0].as_str()), ("factor".to_owned(), Some("totp")));
    let attempt = text(&factor, "attempt");
    let begun =
        json(&api("totp", None, &format!("{{\"attempt\":\"{attempt}\",\"code\":\"{}\"}}", app.code())));
    let cookie = text(&begun, "cookie");
    assert_eq!(begun["standing"]["session"]["user"], "alice");
    // A page with a fresh code, as the same session.
    let page = get(office, portal, "/step-up", Some(&format!("__Host-bulkhead={cookie}")));
    assert!(page.body.contains("<h1>Verify it is you</h1>"), "{page:?}");
    let wrong = post(office, portal, "/step-up", Some(&format!("__Host-bulkhead={cookie}")), "code=000000");
    assert!(wrong.status == 403 && wrong.body.contains("role=\"alert\""), "{wrong:?}");
    let stepped = json(&api("totp", Some(&cookie), &format!("{{\"code\":\"{}\"}}", app.code())));
    assert_eq!(text(&stepped, "say"), "begun", "{stepped}");
    let cookie = text(&stepped, "cookie");
    let standing = json(&api("standing", Some(&cookie), "{}"));
    assert!(standing["session"]["mfa_age_s"].as_u64().is_some_and(|age_s| age_s < 5), "{standing}");
    for body in ["{", "[]", "{\"ask\":\"sign_out\"}", "{\"more\":1}"] {
        assert_eq!(api("standing", Some(&cookie), body).status, 400, "{body}");
    }
    assert_eq!(text(&json(&api("sign_out", Some(&cookie), "")), "say"), "signed_out");
    assert!(json(&api("standing", Some(&cookie), ""))["session"].is_null());
}

#[test]
fn c13_what_people_type_and_what_they_are_given_is_in_no_log() {
    let Some((scene, mut app)) = scene() else { return };
    let cookie = sign_in(&scene, Family::V4, &mut app);
    let value = cookie.trim_start_matches("__Host-bulkhead=");
    let log = scene.gateway().output() + &scene.json(&["status"]).to_string();
    for secret in [PASSWORD, value] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(!log.contains("BEGIN PRIVATE KEY"));
    // Nor where other processes could see it.
    let pid = bulkhead_tests::scene::number(&super::status(&scene), "pid");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/mem")).unwrap());
    assert_eq!(owner, 0, "its memory is root's to see, not its own user's");
}
