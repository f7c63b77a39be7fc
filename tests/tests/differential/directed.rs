//! One case or more for each class of the ledger.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bulkhead_tests::craft::{PADDING, changed, damaged, transport, with_extensions, with_ipv4_options};
use bulkhead_tests::dialogue::{Segment, WINDOW, ack, data, fin, rst, segment, syn, syn_ack};
use bulkhead_tests::frames::{ETHERNET_BYTES, Family, Path, flags, fragment_v6, piece, pieces};

use crate::ledger;
use crate::twins::{BACK, Twin, Twins};

use Family::{V4, V6};

/// Zones as frames are sent from them.
const CLIENT: usize = 0;
const SERVER: usize = 1;
/// Initial sequence numbers of both.
const OWN: u32 = 100_000;
const ITS: u32 = 500_000;

/// What a case is made of.
struct Ends<'t> {
    twins: &'t Twins,
    family: Family,
    there: Path,
    back: Path,
    /// The client's port, which no other case has.
    port: u16,
}

/// Who sends which frame.
type Step = (usize, Vec<u8>);

impl Ends<'_> {
    fn tcp(&self, from: usize, segment: Segment) -> Step {
        let ports = [self.port, 80];
        (from, tcp(&[self.there, self.back][from], (ports[from], ports[1 - from]), segment))
    }

    /// SYN, SYN-ACK, ACK.
    fn open(&self) -> Vec<Step> {
        vec![
            self.tcp(CLIENT, syn(OWN)),
            self.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            self.tcp(CLIENT, ack(OWN + 1, ITS + 1)),
        ]
    }

    /// An open connection, and then these.
    fn opened(&self, segments: &[(usize, Segment)]) -> Vec<Step> {
        let more = segments.iter().map(|(from, segment)| self.tcp(*from, segment.clone()));
        self.open().into_iter().chain(more).collect()
    }

    fn name(&self) -> Vec<u8> {
        self.there.udp(self.port, 53, b"0123456789")
    }

    /// One packet of the client, from this address, that opens a connection.
    fn with_source_text(&self, source: &str) -> Vec<Step> {
        self.with_source(source.parse().expect("an address"))
    }

    fn with_source(&self, source: IpAddr) -> Vec<Step> {
        vec![(CLIENT, Path { source, ..self.there }.udp(self.port, 53, b"name"))]
    }

    /// The server, or a router beside it, sends an error about a packet of the client's that has crossed.
    fn error(&self, (kind, code): (u8, u8), word: u32, about: &[u8]) -> Step {
        let quoted = &about[ETHERNET_BYTES..about.len().min(ETHERNET_BYTES + 500)];
        (SERVER, self.back.icmp(kind, code, word.to_be_bytes(), quoted))
    }

    fn unreachable(&self, about: &[u8]) -> Step {
        self.error(if self.family == V4 { (3, 3) } else { (1, 4) }, 0, about)
    }
}

/// The frame of a segment.
fn tcp(path: &Path, ports: (u16, u16), segment: Segment) -> Vec<u8> {
    let mut header = segment.header;
    (header.source_port, header.destination_port) = ports;
    path.tcp_header(header, &segment.payload)
}

/// One difference: both gateways do the same with every step but the last.
struct Case {
    class: &'static str,
    families: &'static [Family],
    steps: fn(&Ends<'_>) -> Vec<Step>,
}

const BOTH: &[Family] = &Family::BOTH;

macro_rules! cases {
    ($($class:literal $families:expr, $steps:expr;)*) => {
        &[$(Case { class: $class, families: $families, steps: $steps }),*]
    };
}

const CASES: &[Case] = cases! {
    "own-source" &[V6], |ends| ends.with_source(ends.twins.own_address(SERVER, V6));
    "foreign-source" BOTH, |ends| ends.with_source_text(if ends.family == V4 { "192.0.2.9" } else { "2001:db8::9" });
    "foreign-source" BOTH, |ends| ends.with_source(ends.twins.address(SERVER, ends.family, 1));
    "broadcast-source" &[V4], |ends| ends.with_source_text("10.2.0.0");
    "reserved-source" &[V4], |ends| ends.with_source_text("240.0.0.1");
    "reserved-source" &[V4], |ends| ends.with_source_text("169.254.0.1");
    "reserved-source" &[V6], |ends| ends.with_source_text("4000::1");
    "reserved-source" &[V6], |ends| ends.with_source_text("::ffff:10.1.0.77");
    "land" BOTH, |ends| ends.with_source(ends.there.destination);
    "group-mac-source" BOTH, |ends| {
        let path = Path { from: [1, 0, 0x5e, 0, 0, 1], ..ends.there };
        vec![(CLIENT, path.udp(ends.port, 53, b"name"))]
    };
    "port-zero" BOTH, |ends| vec![(CLIENT, ends.there.udp(0, 53, b"name"))];
    "port-zero" BOTH, |ends| vec![(CLIENT, tcp(&ends.there, (0, 80), syn(OWN)))];
    "reserved-flag" &[V4], |ends| vec![(CLIENT, changed(&ends.name(), ETHERNET_BYTES + 6, &[0x80]))];
    "ipv4-option" &[V4], |ends| with_option(ends, &[7, 7, 4, 0, 0, 0, 0]);
    "ipv4-option" &[V4], |ends| with_option(ends, &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    "ipv4-option" &[V4], |ends| with_option(ends, &[148, 4, 0, 0]);
    "ipv4-option" &[V4], |ends| with_option(ends, &[222, 4, 0, 0]);
    "ipv6-option" &[V6], |ends| vec![(CLIENT, with_extensions(&ends.name(), &[(60, &[0xc9, 4, 0, 0, 0, 0])]))];
    "ipv6-option" &[V6], |ends| vec![(CLIENT, with_extensions(&ends.name(), &[(60, &[0x1e, 4, 0, 0, 0, 0])]))];
    "ipv6-option" &[V6], |ends| vec![(CLIENT, with_extensions(&ends.name(), &[(0, &[0x1e, 4, 0, 0, 0, 0])]))];
    "extension-order" &[V6], |ends| vec![(CLIENT, with_extensions(&ends.name(), &[(60, PADDING); 2]))];
    "extension-order" &[V6], |ends| vec![(CLIENT, with_extensions(&ends.name(), &[(60, PADDING); 30]))];
    "extension-order" &[V6], |ends| {
        vec![(CLIENT, with_extensions(&ends.name(), &[(60, PADDING), (0, PADDING)]))]
    };
    "extension-bytes" &[V6], |ends| vec![(CLIENT, with_extensions(&ends.name(), &[(60, &[0; 262])]))];
    "nested-fragment" &[V6], |ends| vec![(CLIENT, fragment_v6(&fragment_v6(&ends.name(), 0), 0))];
    "fragments-again" BOTH, |ends| {
        let once = pieces(&ends.name(), ends.port.into(), 8);
        [&once[..], &once].concat().into_iter().map(|piece| (CLIENT, piece)).collect()
    };
    "after-overlap" BOTH, |ends| {
        let (frame, id) = (ends.name(), u32::from(ends.port));
        let bad = [piece(&frame, id, 0..16, true), piece(&frame, id, 8..18, false)];
        let good = pieces(&frame, id, 8);
        bad.into_iter().chain(good).map(|piece| (CLIENT, piece)).collect()
    };
    "middle-of-a-connection" BOTH, |ends| vec![ends.tcp(CLIENT, ack(OWN, ITS))];
    "middle-of-a-connection" BOTH, |ends| vec![ends.tcp(CLIENT, data(OWN, ITS, 10))];
    "wrong-syn-ack" BOTH, |ends| {
        vec![ends.tcp(CLIENT, syn(OWN)), ends.tcp(SERVER, syn_ack(ITS, OWN - 500))]
    };
    "wrong-syn-ack" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, syn_ack(ITS + 5, OWN + 1)),
        ]
    };
    "wrong-syn-ack" BOTH, |ends| ends.opened(&[(SERVER, syn_ack(ITS, OWN + 1).with(100))]);
    "wrong-syn-ack" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN).with(100)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 101)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
        ]
    };
    "data-for-a-syn" BOTH, |ends| {
        let ends = Ends { port: ends.port % 1000 + BACK.start, ..*ends };
        let steps = [(CLIENT, syn(OWN)), (SERVER, syn(ITS)), (SERVER, ack(ITS * 7, OWN + 1))];
        steps.map(|(from, segment)| ends.tcp(from, segment)).to_vec()
    };
    "new-crossed-syn" BOTH, |ends| {
        let ends = Ends { port: ends.port % 1000 + BACK.start, ..*ends };
        let steps = [(CLIENT, syn(OWN)), (SERVER, syn(ITS)), (CLIENT, syn(OWN + 1))];
        steps.map(|(from, segment)| ends.tcp(from, segment)).to_vec()
    };
    "wrong-third-step" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS - 100)),
        ]
    };
    "reset-for-a-syn" BOTH, |ends| vec![ends.tcp(CLIENT, syn(OWN)), ends.tcp(SERVER, rst(ITS))];
    "both-restart" BOTH, |ends| {
        ends.opened(&[(CLIENT, syn(OWN * 7)), (SERVER, syn_ack(ITS * 7, OWN * 7 + 1))])
    };
    "both-restart" BOTH, |ends| {
        ends.opened(&[(CLIENT, syn(OWN * 7)), (SERVER, segment(flags::RST | flags::ACK, 0, OWN * 7 + 1))])
    };
    "after-a-restart" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, syn(OWN * 7)),
            (SERVER, segment(flags::RST | flags::ACK, 0, OWN * 8)),
            (CLIENT, data(OWN + 1, ITS + 1, 10)),
        ])
    };
    "late-syn-ack" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, fin(OWN + 1, ITS + 1)),
            (SERVER, fin(ITS + 1, OWN + 2)),
            (CLIENT, ack(OWN + 2, ITS + 2)),
            (SERVER, syn_ack(ITS, OWN + 1)),
        ])
    };
    "old-syn" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, fin(OWN + 1, ITS + 1)),
            (SERVER, fin(ITS + 1, OWN + 2)),
            (CLIENT, ack(OWN + 2, ITS + 2)),
            (CLIENT, syn(OWN)),
        ])
    };
    "opposite-syn" BOTH, |ends| vec![ends.tcp(CLIENT, syn(OWN)), ends.tcp(CLIENT, syn(OWN + 1 + (1 << 31)))];
    "split-syn-ack" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(CLIENT, syn_ack(OWN, ITS + 1)),
        ]
    };
    "believed-when-dropped" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(CLIENT, syn_ack(OWN + 5000, ITS + 2)),
            ends.tcp(CLIENT, data(OWN + 1, ITS + 1, 10)),
            ends.tcp(SERVER, ack(ITS + 1, OWN + 111)),
        ]
    };
    "believed-when-dropped" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, segment(flags::RST | flags::ACK, ITS + 5000, OWN * 9)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 1)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 4000)),
        ]
    };
    "end-of-a-reset" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS - 1, OWN + 101)),
            ends.tcp(CLIENT, rst(OWN + 5000)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 1)),
            ends.tcp(SERVER, ack(ITS + 1, OWN + 4000)),
        ]
    };
    "end-of-a-replaced-syn" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(CLIENT, syn(OWN - 1)),
            ends.tcp(SERVER, syn_ack(ITS, OWN)),
            ends.tcp(SERVER, ack(ITS + 1, OWN + 1)),
        ]
    };
    "unknown-after-a-reset" BOTH, |ends| {
        let first = u32::MAX - 100;
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, ack(first, OWN - 7)),
            ends.tcp(CLIENT, rst(OWN - 7)),
            ends.tcp(SERVER, syn_ack(first, OWN + 1)),
            ends.tcp(CLIENT, ack(OWN + 1, first + 2)),
        ]
    };
    "taken-for-a-challenge" BOTH, |ends| {
        ends.opened(&[
            (SERVER, fin(ITS + 1, OWN + 1)),
            (SERVER, fin(ITS + 1, OWN + 1)),
            (CLIENT, syn(OWN + 5000)),
            (SERVER, ack(ITS + 2, OWN + 5001)),
        ])
    };
    "taken-for-a-challenge" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, segment(flags::RST | flags::ACK, ITS + 20_000, OWN + 101)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, data(ITS + 1 + 20_000, OWN + 1, 10)),
        ]
    };
    "old-after-a-new-syn" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, rst(OWN + 1)),
            (SERVER, ack(ITS + 1, OWN + 1)),
            (CLIENT, syn(OWN + 9000)),
            (CLIENT, ack(OWN + 1, ITS + 1)),
        ])
    };
    "old-after-a-new-syn" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, data(ITS + 1, OWN + 1, 500)),
            ends.tcp(SERVER, rst(ITS + 501)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 501)),
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(CLIENT, data(OWN + 1, ITS + 501, 10)),
        ]
    };
    "after-reset" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, ack(ITS, OWN - 7)),
            ends.tcp(SERVER, segment(flags::RST | flags::ACK, 0, OWN + 1)),
            ends.tcp(SERVER, segment(flags::RST | flags::ACK, 0, OWN + 1)),
        ]
    };
    "inexact-reset" BOTH, |ends| ends.opened(&[(CLIENT, rst(OWN + 100))]);
    "inexact-reset" BOTH, |ends| ends.opened(&[(SERVER, rst(ITS + 100))]);
    "after-reset" BOTH, |ends| {
        let reset = ends.tcp(CLIENT, rst(OWN + 1));
        vec![ends.tcp(CLIENT, syn(OWN)), ends.tcp(SERVER, ack(ITS, OWN - 7)), reset.clone(), reset]
    };
    "after-reset" BOTH, |ends| ends.opened(&[(CLIENT, rst(OWN + 1)), (CLIENT, data(OWN + 1, ITS + 1, 10))]);
    "after-reset" BOTH, |ends| ends.opened(&[(SERVER, rst(ITS + 1)), (CLIENT, data(OWN + 1, ITS + 1, 10))]);
    "responder-originates" BOTH, |ends| vec![ends.tcp(CLIENT, syn(OWN)), ends.tcp(SERVER, syn(ITS))];
    "data-for-a-syn" BOTH, |ends| {
        vec![ends.tcp(CLIENT, syn(OWN)), ends.tcp(SERVER, data(ITS, OWN - 500, 10))]
    };
    "over-the-window" BOTH, |ends| {
        ends.opened(&[(CLIENT, data(OWN + 1 + u32::from(WINDOW) * 2 - 100, ITS + 1, 10))])
    };
    "over-the-window" BOTH, |ends| {
        ends.opened(&[(CLIENT, data(OWN + 1 + u32::from(WINDOW) - 10, ITS + 1, 11))])
    };
    "too-old" BOTH, |ends| ends.opened(&[(CLIENT, data(OWN - u32::from(WINDOW) - 66_000, ITS + 1, 10))]);
    "too-old" BOTH, |ends| ends.opened(&[(CLIENT, ack(OWN + 1, ITS - 70_000))]);
    "beyond-fin" BOTH, |ends| {
        ends.opened(&[(CLIENT, fin(OWN + 1, ITS + 1)), (CLIENT, data(OWN + 2, ITS + 1, 10))])
    };
    "redirect" &[V4], |ends| vec![(CLIENT, ends.name()), ends.error((5, 1), 0x0a02_004e, &ends.name())];
    "redirect" &[V4], |ends| vec![(CLIENT, ends.name()), ends.error((4, 0), 0, &ends.name())];
    "small-mtu" &[V4], |ends| vec![(CLIENT, ends.name()), ends.error((3, 4), 68, &ends.name())];
    "small-mtu" &[V6], |ends| vec![(CLIENT, ends.name()), ends.error((2, 0), 1279, &ends.name())];
    "short-quote" BOTH, |ends| {
        let whole = ends.name();
        let packet = &whole[..transport(ends.family) + 7];
        vec![(CLIENT, whole.clone()), ends.unreachable(packet)]
    };
    "error-again" BOTH, |ends| {
        vec![(CLIENT, ends.name()), ends.unreachable(&ends.name()), ends.unreachable(&ends.name())]
    };
    "quote-not-in-flight" BOTH, |ends| {
        let mut steps = ends.open();
        let never = ends.tcp(CLIENT, data(OWN + 90_000, ITS + 1, 10)).1;
        steps.push(ends.unreachable(&never));
        steps
    };
    "error-code" &[V4], |ends| vec![(CLIENT, ends.name()), ends.error((3, 16), 0, &ends.name())];
    "error-code" &[V6], |ends| vec![(CLIENT, ends.name()), ends.error((1, 9), 0, &ends.name())];
    "echo-code" BOTH, |ends| {
        let kind = if ends.family == V4 { 8 } else { 128 };
        vec![(CLIENT, ends.there.icmp(kind, 1, [0, 9, 0, 1], b"ping"))]
    };
    "checksum-in-a-connection" BOTH, |ends| {
        let mut steps = ends.opened(&[(CLIENT, data(OWN + 1, ITS + 1, 10))]);
        let frame = &mut steps.last_mut().expect("five steps").1;
        let at = transport(ends.family) + 16;
        *frame = damaged(frame, at, &[!frame[at]]);
        steps
    };
    "urgent" BOTH, |ends| {
        let mut reset = rst(OWN + 1);
        reset.header.urg = true;
        ends.opened(&[(CLIENT, reset)])
    };
    "reset-with-any-ack" BOTH, |ends| ends.opened(&[(SERVER, segment(flags::RST | flags::ACK, ITS + 1, OWN + 9000))]);
    "reset-with-any-ack" BOTH, |ends| ends.opened(&[(CLIENT, segment(flags::RST | flags::ACK, OWN + 1, ITS * 9))]);
    "smaller-syn" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN + 14_000_000)),
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, fin(ITS + 1, OWN + 1)),
        ]
    };
    "smaller-syn" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN + 14_000_000)),
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, data(ITS + 1, OWN + 1, 10)),
            ends.tcp(SERVER, fin(ITS + 11, OWN + 1)),
        ]
    };
    "open-after-a-reset" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, ack(ITS, OWN - 7)),
            ends.tcp(CLIENT, rst(OWN - 7)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 1)),
        ]
    };
    "open-after-a-reset" BOTH, |ends| {
        let challenge = ends.tcp(SERVER, ack(ITS, OWN + 100));
        vec![ends.tcp(CLIENT, syn(OWN)), challenge.clone(), ends.tcp(CLIENT, rst(OWN - 7)), challenge]
    };
    "old-syn-ack" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, syn(OWN)),
            (SERVER, syn_ack(ITS - 50_000, OWN + 1)),
            (SERVER, data(ITS + 1, OWN + 1, 10)),
        ])
    };
    "misled-when-dropped" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(CLIENT, syn_ack(OWN + 98_000, ITS + 101)),
            ends.tcp(SERVER, ack(ITS + 12, OWN + 1)),
        ]
    };
    "misled-when-dropped" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, segment(flags::RST | flags::ACK, ITS.wrapping_sub(1 << 31), OWN + 101)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
        ]
    };
    "misled-when-dropped" BOTH, |ends| {
        let scaled = |segment: Segment| segment.scale(Some(7));
        vec![
            ends.tcp(CLIENT, scaled(syn(OWN))),
            ends.tcp(SERVER, segment(flags::RST | flags::ACK, ITS + 1, OWN + 101)),
            ends.tcp(SERVER, scaled(syn_ack(ITS, OWN + 1))),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 1)),
            ends.tcp(SERVER, ack(ITS + 1, OWN + 1)),
            ends.tcp(CLIENT, data(OWN + 1 + 2 * u32::from(WINDOW), ITS + 1, 10)),
        ]
    };
    "handshake-again" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, data(OWN + 1, ITS + 1, 1400)),
            (SERVER, ack(ITS + 1, OWN + 1401)),
            (CLIENT, syn(OWN)),
            (SERVER, syn_ack(ITS, OWN + 1)),
            (SERVER, ack(ITS + 1, OWN + 1401)),
        ])
    };
    "reset-after-an-ignored-fin" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, data(ITS + 1, OWN + 1, 100)),
            ends.tcp(SERVER, fin(ITS + 101, OWN + 1)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 102)),
            ends.tcp(SERVER, rst(ITS + 50)),
        ]
    };
    "reset-after-a-reset" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, data(OWN + 1, ITS + 1, 500)),
            (SERVER, data(ITS + 1, OWN + 1, 100)),
            (CLIENT, segment(flags::RST | flags::ACK, OWN + 501, ITS + 101)),
            (SERVER, rst(ITS + 1)),
        ])
    };
    "reset-after-a-reset" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, data(ITS + 1, OWN + 1, 500)),
            ends.tcp(SERVER, rst(ITS + 501)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 501)),
            ends.tcp(SERVER, rst(ITS + 1)),
        ]
    };
    "new-after-a-reset" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, rst(ITS + 1)),
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, ack(ITS + 1, OWN + 101)),
        ]
    };
    "new-after-a-reset" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, data(ITS + 1, OWN + 1, 500)),
            ends.tcp(SERVER, rst(ITS + 501)),
            ends.tcp(CLIENT, syn(OWN).with(100)),
            ends.tcp(SERVER, syn_ack(ITS * 3, OWN + 1)),
            ends.tcp(SERVER, ack(ITS * 3 + 1, OWN + 1)),
        ]
    };
    "window-of-an-old-segment" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, ack(OWN + 1 - 20_000, ITS + 1).window(60_000)),
            (SERVER, data(ITS + 1 + 50_000, OWN + 1, 10)),
        ])
    };
    "window-of-an-old-segment" BOTH, |ends| {
        ends.opened(&[
            (SERVER, syn_ack(ITS - 500, OWN + 1).window(60_000)),
            (CLIENT, data(OWN + 1 + 50_000, ITS + 1, 10)),
        ])
    };
    "reset-with-any-ack" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, ack(OWN + 1 - 20_000, ITS + 1).window(20_000)),
            (SERVER, fin(ITS + 1 + 15_000, OWN + 1)),
            (SERVER, segment(flags::RST | flags::ACK, ITS + 1, OWN * 9)),
        ])
    };
    "early-data" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, data(ITS + 1 + u32::from(WINDOW) - 10, OWN + 1, 10)),
        ]
    };
    "error-after-refusal" BOTH, |ends| {
        let (asks, refuses) = (ends.tcp(CLIENT, syn(OWN)), ends.tcp(SERVER, segment(flags::RST | flags::ACK, 0, OWN + 1)));
        let error = ends.unreachable(&asks.1);
        vec![asks, refuses, error]
    };
    "crossed-syns" BOTH, |ends| {
        let ends = Ends { port: ends.port % 1000 + BACK.start, ..*ends };
        let steps = [(CLIENT, syn(OWN)), (SERVER, syn(ITS)), (CLIENT, ack(OWN + 1, ITS + 1))];
        steps.map(|(from, segment)| ends.tcp(from, segment)).to_vec()
    };
    "crossed-syns" BOTH, |ends| {
        let ends = Ends { port: ends.port % 1000 + BACK.start, ..*ends };
        let steps = [
            (CLIENT, syn(OWN)),
            (SERVER, syn(ITS)),
            (CLIENT, rst(OWN + 1)),
            (SERVER, ack(ITS + 1 + u32::from(WINDOW), OWN + 1)),
        ];
        steps.map(|(from, segment)| ends.tcp(from, segment)).to_vec()
    };
    "crossed-syns" BOTH, |ends| ends.opened(&[(CLIENT, syn_ack(OWN, ITS + 1))]);
    "after-a-closing-syn" BOTH, |ends| {
        ends.opened(&[
            (SERVER, fin(ITS + 1, OWN + 1)),
            (SERVER, fin(ITS + 1, OWN + 1)),
            (CLIENT, ack(OWN + 1, ITS + 2)),
            (CLIENT, syn(OWN)),
            (SERVER, ack(ITS + 2, OWN + 1)),
            (CLIENT, data(OWN + 1, ITS + 2, 10)),
        ])
    };
    "after-a-closing-syn" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, fin(OWN + 1, ITS + 1)),
            (SERVER, ack(ITS + 1, OWN + 2)),
            (CLIENT, fin(OWN + 1, ITS + 1)),
            (SERVER, ack(ITS + 1, OWN + 2)),
            (SERVER, fin(ITS + 1, OWN + 2)),
            (CLIENT, syn(OWN * 7)),
            (SERVER, rst(ITS + 1)),
            (CLIENT, ack(OWN + 2, ITS + 1)),
        ])
    };
    "after-a-closing-syn" BOTH, |ends| {
        ends.opened(&[
            (CLIENT, fin(OWN + 1, ITS + 1)),
            (CLIENT, fin(OWN + 1, ITS + 1)),
            (CLIENT, syn(OWN)),
            (SERVER, data(ITS + 1, OWN + 2, 10)),
            (CLIENT, ack(OWN + 2, ITS + 11)),
        ])
    };
    "syn-ack-again" BOTH, |ends| {
        vec![
            ends.tcp(CLIENT, syn(OWN)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1)),
            ends.tcp(SERVER, syn_ack(ITS, OWN + 1).with(100)),
            ends.tcp(CLIENT, ack(OWN + 1, ITS + 101)),
        ]
    };
    "reset-for-a-challenge" BOTH, |ends| vec![ends.tcp(CLIENT, syn(OWN)), ends.tcp(CLIENT, rst(OWN + 500))];
    "responder-restarts" BOTH, |ends| {
        let ends = Ends { port: ends.port % 1000 + BACK.start, ..*ends };
        ends.opened(&[(SERVER, syn(ITS + 90_000))])
    };
};

fn with_option(ends: &Ends<'_>, option: &[u8]) -> Vec<Step> {
    vec![(CLIENT, with_ipv4_options(&ends.name(), option))]
}

/// Who lets the last frame of a case through; `None` when they do the same. Both must do the same with those before.
fn difference(ends: &Ends<'_>, case: &Case) -> Result<Option<Twin>, String> {
    let steps = (case.steps)(ends);
    for (number, (from, frame)) in steps.iter().enumerate() {
        let [nftables, bulkhead] = ends.twins.send(*from, frame);
        if number + 1 == steps.len() {
            return match (nftables.len(), bulkhead.len()) {
                _ if nftables == bulkhead => Ok(None),
                (1.., 0) => Ok(Some(Twin::Nftables)),
                (0, 1..) => Ok(Some(Twin::Bulkhead)),
                _ => Err(format!("other packets came out: {nftables:02x?} and {bulkhead:02x?}")),
            };
        }
        if nftables != bulkhead {
            return Err(format!("step {number}: {nftables:02x?} and {bulkhead:02x?}"));
        }
    }
    Err("no steps".to_owned())
}

#[test]
fn every_class_of_the_ledger_is_seen_and_is_as_the_ledger_says() {
    let Some(twins) = Twins::start() else { return };
    let classes = ledger::classes();
    let shown: BTreeSet<_> = CASES.iter().map(|case| case.class).collect();
    assert_eq!(shown, classes.keys().copied().collect(), "every class of the ledger has a case");
    let mut failures = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        for family in case.families {
            let port = 10_000 + number as u16 * 2 + u16::from(*family == V6);
            let [there, back] = [CLIENT, SERVER].map(|zone| twins.path(zone, *family));
            let ends = Ends { twins: &twins, family: *family, there, back, port };
            twins.set_loose(case.class == "middle-of-a-connection");
            match difference(&ends, case) {
                Ok(Some(twin)) if twin == classes[case.class] => {}
                other => failures.push(format!("case {number}, {} {family:?}: {other:?}", case.class)),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
