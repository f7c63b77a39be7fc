//! The states of a connection, and what a TCP segment does to them (RFC 9293, seen from the middle).
//!
//! [`NEXT`] is the whole state machine: state × direction × kind of segment. A cell that is not there is invalid.
//! [`judge`] adds the sequence numbers. It is pure: state, both sides and a segment in, the new ones or a reason out.

use super::window::{self, Seq, Side, span};
use crate::headers::{TcpSegment, tcp_flags};
use crate::verdict::{Direction, Reason};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The originator's SYN was seen.
    SynSent = 0,
    /// Both have sent a SYN, neither a SYN-ACK: simultaneous open (RFC 9293, figure 8), or the start of a split
    /// handshake, which never gets further because it lacks the responder's SYN-ACK.
    SimultaneousSyn,
    /// Simultaneous open, and the originator has sent its SYN-ACK.
    SimultaneousOriginal,
    /// Simultaneous open, and the responder has sent its SYN-ACK.
    SimultaneousReply,
    /// The responder's SYN-ACK was seen.
    SynReceived,
    /// The handshake is complete.
    Established,
    /// The originator has sent its FIN.
    FinOriginal,
    /// The responder has sent its FIN.
    FinReply,
    /// Both have sent a FIN; not both are acknowledged.
    FinBoth,
    /// Both FINs were acknowledged.
    TimeWait,
    /// Reset.
    Closed,
    /// UDP, or a protocol that a rule opens as a whole, from the originator only.
    UdpUnreplied,
    /// The same in both directions.
    UdpReplied,
    /// ICMP echo requests, no reply yet.
    EchoUnreplied,
    /// ICMP echo requests and replies.
    EchoReplied,
}

impl State {
    /// How many states there are.
    pub const COUNT: usize = 15;

    /// Every state, in the order of their numbers.
    pub const ALL: [State; State::COUNT] = [
        State::SynSent,
        State::SimultaneousSyn,
        State::SimultaneousOriginal,
        State::SimultaneousReply,
        State::SynReceived,
        State::Established,
        State::FinOriginal,
        State::FinReply,
        State::FinBoth,
        State::TimeWait,
        State::Closed,
        State::UdpUnreplied,
        State::UdpReplied,
        State::EchoUnreplied,
        State::EchoReplied,
    ];

    /// Whether it still waits for the other end: the handshake is incomplete, or nothing came back yet.
    pub fn is_half_open(self) -> bool {
        matches!(
            self,
            State::SynSent
                | State::SimultaneousSyn
                | State::SimultaneousOriginal
                | State::SimultaneousReply
                | State::SynReceived
                | State::UdpUnreplied
                | State::EchoUnreplied
        )
    }

    /// Whether it is over, and kept only to name late segments.
    pub fn is_over(self) -> bool {
        matches!(self, State::TimeWait | State::Closed)
    }

    /// Whether forwarded packets restart its idle time; a handshake and a closed connection run out regardless.
    pub fn is_refreshed(self) -> bool {
        !self.is_over()
            && (!self.is_half_open() || matches!(self, State::UdpUnreplied | State::EchoUnreplied))
    }

    /// The stable name used in listings.
    pub fn name(self) -> &'static str {
        match self {
            State::SynSent => "syn_sent",
            State::SimultaneousSyn => "simultaneous_syn",
            State::SimultaneousOriginal => "simultaneous_original",
            State::SimultaneousReply => "simultaneous_reply",
            State::SynReceived => "syn_received",
            State::Established => "established",
            State::FinOriginal => "fin_original",
            State::FinReply => "fin_reply",
            State::FinBoth => "fin_both",
            State::TimeWait => "time_wait",
            State::Closed => "closed",
            State::UdpUnreplied => "udp_unreplied",
            State::UdpReplied => "udp_replied",
            State::EchoUnreplied => "echo_unreplied",
            State::EchoReplied => "echo_replied",
        }
    }
}

/// What a segment is to the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syn = 0,
    SynAck = 1,
    Ack = 2,
    Fin = 3,
    Rst = 4,
}

impl Kind {
    /// `None` for combinations that no TCP sends. PSH, URG and the ECN bits never matter.
    fn of(segment: &TcpSegment) -> Option<Kind> {
        use tcp_flags::{ACK, FIN, RST, SYN};
        match segment.flags & (SYN | ACK | FIN | RST) {
            SYN => Some(Kind::Syn),
            f if f == SYN | ACK => Some(Kind::SynAck),
            ACK => Some(Kind::Ack),
            f if f == FIN | ACK => Some(Kind::Fin),
            RST => Some(Kind::Rst),
            f if f == RST | ACK => Some(Kind::Rst),
            _ => None,
        }
    }
}

/// One cell of the state machine.
#[derive(Clone, Copy)]
enum Cell {
    /// Invalid.
    No,
    /// To this state, when the sequence numbers fit.
    To(State),
    /// May pass without telling anything about the connection.
    Pass,
    /// A SYN over a finished connection: it opens a new one, when its sequence number is new.
    Reopen,
}

const TCP_STATES: usize = 11;

/// The state machine: `NEXT[state][direction][kind]`.
const NEXT: [[[Cell; 5]; 2]; TCP_STATES] = {
    use Cell::{No, Pass, Reopen, To};
    use State::*;
    use {Direction::Original as O, Direction::Reply as R};
    let mut t = [[[No; 5]; 2]; TCP_STATES];
    macro_rules! cell {
        ($state:ident, $from:ident, $kind:ident, $cell:expr) => {
            t[$state as usize][$from as usize][Kind::$kind as usize] = $cell
        };
    }

    cell!(SynSent, O, Syn, To(SynSent)); // retransmission, or a restarted originator's new SYN
    cell!(SynSent, O, Rst, Pass); // the originator gives up, or answers a challenge ACK; checked in `judge`
    cell!(SynSent, R, Syn, To(SimultaneousSyn)); // crossing SYNs
    cell!(SynSent, R, SynAck, To(SynReceived)); // the usual second step
    cell!(SynSent, R, Ack, Pass); // challenge ACK of a responder that remembers an older connection (RFC 5961, 4)
    cell!(SynSent, R, Rst, To(Closed)); // refused

    cell!(SimultaneousSyn, O, Syn, To(SimultaneousSyn)); // retransmission
    cell!(SimultaneousSyn, R, Syn, To(SimultaneousSyn)); // retransmission
    cell!(SimultaneousSyn, O, SynAck, To(SimultaneousOriginal)); // answers the responder's SYN
    cell!(SimultaneousSyn, R, SynAck, To(SimultaneousReply)); // answers the originator's SYN
    cell!(SimultaneousSyn, O, Ack, To(SimultaneousOriginal)); // challenges a SYN that came twice, overtakes its SYN-ACK
    cell!(SimultaneousSyn, R, Ack, To(SimultaneousReply)); // likewise
    cell!(SimultaneousSyn, O, Rst, To(Closed)); // gives up
    cell!(SimultaneousSyn, R, Rst, To(Closed)); // gives up

    cell!(SimultaneousOriginal, O, Syn, To(SimultaneousOriginal)); // overtaken by its SYN-ACK
    cell!(SimultaneousOriginal, R, Syn, To(SimultaneousOriginal)); // retransmission: the SYN-ACK was lost
    cell!(SimultaneousOriginal, O, SynAck, To(SimultaneousOriginal)); // retransmission
    cell!(SimultaneousOriginal, R, SynAck, To(Established)); // both have acknowledged
    cell!(SimultaneousOriginal, O, Ack, To(SimultaneousOriginal)); // challenges a SYN that came twice (RFC 5961, 4)
    cell!(SimultaneousOriginal, O, Fin, To(FinOriginal)); // closed before it was acknowledged (RFC 9293, 3.10.4)
    cell!(SimultaneousOriginal, R, Ack, To(Established)); // the originator's SYN was lost: answers as any client does
    cell!(SimultaneousOriginal, R, Fin, To(FinReply)); // likewise, with a FIN
    cell!(SimultaneousOriginal, O, Rst, To(Closed)); // gives up
    cell!(SimultaneousOriginal, R, Rst, To(Closed)); // gives up

    cell!(SimultaneousReply, R, Syn, To(SimultaneousReply)); // overtaken by its SYN-ACK
    cell!(SimultaneousReply, O, Syn, To(SimultaneousReply)); // retransmission: the SYN-ACK was lost
    cell!(SimultaneousReply, R, SynAck, To(SimultaneousReply)); // retransmission
    cell!(SimultaneousReply, O, SynAck, To(Established)); // both have acknowledged
    cell!(SimultaneousReply, R, Ack, To(SimultaneousReply)); // challenges a SYN that came twice (RFC 5961, 4)
    cell!(SimultaneousReply, R, Fin, To(FinReply)); // closed before it was acknowledged (RFC 9293, 3.10.4)
    cell!(SimultaneousReply, O, Ack, To(Established)); // the responder's SYN was lost: answers as any client does
    cell!(SimultaneousReply, O, Fin, To(FinOriginal)); // likewise, with a FIN
    cell!(SimultaneousReply, O, Rst, To(Closed)); // gives up
    cell!(SimultaneousReply, R, Rst, To(Closed)); // gives up

    cell!(SynReceived, O, Syn, To(SynReceived)); // retransmission: the SYN-ACK was lost; a new number: see `judge`
    cell!(SynReceived, R, Syn, To(SynReceived)); // overtaken by its SYN-ACK, in a simultaneous open
    cell!(SynReceived, R, SynAck, To(SynReceived)); // retransmission: the ACK was lost or is late
    cell!(SynReceived, O, Ack, To(Established)); // the third step
    cell!(SynReceived, O, Fin, To(FinOriginal)); // the third step with a FIN
    cell!(SynReceived, R, Ack, To(SynReceived)); // data after TCP Fast Open (RFC 7413), or a challenge ACK
    cell!(SynReceived, R, Fin, To(FinReply)); // closed before the third step (RFC 9293, 3.10.4)
    cell!(SynReceived, O, Rst, To(Closed)); // gives up
    cell!(SynReceived, R, Rst, To(Closed)); // gives up

    cell!(Established, O, Syn, Pass); // restarted originator; the responder answers a challenge ACK (RFC 5961, 4)
    cell!(Established, R, Syn, Pass); // restarted responder that originates, if the policy says so
    cell!(Established, O, SynAck, To(Established)); // retransmission after a simultaneous open
    cell!(Established, R, SynAck, To(Established)); // retransmission: the ACK was lost behind us
    cell!(Established, O, Ack, To(Established)); // data
    cell!(Established, R, Ack, To(Established)); // data
    cell!(Established, O, Fin, To(FinOriginal)); // the originator is done sending
    cell!(Established, R, Fin, To(FinReply)); // the responder is done sending
    cell!(Established, O, Rst, To(Closed)); // reset
    cell!(Established, R, Rst, To(Closed)); // reset

    cell!(FinOriginal, O, Syn, Pass); // as in Established
    cell!(FinOriginal, R, Syn, Pass); // as in Established
    cell!(FinOriginal, O, SynAck, To(FinOriginal)); // retransmission, overtaken or answering one: see Established
    cell!(FinOriginal, R, SynAck, To(FinOriginal)); // likewise: the ACK and the FIN were lost behind us
    cell!(FinOriginal, O, Ack, To(FinOriginal)); // retransmission, or ACK of the responder's data
    cell!(FinOriginal, R, Ack, To(FinOriginal)); // the responder may go on sending
    cell!(FinOriginal, O, Fin, To(FinOriginal)); // retransmission
    cell!(FinOriginal, R, Fin, To(FinBoth)); // the responder is done, too
    cell!(FinOriginal, O, Rst, To(Closed)); // reset
    cell!(FinOriginal, R, Rst, To(Closed)); // reset

    cell!(FinReply, O, Syn, Pass); // as in Established
    cell!(FinReply, R, Syn, Pass); // as in Established
    cell!(FinReply, O, SynAck, To(FinReply)); // as in FinOriginal
    cell!(FinReply, R, SynAck, To(FinReply)); // likewise
    cell!(FinReply, O, Ack, To(FinReply)); // the originator may go on sending
    cell!(FinReply, R, Ack, To(FinReply)); // retransmission, or ACK of the originator's data
    cell!(FinReply, O, Fin, To(FinBoth)); // the originator is done, too
    cell!(FinReply, R, Fin, To(FinReply)); // retransmission
    cell!(FinReply, O, Rst, To(Closed)); // reset
    cell!(FinReply, R, Rst, To(Closed)); // reset

    cell!(FinBoth, O, Syn, Pass); // as in Established
    cell!(FinBoth, R, Syn, Pass); // as in Established
    cell!(FinBoth, O, SynAck, To(FinBoth)); // as in FinOriginal
    cell!(FinBoth, R, SynAck, To(FinBoth)); // likewise
    cell!(FinBoth, O, Ack, To(FinBoth)); // retransmission, or the last ACK: then `judge` goes on to TimeWait
    cell!(FinBoth, R, Ack, To(FinBoth)); // likewise
    cell!(FinBoth, O, Fin, To(FinBoth)); // retransmission
    cell!(FinBoth, R, Fin, To(FinBoth)); // retransmission
    cell!(FinBoth, O, Rst, To(Closed)); // reset
    cell!(FinBoth, R, Rst, To(Closed)); // reset

    cell!(TimeWait, O, Syn, Reopen); // RFC 9293, 3.6.1
    cell!(TimeWait, R, Syn, Reopen); // the former responder may originate, if the policy says so
    cell!(TimeWait, O, Ack, To(TimeWait)); // retransmission
    cell!(TimeWait, R, Ack, To(TimeWait)); // retransmission
    cell!(TimeWait, O, Fin, To(TimeWait)); // retransmission: the last ACK was lost
    cell!(TimeWait, R, Fin, To(TimeWait)); // retransmission: the last ACK was lost
    cell!(TimeWait, O, Rst, To(TimeWait)); // passes, but does not end TIME-WAIT (RFC 1337)
    cell!(TimeWait, R, Rst, To(TimeWait)); // likewise

    cell!(Closed, O, Syn, Reopen); // a new connection
    cell!(Closed, R, Syn, Reopen); // a new connection from the other end, if the policy says so
    cell!(Closed, O, Ack, Pass); // challenge ACK: what came before the reset was lost behind us; no data
    cell!(Closed, R, Ack, Pass); // likewise
    cell!(Closed, O, Rst, To(Closed)); // retransmission, or the answer to that challenge
    cell!(Closed, R, Rst, To(Closed)); // likewise
    t
};

/// What a segment does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The connection's state and both sides after it: originator, responder.
    Next(State, [Side; 2]),
    /// The segment may pass and changes nothing.
    Pass,
    /// The segment opens a new connection in place of this one.
    Reopen,
}

/// Whether a segment may open a connection: a SYN alone.
pub fn may_open(segment: &TcpSegment) -> bool {
    Kind::of(segment) == Some(Kind::Syn)
}

/// Whether an end that answers a SYN with this knows nothing of a connection in which the SYN came: it accepts the SYN, or
/// its port is closed (RFC 9293, 3.10.7.1). One that remembers challenges it (RFC 5961, section 4).
pub fn forgets(segment: &TcpSegment) -> bool {
    let is_refusal = segment.flags & tcp_flags::ACK != 0 && segment.sequence == 0;
    match Kind::of(segment) {
        Some(Kind::SynAck) => true,
        Some(Kind::Rst) => is_refusal,
        _ => false,
    }
}

/// Whether a segment only carries data or an acknowledgement.
#[inline]
pub fn is_plain(segment: &TcpSegment) -> bool {
    segment.flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST | tcp_flags::ACK) == tcp_flags::ACK
}

/// What [`judge`] decides about a plain segment of an established connection, which nearly every segment is: the
/// sender's side after it. Here the sides stay in registers; in arrays, each copy waits for the stores before it, and
/// that took a quarter of the time of a packet.
#[inline(always)]
pub fn judge_plain(sender: &Side, receiver: &Side, segment: &TcpSegment) -> Result<Side, Reason> {
    if !window::within(sender, receiver, segment, false) {
        return Err(Reason::TcpOutOfWindow);
    }
    Ok(window::advance(sender, segment))
}

/// Decides about one segment of a known connection.
pub fn judge(
    state: State,
    sides: [Side; 2],
    direction: Direction,
    segment: &TcpSegment,
) -> Result<Outcome, Reason> {
    let kind = Kind::of(segment).ok_or(Reason::TcpInvalid)?;
    if state == State::Closed && kind != Kind::Syn && sides[Direction::Reply as usize].is_unknown() {
        // A refused SYN, not a reset in the middle of something.
        return Err(Reason::TcpInvalid);
    }
    let cells = NEXT.get(state as usize).ok_or(Reason::TcpInvalid)?;
    let sender = sides[direction as usize];
    let receiver = sides[direction.reverse() as usize];
    let out_of_window = Err(Reason::TcpOutOfWindow);
    let (seq, end) = span(segment);
    let cells = &cells[direction as usize];
    // A FIN is the last number of all (RFC 9293, 3.6). One that does not come after what was sent is not this sender's,
    // or of an older connection; believed, it would keep out the data that are still to come.
    let ends = finished(state, direction) || end.is_after(sender.end);
    let kind = match cells[kind as usize] {
        Cell::To(_) if kind == Kind::Fin && !ends => Kind::Ack,
        _ => kind,
    };
    let next = match cells[kind as usize] {
        Cell::No => return Err(Reason::TcpInvalid),
        Cell::Pass => return pass(state, &sides, direction, kind, segment),
        // In TIME-WAIT, not one that may be of the old connection (RFC 9293, 3.6.1). One that is far behind is not: a
        // fast connection outruns the clock of initial sequence numbers, and the end in TIME-WAIT goes by timestamps.
        Cell::Reopen if state == State::Closed || !is_recent(&sender, &receiver, seq) => {
            return Ok(Outcome::Reopen);
        }
        Cell::Reopen => return out_of_window,
        Cell::To(next) => next,
    };
    let (sender, receiver) = match (state, kind) {
        (_, Kind::Rst) if reset_fits(state, direction, &sender, &receiver, segment) => {
            (settled(state, direction, sender), settled(state, direction.reverse(), receiver))
        }
        // A new SYN of an originator that started over replaces the old one. The same again may lack the data of TCP
        // Fast Open, which the responder may have taken all the same.
        (State::SynSent, Kind::Syn) if direction == Direction::Original => {
            let (again, known) = window::opening(segment);
            let is_new = seq != receiver.ack;
            (if is_new { again } else { Side { end: sender.end.max(end), ..again } }, known)
        }
        (State::SynSent, Kind::Syn) => swap(window::answering(&receiver, &sender, segment)),
        (State::SynSent, Kind::SynAck) if acknowledges_syn(&sender, &receiver, segment) => {
            swap(window::answering(&receiver, &sender, segment))
        }
        (_, Kind::Syn) if is_syn_again(state, direction, &sender, &receiver, segment) => (sender, receiver),
        // A restarted originator: the responder answers a challenge ACK, as in Established.
        (State::SynReceived, Kind::Syn) if direction == Direction::Original => return Ok(Outcome::Pass),
        (State::SynSent, _) => return out_of_window,
        (State::SimultaneousSyn, Kind::Ack) if segment.payload > 0 => return Err(Reason::TcpInvalid),
        (_, Kind::SynAck) if syn_ack_fits(state, direction, &sender, &receiver, segment) => {
            (window::advance(&sender, segment), receiver)
        }
        (_, Kind::Ack | Kind::Fin)
            if (has_acknowledged(state, direction) || acknowledges_syn(&sender, &receiver, segment))
                && window::within(&sender, &receiver, segment, finished(state, direction)) =>
        {
            (window::advance(&sender, segment), receiver)
        }
        _ => return out_of_window,
    };
    let sides = match direction {
        Direction::Original => [sender, receiver],
        Direction::Reply => [receiver, sender],
    };
    Ok(Outcome::Next(if next == State::FinBoth { close(sides) } else { next }, sides))
}

fn swap<T>((a, b): (T, T)) -> (T, T) {
    (b, a)
}

/// Segments that pass without changing anything, once their numbers are plausible.
fn pass(
    state: State,
    sides: &[Side; 2],
    direction: Direction,
    kind: Kind,
    segment: &TcpSegment,
) -> Result<Outcome, Reason> {
    match (state, kind) {
        // The originator gives up. Any other number answers a challenge ACK and means an older connection.
        (State::SynSent, Kind::Rst) if Seq(segment.sequence) == sides[0].end => {
            Ok(Outcome::Next(State::Closed, *sides))
        }
        // A challenge ACK carries nothing.
        (State::SynSent | State::Closed, Kind::Ack) if segment.payload > 0 => Err(Reason::TcpInvalid),
        (State::Closed, Kind::Ack) => {
            let [sender, receiver] = [direction, direction.reverse()].map(|side| &sides[side as usize]);
            let fits = window::within(sender, receiver, segment, false);
            if fits { Ok(Outcome::Pass) } else { Err(Reason::TcpOutOfWindow) }
        }
        _ => Ok(Outcome::Pass),
    }
}

/// Whether a sender's first acknowledgement covers the peer's SYN and nothing that the peer did not send (RFC 9293,
/// 3.10.7.3), instead of just falling into its window. Until it has sent one, `sender.ack` is the peer's initial
/// sequence number.
fn acknowledges_syn(sender: &Side, receiver: &Side, segment: &TcpSegment) -> bool {
    let ack = Seq(segment.acknowledgement);
    ack.is_after(sender.ack) && !ack.is_after(receiver.end)
}

/// Whether a SYN-ACK belongs to the two SYNs that were seen. Until the receiver has acknowledged something its `ack` is
/// the sender's initial sequence number, and the SYN-ACK must have that and acknowledge no less than the one before.
fn syn_ack_fits(
    state: State,
    direction: Direction,
    sender: &Side,
    receiver: &Side,
    segment: &TcpSegment,
) -> bool {
    let is_first = !has_acknowledged(state, direction);
    let acknowledges = !is_first || acknowledges_syn(sender, receiver, segment);
    if has_acknowledged(state, direction.reverse()) {
        // Nothing new, or the sender would seem to have sent what the receiver never takes (RFC 5961, section 4). Whoever
        // has acknowledged nothing has sent nothing but a SYN, perhaps with data, and so has this number and no other.
        let (seq, end) = span(segment);
        let is_old = !end.is_after(sender.end);
        let is_of_syn =
            is_syn_again(state, direction, sender, receiver, segment) || seq.plus(1) == receiver.ack;
        return acknowledges
            && is_old
            && (!is_first || is_of_syn)
            && window::within(sender, receiver, segment, finished(state, direction));
    }
    let ack = Seq(segment.acknowledgement);
    let is_no_less = ack.is_between(sender.ack, receiver.end);
    acknowledges && is_no_less && Seq(segment.sequence) == receiver.ack
}

/// Whether the number is one that the sender has used of late.
fn is_recent(sender: &Side, receiver: &Side, seq: Seq) -> bool {
    seq.is_between(window::oldest_data(sender, receiver), sender.end.minus(1))
}

/// Whether it is the sender's SYN once more, perhaps without its data. Until the receiver has acknowledged something its
/// `ack` is the number of that SYN.
fn is_syn_again(
    state: State,
    direction: Direction,
    sender: &Side,
    receiver: &Side,
    segment: &TcpSegment,
) -> bool {
    let (seq, end) = span(segment);
    let is_first = !has_acknowledged(state, direction.reverse()) && seq == receiver.ack;
    is_first || end == sender.end || seq.plus(1) == sender.end
}

/// Whether a reset may be believed (RFC 5961, section 3): only with exactly the expected number, which is what the
/// receiver has acknowledged or, with data still on its way, the end of what the sender sent. A sender that has sent
/// its FIN may be anywhere in the window: its closed socket answers late data with the number that these acknowledge.
/// An inexact one is refused, although the receiver would answer it with a challenge ACK: not every TCP does so, and
/// a reset that is meant comes again, with the exact number, as the answer to whatever the receiver sends next.
fn reset_fits(
    state: State,
    direction: Direction,
    sender: &Side,
    receiver: &Side,
    segment: &TcpSegment,
) -> bool {
    let seq = Seq(segment.sequence);
    match state {
        // The answer to a SYN: its own number is free, the acknowledgement is not.
        State::SynSent => segment.flags & tcp_flags::ACK != 0 && acknowledges_syn(sender, receiver, segment),
        _ if finished(state, direction) => {
            let oldest = sender.end.minus(receiver.largest_window());
            !oldest.is_after(seq) && !seq.is_after(receiver.limit.max(sender.end))
        }
        _ => seq == sender.end || seq == receiver.ack && has_acknowledged(state, direction.reverse()),
    }
}

/// What is left of an end when a reset comes. Afterwards all count as [`has_acknowledged`], so one that has not shall expect
/// what follows the other's SYN, and not that SYN's own number.
fn settled(state: State, direction: Direction, side: Side) -> Side {
    // Before a second SYN there is nothing to expect, and after a refusal nothing fits.
    let is_settled = state == State::SynSent || has_acknowledged(state, direction);
    let ack = if is_settled { side.ack } else { side.ack.plus(1) };
    Side { ack, ..side }
}

/// Whether this end has acknowledged the other's SYN. Until then its `ack` is that SYN's own number, which nobody
/// expects any more.
fn has_acknowledged(state: State, direction: Direction) -> bool {
    match state {
        State::SynSent | State::SimultaneousSyn => false,
        State::SimultaneousOriginal => direction == Direction::Original,
        State::SimultaneousReply | State::SynReceived => direction == Direction::Reply,
        _ => true,
    }
}

fn finished(state: State, direction: Direction) -> bool {
    match state {
        State::FinBoth | State::TimeWait => true,
        State::FinOriginal => direction == Direction::Original,
        State::FinReply => direction == Direction::Reply,
        _ => false,
    }
}

/// Both FINs were sent: are both acknowledged?
fn close([original, reply]: [Side; 2]) -> State {
    let open = original.end.is_after(reply.ack) || reply.end.is_after(original.ack);
    if open { State::FinBoth } else { State::TimeWait }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tcp_flags::{ACK, FIN, PSH, RST, SYN};
    use Direction::{Original as O, Reply as R};

    proptest::proptest! {
        #[test]
        fn the_short_way_for_plain_segments_decides_as_the_table_does(
            from_originator in proptest::bool::ANY,
            flags in 0u8..64,
            sequence in 0u32..6000,
            acknowledgement in 0u32..6000,
            payload in 0u16..3000,
        ) {
            let direction = if from_originator { O } else { R };
            let segment = segment(flags | ACK, sequence, acknowledgement, payload);
            let sides = Life::established().sides;
            if is_plain(&segment) {
                let (sender, receiver) = (direction as usize, direction.reverse() as usize);
                let short = judge_plain(&sides[sender], &sides[receiver], &segment).map(|side| {
                    let mut after = sides;
                    after[sender] = side;
                    Outcome::Next(State::Established, after)
                });
                proptest::prop_assert_eq!(short, judge(State::Established, sides, direction, &segment));
            }
        }
    }

    const INVALID: Result<State, Reason> = Err(Reason::TcpInvalid);
    const OUTSIDE: Result<State, Reason> = Err(Reason::TcpOutOfWindow);

    fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload: u16) -> TcpSegment {
        TcpSegment { sequence, acknowledgement, window: 4000, flags, window_scale: None, payload }
    }

    /// A connection whose client starts at 100 and whose server starts at 500.
    struct Life {
        state: State,
        sides: [Side; 2],
    }

    impl Life {
        fn syn_sent() -> Life {
            let (original, reply) = window::opening(&segment(SYN, 100, 0, 0));
            Life { state: State::SynSent, sides: [original, reply] }
        }

        fn syn_received() -> Life {
            let mut life = Life::syn_sent();
            assert_eq!(life.see(R, SYN | ACK, 500, 101, 0), Ok(State::SynReceived));
            life
        }

        fn established() -> Life {
            let mut life = Life::syn_received();
            assert_eq!(life.see(O, ACK, 101, 501, 0), Ok(State::Established));
            life
        }

        fn time_wait() -> Life {
            let mut life = Life::established();
            assert_eq!(life.see(O, FIN | ACK, 101, 501, 0), Ok(State::FinOriginal));
            assert_eq!(life.see(R, FIN | ACK, 501, 102, 0), Ok(State::FinBoth));
            assert_eq!(life.see(O, ACK, 102, 502, 0), Ok(State::TimeWait));
            life
        }

        fn judge(
            &self,
            from: Direction,
            flags: u8,
            seq: u32,
            ack: u32,
            payload: u16,
        ) -> Result<Outcome, Reason> {
            judge(self.state, self.sides, from, &segment(flags, seq, ack, payload))
        }

        /// Takes the life on; a refusal must not.
        fn see(
            &mut self,
            from: Direction,
            flags: u8,
            seq: u32,
            ack: u32,
            payload: u16,
        ) -> Result<State, Reason> {
            match self.judge(from, flags, seq, ack, payload)? {
                Outcome::Next(state, sides) => (self.state, self.sides) = (state, sides),
                Outcome::Pass => {}
                Outcome::Reopen => panic!("reopens"),
            }
            Ok(self.state)
        }
    }

    #[test]
    fn states_are_numbered_in_order_and_have_names_of_their_own() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            assert_eq!(State::ALL.iter().filter(|s| s.name() == state.name()).count(), 1);
        }
    }

    #[test]
    fn a_syn_ack_with_a_wrong_acknowledgement_is_refused_and_the_right_one_still_counts() {
        let mut life = Life::syn_sent();
        for ack in [0, 99, 100, 102, 5000] {
            assert_eq!(life.see(R, SYN | ACK, 500, ack, 0), OUTSIDE, "{ack}");
        }
        assert_eq!(life.see(R, SYN | ACK, 500, 101, 0), Ok(State::SynReceived));
        // Nor as a retransmission.
        for ack in [0, 50, 100, 102] {
            assert_eq!(life.see(R, SYN | ACK, 500, ack, 0), OUTSIDE, "{ack}");
        }
    }

    #[test]
    fn syn_ack_from_the_originator_is_invalid() {
        assert_eq!(Life::syn_sent().see(O, SYN | ACK, 100, 501, 0), INVALID);
        assert_eq!(Life::syn_received().see(O, SYN | ACK, 100, 501, 0), INVALID);
    }

    #[test]
    fn a_syn_ack_after_the_handshake_passes_only_as_a_retransmission() {
        // The last acknowledgement of a simultaneous open may have been lost behind us; nobody remembers who sent what.
        for from in [O, R] {
            let (own, peer) = if from == O { (100, 501) } else { (500, 101) };
            assert_eq!(Life::established().see(from, SYN | ACK, own, peer, 0), Ok(State::Established));
            assert_eq!(Life::established().see(from, SYN | ACK, own + 100_000, peer, 0), OUTSIDE);
        }
    }

    #[test]
    fn a_syn_ack_that_is_no_retransmission_does_not_count_as_data() {
        let mut life = Life::established();
        assert_eq!(life.see(R, SYN | ACK, 501, 101, 0), OUTSIDE);
        assert_eq!(life.see(R, SYN | ACK, 500, 101, 10), OUTSIDE);
        assert_eq!(life.see(O, SYN | ACK, 101, 501, 0), OUTSIDE);
        assert_eq!(life.see(O, ACK, 101, 502, 0), OUTSIDE);
    }

    #[test]
    fn the_third_step_must_acknowledge_the_syn_ack_exactly() {
        let mut life = Life::syn_received();
        for ack in [0, 500u32.wrapping_sub(100), 500, 502] {
            assert_eq!(life.see(O, ACK, 101, ack, 0), OUTSIDE, "{ack}");
        }
        assert_eq!(life.see(O, ACK | PSH, 101, 501, 20), Ok(State::Established));
    }

    #[test]
    fn handshake_retransmissions_pass_and_change_nothing() {
        let mut life = Life::syn_sent();
        assert_eq!(life.see(O, SYN, 100, 0, 0), Ok(State::SynSent));
        assert_eq!(life.see(R, SYN | ACK, 500, 101, 0), Ok(State::SynReceived));
        let sides = life.sides;
        assert_eq!(life.see(O, SYN, 100, 0, 0), Ok(State::SynReceived));
        assert_eq!(life.see(R, SYN | ACK, 500, 101, 0), Ok(State::SynReceived));
        assert_eq!(life.see(R, SYN | ACK, 600, 101, 0), OUTSIDE);
        assert_eq!(life.sides, sides);
        assert_eq!(life.see(O, ACK, 101, 501, 0), Ok(State::Established));
        assert_eq!(life.see(R, SYN | ACK, 500, 101, 0), Ok(State::Established));
    }

    #[test]
    fn data_on_a_syn_is_acknowledged_in_part_or_whole() {
        for ack in [101, 120, 131] {
            // The SYN comes again without its data, which the server may have taken nevertheless.
            let mut life = {
                let (original, reply) = window::opening(&segment(SYN, 100, 0, 30));
                Life { state: State::SynSent, sides: [original, reply] }
            };
            assert_eq!(life.see(O, SYN, 100, 0, 0), Ok(State::SynSent));
            assert_eq!(life.see(R, SYN | ACK, 500, ack, 0), Ok(State::SynReceived));
            assert_eq!(life.see(O, SYN, 100, 0, 0), Ok(State::SynReceived));
            let (original, reply) = window::opening(&segment(SYN, 100, 0, 30));
            let mut life = Life { state: State::SynSent, sides: [original, reply] };
            assert_eq!(life.see(R, SYN | ACK, 500, ack, 0), Ok(State::SynReceived));
            assert_eq!(life.see(R, ACK, 501, ack, 10), Ok(State::SynReceived));
            assert_eq!(life.see(O, ACK, 131, 501, 0), Ok(State::Established));
        }
    }

    #[test]
    fn simultaneous_open_needs_a_syn_ack_of_either_end() {
        let mut life = Life::syn_sent();
        assert_eq!(life.see(R, SYN, 500, 0, 0), Ok(State::SimultaneousSyn));
        assert_eq!(life.see(O, SYN | ACK, 100, 501, 0), Ok(State::SimultaneousOriginal));
        assert_eq!(life.see(O, SYN | ACK, 100, 501, 0), Ok(State::SimultaneousOriginal));
        assert_eq!(life.see(R, SYN | ACK, 500, 101, 0), Ok(State::Established));
        assert_eq!(life.see(O, ACK, 101, 501, 100), Ok(State::Established));
        assert_eq!(life.see(R, ACK, 501, 201, 100), Ok(State::Established));

        let mut life = Life::syn_sent();
        assert_eq!(life.see(R, SYN, 500, 0, 0), Ok(State::SimultaneousSyn));
        assert_eq!(life.see(R, SYN | ACK, 500, 102, 0), OUTSIDE);
        assert_eq!(life.see(R, SYN | ACK, 500, 101, 0), Ok(State::SimultaneousReply));
        assert_eq!(life.see(O, ACK, 101, 500, 0), OUTSIDE);
        assert_eq!(life.see(O, ACK, 101, 501, 0), Ok(State::Established));
    }

    #[test]
    fn a_first_syn_ack_behind_an_acknowledgement_had_any_number_of_the_window() {
        // Both have sent a SYN, and the responder has acknowledged the originator's, in whatever way.
        for flags in [ACK, SYN | ACK] {
            let mut life = Life::syn_sent();
            assert_eq!(life.see(R, SYN, 500, 0, 0), Ok(State::SimultaneousSyn));
            let seq = if flags == ACK { 501 } else { 500 };
            assert_eq!(life.see(R, flags, seq, 101, 0), Ok(State::SimultaneousReply));
            for seq in [u32::MAX, 0, 50, 99, 101, 102] {
                let old = life.judge(O, SYN | ACK, seq, 501, 0);
                assert_eq!(old, Err(Reason::TcpOutOfWindow), "{seq}");
            }
            assert_eq!(life.see(O, SYN | ACK, 100, 501, 0), Ok(State::Established));
        }
    }

    /// Of it a simultaneous open cannot be told apart whose first SYN was lost behind us. So it may complete, where the
    /// policy lets the responder originate as well: its SYN alone does not get here otherwise.
    #[test]
    fn a_split_handshake_is_a_simultaneous_open() {
        let mut life = Life::syn_sent();
        assert_eq!(life.see(R, ACK, 900, 101, 0), Ok(State::SynSent));
        assert_eq!(life.see(R, SYN, 500, 0, 0), Ok(State::SimultaneousSyn));
        assert_eq!(life.see(R, ACK, 501, 101, 1), INVALID);
        assert_eq!(life.see(O, SYN | ACK, 100, 501, 0), Ok(State::SimultaneousOriginal));
        assert_eq!(life.see(O, ACK, 101, 501, 0), Ok(State::SimultaneousOriginal));
        assert_eq!(life.see(R, SYN, 500, 0, 0), Ok(State::SimultaneousOriginal));
        assert_eq!(life.see(R, SYN, 700, 0, 0), OUTSIDE);
        for ack in [0, 100, 102] {
            assert_eq!(life.see(R, ACK, 501, ack, 50), OUTSIDE, "{ack}");
        }
        assert!(life.state.is_half_open());
        assert_eq!(life.see(R, ACK, 501, 101, 50), Ok(State::Established));
    }

    #[test]
    fn only_an_exact_reset_closes_an_established_connection() {
        for from in [O, R] {
            let (own, peer) = if from == O { (101, 501) } else { (501, 101) };
            for seq in [own - 1, own + 1, own + 3999, own + 100_000, 0] {
                assert_eq!(Life::established().see(from, RST, seq, 0, 0), OUTSIDE, "{seq}");
                assert_eq!(Life::established().see(from, RST | ACK, seq, peer, 0), OUTSIDE, "{seq}");
            }
            let mut life = Life::established();
            assert_eq!(life.see(from, RST, own, 0, 0), Ok(State::Closed));
            assert_eq!(life.see(from.reverse(), ACK, peer, own, 10), INVALID);
        }
    }

    #[test]
    fn a_reset_before_a_gap_closes() {
        let mut life = Life::established();
        assert_eq!(life.see(O, ACK, 101, 501, 1000), Ok(State::Established));
        // The server has acknowledged nothing of it: it expects 101, we have seen up to 1101.
        assert_eq!(life.judge(O, RST, 600, 0, 0), Err(Reason::TcpOutOfWindow));
        assert!(matches!(life.judge(O, RST, 101, 0, 0), Ok(Outcome::Next(State::Closed, _))));
        assert!(matches!(life.judge(O, RST, 1101, 0, 0), Ok(Outcome::Next(State::Closed, _))));
    }

    #[test]
    fn a_reset_answers_a_syn_only_with_the_right_acknowledgement() {
        assert_eq!(Life::syn_sent().see(R, RST, 0, 0, 0), OUTSIDE);
        assert_eq!(Life::syn_sent().see(R, RST | ACK, 0, 100, 0), OUTSIDE);
        assert_eq!(Life::syn_sent().see(R, RST | ACK, 0, 102, 0), OUTSIDE);
        let mut life = Life::syn_sent();
        assert_eq!(life.see(R, RST | ACK, 0, 101, 0), Ok(State::Closed));
        assert_eq!(life.see(R, RST | ACK, 0, 101, 0), INVALID);
        assert_eq!(life.see(O, ACK, 101, 0, 0), INVALID);
        assert_eq!(Life::syn_sent().see(O, RST, 101, 0, 0), Ok(State::Closed));
    }

    #[test]
    fn after_its_fin_an_inexact_reset_of_that_end_closes_and_none_of_the_other() {
        for from in [O, R] {
            let (own, peer) = if from == O { (101, 501) } else { (501, 101) };
            let mut life = Life::established();
            assert!(life.see(from, ACK, own, peer, 1000).is_ok());
            assert!(life.see(from, FIN | ACK, own + 1000, peer, 0).is_ok());
            assert_eq!(life.see(from, RST, own + 4002, 0, 0), OUTSIDE);
            assert_eq!(life.see(from.reverse(), RST, peer + 10, 0, 0), OUTSIDE);
            assert_eq!(life.see(from, RST, own + 500, 0, 0), Ok(State::Closed));
        }
    }

    #[test]
    fn no_reset_is_believed_at_the_number_of_a_syn() {
        assert_eq!(Life::syn_received().see(R, RST, 500, 0, 0), OUTSIDE);
        assert_eq!(Life::syn_received().see(R, RST, 501, 0, 0), Ok(State::Closed));
        assert_eq!(Life::syn_received().see(O, RST, 100, 0, 0), OUTSIDE);
        assert_eq!(Life::syn_received().see(O, RST, 101, 0, 0), Ok(State::Closed));
    }

    #[test]
    fn a_reset_that_left_a_gap_behind_us_is_challenged_and_answered_across_the_closed_connection() {
        let mut life = Life::established();
        assert_eq!(life.see(O, ACK, 101, 501, 1000), Ok(State::Established));
        assert_eq!(life.see(O, RST, 1101, 0, 0), Ok(State::Closed));
        assert_eq!(life.see(R, ACK, 501, 101, 1), INVALID);
        assert_eq!(life.see(R, ACK, 501, 1102, 0), OUTSIDE);
        assert_eq!(life.see(R, ACK, 501, 101, 0), Ok(State::Closed));
        assert_eq!(life.see(O, RST, 102, 0, 0), OUTSIDE);
        assert_eq!(life.see(O, RST, 101, 0, 0), Ok(State::Closed));
    }

    #[test]
    fn a_reset_with_the_number_of_the_syn_passes_no_more_often_after_a_reset_than_before() {
        let mut life = Life::syn_received();
        assert_eq!(life.see(R, ACK, 501, 101, 30), Ok(State::SynReceived));
        assert_eq!(life.see(R, RST, 500, 0, 0), OUTSIDE);
        assert_eq!(life.see(R, RST, 531, 0, 0), Ok(State::Closed));
        assert_eq!(life.see(R, RST, 500, 0, 0), OUTSIDE);
        // What an originator expects that has got the SYN-ACK and nothing after it.
        assert_eq!(life.see(R, RST, 501, 0, 0), Ok(State::Closed));

        let mut life = Life::syn_sent();
        assert_eq!(life.see(R, SYN, 500, 0, 0), Ok(State::SimultaneousSyn));
        assert_eq!(life.see(O, RST, 101, 0, 0), Ok(State::Closed));
        for (from, number) in [(O, 100), (R, 500)] {
            assert_eq!(life.see(from, RST, number, 0, 0), OUTSIDE);
            assert_eq!(life.see(from, RST, number + 1, 0, 0), Ok(State::Closed));
        }
    }

    #[test]
    fn a_responder_may_close_before_the_third_step() {
        let mut life = Life::syn_received();
        assert_eq!(life.see(R, FIN | ACK, 501, 101, 30), Ok(State::FinReply));
        assert_eq!(life.see(O, ACK, 101, 532, 0), Ok(State::FinReply));
        assert_eq!(life.see(O, FIN | ACK, 101, 532, 0), Ok(State::FinBoth));
        assert_eq!(life.see(R, ACK, 532, 102, 0), Ok(State::TimeWait));
    }

    #[test]
    fn a_restarted_originator_gets_its_challenge_and_may_then_reuse_the_tuple() {
        let mut life = Life::established();
        assert_eq!(life.see(O, SYN, 9000, 0, 0), Ok(State::Established));
        assert_eq!(life.see(R, ACK, 501, 101, 0), Ok(State::Established));
        assert_eq!(life.see(O, RST, 101, 0, 0), Ok(State::Closed));
        assert_eq!(life.judge(O, SYN, 9000, 0, 0), Ok(Outcome::Reopen));
        // The responder likewise, where the policy lets it originate; and before the handshake is complete.
        assert_eq!(Life::established().see(R, SYN, 9000, 0, 0), Ok(State::Established));
        let mut life = Life::syn_received();
        assert_eq!(life.see(O, SYN, 9000, 0, 0), Ok(State::SynReceived));
        assert_eq!(life.see(R, ACK, 501, 101, 0), Ok(State::SynReceived));
        assert_eq!(life.see(O, RST, 101, 0, 0), Ok(State::Closed));
    }

    #[test]
    fn a_challenge_ack_to_a_syn_crosses_without_data_and_so_does_its_reset() {
        let mut life = Life::syn_sent();
        assert_eq!(life.see(R, ACK, 7000, 3000, 0), Ok(State::SynSent));
        assert_eq!(life.see(R, ACK, 7000, 3000, 1), INVALID);
        assert_eq!(life.see(O, RST, 3000, 0, 0), Ok(State::SynSent));
        assert_eq!(life.see(R, SYN | ACK, 500, 101, 0), Ok(State::SynReceived));
    }

    #[test]
    fn a_fin_older_than_what_was_sent_does_not_keep_out_what_is_still_to_come() {
        for from in [O, R] {
            let (own, peer, closing) =
                if from == O { (101, 501, State::FinOriginal) } else { (501, 101, State::FinReply) };
            let mut life = Life::established();
            assert_eq!(life.see(from, ACK, own, peer, 1000), Ok(State::Established));
            for (seq, payload) in [(own.wrapping_sub(5000), 0), (own, 0), (own + 999, 0), (own, 999)] {
                assert_eq!(life.see(from, FIN | ACK, seq, peer, payload), Ok(State::Established), "{seq}");
            }
            assert_eq!(life.see(from, ACK, own + 1000, peer, 500), Ok(State::Established));
            assert_eq!(life.see(from, FIN | ACK, own + 1500, peer, 0), Ok(closing));
            assert_eq!(life.see(from, FIN | ACK, own + 1500, peer, 0), Ok(closing));
        }
        let mut life = Life::syn_received();
        assert_eq!(life.see(R, FIN | ACK, 400, 50, 0), Ok(State::SynReceived));
        assert_eq!(life.see(R, ACK, 501, 101, 30), Ok(State::SynReceived));
        assert_eq!(life.see(O, FIN | ACK, 100, 400, 0), OUTSIDE);
        assert_eq!(life.see(O, FIN | ACK, 100, 531, 0), Ok(State::Established));
        // Nor where none is due at all.
        assert_eq!(Life::syn_sent().see(R, FIN | ACK, 0, 101, 0), INVALID);
    }

    #[test]
    fn a_half_closed_connection_goes_on_in_the_other_direction_only() {
        let mut life = Life::established();
        assert_eq!(life.see(O, FIN | ACK, 101, 501, 5), Ok(State::FinOriginal));
        assert_eq!(life.see(R, ACK, 501, 107, 1000), Ok(State::FinOriginal));
        assert_eq!(life.see(O, ACK, 107, 1501, 0), Ok(State::FinOriginal));
        assert_eq!(life.see(O, ACK, 107, 1501, 1), OUTSIDE);
        assert_eq!(life.see(O, FIN | ACK, 106, 1501, 0), Ok(State::FinOriginal));
        assert_eq!(life.see(R, FIN | ACK, 1501, 107, 0), Ok(State::FinBoth));
        assert_eq!(life.see(O, ACK, 107, 1502, 0), Ok(State::TimeWait));
    }

    #[test]
    fn crossing_fins_close_when_both_are_acknowledged() {
        let mut life = Life::established();
        assert_eq!(life.see(R, FIN | ACK, 501, 101, 0), Ok(State::FinReply));
        assert_eq!(life.see(O, FIN | ACK, 101, 501, 0), Ok(State::FinBoth));
        assert_eq!(life.see(R, ACK, 502, 102, 0), Ok(State::FinBoth));
        assert_eq!(life.see(O, ACK, 102, 502, 0), Ok(State::TimeWait));
    }

    #[test]
    fn time_wait_survives_resets_and_old_syns_and_yields_to_a_new_one() {
        let mut life = Life::time_wait();
        assert_eq!(life.see(O, RST, 102, 0, 0), Ok(State::TimeWait));
        assert_eq!(life.see(R, FIN | ACK, 501, 102, 0), Ok(State::TimeWait));
        assert_eq!(life.judge(O, SYN, 101, 0, 0), Err(Reason::TcpOutOfWindow));
        assert_eq!(life.judge(O, SYN, 102, 0, 0), Ok(Outcome::Reopen));
        assert_eq!(life.judge(R, SYN, 400, 0, 0), Err(Reason::TcpOutOfWindow));
        assert_eq!(life.judge(R, SYN, 502u32.wrapping_sub(70_000), 0, 0), Err(Reason::TcpOutOfWindow));
        assert_eq!(life.judge(R, SYN, 502u32.wrapping_sub(70_001), 0, 0), Ok(Outcome::Reopen));
        assert_eq!(life.judge(R, SYN, 90_000, 0, 0), Ok(Outcome::Reopen));
    }

    #[test]
    fn flag_combinations_that_no_tcp_sends_are_invalid_in_every_state() {
        for state in State::ALL {
            for flags in [0, PSH, FIN, SYN | FIN, SYN | RST, FIN | RST, SYN | FIN | RST | ACK] {
                let refused = judge(state, Life::established().sides, O, &segment(flags, 101, 501, 0));
                assert_eq!(refused, Err(Reason::TcpInvalid), "{state:?} {flags:#x}");
            }
        }
    }

    #[test]
    fn other_protocols_have_no_tcp_states() {
        for state in &State::ALL[TCP_STATES..] {
            let refused = judge(*state, Life::established().sides, O, &segment(ACK, 101, 501, 0));
            assert_eq!(refused, Err(Reason::TcpInvalid));
        }
    }
}
