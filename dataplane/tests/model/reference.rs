//! The slow, obvious reference: what a stateful gateway should do with a packet, written from the RFCs.
//!
//! It shares no code and no representation with the pipeline. Sequence numbers are 64-bit positions that never wrap;
//! of each end it keeps every segment that passed, and works the bounds out of that history anew for each packet; the
//! life of a connection is not a state but what has been seen of its two ends: whose SYN, whose acknowledgement of the
//! other's SYN, whose FIN.

use bulkhead_dataplane::connection::Timeouts;

use crate::packets::{Content, End, Packet, Segment};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Drop(Why),
}

/// Why a packet drops, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No rule lets this end open a connection.
    Policy,
    /// It belongs to none and can open none.
    NoConnection,
    /// TCP: not at this time, or not with these numbers.
    Tcp,
    /// An ICMP error about nothing that was sent, or not now.
    Icmp,
}

/// The life of a connection, as far as a listing tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    HalfOpen,
    Established,
    Closing,
    TimeWait,
    Reset,
    Unreplied,
    Replied,
}

/// The acknowledgements that are no older than this pass whatever the window (van Rooij: 66,000), and data that is no
/// older than this and a window.
const OLDEST: i64 = 66_000;
/// For how long a second error about the same packet is a copy, milliseconds.
const ERROR_AGAIN: u64 = 4_000;

/// A segment that passed.
#[derive(Clone, Copy)]
struct Passed {
    end: i64,
    ack: Option<i64>,
    /// Bytes.
    window: i64,
}

/// What was seen of one end of a TCP connection.
#[derive(Clone, Default)]
struct Side {
    /// The number of its SYN, its window, and the scale it offers.
    syn: Option<(i64, i64, Option<u8>)>,
    /// Whether it has acknowledged the other end's SYN.
    has_acknowledged: bool,
    has_finished: bool,
    passed: Vec<Passed>,
}

impl Side {
    /// One past the last byte that it sent.
    fn end(&self) -> i64 {
        self.passed.iter().map(|passed| passed.end).max().unwrap_or(0)
    }

    /// What it has acknowledged; before that, the number of the other's SYN.
    fn ack(&self, other: &Side) -> i64 {
        let number = other.syn.map_or(0, |(number, ..)| number);
        self.passed.iter().filter_map(|passed| passed.ack).fold(number, i64::max)
    }

    /// What the other end may send up to: the furthest it was ever granted, and one byte to probe a closed window
    /// (RFC 9293, 3.8.6.1). The window of a SYN counts from behind the other's SYN.
    fn grants(&self, other: &Side) -> i64 {
        let number = other.syn.map_or(0, |(number, ..)| number);
        let of_syn = self.syn.map_or(0, |(_, window, _)| number + 1 + window.max(1));
        let granted = self.passed.iter().filter_map(|passed| Some(passed.ack? + passed.window.max(1)));
        granted.fold(of_syn, i64::max)
    }

    /// The largest window it ever advertised. A SYN's is rounded up to what the scale can express.
    fn largest_window(&self, other: &Side) -> i64 {
        let unit = 1 << self.shift(other);
        let of_syn = self.syn.map_or(0, |(_, window, _)| (window + unit - 1) / unit * unit);
        self.passed.iter().map(|passed| passed.window / unit * unit).max().unwrap_or(0).max(of_syn).max(1)
    }

    /// The shift of its windows: none unless both SYNs offer one (RFC 7323, 1.3).
    fn shift(&self, other: &Side) -> u8 {
        let offer = |side: &Side| side.syn.and_then(|(_, _, scale)| scale);
        offer(self).filter(|_| offer(other).is_some()).unwrap_or(0)
    }
}

/// What a TCP segment does to its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Refused,
    /// It passes and tells nothing.
    Aside,
    /// It passes.
    Kept,
    /// It begins a new connection in the place of this one.
    Reopens,
}

struct Connection {
    /// Protocol number; the packet's number; and of echoes, which have one for each end, who asks.
    key: (u8, u16, Option<End>),
    originator: End,
    /// UDP and echo.
    has_reply: bool,
    /// TCP, by `End as usize`.
    sides: [Side; 2],
    /// Whether both SYNs crossed, instead of the second answering the first.
    is_simultaneous: bool,
    is_reset: bool,
    /// The ends that sent a SYN over the open connection, since when nothing has shown that it lives.
    challengers: [bool; 2],
    /// When the idle time began, milliseconds.
    since: u64,
}

/// The position nearest to another that has this number on the wire.
fn near(position: i64, number: u32) -> i64 {
    position + i64::from(number.wrapping_sub(position as u32) as i32)
}

impl Connection {
    fn side(&self, end: End) -> &Side {
        &self.sides[end as usize]
    }

    /// Whether both have sent a SYN and one of them waits for the other to acknowledge its own.
    fn is_half_open(&self) -> bool {
        let is_over = self.is_reset || self.sides.iter().any(|side| side.has_finished);
        !is_over && self.sides.iter().any(|side| !side.has_acknowledged)
    }

    /// Whether this end has acknowledged the other's SYN; once the handshake is over nobody asks any more.
    fn has_acknowledged(&self, end: End) -> bool {
        self.side(end).has_acknowledged || !self.is_half_open()
    }

    fn is_in_time_wait(&self) -> bool {
        let [a, b] = &self.sides;
        let closed = |side: &Side, other: &Side| side.has_finished && other.ack(side) >= side.end();
        !self.is_reset && closed(a, b) && closed(b, a)
    }

    fn life(&self) -> Life {
        match self.key.0 {
            6 if self.is_reset => Life::Reset,
            6 if self.is_in_time_wait() => Life::TimeWait,
            6 if self.sides.iter().any(|side| side.has_finished) => Life::Closing,
            6 if self.is_half_open() => Life::HalfOpen,
            6 => Life::Established,
            _ if self.has_reply => Life::Replied,
            _ => Life::Unreplied,
        }
    }

    fn limit(&self, timeouts: &Timeouts) -> u64 {
        u64::from(match (self.life(), self.key.0) {
            (Life::HalfOpen, _) => timeouts.tcp_handshake_ms,
            (Life::Established, _) => timeouts.tcp_established_ms,
            (Life::Closing, _) => timeouts.tcp_closing_ms,
            (Life::TimeWait, _) => timeouts.tcp_time_wait_ms,
            (Life::Reset, _) => timeouts.tcp_closed_ms,
            (Life::Unreplied, 17) => timeouts.udp_unreplied_ms,
            (Life::Replied, 17) => timeouts.udp_replied_ms,
            _ => timeouts.icmp_ms,
        })
    }

    /// The oldest data that an end may send again; 2³⁰ bytes are the largest window there is.
    fn oldest(&self, from: End) -> i64 {
        let (own, peer) = (self.side(from), self.side(from.other()));
        own.end() - (peer.largest_window(own) + OLDEST).min(1 << 30)
    }

    /// The bounds of G. van Rooij: sent within what was granted and not much older than a window; acknowledging what was
    /// sent and not much older than a window. After its FIN an end sends nothing new.
    fn is_in_window(&self, from: End, seq: i64, end: i64, ack: i64) -> bool {
        let (own, peer) = (self.side(from), self.side(from.other()));
        let furthest = if own.has_finished { own.end() } else { peer.grants(own) };
        let is_data_fine = end <= furthest && seq >= self.oldest(from);
        is_data_fine && ack <= peer.end() && ack >= peer.end() - own.largest_window(peer).max(OLDEST)
    }

    fn pass(&mut self, from: End, end: i64, ack: i64, segment: &Segment) {
        // RFC 7323, 2.2: the window of a SYN is not scaled.
        let (own, peer) = (self.side(from), self.side(from.other()));
        let shift = if segment.syn { 0 } else { own.shift(peer) };
        let window = i64::from(segment.window) << shift;
        let own = &mut self.sides[from as usize];
        own.passed.push(Passed { end, ack: Some(ack), window });
        own.has_acknowledged = true;
    }

    fn take(&mut self, from: End, segment: &Segment) -> Effect {
        let (own, peer) = (self.side(from).clone(), self.side(from.other()).clone());
        let seq = near(own.end(), segment.seq);
        let end = seq + i64::from(segment.payload) + i64::from(segment.syn) + i64::from(segment.fin);
        let ack = near(peer.end(), segment.acknowledges);
        if segment.rst {
            return self.take_reset(from, seq, segment.ack.then_some(ack));
        }
        if segment.syn {
            return match own.syn {
                _ if self.is_reset || self.is_in_time_wait() => {
                    self.take_syn_after_the_end(from, seq, segment)
                }
                // The first of this end.
                None => self.take_second_syn(from, segment, ack),
                Some(_) if segment.ack => self.take_syn_ack(from, seq, end, ack, segment),
                Some(_) => self.take_another_syn(from, seq, end, segment),
            };
        }
        if self.is_reset {
            // RFC 5961, 3: who was reset across a gap challenges that, without data.
            let both = self.sides.iter().all(|side| side.syn.is_some());
            let challenges = both && !segment.fin && segment.payload == 0;
            let fits = self.is_in_window(from, seq, end, ack);
            return if challenges && fits { Effect::Aside } else { Effect::Refused };
        }
        if peer.syn.is_none() || own.syn.is_none() {
            // RFC 5961, 4: who remembers an older connection challenges the SYN, without data.
            let challenges = from != self.originator && !segment.fin && segment.payload == 0;
            return if challenges { Effect::Aside } else { Effect::Refused };
        }
        // Who challenges a SYN that came twice sends no data, if this overtakes the SYN-ACK.
        let is_early =
            !own.has_acknowledged && !peer.has_acknowledged && (segment.fin || segment.payload > 0);
        let first_is_wrong = !self.has_acknowledged(from) && ack <= own.ack(&peer);
        if is_early && self.is_half_open() || first_is_wrong || !self.is_in_window(from, seq, end, ack) {
            return Effect::Refused;
        }
        self.pass(from, end, ack, segment);
        // RFC 9293, 3.6: a FIN is the last number of all, so one among those before is not this end's.
        self.sides[from as usize].has_finished |= segment.fin && end > own.end();
        Effect::Kept
    }

    /// RFC 9293, 3.6.1: TIME-WAIT yields to a SYN that cannot be of the old connection.
    fn take_syn_after_the_end(&self, from: End, seq: i64, segment: &Segment) -> Effect {
        let is_new = self.is_reset || !(self.oldest(from)..self.side(from).end()).contains(&seq);
        if !segment.ack && is_new { Effect::Reopens } else { Effect::Refused }
    }

    /// The SYN of the end that has not sent one yet, with an acknowledgement or (simultaneous open) without.
    fn take_second_syn(&mut self, from: End, segment: &Segment, ack: i64) -> Effect {
        let first = self.side(from.other());
        let number = first.syn.map_or(0, |(number, ..)| number);
        if segment.ack && (ack <= number || ack > first.end()) {
            return Effect::Refused;
        }
        let seq = i64::from(segment.seq);
        let mut side = Side { syn: Some((seq, i64::from(segment.window), segment.scale)), ..Side::default() };
        let ack = segment.ack.then_some(ack);
        let end = seq + 1 + i64::from(segment.payload);
        side.passed.push(Passed { end, ack, window: i64::from(segment.window) });
        side.has_acknowledged = segment.ack;
        self.sides[from as usize] = side;
        self.is_simultaneous = !segment.ack;
        Effect::Kept
    }

    /// A SYN-ACK of an end whose SYN has been seen: a retransmission, or its answer in a simultaneous open.
    fn take_syn_ack(&mut self, from: End, seq: i64, end: i64, ack: i64, segment: &Segment) -> Effect {
        let (own, peer) = (self.side(from), self.side(from.other()));
        if peer.syn.is_none() {
            return Effect::Refused;
        }
        if self.is_half_open() && from == self.originator && !self.is_simultaneous {
            return Effect::Refused;
        }
        let before = own.ack(peer);
        let is_first = !self.has_acknowledged(from);
        let fits = if self.has_acknowledged(from.other()) {
            // Nothing but what was sent before; and before its first acknowledgement that is the SYN alone, of which the
            // data of TCP Fast Open may have been acknowledged, or left out the second time.
            let is_of_syn = end == own.end() || seq + 1 == own.end() || seq + 1 == peer.ack(own);
            end <= own.end()
                && self.is_in_window(from, seq, end, ack)
                && (!is_first || ack > before && is_of_syn)
        } else {
            // Its number is known for sure, and it acknowledges no less than it did.
            let number = own.syn.map_or(0, |(number, ..)| number);
            seq == number && ack <= peer.end() && if is_first { ack > before } else { ack >= before }
        };
        if fits {
            self.pass(from, end, ack, segment);
        }
        if fits { Effect::Kept } else { Effect::Refused }
    }

    /// A SYN alone of an end whose SYN has been seen.
    fn take_another_syn(&mut self, from: End, seq: i64, end: i64, segment: &Segment) -> Effect {
        let (own, peer) = (self.side(from), self.side(from.other()));
        let number = own.syn.map_or(0, |(number, ..)| number);
        if peer.syn.is_none() {
            // Again, or of a host that started over; the data of TCP Fast Open may be left out the second time.
            let end = if seq == number { end.max(own.end()) } else { end };
            self.sides[from as usize] = first_syn(seq, end, segment);
            return Effect::Kept;
        }
        let is_again =
            end == own.end() || seq + 1 == own.end() || !self.has_acknowledged(from.other()) && seq == number;
        match (self.is_half_open(), self.is_simultaneous) {
            // RFC 5961, 4: a challenge ACK will answer.
            (false, _) => Effect::Aside,
            (true, false) if from != self.originator && !is_again => Effect::Refused,
            (true, false) if from != self.originator => Effect::Kept,
            (true, false) => Effect::Aside,
            (true, true) if is_again => Effect::Kept,
            (true, true) => Effect::Refused,
        }
    }

    fn take_reset(&mut self, from: End, seq: i64, ack: Option<i64>) -> Effect {
        let (own, peer) = (self.side(from), self.side(from.other()));
        if own.syn.is_none() || peer.syn.is_none() {
            let number = peer.syn.map_or(0, |(number, ..)| number);
            let closes = match from == self.originator {
                // Whatever answers a challenge ACK passes; only the right number takes the SYN back.
                true if self.is_reset => return Effect::Refused,
                true if seq != own.end() => return Effect::Aside,
                true => true,
                // RFC 9293, 3.10.7.3: it must acknowledge the SYN.
                false => !self.is_reset && ack.is_some_and(|ack| ack > number && ack <= peer.end()),
            };
            self.is_reset |= closes;
            return if closes { Effect::Kept } else { Effect::Refused };
        }
        // RFC 5961, 3: exactly what is expected, by what was acknowledged or by what was sent.
        let acknowledged = self.has_acknowledged(from.other()) && seq == peer.ack(own);
        // A closed socket answers late data with what that acknowledges.
        let in_window = own.end() - peer.largest_window(own)..=peer.grants(own).max(own.end());
        let exact = seq == own.end() || acknowledged;
        let fits = if own.has_finished { in_window.contains(&seq) } else { exact };
        if !fits {
            return Effect::Refused;
        }
        // RFC 1337: no reset ends TIME-WAIT.
        if !self.is_in_time_wait() {
            self.reset();
        }
        Effect::Kept
    }

    fn reset(&mut self) {
        // Who has not acknowledged the other's SYN yet expects what follows it.
        for end in End::BOTH {
            let (own, peer) = (self.side(end), self.side(end.other()));
            if let (false, Some((number, ..))) = (self.has_acknowledged(end), peer.syn) {
                let passed = Passed { end: own.end(), ack: Some(number + 1), window: 0 };
                self.sides[end as usize].passed.push(passed);
            }
        }
        (self.is_reset, self.challengers) = (true, [false; 2]);
        self.sides.iter_mut().for_each(|side| side.has_finished = false);
    }
}

fn first_syn(seq: i64, end: i64, segment: &Segment) -> Side {
    let syn = Some((seq, i64::from(segment.window), segment.scale));
    let passed = vec![Passed { end, ack: None, window: i64::from(segment.window) }];
    Side { syn, passed, ..Side::default() }
}

/// All connections between the two hosts.
pub struct Model {
    timeouts: Timeouts,
    /// Whether the server may originate as well.
    both_ways: bool,
    connections: Vec<Connection>,
    /// The packets that errors passed about, and when.
    errors: Vec<(Packet, u64)>,
}

/// What a test may aim at, of each end, as on the wire: the number behind its last byte, what it has acknowledged, how
/// far it lets the other end send, and its largest window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aim {
    pub end: u32,
    pub ack: u32,
    pub grants: u32,
    pub window: u32,
}

impl Model {
    pub fn new(both_ways: bool) -> Model {
        Model { timeouts: Timeouts::default(), both_ways, connections: Vec::new(), errors: Vec::new() }
    }

    pub fn judge(&mut self, packet: &Packet, now: u64) -> Verdict {
        let Model { timeouts, connections, .. } = self;
        connections.retain(|connection| now - connection.since <= connection.limit(timeouts));
        match &packet.content {
            Content::Tcp(segment) => self.judge_tcp(packet, segment, now),
            Content::Udp(_) => self.judge_query(packet, (17, packet.number, None), now),
            Content::EchoRequest => self.judge_query(packet, (1, packet.number, Some(packet.from)), now),
            Content::EchoReply => {
                let key = (1, packet.number, Some(packet.from.other()));
                match self.find(key) {
                    Some(connection) => {
                        (connection.has_reply, connection.since) = (true, now);
                        Verdict::Pass
                    }
                    None => Verdict::Drop(Why::NoConnection),
                }
            }
            Content::Error(about) => self.judge_error(packet, about, now),
        }
    }

    /// The life of every connection that has not run out.
    pub fn lives(&self, now: u64) -> Vec<((u8, u16), Life)> {
        let lives = self.connections.iter().filter(|c| now - c.since <= c.limit(&self.timeouts));
        lives.map(|c| ((c.key.0, c.key.1), c.life())).collect()
    }

    pub fn aim(&self, number: u16) -> Option<[Aim; 2]> {
        let connection = self.connections.iter().find(|c| (c.key.0, c.key.1) == (6, number))?;
        Some(End::BOTH.map(|end| {
            let (own, peer) = (connection.side(end), connection.side(end.other()));
            let window = own.largest_window(peer) as u32;
            let grants = own.grants(peer) as u32;
            Aim { end: own.end() as u32, ack: own.ack(peer) as u32, grants, window }
        }))
    }

    fn find(&mut self, key: (u8, u16, Option<End>)) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.key == key)
    }

    fn allows(&self, originator: End) -> bool {
        originator == End::Client || self.both_ways
    }

    fn open(&mut self, key: (u8, u16, Option<End>), originator: End, now: u64) -> &mut Connection {
        self.connections.push(Connection {
            key,
            originator,
            has_reply: false,
            sides: Default::default(),
            is_simultaneous: false,
            is_reset: false,
            challengers: [false; 2],
            since: now,
        });
        self.connections.last_mut().expect("one was pushed")
    }

    /// UDP, and echo requests.
    fn judge_query(&mut self, packet: &Packet, key: (u8, u16, Option<End>), now: u64) -> Verdict {
        if let Some(connection) = self.find(key) {
            connection.has_reply |= packet.from != connection.originator;
            connection.since = now;
            return Verdict::Pass;
        }
        if !self.allows(packet.from) {
            return Verdict::Drop(Why::Policy);
        }
        self.open(key, packet.from, now);
        Verdict::Pass
    }

    fn judge_tcp(&mut self, packet: &Packet, segment: &Segment, now: u64) -> Verdict {
        let key = (6, packet.number, None);
        let is_first = segment.syn && !segment.ack;
        let is_allowed = self.allows(packet.from);
        if let Some(connection) = self.find(key) {
            // Whoever sends a SYN alone originates.
            if is_first && packet.from != connection.originator && !is_allowed {
                return Verdict::Drop(Why::Policy);
            }
            let before = (connection.life(), connection.sides.clone().map(|side| side.has_acknowledged));
            let had_syns = connection.sides.clone().map(|side| side.syn.is_some());
            match connection.take(packet.from, segment) {
                Effect::Refused => {
                    // The answer to a SYN of somebody who knows nothing of the connection: nobody does then.
                    let forgets = segment.ack && (segment.syn || segment.rst && segment.seq == 0);
                    if forgets && connection.challengers[packet.from.other() as usize] {
                        connection.reset();
                        connection.since = now;
                    }
                    return Verdict::Drop(Why::Tcp);
                }
                Effect::Aside => {
                    let is_open = matches!(connection.life(), Life::Established | Life::Closing);
                    connection.challengers[packet.from as usize] |= is_first && is_open;
                    return Verdict::Pass;
                }
                Effect::Kept => {
                    connection.challengers = [false; 2];
                    let life = connection.life();
                    let step = before != (life, connection.sides.clone().map(|side| side.has_acknowledged))
                        || had_syns != connection.sides.clone().map(|side| side.syn.is_some());
                    // A handshake and what is over run out regardless of what is still sent; each step begins anew.
                    if step || matches!(life, Life::Established | Life::Closing) {
                        connection.since = now;
                    }
                    return Verdict::Pass;
                }
                Effect::Reopens => self.connections.retain(|connection| connection.key != key),
            }
        }
        if !is_first {
            return Verdict::Drop(Why::NoConnection);
        }
        if !is_allowed {
            return Verdict::Drop(Why::Policy);
        }
        let seq = i64::from(segment.seq);
        let side = first_syn(seq, seq + 1 + i64::from(segment.payload), segment);
        self.open(key, packet.from, now).sides[packet.from as usize] = side;
        Verdict::Pass
    }

    /// RFC 5508, 4.2 and RFC 5927: only about a packet of a connection, to its sender, from where it went; TCP only
    /// about what is in flight; and once for a packet. It changes nothing.
    fn judge_error(&mut self, packet: &Packet, about: &Packet, now: u64) -> Verdict {
        let key = match &about.content {
            Content::Tcp(_) => (6, about.number, None),
            Content::Udp(_) => (17, about.number, None),
            Content::EchoRequest => (1, about.number, Some(about.from)),
            Content::EchoReply => (1, about.number, Some(about.from.other())),
            Content::Error(_) => return Verdict::Drop(Why::Icmp),
        };
        let Some(connection) = self.find(key) else { return Verdict::Drop(Why::Icmp) };
        if let Content::Tcp(segment) = &about.content {
            let (own, peer) = (connection.side(about.from), connection.side(about.from.other()));
            let seq = near(own.end(), segment.seq);
            // Only the reset may have answered a SYN, which is the number before what is expected then.
            let oldest = peer.ack(own) - i64::from(connection.is_reset);
            if seq > own.end() || seq < oldest {
                return Verdict::Drop(Why::Icmp);
            }
        }
        if about.from == packet.from {
            return Verdict::Drop(Why::Icmp);
        }
        // As far as the beginning of a packet tells.
        let same = |other: &Packet| match (&other.content, &about.content) {
            (Content::Tcp(a), Content::Tcp(b)) => a.seq == b.seq,
            (a, b) => a == b,
        };
        let again = |(other, at): &(Packet, u64)| {
            (other.from, other.number) == (about.from, about.number) && same(other) && now - at < ERROR_AGAIN
        };
        if self.errors.iter().any(again) {
            return Verdict::Drop(Why::Icmp);
        }
        self.errors.push((about.clone(), now));
        Verdict::Pass
    }
}
