//! Promise P4: every packet and every event is counted once, also when there are too many.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::config::{Config, allow, deny, reject};
use bulkhead_tests::frames::{Family, flags, pieces, segment};
use bulkhead_tests::gateway::program;
use bulkhead_tests::scene::{Scene, number};
use bulkhead_tests::traffic::Traffic;
use bulkhead_tests::wait_until;
use serde_json::Value;

/// Everything there is, from one zone to the other: live and new connections, answers, refusals, nonsense.
fn everything(scene: &Scene, from: &str, to: &str) -> impl Fn(u32) -> Vec<u8> + Send + 'static {
    let paths = Family::BOTH.map(|family| scene.path(from, to, family));
    let nobody = Family::BOTH.map(|family| scene.peer(to).nth(family, 50));
    move |number| {
        let mut path = paths[number as usize & 1];
        let port = (number >> 4) as u16 | 0x400;
        match number >> 1 & 7 {
            0 => path.udp(4000, 53, &[7; 900]),
            1 => path.udp(port, 53, b"new"),
            2 => path.udp(port, 54, b"denied"),
            3 => path.tcp((port, 23), segment(flags::SYN, number, 0), b""),
            4 => path.tcp((port, 80), segment(flags::ACK, number, 1), b"of nothing"),
            5 => {
                path.destination = nobody[number as usize & 1];
                path.udp(port, 53, b"to nobody")
            }
            6 => path.ttl(1).udp(port, 53, b"last hop"),
            // Both halves of every other datagram, and of those between the first half twice.
            _ if number & 1 == 0 => {
                let half = usize::from(number & 48 == 48);
                pieces(&path.udp(4000, 53, &[1; 40]), number >> 5, 24).swap_remove(half)
            }
            _ => path.udp(port, 53, b"cut")[..40].to_vec(),
        }
    }
}

#[test]
fn the_ledger_is_exact_under_more_of_everything_than_the_gateway_can_take() {
    let rules =
        |telnet: &str| allow("names", "any", "any", "udp/53") + &deny("old", "any", "any", "udp/54") + telnet;
    let config = |telnet: String| Config {
        connections: 1024,
        timeouts: "fragment = \"1s\"",
        ..Config::new(rules(&telnet))
    };
    let quiet = config(reject("telnet", "any", "any", "tcp/23"));
    let loud = config(deny("telnet", "any", "any", "tcp/23"));
    let Some(scene) = Scene::start(&quiet) else { return };
    let traffic = [("office", "servers"), ("servers", "office")]
        .map(|(from, to)| Traffic::start(scene.host(from), Duration::ZERO, everything(&scene, from, to)));
    let end = Instant::now() + Duration::from_secs(2);
    for round in 0_u8.. {
        if Instant::now() >= end {
            break;
        }
        scene.reload(if round % 2 == 0 { &loud } else { &quiet });
        scene.json(&["connections", "kill", "--all"]);
        scene.peer("servers").introduce(&scene.lab, [2, 0, 0, 0, 1, 2 + round % 2]);
        // At every reading each worker's own ledger balances, also in the middle of it all.
        let status = scene.status();
        assert_eq!(status["ledger"]["balanced"], true, "{:#}", status["ledger"]);
    }
    let sent: u32 = traffic.map(Traffic::stop).iter().sum();
    scene.check_ledger();
    let status = scene.status();
    let arrived: u64 = status["ports"].as_array().unwrap().iter().map(|port| number(port, "received")).sum();
    println!("{sent} frames sent, {arrived} arrived, ledger {}", status["ledger"]);
    let drops = scene.drops();
    for reason in
        ["rule_denied", "no_connection", "hop_limit_exceeded", "fragment_duplicate", "hold_queue_full"]
    {
        assert!(drops.get(reason) > Some(&100), "{reason}: {drops:?}");
    }
    // Those that waited have been given up, or the ledger would still hold them.
    wait_until("nobody waits", || number(&scene.status()["ledger"], "held") == 0);
}

#[test]
fn every_denial_is_an_event_or_counted_as_a_lost_one() {
    const DENIED: u64 = 40_000;
    let Some(scene) = Scene::start(&Config::new(allow("names", "office", "servers", "udp/53"))) else {
        return;
    };
    let mut command = Command::new(program());
    command.args(["events", "--follow", "--last", "10000", "--control"]).arg(scene.control());
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let (told, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count_told, count_lost) = (told.clone(), lost.clone());
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let event: Value = serde_json::from_str(&line).unwrap();
            match event["lost"].as_u64() {
                Some(lost) => drop(count_lost.fetch_add(lost, Ordering::Relaxed)),
                None if event["kind"] == "denied" => drop(count_told.fetch_add(1, Ordering::Relaxed)),
                None => {}
            }
        }
    });
    let path = scene.path("office", "servers", Family::V4);
    // The follower begins with the recent events, so it misses nothing before it listens.
    scene.stays_out("office", "servers", &path.udp(4000, 99, b"x"));
    wait_until("the follower listens", || told.load(Ordering::Relaxed) == 1);
    for number in 0..DENIED {
        scene.peer("office").send(&path.udp(4001 + (number % 50_000) as u16, 99, b"x"));
    }
    scene.check_ledger();
    let denied = scene.drops()["no_rule"];
    assert!(denied > DENIED / 10, "only {denied} of {DENIED} reached the worker");
    let heard = || told.load(Ordering::Relaxed) + lost.load(Ordering::Relaxed);
    wait_until("every denial is told or counted", || heard() >= denied);
    // The sentinel may have opened a connection, and an event of that may be among the lost.
    let lost = lost.load(Ordering::Relaxed);
    println!("{denied} denied, {lost} of them told as lost");
    assert!(heard() == denied || (lost > 0 && heard() == denied + 1), "{} ≠ {denied}", heard());
    follower.kill().unwrap();
    follower.wait().unwrap();
    reader.join().unwrap();
}
