//! The shortcut that nearly all packets take: plain ones of connections in which nothing special is going on.
//!
//! Memory is what such a packet waits for most. So it goes through four steps, a few packets apart, and in the time
//! between them the memory works: it is read, and its connection's bucket asked for; the entry that the bucket names is
//! asked for, and the next hop; the session by which the connection passes is, and the counters of the rule that the entry
//! names; and then it has its turn.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::session::{Tick, obeys, tick};
use super::{Context, Pipeline};
use crate::connection::{Family, Guess, Hash, Map, Stamp, Table};
use crate::counters::RuleRow;
use crate::headers::{self, AnyPlain, Plain};
use crate::identity::{Bearer, Slots};
use crate::packet::FrameBuf;
use crate::rewrite;
use crate::topology::{Egress, Hop, Mac, Topology};
use crate::verdict::{Direction, PortId, Verdict};
use crate::wire::ethernet;

/// How many packets before its turn a packet is read, and its connection's bucket asked for.
const BUCKET_AHEAD: usize = 16;
/// How many packets before its turn the entry that the bucket names is asked for.
const ENTRY_AHEAD: usize = 10;
/// The same for what the entry names: the session by which it passes, and the counters of its rule.
const REST_AHEAD: usize = 5;
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
    let policy = &context.snapshot.policy;
    let (counters, sessions) = (policy.counters.row(pipeline.index), policy.policy.identities());
    let tick = tick(context.now);
    let burst = Burst { context, counters, sessions, tick };
    let own = context.snapshot.topology.port(ingress).map(|port| port.mac).unwrap_or_default();
    let mut looks = [Look::No; WINDOW];
    for step in 0..frames.len() + BUCKET_AHEAD {
        if let Some(frame) = frames.get(step) {
            looks[step % WINDOW].read(context, &own, frame.bytes());
        }
        if let Some(number) = step.checked_sub(BUCKET_AHEAD - ENTRY_AHEAD) {
            looks[number % WINDOW].place(&burst);
        }
        if let Some(number) = step.checked_sub(BUCKET_AHEAD - REST_AHEAD) {
            looks[number % WINDOW].prefetch_rest(&burst);
        }
        let Some(number) = step.checked_sub(BUCKET_AHEAD) else { continue };
        let Some(frame) = frames.get_mut(number) else { continue };
        let look = &mut looks[number % WINDOW];
        let verdict = pass(&burst, ingress, frame.bytes_mut(), look)
            .unwrap_or_else(|| pipeline.judge(context, ingress, frame));
        verdicts.push(verdict);
        *look = Look::No;
    }
}

/// What the packets of a burst have in common.
struct Burst<'c> {
    context: &'c Context<'c>,
    counters: RuleRow<'c>,
    sessions: &'c Slots,
    tick: Tick,
}

/// The verdict on a plain packet of which nothing more need be known.
#[inline(always)]
fn pass(burst: &Burst<'_>, ingress: PortId, frame: &mut [u8], look: &Look<'_>) -> Option<Verdict> {
    let Table { v4, v6, .. } = burst.context.table;
    let came = Came { by: ingress, frame };
    let (hop, is_v4, hop_limit) = match look {
        Look::No => return None,
        Look::V4(plain, hash, place) => {
            (pass_plain(burst, came, v4, plain, *hash, place)?, true, plain.hop_limit)
        }
        Look::V6(plain, hash, place) => {
            (pass_plain(burst, came, v6, plain, *hash, place)?, false, plain.hop_limit)
        }
    };
    rewrite::forward_at(frame, ethernet::HEADER_BYTES, is_v4, hop_limit, hop)
        .then_some(Verdict::Forward(hop.port))
}

/// A packet that came in.
#[derive(Clone, Copy)]
struct Came<'f> {
    by: PortId,
    frame: &'f [u8],
}

/// What the first steps know of a frame: that it is plain, where its connection probably lies, and its next hop.
#[derive(Clone, Copy)]
enum Look<'c> {
    /// Not plain: to be judged in full.
    No,
    V4(Plain<Ipv4Addr>, Hash, Place<'c>),
    V6(Plain<Ipv6Addr>, Hash, Place<'c>),
}

/// Where a plain packet's connection probably lies, and where it goes, if it goes anywhere.
#[derive(Clone, Copy, Default)]
struct Place<'c> {
    guess: Guess,
    hop: Option<&'c Hop>,
}

impl<'c> Place<'c> {
    /// Looks into the bucket, and asks for the entry and the next hop.
    #[inline(always)]
    fn of<A: Family>(map: &Map<A>, topology: &'c Topology, hash: Hash, destination: A) -> Place<'c> {
        let guess = map.guess(hash);
        let Egress::Send(hop) = topology.egress_in(destination) else { return Place { guess, hop: None } };
        afxdp::prefetch(hop);
        Place { guess, hop: Some(hop) }
    }
}

impl<'c> Look<'c> {
    /// Reads the frame, and asks for the bucket where its connection lies.
    #[inline(always)]
    fn read(&mut self, context: &Context<'_>, own: &Mac, frame: &[u8]) {
        let (table, topology) = (context.table, &context.snapshot.topology);
        // That much of `sanity::check` has to be seen every time. Of the addresses the rest was seen when the connection
        // was opened, and whether the destination is a special one is seen where its next hop is looked up.
        let is_ours = frame.first_chunk() == Some(own);
        match headers::plain(frame) {
            Some(AnyPlain::V4(plain)) if is_ours && !topology.is_special(plain.tuple.source) => {
                let hash = table.v4.hash(&plain.tuple);
                table.v4.prefetch(hash);
                *self = Look::V4(plain, hash, Place::default());
            }
            Some(AnyPlain::V6(plain)) if is_ours && !topology.is_special(plain.tuple.source) => {
                let hash = table.v6.hash(&plain.tuple);
                table.v6.prefetch(hash);
                *self = Look::V6(plain, hash, Place::default());
            }
            _ => *self = Look::No,
        }
    }

    /// See [`Place::of`].
    #[inline(always)]
    fn place(&mut self, burst: &Burst<'c>) {
        let topology = &burst.context.snapshot.topology;
        match self {
            Look::No => {}
            Look::V4(plain, hash, place) => {
                *place = Place::of(&burst.context.table.v4, topology, *hash, plain.tuple.destination);
            }
            Look::V6(plain, hash, place) => {
                *place = Place::of(&burst.context.table.v6, topology, *hash, plain.tuple.destination);
            }
        }
    }

    /// Looks into the entry, and asks for the counters of its rule, and for the session by which it passes; if by none, for
    /// anyone's.
    #[inline(always)]
    fn prefetch_rest(&self, burst: &Burst<'_>) {
        let Table { v4, v6, .. } = burst.context.table;
        let (rule, bearer) = match *self {
            Look::No => return,
            Look::V4(.., Place { guess, .. }) => (v4.guessed_rule(guess), v4.guessed_bearer(guess)),
            Look::V6(.., Place { guess, .. }) => (v6.guessed_rule(guess), v6.guessed_bearer(guess)),
        };
        burst.counters.prefetch(rule);
        burst.sessions.prefetch(bearer);
    }
}

/// Where a plain packet of a connection goes in which nothing special is going on: its judgement is of this policy, it
/// comes and leaves by the ports that belong to it, and its next hop is known. Such a packet is tracked and counted, and
/// most packets are such. `None` says nothing and has changed nothing: the packet is to be judged in full, which would
/// have let this one pass just the same.
#[inline(always)]
fn pass_plain<'c, A: Family>(
    burst: &Burst<'c>,
    came: Came<'_>,
    map: &Map<A>,
    plain: &Plain<A>,
    hash: Hash,
    place: &Place<'c>,
) -> Option<&'c Hop> {
    let Burst { context, counters, sessions, tick, .. } = *burst;
    let hop = place.hop?;
    let found = map.find_near(place.guess, hash, &plain.tuple, context.now)?;
    let stamp = found.stamp();
    let (near, far) = ends(found.hit.direction, found.ingress(), &stamp);
    let is_settled = stamp.generation == context.snapshot.policy.generation
        && (stamp.bearer == Bearer::NONE
            || obeys(sessions, found.hit.direction, &stamp, came.frame, hop.destination, tick))
        && near == Some(came.by)
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
