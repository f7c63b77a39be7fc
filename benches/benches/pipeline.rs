//! The whole pipeline over bursts of 64 packets of established connections, and of new ones. The time of writing the
//! frames between two batches is left out (see [`bulkhead_benches::gateway`]); a packet that is not forwarded, or an
//! allocation, ends the bench.

use bulkhead_benches::allocations::Counting;
use bulkhead_benches::gateway::Scenario;
use bulkhead_benches::traffic::{Kind, Step, Traffic};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONNECTIONS: [usize; 3] = [1, 65_536, 1_000_000];
const RULES: [usize; 4] = [10, 1_000, 10_000, 100_000];

fn established(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline/established");
    group.throughput(Throughput::Elements(1));
    for kind in [Kind::Tcp4, Kind::Udp4] {
        for connections in CONNECTIONS {
            for rules in RULES {
                bench(&mut group, kind, connections, rules);
            }
        }
    }
    bench(&mut group, Kind::Tcp6, 65_536, 1_000);
    group.finish();
}

fn bench(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    kind: Kind,
    connections: usize,
    rules: usize,
) {
    let mut scenario = Scenario::established(kind, connections, rules);
    let name = format!("{connections}_connections/{rules}_rules");
    group.bench_function(BenchmarkId::new(kind.name(), name), |b| {
        b.iter_custom(|packets| {
            let cost = scenario.run(packets);
            assert_eq!(cost.allocations, 0, "the packet path allocates");
            cost.time.mul_f64(packets as f64 / cost.packets as f64)
        });
    });
}

fn opening(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline/open");
    group.throughput(Throughput::Elements(1));
    for kind in [Kind::Tcp4, Kind::Udp4] {
        let mut scenario = Scenario::established(kind, 65_536, 1_000);
        let traffic = Traffic::new(kind, &scenario.connections, Step::Open);
        group.bench_function(kind.name(), |b| {
            b.iter_custom(|packets| {
                let (mut sent, mut time) = (0, Duration::ZERO);
                while sent < packets {
                    scenario.gateway.clear();
                    let cost = scenario.gateway.forward_all(&traffic);
                    assert_eq!(cost.allocations, 0, "the packet path allocates");
                    sent += cost.packets;
                    time += cost.time;
                }
                time.mul_f64(packets as f64 / sent as f64)
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = established, opening
}
criterion_main!(benches);
