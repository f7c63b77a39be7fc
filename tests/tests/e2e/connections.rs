//! Connections: who may open one, what belongs to it, and how it ends.

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{ETHERNET_BYTES, Family, Packet, flags, segment};
use bulkhead_tests::scene::{Scene, number};
use bulkhead_tests::sockets::echo;
use bulkhead_tests::wait_until;
use serde_json::Value;

const PINGS: &str = "icmp/echo-request icmpv6/echo-request";

fn services() -> Config {
    Config::new(allow("services", "office", "servers", &format!("tcp/80 udp/53 {PINGS}")))
}

/// The connections that `connections list` shows with these options.
fn connections(scene: &Scene, options: &[&str]) -> Vec<Value> {
    let listed = scene.json(&[&["connections", "list"], options].concat());
    listed["connections"].as_array().expect("a list of connections").clone()
}

#[test]
fn ordinary_sockets_connect_exchange_a_megabyte_and_close() {
    const BYTES: usize = 1 << 20;
    let Some(scene) = Scene::start(&services()) else { return };
    for family in Family::BOTH {
        let to = echo(&scene, ["office", "servers"], family, 80, BYTES);
        let mut state = String::new();
        wait_until("both ends have closed", || {
            let listed = connections(&scene, &["--port", "tcp/80", "--destination", &to.ip().to_string()]);
            assert_eq!(listed.len(), 1);
            state = listed[0]["state"].to_string();
            state.contains("time_wait")
        });
    }
    // Every connection opened once, and all of them under their rule.
    let rules = scene.json(&["rules"]);
    let rule = rules["rules"].as_array().unwrap().iter().find(|row| row["rule"] == "services").unwrap();
    assert_eq!(number(rule, "connections"), 2);
    assert!(number(rule, "bytes") > 4 * BYTES as u64);
}

#[test]
fn tcp_in_the_middle_of_nothing_and_outside_its_window_is_refused() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for flags in [
            flags::ACK,
            flags::ACK | flags::PSH,
            flags::SYN | flags::ACK,
            flags::FIN | flags::ACK,
            flags::RST,
        ] {
            scene.stays_out("office", "servers", &path.tcp((4000, 80), segment(flags, 77, 88), b""));
        }
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        tcp.talks();
        for side in [0, 1] {
            for offset in [200_000, u32::MAX - 200_000] {
                let stray = tcp.segment_off_by(side, offset, flags::ACK | flags::PSH, b"injected");
                tcp.stays_out(side, &stray);
            }
            let reset = tcp.segment_off_by(side, 200_000, flags::RST, b"");
            tcp.stays_out(side, &reset);
        }
        // None of that has harmed it.
        tcp.talks();
        for side in [0, 1] {
            tcp.crosses(side, flags::FIN | flags::ACK, b"");
        }
        tcp.crosses(0, flags::ACK, b"");
        let late = tcp.segment(1, flags::SYN | flags::ACK, b"");
        tcp.stays_out(1, &late);
    }
    scene.expect_drops(&before, &[("no_connection", 10), ("tcp_out_of_window", 12), ("tcp_invalid", 2)]);
}

#[test]
fn data_before_the_handshake_is_complete_is_refused_from_the_originator() {
    let Some(scene) = Scene::start(&services()) else { return };
    let path = scene.path("office", "servers", Family::V4);
    let before = scene.drops();
    scene.crosses("office", "servers", &path.tcp((4000, 80), segment(flags::SYN, 1000, 0), b""));
    scene.stays_out(
        "office",
        "servers",
        &path.tcp((4000, 80), segment(flags::ACK | flags::PSH, 1001, 1), b"early"),
    );
    scene.expect_drops(&before, &[("tcp_invalid", 1)]);
}

#[test]
fn a_reset_ends_a_connection_in_both_directions() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for (family, resetting) in Family::BOTH.into_iter().zip([0, 1]) {
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        tcp.talks();
        tcp.crosses(resetting, flags::RST | flags::ACK, b"");
        for side in [0, 1] {
            let more = tcp.segment(side, flags::ACK | flags::PSH, b"more");
            tcp.stays_out(side, &more);
        }
    }
    scene.expect_drops(&before, &[("tcp_invalid", 4)]);
}

#[test]
fn udp_lets_replies_back_and_nothing_else() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let (there, back) =
            (scene.path("office", "servers", family), scene.path("servers", "office", family));
        scene.stays_out("servers", "office", &back.udp(53, 4000, b"too early"));
        scene.crosses("office", "servers", &there.udp(4000, 53, b"query"));
        scene.crosses("servers", "office", &back.udp(53, 4000, b"reply"));
        scene.stays_out("servers", "office", &back.udp(53, 4001, b"other port"));
        scene.stays_out("servers", "office", &back.udp(54, 4000, b"from another port"));
        scene.crosses("servers", "office", &back.udp(53, 4000, b"one more"));
    }
    scene.expect_drops(&before, &[("no_rule", 6)]);
}

#[test]
fn echoes_of_equal_identifier_in_both_directions_are_two_connections() {
    let rules = allow("out", "office", "servers", PINGS) + &allow("in", "servers", "office", PINGS);
    let Some(scene) = Scene::start(&Config::new(rules)) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let (there, back) =
            (scene.path("office", "servers", family), scene.path("servers", "office", family));
        scene.stays_out("servers", "office", &back.echo_reply(7, 1));
        scene.crosses("office", "servers", &there.echo_request(7, 1));
        scene.stays_out("office", "servers", &there.echo_reply(7, 1));
        scene.crosses("servers", "office", &back.echo_request(7, 1));
        scene.crosses("servers", "office", &back.echo_reply(7, 1));
        scene.crosses("office", "servers", &there.echo_reply(7, 1));
        scene.stays_out("servers", "office", &back.echo_reply(8, 1));
    }
    assert_eq!(connections(&scene, &["--rule", "out"]).len(), 2);
    assert_eq!(connections(&scene, &["--rule", "in"]).len(), 2);
    scene.expect_drops(&before, &[("no_connection", 6)]);
}

#[test]
fn an_icmp_error_passes_only_to_the_sender_of_what_it_quotes() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let (there, back) =
            (scene.path("office", "servers", family), scene.path("servers", "office", family));
        let query = scene.crosses("office", "servers", &there.udp(4000, 53, b"query"));
        scene.crosses("servers", "office", &back.port_unreachable(&query.ip));
        // A query that was never sent, one that goes the other way, and one that was cut short.
        let quoted = |frame: Vec<u8>| frame[ETHERNET_BYTES..].to_vec();
        let never = quoted(there.udp(4001, 53, b"query"));
        scene.stays_out("servers", "office", &back.port_unreachable(&never));
        let backwards = quoted(back.udp(53, 4000, b"reply"));
        scene.stays_out("servers", "office", &back.port_unreachable(&backwards));
        scene.stays_out(
            "servers",
            "office",
            &back.port_unreachable(&query.ip[..query.family().header_bytes() + 4]),
        );
        // A segment with a sequence number that the sender has not reached.
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        let good = tcp.crosses(0, flags::ACK | flags::PSH, b"not acknowledged yet");
        let forged = Packet::parse(&tcp.segment_off_by(0, 100_000, flags::ACK, b"")).unwrap();
        scene.crosses("servers", "office", &back.port_unreachable(&good.ip));
        scene.stays_out("servers", "office", &back.port_unreachable(&forged.ip));
        tcp.talks();
    }
    scene.expect_drops(&before, &[("icmp_unrelated", 4), ("icmp_bad_quote", 4)]);
}

#[test]
fn idle_connections_expire_after_the_configured_time_and_busy_ones_do_not() {
    let timeouts = "udp_unreplied = \"1s\"\nudp_replied = \"1s\"\nicmp = \"1s\"\ntcp_handshake = \"1s\"\n\
                    tcp_established = \"1s\"\n";
    let Some(scene) = Scene::start(&Config { timeouts, ..services() }) else { return };
    let mut kept = Vec::new();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        scene.crosses("office", "servers", &path.udp(4000, 53, b"query"));
        scene.crosses("office", "servers", &path.udp(4001, 53, b"query"));
        let back = scene.path("servers", "office", family);
        scene.crosses("servers", "office", &back.udp(53, 4001, b"reply"));
        scene.crosses("office", "servers", &path.echo_request(7, 1));
        scene.crosses("office", "servers", &path.tcp((4000, 80), segment(flags::SYN, 1, 0), b""));
        scene.open_tcp("office", "servers", family, (4001, 80));
        kept.push(path.udp(5000, 53, b"again"));
    }
    wait_until("all but the busy ones have expired", || {
        kept.iter().for_each(|frame| drop(scene.crosses("office", "servers", frame)));
        let left = connections(&scene, &["--rule", "services"]);
        assert!(left.iter().filter(|row| row["source_port"] == 5000).count() == 2, "{left:#?}");
        left.len() == 2
    });
    let before = scene.drops();
    for family in Family::BOTH {
        let back = scene.path("servers", "office", family);
        scene.stays_out("servers", "office", &back.udp(53, 4001, b"late"));
        scene.stays_out("servers", "office", &back.echo_reply(7, 1));
        scene.stays_out("servers", "office", &back.tcp((80, 4001), segment(flags::ACK, 5001, 1001), b"late"));
    }
    scene.expect_drops(&before, &[("no_rule", 2), ("no_connection", 4)]);
}

#[test]
fn a_full_table_keeps_its_established_connections_and_refuses_new_ones() {
    const CAPACITY: u16 = 1024;
    let Some(scene) = Scene::start(&Config { connections: CAPACITY.into(), ..services() }) else { return };
    for family in Family::BOTH {
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        // The sentinels' own connection must be one that has a reply.
        scene.nothing_arrived("office", "servers");
        scene.nothing_arrived("servers", "office");
        let (there, back) =
            (scene.path("office", "servers", family), scene.path("servers", "office", family));
        let before = scene.drops();
        let mut refused = 0;
        for port in 10_000..10_000 + CAPACITY + 100 {
            scene.peer("office").send(&there.udp(port, 53, b"query"));
            match scene.arrived("office", "servers").as_slice() {
                // A connection with a reply is never given up for a new one.
                [_] => drop(scene.crosses("servers", "office", &back.udp(53, port, b"reply"))),
                [] => refused += 1,
                more => panic!("{more:?}"),
            }
        }
        // Beside these there are one of TCP and, of IPv4, the sentinels'.
        assert_eq!(refused, if family == Family::V4 { 102 } else { 101 });
        scene.expect_drops(&before, &[("table_full", refused)]);
        tcp.talks();
        scene.crosses("servers", "office", &back.udp(53, 10_000, b"still there"));
    }
}

#[test]
fn a_flood_of_half_open_connections_stays_within_its_share_and_harms_no_established_one() {
    let config = Config { connections: 1024, half_open_percent: 10, ..services() };
    let Some(scene) = Scene::start(&config) else { return };
    for family in Family::BOTH {
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        let path = scene.path("office", "servers", family);
        for port in 10_000..12_000 {
            scene.peer("office").send(&path.tcp((port, 80), segment(flags::SYN, 1, 0), b""));
            if port % 100 == 99 {
                scene.arrived("office", "servers");
            }
        }
        let half_open = number(&scene.status()["connections"], "half_open");
        // 10 % of 1024 in each family, rounded up.
        assert!((90..=206).contains(&half_open), "{half_open} are half open");
        tcp.talks();
        let mut fresh = scene.open_tcp("office", "servers", family, (4001, 80));
        fresh.talks();
    }
}
