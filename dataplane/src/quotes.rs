//! Which packets an ICMP error has been let through about: a packet dies once, so a second error about it is a copy or
//! a forgery (I1). A worker remembers the last few thousand for a few seconds, in memory of fixed size.
//!
//! What is kept of a packet is a keyed hash of 64 bits over its connection, its identification and the first eight
//! bytes of its transport header. Two packets are taken for one with a probability of 2⁻⁶⁴ for each one that is
//! remembered in the same set, and nobody who does not know the key can look for two that are. A set keeps four: where a
//! fifth error within the time falls into it, the oldest is forgotten, and a copy of that one may pass once more.
//! Errors about one packet come from one router and so, by its addresses, to one queue; of a copy that another worker
//! receives this worker knows nothing.

use std::hash::{BuildHasher, RandomState};

use crate::headers::Quote;
use crate::verdict::Now;

/// Sets of four: 64 KiB a worker.
const SETS: usize = 1024;
const WAYS: usize = 4;
/// Until an error about the same packet passes again, nanoseconds. Copies made by the network follow within
/// milliseconds, but identical packets are sent again: a name server is asked once more after 5 s (resolv.conf(5)), and
/// an IPv6 segment that was too big is retransmitted as it was, should the first error have been lost.
const MEMORY_NS: u64 = 4_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    hash: u64,
    /// When it was let through, plus one, so that 0 is never.
    at: u64,
}

/// The packets that errors have been let through about. One per worker.
#[derive(Debug)]
pub(crate) struct Quotes {
    sets: Box<[[Seen; WAYS]; SETS]>,
    key: RandomState,
}

impl Quotes {
    /// None yet, and a secret of its own.
    pub(crate) fn new() -> Quotes {
        Quotes { sets: Box::new([[Seen::default(); WAYS]; SETS]), key: RandomState::new() }
    }

    /// Whether no error about this packet was let through lately; from now on one was.
    pub(crate) fn admit(&mut self, quote: &Quote, now: Now) -> bool {
        let connection = (quote.addresses, quote.source_port, quote.destination_port, quote.protocol);
        let hash = self.key.hash_one((connection, quote.identification, quote.start));
        let set = &mut self.sets[hash as usize % SETS];
        let lives = |seen: &Seen| seen.at != 0 && now.0.saturating_sub(seen.at - 1) < MEMORY_NS;
        if set.iter().any(|seen| seen.hash == hash && lives(seen)) {
            return false;
        }
        if let Some(oldest) = set.iter_mut().min_by_key(|seen| seen.at) {
            *oldest = Seen { hash, at: now.0.saturating_add(1) };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{Addresses, protocol};

    fn quote(identification: u16, start: u64) -> Quote {
        Quote {
            addresses: Addresses::V4([10, 1, 0, 5].into(), [10, 2, 0, 7].into()),
            source_port: 4000,
            destination_port: 53,
            protocol: protocol::UDP,
            tcp_sequence: None,
            mtu: None,
            start,
            identification,
        }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn i1_a_packet_is_admitted_once_in_four_seconds() {
        let mut quotes = Quotes::new();
        for start in [0, SECOND] {
            assert!(quotes.admit(&quote(1, start), Now(start)));
            assert!(!quotes.admit(&quote(1, start), Now(start)));
            assert!(!quotes.admit(&quote(1, start), Now(start + MEMORY_NS - 1)));
            assert!(quotes.admit(&quote(1, start), Now(start + MEMORY_NS)));
        }
        // A clock that stands a little behind does not open the gate.
        assert!(!quotes.admit(&quote(1, 0), Now(0)));
    }

    #[test]
    fn i1_packets_that_differ_in_anything_are_different() {
        let mut quotes = Quotes::new();
        let one = quote(1, 2);
        let others = [
            quote(2, 2),
            quote(1, 3),
            Quote { source_port: 4001, ..one },
            Quote { destination_port: 54, ..one },
            Quote { protocol: protocol::TCP, ..one },
            Quote { addresses: Addresses::V4([10, 1, 0, 6].into(), [10, 2, 0, 7].into()), ..one },
        ];
        assert!(quotes.admit(&one, Now(5)));
        assert!(others.iter().all(|other| quotes.admit(other, Now(5))));
        assert!(!quotes.admit(&Quote { mtu: Some(1400), ..one }, Now(5)), "whatever the error says");
    }

    #[test]
    fn thousands_are_remembered_and_a_flood_forgets_the_oldest_only() {
        let mut quotes = Quotes::new();
        for number in 0..1000 {
            assert!(quotes.admit(&quote(7, number), Now(number)));
        }
        // Of 1,000 in 1,024 sets of four, hardly any set has had five.
        let again = (0..1000).filter(|number| quotes.admit(&quote(7, *number), Now(1000))).count();
        assert!(again < 50, "{again} forgotten");
        for number in 0..100_000 {
            quotes.admit(&quote(8, number), Now(SECOND));
        }
        assert!(!quotes.admit(&quote(8, 99_999), Now(SECOND)));
    }
}
