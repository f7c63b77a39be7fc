//! To which class of the ledger a difference belongs: by the packet and by what has passed before it.

use bulkhead_tests::dialogue::Segment;

use crate::generate::{Body, Connection, Oddity, Packet};
use crate::story::{Story, is_after, length};
use crate::twins::Twin;

/// An acknowledgement may be so old in a small window (van Rooij's paper; `dataplane/src/connection/window.rs`).
const AGE: u32 = 66_000;
/// The most that data may lie behind what was sent last (likewise).
const DATA_AGE: u32 = 1 << 30;

/// The class of a packet that only this gateway has let through, if there is one.
pub fn class(connection: &Connection, packet: &Packet, passed: Twin) -> Option<&'static str> {
    if let Some(class) = packet.oddity.and_then(|oddity| of_oddity(oddity, passed)) {
        return Some(class);
    }
    match (&packet.body, passed) {
        (Body::Tcp(segment), Twin::Nftables) => stricter(&connection.story, packet.from, segment),
        (Body::Tcp(segment), Twin::Bulkhead) => looser(connection, packet.from, segment),
        (Body::Error { .. }, Twin::Bulkhead) => {
            let story = &connection.story;
            let unanswered = story.ends[1 - story.originator].initial.is_none();
            match (story.challenged, story.reset && unanswered) {
                (true, _) => Some("reset-for-a-challenge"),
                (false, true) => Some("error-after-refusal"),
                (false, false) => None,
            }
        }
        (Body::Error { about, quoted }, Twin::Nftables) => error(connection, about, *quoted),
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

/// Where nftables lets a segment through and we do not.
fn stricter(story: &Story, from: usize, segment: &Segment) -> Option<&'static str> {
    let header = &segment.header;
    let [me, peer] = [story.ends[from], story.ends[1 - from]];
    let (seq, ack) = (header.sequence_number, header.acknowledgment_number);
    let end = seq.wrapping_add(length(segment));
    let answers =
        header.ack && peer.initial.is_some_and(|initial| is_after(ack, initial)) && !is_after(ack, peer.end);
    if story.reset && from == story.originator && peer.initial.is_none() {
        return Some("after-reset");
    }
    if header.rst && me.initial.is_none() {
        return (!answers).then_some("reset-for-a-syn");
    }
    if header.rst {
        let exact = Some(seq) == peer.ack || seq == me.end;
        return (!exact).then_some("inexact-reset");
    }
    if story.reset {
        return Some("after-reset");
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
    if story.forgotten || header.syn && Some(ack) == story.asked {
        return Some("both-restart");
    }
    if header.syn && Some(seq) == me.initial && story.is_closed() {
        return Some("late-syn-ack");
    }
    let instead = header.syn && from == story.originator && me.ack.is_none() && !story.simultaneous;
    let granted = !is_after(ack, peer.end) && !is_after(end, peer.limit);
    if instead || story.split && header.ack && !granted {
        return Some("split-syn-ack");
    }
    if header.syn && (Some(seq) != me.initial || !answers || is_after(end, me.end)) {
        return Some("wrong-syn-ack");
    }
    if me.ack.is_none() && header.ack && !answers {
        return Some("wrong-third-step");
    }
    let oldest = peer.end.wrapping_sub(me.window.max(AGE));
    let age = (peer.window + AGE).min(DATA_AGE);
    if is_after(me.end.wrapping_sub(age), seq) || header.ack && is_after(oldest, ack) {
        return Some("too-old");
    }
    if me.fin && is_after(end, me.end) {
        return Some("beyond-fin");
    }
    let edge = peer.limit.wrapping_add(peer.closed_windows);
    let near = !is_after(seq, edge) || !is_after(end, edge.wrapping_add(2 * peer.window));
    (is_after(end, peer.limit) && near).then_some("over-the-window")
}

/// Where we let a segment through and nftables does not.
fn looser(connection: &Connection, from: usize, segment: &Segment) -> Option<&'static str> {
    let (story, header) = (&connection.story, &segment.header);
    if header.urg && (header.rst || header.syn && header.ack) {
        return Some("urgent");
    }
    if header.rst && from == story.originator && story.ends[1 - from].initial.is_none() && !story.reset {
        return Some("reset-for-a-challenge");
    }
    if story.challenged {
        return Some("reset-for-a-challenge");
    }
    let opposite = header.sequence_number.wrapping_sub(story.ends[from].end) == 1 << 31;
    if header.syn && !header.ack && from == story.originator && opposite {
        return Some("opposite-syn");
    }
    if story.closing_syn {
        return Some("after-a-closing-syn");
    }
    if story.renumbered {
        return Some("old-syn-ack");
    }
    if story.smaller && from != story.originator && story.ends[story.originator].ack.is_none() {
        return Some("smaller-syn");
    }
    let [me, peer] = [story.ends[from], story.ends[1 - from]];
    let (seq, ack) = (header.sequence_number, header.acknowledgment_number);
    let end = seq.wrapping_add(length(segment));
    if story.early && header.ack || peer.ack.is_none() && end == peer.limit {
        return Some("early-data");
    }
    if header.rst {
        let oldest = peer.end.wrapping_sub(me.window.max(AGE));
        let plausible = !header.ack || !is_after(ack, peer.end) && !is_after(oldest, ack);
        let fits = Some(seq) == peer.ack || seq == me.end;
        let after_fin = me.fin && is_after(me.end, peer.heeded);
        if after_fin {
            return Some("window-of-an-old-segment");
        }
        return (!plausible && fits).then_some("reset-with-any-ack");
    }
    if header.ack && story.simultaneous && (me.ack.is_none() || peer.ack.is_none()) {
        return Some("crossed-syns");
    }
    if header.syn && header.ack && from == story.originator && !is_after(end, me.end) {
        return Some("crossed-syns");
    }
    if !is_after(end, peer.limit) && is_after(end, peer.heeded) {
        return Some("window-of-an-old-segment");
    }
    let restarts = header.syn && !header.ack && from != story.originator && connection.may_originate(from);
    restarts.then_some("responder-restarts")
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
