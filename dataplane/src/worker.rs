//! One worker: owns queue *i* of every port, runs to completion. Generic over [`PortIo`], so that the same loop runs
//! on AF_XDP and on memory.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::connection::Table;
use crate::counters::{Ledger, SharedLedger};
use crate::event::EventQueue;
use crate::fragments::Release;
use crate::hold::HoldQueue;
pub use crate::hold::{HELD_MAX, HELD_PER_HOP_MAX, HOLD_NS, Unresolved};
use crate::packet::FrameBuf;
use crate::pipeline::{BURST, Context, Pipeline};
use crate::port::PortIo;
use crate::snapshot::{Mailbox, Snapshot};
use crate::verdict::{Now, PortId, Reason, Verdict};

/// How often held packets and the table are looked after, nanoseconds.
const HOUSEKEEPING_NS: u64 = 1_000_000;

/// What a worker shares with the rest of the process.
pub struct Shared {
    /// Where its snapshots arrive.
    pub mailbox: Mailbox,
    /// Its ledger, as of its last burst.
    pub ledger: SharedLedger,
    /// What happened to connections.
    pub events: Arc<EventQueue>,
    /// Next hops to resolve. When it is full the oldest goes, and is asked for again by the next packet that waits.
    pub resolve: ArrayQueue<Unresolved>,
    /// How many rounds it has made: a worker whose count stands still is stuck.
    pub rounds: AtomicU64,
    /// Datagrams whose fragments wait, and condemned ones.
    pub datagrams: AtomicU64,
    /// Fragments that wait.
    pub fragments: AtomicU64,
}

impl Shared {
    /// With room for this many events.
    pub fn new(events: usize) -> Shared {
        Shared {
            mailbox: Mailbox::default(),
            ledger: SharedLedger::default(),
            events: Arc::new(EventQueue::new(events)),
            resolve: ArrayQueue::new(HELD_MAX),
            rounds: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            fragments: AtomicU64::new(0),
        }
    }
}

/// One worker with its ports; index of `ports` is the [`PortId`].
pub struct Worker<P: PortIo> {
    ports: Vec<P>,
    pipeline: Pipeline,
    table: Arc<Table>,
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    ledger: Ledger,
    held: HoldQueue<P::Frame>,
    frames: Vec<P::Frame>,
    verdicts: Vec<Verdict>,
    housekeeping: Now,
    /// This worker's share of the table's slots, so that all workers together visit each about once a second.
    slots_per_ms: usize,
    /// The workers that were handed fragments in this round, bit by bit.
    handed_to: u64,
}

impl<P: PortIo> Worker<P> {
    /// One of `workers` workers. It judges by `snapshot` until its mailbox says otherwise.
    pub fn new(
        ports: Vec<P>,
        pipeline: Pipeline,
        table: Arc<Table>,
        shared: Arc<Shared>,
        snapshot: Arc<Snapshot>,
        workers: usize,
    ) -> Worker<P> {
        let slots_per_ms = table.slots().div_ceil(1000 * workers.max(1));
        shared.mailbox.acknowledge(snapshot.version);
        Worker {
            ports,
            pipeline,
            table,
            shared,
            snapshot,
            ledger: Ledger::default(),
            held: HoldQueue::new(),
            frames: Vec::with_capacity(BURST),
            verdicts: Vec::with_capacity(BURST),
            housekeeping: Now(0),
            slots_per_ms,
            handed_to: 0,
        }
    }

    /// The ports, for the shell to sleep on or reopen.
    pub fn ports_mut(&mut self) -> &mut [P] {
        &mut self.ports
    }

    /// Before sleeping: lets the others reuse what this worker might have looked at.
    pub fn pause(&mut self) {
        self.pipeline.pause();
    }

    /// How many packets, or datagrams in fragments, wait for a next hop.
    pub fn held(&self) -> usize {
        self.held.len() + self.pipeline.datagrams_unresolved()
    }

    /// The workers that were handed fragments since the last call, bit by bit: they may be asleep.
    pub fn take_handed_to(&mut self) -> u64 {
        std::mem::take(&mut self.handed_to)
    }

    /// One round: a new snapshot if there is one, a burst from every port, and every millisecond the housekeeping.
    /// Returns how many packets it received.
    pub fn round(&mut self, now: Now) -> usize {
        self.pipeline.quiesce();
        self.adopt_snapshot(now);
        let mut received = 0;
        for port in 0..self.ports.len() {
            received += self.burst(PortId(port as u8), now);
        }
        received += self.take_handed_over(now);
        let since = now.0.wrapping_sub(self.housekeeping.0);
        let mut budget = 0;
        if since >= HOUSEKEEPING_NS {
            self.housekeeping = now;
            self.give_up_waiting(now);
            self.expire_fragments(now);
            budget = self.slots_per_ms * usize::try_from(since / HOUSEKEEPING_NS).unwrap_or(1000).min(1000);
        }
        let Worker { pipeline, snapshot, table, .. } = self;
        pipeline.sweep(&Context { now, snapshot, table }, budget);
        for port in &mut self.ports {
            port.flush();
        }
        if received > 0 {
            self.publish_ledger();
        }
        let rounds = &self.shared.rounds;
        rounds.store(rounds.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        received
    }

    /// Drops what waits, and publishes the last ledger.
    pub fn finish(&mut self) {
        for _ in self.held.take_all() {
            self.ledger.drop_for(Reason::ShutDown);
        }
        while self.pipeline.take_handed_over().is_some() {
            self.ledger.received += 1;
            self.ledger.drop_for(Reason::ShutDown);
        }
        self.pipeline.drop_fragments(Reason::ShutDown);
        self.publish_ledger();
    }

    fn publish_ledger(&mut self) {
        let Worker { pipeline, ledger, shared, .. } = self;
        pipeline.take_dropped_fragments(|reason, count| ledger.dropped[reason as usize] += u64::from(count));
        let fragments = pipeline.fragments_held() as u64;
        ledger.held = self.held.len() as u64 + fragments;
        shared.fragments.store(fragments, Ordering::Relaxed);
        shared.datagrams.store(pipeline.datagrams() as u64, Ordering::Relaxed);
        shared.ledger.publish(ledger);
    }

    /// Takes a new snapshot, judges by it what waits, and only then acknowledges it.
    fn adopt_snapshot(&mut self, now: Now) {
        let Some(snapshot) = self.shared.mailbox.take(self.snapshot.version) else { return };
        let version = snapshot.version;
        // The publisher holds the old one until every worker has acknowledged, so it is not freed here.
        self.snapshot = snapshot;
        if !self.held.is_empty() {
            for held in self.held.take_all() {
                self.frames.push(held.frame);
                self.judge(held.ingress, now, Some((held.until, held.asked)));
            }
            self.publish_ledger();
        }
        if self.pipeline.datagrams_unresolved() > 0 {
            let Worker { pipeline, snapshot, table, .. } = self;
            pipeline.judge_waiting_datagrams(&Context { now, snapshot, table });
            self.carry_out_releases(usize::MAX);
            self.publish_ledger();
        }
        self.shared.mailbox.acknowledge(version);
    }

    fn burst(&mut self, ingress: PortId, now: Now) -> usize {
        debug_assert!(self.frames.is_empty());
        self.ports[usize::from(ingress.0)].receive(&mut self.frames, BURST);
        let received = self.frames.len();
        if received > 0 {
            self.ledger.received += received as u64;
            self.ledger.received_bytes += self.frames.iter().map(|f| f.bytes().len() as u64).sum::<u64>();
            self.judge(ingress, now, None);
        }
        received
    }

    /// Judges the frames gathered in `self.frames` and carries the verdicts out. A packet that already waited keeps
    /// its deadline and when its next hop was asked for.
    fn judge(&mut self, ingress: PortId, now: Now, waited: Option<(Now, Now)>) {
        let Worker { pipeline, snapshot, table, frames, verdicts, .. } = self;
        let context = Context { now, snapshot, table };
        pipeline.process(&context, ingress, frames, verdicts);
        // Reports what the burst ended: with no room left for reports nothing more could be ended to make room.
        pipeline.sweep(&context, 0);
        let mut frames = std::mem::take(&mut self.frames);
        let verdicts = std::mem::take(&mut self.verdicts);
        for (frame, &verdict) in frames.drain(..).zip(&verdicts) {
            match verdict {
                Verdict::Drop(reason) => self.ledger.drop_for(reason),
                Verdict::Hold => match self.pipeline.next_unresolved() {
                    Some(next_hop) => self.hold(frame, ingress, next_hop, now, waited),
                    None => self.ledger.drop_for(Reason::HoldQueueFull),
                },
                Verdict::Forward(_) | Verdict::Answer(..) => {
                    send(&mut self.ports, &mut self.ledger, frame, verdict);
                }
                Verdict::Stored(releases) => {
                    // Its buffer may be wanted for what is released.
                    drop(frame);
                    self.carry_out_releases(releases.into());
                }
                Verdict::HandOver(to) => self.hand_over(to, ingress, frame.bytes()),
            }
        }
        self.frames = frames;
        self.verdicts = verdicts;
    }

    /// Lets a packet wait and asks for its next hop. Either may cost a packet that waits already, or this one.
    fn hold(
        &mut self,
        frame: P::Frame,
        ingress: PortId,
        next_hop: (PortId, IpAddr),
        now: Now,
        waited: Option<(Now, Now)>,
    ) {
        let queued = self.held.push(frame, ingress, next_hop, now, waited);
        if queued.dropped {
            self.ledger.drop_for(Reason::HoldQueueFull);
        }
        if let Some(wanted) = queued.ask {
            self.shared.resolve.force_push(wanted);
        }
    }

    /// Hands a fragment over to the worker that puts its datagram together. From then on it is that one's packet, in
    /// its ledger too.
    fn hand_over(&mut self, to: u16, ingress: PortId, frame: &[u8]) {
        if self.pipeline.hand_over(to, ingress, frame) {
            self.handed_to |= 1 << (to % 64);
            self.ledger.received -= 1;
            self.ledger.received_bytes -= frame.len() as u64;
        } else {
            self.ledger.drop_for(Reason::FragmentLimit);
        }
    }

    /// Judges what other workers have handed over, at most a burst; returns how much it was. What it ended is reported
    /// by the sweep at the end of the round.
    fn take_handed_over(&mut self, now: Now) -> usize {
        let mut taken = 0;
        while taken < BURST {
            let Some(handed) = self.pipeline.take_handed_over() else { break };
            taken += 1;
            self.ledger.received += 1;
            self.ledger.received_bytes += handed.bytes().len() as u64;
            let Worker { pipeline, snapshot, table, .. } = self;
            match pipeline.process_handed_over(&Context { now, snapshot, table }, &handed) {
                Verdict::Drop(reason) => self.ledger.drop_for(reason),
                Verdict::Stored(releases) => self.carry_out_releases(releases.into()),
                // A fragment gets no other verdict, and it is its own worker's already.
                _ => self.ledger.drop_for(Reason::Fragment),
            }
        }
        taken
    }

    /// Does what is to be done with stored fragments, at most `count` things.
    fn carry_out_releases(&mut self, count: usize) {
        for _ in 0..count {
            let Some(release) = self.pipeline.next_release() else { return };
            let (slot, verdict) = match release {
                Release::Forward(slot, port) => (slot, Verdict::Forward(port)),
                Release::Answer(slot, port, reason) => (slot, Verdict::Answer(port, reason)),
                Release::Resolve(port, next_hop) => {
                    let source = Ipv6Addr::UNSPECIFIED.into();
                    self.shared.resolve.force_push(Unresolved { port, next_hop, source, ingress: port });
                    continue;
                }
            };
            let Worker { ports, pipeline, ledger, .. } = self;
            match ports.first_mut().and_then(|port| port.allocate(pipeline.stored(slot))) {
                Some(frame) => send(ports, ledger, frame, verdict),
                None => not_sent(ledger, verdict, Reason::TxRingFull),
            }
            self.pipeline.free(slot);
        }
    }

    /// Ends the waits of fragments that have lasted too long.
    fn expire_fragments(&mut self, now: Now) {
        if self.pipeline.datagrams() == 0 {
            return;
        }
        let before = (self.pipeline.fragments_held(), self.pipeline.datagrams());
        let Worker { pipeline, snapshot, table, .. } = self;
        pipeline.expire_fragments(&Context { now, snapshot, table }, HOLD_NS);
        if (self.pipeline.fragments_held(), self.pipeline.datagrams()) != before {
            self.carry_out_releases(usize::MAX);
            self.publish_ledger();
        }
    }

    /// Ends the wait of packets whose next hop did not answer, and tells their senders.
    fn give_up_waiting(&mut self, now: Now) {
        let before = self.held.len();
        while let Some(mut held) = self.held.take_overdue(now) {
            let Worker { pipeline, snapshot, table, .. } = self;
            let context = Context { now, snapshot, table };
            match pipeline.give_up(&context, held.ingress, &mut held.frame) {
                Verdict::Drop(reason) => self.ledger.drop_for(reason),
                verdict => send(&mut self.ports, &mut self.ledger, held.frame, verdict),
            }
        }
        if self.held.len() != before {
            self.publish_ledger();
        }
    }
}

/// Sends a forwarded packet or our answer, and counts it as what then really became of it.
fn send<P: PortIo>(ports: &mut [P], ledger: &mut Ledger, frame: P::Frame, verdict: Verdict) {
    let (port, reason) = match verdict {
        Verdict::Forward(port) => (port, None),
        Verdict::Answer(port, reason) => (port, Some(reason)),
        Verdict::Drop(reason) => return ledger.drop_for(reason),
        Verdict::Hold => return ledger.drop_for(Reason::HoldQueueFull),
        // They name no port: the callers carry them out.
        Verdict::Stored(_) | Verdict::HandOver(_) => return ledger.drop_for(Reason::Fragment),
    };
    let bytes = frame.bytes().len() as u64;
    let failure = match ports.get_mut(usize::from(port.0)) {
        None => Some(Reason::PortDown),
        Some(port) if !port.is_up() => Some(Reason::PortDown),
        Some(port) => match port.send(frame) {
            Ok(()) => None,
            Err(frame) => {
                // A full ring: have the kernel take some, then try once more.
                port.flush();
                port.send(frame).is_err().then_some(Reason::TxRingFull)
            }
        },
    };
    match (reason, failure) {
        (None, None) => {
            ledger.forwarded += 1;
            ledger.forwarded_bytes += bytes;
        }
        (Some(reason), None) => {
            ledger.drop_for(reason);
            ledger.answered += 1;
        }
        (_, Some(failure)) => not_sent(ledger, verdict, failure),
    }
}

/// Counts what was to be sent and was not: a forwarded packet for the failure, an answered one for its own reason.
fn not_sent(ledger: &mut Ledger, verdict: Verdict, failure: Reason) {
    match verdict {
        Verdict::Answer(_, reason) => {
            ledger.drop_for(reason);
            ledger.answers_lost += 1;
        }
        _ => ledger.drop_for(failure),
    }
}
