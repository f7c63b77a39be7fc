//! Models of the table's protocols: loom runs every interleaving (with a bounded number of preemptions) and every
//! value that the memory orderings allow a load to return.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p bulkhead-dataplane --lib loom
//! ```
//!
//! Buckets have two slots here, so that both candidates together are four. What loom cannot see: the shared queues'
//! inside (crossbeam's), and sequentially consistent *accesses* (it knows fences only; the table uses fences only).

use std::net::Ipv4Addr;
use std::sync::Arc;

use ::loom::model::Builder;
use ::loom::thread;

use super::sources::Sources;
use super::*;
use crate::headers::{Transport, Tuple, protocol};
use crate::verdict::Reason;

const NOW: Now = Now(0);

/// Preemptions per execution. Nearly all bugs of such protocols need two at most.
const PREEMPTIONS: usize = 3;

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(f);
}

fn table(connections: u32, half_open_share_percent: u8) -> Arc<Table> {
    let config = TableConfig {
        connections_v4: connections,
        connections_v6: 0,
        half_open_share_percent,
        half_open_per_source: 0,
        workers: 1,
        timeouts: Timeouts::default(),
    };
    Arc::new(Table::with_key(&config, || HashKey::fixed(1)))
}

fn tuple(client: u8) -> Tuple<Ipv4Addr> {
    Tuple {
        source: Ipv4Addr::new(10, 0, 0, client),
        destination: Ipv4Addr::new(10, 9, 9, 9),
        source_port: 4000,
        destination_port: 53,
        protocol: protocol::UDP,
    }
}

fn opening() -> Opening<'static> {
    Opening {
        ingress: PortId(0),
        egress: PortId(0),
        rule: RuleId(0),
        generation: Generation(1),
        valid_until: 0,
        bearer: Bearer::NONE,
        limit: None,
        now: NOW,
        segment: None,
    }
}

fn open(table: &Table, worker: &mut Worker, tuple: &Tuple<Ipv4Addr>) -> Result<Opened, Reason> {
    table.v4.open(worker, table.v4.hash(tuple), tuple, &opening())
}

fn open_new(table: &Table, worker: &mut Worker, tuple: &Tuple<Ipv4Addr>) -> Hit {
    match open(table, worker, tuple) {
        Ok(Opened::New(hit)) => hit,
        other => panic!("{other:?}"),
    }
}

fn find(table: &Table, tuple: &Tuple<Ipv4Addr>) -> Option<Hit> {
    table.v4.find(table.v4.hash(tuple), tuple, NOW)
}

/// The counters say what is in the index.
fn assert_consistent(table: &Table) -> usize {
    let live: Vec<_> = table.v4.summaries(0, NOW).map(|(_, summary)| summary).collect();
    let half_open = live.iter().filter(|s| s.state.is_half_open()).count();
    assert_eq!((table.v4.len() as usize, table.v4.half_open() as usize), (live.len(), half_open));
    live.len()
}

#[test]
fn loom_insert_insert_from_both_directions_gives_one_entry() {
    model(PREEMPTIONS, || {
        let table = table(2, 100);
        let mut first = table.worker().unwrap();
        let mut second = table.worker().unwrap();
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                let opened = open(&table, &mut second, &tuple(1).reverse()).unwrap();
                (second, opened)
            }
        });
        let here = open(&table, &mut first, &tuple(1)).unwrap();
        let (_second, there) = other.join().unwrap();
        let (Opened::New(a), Opened::Existing(b)) = (match (here, there) {
            (Opened::Existing(_), Opened::New(_)) => (there, here),
            _ => (here, there),
        }) else {
            panic!("{here:?} {there:?}")
        };
        assert_eq!((a.entry, a.position, a.word), (b.entry, b.position, b.word));
        assert_eq!(b.direction, Direction::Reply);
        assert_eq!(assert_consistent(&table), 1);
    });
}

/// Without a removal both inserts meet at one slot, and the loser of that compare-and-swap has seen the winner. Only
/// when a slot before the first one's comes free meanwhile do they place their words without meeting; then the fence
/// in `settle` decides.
#[test]
fn loom_inserts_that_a_removal_keeps_from_meeting_still_give_one_entry() {
    model(PREEMPTIONS, || {
        // Room enough that the loser's reservation never has to evict the winner.
        let table = table(4, 100);
        let mut first = table.worker().unwrap();
        let mut second = table.worker().unwrap();
        // Somebody who lies in the first slot of the bucket that both will prefer.
        let wanted = {
            let probe = open_new(&table, &mut first, &tuple(1));
            table.v4.remove(&mut first, probe, NOW);
            probe.position
        };
        let blocker = (2..=255)
            .find_map(|client| {
                let hit = open_new(&table, &mut first, &tuple(client));
                if hit.position == wanted {
                    return Some(hit);
                }
                table.v4.remove(&mut first, hit, NOW);
                second.quiesce();
                first.quiesce();
                None
            })
            .unwrap();
        second.quiesce();
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                table.v4.remove(&mut second, blocker, NOW).unwrap();
                let opened = open(&table, &mut second, &tuple(1).reverse());
                (second, opened)
            }
        });
        let here = open(&table, &mut first, &tuple(1));
        let (_second, there) = other.join().unwrap();
        let new = [here, there].iter().filter(|o| matches!(o, Ok(Opened::New(_)))).count();
        assert_eq!((new, assert_consistent(&table)), (1, 1), "{here:?} {there:?}");
    });
}

#[test]
fn loom_an_opener_knows_of_its_connection_even_if_others_made_it_live_and_ended_it() {
    model(PREEMPTIONS, || {
        let table = table(4, 100);
        let mut first = table.worker().unwrap();
        let mut second = table.worker().unwrap();
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                let opened = open(&table, &mut second, &tuple(1).reverse()).unwrap();
                let (Opened::New(hit) | Opened::Existing(hit)) = opened;
                let removed = table.v4.remove(&mut second, hit, NOW).is_some();
                (second, opened, u32::from(removed))
            }
        });
        let here = open(&table, &mut first, &tuple(1)).unwrap();
        let (_second, there, removed) = other.join().unwrap();
        let new = [here, there].iter().filter(|o| matches!(o, Opened::New(_))).count() as u32;
        assert_eq!(new - removed, assert_consistent(&table) as u32, "{here:?} {there:?}");
    });
}

#[test]
fn loom_a_look_up_never_counts_into_the_connection_that_reuses_the_entry() {
    model(PREEMPTIONS, || {
        let table = table(1, 100);
        let mut remover = table.worker().unwrap();
        let mut reader = table.worker().unwrap();
        let hit = open_new(&table, &mut remover, &tuple(1));
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                // Back from a pause: the fence in `go_online` against the one in `safe`.
                reader.pause();
                reader.quiesce();
                if let Some(hit) = find(&table, &tuple(1)) {
                    assert_eq!(table.v4.original(hit).0, tuple(1));
                    table.v4.account(hit, 100, NOW);
                }
                reader
            }
        });
        assert!(table.v4.remove(&mut remover, hit, NOW).is_some());
        let mut opened = 0;
        // Three spare entries: the fourth attempt needs the first one again.
        for client in 2..6 {
            remover.quiesce();
            if let Ok(Opened::New(hit)) = open(&table, &mut remover, &tuple(client)) {
                opened += 1;
                let summary = table.v4.remove(&mut remover, hit, NOW).unwrap();
                assert_eq!(summary.bytes, [0, 0]);
            }
        }
        assert!(opened >= 1);
        drop(other.join().unwrap());
        assert_eq!(assert_consistent(&table), 0);
    });
}

#[test]
fn loom_a_connection_is_either_evicted_or_established_by_its_reply() {
    model(PREEMPTIONS, || {
        let table = table(1, 100);
        let mut evictor = table.worker().unwrap();
        let worker = table.worker().unwrap();
        open_new(&table, &mut evictor, &tuple(1));
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                let tracked = find(&table, &tuple(1).reverse())
                    .and_then(|hit| table.v4.track_other(hit, &Transport::Udp, NOW).ok());
                (worker, tracked)
            }
        });
        let opened = open(&table, &mut evictor, &tuple(2));
        let (_worker, tracked) = other.join().unwrap();
        match opened {
            Ok(Opened::New(_)) => {
                assert!(find(&table, &tuple(1)).is_none());
                assert_eq!(tracked, None, "an established connection was evicted");
            }
            Err(_) => assert_eq!(tracked, Some(Track::Established)),
            Ok(other) => panic!("{other:?}"),
        }
        assert_eq!(assert_consistent(&table), 1);
    });
}

#[test]
fn loom_revoking_while_the_same_connection_is_created_leaves_none_or_a_new_one() {
    model(PREEMPTIONS, || {
        let table = table(2, 100);
        let mut control = table.worker().unwrap();
        let mut worker = table.worker().unwrap();
        open_new(&table, &mut worker, &tuple(1));
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                let opened = open(&table, &mut worker, &tuple(1)).unwrap();
                (worker, u32::from(matches!(opened, Opened::New(_))))
            }
        });
        let mut killed = 0;
        for _ in 0..2 {
            if let Some(hit) = find(&table, &tuple(1)) {
                killed += u32::from(table.v4.remove(&mut control, hit, NOW).is_some());
            }
        }
        let (_worker, opened) = other.join().unwrap();
        assert!(killed >= 1);
        assert_eq!(assert_consistent(&table) as u32, 1 + opened - killed);
    });
}

#[test]
fn loom_two_kills_of_one_connection_give_one_summary() {
    model(PREEMPTIONS, || {
        let table = table(1, 100);
        let mut first = table.worker().unwrap();
        let mut second = table.worker().unwrap();
        let hit = open_new(&table, &mut first, &tuple(1));
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                let got = table.v4.remove(&mut second, hit, NOW).is_some();
                (second, got)
            }
        });
        let here = table.v4.remove(&mut first, hit, NOW).is_some();
        let (_second, there) = other.join().unwrap();
        assert!(here != there);
        assert_eq!(assert_consistent(&table), 0);
    });
}

#[test]
fn loom_a_stamp_is_never_read_as_a_mixture_of_two_policies() {
    stamps_are_read_whole(|n| Stamp {
        generation: Generation(n),
        rule: RuleId(n),
        egress: Some(PortId(n as u8)),
        valid_until: n,
        bearer: Bearer::NONE,
    });
}

/// The word by which readers see that somebody was there meanwhile is the same before and after.
#[test]
fn loom_a_stamp_is_never_read_as_a_mixture_of_two_sessions_that_end_together() {
    stamps_are_read_whole(|n| Stamp {
        generation: Generation(1),
        rule: RuleId(n),
        egress: Some(PortId(n as u8)),
        valid_until: 9,
        bearer: Bearer(n.into()),
    });
}

#[test]
fn loom_a_stamp_is_never_read_as_a_mixture_of_two_sessions() {
    stamps_are_read_whole(|n| Stamp {
        generation: Generation(1),
        rule: RuleId(n),
        egress: Some(PortId(n as u8)),
        valid_until: n,
        bearer: Bearer(n.into()),
    });
}

/// Two put a stamp in the first one's place while a third reads; stamps are made from a number, which is their rule's.
fn stamps_are_read_whole(stamp: fn(u32) -> Stamp) {
    model(PREEMPTIONS, move || {
        let table = table(1, 100);
        let mut worker = table.worker().unwrap();
        let hit = open_new(&table, &mut worker, &tuple(1));
        let first = table.v4.stamp(hit);
        assert!(table.v4.restamp(hit, first, stamp(1)));
        let writers: Vec<_> = [2, 3]
            .into_iter()
            .map(|n| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    let old = table.v4.stamp(hit);
                    table.v4.restamp(hit, old, stamp(n))
                })
            })
            .collect();
        let seen = table.v4.stamp(hit);
        assert!(seen.generation.0 == 0 || seen == stamp(seen.rule.0), "{seen:?}");
        let changed: Vec<bool> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        assert!(changed.contains(&true));
        let last = table.v4.stamp(hit);
        assert!(last == stamp(2) || last == stamp(3));
    });
}

/// A connection moves to another rule's account while somebody ends it.
#[test]
fn loom_a_connection_that_moves_to_another_account_while_it_ends_leaves_both_empty() {
    model(PREEMPTIONS, || {
        let table = table(2, 100);
        let limits = |identity| RuleLimits { identity, connections: Some(2), ..RuleLimits::default() };
        let mut bound = Limits::new(vec![(RuleId(0), limits(1)), (RuleId(1), limits(2))]);
        table.bind(&mut bound).unwrap();
        let [old, new] = [0, 1].map(|rule| bound.find(RuleId(rule)).unwrap().clone());
        let mut worker = table.worker().unwrap();
        let mut control = table.worker().unwrap();
        let opening = Opening { limit: Some(&old), ..opening() };
        let (v4, tuple) = (&table.v4, tuple(1));
        let Ok(Opened::New(hit)) = v4.open(&mut worker, v4.hash(&tuple), &tuple, &opening) else { panic!() };
        assert_eq!((table.connections_of(&old), table.connections_of(&new)), (Some(1), Some(0)));
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                table.v4.remove(&mut control, hit, NOW).unwrap();
                control
            }
        });
        table.v4.transfer(hit, Some(&new));
        let _control = other.join().unwrap();
        assert_eq!((table.connections_of(&old), table.connections_of(&new)), (Some(0), Some(0)));
    });
}

/// The hash of some source whose words lie in both buckets there are.
fn source(number: u32) -> Hash {
    HashKey::fixed(1).source(Ipv4Addr::from_bits(number), 0)
}

#[test]
fn loom_a_source_never_has_more_than_its_limit() {
    model(PREEMPTIONS, || {
        let sources = Arc::new(Sources::new(1));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let sources = Arc::clone(&sources);
                thread::spawn(move || sources.add(source(1), 1))
            })
            .collect();
        let granted: u64 = threads.into_iter().map(|thread| u64::from(thread.join().unwrap())).sum();
        assert!(granted <= 1);
        assert_eq!(sources.count(source(1)), granted);
    });
}

/// With the first word taken away meanwhile, the two count in words of their own and never meet at one: the fence decides.
#[test]
fn loom_a_source_that_is_counted_in_two_words_never_has_more_than_its_limit_and_leaves_nothing() {
    model(PREEMPTIONS, || {
        let sources = Arc::new(Sources::new(1));
        // Another source has the first word, and leaves.
        assert!(sources.add(source(2), 9));
        let other = thread::spawn({
            let sources = Arc::clone(&sources);
            move || {
                sources.remove(source(2));
                sources.add(source(1), 1)
            }
        });
        let here = sources.add(source(1), 1);
        let there = other.join().unwrap();
        assert!(!(here && there), "both have the last place");
        assert_eq!(sources.count(source(1)), u64::from(here) + u64::from(there));
        if here || there {
            sources.remove(source(1));
        }
        assert_eq!((sources.count(source(1)), sources.count(source(2))), (0, 0));
    });
}

#[test]
fn loom_two_that_leave_at_once_take_exactly_two() {
    model(PREEMPTIONS, || {
        let sources = Arc::new(Sources::new(1));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let sources = Arc::clone(&sources);
                thread::spawn(move || {
                    assert!(sources.add(source(1), 9));
                    sources.remove(source(1));
                })
            })
            .collect();
        assert!(sources.add(source(1), 9));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(sources.count(source(1)), 1);
    });
}
