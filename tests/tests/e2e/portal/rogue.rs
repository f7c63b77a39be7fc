//! C10: the portal was taken over. It can ask what anybody can ask who stands where its clients stand, and nothing else.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::gateway;
use bulkhead_tests::https::{dial, dial_from};
use bulkhead_tests::scene::{Scene, number};
use bulkhead_tests::wait_until;
use serde_json::Value;

use super::{listens, place, status};

const STANDING: &str = r#"{"ask":"standing"}"#;

fn scene() -> Option<Scene> {
    let rules = allow("alice", "office", "servers", "udp/5432") + "users = \"alice\"\n";
    let portal = "[portal]\nports = [\"office\"]\nredirect_port = 80\nname = \"portal.test\"\n";
    let scene = Scene::start_program(gateway::ROGUE, &Config::new(rules + portal))?;
    listens(&scene);
    Some(scene)
}

/// Has the portal do something; what it says came of it.
fn does(scene: &Scene, misdeed: &str) -> String {
    let mut stream = dial(scene.host("office"), place(scene, Family::V4)).expect("it connects");
    said(&mut stream, misdeed)
}

fn said(stream: &mut std::net::TcpStream, misdeed: &str) -> String {
    writeln!(stream, "{misdeed}").expect("it listens");
    let mut text = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // It may be killed for it.
    let _ = stream.read_to_string(&mut text);
    text.trim().to_owned()
}

/// What must not change, whatever the portal does.
fn kept(scene: &Scene) -> (Value, Value, Value) {
    let status = scene.status();
    (
        status["generation"].clone(),
        status["digest"].clone(),
        scene.json(&["session", "list"])["sessions"].clone(),
    )
}

/// Whether a misdeed ends the process, and is told.
fn is_killed_for(scene: &Scene, misdeed: &str, told: &str) {
    let before = status(scene);
    does(scene, misdeed);
    wait_until("another process listens", || {
        let now = status(scene);
        now["pid"] != before["pid"] && now["listening"].as_array().is_some_and(|places| places.len() == 4)
    });
    let alarms = scene.status()["alarms"].to_string();
    assert!(alarms.contains(told), "{misdeed}: {alarms}");
}

#[test]
fn c10_a_portal_that_was_taken_over_asks_in_the_name_of_nobody_who_is_not_there() {
    let Some(scene) = scene() else { return };
    let office: IpAddr = scene.host_address("office", Family::V4);
    let before = kept(&scene);
    // What it may: ask for whoever is connected.
    let answer = does(&scene, &format!("ask - {STANDING}"));
    assert!(answer.contains(&format!("\"address\":\"{office}\"")), "{answer}");
    for (misdeed, told) in [
        ("socketpair", "it passed on a descriptor that is no TCP connection"),
        ("listener", "it passed on a listening socket"),
        ("loopback", "it passed on a connection that was not accepted at the portal's own sockets"),
    ] {
        is_killed_for(&scene, &format!("{misdeed} - {STANDING}"), told);
        assert_eq!(kept(&scene), before, "{misdeed}");
    }
}

#[test]
fn c10_a_portal_that_sends_what_is_no_question_is_ended() {
    let Some(scene) = scene() else { return };
    let before = kept(&scene);
    for (misdeed, told) in [
        ("garbage".to_owned(), "a message that is none"),
        (format!("without-connection - {STANDING}"), "a question without a connection"),
        ("deaf".to_owned(), "it does not listen"),
    ] {
        is_killed_for(&scene, &misdeed, told);
        assert_eq!(kept(&scene), before, "{misdeed}");
    }
    assert_eq!(number(&status(&scene), "restarts"), 3);
}

#[test]
fn c10_guessed_cookies_and_attempts_open_nothing_and_no_session_is_anybody_elses() {
    let Some(scene) = scene() else { return };
    let source = scene.host_address("office", Family::V4).to_string();
    scene.json(&["session", "add", "--address", &source, "--user", "alice"]);
    let before = kept(&scene);
    for cookie in ["-", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let answer = does(&scene, &format!("ask {cookie} {STANDING}"));
        assert!(answer.contains("\"session\":null") && answer.contains("\"is_taken\":true"), "{answer}");
        for question in [
            r#"{"ask":"sign_out"}"#,
            r#"{"ask":"totp","attempt":"AAAA","code":"123456"}"#,
            r#"{"ask":"totp","attempt":null,"code":"123456"}"#,
            r#"{"ask":"passkey_register_begin"}"#,
            r#"{"ask":"password","user":"alice","password":"guess"}"#,
            r#"{"ask":"device_poll","attempt":"AAAA"}"#,
        ] {
            let answer = does(&scene, &format!("ask {cookie} {question}"));
            let harmless =
                answer.contains("\"say\":\"refused\"") || answer.contains("\"say\":\"signed_out\"");
            assert!(harmless && !answer.contains("alice"), "{question}: {answer}");
        }
        assert_eq!(
            kept(&scene).2.to_string().matches("alice").count(),
            before.2.to_string().matches("alice").count()
        );
    }
}

#[test]
fn c10_a_portal_that_asks_without_end_keeps_nobody_else_from_an_answer() {
    let Some(scene) = scene() else { return };
    let before = kept(&scene);
    let office = scene.host("office");
    let (portal, other) = (place(&scene, Family::V6), office.v6[0]);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| does(&scene, "flood"));
        for _ in 0..10 {
            let begun = std::time::Instant::now();
            let mut stream = dial_from(office, other.into(), portal).expect("it connects");
            let answer = said(&mut stream, &format!("ask - {STANDING}"));
            assert!(answer.contains(&format!("\"address\":\"{other}\"")), "{answer}");
            // Far less than a browser waits, on a machine that does much else.
            assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
            // Operators are served too.
            assert_eq!(kept(&scene), before);
        }
        assert_eq!(flood.join().unwrap(), "5000 answers");
    });
    let after = status(&scene);
    assert_eq!(number(&after, "restarts"), 0);
    assert!(number(&after, "busy") > 0, "{after}");
}

#[test]
fn c10_in_its_sandbox_it_can_open_connect_start_or_become_nothing() {
    if bulkhead_tests::is_skipped() {
        return;
    }
    let output = Command::new(gateway::beside("sandbox-probe")).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(lines.len(), 34, "{text}");
    for (name, came_of_it) in lines {
        if name.starts_with("may-") {
            assert_eq!(came_of_it, "ok", "{name}");
        } else {
            assert!(matches!(came_of_it, "PermissionDenied" | "WouldBlock"), "{name}: {came_of_it}");
        }
    }
}
