//! Limits of rules: how many connections a rule, and one source under it, may have at a time and open a second.
//!
//! An *account* is one rule's place in the counters, kept by the rule's identity over reloads: the number of a rule
//! changes with every policy, its identity does not. A policy holds a lease of the account of each of its rules that
//! has limits. An account without leases and without connections goes to the next rule that needs one.
//!
//! A connection remembers its account beside its entry (see [`Map`](super::Map)), whatever becomes of its rule, so
//! that it is taken off the account that it was put on, once, however it ends. Judged again by a policy in which
//! another rule lets it through, it moves to that rule's account, past its limits if need be: limits refuse new
//! connections and end none. Connections of a rule that had no limits are counted from when they are judged again,
//! that is with their next packet after the reload.
//!
//! Rates are token buckets (the generic cell rate algorithm, ITU-T I.371: a bucket is the time at which it will be
//! full) that hold one second's worth: a quiet rule lets `new_per_second` through at once and as many a second in the
//! long run. The time of a token is rounded up, to 1 ns for a rule and 256 ns for a source. Concurrent connections
//! are exact, as [`Sources`] says. A token is spent by every connection that gets as far as the table.
//!
//! **A rate of a source** is remembered for the second that its bucket takes to fill, in a table of fixed size that
//! forgets: when more sources than fit opened connections within a second, the one closest to a full bucket is
//! forgotten, and may then open up to a second's worth too early.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::key::{Family, Hash, HashKey};
use super::sources::Sources;
use crate::sync::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed};
use crate::verdict::{Now, Reason, RuleId};

/// The most rules with limits in a policy.
pub const MAX_LIMITED_RULES: usize = 1 << 15;
/// The highest rate: at more, a token is not much longer than the 256 ns to which it is rounded.
pub const MAX_RATE: u32 = 1_000_000;

/// Accounts: those of a policy, of the one before it, and as many of rules that are gone but have connections.
const ACCOUNTS: usize = if cfg!(loom) { 4 } else { 3 * MAX_LIMITED_RULES };
const SECOND_NS: u64 = 1_000_000_000;

/// An entry's account: none.
pub(super) const NO_ACCOUNT: u32 = u32::MAX;

/// What a rule allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleLimits {
    /// Which rule it is, over all policies: the counters follow it.
    pub identity: u64,
    /// Connections at a time.
    pub connections: Option<u32>,
    /// Connections at a time of one source: an IPv4 address or an IPv6 /64.
    pub connections_per_source: Option<u32>,
    /// Connections opened per second, at most [`MAX_RATE`].
    pub new_per_second: Option<u32>,
    /// Connections opened per second by one source, at most [`MAX_RATE`].
    pub new_per_second_per_source: Option<u32>,
}

/// More rules with limits than there are accounts, those of earlier rules with connections included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyLimits;

#[derive(Debug)]
struct Lease {
    account: u32,
}

/// A rule's limits with its account.
#[derive(Clone, Debug)]
pub struct Limit {
    lease: Arc<Lease>,
    limits: RuleLimits,
}

impl Limit {
    /// Whether connections count at all, or only how fast they come.
    fn counts(&self) -> bool {
        self.limits.connections.is_some() || self.limits.connections_per_source.is_some()
    }

    /// What an entry remembers.
    pub(super) fn account(&self) -> u32 {
        if self.counts() { self.lease.account } else { NO_ACCOUNT }
    }
}

/// The limits of a policy's rules.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    wanted: Vec<(RuleId, RuleLimits)>,
    bound: Vec<Limit>,
    /// By rule, the place in `bound` plus one; 0 for none. Empty where no rule has limits.
    of_rule: Vec<u32>,
}

impl Limits {
    /// Limits that a [`Table`](super::Table) has yet to give accounts for.
    pub fn new(wanted: Vec<(RuleId, RuleLimits)>) -> Limits {
        Limits { wanted, ..Limits::default() }
    }

    /// Whether no rule has limits.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The rule's limits.
    #[inline]
    pub fn find(&self, rule: RuleId) -> Option<&Limit> {
        let place = *self.of_rule.get(rule.0 as usize)?;
        self.bound.get((place as usize).checked_sub(1)?)
    }
}

#[derive(Default)]
struct Account {
    connections: AtomicU32,
    /// When the rule's bucket will be full, nanoseconds.
    full_at: AtomicU64,
}

/// What is only needed once a rule has limits.
struct Books {
    accounts: Box<[Account]>,
    sources: Sources,
    rates: Rates,
}

/// All accounts.
pub(super) struct Accounts {
    key: HashKey,
    /// How many connections there may be.
    connections: u32,
    books: OnceLock<Books>,
    leases: Mutex<HashMap<u64, Arc<Lease>>>,
}

impl Accounts {
    pub(super) fn new(key: HashKey, connections: u32) -> Accounts {
        Accounts { key, connections, books: OnceLock::new(), leases: Mutex::default() }
    }

    /// Gives every rule with limits its account. Not for the packet path; the first one allocates.
    pub(super) fn bind(&self, limits: &mut Limits) -> Result<(), TooManyLimits> {
        if limits.wanted.is_empty() {
            return Ok(());
        }
        let books = self.books.get_or_init(|| Books {
            accounts: (0..ACCOUNTS).map(|_| Account::default()).collect(),
            sources: Sources::new(self.connections),
            rates: Rates::new(),
        });
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a policy that holds the lease nobody can put a further connection on the account.
        leases.retain(|_, lease| {
            let account = &books.accounts[lease.account as usize];
            Arc::strong_count(lease) > 1 || account.connections.load(Acquire) > 0
        });
        let mut used = vec![false; ACCOUNTS];
        leases.values().for_each(|lease| used[lease.account as usize] = true);
        let mut free = (0..ACCOUNTS as u32).filter(|account| !used[*account as usize]);
        let rules = limits.wanted.iter().map(|(rule, _)| rule.0 as usize + 1).max().unwrap_or(0);
        (limits.bound, limits.of_rule) = (Vec::with_capacity(limits.wanted.len()), vec![0; rules]);
        for (rule, wanted) in &limits.wanted {
            let lease = match leases.get(&wanted.identity) {
                Some(lease) => lease.clone(),
                None => {
                    let account = free.next().ok_or(TooManyLimits)?;
                    books.accounts[account as usize].full_at.store(0, Relaxed);
                    let lease = Arc::new(Lease { account });
                    leases.insert(wanted.identity, lease.clone());
                    lease
                }
            };
            limits.bound.push(Limit { lease, limits: *wanted });
            limits.of_rule[rule.0 as usize] = limits.bound.len() as u32;
        }
        Ok(())
    }

    fn source<A: Family>(&self, source: A, account: u32) -> Hash {
        self.key.source(source, account)
    }

    /// Puts a new connection of this source on the rule's account and takes the tokens, if the limits allow it.
    pub(super) fn admit<A: Family>(&self, limit: &Limit, source: A, now: Now) -> Result<(), Reason> {
        let (Some(books), RuleLimits { connections, connections_per_source, .. }) =
            (self.books.get(), limit.limits)
        else {
            return Ok(());
        };
        if limit.counts() {
            self.put(books, limit, source, connections, connections_per_source)?;
        }
        let rates = self.take_tokens(books, limit, source, now);
        if rates.is_err() {
            self.release(limit.account(), source);
        }
        rates
    }

    fn put<A: Family>(
        &self,
        books: &Books,
        limit: &Limit,
        source: A,
        connections: Option<u32>,
        per_source: Option<u32>,
    ) -> Result<(), Reason> {
        let account = limit.lease.account;
        let hash = self.source(source, account);
        if !books.sources.add(hash, per_source.unwrap_or(u32::MAX)) {
            return Err(Reason::SourceConnectionLimit);
        }
        let count = &books.accounts[account as usize].connections;
        let most = connections.unwrap_or(u32::MAX);
        if count.fetch_update(AcqRel, Relaxed, |n| (n < most).then_some(n + 1)).is_err() {
            books.sources.remove(hash);
            return Err(Reason::RuleConnectionLimit);
        }
        Ok(())
    }

    /// Both tokens or none: who asks in vain at an empty bucket of the rule keeps their own token, and a source that is
    /// refused leaves the rule's to others. (Two that take the rule's last one at once may differ.)
    fn take_tokens<A: Family>(
        &self,
        books: &Books,
        limit: &Limit,
        source: A,
        now: Now,
    ) -> Result<(), Reason> {
        let account = limit.lease.account;
        let full_at = &books.accounts[account as usize].full_at;
        let rate = limit.limits.new_per_second;
        let take = |full_at: u64| {
            let rate = u64::from(rate?);
            let cost = SECOND_NS.div_ceil(rate.max(1));
            let full_at = full_at.max(now.0) + cost;
            (full_at - now.0 <= cost * rate).then_some(full_at)
        };
        if rate.is_some() && take(full_at.load(Acquire)).is_none() {
            return Err(Reason::RuleRateLimit);
        }
        if let Some(rate) = limit.limits.new_per_second_per_source
            && !books.rates.take(self.source(source, account), now, rate)
        {
            return Err(Reason::SourceRateLimit);
        }
        if rate.is_some() && full_at.fetch_update(AcqRel, Relaxed, take).is_err() {
            return Err(Reason::RuleRateLimit);
        }
        Ok(())
    }

    /// Puts a connection that exists on a rule's account, whatever its limits; returns the account to remember.
    pub(super) fn transfer<A: Family>(&self, limit: Option<&Limit>, source: A) -> u32 {
        let (Some(books), Some(limit)) = (self.books.get(), limit.filter(|limit| limit.counts())) else {
            return NO_ACCOUNT;
        };
        match self.put(books, limit, source, None, None) {
            Ok(()) => limit.lease.account,
            // No room for the source, which does not happen: it goes uncounted.
            Err(_) => NO_ACCOUNT,
        }
    }

    /// Takes a connection off its account. Once for every one that was put there.
    pub(super) fn release<A: Family>(&self, account: u32, source: A) {
        if let Some(books) = self.books.get()
            && account != NO_ACCOUNT
        {
            books.accounts[account as usize].connections.fetch_sub(1, AcqRel);
            books.sources.remove(self.source(source, account));
        }
    }

    /// How many connections are on the rule's account, if they are counted.
    pub(super) fn connections(&self, limit: &Limit) -> Option<u32> {
        let books = self.books.get().filter(|_| limit.counts())?;
        Some(books.accounts[limit.lease.account as usize].connections.load(Relaxed))
    }
}

/// Words of a bucket.
const SLOTS: usize = 8;
/// Buckets for the rates of sources: 512 KiB.
const BUCKETS: usize = if cfg!(loom) { 1 } else { 8192 };
/// A word's time counts 256 ns: its 40 bits come round after 78 hours.
const TICK_SHIFT: u32 = 8;
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// No bucket is further from full than a second and the rounding of a token at [`MAX_RATE`]. A time that seems to be
/// is one of long ago.
const FARTHEST: u64 = (2 * SECOND_NS) >> TICK_SHIFT;

/// One second's memory of how fast sources open connections: words of `tag:24 | when full:40`.
struct Rates {
    buckets: Box<[[AtomicU64; SLOTS]]>,
}

/// How far from full a bucket is, in ticks.
fn debt(word: u64, now: u64) -> u64 {
    let ahead = word.wrapping_sub(now) & TIME_MASK;
    if ahead > FARTHEST { 0 } else { ahead }
}

impl Rates {
    fn new() -> Rates {
        let bucket = || std::array::from_fn(|_| AtomicU64::new(0));
        Rates { buckets: (0..BUCKETS).map(|_| bucket()).collect() }
    }

    /// Takes a token out of the source's bucket, if there is one.
    fn take(&self, hash: Hash, now: Now, rate: u32) -> bool {
        let Hash(bits) = hash;
        let cost = SECOND_NS.div_ceil(rate.max(1).into()).div_ceil(1 << TICK_SHIFT);
        let burst = cost * u64::from(rate);
        let now = now.0 >> TICK_SHIFT;
        let bucket = &self.buckets[(bits >> 32) as usize % BUCKETS];
        let tag = bits << TIME_BITS;
        loop {
            // The source's own word, or else the one that is closest to full.
            let mut best = (u64::MAX, &bucket[0], 0);
            for cell in bucket {
                let word = cell.load(Acquire);
                if word & !TIME_MASK == tag && word != 0 {
                    best = (debt(word, now), cell, word);
                    break;
                }
                let owed = debt(word, now);
                if owed < best.0 {
                    best = (owed, cell, word);
                }
            }
            let (owed, cell, word) = best;
            let owed = if word & !TIME_MASK == tag { owed } else { 0 };
            if owed + cost > burst {
                return false;
            }
            let full_at = now.wrapping_add(owed + cost) & TIME_MASK;
            if cell.compare_exchange(word, tag | full_at, AcqRel, Relaxed).is_ok() {
                return true;
            }
        }
    }
}

#[cfg(all(not(loom), test))]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::connection::{Opened, Opening, Table, TableConfig, Worker};
    use crate::headers::{Transport, Tuple, protocol};
    use crate::verdict::{Generation, PortId};

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn at(ms: u64) -> Now {
        Now(SECOND_NS + ms * 1_000_000)
    }

    fn limits(identity: u64) -> RuleLimits {
        RuleLimits { identity, ..RuleLimits::default() }
    }

    fn accounts() -> Accounts {
        Accounts::new(HashKey::random(), 1000)
    }

    fn bind(accounts: &Accounts, wanted: &[RuleLimits]) -> Limits {
        let numbered = (0..).map(RuleId).zip(wanted.iter().copied());
        let mut limits = Limits::new(numbered.collect());
        accounts.bind(&mut limits).unwrap();
        limits
    }

    fn granted(accounts: &Accounts, limit: &Limit, source: Ipv4Addr, now: Now, tries: usize) -> usize {
        (0..tries).filter(|_| accounts.admit(limit, source, now).is_ok()).count()
    }

    #[test]
    fn connections_are_limited_exactly_and_given_back() {
        let accounts = accounts();
        let wanted = RuleLimits { connections: Some(5), connections_per_source: Some(3), ..limits(1) };
        let bound = bind(&accounts, &[limits(9), wanted]);
        let limit = bound.find(RuleId(1)).unwrap();
        assert_eq!(granted(&accounts, limit, HERE, at(0), 10), 3);
        assert_eq!(accounts.admit(limit, HERE, at(0)), Err(Reason::SourceConnectionLimit));
        assert_eq!(granted(&accounts, limit, THERE, at(0), 10), 2);
        assert_eq!(accounts.admit(limit, THERE, at(0)), Err(Reason::RuleConnectionLimit));
        assert_eq!(accounts.connections(limit), Some(5));
        accounts.release(limit.account(), HERE);
        assert_eq!(granted(&accounts, limit, THERE, at(0), 10), 1);
        // What is refused leaves no trace.
        (0..2).for_each(|_| accounts.release(limit.account(), HERE));
        (0..3).for_each(|_| accounts.release(limit.account(), THERE));
        assert_eq!(accounts.connections(limit), Some(0));
        assert_eq!(granted(&accounts, limit, HERE, at(0), 10), 3);
    }

    #[test]
    fn a_rule_without_limits_has_none_and_one_with_rates_only_counts_no_connections() {
        let accounts = accounts();
        let rated = RuleLimits { new_per_second: Some(7), ..limits(1) };
        let bound = bind(&accounts, &[rated]);
        assert!(bound.find(RuleId(1)).is_none() && bound.find(RuleId::NONE).is_none());
        let limit = bound.find(RuleId(0)).unwrap();
        assert_eq!((limit.account(), accounts.connections(limit)), (NO_ACCOUNT, None));
        assert_eq!(granted(&accounts, limit, HERE, at(0), 100), 7);
    }

    #[test]
    fn a_rule_s_rate_lets_a_second_s_worth_through_at_once_and_then_its_rate() {
        let accounts = accounts();
        let bound = bind(&accounts, &[RuleLimits { new_per_second: Some(10), ..limits(1) }]);
        let limit = bound.find(RuleId(0)).unwrap();
        assert_eq!(granted(&accounts, limit, HERE, at(0), 100), 10);
        assert_eq!(accounts.admit(limit, THERE, at(99)), Err(Reason::RuleRateLimit));
        assert_eq!(granted(&accounts, limit, THERE, at(100), 100), 1);
        assert_eq!(granted(&accounts, limit, THERE, at(550), 100), 4);
        assert_eq!(granted(&accounts, limit, THERE, at(90_000), 100), 10);
        let mut sum = 0;
        for ms in 100_000..110_000 {
            sum += granted(&accounts, limit, HERE, at(ms), 3);
        }
        assert_eq!(sum, 10 + 99);
    }

    #[test]
    fn a_source_s_rate_is_its_own_and_leaves_the_rule_s_tokens_to_others() {
        let accounts = accounts();
        let wanted = RuleLimits { new_per_second: Some(8), new_per_second_per_source: Some(5), ..limits(1) };
        let bound = bind(&accounts, &[wanted]);
        let limit = bound.find(RuleId(0)).unwrap();
        assert_eq!(granted(&accounts, limit, HERE, at(0), 1000), 5);
        assert_eq!(accounts.admit(limit, HERE, at(0)), Err(Reason::SourceRateLimit));
        assert_eq!(granted(&accounts, limit, THERE, at(0), 1000), 3);
        assert_eq!(accounts.admit(limit, THERE, at(0)), Err(Reason::RuleRateLimit));
        assert_eq!(granted(&accounts, limit, HERE, at(201), 1000), 1);
        assert_eq!(granted(&accounts, limit, HERE, at(60_000), 1000), 5);
    }

    #[test]
    fn addresses_of_one_ipv6_64_are_one_source() {
        let accounts = accounts();
        let wanted =
            RuleLimits { connections_per_source: Some(2), new_per_second_per_source: Some(3), ..limits(1) };
        let bound = bind(&accounts, &[wanted]);
        let limit = bound.find(RuleId(0)).unwrap();
        let of = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        assert_eq!(accounts.admit(limit, of("fd00::1"), at(0)), Ok(()));
        assert_eq!(accounts.admit(limit, of("fd00::2"), at(0)), Ok(()));
        assert_eq!(accounts.admit(limit, of("fd00::3"), at(0)), Err(Reason::SourceConnectionLimit));
        assert_eq!(accounts.admit(limit, of("fd00:0:0:1::3"), at(0)), Ok(()));
        accounts.release(limit.account(), of("fd00::1"));
        assert_eq!(accounts.admit(limit, of("fd00::4"), at(0)), Ok(()));
        accounts.release(limit.account(), of("fd00::4"));
        assert_eq!(accounts.admit(limit, of("fd00::5"), at(0)), Err(Reason::SourceRateLimit));
        assert_eq!(accounts.connections(limit), Some(2));
    }

    #[test]
    fn an_account_follows_the_rule_s_identity_and_is_free_once_rule_and_connections_are_gone() {
        let accounts = accounts();
        let of = |identity| RuleLimits { connections: Some(2), ..limits(identity) };
        let before = bind(&accounts, &[of(1), of(2)]);
        let old = before.find(RuleId(0)).unwrap().clone();
        assert_eq!(granted(&accounts, &old, HERE, at(0), 9), 2);
        // The same rule under another number.
        let after = bind(&accounts, &[of(3), of(1)]);
        assert_eq!(after.find(RuleId(1)).unwrap().account(), old.account());
        assert_eq!(granted(&accounts, after.find(RuleId(1)).unwrap(), HERE, at(0), 9), 0);
        // Gone, but not its connections: nobody gets its account.
        let account = old.account();
        drop((before, after, old));
        let others: Vec<_> = (10..10 + MAX_LIMITED_RULES as u64).map(of).collect();
        let others = bind(&accounts, &others);
        assert!(others.bound.iter().all(|limit| limit.account() != account));
        // Back again, and it still has them.
        let back = bind(&accounts, &[of(1)]);
        assert_eq!(accounts.connections(back.find(RuleId(0)).unwrap()), Some(2));
        (0..2).for_each(|_| accounts.release(account, HERE));
        drop((others, back));
        bind(&accounts, &[of(99)]);
        assert_eq!(accounts.leases.lock().unwrap().len(), 1);
    }

    /// Two rules, some sources with two connections each.
    fn tuple(source: u32, port: u16) -> Tuple<Ipv4Addr> {
        Tuple {
            source: Ipv4Addr::from_bits(0x0a00_0000 + source),
            destination: THERE,
            source_port: port,
            destination_port: 53,
            protocol: protocol::UDP,
        }
    }

    fn open(
        table: &Table,
        worker: &mut Worker,
        tuple: &Tuple<Ipv4Addr>,
        limit: &Limit,
    ) -> Result<Opened, Reason> {
        let opening = Opening {
            ingress: PortId(0),
            egress: PortId(1),
            rule: RuleId(0),
            generation: Generation(1),
            valid_until: 0,
            bearer: crate::identity::Bearer::NONE,
            limit: Some(limit),
            now: at(0),
            segment: None,
        };
        table.v4.open(worker, table.v4.hash(tuple), tuple, &opening)
    }

    fn two_rules(table: &Table, connections: u32, per_source: u32) -> [Limit; 2] {
        let of = |identity| RuleLimits {
            connections: Some(connections),
            connections_per_source: Some(per_source),
            ..limits(identity)
        };
        let mut bound = Limits::new(vec![(RuleId(0), of(1)), (RuleId(1), of(2))]);
        table.bind(&mut bound).unwrap();
        [0, 1].map(|rule| bound.find(RuleId(rule)).unwrap().clone())
    }

    fn table(half_open_share_percent: u8) -> Arc<Table> {
        let config = TableConfig {
            connections_v4: 64,
            connections_v6: 16,
            half_open_share_percent,
            half_open_per_source: 3,
            workers: 4,
            ..TableConfig::default()
        };
        Arc::new(Table::new(&config))
    }

    proptest::proptest! {
        /// Opened, moved to the other rule, replied to, killed, evicted: the counts are those of a plain map.
        #[test]
        fn accounts_are_what_a_plain_count_of_the_connections_is(
            ops in proptest::collection::vec((0u8..4, 0u32..6, 0u16..4, proptest::bool::ANY), 1..200),
            half_open in proptest::prop_oneof![proptest::strategy::Just(10u8), proptest::strategy::Just(100)],
        ) {
            let table = table(half_open);
            let mut worker = table.worker().unwrap();
            let rules = two_rules(&table, 7, 3);
            let mut plain: HashMap<Tuple<Ipv4Addr>, usize> = HashMap::new();
            for (op, source, port, second) in ops {
                let (tuple, rule) = (tuple(source, 1000 + port), usize::from(second));
                let hit = table.v4.find(table.v4.hash(&tuple), &tuple, at(0));
                match (op, hit) {
                    (0 | 1, None) => {
                        let of_rule = plain.values().filter(|r| **r == rule).count();
                        let of_source =
                            plain.iter().filter(|(t, r)| t.source == tuple.source && **r == rule).count();
                        let opened = open(&table, &mut worker, &tuple, &rules[rule]);
                        match opened {
                            Ok(Opened::New(_)) => {
                                proptest::prop_assert!(of_rule < 7 && of_source < 3);
                                plain.insert(tuple, rule);
                            }
                            Err(Reason::SourceConnectionLimit) => proptest::prop_assert_eq!(of_source, 3),
                            Err(Reason::RuleConnectionLimit) => proptest::prop_assert!(of_rule >= 7),
                            Err(Reason::HalfOpenSourceLimit) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                    (1, Some(hit)) => {
                        let reply = crate::connection::Hit { direction: crate::verdict::Direction::Reply, ..hit };
                        let _ = table.v4.track_other(reply, &Transport::Udp, at(0));
                    }
                    (2, Some(hit)) => {
                        table.v4.transfer(hit, Some(&rules[rule]));
                        plain.insert(tuple, rule);
                    }
                    (3, Some(hit)) => {
                        table.v4.remove(&mut worker, hit, at(0)).unwrap();
                        plain.remove(&tuple);
                    }
                    _ => {}
                }
                worker.quiesce();
                table.sweep(&mut worker, at(0), 0, &mut |ended| {
                    plain.retain(|t, _| (t.source_port, IpAddr::from(t.source)) != (ended.tuple.source_port, ended.tuple.source));
                });
                for (rule, limit) in rules.iter().enumerate() {
                    let expected = plain.values().filter(|r| **r == rule).count() as u32;
                    proptest::prop_assert_eq!(table.connections_of(limit), Some(expected));
                }
            }
        }
    }

    #[test]
    fn many_threads_that_open_move_and_end_connections_never_pass_a_limit_and_leave_the_accounts_empty() {
        let table = table(100);
        let rules = two_rules(&table, 6, 2);
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (mut worker, table, rules) = (table.worker().unwrap(), &table, &rules);
                scope.spawn(move || {
                    for round in 0..5000u32 {
                        let tuple = tuple((round + thread) % 5, 1000 + (round % 3) as u16);
                        let rule = (round / 7 % 2) as usize;
                        match open(table, &mut worker, &tuple, &rules[rule]) {
                            Ok(Opened::New(hit) | Opened::Existing(hit)) => {
                                table.v4.transfer(hit, Some(&rules[1 - rule]));
                                table.v4.remove(&mut worker, hit, at(0));
                            }
                            Err(_) => {}
                        }
                        worker.quiesce();
                    }
                });
            }
        });
        for (hit, _) in table.v4.summaries(0, at(0)) {
            table.v4.remove(&mut table.worker().unwrap(), hit, at(0));
        }
        assert!(table.is_empty());
        assert_eq!(rules.each_ref().map(|limit| table.connections_of(limit)), [Some(0), Some(0)]);
        let books = table.accounts.books.get().unwrap();
        let held: u64 = (0..5)
            .flat_map(|source| rules.each_ref().map(|limit| (source, limit.account())))
            .map(|(source, account)| {
                books.sources.count(table.accounts.source(tuple(source, 0).source, account))
            })
            .sum();
        assert_eq!(held, 0);
    }

    #[test]
    fn more_rules_than_accounts_are_refused() {
        let accounts = accounts();
        let of = |identity: usize| {
            (RuleId(identity as u32), RuleLimits { connections: Some(1), ..limits(identity as u64) })
        };
        let mut limits = Limits::new((0..=ACCOUNTS).map(of).collect());
        assert_eq!(accounts.bind(&mut limits), Err(TooManyLimits));
    }

    #[test]
    fn a_table_of_rates_that_is_too_small_forgets_the_source_that_is_closest_to_full() {
        let rates = Rates::new();
        // All of one bucket, told apart by the low bits.
        let source = |number: u64| Hash(number + 1);
        for number in 0..SLOTS as u64 {
            // The later ones have taken more.
            assert!((0..=number).all(|_| rates.take(source(number), at(0), 10)));
        }
        assert!(rates.take(source(99), at(0), 10));
        // The first one's debt is forgotten; the last one's is not.
        assert_eq!((0..20).filter(|_| rates.take(source(7), at(0), 10)).count(), 2);
        assert_eq!((0..20).filter(|_| rates.take(source(0), at(0), 10)).count(), 10);
    }

    #[test]
    fn a_time_of_78_hours_ago_is_no_debt() {
        let rates = Rates::new();
        let late = Now(SECOND_NS + ((1u64 << (TIME_BITS + TICK_SHIFT)) - 10 * SECOND_NS));
        assert_eq!((0..20).filter(|_| rates.take(Hash(1), at(0), 5)).count(), 5);
        assert_eq!((0..20).filter(|_| rates.take(Hash(1), late, 5)).count(), 5);
    }
}
