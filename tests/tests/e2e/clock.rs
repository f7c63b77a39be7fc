//! Rules that hold for a time only, by the wall clock.

use std::time::{Duration, SystemTime};

use bulkhead::daemon::time::rfc3339;
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Family, flags, segment};
use bulkhead_tests::scene::{Scene, number};

/// How much later than its time a change may bite.
const LATEST: Duration = Duration::from_millis(100);

fn sleep_until(moment: SystemTime) {
    if let Ok(left) = moment.duration_since(SystemTime::now()) {
        std::thread::sleep(left);
    }
}

#[test]
fn a_rule_that_expires_cuts_its_connections_and_opens_no_new_ones_and_others_go_on() {
    let Some(scene) = Scene::start(&Config::new("")) else { return };
    let expires = SystemTime::now() + Duration::from_secs(3);
    let rules = allow("for-now", "office", "servers", "tcp/80 udp/53")
        + &format!("expires = {}\n", rfc3339(expires))
        + &allow("for-ever", "office", "servers", "tcp/25");
    let mut config = Config::new(rules);
    // Their rule would be another one to write to while the clock runs.
    config.sentinels = false;
    let before = scene.reload(&config);
    let (mut open, mut lasting) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        open.push(scene.open_tcp("office", "servers", family, (4000, 80)));
        lasting.push(scene.open_tcp("office", "servers", family, (4000, 25)));
    }
    open.iter_mut().chain(&mut lasting).for_each(|tcp| tcp.talks());
    let dropped = scene.drops();
    sleep_until(expires - Duration::from_millis(300));
    if SystemTime::now() < expires {
        open.iter_mut().for_each(|tcp| drop(tcp.crosses(1, flags::ACK | flags::PSH, b"still")));
    }
    sleep_until(expires + LATEST);
    for (side, tcp) in open.iter_mut().enumerate() {
        let next = tcp.segment(side, flags::ACK | flags::PSH, b"more");
        scene.peer(["office", "servers"][side]).send(&next);
    }
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        scene.peer("office").send(&path.udp(4001, 53, b"new"));
        scene.peer("office").send(&path.tcp((4001, 80), segment(flags::SYN, 1, 0), b""));
    }
    // What comes after them crosses, so they have been judged.
    lasting.iter_mut().for_each(|tcp| tcp.talks());
    scene.expect_drops(&dropped, &[("expired", 2), ("outside_schedule", 4)]);
    assert_eq!(number(&scene.status(), "generation"), before + 1);
    let told = scene.cli(&["explain", "--from", "office", "--to", "servers", "--port", "tcp/80"]);
    assert!(told.stdout.contains("it expired at ") && told.stdout.contains("`for-now`"), "{told:?}");
}

#[test]
fn a_rule_that_starts_opens_at_its_time_and_a_reload_after_an_end_opens_nothing_again() {
    let Some(scene) = Scene::start(&Config::new("")) else { return };
    let starts = SystemTime::now() + Duration::from_secs(2);
    let ends = starts + Duration::from_secs(2);
    let rules = allow("soon", "office", "servers", "udp/53")
        + &format!("starts = {}\nexpires = {}\n", rfc3339(starts), rfc3339(ends));
    scene.reload(&Config::new(rules.clone()));
    let frame = |port| scene.path("office", "servers", Family::V4).udp(port, 53, b"x");
    scene.stays_out("office", "servers", &frame(4000));
    sleep_until(starts + LATEST);
    scene.crosses("office", "servers", &frame(4001));
    sleep_until(ends);
    scene.reload(&Config::new(rules));
    scene.stays_out("office", "servers", &frame(4002));
    scene.stays_out("office", "servers", &frame(4001));
}
