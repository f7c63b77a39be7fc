//! How many answers a worker gives: a bucket per source and a cap on all together, without allocation.
//!
//! No more bytes are told to a source than its packets that could be answered have brought (D8, I12): each of them
//! earns its length, each answer spends its own. So whoever sends in a victim's name has the victim told less than he
//! had to send himself. A packet of the shortest kind earns too little for the error about it (RFC 792 asks for eight
//! bytes behind the quoted header, which makes at least 56 bytes), and is answered with the next one.
//!
//! A shared limit is a side channel: who provokes answers in a victim's name and then counts their own learns what the
//! victim was told (I12; SAD DNS, CVE-2020-25705). So each source has its own bucket, which bucket that is depends on
//! a secret that changes, and the cap on all together, which a flood from forged sources needs, takes a random number
//! of tokens each time, so that what is left of it tells nothing exact.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::verdict::Now;

/// Buckets: 40 KiB a worker, what they have earned included.
const BUCKETS: usize = 4096;
/// The most bytes that a source's packets can earn ahead: two of the largest answers, so that what was saved up in quiet
/// times is soon spent.
const CREDIT_BYTES: usize = 2 * 1280;
/// After this time sources are spread over the buckets anew, so that two that share one do so not for long.
const RESEED_NS: u64 = 60_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// How many answers are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers per second to one source in the long run; one IPv4 address or one IPv6 /64.
    pub per_source: u32,
    /// Answers at once to a source that was quiet.
    pub source_burst: u32,
    /// Answers per second to all sources together, on average.
    pub total: u32,
    /// Answers at once to all sources together, on average.
    pub total_burst: u32,
}

impl Default for Limits {
    /// Ten a second to one source (a traceroute is served at once), a thousand to all: at 576 bytes 5 Mbit/s.
    fn default() -> Self {
        Limits { per_source: 10, source_burst: 20, total: 1_000, total_burst: 1_000 }
    }
}

/// A bucket as a single time: when it will be full again (the generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(u64);

impl Bucket {
    /// The bucket after taking `cost` nanoseconds' worth, or `None` if it does not hold them.
    fn take(self, now: Now, cost: u64, burst: u64) -> Option<Bucket> {
        let full_at = self.0.max(now.0).saturating_add(cost);
        (full_at - now.0 <= burst).then_some(Bucket(full_at))
    }
}

/// Decides whether one more answer may be sent. One per worker.
#[derive(Debug)]
pub struct RateLimiter {
    buckets: Box<[Bucket; BUCKETS]>,
    /// Bytes earned and not spent, at most [`CREDIT_BYTES`].
    credits: Box<[u16; BUCKETS]>,
    total: Bucket,
    limits: Limits,
    keys: RandomState,
    epoch: u64,
    /// State of the generator that makes the cap's costs uneven; only unpredictability from outside matters.
    random: u64,
}

impl RateLimiter {
    /// A limiter with full buckets and its own secret.
    pub fn new(limits: Limits) -> RateLimiter {
        let keys = RandomState::new();
        RateLimiter {
            buckets: Box::new([Bucket(0); BUCKETS]),
            credits: Box::new([0; BUCKETS]),
            total: Bucket(0),
            limits,
            random: keys.hash_one(0u64) | 1,
            keys,
            epoch: 0,
        }
    }

    /// Whether to answer a packet of this source now, `received` bytes long from its IP header on, with at least
    /// `least` bytes of IP: then how many bytes the answer may have at most, and it is counted. What is sent has to be
    /// told to [`RateLimiter::spend`]. To be asked once for every packet that could be answered.
    #[must_use]
    pub fn allow(&mut self, now: Now, source: IpAddr, received: usize, least: usize) -> Option<usize> {
        let epoch = now.0 / RESEED_NS;
        if epoch != self.epoch {
            self.epoch = epoch;
            self.buckets.fill(Bucket(0));
            self.credits.fill(0);
        }
        let index = self.index(source);
        let earned = (usize::from(self.credits[index]) + received).min(CREDIT_BYTES);
        self.credits[index] = earned as u16;
        if earned < least {
            return None;
        }
        let limits = &self.limits;
        // A limit of 0 answers nobody.
        let cost = |per_second: u32| SECOND_NS.checked_div(per_second.into());
        let (source_cost, total_cost) = (cost(limits.per_source)?, cost(limits.total)?);
        let burst = source_cost * u64::from(limits.source_burst);
        let bucket = self.buckets[index].take(now, source_cost, burst)?;
        let burst = total_cost * u64::from(limits.total_burst);
        // Judged before the cost is drawn: else, at the limit, only cheap draws would pass and the mean be missed.
        let total = self.total.0.max(now.0);
        if total - now.0 > burst {
            return None;
        }
        // Zero to twice the mean cost, so the mean is kept.
        let uneven = self.next_random() % (2 * total_cost + 1);
        self.buckets[index] = bucket;
        self.total = Bucket(total.saturating_add(uneven));
        Some(earned)
    }

    /// Takes the bytes of an answer that was built for this source, right after [`RateLimiter::allow`].
    pub fn spend(&mut self, source: IpAddr, bytes: usize) {
        let index = self.index(source);
        self.credits[index] = self.credits[index].saturating_sub(bytes.min(CREDIT_BYTES) as u16);
    }

    fn index(&self, source: IpAddr) -> usize {
        let prefix = match source {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            // A host chooses freely within its /64.
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        (self.keys.hash_one((self.epoch, source.is_ipv4(), prefix)) % BUCKETS as u64) as usize
    }

    /// xorshift64 (Marsaglia 2003).
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Default for RateLimiter {
    fn default() -> Self {
        RateLimiter::new(Limits::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { per_source: 10, source_burst: 5, total: 1_000_000, total_burst: 1_000_000 };

    fn allowed(limiter: &mut RateLimiter, now_ms: u64, source: &str, tries: usize) -> usize {
        let source = source.parse().unwrap();
        let mut ask = || limiter.allow(Now(now_ms * 1_000_000), source, 1500, 56).is_some();
        (0..tries).filter(|_| ask()).count()
    }

    #[test]
    fn i12_one_source_gets_its_burst_and_then_its_rate() {
        let mut limiter = RateLimiter::new(LIMITS);
        assert_eq!(allowed(&mut limiter, 1_000, "10.0.0.1", 100), 5);
        assert_eq!(allowed(&mut limiter, 1_099, "10.0.0.1", 100), 0);
        assert_eq!(allowed(&mut limiter, 1_100, "10.0.0.1", 100), 1);
        assert_eq!(allowed(&mut limiter, 1_500, "10.0.0.1", 100), 4);
        assert_eq!(allowed(&mut limiter, 9_000, "10.0.0.1", 100), 5);
    }

    #[test]
    fn i12_a_source_that_used_up_its_own_bucket_takes_nothing_from_another() {
        // Two of 4,096 buckets may be one by chance: of twenty other sources nearly all must be untouched.
        let mut limiter = RateLimiter::new(LIMITS);
        assert_eq!(allowed(&mut limiter, 1_000, "10.0.0.1", 10_000), 5);
        let whole = (2..22).filter(|i| allowed(&mut limiter, 1_000, &format!("10.0.0.{i}"), 9) == 5).count();
        assert!(whole >= 17, "{whole}");
    }

    #[test]
    fn d8_a_source_is_never_told_more_bytes_than_its_packets_brought() {
        let mut limiter = RateLimiter::new(Limits { per_source: 1000, source_burst: 1000, ..LIMITS });
        let source = "10.0.0.1".parse().unwrap();
        let (mut received, mut sent, mut answers) = (0, 0, 0);
        for step in 0..2000u64 {
            let bytes = [28, 29, 60, 1500, 28, 28][step as usize % 6];
            received += bytes;
            if let Some(most) = limiter.allow(Now(SECOND_NS + step * 1_000_000), source, bytes, 56) {
                assert!(most >= 56);
                // As much as is allowed, up to the longest answer there is.
                let answer = most.min(576);
                limiter.spend(source, answer);
                sent += answer;
                answers += 1;
            }
            assert!(sent <= received, "{sent} bytes for {received}");
        }
        assert!(answers > 300, "{answers}");
    }

    #[test]
    fn d8_what_was_earned_in_quiet_times_is_bounded() {
        let mut limiter = RateLimiter::new(LIMITS);
        let source = "10.0.0.1".parse().unwrap();
        for _ in 0..100 {
            let _ = limiter.allow(Now(SECOND_NS), source, 1500, usize::MAX);
        }
        assert_eq!(limiter.allow(Now(SECOND_NS), source, 1500, 56), Some(CREDIT_BYTES));
    }

    #[test]
    fn addresses_of_one_ipv6_64_share_a_bucket() {
        let mut limiter = RateLimiter::new(LIMITS);
        assert_eq!(allowed(&mut limiter, 1_000, "fd00::1", 3), 3);
        assert_eq!(allowed(&mut limiter, 1_000, "fd00::2", 9), 2);
    }

    #[test]
    fn all_sources_together_stay_under_the_cap_on_average() {
        let limits = Limits { total: 1_000, total_burst: 100, ..LIMITS };
        let mut limiter = RateLimiter::new(limits);
        let mut count = 0;
        for i in 0..100_000u32 {
            // Ten seconds of a flood from forged sources.
            let source = IpAddr::from(i.wrapping_mul(2_654_435_761).to_be_bytes());
            let now = Now(SECOND_NS + u64::from(i) * 100_000);
            count += usize::from(limiter.allow(now, source, 60, 56).is_some());
        }
        assert!((9_000..=12_500).contains(&count), "{count}");
    }

    #[test]
    fn a_limit_of_zero_answers_nobody() {
        let mut limiter = RateLimiter::new(Limits { per_source: 0, ..LIMITS });
        assert_eq!(allowed(&mut limiter, 1_000, "10.0.0.1", 10), 0);
        let mut limiter = RateLimiter::new(Limits { total: 0, ..LIMITS });
        assert_eq!(allowed(&mut limiter, 1_000, "10.0.0.1", 10), 0);
    }
}
