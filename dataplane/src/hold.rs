//! Packets that wait for their next hops' Ethernet addresses, and asking for these.
//!
//! A scan of unused addresses makes many packets wait in vain, and nothing tells its packets from others before three
//! seconds have passed. So a full queue does not refuse the newcomer: the source with the most packets waiting loses its
//! oldest. A scanner displaces its own; of many forged sources with a packet each the oldest goes, and whoever is
//! there has answered long before it comes to his.
//!
//! Sources (IPv4 addresses, IPv6 /64s) are told apart in [`CLASSES`] classes by a keyed hash: with a full queue, a
//! newcomer costs two passes over it.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

use crate::headers;
use crate::packet::FrameBuf;
use crate::verdict::{Now, PortId};

/// The most packets that wait for next hops, per worker.
pub const HELD_MAX: usize = 256;
/// The most packets that wait for one next hop, per worker.
pub const HELD_PER_HOP_MAX: usize = 8;
/// How long a packet waits for its next hop, nanoseconds: as long as the kernel asks (three times a second apart).
pub const HOLD_NS: u64 = 3_000_000_000;
/// A next hop for which packets go on coming is asked for again after this time, nanoseconds: the one who asks the
/// kernel may have had no room for it the first time.
const ASK_AGAIN_NS: u64 = 500_000_000;
/// Classes of sources.
const CLASSES: usize = 256;

/// A next hop whose Ethernet address is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The port behind which it lies.
    pub port: PortId,
    /// Its address.
    pub next_hop: IpAddr,
    /// For whose packet; unspecified for a fragmented datagram.
    pub source: IpAddr,
    /// By which port it came; for a fragmented datagram, the next hop's.
    pub ingress: PortId,
}

/// A packet that waits for its next hop.
pub(crate) struct Held<F> {
    pub frame: F,
    pub ingress: PortId,
    pub wanted: Unresolved,
    pub until: Now,
    /// When its next hop was asked for on its behalf; 0 for never.
    pub asked: Now,
    class: u8,
}

/// What a worker's packets wait in.
pub(crate) struct HoldQueue<F> {
    waiting: Vec<Held<F>>,
    keys: RandomState,
}

/// What became of a packet that was to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    /// A packet was dropped for lack of room: this one, or an older one in its favour.
    pub dropped: bool,
    /// What is to be asked for.
    pub ask: Option<Unresolved>,
}

/// The source of a packet, which has been parsed before.
fn source(frame: &[u8]) -> IpAddr {
    let source = headers::parse(frame).map(|headers| headers.addresses.source());
    source.unwrap_or(Ipv6Addr::UNSPECIFIED.into())
}

impl<F: FrameBuf> HoldQueue<F> {
    pub fn new() -> HoldQueue<F> {
        HoldQueue { waiting: Vec::with_capacity(HELD_MAX), keys: RandomState::new() }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets a packet wait. `waited` is until when and when it was asked for, of one that has waited already.
    pub fn push(
        &mut self,
        frame: F,
        ingress: PortId,
        (port, next_hop): (PortId, IpAddr),
        now: Now,
        waited: Option<(Now, Now)>,
    ) -> Queued {
        let wanted = Unresolved { port, next_hop, source: source(frame.bytes()), ingress };
        let (until, mut asked) = waited.unwrap_or((Now(now.0 + HOLD_NS), Now(0)));
        let is_recent = |asked: Now| asked.0 != 0 && now.0.saturating_sub(asked.0) < ASK_AGAIN_NS;
        let (mut same, mut is_asked) = (0, is_recent(asked));
        for held in self.waiting.iter().filter(|h| (h.wanted.port, h.wanted.next_hop) == (port, next_hop)) {
            same += 1;
            is_asked |= is_recent(held.asked);
        }
        if !is_asked {
            asked = now;
        }
        if same >= HELD_PER_HOP_MAX {
            if let Some(first) = self.waiting.iter_mut().find(|h| h.wanted.next_hop == next_hop) {
                first.asked = first.asked.max(asked);
            }
            return Queued { dropped: true, ask: (!is_asked).then_some(wanted) };
        }
        let dropped = self.waiting.len() >= HELD_MAX;
        if dropped {
            self.displace();
        }
        let class = match wanted.source {
            IpAddr::V4(address) => self.keys.hash_one(address),
            IpAddr::V6(address) => self.keys.hash_one(address.to_bits() >> 64),
        } as u8;
        self.waiting.push(Held { frame, ingress, wanted, until, asked, class });
        Queued { dropped, ask: (!is_asked).then_some(wanted) }
    }

    /// Drops the oldest packet of the source that has most.
    fn displace(&mut self) {
        let mut counts = [0u16; CLASSES];
        self.waiting.iter().for_each(|held| counts[usize::from(held.class)] += 1);
        let most = counts.iter().copied().max().unwrap_or(0);
        if let Some(oldest) = self.waiting.iter().position(|held| counts[usize::from(held.class)] == most) {
            self.waiting.remove(oldest);
        }
    }

    /// Takes out one whose wait is over, the oldest first. Packets keep their order: of one connection, too, some may
    /// still wait.
    pub fn take_overdue(&mut self, now: Now) -> Option<Held<F>> {
        let overdue = self.waiting.iter().position(|held| now >= held.until)?;
        Some(self.waiting.remove(overdue))
    }

    /// Takes out all of them, in order.
    pub fn take_all(&mut self) -> Vec<Held<F>> {
        self.waiting.drain(..).collect()
    }
}
