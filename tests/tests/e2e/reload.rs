//! Promises P2, P3 and P6: one policy at a time, obeyed by live connections; a bad one changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use bulkhead::api::client;
use bulkhead::api::types::{Reply, Request};
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Family, Packet, flags};
use bulkhead_tests::scene::{Scene, number};
use bulkhead_tests::traffic::Traffic;
use bulkhead_tests::wait_until;
use nix::sys::signal::Signal;

fn generation(scene: &Scene) -> u64 {
    number(&scene.status(), "generation")
}

#[test]
fn a_reload_by_the_verb_or_by_sighup_puts_the_new_rules_in_force() {
    let Some(scene) = Scene::start(&Config::new(allow("old", "office", "servers", "udp/53"))) else { return };
    let frame = |family, port| scene.path("office", "servers", family).udp(4000, port, b"x");
    let only = |open: u16, closed: u16| {
        for family in Family::BOTH {
            scene.crosses("office", "servers", &frame(family, open));
            scene.stays_out("office", "servers", &frame(family, closed));
        }
    };
    only(53, 54);
    scene.write(&Config::new(allow("new", "office", "servers", "udp/54")));
    let said = scene.cli(&["reload"]);
    assert!(said.code == 0 && said.stdout.contains("generation 2"), "{said:?}");
    assert_eq!(generation(&scene), 2);
    only(54, 53);
    scene.write(&Config::new(allow("old", "office", "servers", "udp/53")));
    scene.gateway().signal(Signal::SIGHUP);
    wait_until("SIGHUP is obeyed", || generation(&scene) == 3);
    only(53, 54);
}

#[test]
fn a_bad_configuration_is_refused_with_its_place_and_the_old_policy_runs_on() {
    let good = Config::new(allow("names", "office", "servers", "udp/53"));
    let Some(scene) = Scene::start(&good) else { return };
    let text = scene.text(&good);
    let line = text.lines().position(|line| line.contains("name = \"names\"")).unwrap() + 1;
    let misspelt = text.replacen("name = \"names\"", "nmae = \"names\"", 1);
    let unknown = text.replacen("from = \"office\"", "from = \"ofice\"", 1);
    let failing = text.clone()
        + "\n[[test]]\nname = \"never\"\nfrom = \"office\"\nto = \"servers\"\nport = \"udp/53\"\nexpect = \"deny\"\n";
    let moved = text.replacen("workers = 1", "workers = 2", 1);
    let cases = [
        (misspelt, 1, format!("bulkhead.toml:{line}:1")),
        (unknown, 1, "did you mean `office`".to_owned()),
        ("version = ".to_owned(), 1, "bulkhead.toml:1:".to_owned()),
        (failing, 3, "test \"never\" failed".to_owned()),
        (moved, 1, "workers: 1 → 2".to_owned()),
    ];
    let frame = scene.path("office", "servers", Family::V4).udp(4000, 53, b"x");
    for (text, code, message) in cases {
        scene.write_text(&text);
        let said = scene.cli(&["reload"]);
        assert!(said.code == code && said.stderr.contains(&message), "{message}: {said:?}");
        let alarms = number(&scene.status(), "alarms_total");
        scene.gateway().signal(Signal::SIGHUP);
        wait_until("an alarm tells it", || number(&scene.status(), "alarms_total") == alarms + 1);
        assert_eq!(generation(&scene), 1);
        scene.crosses("office", "servers", &frame);
    }
    fs::remove_file(scene.config()).unwrap();
    assert_eq!(scene.cli(&["reload"]).code, 1);
    assert_eq!(generation(&scene), 1);
    scene.crosses("office", "servers", &frame);
    assert_eq!(scene.reload(&good), 2);
}

#[test]
fn a_live_connection_is_cut_at_its_next_packet_in_either_direction_and_another_goes_on() {
    let rules =
        |web: &str| allow("web", "office", "servers", web) + &allow("mail", "office", "servers", "tcp/25");
    let Some(scene) = Scene::start(&Config::new(rules("tcp/80 udp/53"))) else { return };
    let mut open = Vec::new();
    for family in Family::BOTH {
        for side in [0, 1] {
            let mut web = scene.open_tcp("office", "servers", family, (4000 + side as u16, 80));
            let mut mail = scene.open_tcp("office", "servers", family, (4000 + side as u16, 25));
            web.talks();
            mail.talks();
            open.push((side, web, mail));
        }
        let (there, back) =
            (scene.path("office", "servers", family), scene.path("servers", "office", family));
        scene.crosses("office", "servers", &there.udp(4000, 53, b"query"));
        scene.crosses("servers", "office", &back.udp(53, 4000, b"reply"));
    }
    scene.reload(&Config::new(rules("tcp/443")));
    let before = scene.drops();
    for (side, web, mail) in &mut open {
        // First in one direction, in which it is cut; then in the other, in which nothing is left of it.
        for side in [*side, 1 - *side] {
            let next = web.segment(side, flags::ACK | flags::PSH, b"more");
            web.stays_out(side, &next);
        }
        mail.talks();
    }
    for family in Family::BOTH {
        scene.stays_out("servers", "office", &scene.path("servers", "office", family).udp(53, 4000, b"late"));
        scene.stays_out(
            "office",
            "servers",
            &scene.path("office", "servers", family).udp(4000, 53, b"again"),
        );
    }
    scene.expect_drops(&before, &[("policy_revoked", 6), ("no_connection", 4), ("no_rule", 2)]);
    let events = scene.cli(&["events"]).stdout;
    assert_eq!(events.matches("\"policy_revoked\"").count(), 6, "{events}");
}

/// Puts a file in force over the control socket, as `bulkhead reload FILE` does.
fn reload_file(scene: &Scene, file: &std::path::Path) {
    let request = Request::Reload { file: Some(file.to_owned()), said: Default::default() };
    let mut answer = client::ask(&scene.control(), &request).unwrap();
    assert!(matches!(answer.read(), Ok(Some(Reply::Reloaded(_)))));
    assert!(matches!(answer.read(), Ok(None)));
}

#[test]
fn a_thousand_reloads_under_traffic_mix_no_policies_and_lose_no_packet() {
    const BOTH: u16 = 2000;
    const ONLY: [u16; 2] = [1001, 1002];
    let policy = |only: u16| {
        let mut config = Config::new(
            allow("both", "office", "servers", &format!("udp/{BOTH}"))
                + &allow(&format!("only-{only}"), "office", "servers", &format!("udp/{only}")),
        );
        config.sentinels = false;
        config
    };
    let Some(scene) = Scene::start(&policy(ONLY[0])) else { return };
    let files = ONLY.map(|only| {
        let file = scene.config().with_file_name(format!("{only}.toml"));
        fs::write(&file, scene.text(&policy(only))).unwrap();
        file
    });
    let paths = Family::BOTH.map(|family| scene.path("office", "servers", family));
    let traffic = Traffic::start(scene.host("office"), Duration::from_micros(200), move |number| {
        // A few live connections, each of which meets every policy.
        paths[number as usize & 1].udp(3000 + (number >> 1 & 3) as u16, BOTH, &number.to_be_bytes())
    });
    let mut arrived = BTreeSet::new();
    let mut take = |packet: &Packet| {
        if packet.is_udp_to(BOTH) {
            assert!(
                arrived.insert(u32::from_be_bytes(packet.payload().try_into().unwrap())),
                "twice: {packet:?}"
            );
        }
    };
    for round in 0..1000_u16 {
        let (open, closed) = if round % 2 == 0 { (1, 0) } else { (0, 1) };
        reload_file(&scene, &files[open]);
        // Fresh connections after the acknowledgement: the forbidden one first, so that it would come first.
        let path = paths[usize::from(round) >> 1 & 1];
        for port in [ONLY[closed], ONLY[open]] {
            scene.peer("office").send(&path.udp(10_000 + round, port, b"fresh"));
        }
        scene.peer("servers").expect("what the policy in force permits", |packet| {
            take(packet);
            assert!(
                !packet.is_udp_to(ONLY[closed]),
                "the policy before is in force in round {round}: {packet:?}"
            );
            packet.is_udp_to(ONLY[open])
        });
    }
    let sent = traffic.stop();
    assert!(sent > 1000, "{sent} packets are no traffic");
    while let Some(packet) = scene.peer("servers").next(Duration::from_millis(300)) {
        take(&packet);
    }
    let lost: Vec<_> = (0..sent).filter(|number| !arrived.contains(number)).collect();
    let ports = scene.status()["ports"].to_string();
    assert!(lost.is_empty(), "of {sent} packets {} are lost: {lost:?}, ports: {ports}", lost.len());
    assert_eq!(generation(&scene), 1001);
    assert_eq!(scene.drops().get("no_rule"), Some(&1000));
}
