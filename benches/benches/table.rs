//! The connection table alone, at one, 65,536 and a million connections in a table that they fill: finding, opening
//! and removing.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_benches::Random;
use bulkhead_dataplane::connection::{Hit, Opened, Opening, Table, TableConfig, Worker};
use bulkhead_dataplane::headers::{Tuple, protocol};
use bulkhead_dataplane::verdict::{Generation, Now, PortId, RuleId};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const CONNECTIONS: [u32; 3] = [1, 65_536, 1_000_000];
const BURST: usize = 64;
const NOW: Now = Now(1_000_000_000);

fn tuple(index: u32) -> Tuple<Ipv4Addr> {
    Tuple {
        source: Ipv4Addr::from_bits(0x0a00_0000 | index),
        destination: Ipv4Addr::new(172, 16, 0, 1),
        source_port: index as u16,
        destination_port: 53,
        protocol: protocol::UDP,
    }
}

fn table(capacity: u32) -> (Arc<Table>, Worker) {
    let config = TableConfig {
        connections_v4: capacity.max(1024),
        connections_v6: 1,
        half_open_share_percent: 100,
        ..TableConfig::default()
    };
    let table = Arc::new(Table::new(&config));
    let worker = table.worker().expect("the first worker");
    (table, worker)
}

fn open(table: &Table, worker: &mut Worker, index: u32) -> Hit {
    let tuple = tuple(index);
    let opening = Opening {
        ingress: PortId(0),
        egress: PortId(1),
        rule: RuleId(1),
        generation: Generation(1),
        valid_until: 0,
        bearer: bulkhead_dataplane::identity::Bearer::NONE,
        limit: None,
        now: NOW,
        segment: None,
    };
    match table.v4.open(worker, table.v4.hash(&tuple), &tuple, &opening) {
        Ok(Opened::New(hit)) => hit,
        other => panic!("{index}: {other:?}"),
    }
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/find");
    group.throughput(Throughput::Elements(1));
    for count in CONNECTIONS {
        let (table, mut worker) = table(count);
        for index in 0..count {
            open(&table, &mut worker, index);
        }
        let mut random = Random::new(u64::from(count));
        let asked: Vec<_> = (0..1 << 20).map(|_| tuple(random.below(count))).collect();
        for (name, prefetch) in [("alone", false), ("prefetched", true)] {
            let mut next = 0;
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter_custom(|packets| {
                    let start = Instant::now();
                    for _ in 0..packets.div_ceil(BURST as u64) {
                        let burst = &asked[next..next + BURST];
                        next = (next + BURST) % asked.len();
                        look_up(&table, burst, prefetch);
                    }
                    start.elapsed().mul_f64(packets as f64 / packets.next_multiple_of(BURST as u64) as f64)
                });
            });
        }
    }
    group.finish();
}

/// As the pipeline does it, or each look-up by itself.
fn look_up(table: &Table, burst: &[Tuple<Ipv4Addr>], prefetch: bool) {
    if prefetch {
        for tuple in burst {
            table.v4.prefetch(table.v4.hash(tuple));
        }
    }
    for tuple in burst {
        assert!(table.v4.find(table.v4.hash(tuple), black_box(tuple), NOW).is_some());
    }
}

fn open_and_remove(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    group.throughput(Throughput::Elements(1));
    for count in [65_536, 1_000_000] {
        for timed in ["open", "remove"] {
            let (table, mut worker) = table(count);
            group.bench_function(BenchmarkId::new(timed, count), |b| {
                b.iter_custom(|packets| fill_and_empty(&table, &mut worker, count, packets, timed == "open"));
            });
        }
    }
    group.finish();
}

/// Fills the table and empties it again until `packets` operations of the timed kind were done.
fn fill_and_empty(table: &Table, worker: &mut Worker, count: u32, packets: u64, time_open: bool) -> Duration {
    let mut hits = Vec::with_capacity(count as usize);
    let (mut done, mut opening, mut removing) = (0, Duration::ZERO, Duration::ZERO);
    while done < packets {
        let start = Instant::now();
        for index in 0..count {
            hits.push(open(table, worker, index));
            quiesce_each_burst(worker, index);
        }
        opening += start.elapsed();
        let start = Instant::now();
        for (index, hit) in (0..).zip(hits.drain(..)) {
            assert!(table.v4.remove(worker, hit, NOW).is_some());
            quiesce_each_burst(worker, index);
        }
        removing += start.elapsed();
        (0..4).for_each(|_| worker.quiesce());
        done += u64::from(count);
    }
    let time = if time_open { opening } else { removing };
    time.mul_f64(packets as f64 / done as f64)
}

fn quiesce_each_burst(worker: &mut Worker, index: u32) {
    if index as usize % BURST == BURST - 1 {
        worker.quiesce();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = find, open_and_remove
}
criterion_main!(benches);
