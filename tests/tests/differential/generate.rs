//! Random packets that could be a connection's, or nearly so.

use bulkhead_tests::craft::{PADDING, changed, damaged, transport, with_extensions, with_ipv4_options};
use bulkhead_tests::dialogue::{Segment, ack, data, fin, rst, segment, syn, syn_ack};
use bulkhead_tests::frames::{ETHERNET_BYTES, Family, Path, piece, pieces};
use etherparse::{TcpHeader, TcpOptionElement};

use crate::cause::Causes;
use crate::conntrack::{Conntrack, Fate};
use crate::dice::Dice;
use crate::story::{Story, length};
use crate::twins::{BACK, Twins};

/// Where a connection's ports come from.
const SERVICE: [u16; 2] = [80, 53];

/// Ports that are like a connection's and no other connection's.
const OTHERS: u16 = 20_000;

/// What is wrong or rare about a packet, whatever its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// A wrong transport checksum.
    Checksum,
    /// From an address that is not behind the port.
    ForeignSource,
    /// The reserved IPv4 flag.
    ReservedFlag,
    /// An IPv4 option other than padding.
    Option,
    /// IPv6 extension headers, repeated.
    Extensions,
    /// Port 0.
    PortZero,
    /// An error's code that is not assigned.
    ErrorCode,
    /// A redirect or source quench.
    Redirect,
    /// An MTU that every link carries.
    SmallMtu,
    /// An echo with a code.
    EchoCode,
    /// A fragment of a datagram of which all fragments were sent before.
    Again,
    /// A fragment of a datagram of which two have overlapped before.
    Overlap,
}

/// What a packet carries.
#[derive(Clone, Debug)]
pub enum Body {
    /// A TCP segment.
    Tcp(Segment),
    /// A UDP datagram.
    Udp,
    /// An echo request or reply.
    Echo,
    /// An ICMP error about an earlier packet, or one that could have been.
    Error {
        /// The packet.
        about: Box<Packet>,
        /// How many bytes of it are quoted.
        quoted: usize,
    },
}

/// One packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The zone that sends it.
    pub from: usize,
    /// What it carries.
    pub body: Body,
    /// What is wrong with it.
    pub oddity: Option<Oddity>,
    /// Its frame, if it was sent in one.
    pub whole: Vec<u8>,
    /// Whether it travels in fragments of which one is lost, or the first has not the TCP header that it must have in
    /// IPv6 (RFC 7112).
    pub is_broken: bool,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
    Echo,
}

/// A connection in the making.
pub struct Connection {
    pub kind: Kind,
    pub family: Family,
    /// By zone.
    pub ports: [u16; 2],
    pub originator: usize,
    paths: [Path; 2],
    /// Other sources that its packets may have: a neighbour in the same zone, and an address of the other zone.
    others: [[Path; 2]; 2],
    /// The next sequence number of each end.
    next: [u32; 2],
    /// What each end expects from the other, once it has got its SYN.
    got: [Option<u32>; 2],
    finished: [bool; 2],
    windows: [u16; 2],
    shifts: [Option<u8>; 2],
    log: Vec<Packet>,
    /// Identifications for fragments, none of which any other connection has: IPv4 has few enough to run into others'.
    identifications: std::ops::Range<u32>,
    /// The packets that both gateways have let an error pass about: by sender and the first eight bytes of transport.
    pub told: Vec<(usize, [u8; 8])>,
    pub story: Story,
    pub conntrack: Conntrack,
    pub causes: Causes,
}

impl Connection {
    /// A new one; no two of the same number have a port in common.
    pub fn new(twins: &Twins, dice: &mut Dice, number: u16) -> Connection {
        let family = dice.pick(&Family::BOTH);
        let kind = dice.pick(&[Kind::Tcp, Kind::Tcp, Kind::Tcp, Kind::Tcp, Kind::Udp, Kind::Echo]);
        let back = BACK.start + number % (BACK.end - BACK.start);
        let (originator, ports) = match (kind, dice.below(4)) {
            (Kind::Tcp, 0) => (1, [back, 20_000 + number]),
            (Kind::Tcp, 1) => (0, [back, SERVICE[0]]),
            (Kind::Tcp, _) => (0, [BACK.end + 1000 + number, SERVICE[0]]),
            (Kind::Udp, _) => (0, [BACK.end + 1000 + number, SERVICE[1]]),
            (Kind::Echo, _) => (0, [number; 2]),
        };
        let near = |zone: usize| Path { source: twins.address(zone, family, 1), ..twins.path(zone, family) };
        let far =
            |zone: usize| Path { source: twins.address(1 - zone, family, 1), ..twins.path(zone, family) };
        let initial = |dice: &mut Dice| match dice.below(3) {
            0 => dice.any() as u32,
            1 => u32::MAX - dice.below(3000) as u32,
            _ => (1 << 31) - dice.below(3000) as u32,
        };
        Connection {
            kind,
            family,
            ports,
            originator,
            paths: [twins.path(0, family), twins.path(1, family)],
            others: [[near(0), far(0)], [near(1), far(1)]],
            next: [initial(dice), initial(dice)],
            got: [None; 2],
            finished: [false; 2],
            windows: [0; 2].map(|_| dice.pick(&[500, 10_000, 65_535])),
            shifts: [0; 2].map(|_| dice.pick(&[None, None, Some(0), Some(3), Some(7)])),
            log: Vec::new(),
            identifications: u32::from(number) * 16..u32::from(number) * 16 + 16,
            told: Vec::new(),
            story: Story::default(),
            conntrack: Conntrack::default(),
            causes: Causes::default(),
        }
    }

    /// Whether a rule lets this end begin.
    pub fn may_originate(&self, zone: usize) -> bool {
        if zone == 0 { self.ports[1] == SERVICE[0] } else { BACK.contains(&self.ports[0]) }
    }

    /// The next packet, of whatever kind, and how it travels: in one frame or in fragments.
    pub fn packet(&mut self, dice: &mut Dice) -> (Packet, Vec<Vec<u8>>) {
        let mut packet = match self.kind {
            _ if dice.percent(7) && !self.log.is_empty() => self.error(dice),
            Kind::Tcp => self.segment(dice),
            Kind::Udp => self.datagram(dice),
            Kind::Echo => self.echo(dice),
        };
        if packet.oddity.is_none() && packet.whole.len() < 1400 && dice.percent(4) {
            self.spoil(dice, &mut packet);
        }
        let frames = self.frames(dice, &mut packet);
        // What is odd may be known to nftables from another sequence: port 0 is the same in all of them.
        if self.log.len() < 100 && packet.oddity.is_none() && !matches!(packet.body, Body::Error { .. }) {
            self.log.push(packet.clone());
        }
        (packet, frames)
    }

    /// What conntrack must do with a packet, once all of it was sent; `None` if it is not one of this connection to it.
    pub fn foretold(&mut self, packet: &Packet) -> Option<Fate> {
        let Body::Tcp(segment) = &packet.body else { return None };
        let may_originate = self.may_originate(packet.from);
        match packet.oddity {
            _ if packet.is_broken => None,
            None | Some(Oddity::ReservedFlag | Oddity::Option | Oddity::Extensions | Oddity::Again) => {
                Some(self.conntrack.judge(packet.from, segment, may_originate))
            }
            _ => None,
        }
    }

    /// Both gateways have let a packet through; `reaches` says whether the other end has got it.
    pub fn passed(&mut self, packet: &Packet, reaches: bool) {
        match &packet.body {
            Body::Error { about, .. } => self.told.push(about.key()),
            Body::Tcp(segment) => {
                self.story.passes(packet.from, segment);
                let to = 1 - packet.from;
                let (seq, header) = (segment.header.sequence_number, &segment.header);
                let in_order = header.syn && self.got[to].is_none() || self.got[to] == Some(seq);
                if reaches && in_order && packet.oddity.is_none() && !header.rst {
                    self.got[to] = Some(seq.wrapping_add(length(segment)));
                }
            }
            Body::Udp | Body::Echo => {}
        }
    }

    fn tcp(&self, from: usize, segment: Segment) -> Packet {
        let mut header = segment.header.clone();
        (header.source_port, header.destination_port) = (self.ports[from], self.ports[1 - from]);
        let whole = self.paths[from].tcp_header(header, &segment.payload);
        Packet { from, body: Body::Tcp(segment), oddity: None, whole, is_broken: false }
    }

    fn segment(&mut self, dice: &mut Dice) -> Packet {
        let (from, segment) = if dice.percent(70) { self.honest(dice) } else { self.strange(dice) };
        self.tcp(from, segment)
    }

    /// What a TCP would send next; the sender takes it for sent.
    fn honest(&mut self, dice: &mut Dice) -> (usize, Segment) {
        let begun = self.story.ends[self.originator].initial.is_some();
        let from = match (begun, self.got) {
            (false, _) => self.originator,
            (true, [Some(_), Some(_)]) => dice.below(2),
            (true, got) => {
                if got[1 - self.originator].is_some() {
                    1 - self.originator
                } else {
                    self.originator
                }
            }
        };
        let answered = self.story.ends[from].initial.is_some();
        let (next, got) = (self.next[from], self.got[from]);
        let segment = match (answered, got) {
            (false, None) => self.with_options(from, syn(next)),
            (false, Some(got)) => self.with_options(from, syn_ack(next, got)),
            // Its SYN again: the answer was lost.
            (true, None) => {
                return (from, self.with_options(from, syn(self.story.ends[from].initial.unwrap_or(next))));
            }
            (true, Some(got)) if self.finished[from] => ack(next, got),
            (true, Some(got)) => match dice.below(10) {
                0 => fin(next, got).with(dice.pick(&[0, 0, 10])),
                1..=4 => ack(next, got),
                _ => {
                    let end = &self.story.ends[1 - from];
                    let room = (end.limit.wrapping_sub(next) as i32).clamp(0, 1400) as usize;
                    data(next, got, dice.pick(&[1, 100, 536, 1400]).min(room))
                }
            },
        };
        let segment = segment.window(if dice.percent(5) { 0 } else { self.windows[from] });
        self.finished[from] |= segment.header.fin;
        self.next[from] = next.wrapping_add(length(&segment));
        (from, segment)
    }

    fn with_options(&self, from: usize, segment: Segment) -> Segment {
        let segment = segment.window(self.windows[from]);
        match self.shifts[from] {
            Some(shift) => segment
                .options(&[TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(shift)]),
            None => segment,
        }
    }

    /// What a TCP would not send, or somebody else would.
    fn strange(&mut self, dice: &mut Dice) -> (usize, Segment) {
        let from = dice.below(2);
        let end = &self.story.ends[1 - from];
        let window = end.window.max(1);
        let expected = end.ack.unwrap_or(self.next[from]);
        let near = [0, 1, u32::MAX, 100, window / 2, (window / 2).wrapping_neg(), window, window + 1];
        let far = [window.wrapping_neg(), (window + 1).wrapping_neg(), 1 << 31, dice.any() as u32];
        let off = if dice.percent(75) { dice.pick(&near) } else { dice.pick(&far) };
        let base = dice.pick(&[self.next[from], expected, self.story.ends[from].end, end.limit]);
        let seq = base.wrapping_add(off);
        let its = self.got[from].unwrap_or(end.end);
        let back = [0, 0, 0, 1, u32::MAX, 100, 100_u32.wrapping_neg(), 66_000_u32.wrapping_neg()];
        let older = [66_001_u32.wrapping_neg(), 70_000_u32.wrapping_neg(), 1 << 31, dice.any() as u32];
        let acknowledged =
            its.wrapping_add(if dice.percent(80) { dice.pick(&back) } else { dice.pick(&older) });
        let bytes = dice.pick(&[0, 0, 1, 100, 1400]);
        let made = match dice.below(12) {
            10 if self.story.asked.is_some() => syn_ack(seq, self.story.asked.unwrap_or(0)),
            0 if !self.log.is_empty() => {
                let old = self.log[dice.below(self.log.len())].clone();
                if let Body::Tcp(segment) = old.body {
                    return (old.from, segment);
                }
                ack(seq, acknowledged)
            }
            1 => rst(expected),
            2 => rst(seq),
            3 => segment(4 | 16, seq, acknowledged),
            4 => {
                self.with_options(from, syn(dice.pick(&[seq, self.story.ends[from].initial.unwrap_or(seq)])))
            }
            5 => self.with_options(from, syn_ack(dice.pick(&[seq, self.next[from]]), acknowledged)),
            6 => fin(seq, acknowledged).with(bytes),
            7 => ack(self.next[from], acknowledged),
            8 => segment(dice.below(64) as u8 & 31, seq, acknowledged).with(bytes),
            9 => data(self.next[from], acknowledged, bytes),
            _ => data(seq, its, bytes),
        };
        let mut made = if dice.percent(90) { made.window(self.windows[from]) } else { made };
        made.header.urg = dice.percent(2);
        made.header.ece = dice.percent(2);
        (from, made)
    }

    fn datagram(&mut self, dice: &mut Dice) -> Packet {
        let from = dice.below(2);
        let near = self.ports.map(|port| if dice.percent(95) { port } else { port + OTHERS });
        let bytes = if self.identifications.is_empty() { 30 } else { dice.pick(&[0, 1, 30, 1400, 3000]) };
        let payload: Vec<u8> = (0..bytes).map(|at| (at / 8) as u8).chain([dice.any() as u8]).collect();
        let whole = self.paths[from].udp(near[from], near[1 - from], &payload);
        Packet { from, body: Body::Udp, oddity: None, whole, is_broken: false }
    }

    fn echo(&mut self, dice: &mut Dice) -> Packet {
        let from = dice.below(2);
        let id = if dice.percent(95) { self.ports[0] } else { self.ports[0] + OTHERS };
        let (path, seq) = (&self.paths[from], dice.below(4) as u16);
        let asks = if from == 0 { dice.percent(90) } else { dice.percent(10) };
        if dice.percent(3) {
            let kind = if self.family == Family::V4 { 8 } else { 128 };
            let [high, low] = id.to_be_bytes();
            let whole = path.icmp(kind, 1, [high, low, 0, 1], b"ping");
            return Packet {
                from,
                body: Body::Echo,
                oddity: Some(Oddity::EchoCode),
                whole,
                is_broken: false,
            };
        }
        let whole = if asks { path.echo_request(id, seq) } else { path.echo_reply(id, seq) };
        Packet { from, body: Body::Echo, oddity: None, whole, is_broken: false }
    }

    /// An error about a packet of the log, usually as a router beside its receiver would send it.
    fn error(&mut self, dice: &mut Dice) -> Packet {
        let mut about = self.log[dice.below(self.log.len())].clone();
        let from = if dice.percent(90) { 1 - about.from } else { about.from };
        if let Body::Tcp(segment) = &about.body
            && dice.percent(20)
        {
            let mut segment = segment.clone();
            let any = dice.any() as u32;
            let off = dice.pick(&[1, u32::MAX, 1400, 1400_u32.wrapping_neg(), any]);
            segment.header.sequence_number = segment.header.sequence_number.wrapping_add(off);
            about = self.tcp(about.from, segment);
        }
        let ip = &about.whole[ETHERNET_BYTES..];
        let least = self.family.header_bytes() + 8;
        let bytes = dice.pick(&[least - 1, least, least, 100, 500, 500, 500]).min(ip.len());
        let v4 = self.family == Family::V4;
        let (oddity, (kind, code), word) = match (dice.below(20), v4) {
            (0, true) => (Some(Oddity::ErrorCode), (3, 16), 0),
            (0, false) => (Some(Oddity::ErrorCode), (1, 9), 0),
            (1, true) => (Some(Oddity::Redirect), dice.pick(&[(5, 1), (4, 0)]), 0x0a02_004e),
            (2, true) => (Some(Oddity::SmallMtu), (3, 4), dice.pick(&[0, 68, 575])),
            (2, false) => (Some(Oddity::SmallMtu), (2, 0), 1279),
            (_, true) => (None, dice.pick(&[(3, 0), (3, 1), (3, 3), (3, 4), (11, 0), (12, 0)]), 1400),
            (_, false) => (None, dice.pick(&[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1)]), 1400),
        };
        let path = if dice.percent(70) { self.paths[from] } else { self.others[from][0] };
        let whole = path.icmp(kind, code, u32::to_be_bytes(word), &ip[..bytes]);
        Packet {
            from,
            body: Body::Error { about: Box::new(about), quoted: bytes },
            oddity,
            whole,
            is_broken: false,
        }
    }

    /// Makes something about a packet wrong that has nothing to do with its connection.
    fn spoil(&self, dice: &mut Dice, packet: &mut Packet) {
        let (v4, whole) = (self.family == Family::V4, &packet.whole);
        let at = transport(self.family);
        let is_tcp = matches!(packet.body, Body::Tcp(_));
        let (oddity, frame) = match dice.below(6) {
            0 if is_tcp => (Oddity::Checksum, damaged(whole, at + 16, &[!whole[at + 16]])),
            1 => (Oddity::ForeignSource, with_source(whole, &self.others[packet.from][1])),
            2 if v4 => (Oddity::ReservedFlag, changed(whole, ETHERNET_BYTES + 6, &[0x80])),
            3 if v4 => (Oddity::Option, with_ipv4_options(whole, &[7, 7, 4, 0, 0, 0, 0])),
            3 => (Oddity::Extensions, with_extensions(whole, &[(60, PADDING); 2])),
            4 if is_tcp => (Oddity::PortZero, changed(whole, at, &[0, 0])),
            _ => return,
        };
        packet.oddity = Some(oddity);
        packet.whole = frame;
    }

    /// How a packet travels.
    fn frames(&mut self, dice: &mut Dice, packet: &mut Packet) -> Vec<Vec<u8>> {
        let whole = &packet.whole;
        let content = whole.len() - transport(self.family);
        let large = whole.len() > ETHERNET_BYTES + 1500;
        let is_whole = packet.oddity.is_some() || content < 24 || !(large || dice.percent(10));
        let Some(id) = (!is_whole).then(|| self.identifications.next()).flatten() else {
            return vec![whole.clone()];
        };
        let size = if large {
            1400
        } else {
            dice.pick(&[8, 16, content.div_ceil(16) * 8]).max(content / 240 * 8 + 8)
        };
        packet.is_broken = self.family == Family::V6 && size < TcpHeader::MIN_LEN;
        let mut frames = pieces(whole, id, size);
        match dice.below(8) {
            0 => frames.reverse(),
            1 => frames.rotate_left(1),
            // A copy of one, before the last.
            2 => frames.insert(0, frames[dice.below(frames.len())].clone()),
            // One is lost.
            3 => {
                drop(frames.remove(dice.below(frames.len())));
                packet.is_broken = true;
            }
            4 => {
                packet.oddity = Some(Oddity::Again);
                frames = [&frames[..], &frames].concat();
            }
            5 => {
                packet.oddity = Some(Oddity::Overlap);
                let (bytes, id) = (content.min(size + 8), frames.clone());
                frames.insert(0, overlapping(whole, &id[0], bytes));
                frames.extend(id);
            }
            _ => {}
        }
        frames
    }
}

impl Packet {
    /// Whether we look at its connection: a wrong sum does not keep us from it (`checksum-in-a-connection`).
    pub fn is_right(&self) -> bool {
        !self.is_broken && matches!(self.oddity, None | Some(Oddity::Checksum))
    }

    /// What tells it from others: its sender, and the first eight bytes of its transport header.
    pub fn key(&self) -> (usize, [u8; 8]) {
        let family = if self.whole[12..14] == [8, 0] { Family::V4 } else { Family::V6 };
        let at = transport(family);
        (self.from, self.whole[at..at + 8].try_into().expect("every transport header has eight bytes"))
    }
}

/// A first fragment that runs into the second one.
fn overlapping(whole: &[u8], first: &[u8], bytes: usize) -> Vec<u8> {
    let id = if whole[12..14] == [8, 0] { &first[18..20] } else { &first[58..62] };
    let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
    piece(whole, id, 0..bytes, true)
}

/// The frame from another source, with right checksums.
fn with_source(frame: &[u8], path: &Path) -> Vec<u8> {
    match path.source {
        std::net::IpAddr::V4(source) => changed(frame, 26, &source.octets()),
        std::net::IpAddr::V6(source) => changed(frame, 22, &source.octets()),
    }
}
