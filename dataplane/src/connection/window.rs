//! TCP sequence windows: may this segment belong to the stream, as far as somebody in the middle can tell?
//!
//! The four bounds are G. van Rooij's ("Real Stateful TCP Packet Filtering in IP Filter", 2000), with the window
//! scale of RFC 7323. For a segment `seq..end` with acknowledgement `ack` from a sender to a receiver:
//!
//! 1. `end <= receiver.limit`: not beyond what the receiver has granted;
//! 2. `seq >= sender.end - receiver's largest window - MAX_AGE`: not much older than one window. The paper has one window
//!    exactly. But a retransmission that was not needed is overtaken by the data that its late acknowledgement lets go,
//!    and then only its own acknowledgement may get the sender on (conntrack's `ack_loss_stall`);
//! 3. `ack <= receiver.end`: acknowledges nothing that was never sent;
//! 4. `ack >= receiver.end - max(sender's largest window, MAX_AGE)`: no ancient acknowledgement (RFC 5961, section 5:
//!    nobody believes one that is older than a window).

use crate::headers::{TcpSegment, tcp_flags};

/// A sequence number: a point on a circle of 2³² (RFC 9293, section 3.4). Ordered only within half the circle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `n` bytes later.
    pub fn plus(self, n: u32) -> Seq {
        Seq(self.0.wrapping_add(n))
    }

    /// The number `n` bytes earlier.
    pub fn minus(self, n: u32) -> Seq {
        Seq(self.0.wrapping_sub(n))
    }

    /// Whether it comes strictly after the other.
    pub fn is_after(self, other: Seq) -> bool {
        (self.0.wrapping_sub(other.0) as i32) > 0
    }

    /// Whether it lies from `first` on and no later than `last`, of which neither comes after the other. Not two
    /// comparisons: a number half the circle away from both, where they are one, is after neither.
    pub fn is_between(self, first: Seq, last: Seq) -> bool {
        self.0.wrapping_sub(first.0) <= last.0.wrapping_sub(first.0)
    }

    /// The later of both.
    pub fn max(self, other: Seq) -> Seq {
        if self.is_after(other) { self } else { other }
    }
}

/// How far an acknowledgement may lag behind when windows are small: 65,535 and a bit, as in van Rooij's paper.
pub const MAX_AGE: u32 = 66_000;

/// The largest distance between the furthest and the oldest must stay under half the circle: there is a window of up
/// to 2³⁰ bytes (RFC 7323, section 2.3) on either side of `end`.
const MAX_DATA_AGE: u32 = 1 << 30;

/// Stands for "no window scale option" until both SYNs are known; real shifts are 0 to 14 (RFC 7323, section 2.3).
pub const NO_SCALE: u8 = 15;

/// What one end has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// One past the highest sequence number that it sent.
    pub end: Seq,
    /// The highest acknowledgement that it sent; before its first, the peer's initial sequence number.
    pub ack: Seq,
    /// The highest sequence number, exclusive, that it has granted to its peer: acknowledgement plus window.
    pub limit: Seq,
    /// The largest window it ever advertised, in units of `1 << scale` bytes; of a first SYN alone, in bytes.
    pub window: u16,
    /// The shift of its window field, or [`NO_SCALE`].
    pub scale: u8,
}

impl Side {
    /// Of the second to send a SYN: whether it has sent none yet. Once both are known the scale is settled.
    pub fn is_unknown(&self) -> bool {
        self.scale == NO_SCALE
    }

    fn shift(&self) -> u8 {
        if self.scale == NO_SCALE { 0 } else { self.scale }
    }

    /// The largest window it ever advertised, bytes; at least 1, so that keep-alives and probes have room.
    pub fn largest_window(&self) -> u32 {
        (u32::from(self.window) << self.shift()).max(1)
    }

    /// Settles the scale once both SYNs are known: without the option in both there is none (RFC 7323, section 1.3).
    /// Until then the window is a SYN's, which is never scaled; here it is rounded up to units.
    fn settle_scale(&mut self, both_scale: bool) {
        self.scale = if both_scale { self.scale } else { 0 };
        let unit = 1 << self.scale;
        self.window = (u32::from(self.window).div_ceil(unit)) as u16;
    }
}

/// The first and one past the last sequence number of a segment; SYN and FIN count as one each.
pub fn span(segment: &TcpSegment) -> (Seq, Seq) {
    let flag = |bit| u32::from(segment.flags & bit != 0);
    let length = u32::from(segment.payload) + flag(tcp_flags::SYN) + flag(tcp_flags::FIN);
    (Seq(segment.sequence), Seq(segment.sequence).plus(length))
}

/// The sender of a first SYN, and what that tells of its peer.
pub fn opening(segment: &TcpSegment) -> (Side, Side) {
    let scale = segment.window_scale.unwrap_or(NO_SCALE).min(NO_SCALE);
    let (seq, end) = span(segment);
    let sender = Side { end, ack: Seq(0), limit: Seq(0), window: segment.window, scale };
    (sender, Side { ack: seq, scale: NO_SCALE, ..Side::default() })
}

/// Adds the second SYN (with or without ACK): both sides are known, and scaling is decided.
///
/// `first` sent the earlier SYN; `known` is what is known of the sender of this one, that is, `known.ack` is the
/// initial sequence number of `first`.
pub fn answering(first: &Side, known: &Side, segment: &TcpSegment) -> (Side, Side) {
    let (mut second, peer) = opening(segment);
    let mut first = *first;
    second.ack = known.ack;
    if segment.flags & tcp_flags::ACK != 0 {
        second.ack = Seq(segment.acknowledgement);
        second.limit = second.ack.plus(u32::from(segment.window).max(1));
    } else {
        second.limit = known.ack.plus(1).plus(u32::from(segment.window).max(1));
    }
    first.ack = peer.ack;
    first.limit = first.ack.plus(1).plus(u32::from(first.window).max(1));
    let both_scale = first.scale != NO_SCALE && second.scale != NO_SCALE;
    first.settle_scale(both_scale);
    second.settle_scale(both_scale);
    (first, second)
}

/// The second bound.
#[inline(always)]
pub fn oldest_data(sender: &Side, receiver: &Side) -> Seq {
    sender.end.minus((receiver.largest_window() + MAX_AGE).min(MAX_DATA_AGE))
}

/// Checks the four bounds. `finished` says that the sender has sent its FIN: then nothing may follow it.
#[inline(always)]
pub fn within(sender: &Side, receiver: &Side, segment: &TcpSegment, finished: bool) -> bool {
    let (seq, end) = span(segment);
    let upper = if finished { sender.end } else { receiver.limit };
    let data = !end.is_after(upper) && !oldest_data(sender, receiver).is_after(seq);
    if segment.flags & tcp_flags::ACK == 0 {
        return data;
    }
    let ack = Seq(segment.acknowledgement);
    let oldest = receiver.end.minus(sender.largest_window().max(MAX_AGE));
    data && !ack.is_after(receiver.end) && !oldest.is_after(ack)
}

/// The sender after a segment that is [`within`] the bounds.
#[inline(always)]
pub fn advance(sender: &Side, segment: &TcpSegment) -> Side {
    let (_, end) = span(segment);
    let mut next = Side { end: sender.end.max(end), ..*sender };
    if segment.flags & tcp_flags::ACK != 0 {
        let ack = Seq(segment.acknowledgement);
        // The window of a SYN is never scaled.
        let shift = if segment.flags & tcp_flags::SYN != 0 { 0 } else { sender.shift() };
        let window = u32::from(segment.window) << shift;
        next.ack = sender.ack.max(ack);
        // Of an old segment, too: an end that sends again what has arrived already may tell its new window so, some receivers
        // heed that, and whoever told it has the room (RFC 9293, section 3.10.7.4, judges data by its receiver's window).
        // One byte beyond a closed window is a legal probe (RFC 9293, section 3.8.6.1).
        next.limit = sender.limit.max(ack.plus(window.max(1)));
        next.window = sender.window.max((window >> sender.shift()) as u16);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tcp_flags::*;

    fn segment(flags: u8, sequence: u32, acknowledgement: u32, window: u16, payload: u16) -> TcpSegment {
        TcpSegment { sequence, acknowledgement, window, flags, window_scale: None, payload }
    }

    fn established(start: u32, scales: Option<(u8, u8)>) -> (Side, Side) {
        let mut syn = segment(SYN, start, 0, 1000, 0);
        let mut syn_ack = segment(SYN | ACK, 500, start.wrapping_add(1), 2000, 0);
        syn.window_scale = scales.map(|s| s.0);
        syn_ack.window_scale = scales.map(|s| s.1);
        let (first, known) = opening(&syn);
        let (client, server) = answering(&first, &known, &syn_ack);
        (advance(&client, &segment(ACK, start.wrapping_add(1), 501, 1000, 0)), server)
    }

    #[test]
    fn each_of_the_four_bounds_holds_at_its_edge_and_fails_one_beyond() {
        for start in [100, u32::MAX - 1, u32::MAX - 1500, 0x7fff_ffff] {
            let (client, server) = established(start, None);
            let seq = |offset: i32| start.wrapping_add(1).wrapping_add_signed(offset);
            let ok = |s: &TcpSegment| within(&client, &server, s, false);
            // 1: the server granted 2000 bytes.
            assert!(ok(&segment(ACK, seq(0), 501, 1000, 2000)));
            assert!(!ok(&segment(ACK, seq(0), 501, 1000, 2001)));
            // 2: one window of 2000 back, and 66,000.
            assert!(ok(&segment(ACK, seq(-68_000), 501, 1000, 1)));
            assert!(!ok(&segment(ACK, seq(-68_001), 501, 1000, 1)));
            // 3: the server has sent up to 501.
            assert!(ok(&segment(ACK, seq(0), 501, 1000, 0)));
            assert!(!ok(&segment(ACK, seq(0), 502, 1000, 0)));
            // 4: 66,000 back.
            assert!(ok(&segment(ACK, seq(0), 501u32.wrapping_sub(66_000), 1000, 0)));
            assert!(!ok(&segment(ACK, seq(0), 501u32.wrapping_sub(66_001), 1000, 0)));
        }
    }

    #[test]
    fn windows_are_scaled_only_when_both_syns_say_so() {
        let (client, server) = established(100, Some((3, 7)));
        assert_eq!((client.scale, server.scale), (3, 7));
        // The SYN-ACK's own window was not scaled, and is rounded up to units of 128 bytes.
        assert_eq!(server.largest_window(), 2048);
        assert_eq!(server.limit, Seq(101 + 2000));
        let server = advance(&server, &segment(ACK, 501, 101, 2000, 0));
        assert_eq!(server.limit, Seq(101 + (2000 << 7)));
        assert_eq!(server.largest_window(), 2000 << 7);

        let mut syn = segment(SYN, 100, 0, 1000, 0);
        syn.window_scale = Some(14);
        let (first, known) = opening(&syn);
        let (client, server) = answering(&first, &known, &segment(SYN | ACK, 500, 101, 2000, 0));
        assert_eq!((client.scale, server.scale), (0, 0));
        assert_eq!(client.largest_window(), 1000);
        assert_eq!(client.limit, Seq(501 + 1000));
    }

    #[test]
    fn keep_alives_and_probes_of_a_closed_window_pass() {
        let (client, server) = established(100, None);
        assert!(within(&client, &server, &segment(ACK, 100, 501, 1000, 0), false));
        assert!(within(&client, &server, &segment(ACK, 100, 501, 1000, 1), false));
        let sent = segment(ACK, 101, 501, 1000, 2000);
        let client = advance(&client, &sent);
        let server = advance(&server, &segment(ACK, 501, 2101, 0, 0));
        assert!(within(&client, &server, &segment(ACK, 2101, 501, 1000, 1), false));
        assert!(!within(&client, &server, &segment(ACK, 2101, 501, 1000, 2), false));
    }

    #[test]
    fn the_largest_window_of_all_is_usable_to_its_last_byte() {
        let (client, server) = established(100, Some((14, 14)));
        let server = advance(&server, &segment(ACK, 501, 101, u16::MAX, 0));
        let last = 101 + (u32::from(u16::MAX) << 14);
        assert!(within(&client, &server, &segment(ACK, last - 1000, 501, 1000, 1000), false));
        assert!(!within(&client, &server, &segment(ACK, last - 1000, 501, 1000, 1001), false));
        let client = advance(&client, &segment(ACK, last - 1000, 501, 1000, 1000));
        assert!(within(&client, &server, &segment(ACK, 101, 501, 1000, 1000), false));
    }

    #[test]
    fn data_in_a_window_that_only_a_needless_retransmission_told_passes() {
        let (client, server) = established(100, None);
        let server = advance(&server, &segment(ACK, 501, 101, 2000, 1000));
        let client = advance(&client, &segment(ACK, 101, 1501, 1000, 2000));
        // What has arrived, again, and with it the news that there is room.
        let again = segment(ACK, 501, 2101, 2000, 100);
        assert!(within(&server, &client, &again, false));
        assert!(!within(&client, &server, &segment(ACK, 2101, 1501, 1000, 2000), false));
        let server = advance(&server, &again);
        assert!(within(&client, &server, &segment(ACK, 2101, 1501, 1000, 2000), false));
        assert!(!within(&client, &server, &segment(ACK, 2101, 1501, 1000, 2001), false));
    }

    #[test]
    fn nothing_follows_a_fin() {
        let (client, server) = established(100, None);
        let client = advance(&client, &segment(ACK | FIN, 101, 501, 1000, 10));
        assert!(within(&client, &server, &segment(ACK | FIN, 101, 501, 1000, 10), true));
        assert!(within(&client, &server, &segment(ACK, 112, 501, 1000, 0), true));
        assert!(!within(&client, &server, &segment(ACK, 112, 501, 1000, 1), true));
    }
}
