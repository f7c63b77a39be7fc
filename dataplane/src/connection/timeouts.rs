//! How long an idle connection is kept.

use super::tcp::State;
use crate::sync::{AtomicU32, Relaxed};

/// What a rule says of the idle limits of its connections; what it leaves out is the gateway's. Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "as in `Timeouts`")]
pub struct Overrides {
    pub tcp_handshake_ms: Option<u32>,
    pub tcp_established_ms: Option<u32>,
    pub tcp_closing_ms: Option<u32>,
    pub tcp_time_wait_ms: Option<u32>,
    pub tcp_closed_ms: Option<u32>,
    pub udp_unreplied_ms: Option<u32>,
    pub udp_replied_ms: Option<u32>,
    pub icmp_ms: Option<u32>,
}

impl Overrides {
    /// The limits of a connection whose rule says this, where the gateway says `base`.
    pub fn over(&self, base: &Timeouts) -> Timeouts {
        Timeouts {
            tcp_handshake_ms: self.tcp_handshake_ms.unwrap_or(base.tcp_handshake_ms),
            tcp_established_ms: self.tcp_established_ms.unwrap_or(base.tcp_established_ms),
            tcp_closing_ms: self.tcp_closing_ms.unwrap_or(base.tcp_closing_ms),
            tcp_time_wait_ms: self.tcp_time_wait_ms.unwrap_or(base.tcp_time_wait_ms),
            tcp_closed_ms: self.tcp_closed_ms.unwrap_or(base.tcp_closed_ms),
            udp_unreplied_ms: self.udp_unreplied_ms.unwrap_or(base.udp_unreplied_ms),
            udp_replied_ms: self.udp_replied_ms.unwrap_or(base.udp_replied_ms),
            icmp_ms: self.icmp_ms.unwrap_or(base.icmp_ms),
            fragment_ms: base.fragment_ms,
        }
    }
}

/// Whose limits a connection has. 0, the default: the gateway's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutClass(pub(super) u8);

/// How many classes there are: they must fit the six bits of an entry.
pub(super) const CLASSES: usize = 64;

/// The most different [`Overrides`] of one policy: so that there is always room for those of the policy in force
/// beside those of the one that follows it.
pub const MAX_OVERRIDES: usize = (CLASSES - 1) / 2;

/// Which [`Overrides`] each class stands for.
///
/// A class keeps its meaning as long as a policy or a connection may refer to it, because a connection takes the class
/// of its new rule only when it is judged again, with its next packet. Until then an idle one keeps the limits under
/// which it was opened, through any number of policies.
pub(super) struct Classes {
    base: Timeouts,
    /// Class *n* is entry *n* − 1.
    meanings: [Option<Overrides>; CLASSES - 1],
    /// The classes of the policy in force, as bits.
    in_force: u64,
}

impl Classes {
    pub(super) fn new(base: Timeouts) -> Classes {
        Classes { base, meanings: [None; CLASSES - 1], in_force: 1 }
    }

    pub(super) fn base(&self) -> Timeouts {
        self.base
    }

    pub(super) fn set_base(&mut self, base: &Timeouts) {
        self.base = *base;
    }

    /// Every class with its limits.
    pub(super) fn limits(&self) -> impl Iterator<Item = (TimeoutClass, Timeouts)> + '_ {
        let own = std::iter::once(self.base);
        let others = self.meanings.iter().map(|meaning| meaning.unwrap_or_default().over(&self.base));
        (0..).map(TimeoutClass).zip(own.chain(others))
    }

    /// The classes for the policy that is about to follow the one in force, in the order of `wanted`, of which there
    /// are at most [`MAX_OVERRIDES`], each once. `used` tells which classes connections have, as bits; it is asked only
    /// when no class is left that never had a meaning. `evicted` is a class that was taken although connections have
    /// it: they must get class 0. That takes more than 31 sets of time-outs of earlier policies in which connections
    /// still idle.
    pub(super) fn claim(
        &mut self,
        wanted: &[Overrides],
        used: impl Fn() -> u64,
        mut evicted: impl FnMut(TimeoutClass),
    ) -> Vec<TimeoutClass> {
        let known = |meanings: &[Option<Overrides>], set: &Overrides| {
            meanings.iter().position(|meaning| meaning.as_ref() == Some(set)).map(|index| index + 1)
        };
        let kept = wanted.iter().filter_map(|set| known(&self.meanings, set));
        let mut taken = kept.fold(self.in_force, |bits, class| bits | 1 << class);
        let mut claimed = 1;
        let mut classes = Vec::with_capacity(wanted.len());
        for set in wanted {
            let class = known(&self.meanings, set).unwrap_or_else(|| {
                let free = |bits: u64| (1..CLASSES).find(|class| bits >> class & 1 == 0);
                let fresh = self.meanings.iter().position(Option::is_none).map(|index| index + 1);
                let class = fresh.or_else(|| free(taken | used())).unwrap_or_else(|| {
                    let class = free(taken).unwrap_or(0);
                    evicted(TimeoutClass(class as u8));
                    class
                });
                if let Some(meaning) = class.checked_sub(1).and_then(|index| self.meanings.get_mut(index)) {
                    *meaning = Some(*set);
                }
                class
            });
            taken |= 1 << class;
            claimed |= 1 << class;
            classes.push(TimeoutClass(class as u8));
        }
        self.in_force = claimed;
        classes
    }
}

/// Idle limits, in milliseconds. A connection is gone once it has been idle for longer than the limit of its state.
///
/// Handshake limits run from the last step of the handshake, not from the last packet, so that retransmissions do
/// not keep a half-open connection for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A handshake step of TCP. 30 s: five retransmissions of a SYN (RFC 6298: 1, 2, 4, 8, 16 s). RFC 5382 (REQ-5)
    /// asks 4 minutes of a NAT, because a lost binding loses the port; here a later SYN simply opens anew.
    pub tcp_handshake_ms: u32,
    /// Established TCP. 7440 s = 2 h 4 min (RFC 5382, REQ-5): longer than the 2 h of keep-alives (RFC 9293, 3.8.4).
    pub tcp_established_ms: u32,
    /// TCP after the first FIN. 240 s (RFC 5382, REQ-5: transitory connections).
    pub tcp_closing_ms: u32,
    /// TCP after both FINs were acknowledged. 120 s: the last ACK's retransmission; a new SYN may reuse it earlier
    /// (RFC 9293, 3.6.1).
    pub tcp_time_wait_ms: u32,
    /// TCP after a reset. 10 s, only to name late segments.
    pub tcp_closed_ms: u32,
    /// UDP, and protocols that a rule opens as a whole, without a reply so far. 120 s (RFC 4787, REQ-5: at least 2 minutes).
    pub udp_unreplied_ms: u32,
    /// The same with replies. 120 s (RFC 4787, REQ-5).
    pub udp_replied_ms: u32,
    /// ICMP echo. 60 s (RFC 5508, REQ-2).
    pub icmp_ms: u32,
    /// A datagram of which fragments are missing, from the first that came. 30 s: RFC 791 says 15, RFC 8200 gives a
    /// host 60 at most, and a host behind the gateway need not wait longer than we do.
    pub fragment_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            tcp_handshake_ms: 30_000,
            tcp_established_ms: 7_440_000,
            tcp_closing_ms: 240_000,
            tcp_time_wait_ms: 120_000,
            tcp_closed_ms: 10_000,
            udp_unreplied_ms: 120_000,
            udp_replied_ms: 120_000,
            icmp_ms: 60_000,
            fragment_ms: 30_000,
        }
    }
}

/// The longest limit: ages are differences of 32-bit milliseconds, which must not reach half their range.
pub const MAX_TIMEOUT_MS: u32 = i32::MAX as u32 / 2;

impl Timeouts {
    fn of(&self, state: State) -> u32 {
        match state {
            State::SynSent
            | State::SimultaneousSyn
            | State::SimultaneousOriginal
            | State::SimultaneousReply
            | State::SynReceived => self.tcp_handshake_ms,
            State::Established => self.tcp_established_ms,
            State::FinOriginal | State::FinReply | State::FinBoth => self.tcp_closing_ms,
            State::TimeWait => self.tcp_time_wait_ms,
            State::Closed => self.tcp_closed_ms,
            State::UdpUnreplied => self.udp_unreplied_ms,
            State::UdpReplied => self.udp_replied_ms,
            State::EchoUnreplied | State::EchoReplied => self.icmp_ms,
        }
    }
}

/// As many as states fit in the four bits of an entry.
pub(super) const STATES: usize = 16;
const _: () = assert!(State::COUNT <= STATES);

/// The limits by class and state, replaceable while workers read them.
pub(super) struct Limits(Box<[AtomicU32; CLASSES * STATES]>);

impl Limits {
    pub(super) fn new(timeouts: &Timeouts) -> Limits {
        let limits = Limits(Box::new(std::array::from_fn(|_| AtomicU32::new(0))));
        (0..CLASSES as u8).for_each(|class| limits.replace(TimeoutClass(class), timeouts));
        limits
    }

    /// Limits are independent of each other, so a reader may see some old and some new ones.
    pub(super) fn replace(&self, class: TimeoutClass, timeouts: &Timeouts) {
        let first = usize::from(class.0) * STATES;
        for state in State::ALL {
            self.0[first + state as usize].store(timeouts.of(state).min(MAX_TIMEOUT_MS), Relaxed);
        }
    }

    /// By `class × STATES + state`, as they stand in an entry's head.
    #[inline]
    pub(super) fn of(&self, class_and_state: usize) -> u32 {
        self.0[class_and_state % (CLASSES * STATES)].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ms: u32) -> Overrides {
        Overrides { udp_replied_ms: Some(ms), ..Overrides::default() }
    }

    fn sets(ms: std::ops::Range<u32>) -> Vec<Overrides> {
        ms.map(set).collect()
    }

    #[test]
    fn a_class_keeps_its_meaning_while_a_policy_or_a_connection_may_refer_to_it() {
        let mut classes = Classes::new(Timeouts::default());
        let never = |_| panic!("no connection has to give way");
        let most = MAX_OVERRIDES as u32;
        let first = classes.claim(&sets(0..most), || panic!("there is room"), never);
        let second = classes.claim(&sets(most..2 * most), || panic!("there is room"), never);
        assert!(first.iter().all(|class| !second.contains(class) && class.0 > 0));
        // The same again are the same.
        assert_eq!(classes.claim(&sets(most..2 * most), || 0, never), second);
        // One class was never used; then come those of the first policy that no connection has.
        let held = 1 << first[0].0;
        let third = classes.claim(&sets(100..102), || held, never);
        assert!(third.iter().all(|class| !second.contains(class) && *class != first[0]), "{third:?}");
        let limits: Vec<_> = classes.limits().collect();
        assert_eq!(limits[usize::from(first[0].0)].1.udp_replied_ms, 0);
        assert_eq!(limits[usize::from(third[1].0)].1.udp_replied_ms, 101);
        assert_eq!(limits[0].1, Timeouts::default());
    }

    #[test]
    fn where_connections_hold_every_class_those_of_the_oldest_policies_give_way() {
        let mut classes = Classes::new(Timeouts::default());
        let most = MAX_OVERRIDES as u32;
        let mut before = Vec::new();
        for round in 0..5 {
            let mut gave_way = Vec::new();
            let claimed = classes.claim(
                &sets(round * most..(round + 1) * most),
                || u64::MAX,
                |class| gave_way.push(class),
            );
            assert_eq!(gave_way.len(), [0, 0, 30, 31, 31][round as usize]);
            assert!(claimed.iter().all(|class| !before.contains(class)), "those in force keep theirs");
            for (class, ms) in claimed.iter().zip(round * most..) {
                let (_, limits) = classes.limits().nth(usize::from(class.0)).unwrap();
                assert_eq!(limits.udp_replied_ms, ms);
            }
            before = claimed;
        }
    }
}
