//! Locks and quarantine on the wire: what is cut, who is kept out, what is still reached, and what outlives a restart.

use std::time::{Duration, Instant};

use bulkhead_tests::config::{Config, allow, deny};
use bulkhead_tests::frames::{Family, Path, flags, segment};
use bulkhead_tests::gateway::Ran;
use bulkhead_tests::scene::{Scene, number, text};
use bulkhead_tests::wait_until;
use serde_json::Value;

fn rules() -> String {
    allow("alice", "office", "servers", "tcp/5432")
        + "users = \"alice\"\n"
        + &allow("dba", "office", "servers", "tcp/1433")
        + "users = { groups = [\"dba\"] }\n"
        + &allow("plain", "office", "servers", "tcp/80 udp/53")
        + "[groups.dba]\nmembers = [\"dora\"]\n"
}

/// With a quarantine from which one port is reached, by everybody, and one by alice.
fn with_quarantine() -> String {
    rules()
        + "[segments.quarantine]\nquarantine = true\n"
        + &allow("updates", "quarantine", "servers", "tcp/8080")
        + &allow("help", "quarantine", "servers", "tcp/8443")
        + "users = \"alice\"\n"
}

fn path(scene: &Scene, family: Family, n: u16) -> Path {
    Path { source: scene.peer("office").nth(family, n), ..scene.path("office", "servers", family) }
}

fn ok(ran: Ran) -> Ran {
    assert_eq!(ran.code, 0, "{ran:?}");
    ran
}

fn refused(ran: Ran, why: &str) {
    assert!(ran.code == 1 && ran.stderr.contains(why), "{why}: {ran:?}");
}

fn add(scene: &Scene, n: u16, more: &[&str]) -> Ran {
    let address = scene.peer("office").nth(Family::V4, n).to_string();
    scene.cli(&[&["session", "add", "--address", &address], more].concat())
}

fn sessions(scene: &Scene) -> Vec<Value> {
    scene.json(&["session", "list"])["sessions"].as_array().unwrap().clone()
}

fn syn(scene: &Scene, n: u16, ports: (u16, u16)) -> Vec<u8> {
    path(scene, Family::V4, n).tcp(ports, segment(flags::SYN, 1, 0), b"")
}

/// What the server sends back to a question from port 4000 of the office's address number `n`.
fn answer(scene: &Scene, n: u16, payload: &[u8]) -> Vec<u8> {
    let question = path(scene, Family::V4, n);
    let back = scene.path("servers", "office", Family::V4);
    Path { source: question.destination, destination: question.source, ..back }.udp(53, 4000, payload)
}

#[test]
fn a_lock_of_a_user_a_group_or_a_device_ends_the_sessions_at_once_and_lets_none_begin() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    for (whom, name) in [("--user", "alice"), ("--group", "staff"), ("--device", "laptop-7")] {
        let alice = ["--user", "alice", "--group", "staff", "--device-name", "laptop-7"];
        let told = scene.cli(&[&["lock", whom, name, "--reason", "lost"][..]].concat());
        if whom == "--group" {
            // The policy knows no such group, so nobody can be told to be in it.
            ok(told);
            ok(scene.cli(&["unlock", whom, name]));
            continue;
        }
        ok(scene.cli(&["unlock", whom, name]));
        let alice: Vec<&str> =
            alice.iter().copied().filter(|word| !["--group", "staff"].contains(word)).collect();
        ok(add(&scene, 0, &alice));
        ok(add(&scene, 1, &["--user", "bob"]));
        let mut tcp = scene.open_tcp("office", "servers", Family::V4, (4000, 5432));
        tcp.talks();
        let before = scene.drops();
        let told = ok(scene.cli(&["lock", whom, name, "--reason", "lost"]));
        assert!(told.stdout.contains("is locked out; 1 session(s) ended"), "{told:?}");
        for side in 0..2 {
            let next = tcp.segment(side, flags::ACK | flags::PSH, b"more");
            tcp.stays_out(side, &next);
        }
        scene.expect_drops(&before, &[("identity_revoked", 1), ("no_connection", 1)]);
        assert_eq!(sessions(&scene).len(), 1, "others go on");
        refused(add(&scene, 0, &alice), "is locked out since");
        refused(add(&scene, 2, &alice), ": lost");
        refused(scene.cli(&["unlock", whom, "somebody-else"]), "is not locked out");
        ok(scene.cli(&["unlock", whom, name]));
        ok(add(&scene, 0, &alice));
        ok(scene.cli(&["session", "revoke", "--all"]));
    }
}

#[test]
fn a_lock_of_a_group_means_those_whom_the_policy_puts_in_it_also_by_a_reload() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    ok(add(&scene, 0, &["--user", "dora"]));
    ok(add(&scene, 1, &["--user", "alice", "--group", "dba"]));
    ok(add(&scene, 2, &["--user", "carl"]));
    let told = ok(scene.cli(&["lock", "--group", "dba"]));
    assert!(told.stdout.contains("2 session(s) ended"), "{told:?}");
    refused(add(&scene, 0, &["--user", "dora"]), "group dba is locked out");
    assert_eq!(sessions(&scene).len(), 1);
    scene.reload(&Config::new(rules().replace("\"dora\"", "\"dora\", \"carl\"")));
    assert_eq!(sessions(&scene), [] as [Value; 0]);
    let rows =
        scene.json(&["audit", "log", "--kind", "session_revoked"])["records"].as_array().unwrap().len();
    assert_eq!(rows, 3);
}

#[test]
fn a_locked_address_is_cut_off_in_both_directions_also_from_what_needs_no_session() {
    let Some(mut scene) = Scene::start(&Config::new(rules() + &allow("back", "servers", "office", "udp/99")))
    else {
        return;
    };
    let own = path(&scene, Family::V4, 1);
    let other = path(&scene, Family::V4, 0);
    scene.crosses("office", "servers", &own.udp(4000, 53, b"a question"));
    scene.crosses("servers", "office", &answer(&scene, 1, b"an answer"));
    scene.crosses("office", "servers", &own.udp(4000, 53, b"x"));
    let before = scene.drops();
    let address = own.source.to_string();
    ok(scene.cli(&["lock", "--address", &address, "--reason", "beacons"]));
    scene.stays_out("servers", "office", &answer(&scene, 1, b"another"));
    scene.stays_out("office", "servers", &own.udp(4000, 53, b"x"));
    scene.stays_out("office", "servers", &syn(&scene, 1, (4001, 80)));
    let to_it = Path {
        source: own.destination,
        destination: own.source,
        ..scene.path("servers", "office", Family::V4)
    };
    scene.stays_out("servers", "office", &to_it.udp(4000, 99, b"x"));
    scene.crosses("office", "servers", &other.udp(4000, 53, b"x"));
    scene.expect_drops(&before, &[("locked", 4)]);
    refused(add(&scene, 1, &["--user", "alice"]), "is locked out since");
    let explained = scene.cli(&["explain", "--from", &address, "--to", "servers", "--port", "tcp/80"]);
    assert!(explained.stdout.contains("locked"), "{explained:?}");
    // A reload, and a restart, and it is locked out still.
    scene.reload(&Config::new(rules()));
    scene.stays_out("office", "servers", &own.udp(4001, 53, b"x"));
    scene.take_gateway().kill_9();
    scene.try_run(&[]).unwrap();
    scene.stays_out("office", "servers", &own.udp(4002, 53, b"x"));
    scene.crosses("office", "servers", &other.udp(4002, 53, b"x"));
    let locks = scene.json(&["locks"])["locks"].as_array().unwrap().clone();
    assert_eq!(
        (locks.len(), text(&locks[0], "reason"), text(&locks[0], "by")),
        (1, "beacons".to_owned(), "root".to_owned())
    );
    ok(scene.cli(&["unlock", "--address", &address]));
    scene.crosses("office", "servers", &own.udp(4003, 53, b"x"));
}

#[test]
fn a_lock_with_an_end_ends_by_itself() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let own = path(&scene, Family::V4, 1);
    let begun = Instant::now();
    ok(scene.cli(&["lock", "--address", &own.source.to_string(), "--for", "2s"]));
    scene.stays_out("office", "servers", &own.udp(4000, 53, b"x"));
    wait_until("it is over", || scene.json(&["locks"])["locks"] == Value::Array(Vec::new()));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    wait_until("packets cross", || {
        scene.peer("office").send(&own.udp(4001, 53, b"x"));
        !scene.arrived("office", "servers").is_empty()
    });
    let unlocked = scene.json(&["audit", "log", "--kind", "unlocked"])["records"].clone();
    assert_eq!(unlocked[0]["by"], "clock");
}

#[test]
fn what_is_in_quarantine_reaches_only_what_is_declared_and_comes_out_again() {
    let Some(mut scene) = Scene::start(&Config::new(with_quarantine())) else { return };
    let own = path(&scene, Family::V4, 1);
    let address = own.source.to_string();
    scene.crosses("office", "servers", &own.udp(4000, 53, b"a question"));
    scene.crosses("servers", "office", &answer(&scene, 1, b"an answer"));
    let before = scene.drops();
    ok(scene.cli(&["quarantine", "add", "--address", &address, "--reason", "beacons"]));
    scene.stays_out("servers", "office", &answer(&scene, 1, b"another"));
    scene.stays_out("office", "servers", &own.udp(4000, 53, b"x"));
    scene.crosses("office", "servers", &syn(&scene, 1, (4001, 8080)));
    // A rule from there that asks who it is says what is amiss.
    scene.stays_out("office", "servers", &syn(&scene, 1, (4002, 8443)));
    scene.expect_drops(&before, &[("quarantined", 2), ("not_authenticated", 1)]);
    scene.stays_out("office", "servers", &syn(&scene, 0, (4001, 8080)));
    // With a session it is alice in quarantine, and not alice in the office.
    ok(add(&scene, 1, &["--user", "alice"]));
    scene.crosses("office", "servers", &syn(&scene, 1, (4003, 8443)));
    scene.stays_out("office", "servers", &syn(&scene, 1, (4004, 5432)));
    let explain =
        |port: &str| scene.cli(&["explain", "--from", &address, "--to", "servers", "--port", port]).stdout;
    assert!(explain("tcp/5432").contains("quarantined"), "{}", explain("tcp/5432"));
    assert!(explain("tcp/8080").contains("updates"), "{}", explain("tcp/8080"));
    let shown = scene.json(&["session", "show", &address]);
    assert_eq!(text(&shown, "restrained"), "quarantined");
    let open: Vec<String> = shown["rules"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["reason"].is_null())
        .map(|rule| text(rule, "rule"))
        .collect();
    assert_eq!(open, ["help", "updates"]);
    scene.take_gateway().kill_9();
    scene.try_run(&[]).unwrap();
    scene.stays_out("office", "servers", &own.udp(4005, 53, b"x"));
    ok(scene.cli(&["quarantine", "remove", "--address", &address]));
    scene.crosses("office", "servers", &own.udp(4006, 53, b"x"));
    refused(scene.cli(&["quarantine", "remove", "--address", &address]), "is not in quarantine");
}

#[test]
fn quarantine_of_a_user_goes_with_them_and_stays_with_the_addresses_they_had() {
    let Some(scene) = Scene::start(&Config::new(with_quarantine())) else { return };
    ok(add(&scene, 1, &["--user", "alice"]));
    let told = ok(scene.cli(&["quarantine", "add", "--user", "alice"]));
    assert!(told.stdout.contains("user alice is in quarantine, with 1 session(s)"), "{told:?}");
    scene.stays_out("office", "servers", &syn(&scene, 1, (4000, 5432)));
    scene.crosses("office", "servers", &syn(&scene, 1, (4001, 8443)));
    // She signs in elsewhere.
    ok(add(&scene, 2, &["--user", "alice"]));
    scene.stays_out("office", "servers", &syn(&scene, 2, (4000, 5432)));
    scene.crosses("office", "servers", &syn(&scene, 2, (4001, 8443)));
    // Whoever signs out is no healthier for it.
    ok(scene.cli(&["session", "revoke", "--user", "alice"]));
    scene.stays_out("office", "servers", &path(&scene, Family::V4, 1).udp(4002, 53, b"x"));
    scene.crosses("office", "servers", &path(&scene, Family::V4, 0).udp(4002, 53, b"x"));
    let rows = scene.json(&["quarantine", "list"])["quarantine"].clone();
    assert_eq!(rows[0]["addresses"].as_array().unwrap().len(), 2);
    ok(scene.cli(&["quarantine", "remove", "--user", "alice"]));
    scene.crosses("office", "servers", &path(&scene, Family::V4, 1).udp(4003, 53, b"x"));
}

#[test]
fn without_a_quarantine_segment_quarantine_reaches_nothing_and_says_so() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let own = path(&scene, Family::V4, 1);
    let told = ok(scene.cli(&["quarantine", "add", "--address", &own.source.to_string()]));
    assert!(told.stderr.contains("the policy has no quarantine segment"), "{told:?}");
    let before = scene.drops();
    scene.stays_out("office", "servers", &own.udp(4000, 53, b"x"));
    scene.expect_drops(&before, &[("quarantined", 1)]);
}

#[test]
fn any_does_not_mean_the_quarantine_where_something_is_allowed_and_does_where_it_is_denied() {
    let text = allow("all", "any", "any", "tcp/80")
        + &deny("never", "any", "servers", "tcp/22")
        + "[segments.quarantine]\nquarantine = true\n"
        + &allow("updates", "quarantine", "servers", "tcp/1-1000");
    let Some(scene) = Scene::start(&Config::new(text)) else { return };
    scene.crosses("office", "servers", &syn(&scene, 1, (4000, 80)));
    let address = scene.peer("office").nth(Family::V4, 1).to_string();
    ok(scene.cli(&["quarantine", "add", "--address", &address]));
    let before = scene.drops();
    scene.stays_out("office", "servers", &syn(&scene, 1, (4001, 22)));
    scene.stays_out("office", "servers", &syn(&scene, 1, (4001, 2222)));
    scene.expect_drops(&before, &[("rule_denied", 1), ("quarantined", 1)]);
    scene.crosses("office", "servers", &syn(&scene, 1, (4002, 443)));
}

#[test]
fn everything_about_a_session_is_shown_and_events_and_connections_name_the_user() {
    let text = rules()
        + &allow("fresh", "office", "servers", "tcp/22")
        + "users = \"any\"\nrequire = { mfa_max_age = \"1h\", posture = \"compliant\" }\n"
        + "[postures.compliant]\ndisk_encrypted = true\nmax_age = \"15m\"\n";
    let Some(scene) = Scene::start(&Config::new(text)) else { return };
    ok(add(
        &scene,
        0,
        &["--user", "alice", "--mfa-age", "5m", "--posture", "compliant", "--device-name", "laptop-7"],
    ));
    let session = sessions(&scene)[0].clone();
    let (id, address) = (text_of(&session, "id"), text_of(&session, "address"));
    let mut tcp = scene.open_tcp("office", "servers", Family::V4, (4000, 5432));
    tcp.talks();
    scene.crosses("office", "servers", &path(&scene, Family::V4, 0).udp(4000, 53, b"by nobody's session"));
    scene.stays_out("office", "servers", &syn(&scene, 0, (4001, 1433)));
    let shown = scene.json(&["session", "show", &id]);
    assert_eq!(shown["session"]["address"], address.as_str());
    assert_eq!(scene.json(&["session", "show", &address])["session"]["id"], id.as_str());
    let (mfa, posture) = (&shown["factor_limits"][0], &shown["posture_limits"][0]);
    assert_eq!((number(mfa, "max_age_s"), number(posture, "max_age_s")), (3600, 900));
    assert!((3200..=3300).contains(&number(mfa, "left_s")), "{mfa}");
    let rule = |name: &str| {
        let rules = shown["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["rule"] == name).unwrap_or_else(|| panic!("{name}: {rules:?}")).clone()
    };
    assert_eq!(
        (&rule("alice")["reason"], &rule("plain")["reason"], &rule("fresh")["reason"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(rule("dba")["reason"], "not_in_group");
    assert!(number(&rule("fresh"), "left_s") <= 900 && rule("dba")["asks_for"].to_string().contains("dba"));
    assert_eq!(
        (number(&shown, "matched"), text_of(&shown["connections"][0], "user")),
        (1, "alice".to_owned())
    );
    let words = ok(scene.cli(&["session", "show", &id])).stdout;
    for part in
        ["session      ", "of alice", "good for", "not_in_group", "last packet", "laptop-7 (not enrolled)"]
    {
        assert!(words.contains(part), "{part}: {words}");
    }
    refused(scene.cli(&["session", "show", "nobody"]), "no session has the id or the address");

    let events = || scene.cli(&["events", "--last", "100"]).stdout;
    wait_until("the events have come", || events().matches("\"denied\"").count() == 1);
    let lines: Vec<Value> = events().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str, port: u64| {
        let found = lines.iter().find(|event| event["kind"] == kind && event["destination_port"] == port);
        found.unwrap_or_else(|| panic!("{kind} {port}: {lines:#?}"))["user"].clone()
    };
    assert_eq!(
        (of("opened", 5432), of("opened", 53), of("denied", 1433)),
        ("alice".into(), Value::Null, "alice".into())
    );
    // Closed long after another policy was asked, and the session is over: the name is remembered.
    scene.reload(&Config::new(rules()));
    ok(scene.cli(&["session", "revoke", "--user", "alice"]));
    let next = tcp.segment(0, flags::ACK, b"x");
    tcp.stays_out(0, &next);
    wait_until("the cut is told", || {
        events().contains("identity_revoked") || events().contains("policy_revoked")
    });
    let cut = events()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|event| event["kind"] == "cut")
        .unwrap();
    assert_eq!((text_of(&cut, "user"), text_of(&cut, "session")), ("alice".to_owned(), id));
}

fn text_of(value: &Value, key: &str) -> String {
    text(value, key)
}

#[test]
fn a_lock_of_many_waited_for_the_workers_once_for_each_session() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    for n in 0..=300 {
        let address = scene.peer("office").nth(Family::V6, n).to_string();
        let user = if n < 300 { "dora" } else { "alice" };
        let who = ["--address", &address, "--mac", "02:00:00:00:00:07", "--user", user];
        ok(scene.cli(&[&["session", "add"][..], &who].concat()));
    }
    let begun = Instant::now();
    let told = ok(scene.cli(&["lock", "--group", "dba"]));
    let took = begun.elapsed();
    assert!(told.stdout.contains("300 session(s) ended"), "{told:?}");
    assert_eq!(sessions(&scene).len(), 1);
    // A round of the workers, and one write of the log, take some milliseconds.
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[test]
fn an_ipv4_address_written_as_an_ipv6_one_was_locked_and_nobody_kept_out() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let own = path(&scene, Family::V4, 1);
    let mapped = format!("::ffff:{}", own.source);
    ok(scene.cli(&["lock", "--address", &mapped]));
    scene.stays_out("office", "servers", &own.udp(4000, 53, b"x"));
    ok(scene.cli(&["unlock", "--address", &own.source.to_string()]));
    scene.crosses("office", "servers", &own.udp(4001, 53, b"x"));
}
