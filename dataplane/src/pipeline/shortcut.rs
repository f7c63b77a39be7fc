//! The shortcut that nearly all packets take: plain ones of connections in which nothing special is going on.
//!
//! Memory is what such a packet waits for most. So it goes through four steps, a few packets apart, and in the time
//! between them the memory works: it is read, and its connection's bucket asked for; the entry that the bucket names is
//! asked for; the counters of the rule that the entry names are; and then it has its turn.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Context, Pipeline};
use crate::connection::{Family, Guess, Hash, Map, Stamp};
use crate::counters::RuleRow;
use crate::headers::{self, AnyPlain, Plain};
use crate::packet::FrameBuf;
use crate::rewrite;
use crate::topology::{Egress, Hop, Mac};
use crate::verdict::{Direction, PortId, Verdict};
use crate::wire::ethernet;

/// How many packets before its turn a packet is read, and its connection's bucket asked for.
const BUCKET_AHEAD: usize = 16;
/// How many packets before its turn the entry that the bucket names is asked for.
const ENTRY_AHEAD: usize = 10;
/// The same for the counters of the rule that the entry names.
const RULE_AHEAD: usize = 3;
/// Packets that are under way between reading and verdict, and room for the next: a power of two.
const WINDOW: usize = 32;

/// Judges a burst, see [`Pipeline::process`].
pub(super) fn process<F: FrameBuf>(
    pipeline: &mut Pipeline,
    context: &Context<'_>,
    ingress: PortId,
    frames: &mut [F],
    verdicts: &mut Vec<Verdict>,
) {
    let counters = context.snapshot.policy.counters.row(pipeline.index);
    let own = context.snapshot.topology.port(ingress).map(|port| port.mac).unwrap_or_default();
    let mut looks = [Look::No; WINDOW];
    for step in 0..frames.len() + BUCKET_AHEAD {
        if let Some(frame) = frames.get(step) {
            looks[step % WINDOW].read(context, &own, frame.bytes());
        }
        if let Some(number) = step.checked_sub(BUCKET_AHEAD - ENTRY_AHEAD) {
            looks[number % WINDOW].guess(context);
        }
        if let Some(number) = step.checked_sub(BUCKET_AHEAD - RULE_AHEAD) {
            looks[number % WINDOW].prefetch_rule(context, counters);
        }
        let Some(number) = step.checked_sub(BUCKET_AHEAD) else { continue };
        let Some(frame) = frames.get_mut(number) else { continue };
        let look = &mut looks[number % WINDOW];
        let verdict = pass(context, counters, ingress, frame.bytes_mut(), look)
            .unwrap_or_else(|| pipeline.judge(context, ingress, frame));
        verdicts.push(verdict);
        *look = Look::No;
    }
}

/// The verdict on a plain packet of which nothing more need be known.
#[inline(always)]
fn pass(
    context: &Context<'_>,
    counters: RuleRow<'_>,
    ingress: PortId,
    frame: &mut [u8],
    look: &Look,
) -> Option<Verdict> {
    let (hop, is_v4, hop_limit) = match look {
        Look::No => return None,
        Look::V4(plain, hash, guess) => {
            let place = (*hash, *guess);
            (pass_plain(context, counters, ingress, &context.table.v4, plain, place)?, true, plain.hop_limit)
        }
        Look::V6(plain, hash, guess) => {
            let place = (*hash, *guess);
            (pass_plain(context, counters, ingress, &context.table.v6, plain, place)?, false, plain.hop_limit)
        }
    };
    rewrite::forward_at(frame, ethernet::HEADER_BYTES, is_v4, hop_limit, hop)
        .then_some(Verdict::Forward(hop.port))
}

/// What the first steps know of a frame: that it is plain, and where its connection probably lies.
#[derive(Clone, Copy)]
enum Look {
    /// Not plain: to be judged in full.
    No,
    V4(Plain<Ipv4Addr>, Hash, Guess),
    V6(Plain<Ipv6Addr>, Hash, Guess),
}

impl Look {
    /// Reads the frame, and asks for the bucket where its connection lies.
    #[inline(always)]
    fn read(&mut self, context: &Context<'_>, own: &Mac, frame: &[u8]) {
        let (table, topology) = (context.table, &context.snapshot.topology);
        // That much of `sanity::check` has to be seen every time. Of the addresses the rest was seen when the connection
        // was opened, and whether the destination is a special one is seen where its next hop is looked up.
        let is_ours = frame.first_chunk() == Some(own);
        match headers::plain(frame) {
            Some(AnyPlain::V4(plain)) if is_ours && !topology.may_be_special(plain.tuple.source) => {
                let hash = table.v4.hash(&plain.tuple);
                table.v4.prefetch(hash);
                *self = Look::V4(plain, hash, Guess::default());
            }
            Some(AnyPlain::V6(plain)) if is_ours && !topology.may_be_special(plain.tuple.source) => {
                let hash = table.v6.hash(&plain.tuple);
                table.v6.prefetch(hash);
                *self = Look::V6(plain, hash, Guess::default());
            }
            _ => *self = Look::No,
        }
    }

    /// Looks into the bucket, and asks for the entry.
    #[inline(always)]
    fn guess(&mut self, context: &Context<'_>) {
        match self {
            Look::No => {}
            Look::V4(_, hash, guess) => *guess = context.table.v4.guess(*hash),
            Look::V6(_, hash, guess) => *guess = context.table.v6.guess(*hash),
        }
    }

    /// Looks into the entry, and asks for the counters of its rule.
    #[inline(always)]
    fn prefetch_rule(&self, context: &Context<'_>, counters: RuleRow<'_>) {
        match *self {
            Look::No => {}
            Look::V4(.., guess) => counters.prefetch(context.table.v4.guessed_rule(guess)),
            Look::V6(.., guess) => counters.prefetch(context.table.v6.guessed_rule(guess)),
        }
    }
}

/// Where a plain packet of a connection goes in which nothing special is going on: its judgement is of this policy, it
/// comes and leaves by the ports that belong to it, and its next hop is known. Such a packet is tracked and counted, and
/// most packets are such. `None` says nothing and has changed nothing: the packet is to be judged in full, which would
/// have let this one pass just the same.
#[inline(always)]
fn pass_plain<'c, A: Family>(
    context: &Context<'c>,
    counters: RuleRow<'_>,
    ingress: PortId,
    map: &Map<A>,
    plain: &Plain<A>,
    (hash, guess): (Hash, Guess),
) -> Option<&'c Hop> {
    let found = map.find_near(guess, hash, &plain.tuple, context.now)?;
    let stamp = found.stamp();
    let (near, far) = ends(found.hit.direction, found.ingress(), &stamp);
    let Egress::Send(hop) = context.snapshot.topology.egress_in(plain.tuple.destination) else { return None };
    let is_settled = stamp.generation == context.snapshot.policy.generation
        && near == Some(ingress)
        && far == Some(hop.port)
        && plain.ip_len <= hop.mtu;
    if !is_settled || !found.pass(plain, context.now) {
        return None;
    }
    counters.hit(stamp.rule, usize::from(plain.ip_len), context.now);
    Some(hop)
}

/// The ports behind which the connection's policy has the packet's sender and receiver.
#[inline(always)]
pub(super) fn ends(direction: Direction, ingress: PortId, stamp: &Stamp) -> (Option<PortId>, Option<PortId>) {
    match direction {
        Direction::Original => (Some(ingress), stamp.egress),
        Direction::Reply => (stamp.egress, Some(ingress)),
    }
}
