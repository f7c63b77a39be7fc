use std::io::Cursor;

use etherparse::{IpFragOffset, PacketBuilder};
use proptest::prelude::*;
use serde_json::Value;

use super::capture::tests::{Order, enhanced, interface, option, pcap, section};
use super::*;
use crate::model;

const POLICY: &str = r#"
    version = 1
    [gateway]
    connections = 1024
    connections_v6 = 1024
    [ports.lan]
    interface = "eth1"
    [ports.servers]
    interface = "eth2"
    [segments.office]
    port = "lan"
    networks = ["10.1.0.0/24"]
    [segments.servers]
    port = "servers"
    networks = ["10.2.0.0/24"]
    protect = "syn-cookies"
    [[rule]]
    name = "web"
    from = "office"
    to = "servers"
    services = ["tcp/443", "udp/53"]
    [[rule]]
    name = "no-telnet"
    from = "office"
    to = "servers"
    services = ["tcp/23"]
    action = "reject"
"#;

const OFFICE: [u8; 4] = [10, 1, 0, 5];
const SERVER: [u8; 4] = [10, 2, 0, 5];
const AT: u64 = 1_700_000_000_000_000_000;

fn ethernet(from: [u8; 4], to: [u8; 4]) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 7, 7, 7, 7, from[1]], [2, 9, 9, 9, 9, to[1]]).ipv4(from, to, 64)
}

fn tcp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), flags: &str, numbers: (u32, u32)) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(ports.0, ports.1, numbers.0, 65_000);
    header.syn = flags.contains('S');
    header.ack = flags.contains('A');
    header.acknowledgment_number = numbers.1;
    let mut frame = Vec::new();
    ethernet(from, to).tcp_header(header).write(&mut frame, &[]).unwrap();
    frame
}

fn udp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet(from, to).udp(ports.0, ports.1).write(&mut frame, payload).unwrap();
    frame
}

/// The two pieces of a UDP datagram of 200 bytes.
fn pieces(from: [u8; 4], to: [u8; 4], port: u16, identification: u16) -> [Vec<u8>; 2] {
    let whole = udp(from, to, (5000, port), &[7; 192]);
    [(0, 104, true), (104, 200, false)].map(|(start, end, more)| {
        let mut ip = etherparse::Ipv4HeaderSlice::from_slice(&whole[14..]).unwrap().to_header();
        ip.identification = identification;
        ip.dont_fragment = false;
        ip.more_fragments = more;
        ip.fragment_offset = IpFragOffset::try_new(start as u16 / 8).unwrap();
        ip.set_payload_len(end - start).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = whole[..14].to_vec();
        ip.write(&mut frame).unwrap();
        frame.extend(&whole[34 + start..34 + end]);
        frame
    })
}

fn replay_of(policy: &str, against: Option<&str>, options: Options) -> Replay {
    let parse = |text: &str| model::parse("test", text).unwrap();
    Replay::new(parse(policy), against.map(parse), options).unwrap()
}

/// The lines of a capture file.
fn lines(replay: &mut Replay, file: Vec<u8>) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut capture = Capture::new(Cursor::new(file)).unwrap();
    replay.capture(&mut capture, |line| lines.push(line)).unwrap();
    let tally = &replay.tally;
    let judged = tally.read - tally.left_out();
    assert_eq!(judged, tally.forwarded + tally.refused + tally.held, "every packet has one fate: {tally:?}");
    lines
}

/// A pcap with a millisecond between packets.
fn capture_of(frames: &[Vec<u8>]) -> Vec<u8> {
    let stamped = (0..).map(|index| AT + index * 1_000_000);
    let packets: Vec<_> = stamped.zip(frames).map(|(at, f)| (at, &f[..], f.len() as u32)).collect();
    pcap(Order::Little, false, 1, &packets)
}

fn verdicts(lines: &[Value]) -> Vec<String> {
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    lines.iter().map(|l| ["verdict", "reason", "rule"].map(|key| word(l, key)).join(" ")).collect()
}

#[test]
fn a_capture_gets_the_verdicts_of_the_running_gateway() {
    let ports = (40_000, 443);
    let back = (443, 40_000);
    let frames = [
        tcp(OFFICE, SERVER, ports, "S", (100, 0)),
        tcp(SERVER, OFFICE, back, "SA", (500, 101)),
        tcp(OFFICE, SERVER, ports, "A", (101, 501)),
        tcp(OFFICE, SERVER, ports, "A", (9_000_000, 501)),
        tcp(OFFICE, SERVER, (40_001, 22), "S", (1, 0)),
        tcp(OFFICE, SERVER, (40_002, 23), "S", (1, 0)),
        tcp(SERVER, OFFICE, (22, 40_003), "A", (1, 1)),
        tcp([192, 0, 2, 1], SERVER, (40_004, 443), "S", (1, 0)),
        b"too short".to_vec(),
    ];
    let mut replay = replay_of(POLICY, None, Options::default());
    let lines = lines(&mut replay, capture_of(&frames));
    let expected = [
        "forward - web",
        "forward - web",
        "forward - web",
        "drop tcp_out_of_window web",
        "drop no_rule -",
        "answer rule_rejected no-telnet",
        "drop no_connection -",
        "drop spoofed_source -",
        "drop ethernet_truncated -",
    ];
    assert_eq!(verdicts(&lines), expected);
    assert_eq!((lines[1]["from"].as_str(), lines[1]["to"].as_str()), (Some("office"), Some("servers")));
    assert_eq!(lines[1]["ts"], "2023-11-14T22:13:20.001Z");
    assert_eq!((replay.tally.forwarded, replay.tally.refused), (3, 6));
    let groups = replay.tally.groups();
    assert_eq!((groups[0].packets, groups[0].opened), (3, 1));
    assert_eq!(groups[0].samples[0], "#1 tcp 10.1.0.5:40000 → 10.2.0.5:443");
}

#[test]
fn the_clock_is_the_capture_s() {
    // A UDP connection without an answer is over after two minutes: the reply that comes later finds none.
    for (pause_s, expected) in [(100, "forward - web"), (130, "drop no_rule -")] {
        let (there, back) = (udp(OFFICE, SERVER, (5000, 53), b"?"), udp(SERVER, OFFICE, (53, 5000), b"!"));
        let packets =
            [(AT, &there[..], there.len() as u32), (AT + pause_s * 1_000_000_000, &back, back.len() as u32)];
        let mut replay = replay_of(POLICY, None, Options::default());
        let lines = lines(&mut replay, pcap(Order::Big, true, 1, &packets));
        assert_eq!(verdicts(&lines)[1], expected, "after {pause_s} s");
    }
}

#[test]
fn a_rule_holds_at_its_time_of_the_capture() {
    let policy = POLICY.replace("name = \"web\"", "name = \"web\"\nexpires = 2023-11-14T22:13:30Z");
    let syn = |port| tcp(OFFICE, SERVER, (port, 443), "S", (100, 0));
    let frames = [syn(40_000), tcp(SERVER, OFFICE, (443, 40_000), "SA", (500, 101)), syn(40_001)];
    let at = [0, 11, 12].map(|s| AT + s * 1_000_000_000);
    let packets: Vec<_> = at.iter().zip(&frames).map(|(at, f)| (*at, &f[..], f.len() as u32)).collect();
    let mut replay = replay_of(&policy, None, Options::default());
    let lines = lines(&mut replay, pcap(Order::Little, true, 1, &packets));
    let told = verdicts(&lines);
    assert!(told[0] == "forward - web" && told[1] == "drop expired web", "{told:?}");
    assert_eq!(told[2], "drop outside_schedule web");
}

#[test]
fn fragments_wait_and_share_the_fate_of_their_datagram() {
    let [first, second] = pieces(OFFICE, SERVER, 53, 1);
    let [refused, with_it] = pieces(OFFICE, SERVER, 54, 2);
    let [alone, _] = pieces(OFFICE, SERVER, 53, 3);
    let mut replay = replay_of(POLICY, None, Options::default());
    let lines = lines(&mut replay, capture_of(&[first, refused, second, with_it, alone]));
    let expected = ["wait - -", "wait - -", "forward - web", "drop no_rule -", "wait - -"];
    assert_eq!(verdicts(&lines), expected);
    assert_eq!((lines[2]["fragments"].as_u64(), lines[3]["fragments"].as_u64()), (Some(2), Some(2)));
    assert_eq!((replay.tally.forwarded, replay.tally.refused, replay.tally.held), (2, 2, 1));
}

#[test]
fn what_the_capture_cut_off_or_the_card_fills_in_does_not_count_against_a_packet() {
    let mut frame = udp(OFFICE, SERVER, (5000, 53), &[3; 300]);
    let whole = frame.len() as u32;
    let run = |bytes: &[u8], options: Options| {
        let mut replay = replay_of(POLICY, None, options);
        let lines = lines(&mut replay, pcap(Order::Little, false, 1, &[(AT, bytes, whole)]));
        (verdicts(&lines).join(","), replay.tally.cut, replay.tally.too_short)
    };
    assert_eq!(run(&frame[..60], Options::default()), ("forward - web".to_owned(), 1, 0));
    for cut in [41, 38, 34, 33, 14, 3, 0] {
        assert_eq!(run(&frame[..cut], Options::default()), (String::new(), 0, 1), "{cut}");
    }
    frame[40] ^= 0x55;
    assert_eq!(run(&frame, Options::default()).0, "drop udp_bad_checksum -");
    let ignore = Options { ignore_checksums: true, ..Options::default() };
    assert_eq!(run(&frame, ignore).0, "forward - web");
}

#[test]
fn interfaces_of_a_pcapng_are_ports_and_what_leaves_is_not_judged_again() {
    let order = Order::Little;
    let syn = tcp(OFFICE, SERVER, (40_000, 443), "S", (100, 0));
    let spoofed = tcp(SERVER, [10, 2, 0, 9], (40_000, 443), "S", (100, 0));
    let outbound = option(order, 2, &[2, 0, 0, 0]);
    let file = |names: [&str; 2]| {
        let blocks = [
            section(order),
            interface(order, 1, names[0], &[]),
            interface(order, 1, names[1], &[]),
            enhanced(order, 0, AT / 1000, &syn, &[]),
            enhanced(order, 1, AT / 1000, &syn, &[]),
            enhanced(order, 0, AT / 1000, &syn, &outbound),
            enhanced(order, 0, AT / 1000, &spoofed, &[]),
        ];
        blocks.concat()
    };
    let by_name = Options::default();
    let ports = [("enp3", "lan"), ("enp4", "servers")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let mapped = Options { ports: ports.into(), ..Options::default() };
    for (names, options) in [(["eth1", "eth2"], by_name), (["enp3", "enp4"], mapped)] {
        let mut replay = replay_of(POLICY, None, options);
        let lines = lines(&mut replay, file(names));
        assert_eq!(verdicts(&lines), ["forward - web", "drop spoofed_source -"]);
        assert_eq!((lines[0]["ingress"].as_str(), replay.tally.leaving), (Some("lan"), 2));
    }
    // Unknown interfaces: by the source's address.
    let mut replay = replay_of(POLICY, None, Options::default());
    let lines = lines(&mut replay, file(["a", "b"]));
    assert_eq!(verdicts(&lines), ["forward - web", "forward - web", "drop no_rule -"]);
    let wrong = Options { ports: vec![("a".to_owned(), "lann".to_owned())], ..Options::default() };
    let refused = Replay::new(model::parse("test", POLICY).unwrap(), None, wrong).err().unwrap();
    assert_eq!(refused, "there is no port `lann`; did you mean `lan`?");
}

#[test]
fn two_policies_are_told_apart_by_what_they_say_and_nothing_else() {
    let new = POLICY.replace("\"tcp/443\", \"udp/53\"", "\"tcp/443\", \"tcp/22\"");
    let frames = [
        tcp(OFFICE, SERVER, (40_000, 443), "S", (100, 0)),
        tcp(OFFICE, SERVER, (40_001, 22), "S", (1, 0)),
        udp(OFFICE, SERVER, (5000, 53), b"?"),
        udp(SERVER, OFFICE, (53, 5000), b"!"),
    ];
    let mut replay = replay_of(&new, Some(POLICY), Options::default());
    let told = lines(&mut replay, capture_of(&frames));
    let numbers: Vec<_> = told.iter().map(|line| line["packet"].as_u64().unwrap()).collect();
    assert_eq!((numbers, replay.tally.same, replay.tally.differences()), (vec![2, 3, 4], 1, 3));
    assert_eq!((&told[0]["new"]["rule"], &told[0]["old"]["reason"]), (&"web".into(), &"no_rule".into()));
    assert_eq!(told[1]["new"]["reason"], "no_rule");
    assert_eq!(
        (&told[2]["old"]["verdict"], &told[2]["new"]["reason"]),
        (&"forward".into(), &"no_rule".into())
    );
    let mut same = replay_of(POLICY, Some(POLICY), Options::default());
    assert!(lines(&mut same, capture_of(&frames)).is_empty() && same.tally.differences() == 0);
}

#[test]
fn recorded_connections_are_questions() {
    let event = |kind: &str, port: u16, ingress: &str| {
        format!(
            r#"{{"ts":"2026-11-27T10:00:00.000Z","kind":"{kind}","protocol":"tcp","source":"10.1.0.5","source_port":4000,"destination":"10.2.0.5","destination_port":{port},"ingress":"{ingress}","rule":null,"reason":null}}"#
        )
    };
    let file = [
        event("opened", 443, "lan"),
        event("denied", 23, "gone"),
        event("closed", 443, "lan"),
        event("opened", 443, "servers"),
    ];
    let mut replay = replay_of(POLICY, None, Options::default());
    let mut lines = Vec::new();
    replay.events(&mut Events::new(file.join("\n").as_bytes()), |line| lines.push(line)).unwrap();
    assert_eq!(
        verdicts(&lines),
        ["forward - web", "answer rule_rejected no-telnet", "drop spoofed_source -"]
    );
    assert_eq!((replay.tally.read, replay.tally.ended), (3, 1));
    assert_eq!((&lines[1]["recorded"]["kind"], &lines[1]["line"]), (&"denied".into(), &2.into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_packet_has_one_fate_whatever_the_frames(
        frames in proptest::collection::vec((0usize..9, 0usize..80, any::<u8>(), 0u64..4_000_000_000), 1..60)
    ) {
        let [first, second] = pieces(OFFICE, SERVER, 53, 1);
        let [third, fourth] = pieces(OFFICE, SERVER, 54, 2);
        let kinds = [
            tcp(OFFICE, SERVER, (40_000, 443), "S", (100, 0)),
            tcp(SERVER, OFFICE, (443, 40_000), "SA", (500, 101)),
            tcp(OFFICE, SERVER, (40_000, 23), "S", (100, 0)),
            udp(OFFICE, SERVER, (5000, 53), b"?"),
            udp(SERVER, OFFICE, (53, 5000), b"!"),
            first, second, third, fourth,
        ];
        let mut at = AT;
        let damaged: Vec<_> = frames.iter().map(|&(kind, place, value, pause)| {
            at += pause;
            let mut frame = kinds[kind].clone();
            if place < frame.len() && place > 30 {
                frame[place] = value;
            }
            (at, frame)
        }).collect();
        let packets: Vec<_> = damaged.iter().map(|(at, f)| (*at, &f[..], f.len() as u32)).collect();
        let mut replay = replay_of(POLICY, None, Options::default());
        // `lines` compares the sums.
        prop_assert_eq!(lines(&mut replay, pcap(Order::Little, true, 1, &packets)).len(), frames.len());
    }
}
