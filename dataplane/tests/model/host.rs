//! An honest TCP, simple and complete enough to transfer data over a bad network: RFC 9293 with window scaling (RFC
//! 7323), retransmission by time-out and by duplicates (RFC 6298, RFC 5681), delayed acknowledgements, selective
//! acknowledgements kept by the sender (RFC 2018), zero-window probes, and a receiver that reads slowly or shrinks its
//! window.

use std::collections::BTreeMap;

use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};

use crate::packets::{Content, End, Packet, Segment};

const MSS: u64 = 1000;
/// Milliseconds.
const RTO: u64 = 300;
const RTO_MAX: u64 = 10_000;
const DELAYED_ACK: u64 = 40;

/// How a host behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub initial: u32,
    pub scale: Option<u8>,
    pub selective: bool,
    /// Bytes to send.
    pub bytes: u64,
    /// Bytes of the receive buffer.
    pub buffer: u64,
    /// Bytes that the application reads in a millisecond.
    pub reads: u64,
    /// Whether the buffer is halved while data is on its way (RFC 9293, 3.8.6: discouraged, and to be survived).
    pub shrinks: bool,
}

/// One end. All positions count from the initial sequence number, which is the SYN's: data begins at 1.
pub struct Host {
    end: End,
    habits: Habits,
    number: u16,
    syn_sent: bool,
    peer_initial: Option<u32>,
    /// Both shifts, once both SYNs are known: of our windows, and of the peer's.
    shifts: Option<(u8, u8)>,
    acknowledged: u64,
    sent: u64,
    /// The furthest that was ever sent.
    furthest: u64,
    peer_window: u64,
    selectively: BTreeMap<u64, u64>,
    duplicates: u32,
    timer: Option<u64>,
    rto: u64,
    expected: u64,
    /// Received, and not in order: from and to.
    pieces: BTreeMap<u64, u64>,
    unread: u64,
    peer_fin: Option<u64>,
    ack_due: Option<u64>,
    unacknowledged: u32,
    advertised: u64,
}

/// The byte at this position of a stream.
fn byte(position: u64) -> u8 {
    (position ^ position >> 8) as u8
}

/// A segment with its payload and its selective acknowledgements, as it is on the wire.
pub type Sent = (Packet, Vec<u8>, Vec<(u32, u32)>);

impl Host {
    pub fn new(end: End, number: u16, habits: Habits) -> Host {
        Host {
            end,
            habits,
            number,
            syn_sent: false,
            peer_initial: None,
            shifts: None,
            acknowledged: 0,
            sent: 0,
            furthest: 0,
            peer_window: 0,
            selectively: BTreeMap::new(),
            duplicates: 0,
            timer: None,
            rto: 1000,
            expected: 0,
            pieces: BTreeMap::new(),
            unread: 0,
            peer_fin: None,
            ack_due: None,
            unacknowledged: 0,
            advertised: 0,
        }
    }

    /// One past its FIN.
    fn last(&self) -> u64 {
        self.habits.bytes + 2
    }

    /// Whether all was sent and acknowledged, and all of the peer's has come.
    pub fn is_done(&self) -> bool {
        self.acknowledged == self.last() && self.peer_fin.is_some_and(|fin| self.expected == fin + 1)
    }

    pub fn connect(&mut self, now: u64) -> Vec<Sent> {
        self.syn_sent = true;
        (self.sent, self.furthest) = (1, 1);
        self.timer = Some(now + self.rto);
        vec![self.segment(0, 1, self.peer_initial.is_some())]
    }

    fn is_synchronised(&self) -> bool {
        self.peer_initial.is_some() && self.acknowledged > 0
    }

    /// The segment from one position to another: SYN at 0, then data, then FIN.
    fn segment(&mut self, from: u64, to: u64, ack: bool) -> Sent {
        let Habits { initial, scale, bytes, .. } = self.habits;
        let (syn, fin) = (from == 0 && to > 0, to == self.last() && to > from);
        let first = from.max(1);
        let payload: Vec<u8> = (first..to.min(bytes + 1)).map(byte).collect();
        let room = self.room();
        let shift = if syn { 0 } else { self.shifts.map_or(0, |(own, _)| own) };
        let window = (room >> shift).min(u64::from(u16::MAX)) as u16;
        if ack {
            (self.ack_due, self.unacknowledged) = (None, 0);
            self.advertised = self.expected + (u64::from(window) << shift);
        }
        let expected = self.peer_initial.unwrap_or(0).wrapping_add(self.expected as u32);
        let segment = Segment {
            syn,
            ack,
            fin,
            rst: false,
            seq: initial.wrapping_add(from as u32),
            acknowledges: if ack { expected } else { 0 },
            window,
            scale: scale
                .filter(|_| syn && self.shifts.is_none_or(|shifts| shifts != (0, 0) || scale == Some(0))),
            payload: payload.len() as u16,
        };
        let peer = self.peer_initial.unwrap_or(0);
        let wire = |position: u64| peer.wrapping_add(position as u32);
        let pieces = self.pieces.iter().map(|(from, to)| (wire(*from), wire(*to)));
        let blocks = pieces.take(if self.habits.selective && !syn && ack { 3 } else { 0 }).collect();
        (Packet { from: self.end, number: self.number, content: Content::Tcp(segment) }, payload, blocks)
    }

    /// From how many bytes on it is worth telling that there is more room (RFC 9293, 3.8.6.2.2).
    fn worth(&self) -> u64 {
        MSS.min(self.habits.buffer / 2).max(1)
    }

    /// The window: all there is, or as told before where that would only be a little.
    fn room(&self) -> u64 {
        let room = self.habits.buffer.saturating_sub(self.unread);
        let told = self.advertised.saturating_sub(self.expected);
        if room >= self.worth() { room } else { room.min(told) }
    }

    /// A pure acknowledgement.
    fn acknowledge(&mut self) -> Sent {
        let at = self.sent.max(self.furthest);
        self.segment(at, at, true)
    }

    /// Takes a frame that came out of the gateway.
    pub fn receive(&mut self, frame: &[u8], now: u64) -> Vec<Sent> {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
        let mut replies = Vec::new();
        let scale = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::WindowScale(shift)) => Some(shift),
            _ => None,
        });
        if tcp.syn() {
            let is_new = self.peer_initial.is_none();
            if is_new {
                self.peer_initial = Some(tcp.sequence_number());
                self.shifts = Some(self.habits.scale.zip(scale).unwrap_or((0, 0)));
                self.expected = 1;
                self.peer_window = u64::from(tcp.window_size()).max(1);
            }
            self.take_ack(&tcp, now);
            replies.push(match (self.syn_sent, tcp.ack()) {
                (false, _) => return self.connect(now),
                // Simultaneous open: the SYN again, now with an acknowledgement (RFC 9293, figure 8).
                (true, false) if is_new => self.segment(0, 1, true),
                _ => self.acknowledge(),
            });
            return replies;
        }
        let Some(initial) = self.peer_initial else { return replies };
        self.take_ack(&tcp, now);
        let offset = tcp.sequence_number().wrapping_sub(initial.wrapping_add(self.expected as u32));
        let from = self.expected.wrapping_add_signed(i64::from(offset as i32));
        let to = from + tcp.payload().len() as u64;
        assert!(tcp.payload().iter().zip(from..).all(|(got, position)| *got == byte(position)), "damaged");
        if tcp.fin() {
            self.peer_fin = Some(to);
        }
        let end = to + u64::from(tcp.fin());
        if end == from {
            return replies;
        }
        let is_in_order = from <= self.expected && end > self.expected;
        // What there is no room for (any more) is not taken.
        let edge = self.expected + self.habits.buffer.saturating_sub(self.unread);
        let fits = to <= edge;
        let (first, end) = (from.max(self.expected), if fits { end } else { edge });
        if end > first {
            self.keep(first, end);
        }
        self.unacknowledged += 1;
        if !is_in_order || !fits || self.unacknowledged > 1 || tcp.fin() {
            replies.push(self.acknowledge());
        } else {
            self.ack_due = self.ack_due.or(Some(now + DELAYED_ACK));
        }
        replies
    }

    fn keep(&mut self, from: u64, to: u64) {
        let known = self.pieces.entry(from).or_insert(to);
        *known = to.max(*known);
        while let Some((&from, &to)) = self.pieces.first_key_value() {
            if from > self.expected {
                break;
            }
            self.pieces.remove(&from);
            let fin = u64::from(self.peer_fin.is_some_and(|fin| to > fin));
            self.unread += (to - fin).saturating_sub(self.expected);
            self.expected = self.expected.max(to);
        }
    }

    fn take_ack(&mut self, tcp: &etherparse::TcpSlice<'_>, now: u64) {
        if !tcp.ack() {
            return;
        }
        let number = tcp.acknowledgment_number();
        let from_una = number.wrapping_sub(self.habits.initial.wrapping_add(self.acknowledged as u32)) as i32;
        let position = self.acknowledged.wrapping_add_signed(i64::from(from_una));
        assert!(position <= self.furthest, "acknowledges what was never sent");
        let shift = if tcp.syn() { 0 } else { self.shifts.map_or(0, |(_, peer)| peer) };
        let window = u64::from(tcp.window_size()) << shift;
        if from_una > 0 {
            self.acknowledged = position;
            self.sent = self.sent.max(position);
            self.selectively.retain(|_, to| *to > position);
            (self.duplicates, self.rto) = (0, RTO);
            self.timer = (position < self.last()).then_some(now + self.rto);
        } else if from_una == 0 && tcp.payload().is_empty() && window == self.peer_window {
            self.duplicates += 1;
        }
        if from_una >= 0 {
            self.peer_window = window;
        }
        for option in tcp.options_iterator().flatten() {
            if let TcpOptionElement::SelectiveAcknowledgement(first, rest) = option {
                for (from, to) in std::iter::once(first).chain(rest.into_iter().flatten()) {
                    let position = |number: u32| u64::from(number.wrapping_sub(self.habits.initial));
                    self.selectively.insert(position(from), position(to));
                }
            }
        }
    }

    /// When it next does something by itself.
    pub fn wakes(&self, now: u64) -> Option<u64> {
        let reads = (self.unread > 0).then_some(now + 1);
        [reads, self.timer, self.ack_due].into_iter().flatten().min()
    }

    /// What a host does by itself in a millisecond.
    pub fn tick(&mut self, now: u64) -> Vec<Sent> {
        let mut out = Vec::new();
        self.unread -= self.unread.min(self.habits.reads);
        if self.habits.shrinks && self.expected > 5000 {
            (self.habits.buffer, self.habits.shrinks) = ((self.habits.buffer / 2).max(1), false);
        }
        let told = self.advertised.saturating_sub(self.expected);
        let opened = told < MSS && self.room() >= told + self.worth();
        if self.is_synchronised() && opened || self.ack_due.is_some_and(|due| now >= due) {
            out.push(self.acknowledge());
        }
        if self.timer.is_some_and(|at| now >= at) && self.acknowledged < self.last() {
            self.rto = (self.rto * 2).min(RTO_MAX);
            self.timer = Some(now + self.rto);
            out.push(self.retransmit());
        } else if self.duplicates == 3 && self.sent > self.acknowledged {
            self.duplicates += 1;
            out.push(self.retransmit());
        }
        out.extend(self.send_more(now));
        out
    }

    /// What is missing first; without anything on its way, one byte beyond a closed window (RFC 9293, 3.8.6.1).
    fn retransmit(&mut self) -> Sent {
        let from = self.acknowledged;
        if from == 0 {
            let ack = self.peer_initial.is_some();
            return self.segment(0, 1, ack);
        }
        let to = match self.sent > from {
            // What was selectively acknowledged is not sent again.
            true => {
                let next = self.selectively.range(from..).next().map_or(self.sent, |(start, _)| *start);
                (from + MSS).min(self.sent).min(next.max(from + 1))
            }
            false => from + 1,
        };
        self.furthest = self.furthest.max(to);
        self.sent = self.sent.max(to);
        self.segment(from, to, true)
    }

    fn send_more(&mut self, now: u64) -> Vec<Sent> {
        let mut out = Vec::new();
        while self.is_synchronised() && self.sent < self.last() {
            let to = (self.sent + MSS).min(self.last()).min(self.acknowledged + self.peer_window);
            if to <= self.sent {
                // Closed: the timer probes it.
                self.timer = self.timer.or(Some(now + self.rto));
                break;
            }
            let from = self.sent;
            (self.sent, self.furthest) = (to, self.furthest.max(to));
            self.timer = self.timer.or(Some(now + self.rto));
            out.push(self.segment(from, to, true));
        }
        out
    }
}
