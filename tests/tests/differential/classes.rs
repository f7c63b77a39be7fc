//! To which class of the ledger a difference belongs: by the packet and by what has passed before it.

use bulkhead_tests::dialogue::Segment;

use crate::cause::Cause;
use crate::conntrack::{Fate, State, Turn};
use crate::generate::{Body, Connection, Oddity, Packet};
use crate::story::{Story, is_after, length};
use crate::twins::Twin;

/// An acknowledgement may be so old in a small window (van Rooij's paper; `dataplane/src/connection/window.rs`).
const AGE: u32 = 66_000;
/// The most that data may lie behind what was sent last (likewise).
const DATA_AGE: u32 = 1 << 30;

/// The class of a packet that only this gateway has let through, if there is one; `fate` is what conntrack makes of a
/// segment, as far as it gets to see it.
pub fn class(
    connection: &Connection,
    packet: &Packet,
    passed: Twin,
    fate: Option<Fate>,
) -> Option<&'static str> {
    if let Some(class) = packet.oddity.and_then(|oddity| of_oddity(oddity, passed)) {
        return Some(class);
    }
    match (&packet.body, passed) {
        (Body::Tcp(segment), Twin::Nftables) => stricter(connection, packet.from, segment, fate?),
        (Body::Tcp(segment), Twin::Bulkhead) if belongs(&connection.story, packet.from, segment) => {
            looser(connection, packet.from, segment, fate?)
        }
        (Body::Error { .. }, Twin::Bulkhead) => forgotten(connection),
        (Body::Error { about, quoted }, Twin::Nftables) => error(connection, about, *quoted),
        _ => None,
    }
}

/// Where conntrack has no connection any more and we have.
fn forgotten(connection: &Connection) -> Option<&'static str> {
    let story = &connection.story;
    let is_answered = story.ends[1 - story.originator].initial.is_some();
    match connection.causes.gone? {
        Cause::Reset if story.challenged => Some("reset-for-a-challenge"),
        Cause::Reset if story.reset && !is_answered => Some("error-after-refusal"),
        Cause::ClosingSyn => Some("after-a-closing-syn"),
        _ => None,
    }
}

fn of_oddity(oddity: Oddity, passed: Twin) -> Option<&'static str> {
    match (oddity, passed) {
        (Oddity::Checksum, Twin::Bulkhead) => Some("checksum-in-a-connection"),
        (Oddity::ForeignSource, Twin::Nftables) => Some("foreign-source"),
        (Oddity::ReservedFlag, Twin::Nftables) => Some("reserved-flag"),
        (Oddity::Option, Twin::Nftables) => Some("ipv4-option"),
        (Oddity::Extensions, Twin::Nftables) => Some("extension-order"),
        (Oddity::PortZero, Twin::Nftables) => Some("port-zero"),
        (Oddity::ErrorCode, Twin::Nftables) => Some("error-code"),
        (Oddity::Redirect, Twin::Nftables) => Some("redirect"),
        (Oddity::SmallMtu, Twin::Nftables) => Some("small-mtu"),
        (Oddity::EchoCode, Twin::Nftables) => Some("echo-code"),
        (Oddity::Again, Twin::Nftables) => Some("fragments-again"),
        (Oddity::Overlap, Twin::Nftables) => Some("after-overlap"),
        _ => None,
    }
}

/// Where a segment lies in a connection of which both SYNs have passed.
struct Place {
    /// Its data, or what it acknowledges.
    is_old: bool,
    /// Ends beyond the window.
    is_beyond: bool,
    /// Acknowledges what was not sent.
    is_unsent: bool,
}

impl Place {
    fn of(story: &Story, from: usize, segment: &Segment) -> Place {
        let header = &segment.header;
        let [me, peer] = [story.ends[from], story.ends[1 - from]];
        let (seq, ack) = (header.sequence_number, header.acknowledgment_number);
        let oldest = peer.end.wrapping_sub(me.window.max(AGE));
        Place {
            is_old: is_after(me.end.wrapping_sub((peer.window + AGE).min(DATA_AGE)), seq)
                || header.ack && is_after(oldest, ack),
            is_beyond: is_after(seq.wrapping_add(length(segment)), peer.limit),
            is_unsent: header.ack && is_after(ack, peer.end),
        }
    }
}

/// Whether the story is one in which a segment may come. Of what only we let through nothing else has a class, whatever
/// conntrack knows.
fn belongs(story: &Story, from: usize, segment: &Segment) -> bool {
    let header = &segment.header;
    let [me, peer] = [story.ends[from], story.ends[1 - from]];
    let (seq, ack) = (header.sequence_number, header.acknowledgment_number);
    let is_empty = length(segment) == 0;
    let answers = header.ack && peer.initial.is_some_and(|initial| is_after(ack, initial));
    match (me.initial, peer.initial) {
        // A question, or the first of a connection.
        _ if header.syn && !header.ack => true,
        // A refusal, a SYN-ACK, or a challenge.
        (None, _) => is_empty && !header.rst || answers && !is_after(ack, peer.end),
        // What answers a challenge.
        (_, None) => header.rst,
        _ if header.rst => Some(seq) == expected(story, from) || seq == me.end || me.fin,
        _ => {
            let Place { is_old, is_beyond, is_unsent } = Place::of(story, from, segment);
            let is_out = is_old || is_beyond || is_unsent || story.reset && !is_empty;
            // After a reset nobody remembers who has finished, and after a FIN nobody whether the third step had come.
            let follows_fin = me.fin && !story.reset && is_after(seq.wrapping_add(length(segment)), me.end);
            !is_out && !follows_fin && (me.ack.is_some() || peer.fin || answers)
        }
    }
}

/// What the other end expects next: after a reset, if it has acknowledged nothing, what follows the SYN.
fn expected(story: &Story, from: usize) -> Option<u32> {
    let after_syn = story.ends[from].initial.filter(|_| story.reset).map(|initial| initial.wrapping_add(1));
    story.ends[1 - from].ack.or(after_syn)
}

/// Whether conntrack takes the connection for closed, for a reset of the originator before the SYN-ACK that changed nothing.
fn is_held_closed(connection: &Connection) -> bool {
    let story = &connection.story;
    story.challenged && !story.reset && connection.conntrack.state() == State::Close
}

/// Where nftables lets a segment through and we do not.
fn stricter(connection: &Connection, from: usize, segment: &Segment, fate: Fate) -> Option<&'static str> {
    let (story, header) = (&connection.story, &segment.header);
    let [me, peer] = [story.ends[from], story.ends[1 - from]];
    let (is_original, state) = (from == story.originator, connection.conntrack.state());
    let (seq, ack) = (header.sequence_number, header.acknowledgment_number);
    let end = seq.wrapping_add(length(segment));
    let answers =
        header.ack && peer.initial.is_some_and(|initial| is_after(ack, initial)) && !is_after(ack, peer.end);
    if story.reset && story.ends.iter().any(|end| end.initial.is_none()) {
        return Some("after-reset");
    }
    if header.rst && me.initial.is_none() {
        return (!answers).then_some("reset-for-a-syn");
    }
    if header.rst {
        let exact = Some(seq) == peer.ack || seq == me.end;
        let class = if story.forgets(from, segment) { "both-restart" } else { "inexact-reset" };
        return (!exact).then_some(class);
    }
    let Place { is_old, is_beyond, is_unsent } = Place::of(story, from, segment);
    if story.reset {
        let is_empty = !header.syn && length(segment) == 0;
        let class = if story.forgotten { "after-a-restart" } else { "after-reset" };
        return (!is_empty || is_old || is_beyond || is_unsent).then_some(class);
    }
    if header.syn && !header.ack {
        let closed = story.is_closed() && !is_after(seq, me.end);
        return match (closed, from == story.originator) {
            (true, _) => Some("old-syn"),
            (false, true) => story.simultaneous.then_some("new-crossed-syn"),
            (false, false) => Some("responder-originates"),
        };
    }
    let crossing = story.simultaneous && me.ack.is_none() && peer.ack.is_none() && !header.syn;
    if crossing && (!segment.payload.is_empty() || from != story.originator && Some(seq) != me.initial) {
        return Some("data-for-a-syn");
    }
    if me.initial.is_none() {
        return match (header.syn, answers) {
            (true, false) => Some("wrong-syn-ack"),
            (false, _) => Some("data-for-a-syn"),
            (true, true) => None,
        };
    }
    if header.syn && connection.conntrack.turn == Turn::StartedOver && story.forgets(from, segment) {
        return Some("both-restart");
    }
    if header.syn && Some(seq) == me.initial && story.is_closed() {
        return Some("late-syn-ack");
    }
    if header.syn && from == story.originator && me.ack.is_none() && !story.simultaneous {
        return Some("split-syn-ack");
    }
    let is_less = me.ack.is_some_and(|known| peer.ack.is_none() && is_after(known, ack));
    if header.syn && (Some(seq) != me.initial || !answers || is_less || is_after(end, me.end)) {
        return Some("wrong-syn-ack");
    }
    let is_ignored = connection.causes.end[1 - from] == Some(Cause::NewSyn);
    if peer.initial.is_none() && is_original && (state == State::Close || is_ignored) {
        return Some("old-after-a-new-syn");
    }
    if fate == Fate::Aside {
        return Some("taken-for-a-challenge");
    }
    if me.ack.is_none() && header.ack && peer.initial.is_some_and(|initial| !is_after(ack, initial)) {
        return Some("wrong-third-step");
    }
    out_of_place(connection, from, segment)
}

/// Where a segment of an open connection is outside the windows, or behind its sender's FIN.
fn out_of_place(connection: &Connection, from: usize, segment: &Segment) -> Option<&'static str> {
    let (story, causes) = (&connection.story, &connection.causes);
    let me = story.ends[from];
    let end = segment.header.sequence_number.wrapping_add(length(segment));
    let Place { is_old, is_beyond, is_unsent } = Place::of(story, from, segment);
    if is_old {
        return Some("too-old");
    }
    if me.fin && is_after(end, me.end) {
        return Some("beyond-fin");
    }
    if (is_unsent || is_beyond) && is_held_closed(connection) {
        return Some("unknown-after-a-reset");
    }
    if is_unsent {
        return by_more_than_was_sent(causes.end[1 - from]?);
    }
    let by_cause = causes.limit[from].and_then(by_more_than_was_sent);
    is_beyond.then_some(by_cause.unwrap_or("over-the-window"))
}

/// Where conntrack takes for sent or granted what was not.
fn by_more_than_was_sent(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::Dropped => Some("believed-when-dropped"),
        Cause::Reset => Some("end-of-a-reset"),
        Cause::SmallerSyn => Some("end-of-a-replaced-syn"),
        _ => None,
    }
}

/// Where we let a segment through and nftables does not.
fn looser(connection: &Connection, from: usize, segment: &Segment, fate: Fate) -> Option<&'static str> {
    let (story, header) = (&connection.story, &segment.header);
    let me = story.ends[from];
    let (causes, state) = (&connection.causes, connection.conntrack.state());
    let is_original = from == story.originator;
    let is_answered = story.ends[1 - story.originator].initial.is_some();
    let opens = header.syn && !header.ack;
    let seq = header.sequence_number;
    match fate {
        Fate::Flags => header.urg.then_some("urgent"),
        Fate::Unknown => forgotten(connection),
        Fate::Beyond | Fate::Unsent if header.rst && is_original && !is_answered => {
            Some("reset-for-a-challenge")
        }
        Fate::Beyond | Fate::Unsent if me.initial.is_none() && causes.end[from] == Some(Cause::NewSyn) => {
            Some("new-after-a-reset")
        }
        Fate::Beyond | Fate::Unsent | Fate::State if is_held_closed(connection) => Some("open-after-a-reset"),
        Fate::Beyond if opens && is_original => {
            (seq.wrapping_sub(me.end) == 1 << 31).then_some("opposite-syn")
        }
        Fate::State if opens => {
            (!is_original && connection.may_originate(from)).then_some("responder-restarts")
        }
        Fate::State if is_original && header.syn => Some("crossed-syns"),
        Fate::State if state == State::CrossedSyns => Some("crossed-syns"),
        Fate::State => by_less_than_was_sent(causes.waits?),
        Fate::OldReset if story.reset => {
            let (expected, believed) = (expected(story, from), connection.conntrack.ends()?[1 - from].ack);
            (Some(seq) == expected && believed != expected).then_some("reset-after-a-reset")
        }
        Fate::OldReset => (me.fin && !state.is_closing()).then_some("reset-after-an-ignored-fin"),
        Fate::Unsent if header.rst => {
            (Some(seq) == expected(story, from) || seq == me.end || me.fin).then_some("reset-with-any-ack")
        }
        Fate::Beyond => by_less_than_was_sent(causes.limit[from].or(causes.end[from])?),
        Fate::Unsent => by_less_than_was_sent(causes.end[1 - from]?),
        Fate::Taken | Fate::Aside | Fate::Over | Fate::Old => None,
    }
}

/// Where conntrack does not know what was sent or granted.
fn by_less_than_was_sent(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::SynWindow => Some("early-data"),
        Cause::Dropped => Some("misled-when-dropped"),
        Cause::Old => Some("window-of-an-old-segment"),
        Cause::SmallerSyn => Some("smaller-syn"),
        Cause::HandshakeAgain => Some("handshake-again"),
        Cause::OldSynAck => Some("old-syn-ack"),
        Cause::ClosingSyn => Some("after-a-closing-syn"),
        Cause::NewSyn => Some("new-after-a-reset"),
        Cause::CrossedSyn => Some("crossed-syns"),
        Cause::SynAckAgain => Some("syn-ack-again"),
        Cause::Reset | Cause::Aside | Cause::Other => None,
    }
}

/// An error that nftables lets through and we do not.
fn error(connection: &Connection, about: &Packet, quoted: usize) -> Option<&'static str> {
    if quoted < connection.family.header_bytes() + 8 {
        return Some("short-quote");
    }
    if connection.told.contains(&about.key()) {
        return Some("error-again");
    }
    let Body::Tcp(segment) = &about.body else { return None };
    let story = &connection.story;
    let [sender, receiver] = [story.ends[about.from], story.ends[1 - about.from]];
    let seq = segment.header.sequence_number;
    // By distance: a number half the circle away comes neither before nor after.
    let in_flight = sender.initial.is_some_and(|initial| {
        let first = receiver.ack.unwrap_or(initial);
        seq.wrapping_sub(first) <= sender.end.wrapping_sub(first)
    });
    (!in_flight).then_some("quote-not-in-flight")
}
