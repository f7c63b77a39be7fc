//! How long an idle connection is kept.

use super::tcp::State;
use crate::sync::{AtomicU32, Relaxed};

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
    /// UDP without a reply so far. 120 s (RFC 4787, REQ-5: at least 2 minutes).
    pub udp_unreplied_ms: u32,
    /// UDP with replies. 120 s (RFC 4787, REQ-5).
    pub udp_replied_ms: u32,
    /// ICMP echo. 60 s (RFC 5508, REQ-2).
    pub icmp_ms: u32,
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

/// The limits by state, replaceable while workers read them.
pub(super) struct Limits([AtomicU32; State::COUNT]);

impl Limits {
    pub(super) fn new(timeouts: &Timeouts) -> Limits {
        Limits(std::array::from_fn(|i| AtomicU32::new(timeouts.of(State::ALL[i]).min(MAX_TIMEOUT_MS))))
    }

    /// Limits are independent of each other, so a reader may see some old and some new ones.
    pub(super) fn replace(&self, timeouts: &Timeouts) {
        for (limit, state) in self.0.iter().zip(State::ALL) {
            limit.store(timeouts.of(state).min(MAX_TIMEOUT_MS), Relaxed);
        }
    }

    #[inline]
    pub(super) fn of(&self, state: State) -> u32 {
        self.0[state as usize].load(Relaxed)
    }
}
