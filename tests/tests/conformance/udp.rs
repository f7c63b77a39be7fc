//! Group U: UDP. What needs exact time (U1's default, U2, U3) is in `dataplane/tests/pipeline/timers.rs` as well.

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::Scene;
use bulkhead_tests::wait_until;
use std::time::{Duration, Instant};

#[test]
fn u1_reply_passes_and_the_unsolicited_drops() {
    let Some(scene) = Scene::start(&Config::new(allow("names", "office", "servers", "udp/53"))) else {
        return;
    };
    let before = scene.drops();
    for family in Family::BOTH {
        let there = scene.path("office", "servers", family);
        let back = scene.path("servers", "office", family);
        scene.stays_out("servers", "office", &back.udp(53, 4000, b"unsolicited"));
        scene.crosses("office", "servers", &there.udp(4000, 53, b"question"));
        scene.crosses("servers", "office", &back.udp(53, 4000, b"answer"));
        // Of the same hosts, but not of this connection.
        scene.stays_out("servers", "office", &back.udp(53, 4001, b"another port"));
        scene.stays_out("servers", "office", &back.udp(54, 4000, b"from another port"));
    }
    scene.expect_drops(&before, &[("no_rule", 6)]);
}

/// How long packets go on: several time-outs.
const TALK: Duration = Duration::from_millis(3500);
/// Between two packets: a small part of a time-out.
const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn u2_replies_alone_keep_a_connection_and_without_any_packet_it_ends() {
    let timeouts = "udp_unreplied = \"1s\"\nudp_replied = \"1s\"\n";
    let rules = allow("names", "office", "servers", "udp/53");
    let Some(scene) = Scene::start(&Config { timeouts, ..Config::new(rules) }) else { return };
    let before = scene.drops();
    let back = Family::BOTH.map(|family| scene.path("servers", "office", family));
    for family in Family::BOTH {
        let there = scene.path("office", "servers", family);
        scene.crosses("office", "servers", &there.udp(4000, 53, b"question"));
    }
    let until = Instant::now() + TALK;
    while Instant::now() < until {
        for back in back {
            scene.crosses("servers", "office", &back.udp(53, 4000, b"one more answer"));
        }
        std::thread::sleep(PAUSE);
    }
    let names = |scene: &Scene| {
        scene.json(&["connections", "list", "--rule", "names"])["connections"].as_array().unwrap().len()
    };
    assert_eq!(names(&scene), 2);
    wait_until("both have expired", || names(&scene) == 0);
    for back in back {
        scene.stays_out("servers", "office", &back.udp(53, 4000, b"too late"));
    }
    scene.expect_drops(&before, &[("no_rule", 2)]);
}

#[test]
fn u3_a_one_way_stream_is_one_connection_while_it_flows_and_then_expires() {
    let timeouts = "udp_unreplied = \"1s\"\n";
    let rules = allow("logs", "office", "servers", "udp/514");
    let Some(scene) = Scene::start(&Config { timeouts, ..Config::new(rules) }) else { return };
    let logs = |scene: &Scene| scene.json(&["connections", "list", "--rule", "logs"])["connections"].clone();
    let until = Instant::now() + TALK;
    let mut sent = 0;
    while Instant::now() < until {
        sent += 1;
        for family in Family::BOTH {
            let there = scene.path("office", "servers", family);
            scene.crosses("office", "servers", &there.udp(4000, 514, b"a line"));
        }
        std::thread::sleep(PAUSE);
    }
    for stream in logs(&scene).as_array().unwrap() {
        assert_eq!(stream["packets"].to_string(), format!("[{sent},0]"));
        assert_eq!(stream["state"], "udp_unreplied");
    }
    wait_until("both have expired", || logs(&scene).as_array().unwrap().is_empty());
    let before = scene.drops();
    for family in Family::BOTH {
        let back = scene.path("servers", "office", family);
        scene.stays_out("servers", "office", &back.udp(514, 4000, b"unsolicited"));
    }
    scene.expect_drops(&before, &[("no_rule", 2)]);
}
