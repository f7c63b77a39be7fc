//! Who is behind an address, seen on the wire: what a session opens, when it ends, and whom it does not concern.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::config::{Config, allow, deny};
use bulkhead_tests::frames::{Family, Path, flags, segment};
use bulkhead_tests::scene::{Scene, number, text};
use bulkhead_tests::wait_until;
use serde_json::Value;

/// How much later than its time an end may bite.
const LATEST: Duration = Duration::from_millis(100);

/// What users and factors open, and what needs nobody.
fn rules() -> String {
    allow("alice", "office", "servers", "tcp/5432 udp/5432")
        + "users = \"alice\"\n"
        + &allow("dba", "office", "servers", "udp/1433")
        + "users = { groups = [\"dba\"] }\n"
        + &allow("fresh", "office", "servers", "tcp/22 udp/22")
        + "users = \"any\"\nrequire = { mfa_max_age = \"6s\" }\n"
        + &allow("healthy", "office", "servers", "udp/445")
        + "require = { posture = \"compliant\" }\n"
        + &allow("plain", "office", "servers", "tcp/80 udp/53")
        + "[postures.compliant]\ndisk_encrypted = true\n[groups.dba]\nmembers = [\"dora\"]\n"
}

/// The office's peer by its address number `n`.
fn path(scene: &Scene, family: Family, n: u16) -> Path {
    Path { source: scene.peer("office").nth(family, n), ..scene.path("office", "servers", family) }
}

fn add(scene: &Scene, source: std::net::IpAddr, more: &[&str]) -> Value {
    let source = source.to_string();
    scene.json(&[&["session", "add", "--address", &source], more].concat())
}

/// The arguments that add a session.
fn adding<'a>(source: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["session", "add", "--address", source], more].concat()
}

fn revoke(scene: &Scene, which: &[&str]) -> u64 {
    number(&scene.json(&[&["session", "revoke"], which].concat()), "revoked")
}

/// The error of a verb.
fn refused(scene: &Scene, args: &[&str]) -> String {
    let ran = scene.cli(args);
    assert!(ran.code == 1 && ran.stdout.is_empty(), "{ran:?}");
    ran.stderr
}

#[test]
fn n2_a_session_opens_exactly_what_the_rules_say_of_its_user_device_and_groups() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let (mine, others) = (path(&scene, family, 0), path(&scene, family, 1));
        for port in [5432, 1433, 22, 445] {
            scene.stays_out("office", "servers", &mine.udp(4000, port, b"nobody"));
        }
        scene.crosses("office", "servers", &mine.udp(4000, 53, b"needs nobody"));
        add(&scene, mine.source, &["--user", "alice"]);
        scene.crosses("office", "servers", &mine.udp(4001, 5432, b"alice"));
        for port in [1433, 22, 445] {
            scene.stays_out("office", "servers", &mine.udp(4001, port, b"alice"));
        }
        scene.stays_out("office", "servers", &others.udp(4001, 5432, b"somebody else"));
        // Another user in her place: the same address is somebody else's now.
        add(&scene, mine.source, &["--user", "dora", "--posture", "compliant", "--mfa-age", "1s"]);
        for port in [1433, 22, 445] {
            scene.crosses("office", "servers", &mine.udp(4002, port, b"dora"));
        }
        scene.stays_out("office", "servers", &mine.udp(4002, 5432, b"dora"));
        scene.stays_out("office", "servers", &mine.udp(4001, 5432, b"what alice has opened"));
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(
        &before,
        &[
            ("not_authenticated", 2 * 5),
            ("not_in_group", 2 * 2),
            ("mfa_missing", 2),
            ("posture_unknown", 2),
            ("identity_revoked", 2),
        ],
    );
}

#[test]
fn n6_a_revocation_cuts_live_connections_at_their_next_packet_in_either_direction_and_no_others() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let (mut open, mut plain) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        add(&scene, path(&scene, family, 0).source, &["--user", "alice"]);
        open.push(scene.open_tcp("office", "servers", family, (4000, 5432)));
        plain.push(scene.open_tcp("office", "servers", family, (4000, 80)));
    }
    // Somebody else, whom it does not concern.
    let others = path(&scene, Family::V4, 1);
    add(&scene, others.source, &["--user", "alice2", "--group", "dba"]);
    scene.crosses("office", "servers", &others.udp(4000, 1433, b"x"));
    open.iter_mut().chain(&mut plain).for_each(|tcp| tcp.talks());
    let before = scene.drops();
    assert_eq!(revoke(&scene, &["--user", "alice"]), 2);
    for (side, tcp) in open.iter_mut().enumerate() {
        let next = tcp.segment(side, flags::ACK | flags::PSH, b"more");
        tcp.stays_out(side, &next);
    }
    for family in Family::BOTH {
        let syn = path(&scene, family, 0).tcp((4001, 5432), segment(flags::SYN, 1, 0), b"");
        scene.stays_out("office", "servers", &syn);
    }
    plain.iter_mut().for_each(|tcp| tcp.talks());
    scene.crosses("office", "servers", &others.udp(4000, 1433, b"x"));
    scene.expect_drops(&before, &[("identity_revoked", 2), ("session_expired", 2)]);
}

#[test]
fn n6_no_packet_sent_after_a_revocation_has_returned_crosses() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let path = path(&scene, Family::V4, 0);
    for round in 0..5 {
        add(&scene, path.source, &["--user", "alice"]);
        let (revoked, done, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let payload: &[u8] = if revoked.load(Ordering::Acquire) { b"after" } else { b"before" };
                    scene.peer("office").send(&path.udp(4000 + round, 5432, payload));
                    sent.fetch_add(1, Ordering::AcqRel);
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
            let wait_for = |more: u64| {
                let from = sent.load(Ordering::Acquire);
                wait_until("packets are sent", || sent.load(Ordering::Acquire) > from + more);
            };
            wait_for(20);
            let count = revoke(&scene, &["--all"]);
            revoked.store(true, Ordering::Release);
            wait_for(50);
            done.store(true, Ordering::Release);
            assert_eq!(count, 1);
        });
        let arrived = scene.arrived("office", "servers");
        let of = |payload: &[u8]| arrived.iter().filter(|packet| packet.payload() == payload).count();
        assert!(of(b"before") >= 20 && of(b"after") == 0, "{} before, {} after", of(b"before"), of(b"after"));
    }
}

#[test]
fn a_second_factor_ages_out_under_a_running_connection_and_a_session_ends_by_itself() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let (mine, others) = (path(&scene, Family::V4, 0), path(&scene, Family::V4, 1));
    add(&scene, mine.source, &["--user", "alice", "--mfa", "phishing-resistant"]);
    add(&scene, others.source, &["--user", "alice", "--for", "6s"]);
    let begun = Instant::now();
    let mut fresh = scene.open_tcp("office", "servers", Family::V4, (4000, 22));
    let mut lasting = scene.open_tcp("office", "servers", Family::V4, (4000, 5432));
    scene.crosses("office", "servers", &others.udp(4000, 5432, b"in time"));
    fresh.talks();
    lasting.talks();
    assert!(begun.elapsed() < Duration::from_secs(5), "this machine is too slow for this test");
    let before = scene.drops();
    std::thread::sleep((begun + Duration::from_secs(6) + LATEST).saturating_duration_since(Instant::now()));
    // The other rule of the same user asks for no factor.
    lasting.talks();
    let next = fresh.segment(1, flags::ACK | flags::PSH, b"more");
    fresh.stays_out(1, &next);
    scene.stays_out("office", "servers", &mine.udp(4001, 22, b"new"));
    scene.stays_out("office", "servers", &others.udp(4000, 5432, b"late"));
    scene.stays_out("office", "servers", &others.udp(4001, 5432, b"new"));
    lasting.talks();
    scene.expect_drops(&before, &[("expired", 2), ("mfa_too_old", 1), ("session_expired", 1)]);
    wait_until("it is forgotten", || {
        scene.json(&["session", "list"])["sessions"].as_array().unwrap().len() == 1
    });
    // She shows it again, and goes on.
    add(&scene, mine.source, &["--user", "alice", "--mfa-age", "1s"]);
    scene.crosses("office", "servers", &mine.udp(4001, 22, b"new"));
    lasting.talks();
}

#[test]
fn n3_a_second_host_that_takes_the_address_gets_nothing_of_the_session_and_cuts_nothing() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    for family in Family::BOTH {
        let honest = path(&scene, family, 0);
        let thief = Path { from: [2, 0, 0, 0, 0, 99], ..honest };
        let session = add(&scene, honest.source, &["--user", "alice"]);
        let mac = scene.peer("office").mac.map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(text(&session, "mac"), mac);
        scene.crosses("office", "servers", &honest.udp(4000, 5432, b"honest"));
        scene.stays_out("office", "servers", &thief.udp(4000, 5432, b"thief"));
        scene.stays_out("office", "servers", &thief.udp(4001, 5432, b"thief"));
        scene.crosses("office", "servers", &honest.udp(4000, 5432, b"honest"));
        // The gateway's kernel believes who answers for an address. What is for her is sent to nobody else.
        let back = Path {
            source: honest.destination,
            destination: honest.source,
            ..scene.path("servers", "office", family)
        };
        let answers = |mac| {
            scene.lab.gateway.add_neighbour("office", honest.source, mac).unwrap();
            // So long it may take until the gateway has heard of it.
            std::thread::sleep(Duration::from_millis(300));
        };
        scene.crosses("servers", "office", &back.udp(5432, 4000, b"for her"));
        answers(thief.from);
        let before = scene.drops();
        scene.stays_out("servers", "office", &back.udp(5432, 4000, b"for her"));
        scene.stays_out("servers", "office", &back.udp(5432, 4000, b"for her"));
        scene.expect_drops(&before, &[("address_taken", 2)]);
        answers(honest.from);
        scene.crosses("servers", "office", &back.udp(5432, 4000, b"for her"));
    }
}

#[test]
fn n8_a_session_of_the_ipv4_address_does_not_open_ipv6() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let [v4, v6] = Family::BOTH.map(|family| path(&scene, family, 0));
    add(&scene, v4.source, &["--user", "alice"]);
    let before = scene.drops();
    scene.crosses("office", "servers", &v4.udp(4000, 5432, b"x"));
    scene.stays_out("office", "servers", &v6.udp(4000, 5432, b"x"));
    scene.expect_drops(&before, &[("not_authenticated", 1)]);
    add(&scene, v6.source, &["--user", "alice"]);
    revoke(&scene, &["--address", &v4.source.to_string()]);
    scene.crosses("office", "servers", &v6.udp(4000, 5432, b"x"));
    scene.stays_out("office", "servers", &v4.udp(4000, 5432, b"x"));
}

#[test]
fn n10_when_all_sessions_are_taken_those_that_are_there_are_safe() {
    let config = Config { gateway: "sessions = 2".to_owned(), ..Config::new(rules()) };
    let Some(scene) = Scene::start(&config) else { return };
    let [first, second, third] = [0, 1, 2].map(|n| path(&scene, Family::V4, n));
    add(&scene, first.source, &["--user", "alice"]);
    add(&scene, second.source, &["--user", "mallory"]);
    let source = third.source.to_string();
    for _ in 0..3 {
        let error = refused(&scene, &["session", "add", "--address", &source, "--user", "mallory"]);
        assert!(error.contains("there are as many sessions as fit"), "{error}");
    }
    scene.crosses("office", "servers", &first.udp(4000, 5432, b"x"));
    assert_eq!(number(&scene.status()["sessions"], "open"), 2);
    revoke(&scene, &["--user", "mallory"]);
    add(&scene, third.source, &["--user", "alice"]);
    scene.crosses("office", "servers", &third.udp(4000, 5432, b"x"));
    scene.crosses("office", "servers", &first.udp(4000, 5432, b"x"));
}

#[test]
fn a_reload_keeps_sessions_but_for_those_whose_address_is_in_another_segment_now() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let (mine, others) = (path(&scene, Family::V4, 0), path(&scene, Family::V4, 1));
    for source in [mine.source, others.source] {
        add(&scene, source, &["--user", "alice"]);
    }
    let mut tcp = scene.open_tcp("office", "servers", Family::V4, (4000, 5432));
    scene.crosses("office", "servers", &others.udp(4000, 5432, b"x"));
    // Names get other numbers.
    let more = rules() + &allow("aaron", "office", "servers", "udp/7") + "users = [\"aaron\", \"zoe\"]\n";
    scene.reload(&Config::new(more.clone()));
    tcp.talks();
    scene.crosses("office", "servers", &others.udp(4000, 5432, b"x"));
    let network = |zone: &str, number: u8| {
        format!(
            "[segments.{zone}]\nport = \"{zone}\"\nnetworks = [\"10.{number}.0.0/24\", \"fd00:{number}::/64\"]\n"
        )
    };
    let guests = format!("[segments.guests]\nport = \"office\"\nnetworks = [\"{}/32\"]\n", others.source);
    let segments = Some(network("office", 1) + &network("servers", 2) + &guests);
    let moved = more + &allow("guests", "guests", "servers", "udp/5432") + "users = \"any\"\n";
    let before = scene.drops();
    scene.reload(&Config { segments, ..Config::new(moved) });
    tcp.talks();
    scene.stays_out("office", "servers", &others.udp(4000, 5432, b"x"));
    scene.stays_out("office", "servers", &others.udp(4001, 5432, b"x"));
    scene.expect_drops(&before, &[("policy_revoked", 1), ("not_authenticated", 1)]);
    let listed = scene.json(&["session", "list"]);
    let listed = listed["sessions"].as_array().unwrap();
    assert!(listed.len() == 1 && text(&listed[0], "address") == mine.source.to_string(), "{listed:#?}");
    let alarms = scene.status()["alarms"].to_string();
    let told = format!("alice at {} (was office)", others.source);
    assert!(alarms.contains("1 session(s) ended") && alarms.contains(&told), "{alarms}");
}

#[test]
fn a_shadow_what_is_in_audit_and_a_plan_judge_by_the_same_sessions() {
    // Whoever is not known not to be bob would be denied.
    let bob = deny("not-bob", "office", "servers", "udp/5432") + "users = \"bob\"\nmode = \"audit\"\n";
    let Some(scene) = Scene::start(&Config::new(rules() + &bob)) else { return };
    // Names get other numbers.
    let other = rules() + &allow("aaron", "office", "servers", "udp/7") + "users = [\"aaron\", \"zoe\"]\n";
    let other = scene.candidate("other.toml", &Config::new(other));
    let [mine, late] = [0, 1].map(|n| path(&scene, Family::V4, n));
    add(&scene, mine.source, &["--user", "alice"]);
    assert_eq!(scene.cli(&["shadow", &other]).code, 0);
    // One that is there when the shadow starts, and one that signs in later.
    add(&scene, late.source, &["--user", "alice"]);
    for path in [mine, late] {
        scene.crosses("office", "servers", &path.udp(4000, 5432, b"x"));
    }
    let shadow = scene.json(&["shadow"]);
    assert!(number(&shadow, "changed") == 0 && number(&shadow, "asked") >= 2, "{shadow:#}");
    let audit = scene.json(&["audit", "report"]);
    assert!(number(&audit, "changed") == 0 && number(&audit, "asked") >= 2, "{audit:#}");
    let plan = scene.cli(&["plan", &other, "-o", "json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap_or_else(|_| panic!("{plan:?}"));
    let connections = &plan["connections"];
    assert!(
        number(connections, "stay") >= 2 && connections["cut"] == serde_json::json!([]),
        "{connections:#}"
    );
    // And when she leaves, they know that too.
    revoke(&scene, &["--all"]);
    scene.stays_out("office", "servers", &mine.udp(4001, 5432, b"x"));
    assert_eq!(number(&scene.json(&["shadow"]), "changed"), 0);
}

#[test]
fn sessions_are_listed_told_explained_and_logged_and_slips_are_refused_with_a_hint() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let source = scene.peer("office").address(Family::V4).to_string();
    let add = |more| adding(&source, more);
    for (args, expected) in [
        (add(&["--user", "alice", "--group", "dbb"]), "did you mean `dba`?"),
        (add(&["--user", "alice", "--posture", "complient"]), "did you mean `compliant`?"),
        (add(&["--user", "alice", "--mfa", "phishing"]), "phishing-resistant"),
        (add(&["--user", "alice", "--for", "500d"]), "a session may last a year"),
        (add(&["--user", "alice", "--mac", "02:00"]), "is not a MAC address"),
        (add(&[]), "say who is behind the address (--user)"),
        (vec!["session", "add", "--address", "192.0.2.1", "--user", "alice"], "192.0.2.1"),
        (vec!["session", "add", "--address", "office", "--user", "alice"], "is not an IP address"),
        (vec!["session", "revoke"], "say which, or --all"),
        (vec!["session", "revoke", "0000000000"], "no session has the id"),
    ] {
        let error = refused(&scene, &args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    // One of which the kernel has not heard: it cannot be told from whoever takes its address.
    let unknown = scene.peer("office").nth(Family::V4, 9).to_string();
    let error = refused(&scene, &["session", "add", "--address", &unknown, "--user", "alice"]);
    assert!(error.contains("has not been heard of") && error.contains("--mac"), "{error}");
    let args = ["--user", "dora", "--device", "enrolled", "--device", "tag=laptop", "--device-name", "d-7"];
    let more = ["--posture", "compliant=failed", "--mfa-age", "2h", "--risk", "7", "--for", "1h"];
    let begun = scene.json(&add(&[&args[..], &more[..]].concat()));
    let listed = scene.json(&["session", "list", "--user", "dora"]);
    let session = &listed["sessions"][0];
    for key in ["id", "user", "segment", "groups", "device", "ends", "mac", "risk"] {
        assert_eq!(session[key], begun[key], "{key}");
    }
    assert_eq!((text(session, "segment"), session["groups"][0].as_str()), ("office".to_owned(), Some("dba")));
    assert!(number(&session["mfa"], "age_s") >= 7200 && number(session, "left_s") <= 3600, "{session:#}");
    assert_eq!(session["postures"][0]["state"], "failed");
    let table = scene.cli(&["session", "list"]).stdout;
    assert!(
        table.contains("dora") && table.contains("compliant=failed") && table.contains("1 session(s)"),
        "{table}"
    );
    let explain = |port: &str, more: &[&str]| {
        let args = ["explain", "--from", &source, "--to", "servers", "--port", port];
        scene.cli(&[&args[..], more].concat()).stdout
    };
    let told = explain("udp/1433", &[]);
    assert!(told.contains("ALLOW by rule `dba`") && told.contains("user dora, in group dba"), "{told}");
    assert!(
        explain("udp/22", &[]).contains("mfa_too_old") && explain("udp/445", &[]).contains("posture_failed")
    );
    assert!(
        explain("udp/5432", &["--user", "alice"]).contains("ALLOW by rule `alice`"),
        "who is asked about counts"
    );
    let id = text(&begun, "id");
    assert_eq!(revoke(&scene, &[&id]), 1);
    assert!(explain("udp/1433", &[]).contains("session_expired"));
    let lines = [
        format!("session {id} begun by root: dora at {source} (office) until "),
        format!("session {id} revoked by root: dora at {source} (office)"),
    ];
    wait_until("it is logged", || lines.iter().all(|line| scene.gateway().output().contains(line)));
    let events = scene.cli(&["events"]).stdout;
    let changes: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let changes: Vec<_> = changes.iter().filter(|event| event["kind"] == "session").collect();
    let told: Vec<_> = changes.iter().map(|event| (text(event, "change"), text(event, "user"))).collect();
    assert_eq!(told, [("begun", "dora"), ("revoked", "dora")].map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[test]
fn a_gateway_that_starts_knows_nobody() {
    let Some(mut scene) = Scene::start(&Config::new(rules())) else { return };
    let mine = path(&scene, Family::V4, 0);
    add(&scene, mine.source, &["--user", "alice"]);
    scene.crosses("office", "servers", &mine.udp(4000, 5432, b"x"));
    scene.take_gateway().kill_9();
    scene.try_run(&[]).expect("it starts again");
    assert_eq!(scene.json(&["session", "list"])["sessions"], serde_json::json!([]));
    scene.stays_out("office", "servers", &mine.udp(4000, 5432, b"x"));
}
