//! The audit log of a running gateway: one record for each act, whole after every way of dying, and what happens when it
//! cannot be written.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::gateway::Ran;
use bulkhead_tests::scene::{Check, Scene, number, text};
use bulkhead_tests::wait_until;
use serde_json::Value;

fn rules() -> String {
    allow("alice", "office", "servers", "tcp/5432")
        + "users = \"alice\"\n"
        + &allow("names", "office", "servers", "udp/53")
}

fn records(scene: &Scene, more: &[&str]) -> Vec<Value> {
    scene.json(&[&["audit", "log"], more].concat())["records"].as_array().unwrap().clone()
}

/// How many records of each kind there are, but for starts and what the gateway says of itself.
fn counts(scene: &Scene) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records(scene, &[]) {
        let kind = text(&record, "kind");
        if !["start", "stop", "alarm", "torn"].contains(&kind.as_str()) {
            *counts.entry(kind).or_default() += 1;
        }
    }
    counts
}

fn verified(scene: &Scene) -> Ran {
    scene.cli(&["audit", "verify"])
}

fn add(scene: &Scene, n: u16, more: &[&str]) -> Ran {
    let address = scene.peer("office").nth(Family::V4, n).to_string();
    scene.cli(&[&["session", "add", "--address", &address, "--user", "alice"], more].concat())
}

fn added(scene: &Scene, n: u16, more: &[&str]) {
    let ran = add(scene, n, more);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn c12_every_act_is_recorded_once_with_whoever_did_it_and_the_chain_is_whole() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let mut expected = BTreeMap::from([("policy".to_owned(), 0)]);
    let mut expect = |kind: &str, count: usize| *expected.entry(kind.to_owned()).or_default() += count;
    for n in 0..3 {
        added(&scene, n, &["--group", "dba"]);
    }
    added(&scene, 0, &["--for", "1s"]);
    expect("session_begun", 4);
    expect("session_replaced", 1);
    // What is refused is no act.
    assert_eq!(add(&scene, 0, &["--for", "9000d"]).code, 1);
    assert_eq!(scene.cli(&["session", "revoke"]).code, 1);
    let second = scene.peer("office").nth(Family::V4, 1).to_string();
    assert_eq!(scene.cli(&["session", "revoke", "--address", &second]).code, 0);
    expect("session_revoked", 1);
    let new =
        scene.candidate("new.toml", &Config::new(rules() + &allow("more", "office", "servers", "udp/54")));
    assert_eq!(scene.cli(&["apply", &new, "--message", "for \"them\"", "--ticket", "T-1"]).code, 0);
    assert_eq!(scene.cli(&["reload", &new]).code, 0);
    assert_eq!(scene.cli(&["rollback"]).code, 0);
    expect("policy", 3);
    assert_eq!(scene.cli(&["apply", &new, "--confirm", "1m"]).code, 0);
    assert_eq!(scene.cli(&["confirm"]).code, 0);
    assert_eq!(scene.cli(&["rollback", "1", "--confirm", "1m"]).code, 0);
    assert_eq!(scene.cli(&["rollback"]).code, 0);
    expect("policy", 2);
    expect("confirmed", 1);
    expect("rolled_back", 1);
    assert_eq!(scene.cli(&["shadow", &new]).code, 0);
    assert_eq!(scene.cli(&["shadow", "--stop"]).code, 0);
    expect("shadow_started", 1);
    expect("shadow_stopped", 1);
    assert_eq!(scene.cli(&["connections", "kill", "--all", "--dry-run"]).code, 0);
    assert_eq!(scene.cli(&["connections", "kill", "--all"]).code, 0);
    expect("killed", 1);
    expect("session_expired", 1);
    wait_until("the short session has ended", || counts(&scene).contains_key("session_expired"));
    assert_eq!(counts(&scene), expected);

    let applied = records(&scene, &["--kind", "policy"]);
    let (by, what) = (&applied[0]["by"]["operator"], &applied[0]["what"]);
    assert_eq!((number(by, "uid"), text(by, "user")), (0, "root".to_owned()));
    assert_eq!(
        (text(what, "cause"), text(what, "message"), text(what, "ticket")),
        ("apply".to_owned(), "for \"them\"".to_owned(), "T-1".to_owned())
    );
    let begun = &records(&scene, &["--kind", "session_begun"])[0]["what"];
    assert_eq!(
        (text(begun, "proof"), text(begun, "user"), &begun["groups"][0]),
        ("operator".to_owned(), "alice".to_owned(), &"dba".into())
    );
    let ran = verified(&scene);
    assert!(ran.code == 0 && ran.stdout.contains("as the running gateway has it"), "{ran:?}");
    let head = &scene.status()["audit"];
    assert!(ran.stdout.contains(&format!("head {}:{}", number(head, "seq"), text(head, "hash"))), "{ran:?}");
    assert!(scene.cli(&["status"]).stdout.contains(&text(head, "hash")));
}

#[test]
fn killed_at_any_time_it_has_every_act_that_was_acknowledged_and_goes_on() {
    let Some(mut scene) = Scene::start(&Config::new(rules())) else { return };
    scene.check = Check::Workers;
    let mut acknowledged = 0;
    for round in 0..4 {
        let done = std::thread::scope(|scope| {
            let scene = &scene;
            let adding =
                scope.spawn(move || (0..200).take_while(|n| add(scene, n % 3, &[]).code == 0).count());
            std::thread::sleep(Duration::from_millis(150 + 53 * round));
            scene.gateway().signal(nix::sys::signal::Signal::SIGKILL);
            adding.join().unwrap()
        });
        scene.take_gateway().kill_9();
        acknowledged += done;
        let state = scene.state().display().to_string();
        let ran = bulkhead_tests::gateway::run(&["audit", "verify", "--state", &state]);
        // A record that it died of is not whole, and that is all.
        assert!(
            ran.code == 0
                || ran.stdout.lines().count() == 3 && ran.stdout.contains("in the middle of record"),
            "{ran:?}"
        );
        scene.try_run(&[]).unwrap();
        let ran = verified(&scene);
        assert_eq!(ran.code, 0, "{ran:?}");
        let begun = counts(&scene)["session_begun"];
        // The one at which it died may have been recorded already.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&begun),
            "{acknowledged} acknowledged, {begun} recorded"
        );
        acknowledged = begun;
    }
    assert!(acknowledged > 10, "{acknowledged}");
    assert_eq!(records(&scene, &["--kind", "start"]).len(), 5);
}

#[test]
fn what_grants_is_refused_while_it_cannot_be_recorded_and_what_takes_away_works() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    for n in 0..2 {
        added(&scene, n, &[]);
    }
    let mut tcp = scene.open_tcp("office", "servers", Family::V4, (4000, 5432));
    tcp.talks();
    // A directory has its name: as good as a full disk, and surer.
    let (log, aside) = (scene.state().join("audit.log"), scene.state().join("aside"));
    fs::rename(&log, &aside).unwrap();
    fs::create_dir(&log).unwrap();
    let new =
        scene.candidate("new.toml", &Config::new(rules() + &allow("more", "office", "servers", "udp/54")));
    for grant in [add(&scene, 2, &[]), scene.cli(&["apply", &new])] {
        assert!(grant.code == 1 && grant.stderr.contains("nothing was changed: the audit log"), "{grant:?}");
    }
    assert_eq!(scene.json(&["session", "list"])["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(number(&scene.status(), "generation"), 1);
    let own = scene.peer("office").nth(Family::V4, 0).to_string();
    assert_eq!(scene.cli(&["session", "revoke", "--address", &own]).code, 0);
    let next = tcp.segment(0, bulkhead_tests::frames::flags::ACK, b"more");
    tcp.stays_out(0, &next);
    wait_until("an alarm tells it", || {
        scene.status()["alarms"].to_string().contains("nothing more is granted")
    });
    assert!(number(&scene.status()["audit"], "pending") >= 1);
    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    wait_until("it is written", || number(&scene.status()["audit"], "pending") == 0);
    assert_eq!(counts(&scene)["session_revoked"], 1);
    added(&scene, 2, &[]);
    assert_eq!(counts(&scene)["session_begun"], 3);
    assert_eq!(verified(&scene).code, 0);
}

#[test]
fn a_log_that_somebody_has_tampered_with_is_told_with_its_place() {
    let Some(mut scene) = Scene::start(&Config::new(rules())) else { return };
    for n in 0..3 {
        added(&scene, n, &[]);
    }
    let head = scene.status()["audit"].clone();
    let head = format!("{}:{}", number(&head, "seq"), text(&head, "hash"));
    let log = scene.state().join("audit.log");
    let whole = fs::read_to_string(&log).unwrap();
    let place = whole.lines().position(|line| line.contains("session_begun")).unwrap() + 1;
    let break_it = |text: String| {
        fs::write(&log, text).unwrap();
        let ran = verified(&scene);
        assert_eq!(ran.code, 2, "{ran:?}");
        ran.stdout
    };
    let changed = break_it(whole.replacen("\"user\":\"alice\"", "\"user\":\"aljce\"", 1));
    assert!(changed.starts_with(&format!("audit.log:{place}: record {place} was changed")), "{changed}");
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let shortened = break_it(lines[..lines.len() - 2].concat());
    assert!(
        shortened.contains(&format!("records {} to {} are missing", lines.len() - 1, lines.len())),
        "{shortened}"
    );
    // Offline nobody knows the end but who noted it.
    fs::write(&log, &whole).unwrap();
    assert_eq!(verified(&scene).code, 0);
    scene.take_gateway().kill_9();
    fs::write(&log, lines[..lines.len() - 1].concat()).unwrap();
    fs::remove_file(scene.state().join("audit.head")).unwrap();
    let state = scene.state().display().to_string();
    let offline = |more: &[&str]| {
        bulkhead_tests::gateway::run(&[&["audit", "verify", "--state", &state], more].concat())
    };
    assert_eq!((offline(&[]).code, offline(&["--head", &head]).code), (0, 2));
    let alone = head.split_once(':').unwrap().1;
    assert_eq!(offline(&["--head", alone]).code, 2);
    fs::write(&log, &whole).unwrap();
    assert_eq!((offline(&["--head", &head]).code, offline(&["--head", alone]).code), (0, 0));
    scene.check = Check::Workers;
}
