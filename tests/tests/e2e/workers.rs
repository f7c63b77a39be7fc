//! Several workers: the two directions of a connection meet on different ones.

use bulkhead_tests::frames::{Family, flags, segment};
use bulkhead_tests::scene::{Scene, number};
use bulkhead_tests::sockets::echo;
use bulkhead_tests::workers::{both_at_once, pin, steer, two_workers};
use nix::unistd::{SysconfVar, sysconf};

/// Sends one frame of a zone's peer from a CPU.
fn send_from(scene: &Scene, zone: &str, cpu: usize, frame: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpu);
            scene.peer(zone).send(frame);
        });
    });
}

/// What each worker has forwarded, once all is counted.
fn forwarded(scene: &Scene) -> Vec<u64> {
    scene.check_ledger();
    let status = scene.status();
    let ledgers = status["worker_ledgers"].as_array().unwrap();
    ledgers.iter().map(|ledger| number(ledger, "forwarded")).collect()
}

#[test]
fn a_connection_whose_directions_are_on_different_workers_is_one_connection() {
    let Some((scene, cpus)) = two_workers("tcp/80") else { return };
    for family in Family::BOTH {
        let (there, back) =
            (scene.path("office", "servers", family), scene.path("servers", "office", family));
        let (client, server) = ((4000, 80), (80, 4000));
        let mut steps = vec![
            (0, there.tcp(client, segment(flags::SYN, 1000, 0), b"")),
            (1, back.tcp(server, segment(flags::SYN | flags::ACK, 5000, 1001), b"")),
            (0, there.tcp(client, segment(flags::ACK, 1001, 5001), b"")),
        ];
        for round in 0..20_u32 {
            let data =
                |seq: u32, ack: u32| segment(flags::ACK | flags::PSH, seq + 4 * round, ack + 4 * round);
            steps.push((0, there.tcp(client, data(1001, 5001), b"ping")));
            steps.push((1, back.tcp(server, data(5001, 1005), b"pong")));
        }
        for (side, frame) in steps {
            let zones = ["office", "servers"];
            send_from(&scene, zones[side], cpus[side], &frame);
            scene.peer(zones[1 - side]).expect("the segment", |packet| {
                packet.ip[packet.family().header_bytes()..] == frame[14 + packet.family().header_bytes()..]
            });
        }
    }
    let listed = scene.json(&["connections", "list"]);
    assert_eq!(number(&listed, "matched"), 2, "{listed:#}");
    for connection in listed["connections"].as_array().unwrap() {
        assert_eq!(connection["state"], "established");
        assert_eq!(connection["packets"].to_string(), "[22,21]");
    }
    // A handshake of three, and twenty times two, of either family.
    assert_eq!(forwarded(&scene), [44, 42]);
}

#[test]
fn a_connection_that_both_ends_open_at_once_on_two_workers_is_one_connection() {
    const PORTS: std::ops::Range<u16> = 5000..5300;
    let Some((scene, cpus)) = two_workers("udp/5000-5299") else { return };
    for family in Family::BOTH {
        both_at_once(&scene, cpus, family, PORTS, |path, port| path.udp(port, port, b"both"));
        for zone in ["office", "servers"] {
            for _ in PORTS {
                scene.peer(zone).expect("one of them", |packet| packet.payload() == b"both");
            }
        }
    }
    let listed = scene.json(&["connections", "list", "--limit", "10000"]);
    assert_eq!(number(&listed, "matched"), 2 * PORTS.len() as u64);
    for connection in listed["connections"].as_array().unwrap() {
        assert_eq!(connection["packets"].to_string(), "[1,1]", "{connection:#}");
    }
    assert_eq!(forwarded(&scene), [2 * PORTS.len() as u64; 2]);
}

#[test]
fn ordinary_sockets_on_two_workers_lose_nothing_to_the_gateway() {
    let Some((scene, _)) = two_workers("tcp/8000-8031") else { return };
    // As receive-side scaling does it: each direction of a connection stays on its queue.
    let configured = sysconf(SysconfVar::_NPROCESSORS_CONF).unwrap().unwrap();
    let all: Vec<_> = (0..configured as usize).collect();
    steer(scene.host("office"), [&all, &[]]);
    steer(scene.host("servers"), [&[], &all]);
    let before = scene.drops();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let scene = &scene;
            scope.spawn(move || {
                let zones = if number % 2 == 0 { ["office", "servers"] } else { ["servers", "office"] };
                echo(scene, zones, Family::BOTH[number / 8], 8000 + number as u16, 200_000);
            });
        }
    });
    // A segment that one worker judges before the other has seen what it answers would be out of its window.
    scene.expect_drops(&before, &[]);
    let forwarded = forwarded(&scene);
    assert!(forwarded.iter().all(|packets| *packets > 1000), "{forwarded:?}");
}
