//! What a machine in the middle knows of a connection: the packets that both gateways have let through.

use std::fmt;

use bulkhead_tests::dialogue::Segment;
use etherparse::TcpOptionElement;

/// Whether a sequence number comes strictly after another (RFC 9293, section 3.4).
pub fn is_after(number: u32, other: u32) -> bool {
    (number.wrapping_sub(other) as i32) > 0
}

/// How many numbers a segment takes.
pub fn length(segment: &Segment) -> u32 {
    segment.payload.len() as u32 + u32::from(segment.header.syn) + u32::from(segment.header.fin)
}

/// What one end of a TCP connection has sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    /// Its initial sequence number, once it has sent a SYN.
    pub initial: Option<u32>,
    /// One past the last number that it has sent.
    pub end: u32,
    /// The highest number that it has acknowledged.
    pub ack: Option<u32>,
    /// One past the last number that it lets the other end send.
    pub limit: u32,
    /// The largest window that it has told, bytes; at least 1.
    pub window: u32,
    /// Whether it has sent a FIN.
    pub fin: bool,
    shift: Option<u8>,
}

/// A TCP connection. The ends are by zone.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Both ends.
    pub ends: [End; 2],
    /// Who has begun it.
    pub originator: usize,
    /// Whether the SYNs crossed, instead of one answering the other.
    pub simultaneous: bool,
    /// What would acknowledge the last SYN that came while the connection was open.
    pub asked: Option<u32>,
    /// By zone: whether a SYN of this end has come over the open connection, and nothing since has shown that it lives.
    pub asks: [bool; 2],
    /// Whether a reset of the originator has passed that can only be for an older connection of these ports.
    pub challenged: bool,
    /// Whether any other reset has passed, or the connection is `forgotten`.
    pub reset: bool,
    /// Whether the answer to a SYN over the open connection has shown that nobody knows the connection any more.
    pub forgotten: bool,
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (zone, end) in self.ends.iter().enumerate() {
            let End { initial, end, ack, limit, window, shift, .. } = end;
            writeln!(
                f,
                "  end {zone}: {initial:?} to {end}, ack {ack:?}, grants {limit}, window {window} {shift:?}"
            )?;
        }
        let facts = [
            (self.simultaneous, "simultaneous"),
            (self.asked.is_some(), "asked"),
            (self.asks != [false; 2], "asks"),
            (self.challenged, "challenged"),
            (self.reset, "reset"),
            (self.forgotten, "forgotten"),
        ];
        let facts: Vec<_> = facts.into_iter().filter_map(|(is_so, name)| is_so.then_some(name)).collect();
        write!(f, "  begun by {}, {}", self.originator, facts.join(" "))
    }
}

impl Story {
    /// Whether both have finished, and know of each other's end.
    pub fn is_closed(&self) -> bool {
        let [a, b] = &self.ends;
        a.fin && b.fin && a.ack == Some(b.end) && b.ack == Some(a.end)
    }

    /// Whether there was a SYN.
    pub fn has_begun(&self) -> bool {
        self.ends.iter().any(|end| end.initial.is_some())
    }

    /// By how much an end's windows are shifted, once both SYNs have passed.
    pub fn shift(&self, end: usize) -> Option<u8> {
        let is_known = self.ends.iter().all(|end| end.initial.is_some());
        let scales = self.ends.iter().all(|end| end.shift.is_some());
        is_known.then(|| self.ends[end].shift.filter(|_| scales).unwrap_or(0))
    }

    /// Whether the handshake is complete, or was ended by a FIN instead.
    fn is_open(&self) -> bool {
        self.ends.iter().all(|end| end.ack.is_some()) || self.ends.iter().any(|end| end.fin)
    }

    /// Whether who sends this, in answer to a SYN of the other end, knows nothing of the open connection: it accepts the
    /// SYN, or its port is closed (RFC 9293, 3.10.7.1).
    pub fn forgets(&self, from: usize, segment: &Segment) -> bool {
        let header = &segment.header;
        let is_refusal = header.rst && header.sequence_number == 0;
        self.asks[1 - from]
            && header.ack
            && !header.fin
            && (header.syn != header.rst)
            && (header.syn || is_refusal)
    }

    /// Both gateways have dropped a segment that was right but for its place in the connection.
    pub fn drops(&mut self, from: usize, segment: &Segment) {
        if self.forgets(from, segment) {
            (self.reset, self.forgotten) = (true, true);
        }
    }

    /// Both gateways have let a segment through.
    pub fn passes(&mut self, from: usize, segment: &Segment) {
        let header = &segment.header;
        if header.rst {
            self.asked = None;
            // No reset ends TIME-WAIT (RFC 1337).
            if self.is_closed() {
                return;
            }
            let is_early = from == self.originator && self.ends[1 - from].initial.is_none();
            let is_exact = header.sequence_number == self.ends[from].end;
            *(if is_early && !is_exact { &mut self.challenged } else { &mut self.reset }) = true;
            return;
        }
        let opens = header.syn && !header.ack;
        if opens && (!self.has_begun() || self.reset || self.is_closed()) {
            *self = Story { originator: from, ..Story::default() };
        }
        if self.reset {
            return;
        }
        let initial = self.ends[from].initial;
        let known = initial.is_some();
        // A challenge ACK is of another connection.
        if !known && !header.syn {
            return;
        }
        self.simultaneous |= opens && from != self.originator && !known;
        // A SYN of a restarted end is a question; only its answer may change something.
        if opens && known && (from != self.originator || self.ends[1 - from].initial.is_some()) {
            self.asked = Some(header.sequence_number.wrapping_add(1));
            self.asks[from] = self.is_open();
            return;
        }
        self.asks = [false; 2];
        let scales = self.ends.iter().all(|end| end.shift.is_some());
        let end = header.sequence_number.wrapping_add(length(segment));
        let sender = &mut self.ends[from];
        if header.syn && (!known || opens) {
            let shift = header.options_iterator().find_map(|option| match option {
                Ok(TcpOptionElement::WindowScale(shift)) => Some(shift),
                _ => None,
            });
            *sender = End { initial: Some(header.sequence_number), end, shift, ..End::default() };
        }
        let first = self.ends[1 - from];
        if header.syn && first.initial.is_some() && first.ack.is_none() {
            // The window of a first SYN counts from the other's SYN on.
            let limit = header.sequence_number.wrapping_add(1).wrapping_add(first.window);
            self.ends[1 - from] = End { limit, ..first };
        }
        let sender = &mut self.ends[from];
        let shift = if header.syn || !scales { 0 } else { sender.shift.unwrap_or(0) };
        let window = (u32::from(header.window_size) << shift).max(1);
        sender.window = sender.window.max(window);
        if is_after(end, sender.end) {
            // An older FIN is not the sender's last number, and so not its own.
            (sender.end, sender.fin) = (end, sender.fin || header.fin);
        }
        let acknowledged = header.ack.then_some(header.acknowledgment_number);
        let Some(ack) = acknowledged else {
            // Crossed SYNs: the window of the second, too, counts from behind the other.
            let granted = first.initial.map(|initial| initial.wrapping_add(1).wrapping_add(window));
            sender.limit = if known { sender.limit } else { granted.unwrap_or(0) };
            return;
        };
        let ack = match (sender.ack, first.initial) {
            (None, Some(initial)) if is_after(initial, ack) => initial,
            _ => ack,
        };
        let limit = ack.wrapping_add(window);
        // What its own SYN has granted counts on.
        if !known || is_after(limit, sender.limit) {
            sender.limit = limit;
        }
        if sender.ack.is_none_or(|known| is_after(ack, known)) {
            sender.ack = Some(ack);
        }
    }
}
