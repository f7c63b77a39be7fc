//! What every rule did, over reloads and restarts, and which rules did nothing.

use std::fs;

use bulkhead_tests::config::{Config, allow, deny};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::{Scene, number, text};
use bulkhead_tests::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;

fn config(spare: &str) -> Config {
    Config::new(
        allow("names", "office", "servers", "udp/53")
            + &allow(spare, "office", "servers", "tcp/80")
            + &deny("no-snmp", "office", "servers", "udp/161"),
    )
}

fn row(scene: &Scene, name: &str) -> Value {
    let rows = scene.json(&["rules"])["rules"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["rule"] == name).unwrap()
}

/// Packets, bytes and connections of a rule.
fn counts(scene: &Scene, name: &str) -> [u64; 3] {
    let row = row(scene, name);
    ["packets", "bytes", "connections"].map(|key| number(&row, key))
}

fn ask_for_names(scene: &Scene, from: u16) {
    let frame = scene.path("office", "servers", Family::V4).udp(from, 53, &[1; 100]);
    scene.crosses("office", "servers", &frame);
}

fn stop(scene: &mut Scene) {
    let gateway = scene.take_gateway();
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().success());
}

fn unused(scene: &Scene) -> Value {
    scene.json(&["rules", "unused", "--since", "1h"])
}

/// The unused rules, and whether they were looked at for the whole time.
fn names(unused: &Value) -> Vec<(String, bool)> {
    let rows = unused["unused"].as_array().unwrap();
    rows.iter().map(|row| (text(row, "rule"), row["whole_span"].as_bool().unwrap())).collect()
}

#[test]
fn what_rules_did_is_known_after_an_orderly_stop_to_the_packet_and_after_kill_9_as_last_written() {
    let Some(mut scene) = Scene::start(&config("web")) else { return };
    let since = text(&scene.json(&["rules"]), "observed_since");
    for _ in 0..5 {
        ask_for_names(&scene, 4000);
    }
    let before = row(&scene, "names");
    stop(&mut scene);
    scene.try_run(&[]).unwrap();
    // 20 bytes of IPv4 and 8 of UDP.
    assert_eq!(counts(&scene, "names"), [5, 5 * 128, 1]);
    for key in ["last_hit", "first_seen", "in_force_since"] {
        assert_eq!(row(&scene, "names")[key], before[key], "{key}");
    }
    let report = scene.json(&["rules"]);
    assert_eq!((text(&report, "observed_since"), number(&report, "gaps")), (since.clone(), 0));

    ask_for_names(&scene, 4001);
    assert_eq!(counts(&scene, "names"), [6, 6 * 128, 2]);
    let file = scene.state().join("counters");
    wait_until("it is written", || fs::read_to_string(&file).unwrap().contains("\"packets\":6"));
    scene.take_gateway().kill_9();
    scene.try_run(&[]).unwrap();
    assert_eq!(counts(&scene, "names"), [6, 6 * 128, 2]);
    ask_for_names(&scene, 4002);
    assert_eq!(counts(&scene, "names"), [7, 7 * 128, 3]);
    let report = scene.json(&["rules"]);
    assert_eq!((text(&report, "observed_since"), number(&report, "gaps")), (since, 1));
    let told = scene.cli(&["rules"]).stdout;
    assert!(told.contains("before each of 1 end(s) of the gateway that were not in order"), "{told}");
    assert_eq!(number(&scene.status(), "alarms_total"), 0);
}

#[test]
fn unused_rules_are_those_without_a_hit_and_what_is_not_known_is_said() {
    let Some(mut scene) = Scene::start(&config("web")) else { return };
    ask_for_names(&scene, 4000);
    let told = unused(&scene);
    let of_three = ["no-snmp", "sentinels", "web"].map(|name| (name.to_owned(), false));
    assert_eq!(names(&told), of_three);
    assert_eq!((number(&told, "rules"), &told["observed_whole_span"]), (4, &Value::Bool(false)));
    let shown = scene.cli(&["rules", "unused", "--since", "1h"]);
    assert_eq!(shown.code, 0);
    assert!(
        shown.stdout.contains("3 of 4 rule(s) without a hit in 1h")
            && shown.stdout.contains("what was used before that is not known"),
        "{shown:?}"
    );
    // A hit of a rule that denies is one.
    let path = scene.path("office", "servers", Family::V4);
    scene.stays_out("office", "servers", &path.udp(4000, 161, b"x"));
    scene.reload(&config("site"));
    assert_eq!(names(&unused(&scene)), [("site".to_owned(), false)]);
    // It also counts in the next run.
    stop(&mut scene);
    scene.try_run(&[]).unwrap();
    assert_eq!(names(&unused(&scene)), [("site".to_owned(), false)]);
    // A second later, the hits are longer ago than that, and the rules older.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = scene.json(&["rules", "unused", "--since", "1s"]);
    assert_eq!(second["observed_whole_span"], true);
    let all = ["names", "no-snmp", "sentinels", "site"].map(|name| (name.to_owned(), true));
    assert_eq!(names(&second), all);
    for wrong in ["1", "-1s", "0s"] {
        let refused = scene.cli(&["rules", "unused", &format!("--since={wrong}")]);
        assert!(refused.code == 1 && refused.stderr.contains("--since"), "{refused:?}");
    }
}

#[test]
fn damaged_counters_are_told_and_begin_anew_and_the_gateway_runs() {
    let Some(mut scene) = Scene::start(&config("web")) else { return };
    ask_for_names(&scene, 4000);
    let since = text(&scene.json(&["rules"]), "observed_since");
    stop(&mut scene);
    let file = scene.state().join("counters");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    scene.try_run(&[]).unwrap();
    let alarms = scene.status()["alarms"].to_string();
    assert!(alarms.contains("counters is damaged") && alarms.contains("begin anew"), "{alarms}");
    scene.gateway().expect_said(&["counters is damaged"]);
    assert_eq!(counts(&scene, "names"), [0, 0, 0]);
    assert!(text(&scene.json(&["rules"]), "observed_since") > since);
    ask_for_names(&scene, 4001);
    assert_eq!(counts(&scene, "names"), [1, 128, 1]);
    // What is written now is whole.
    stop(&mut scene);
    scene.try_run(&[]).unwrap();
    assert_eq!((counts(&scene, "names"), number(&scene.status(), "alarms_total")), ([1, 128, 1], 0));
}
