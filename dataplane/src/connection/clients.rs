//! Which clients have shown that they receive what is sent to them: SYN cookies without a connection's worth of state
//! or of translation.
//!
//! A SYN of an unknown client is answered, in the name of its destination, with a SYN-ACK that acknowledges not the
//! SYN but a *cookie*: a keyed hash of addresses, ports and time. A client that is in SYN-SENT must answer an
//! unacceptable acknowledgement with a reset whose sequence number is that acknowledgement (RFC 9293, section
//! 3.10.7.3), and stays in SYN-SENT. A reset with the right cookie therefore comes from somebody who received the
//! SYN-ACK; its source is remembered as verified, and the SYN that the client sends again opens the connection, whose
//! sequence numbers are the server's own from the beginning. Linux sends it again at once (after two jiffies,
//! `tcp_rcv_synsent_state_process`), others after their retransmission time-out of a second.
//!
//! **Cookies** are 32 bits of SipHash-1-3 (the standard library's `RandomState`, keyed by the kernel's random
//! generator once a start), not of the table's own hash: they are shown to whoever asks, so it must be one that stays
//! unpredictable for those who see its values. One is good for the [`SLOT_NS`] in which it was given and the next.
//! Whoever guesses needs 2³⁰ resets for one source on average: two slots, and two values a slot, for the acknowledgement
//! must lie outside of what the SYN would accept, and so may have its highest bit turned.
//!
//! **The table** has a fixed size and forgets: a source stays verified for [`VERIFIED_NS`], or until the sources that
//! share its bucket have filled it with younger ones. Forgetting costs a client one more challenge. A source is an IPv4
//! address or an IPv6 /64, for whoever has a /64 could fill the table with it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;

use crate::headers::Addresses;
use crate::sync::{AtomicU64, Relaxed};
use crate::verdict::Now;

/// How long cookies are made in the same way, nanoseconds: 8.6 s. A client may take as long to answer, and twice at most.
const SLOT_NS: u64 = 1 << 33;
/// How long a source stays verified, nanoseconds: a client that comes again within ten minutes is not asked again.
const VERIFIED_NS: u64 = 600 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;

/// Words of a bucket: one cache line.
const SLOTS: usize = 8;
/// Room for 65,536 sources: 512 KiB.
const BUCKETS: usize = if cfg!(loom) { 1 } else { 8192 };
const HIGHEST_BIT: u32 = 1 << 31;

/// `tag:32 | when it was verified, in seconds:32`, 0 when it is empty.
#[repr(align(64))]
struct Bucket([AtomicU64; SLOTS]);

/// The clients of protected segments.
pub struct Clients {
    keys: RandomState,
    verified: OnceLock<Box<[Bucket]>>,
}

/// What a cookie is for: addresses and ports of the SYN.
#[derive(Clone, Copy)]
pub struct Knock<'a> {
    /// From the client to the server.
    pub addresses: &'a Addresses,
    /// The client's port and the server's.
    pub ports: (u16, u16),
}

/// The numbers of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The SYN-ACK's sequence number. Nobody ever asks about it.
    pub sequence: u32,
    /// What it acknowledges: the cookie.
    pub acknowledgement: u32,
}

impl Default for Clients {
    fn default() -> Clients {
        Clients { keys: RandomState::new(), verified: OnceLock::new() }
    }
}

impl Clients {
    /// Makes room; to be done before a policy protects a segment. Not for the packet path.
    pub fn prepare(&self) {
        let bucket = || Bucket(std::array::from_fn(|_| AtomicU64::new(0)));
        self.verified.get_or_init(|| (0..BUCKETS).map(|_| bucket()).collect());
    }

    /// The answer to a SYN with this sequence number and so many bytes of data.
    pub fn challenge(&self, knock: Knock<'_>, sequence: u32, payload: u16, now: Now) -> Challenge {
        let hash = self.hash(knock, now.0 / SLOT_NS);
        let cookie = hash as u32;
        // The client accepts what lies behind its SYN, up to the end of the data that it has sent (SND.NXT).
        let is_acceptable = (1..=1 + u32::from(payload)).contains(&cookie.wrapping_sub(sequence));
        let acknowledgement = if is_acceptable { cookie ^ HIGHEST_BIT } else { cookie };
        Challenge { sequence: (hash >> 32) as u32, acknowledgement }
    }

    /// Whether a reset with this sequence number answers a challenge.
    pub fn is_answer(&self, knock: Knock<'_>, sequence: u32, now: Now) -> bool {
        let slot = now.0 / SLOT_NS;
        [slot, slot.wrapping_sub(1)].into_iter().any(|slot| {
            let cookie = self.hash(knock, slot) as u32;
            sequence == cookie || sequence == cookie ^ HIGHEST_BIT
        })
    }

    fn hash(&self, knock: Knock<'_>, slot: u64) -> u64 {
        let (source, destination) = match *knock.addresses {
            Addresses::V4(source, destination) => (source.to_bits().into(), destination.to_bits().into()),
            Addresses::V6(source, destination) => (source.to_bits(), destination.to_bits()),
        };
        let is_v4 = matches!(knock.addresses, Addresses::V4(..));
        self.keys.hash_one((slot, is_v4, source, destination, knock.ports))
    }

    /// The bucket and the tag of a source.
    fn place(&self, source: IpAddr) -> Option<(&Bucket, u64)> {
        let prefix = match source {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        let hash = self.keys.hash_one((source.is_ipv4(), prefix));
        Some((&self.verified.get()?[hash as usize % BUCKETS], hash >> 32))
    }

    /// Remembers that this source has answered.
    pub fn verify(&self, source: IpAddr, now: Now) {
        let Some((bucket, tag)) = self.place(source) else { return };
        let words = bucket.0.iter().map(|cell| (cell, cell.load(Relaxed)));
        let known = |word: u64| word >> 32 == tag;
        // Its own word, or else the one that was verified longest ago; an empty one is older than any.
        let oldest = words.min_by_key(|(_, word)| if known(*word) { 0 } else { u64::from(*word as u32) + 1 });
        if let Some((cell, _)) = oldest {
            // Two workers may overwrite each other here: one of the sources is asked again.
            cell.store(tag << 32 | (now.0 / SECOND_NS).max(1) & u64::from(u32::MAX), Relaxed);
        }
    }

    /// Whether this source has answered not too long ago.
    pub fn is_verified(&self, source: IpAddr, now: Now) -> bool {
        let Some((bucket, tag)) = self.place(source) else { return false };
        let now = now.0 / SECOND_NS;
        let fresh = |word: u64| {
            let then = word & u64::from(u32::MAX);
            word != 0 && word >> 32 == tag && now.saturating_sub(then) <= VERIFIED_NS / SECOND_NS
        };
        bucket.0.iter().any(|cell| fresh(cell.load(Relaxed)))
    }
}

#[cfg(all(not(loom), test))]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const V4: Addresses = Addresses::V4(Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 2, 0, 1));

    fn at(seconds: u64) -> Now {
        Now(seconds * SECOND_NS)
    }

    fn knock(addresses: &Addresses) -> Knock<'_> {
        Knock { addresses, ports: (4000, 80) }
    }

    fn clients() -> Clients {
        let clients = Clients::default();
        clients.prepare();
        clients
    }

    #[test]
    fn a_cookie_is_good_for_its_own_knock_and_a_while_and_not_for_another_start() {
        let clients = clients();
        let cookie = clients.challenge(knock(&V4), 7, 0, at(100)).acknowledgement;
        assert!(clients.is_answer(knock(&V4), cookie, at(100)));
        assert!(clients.is_answer(knock(&V4), cookie, at(108)));
        assert!(!clients.is_answer(knock(&V4), cookie, at(118)));
        assert!(!clients.is_answer(knock(&V4), cookie.wrapping_add(1), at(100)));
        assert!(!clients.is_answer(Knock { ports: (4001, 80), ..knock(&V4) }, cookie, at(100)));
        assert!(!clients.is_answer(Knock { ports: (4000, 81), ..knock(&V4) }, cookie, at(100)));
        let other = Addresses::V4(Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 2, 0, 1));
        assert!(!clients.is_answer(knock(&other), cookie, at(100)));
        assert!(!Clients::default().is_answer(knock(&V4), cookie, at(100)));
    }

    #[test]
    fn what_is_acknowledged_is_never_acceptable_to_the_syn() {
        let clients = clients();
        let cookie = clients.challenge(knock(&V4), 0, 0, at(100)).acknowledgement;
        for payload in [0, 1, 1000, u16::MAX] {
            for back in [1, 2, 1 + u32::from(payload), 2 + u32::from(payload)] {
                let sequence = cookie.wrapping_sub(back);
                let ack = clients.challenge(knock(&V4), sequence, payload, at(100)).acknowledgement;
                let accepted = (1..=1 + u32::from(payload)).contains(&ack.wrapping_sub(sequence));
                assert!(!accepted, "{payload} {back}");
                assert!(clients.is_answer(knock(&V4), ack, at(100)));
            }
        }
    }

    #[test]
    fn a_source_is_verified_for_ten_minutes_and_an_ipv6_one_with_its_64() {
        let clients = clients();
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(!clients.is_verified(of("10.0.0.1"), at(5)));
        clients.verify(of("10.0.0.1"), at(5));
        clients.verify(of("fd00::1"), at(5));
        assert!(
            clients.is_verified(of("10.0.0.1"), at(605)) && !clients.is_verified(of("10.0.0.1"), at(606))
        );
        assert!(
            clients.is_verified(of("fd00::2"), at(5)) && !clients.is_verified(of("fd00:0:0:1::1"), at(5))
        );
        assert!(!clients.is_verified(of("10.0.0.2"), at(5)));
        // Again, in time: the same word, and not one of the seven others.
        (6..1000).for_each(|second| clients.verify(of("10.0.0.1"), at(second)));
        assert!(clients.is_verified(of("10.0.0.1"), at(1500)));
        let used = |bucket: &Bucket| bucket.0.iter().filter(|cell| cell.load(Relaxed) != 0).count();
        assert_eq!(clients.verified.get().unwrap().iter().map(used).sum::<usize>(), 2);
    }

    #[test]
    fn a_table_that_is_full_of_verified_sources_forgets_the_oldest_and_keeps_its_size() {
        let clients = clients();
        let source = |number: u32| IpAddr::from(number.to_be_bytes());
        let all = 4 * (SLOTS * BUCKETS) as u32;
        (0..all).for_each(|number| clients.verify(source(number), at(1 + u64::from(number) / 1000)));
        let now = at(1 + u64::from(all) / 1000);
        let known =
            |range: std::ops::Range<u32>| range.filter(|n| clients.is_verified(source(*n), now)).count();
        assert!(known(all - 1000..all) >= 999, "the youngest stay");
        assert!(known(0..1000) < 50, "the oldest go");
    }

    #[test]
    fn without_a_protected_segment_nothing_is_remembered() {
        let clients = Clients::default();
        clients.verify(IpAddr::from([10, 0, 0, 1]), at(1));
        assert!(!clients.is_verified(IpAddr::from([10, 0, 0, 1]), at(1)));
    }
}
