//! The one handler: a burst of frames, a snapshot, the connection table and a clock reading in; a verdict for every
//! frame out, and the frame rewritten where it goes on. No I/O and no time source inside, so tests, benches, fuzzing
//! and the live worker run the very same code.
//!
//! [`Pipeline::judge`] is the whole way of a packet. Nearly all packets are plain ones of settled connections and take a
//! [`shortcut`] of it, which forwards what the whole way would forward and hands over all else. Every packet starts as
//! a drop, and [`Verdict::Forward`] is assigned in two places: where either way ends.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crate::answer::{self, IcmpError, RateLimiter};
use crate::connection::{
    self, Challenge, Family, Hash, Hit, Knock, Map, Opened, Opening, Stamp, Summary, Table, Track,
};
use crate::event::{Event, EventKind, EventQueue};
use crate::fragments::{Fragments, Share};
use crate::headers::{
    self, Addresses, Headers, Permits, Quote, TcpSegment, Transport, Tuple, parse_quote, tcp_flags,
    verify_transport_checksum,
};
use crate::identity::Bearer;
use crate::packet::FrameBuf;
use crate::policy::{Decision, Query};
use crate::quotes::Quotes;
use crate::rewrite;
use crate::sanity;
use crate::snapshot::Snapshot;
use crate::topology::{Egress, Hop, Mac};
use crate::verdict::{Direction, Now, PortId, Reason, RuleId, Verdict};

mod beside;
mod datagram;
mod session;
mod shortcut;

use session::{Standing, check_receiver, check_sender, deadline, standing};

/// The most frames handled together.
pub const BURST: usize = 64;

/// What a burst is judged by.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The clock, read once for the burst.
    pub now: Now,
    /// Policy and topology.
    pub snapshot: &'a Snapshot,
    /// The connection table shared by all workers.
    pub table: &'a Table,
}

/// One worker's pipeline: its handle of the connection table, its rate limiter, its event queue.
pub struct Pipeline {
    index: usize,
    connections: connection::Worker,
    limiter: RateLimiter,
    /// The packets that ICMP errors were let through about.
    quotes: Quotes,
    events: Arc<EventQueue>,
    /// The next hops that held packets wait for, for the worker to have resolved; emptied by it.
    unresolved: VecDeque<(PortId, IpAddr)>,
    fragments: Fragments,
    /// Where a datagram's pieces are joined.
    joined: Box<[u8]>,
    /// Datagrams that are about to be judged again.
    waiting: Vec<u32>,
}

/// What to tell the sender of a packet that is not forwarded.
#[derive(Clone, Copy)]
enum Tell {
    Reset,
    Icmp(IcmpError),
    Challenge(Challenge),
}

/// Why a packet is not forwarded, and whom to tell.
#[derive(Clone, Copy)]
enum Refusal {
    Silent(Reason),
    Told(Reason, Tell),
    Hold(PortId, IpAddr),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal::Silent(reason)
    }
}

impl Pipeline {
    /// The pipeline of worker number `index`, which must be below the worker count of the table and of the policies.
    pub fn new(
        index: usize,
        connections: connection::Worker,
        limiter: RateLimiter,
        events: Arc<EventQueue>,
    ) -> Self {
        Pipeline {
            index,
            connections,
            limiter,
            quotes: Quotes::new(),
            events,
            unresolved: VecDeque::with_capacity(BURST),
            fragments: Fragments::new(Arc::new(Share::new(0, 1)), index),
            joined: Box::default(),
            waiting: Vec::new(),
        }
    }

    /// Judges a burst that came in by one port. `verdicts` is cleared and gets one verdict for each frame.
    pub fn process<F: FrameBuf>(
        &mut self,
        context: &Context<'_>,
        ingress: PortId,
        frames: &mut [F],
        verdicts: &mut Vec<Verdict>,
    ) {
        verdicts.clear();
        shortcut::process(self, context, ingress, frames, verdicts);
    }

    /// As [`Pipeline::process`], packet by packet and each in full. For tests: there must be no other difference.
    pub fn process_in_full<F: FrameBuf>(
        &mut self,
        context: &Context<'_>,
        ingress: PortId,
        frames: &mut [F],
        verdicts: &mut Vec<Verdict>,
    ) {
        verdicts.clear();
        verdicts.extend(frames.iter_mut().map(|frame| self.judge(context, ingress, frame)));
    }

    /// The next hop that a held packet waits for: one for each [`Verdict::Hold`] of the last burst, in their order.
    pub fn next_unresolved(&mut self) -> Option<(PortId, IpAddr)> {
        self.unresolved.pop_front()
    }

    /// The verdict for a packet whose next hop did not answer in time: its sender is told (RFC 1812, section 5.2.7.1).
    pub fn give_up<F: FrameBuf>(&mut self, context: &Context<'_>, ingress: PortId, frame: &mut F) -> Verdict {
        let reason = Reason::HeldTooLong;
        match headers::parse(frame.bytes()) {
            Ok(headers) => {
                self.tell(context, ingress, frame, &headers, reason, Tell::Icmp(IcmpError::HostUnreachable))
            }
            Err(_) => Verdict::Drop(reason),
        }
    }

    /// Tells the table that this worker holds no reference from before: between two bursts.
    pub fn quiesce(&mut self) {
        self.connections.quiesce();
    }

    /// Before sleeping: the other workers need not wait for this one until its next [`Pipeline::quiesce`].
    pub fn pause(&mut self) {
        self.connections.pause();
    }

    /// Reports what the last burst ended, and ends what has timed out among the next `budget` slots of the table.
    pub fn sweep(&mut self, context: &Context<'_>, budget: usize) {
        let Pipeline { connections, events, .. } = self;
        context.table.sweep(connections, context.now, budget, &mut |ended| {
            events.record(ended_event(context.now, &ended, EventKind::Closed));
        });
    }

    /// The verdict on one frame.
    #[inline(never)]
    fn judge<F: FrameBuf>(&mut self, context: &Context<'_>, ingress: PortId, frame: &mut F) -> Verdict {
        let bytes = frame.bytes();
        let headers = match headers::parse(bytes) {
            Ok(headers) => headers,
            Err(Reason::Fragment) => return self.fragment(context, ingress, bytes),
            Err(reason) => return Verdict::Drop(reason),
        };
        if let Err(reason) = sanity::check(bytes, &headers, ingress, &context.snapshot.topology) {
            return Verdict::Drop(reason);
        }
        let headers = &headers;
        if !headers.needs.is_empty()
            && let Err(reason) = check_permits(context, ingress, headers)
        {
            return Verdict::Drop(reason);
        }
        let outcome = match headers.addresses {
            _ if headers.transport == Transport::IcmpError => self.relate(context, ingress, bytes, headers),
            Addresses::V4(source, destination) => {
                let tuple = tuple(headers, source, destination);
                self.track(context, ingress, bytes, headers, &context.table.v4, &tuple)
            }
            Addresses::V6(source, destination) => {
                let tuple = tuple(headers, source, destination);
                self.track(context, ingress, bytes, headers, &context.table.v6, &tuple)
            }
        };
        match outcome {
            Ok(hop) if rewrite::forward(frame.bytes_mut(), headers, hop) => Verdict::Forward(hop.port),
            Ok(_) => Verdict::Drop(Reason::HopLimitExceeded),
            Err(Refusal::Silent(reason)) => Verdict::Drop(reason),
            Err(Refusal::Told(reason, tell)) => self.tell(context, ingress, frame, headers, reason, tell),
            Err(Refusal::Hold(port, next_hop)) => {
                self.unresolved.push_back((port, next_hop));
                Verdict::Hold
            }
        }
    }

    /// A TCP, UDP or echo packet: of a known connection, or one that may open one.
    fn track<'c, A: Family>(
        &mut self,
        context: &Context<'c>,
        ingress: PortId,
        frame: &[u8],
        headers: &Headers,
        map: &Map<A>,
        tuple: &Tuple<A>,
    ) -> Result<&'c Hop, Refusal> {
        let (hash, bytes) = (map.hash(tuple), headers.ip_len());
        if let Some(hit) = map.find(hash, tuple, context.now) {
            let stamp = self.current(context, map, hit, headers.sender, bytes)?;
            let hop = self.pass_connection(context, ingress, headers, map, hit, tuple, stamp)?;
            self.check_second_originator(context, ingress, headers, hit, tuple)?;
            if matches!(&headers.transport, Transport::Tcp(segment) if segment.flags & tcp_flags::SYN != 0) {
                // It tells where numbers begin, or ends what is over: damaged, it must do neither.
                check_checksum(context, frame, headers)?;
            }
            let track = follow(map, hit, headers, context.now)?;
            if track != Track::Reopen {
                match track {
                    Track::Aside => map.count(hit, bytes),
                    _ => map.account(hit, bytes, context.now),
                }
                self.rule_hit(context, stamp.rule, bytes);
                return Ok(hop);
            }
            // The old connection is over (TIME-WAIT) and this SYN starts a new one in its place.
            self.end(context, map, hit, EventKind::Closed);
        }
        self.open(context, ingress, frame, headers, map, tuple, hash)
    }

    /// A packet of no known connection: opens one if it may.
    #[allow(clippy::too_many_arguments, reason = "one packet's facts; a struct would only rename them")]
    fn open<'c, A: Family>(
        &mut self,
        context: &Context<'c>,
        ingress: PortId,
        frame: &[u8],
        headers: &Headers,
        map: &Map<A>,
        tuple: &Tuple<A>,
        hash: Hash,
    ) -> Result<&'c Hop, Refusal> {
        let policy = &context.snapshot.policy;
        // Whoever lies about their address gets that reason, whatever else is wrong with the packet.
        if !policy.policy.is_behind(ingress, tuple.source) {
            if opener(&headers.transport).is_some() {
                let spoofed = Decision { refusal: Some(Reason::SpoofedSource), rule: RuleId::NONE };
                self.ask_beside(context, ingress, headers.sender, tuple, spoofed);
            }
            return Err(Reason::SpoofedSource.into());
        }
        let Some(segment) = opener(&headers.transport) else {
            return Err(stray(context, frame, headers).into());
        };
        check_checksum(context, frame, headers)?;
        let judged = policy.policy.judge_now(&query(ingress, tuple), headers.sender, context.now);
        let decision = judged.answer;
        if let Some(reason) = decision.refusal {
            // The event names the rule that came nearest; it is no hit of that rule.
            self.rule_hit(context, decision.decided_by(), headers.ip_len());
            self.record(context, ingress, tuple, EventKind::Denied(reason), (decision.rule, judged.bearer));
            self.ask_beside(context, ingress, headers.sender, tuple, decision);
            return Err(match (reason, segment) {
                (Reason::RuleRejected, Some(_)) => Refusal::Told(reason, Tell::Reset),
                (Reason::RuleRejected, None) => Refusal::Told(reason, Tell::Icmp(IcmpError::AdminProhibited)),
                _ => reason.into(),
            });
        }
        if let Some(segment) = segment {
            challenge(context, headers, segment)?;
        }
        let hop = route(context, headers, tuple.destination)?;
        let opening = Opening {
            ingress,
            egress: hop.port,
            rule: decision.rule,
            generation: policy.generation,
            valid_until: deadline(judged.until, context.now),
            bearer: judged.bearer,
            limit: policy.policy.limits().find(decision.rule),
            now: context.now,
            segment,
        };
        let opened = map.open(&mut self.connections, hash, tuple, &opening).inspect_err(|reason| {
            self.record(context, ingress, tuple, EventKind::Denied(*reason), (decision.rule, judged.bearer));
        });
        let hit = match opened? {
            Opened::New(hit) => {
                map.set_timeout_class(hit, policy.policy.timeout_class(decision.rule));
                policy.counters.open(self.index, decision.rule);
                self.record(context, ingress, tuple, EventKind::Opened, (decision.rule, judged.bearer));
                self.ask_beside(context, ingress, headers.sender, tuple, decision);
                hit
            }
            // Another worker was first with this very connection.
            Opened::Existing(hit) => {
                follow(map, hit, headers, context.now)?;
                hit
            }
        };
        map.account(hit, headers.ip_len(), context.now);
        self.rule_hit(context, decision.rule, headers.ip_len());
        Ok(hop)
    }

    /// The connection's stamp, after judging it again if the policy or its originator's session has changed since, or
    /// its time is over (promise P3).
    fn current<A: Family>(
        &mut self,
        context: &Context<'_>,
        map: &Map<A>,
        hit: Hit,
        mac: Option<Mac>,
        bytes: usize,
    ) -> Result<Stamp, Reason> {
        let policy = &context.snapshot.policy;
        let sessions = policy.policy.identities();
        loop {
            let stamp = map.stamp(hit);
            let behind = policy.generation.0.wrapping_sub(stamp.generation.0) as i32;
            let changed = match standing(sessions, &stamp, context.now) {
                Standing::Good if behind == 0 => {
                    check_sender(sessions, hit.direction, &stamp, mac)?;
                    return Ok(stamp);
                }
                Standing::Changed if behind == 0 => Reason::IdentityRevoked,
                Standing::Over if behind == 0 => Reason::Expired,
                _ => Reason::PolicyRevoked,
            };
            let (tuple, ingress) = map.original(hit);
            let judged = policy.policy.judge_now(&query(ingress, &tuple), None, context.now);
            let fresh = Stamp {
                generation: policy.generation,
                rule: judged.answer.rule,
                // The rule's segments are the same for as long as the policy is.
                egress: stamp.egress.filter(|_| behind == 0),
                valid_until: deadline(judged.until, context.now),
                bearer: judged.bearer,
            };
            // Whoever sends in the originator's place learns nothing, and cuts nothing.
            check_sender(sessions, hit.direction, &fresh, mac)?;
            let decision = judged.answer;
            if behind < 0 {
                // The stamp is of a worker that is ahead by one publication. It stays, but this packet is judged by
                // this worker's policy, in which the stamp's rule number means another rule or none.
                return match decision.refusal {
                    None => Ok(Stamp { rule: decision.rule, egress: None, ..stamp }),
                    Some(reason) => {
                        self.rule_hit(context, decision.decided_by(), bytes);
                        Err(reason)
                    }
                };
            }
            if let Some(reason) = decision.refusal {
                let cut = match reason {
                    Reason::OutsideSchedule => Reason::Expired,
                    Reason::Locked | Reason::Quarantined => reason,
                    _ => changed,
                };
                self.ask_beside(context, ingress, None, &tuple, decision);
                self.end(context, map, hit, EventKind::Cut(cut));
                return Err(cut);
            }
            // If another worker was faster, its stamp decides.
            if map.restamp(hit, stamp, fresh) {
                map.set_timeout_class(hit, policy.policy.timeout_class(decision.rule));
                map.transfer(hit, policy.policy.limits().find(decision.rule));
                self.ask_beside(context, ingress, None, &tuple, decision);
                return Ok(fresh);
            }
        }
    }

    /// A SYN from the responder of a TCP connection (simultaneous open, RFC 9293, section 3.5, or a new one) makes
    /// the responder an originator as well, so the policy must allow that direction too.
    fn check_second_originator<A: Family>(
        &mut self,
        context: &Context<'_>,
        ingress: PortId,
        headers: &Headers,
        hit: Hit,
        tuple: &Tuple<A>,
    ) -> Result<(), Reason> {
        let is_syn = matches!(opener(&headers.transport), Some(Some(_)));
        if !is_syn || hit.direction == Direction::Original {
            return Ok(());
        }
        let policy = &context.snapshot.policy.policy;
        let judged = policy.judge_now(&query(ingress, tuple), headers.sender, context.now);
        match judged.answer.refusal {
            None => Ok(()),
            Some(reason) => {
                let decided = (judged.answer.rule, judged.bearer);
                self.record(context, ingress, tuple, EventKind::Denied(reason), decided);
                Err(reason)
            }
        }
    }

    /// Checks that a known connection's packet comes in and leaves by ports of its segments, and finds its next hop.
    #[allow(clippy::too_many_arguments, reason = "one packet's facts; a struct would only rename them")]
    fn pass_connection<'c, A: Family>(
        &self,
        context: &Context<'c>,
        ingress: PortId,
        headers: &Headers,
        map: &Map<A>,
        hit: Hit,
        tuple: &Tuple<A>,
        stamp: Stamp,
    ) -> Result<&'c Hop, Refusal> {
        // These ports were checked against the segments when the connection was judged, so agreeing with them is enough.
        let (near, far) = shortcut::ends(hit.direction, map.ingress(hit), &stamp);
        let policy = &context.snapshot.policy;
        if near != Some(ingress) && !policy.policy.is_behind(ingress, tuple.source) {
            return Err(Reason::SpoofedSource.into());
        }
        let hop = next_hop(context, headers, tuple.destination)?;
        if far != Some(hop.port) && !policy.policy.is_behind(hop.port, tuple.destination) {
            return Err(Reason::RouteRefused.into());
        }
        // The stamp of a worker that is ahead names a session of another policy.
        if stamp.generation == policy.generation {
            check_receiver(policy.policy.identities(), hit.direction, &stamp, hop.destination)?;
        }
        if stamp.egress.is_none() && stamp.generation == policy.generation {
            let egress = if hit.direction == Direction::Original { hop.port } else { ingress };
            // If another worker was faster, that one knows as well.
            let _ = map.restamp(hit, stamp, Stamp { egress: Some(egress), ..stamp });
        }
        Ok(hop)
    }

    /// An ICMP error: passes only to the sender of the packet that it quotes, only for a known connection, and only
    /// from where that packet went. Else anybody who can guess a connection, or is told of it by an accomplice, could
    /// send its originator what he likes, from a segment that no rule lets speak. It neither refreshes nor ends
    /// anything (RFC 5508, section 4.2; RFC 5927).
    fn relate<'c>(
        &mut self,
        context: &Context<'c>,
        ingress: PortId,
        frame: &[u8],
        headers: &Headers,
    ) -> Result<&'c Hop, Refusal> {
        let policy = &context.snapshot.policy.policy;
        if policy.source_segment(ingress, headers.addresses.source()).is_none() {
            return Err(Reason::SpoofedSource.into());
        }
        verify_transport_checksum(frame, headers)?;
        let quote = parse_quote(frame, headers)?;
        // By its port, not its segment: a router on the way may be of another segment than the host behind it.
        let came_from_there = policy.source_segment(ingress, quote.addresses.destination()).is_some();
        if quote.addresses.source() != headers.addresses.destination() || !came_from_there {
            return Err(Reason::IcmpUnrelated.into());
        }
        match quote.addresses {
            Addresses::V4(source, destination) => {
                // RFC 791: every IPv4 link carries 68 bytes, and no honest one reports less than 576 today.
                let too_small = quote.mtu.is_some_and(|mtu| mtu < 576);
                self.relate_quote(context, headers, &context.table.v4, &quote, source, destination, too_small)
            }
            Addresses::V6(source, destination) => {
                let too_small = quote.mtu.is_some_and(|mtu| mtu < 1280);
                self.relate_quote(context, headers, &context.table.v6, &quote, source, destination, too_small)
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one packet's facts; a struct would only rename them")]
    fn relate_quote<'c, A: Family>(
        &mut self,
        context: &Context<'c>,
        headers: &Headers,
        map: &Map<A>,
        quote: &Quote,
        source: A,
        destination: A,
        mtu_too_small: bool,
    ) -> Result<&'c Hop, Refusal> {
        let tuple = Tuple {
            source,
            destination,
            source_port: quote.source_port,
            destination_port: quote.destination_port,
            protocol: quote.protocol,
        };
        let hit = map.find_quote(&tuple, context.now).ok_or(Reason::IcmpUnrelated)?;
        let outside =
            quote.tcp_sequence.is_some_and(|seq| !map.check_quote_sequence(hit, hit.direction, seq));
        if mtu_too_small || outside {
            return Err(Reason::IcmpBadQuote.into());
        }
        // Whoever sends an error is neither of the two.
        let stamp = self.current(context, map, hit, None, headers.ip_len())?;
        let hop = route(context, headers, source)?;
        // Last, for what does not pass is not remembered.
        if !self.quotes.admit(quote, context.now) {
            return Err(Reason::IcmpRepeated.into());
        }
        self.rule_hit(context, stamp.rule, headers.ip_len());
        Ok(hop)
    }

    /// Answers the sender in place, within the rate limit.
    fn tell<F: FrameBuf>(
        &mut self,
        context: &Context<'_>,
        ingress: PortId,
        frame: &mut F,
        headers: &Headers,
        reason: Reason,
        tell: Tell,
    ) -> Verdict {
        match answer_in_place(&mut self.limiter, context, ingress, frame, headers, tell) {
            true => Verdict::Answer(ingress, reason),
            false => Verdict::Drop(reason),
        }
    }

    fn end<A: Family>(&mut self, context: &Context<'_>, map: &Map<A>, hit: Hit, kind: EventKind) {
        if let Some(ended) = map.remove(&mut self.connections, hit, context.now) {
            self.events.record(ended_event(context.now, &ended, kind));
        }
    }

    fn rule_hit(&self, context: &Context<'_>, rule: RuleId, bytes: usize) {
        context.snapshot.policy.counters.hit(self.index, rule, bytes, context.now);
    }

    fn record<A: Family>(
        &self,
        context: &Context<'_>,
        ingress: PortId,
        tuple: &Tuple<A>,
        kind: EventKind,
        (rule, bearer): (RuleId, Bearer),
    ) {
        self.events.record(Event {
            at: context.now,
            kind,
            ingress,
            source: tuple.source.into(),
            destination: tuple.destination.into(),
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
            protocol: tuple.protocol,
            rule,
            generation: context.snapshot.generation(),
            bearer,
            packets: 0,
            bytes: 0,
        });
    }
}

/// Turns a frame into our answer to its sender, within the rate limit; false where there is none.
fn answer_in_place<F: FrameBuf>(
    limiter: &mut RateLimiter,
    context: &Context<'_>,
    ingress: PortId,
    frame: &mut F,
    headers: &Headers,
    tell: Tell,
) -> bool {
    if let Tell::Challenge(challenge) = tell {
        // Never longer than the SYN, and one for one: who sends SYNs in a victim's name could as well have sent the
        // victim as much. A limit would refuse honest clients in a flood.
        return answer::syn_challenge(frame, headers, challenge);
    }
    let source = headers.addresses.source();
    let least = answer::least_bytes(headers, matches!(tell, Tell::Reset));
    let Some(most) = limiter.allow(context.now, source, headers.ip_len(), least) else { return false };
    let answered = match tell {
        Tell::Reset => answer::tcp_reset(frame, headers),
        Tell::Challenge(_) => false,
        Tell::Icmp(error) => context
            .snapshot
            .topology
            .answer_address(ingress, &headers.addresses)
            .is_some_and(|own| answer::icmp_error(frame, headers, error, own, most)),
    };
    if answered {
        limiter.spend(source, frame.bytes().len() - usize::from(headers.network));
    }
    answered
}

/// Whether both segments permit what is unusual about a packet: asked of every such packet, also of known connections,
/// so that a permission that was taken back is missing at once.
#[cold]
fn check_permits(context: &Context<'_>, ingress: PortId, headers: &Headers) -> Result<(), Reason> {
    let policy = &context.snapshot.policy.policy;
    let (source, destination) = (headers.addresses.source(), headers.addresses.destination());
    if policy.source_segment(ingress, source).is_none() {
        return Err(Reason::SpoofedSource);
    }
    headers.needs.refusal(policy.permits(source, destination)).map_or(Ok(()), Err)
}

/// Whether a packet that opens a connection has a right transport checksum, or need not have one.
fn check_checksum(context: &Context<'_>, frame: &[u8], headers: &Headers) -> Result<(), Reason> {
    verify_transport_checksum(frame, headers).or_else(|reason| {
        let policy = &context.snapshot.policy.policy;
        let permitted = policy.permits(headers.addresses.source(), headers.addresses.destination());
        // With segments left it is over an address that is not the header's.
        let is_permitted = headers.needs.has_routing() || permitted.contains(Permits::BAD_CHECKSUM);
        if is_permitted { Ok(()) } else { Err(reason) }
    })
}

fn tuple<A>(headers: &Headers, source: A, destination: A) -> Tuple<A> {
    Tuple {
        source,
        destination,
        source_port: headers.source_port,
        destination_port: headers.destination_port,
        protocol: headers.protocol,
    }
}

fn query<A: Family>(ingress: PortId, tuple: &Tuple<A>) -> Query {
    Query {
        ingress,
        source: tuple.source.into(),
        destination: tuple.destination.into(),
        protocol: tuple.protocol,
        destination_port: tuple.destination_port,
    }
}

/// Whether a packet of no connection may open one, by its kind; a TCP segment that may is given, for it is a SYN.
fn opener(transport: &Transport) -> Option<Option<&TcpSegment>> {
    match transport {
        Transport::Tcp(segment) => {
            let is_syn = segment.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
            is_syn.then_some(Some(segment))
        }
        Transport::Udp | Transport::EchoRequest | Transport::Opaque => Some(None),
        Transport::EchoReply | Transport::IcmpError => None,
    }
}

fn knock(headers: &Headers) -> Knock<'_> {
    Knock { addresses: &headers.addresses, ports: (headers.source_port, headers.destination_port) }
}

/// Has the client of a protected segment show that it is there, before anything is kept of it.
fn challenge(context: &Context<'_>, headers: &Headers, syn: &TcpSegment) -> Result<(), Refusal> {
    let Context { now, snapshot, table } = context;
    let is_protected = snapshot.policy.policy.is_protected(headers.addresses.destination());
    if !is_protected || table.clients.is_verified(headers.addresses.source(), *now) {
        return Ok(());
    }
    let challenge = table.clients.challenge(knock(headers), syn.sequence, syn.payload, *now);
    Err(Refusal::Told(Reason::SynChallenged, Tell::Challenge(challenge)))
}

/// Why a packet of no connection that may not open one is dropped. A reset may be a client's answer to a challenge.
fn stray(context: &Context<'_>, frame: &[u8], headers: &Headers) -> Reason {
    let Context { now, snapshot, table } = context;
    let Transport::Tcp(segment) = &headers.transport else { return Reason::NoConnection };
    let is_reset = segment.flags & (tcp_flags::RST | tcp_flags::SYN) == tcp_flags::RST;
    let answers = is_reset
        && snapshot.policy.policy.is_protected(headers.addresses.destination())
        && table.clients.is_answer(knock(headers), segment.sequence, *now);
    if !answers {
        return Reason::NoConnection;
    }
    if let Err(reason) = verify_transport_checksum(frame, headers) {
        return reason;
    }
    table.clients.verify(headers.addresses.source(), *now);
    Reason::ChallengeAnswered
}

/// Lets the connection's state follow the packet.
#[inline]
fn follow<A: Family>(map: &Map<A>, hit: Hit, headers: &Headers, now: Now) -> Result<Track, Reason> {
    match &headers.transport {
        Transport::Tcp(segment) => map.track_tcp(hit, segment, now),
        transport => map.track_other(hit, transport, now),
    }
}

/// The next hop, out of a port behind which the destination's segment lies: a route that leads elsewhere would carry
/// the packet around the policy.
fn route<'c, A: Family>(
    context: &Context<'c>,
    headers: &Headers,
    destination: A,
) -> Result<&'c Hop, Refusal> {
    let hop = next_hop(context, headers, destination)?;
    if !context.snapshot.policy.policy.is_behind(hop.port, destination) {
        return Err(Reason::RouteRefused.into());
    }
    Ok(hop)
}

#[inline(always)]
fn next_hop<'c, A: Family>(
    context: &Context<'c>,
    headers: &Headers,
    destination: A,
) -> Result<&'c Hop, Refusal> {
    if headers.hop_limit == 0 {
        return Err(Reason::HopLimitExceeded.into());
    }
    if headers.hop_limit == 1 {
        return Err(Refusal::Told(Reason::HopLimitExceeded, Tell::Icmp(IcmpError::TimeExceeded)));
    }
    let hop = match context.snapshot.topology.egress_in(destination) {
        Egress::Send(hop) => hop,
        Egress::Resolve(port, next_hop) => return Err(Refusal::Hold(port, next_hop)),
        Egress::Refuse(reason) => return Err(Refusal::Told(reason, Tell::Icmp(IcmpError::NoRoute))),
    };
    if headers.ip_len() > usize::from(hop.mtu) {
        // Without DF a router would fragment. We do not: the sender is not told, for RFC 1191 does not foresee it.
        return Err(match headers.may_fragment {
            true => Reason::PacketTooBig.into(),
            false => Refusal::Told(Reason::PacketTooBig, Tell::Icmp(IcmpError::TooBig { mtu: hop.mtu })),
        });
    }
    Ok(hop)
}

/// The event for a connection that ended.
pub fn ended_event(now: Now, ended: &Summary, kind: EventKind) -> Event {
    Event {
        at: now,
        kind,
        ingress: ended.ingress,
        source: ended.tuple.source,
        destination: ended.tuple.destination,
        source_port: ended.tuple.source_port,
        destination_port: ended.tuple.destination_port,
        protocol: ended.tuple.protocol,
        rule: ended.stamp.rule,
        generation: ended.stamp.generation,
        bearer: ended.stamp.bearer,
        packets: ended.packets.iter().sum(),
        bytes: ended.bytes.iter().sum(),
    }
}
