//! Group D: exhaustion.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bulkhead::lab::Neighbours;
use bulkhead_tests::PATIENCE;
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::flood::{self, Kind, Plan};
use bulkhead_tests::frames::{Content, Family, Packet, Path, flags, segment};
use bulkhead_tests::scene::{Scene, number, office_and_servers, zone};
use bulkhead_tests::traffic::Traffic;

/// Fits the smallest table.
const CONNECTIONS: u32 = 1024;
/// Frames sent before it is waited until they have been taken: a flood must not end in the receive ring.
const GUST: u16 = 64;

fn config(gateway: &str, half_open_percent: u32) -> Config {
    Config {
        connections: CONNECTIONS,
        half_open_percent,
        gateway: gateway.to_owned(),
        ..Config::new(allow("services", "office", "servers", "tcp/80 udp/53"))
    }
}

fn syn(path: &Path, port: u16) -> Vec<u8> {
    path.tcp((port, 80), segment(flags::SYN, 1, 0), b"")
}

/// Sends one frame from the office for each of these numbers, in gusts. Returns how many arrived at the servers.
fn gusts(scene: &Scene, numbers: std::ops::Range<u16>, frame: impl Fn(u16) -> Vec<u8>) -> u64 {
    let mut arrived = 0;
    for start in numbers.clone().step_by(GUST.into()) {
        (start..numbers.end.min(start + GUST)).for_each(|number| scene.peer("office").send(&frame(number)));
        arrived += scene.arrived("office", "servers").len() as u64;
    }
    arrived
}

fn half_open(scene: &Scene) -> u64 {
    number(&scene.status()["connections"], "half_open")
}

/// Gives the sentinels' connections a reply, so that they are not among the half-open ones.
fn settle_sentinels(scene: &Scene) {
    scene.nothing_arrived("office", "servers");
    scene.nothing_arrived("servers", "office");
}

#[test]
fn d1_a_source_has_exactly_its_share_of_half_open_connections_and_the_excess_is_dropped_and_counted() {
    const SHARE: u64 = 20;
    let Some(scene) = Scene::start(&config(&format!("half_open_per_source = {SHARE}"), 50)) else { return };
    settle_sentinels(&scene);
    for (round, family) in Family::BOTH.into_iter().enumerate() {
        let path = scene.path("office", "servers", family);
        let before = scene.drops();
        assert_eq!(gusts(&scene, 10_000..10_500, |port| syn(&path, port)), SHARE);
        scene.expect_drops(&before, &[("half_open_source_limit", 500 - SHARE)]);
        assert_eq!(half_open(&scene), (round as u64 + 1) * SHARE);
        // An honest neighbour is not concerned. Of IPv6, one of another /64 would not be; the same /64 is one source.
        let neighbour = Path { source: scene.peer("office").nth(family, 1), ..path };
        let before = scene.drops();
        let own_share = u64::from(family == Family::V4);
        assert_eq!(gusts(&scene, 20_000..20_001, |port| syn(&neighbour, port)), own_share);
        let more = scene.drops().get("half_open_source_limit").copied().unwrap_or(0);
        assert_eq!(more - before["half_open_source_limit"], 1 - own_share);
        if own_share == 1 {
            let back = scene.path("servers", "office", family);
            let back = Path { destination: neighbour.source, ..back };
            let reset = back.tcp((80, 20_000), segment(flags::RST | flags::ACK, 0, 2), b"");
            scene.crosses("servers", "office", &reset);
        }
        // A place that a finished handshake leaves is free at once, and it is one place.
        let back = scene.path("servers", "office", family);
        scene.crosses(
            "servers",
            "office",
            &back.tcp((80, 10_007), segment(flags::SYN | flags::ACK, 9, 2), b""),
        );
        scene.crosses("office", "servers", &path.tcp((10_007, 80), segment(flags::ACK, 2, 10), b""));
        assert_eq!(gusts(&scene, 30_000..30_002, |port| syn(&path, port)), 1);
    }
}

#[test]
fn d1_half_open_connections_are_exactly_within_the_global_share_and_the_excess_is_the_oldest_evicted_and_counted()
 {
    // A tenth of 1,024, rounded up.
    const SHARE: u64 = 103;
    let Some(scene) = Scene::start(&config("", 10)) else { return };
    settle_sentinels(&scene);
    for (round, family) in Family::BOTH.into_iter().enumerate() {
        let path = scene.path("office", "servers", family);
        let (before, evicted) = (scene.drops(), number(&scene.status()["connections"], "evicted"));
        // Every newcomer crosses: it is the one that has waited longest which goes.
        assert_eq!(gusts(&scene, 10_000..11_000, |port| syn(&path, port)), 1000);
        assert_eq!(half_open(&scene), (round as u64 + 1) * SHARE);
        let evicted = number(&scene.status()["connections"], "evicted") - evicted;
        assert_eq!(evicted, 1000 - SHARE);
        scene.expect_drops(&before, &[]);
        // The first are gone, so their SYN-ACKs are of no connection; the last one's crosses.
        let back = scene.path("servers", "office", family);
        let syn_ack = |port| back.tcp((80, port), segment(flags::SYN | flags::ACK, 9, 2), b"");
        for port in 10_000..10_010 {
            scene.stays_out("servers", "office", &syn_ack(port));
        }
        scene.crosses("servers", "office", &syn_ack(10_999));
        scene.expect_drops(&before, &[("no_connection", 10)]);
    }
}

#[test]
fn d3_a_full_table_evicts_the_half_open_never_the_established_and_refuses_when_there_are_none() {
    let Some(scene) = Scene::start(&config("", 100)) else { return };
    settle_sentinels(&scene);
    for family in Family::BOTH {
        let there = scene.path("office", "servers", family);
        let back = scene.path("servers", "office", family);
        let established = (CONNECTIONS - 100) as u16;
        let open = |ports: std::ops::Range<u16>, at_once: u16| {
            for start in ports.clone().step_by(at_once.into()) {
                let gust = start..ports.end.min(start + at_once);
                gusts(&scene, gust.clone(), |port| there.udp(port, 53, b"query"));
                gust.for_each(|port| scene.peer("servers").send(&back.udp(53, port, b"reply")));
                scene.arrived("servers", "office");
            }
        };
        open(10_000..10_000 + established, GUST);
        let (before, evicted) = (scene.drops(), number(&scene.status()["connections"], "evicted"));
        // A flood into what is left of the table: all cross, each in place of an older one of the flood.
        assert_eq!(gusts(&scene, 30_000..31_000, |port| syn(&there, port)), 1000);
        scene.expect_drops(&before, &[]);
        assert!(number(&scene.status()["connections"], "evicted") - evicted >= 900);
        // All that were established answer still.
        for port in 10_000..10_000 + established {
            scene.peer("servers").send(&back.udp(53, port, b"again"));
            if port % GUST == 0 {
                scene.arrived("servers", "office");
            }
        }
        scene.arrived("servers", "office");
        scene.expect_drops(&before, &[]);
        // Now with established ones only: what was left becomes theirs, the rest is refused, always the same way. One
        // by one, for the longest waiting is that of a sample, and here it would often be one of the same gust.
        open(20_000..20_110, 1);
        let full = scene.drops();
        assert_eq!(gusts(&scene, 40_000..40_050, |port| syn(&there, port)), 0);
        scene.expect_drops(&full, &[("table_full", 50)]);
        for port in [10_000, 10_000 + established - 1, 20_000] {
            scene.crosses("servers", "office", &back.udp(53, port, b"still there"));
        }
    }
}

/// Datagrams from this address to port 53 of the servers, one for each of these source ports; how many arrived.
fn queries(scene: &Scene, path: Path, ports: std::ops::Range<u16>) -> u64 {
    gusts(scene, ports, |port| path.udp(port, 53, b"query"))
}

/// The connections that a rule has at the moment.
fn open_under(scene: &Scene, rule: &str) -> u64 {
    let rows = scene.json(&["rules"]);
    let rows = rows["rules"].as_array().expect("a list of rules");
    number(rows.iter().find(|row| row["rule"] == rule).expect("the rule"), "open")
}

fn dns(limits: &str) -> String {
    allow("dns", "office", "servers", "udp/53") + &format!("limits = {{ {limits} }}\n")
}

#[test]
fn d1_connections_of_a_rule_and_of_a_source_under_it_are_exact_and_follow_the_rule_s_name() {
    let limited = dns("connections = 10, connections_per_source = 6");
    let Some(scene) = Scene::start(&Config::new(limited.clone())) else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let neighbour = Path { source: scene.peer("office").nth(family, 1), ..path };
        let before = scene.drops();
        assert_eq!(queries(&scene, path, 1000..1020), 6);
        scene.expect_drops(&before, &[("source_connection_limit", 14)]);
        // Of IPv6, the neighbour in the same /64 is the same source.
        let own = if family == Family::V4 { 4 } else { 0 };
        assert_eq!(queries(&scene, neighbour, 1000..1020), own);
        let refused = if family == Family::V4 {
            vec![("source_connection_limit", 14), ("rule_connection_limit", 16)]
        } else {
            vec![("source_connection_limit", 34)]
        };
        scene.expect_drops(&before, &refused);
        assert_eq!(open_under(&scene, "dns"), 6 + own);
        // Known connections are not concerned.
        assert_eq!(queries(&scene, path, 1000..1006), 6);
        // The rule gets another number, and other rules come and go.
        scene.reload(&Config::new(allow("a", "servers", "office", "tcp/1") + &limited));
        assert_eq!(queries(&scene, path, 2000..2010), 0);
        assert_eq!(open_under(&scene, "dns"), 6 + own);
        // An operator's cut gives the places back.
        assert_eq!(scene.cli(&["connections", "kill", "--rule", "dns"]).code, 0);
        assert_eq!(open_under(&scene, "dns"), 0);
        assert_eq!(queries(&scene, path, 3000..3020), 6);
        assert_eq!(scene.cli(&["connections", "kill", "--rule", "dns"]).code, 0);
        scene.reload(&Config::new(limited.clone()));
    }
}

#[test]
fn d1_new_connections_per_second_of_a_rule_and_of_a_source_stay_within_a_second_s_worth_and_the_rate() {
    let limited = dns("new_per_second = 60, new_per_second_per_source = 40");
    let Some(scene) = Scene::start(&Config::new(limited)) else { return };
    let path = scene.path("office", "servers", Family::V4);
    let neighbour = Path { source: scene.peer("office").nth(Family::V4, 1), ..path };
    let (before, begun) = (scene.drops(), Instant::now());
    let first = queries(&scene, path, 1000..1500);
    let second = queries(&scene, neighbour, 1000..1500);
    let seconds = begun.elapsed().as_secs_f64();
    let most = |rate: f64| (rate * (1.0 + seconds)).ceil() as u64;
    assert!((40..=most(40.0)).contains(&first), "{first} in {seconds} s");
    assert!((60..=most(60.0)).contains(&(first + second)), "{first} and {second} in {seconds} s");
    let moved = scene.drops();
    let moved =
        |reason: &str| moved.get(reason).copied().unwrap_or(0) - before.get(reason).copied().unwrap_or(0);
    assert_eq!(moved("source_rate_limit") + moved("rule_rate_limit") + first + second, 1000);
    assert!(moved("source_rate_limit") > 0 && moved("rule_rate_limit") > 0);
}

/// Servers behind SYN cookies.
fn protected() -> Config {
    let segment = |name: &str, number: u8, more: &str| {
        format!(
            "[segments.{name}]\nport = \"{name}\"\nnetworks = [\"10.{number}.0.0/24\", \"fd00:{number}::/64\"]\n{more}\n"
        )
    };
    let segments = segment("office", 1, "") + &segment("servers", 2, "protect = \"syn-cookies\"");
    Config {
        segments: Some(segments),
        ..Config::new(allow("services", "office", "servers", "tcp/80 udp/53"))
    }
}

/// Sequence and acknowledgement number of a TCP segment.
fn numbers(packet: &Packet) -> (u32, u32) {
    match packet.content {
        Content::Tcp(_, _, _, seq, ack, _) => (seq, ack),
        _ => panic!("{packet:?} is not TCP"),
    }
}

#[test]
fn d2_syn_cookies_keep_a_spoofed_flood_out_of_the_table_and_answer_nothing_longer_than_it_was() {
    let Some(scene) = Scene::start(&protected()) else { return };
    settle_sentinels(&scene);
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let (before, open) = (scene.drops(), scene.status()["connections"].clone());
        let spoofed = |number: u16| {
            let source = scene.peer("office").nth(family, number % 100);
            syn(&Path { source, ..path }, 1 + number)
        };
        let shortest = Packet::parse(&spoofed(0)).unwrap().ip.len();
        assert_eq!(gusts(&scene, 0..2000, spoofed), 0, "none reaches a server");
        let answers = scene.arrived("servers", "office");
        assert!(answers.len() >= 1000, "{}", answers.len());
        for answer in &answers {
            assert_eq!(answer.tcp_flags(), flags::SYN | flags::ACK);
            assert!(answer.ip.len() <= shortest);
            assert_ne!(numbers(answer).1, 2, "it would be accepted");
        }
        scene.expect_drops(&before, &[("syn_challenged", 2000)]);
        let after = scene.status()["connections"].clone();
        assert_eq!((&after["open"], &after["half_open"]), (&open["open"], &open["half_open"]));
        // What needs no handshake, and what is denied, is as ever.
        scene.crosses("office", "servers", &path.udp(4000, 53, b"query"));
        scene.stays_out("office", "servers", &path.tcp((4000, 81), segment(flags::SYN, 1, 0), b""));
        scene.expect_drops(&before, &[("syn_challenged", 2000), ("no_rule", 1)]);
    }
}

#[test]
fn d8_a_challenge_is_never_longer_than_the_syn_and_there_is_never_more_than_one_for_each() {
    let Some(scene) = Scene::start(&protected()) else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        scene.peer("office").drain();
        // The shortest SYN there is, one with data, and one that was padded on the link.
        let bare = syn(&path, 4000);
        let mut padded = syn(&path, 4002);
        padded.resize(padded.len() + 40, 0);
        let data = path.tcp((4001, 80), segment(flags::SYN, 1, 0), &[7; 500]);
        for frame in [bare, data, padded] {
            let sent = Packet::parse(&frame).unwrap();
            scene.stays_out("office", "servers", &frame);
            let answers = scene.arrived("servers", "office");
            assert_eq!(answers.len(), 1, "{answers:?}");
            assert!(answers[0].ip.len() <= sent.ip.len());
        }
    }
}

#[test]
fn d2_syn_cookies_let_in_who_answers_with_the_number_that_he_was_sent_and_nobody_who_guesses() {
    let Some(scene) = Scene::start(&protected()) else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let before = scene.drops();
        let challenged = || {
            scene.peer("office").drain();
            scene.stays_out("office", "servers", &syn(&path, 4000));
            let challenge = scene.peer("office").expect("a challenge", |packet| packet.is_tcp_to(4000));
            numbers(&challenge).1
        };
        let cookie = challenged();
        let reset = |number: u32, port: u16| path.tcp((port, 80), segment(flags::RST, number, 0), b"");
        // Off by one, at another port, with an acknowledgement instead of a reset.
        for guess in [reset(cookie.wrapping_add(1), 4000), reset(cookie, 4001)] {
            scene.stays_out("office", "servers", &guess);
        }
        let ack = path.tcp((4000, 80), segment(flags::ACK, 2, cookie), b"");
        scene.stays_out("office", "servers", &ack);
        scene.expect_drops(&before, &[("syn_challenged", 1), ("no_connection", 3)]);
        assert_eq!(challenged(), cookie, "nobody is verified");
        scene.stays_out("office", "servers", &reset(cookie, 4000));
        scene
            .expect_drops(&before, &[("syn_challenged", 2), ("no_connection", 3), ("challenge_answered", 1)]);
        // From now on as if there were no protection, also to other ports, and with the server's own numbers.
        scene.open_tcp("office", "servers", family, (4000, 80)).talks();
        scene.open_tcp("office", "servers", family, (4001, 80)).talks();
        scene
            .expect_drops(&before, &[("syn_challenged", 2), ("no_connection", 3), ("challenge_answered", 1)]);
    }
}

#[test]
fn d2_syn_cookies_delay_the_first_connection_of_an_ordinary_client_by_less_than_a_retransmission() {
    let Some(scene) = Scene::start(&protected()) else { return };
    for family in Family::BOTH {
        let before = scene.drops();
        let mut took = Vec::new();
        for port in [80; 4] {
            took.push(connect_time(&scene, family, port));
        }
        println!("{family:?}: connecting took {took:?}");
        // The kernel's first retransmission would come after a second.
        assert!(took.iter().all(|took| *took < Duration::from_millis(900)), "{took:?}");
        scene.expect_drops(&before, &[("syn_challenged", 1), ("challenge_answered", 1)]);
    }
}

/// How long an ordinary socket of the office takes to connect to the servers.
fn connect_time(scene: &Scene, family: Family, port: u16) -> Duration {
    let address = SocketAddr::new(scene.host_address("servers", family), port);
    let _listener = scene.host("servers").namespace.run(|| TcpListener::bind(address)).expect("it listens");
    let begun = Instant::now();
    let connected = scene.host("office").namespace.run(|| TcpStream::connect_timeout(&address, PATIENCE));
    connected.expect("it connects");
    begun.elapsed()
}

/// The addresses that ARP requests and neighbour solicitations among these frames ask for.
fn asked_for(frames: &[Vec<u8>]) -> HashSet<IpAddr> {
    let target = |frame: &Vec<u8>| match frame[12..14] {
        // RFC 826: the operation, and the target's protocol address.
        [0x08, 0x06] if frame[20..22] == [0, 1] => {
            Some(IpAddr::from(<[u8; 4]>::try_from(&frame[38..42]).unwrap()))
        }
        // RFC 4861, section 4.3.
        [0x86, 0xdd] if frame[20] == 58 && frame[54] == 135 => {
            Some(IpAddr::from(<[u8; 16]>::try_from(&frame[62..78]).unwrap()))
        }
        _ => None,
    };
    frames.iter().filter_map(target).collect()
}

#[test]
fn d7_a_scan_of_unused_addresses_asks_for_few_of_them_and_honest_new_neighbours_are_found_meanwhile() {
    for family in Family::BOTH {
        let mut zones = office_and_servers();
        zones[1].neighbours = Neighbours::Dynamic;
        zones.push(zone("clients", 3));
        let Some(mut scene) = Scene::build(zones) else { return };
        let rules = allow("services", "office", "servers", "udp/53")
            + &allow("honest", "clients", "servers", "udp/53");
        scene.run(&Config::new(rules));
        let scan = scene.path("office", "servers", family);
        let unused: Vec<IpAddr> = (10..170).map(|n| scene.peer("servers").nth(family, n)).collect();
        let begun = Instant::now();
        scene.peer("servers").drain();
        let traffic = Traffic::start(scene.host("office"), Duration::from_micros(500), move |number| {
            let destination = unused[number as usize % unused.len()];
            Path { destination, ..scan }.udp(4000, 53, b"scan")
        });
        // More than may wait at once.
        traffic.wait_for_more(1000);
        let destination = scene.host_address("servers", family);
        let server = scene.host("servers").namespace.run(|| UdpSocket::bind((destination, 53))).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let honest = Path { destination, ..scene.path("clients", "servers", family) };
        let sent = Instant::now();
        scene.peer("clients").send(&honest.udp(4000, 53, b"honest"));
        let mut bytes = [0; 16];
        let (length, from) = server.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.ip()), (&b"honest"[..], honest.source));
        println!("{family:?}: an unknown neighbour was found in {:?} during a scan", sent.elapsed());
        assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
        traffic.stop();
        let seconds = begun.elapsed().as_secs() as usize;
        let mut frames = Vec::new();
        while let Some(frame) = scene.peer("servers").frame(Duration::ZERO) {
            frames.push(frame);
        }
        let mut asked = asked_for(&frames);
        asked.remove(&destination);
        // A source may have asked in vain for 16 at a time, for three seconds each.
        assert!((1..=16 * (2 + seconds / 3)).contains(&asked.len()), "{} in {seconds} s", asked.len());
    }
}

/// A flood of a few seconds at a rate that a debug build can take; what it leaves is gone after a second.
fn survives(kind: Kind) {
    let timeouts = "tcp_handshake = \"1s\"\nudp_unreplied = \"1s\"\nicmp = \"1s\"\n";
    let plan =
        Plan { kind, duration: Duration::from_secs(3), rate: Some(8_000), connections: 4096, timeouts };
    // One at a time, for they are measured.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(report) = flood::run(&plan) else { return };
    println!("{report}");
    assert!(report.is_harmless(), "{report}");
    assert!(report.honest.0 >= 20 && report.taken > 10_000, "{report}");
    // A quarter of either table, what is established, and honest connections that are not over yet.
    assert!(report.table.1 <= 2 * 1024 + 40 + 2 * report.honest.0 + 2, "{report}");
    // D9 allows 60 s.
    assert!(
        report.recovered.0 < Duration::from_secs(20) && report.recovered.1 < Duration::from_secs(20),
        "{report}"
    );
    assert!(report.memory_kib.1 < report.memory_kib.0 + 16 * 1024, "{report}");
}

#[test]
fn d2_d9_a_syn_flood_from_forged_sources_harms_nobody_and_leaves_nothing() {
    survives(Kind::Syn);
}

#[test]
fn d2_d9_a_syn_flood_into_a_protected_segment_harms_nobody_and_leaves_nothing() {
    survives(Kind::SynProtected);
}

#[test]
fn d7_d9_a_udp_flood_from_forged_sources_harms_nobody_and_leaves_nothing() {
    survives(Kind::Udp);
}

#[test]
fn d7_d9_an_icmp_flood_from_forged_sources_harms_nobody_and_leaves_nothing() {
    survives(Kind::Icmp);
}

#[test]
fn d7_d9_a_flood_of_half_datagrams_harms_nobody_and_leaves_nothing() {
    survives(Kind::Fragments);
}

#[test]
fn d6_a_flood_of_denials_disturbs_no_connection_and_what_is_kept_of_it_is_bounded() {
    // The daemon keeps the last 10,000 events.
    const DENIALS: u16 = 24_000;
    let Some(scene) = Scene::start(&Config::new(allow("web", "office", "servers", "tcp/80"))) else { return };
    let mut known = Family::BOTH.map(|family| scene.open_tcp("office", "servers", family, (4000, 80)));
    let paths = Family::BOTH.map(|family| scene.path("office", "servers", family));
    let before = scene.drops();
    for gust in (0..DENIALS).step_by(usize::from(8 * GUST)) {
        let numbers = gust..DENIALS.min(gust + 8 * GUST);
        // In smaller pieces, or some would be lost in the receive ring.
        assert_eq!(
            gusts(&scene, numbers, |number| paths[usize::from(number % 2)].udp(1024 + number, 53, b"x")),
            0
        );
        known.iter_mut().for_each(|tcp| tcp.talks());
    }
    scene.expect_drops(&before, &[("no_rule", DENIALS.into())]);
    let kept = scene.cli(&["events"]);
    assert_eq!(kept.code, 0);
    let denied = kept.stdout.matches("\"denied\"").count();
    assert!((1..=10_000).contains(&denied), "{denied} events are kept");
}
