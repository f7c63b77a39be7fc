//! The table for the README, in about a minute: `cargo bench -p bulkhead-benches --bench summary`.
//!
//! Medians of five runs each, which alternate, so that a noisy machine disturbs all rows alike. Arguments choose rows:
//! `-- tcp4/65536/1000` measures that one only.

use bulkhead_benches::allocations::Counting;
use bulkhead_benches::gateway::{Cost, Scenario};
use bulkhead_benches::traffic::{Kind, Step, Traffic};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RUNS: usize = 5;
const PACKETS_PER_RUN: u64 = 2_000_000;
const ROWS: [(Kind, usize, usize); 12] = [
    (Kind::Tcp4, 1, 1_000),
    (Kind::Tcp4, 65_536, 10),
    (Kind::Tcp4, 65_536, 1_000),
    (Kind::Tcp4, 65_536, 10_000),
    (Kind::Tcp4, 65_536, 100_000),
    (Kind::Tcp4, 1_000_000, 1_000),
    (Kind::Udp4, 1, 1_000),
    (Kind::Udp4, 65_536, 1_000),
    (Kind::Udp4, 65_536, 100_000),
    (Kind::Udp4, 1_000_000, 1_000),
    (Kind::Tcp6, 65_536, 1_000),
    (Kind::Tcp6, 1_000_000, 1_000),
];

fn main() {
    println!(
        "Established connections, one worker, bursts of 64, in memory (medians of {RUNS} alternating runs):\n"
    );
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let rows: Vec<_> = ROWS
        .into_iter()
        .filter(|(kind, connections, rules)| {
            wanted.is_empty() || wanted.contains(&format!("{}/{connections}/{rules}", kind.name()))
        })
        .collect();
    let mut scenarios: Vec<Scenario> = rows
        .iter()
        .map(|&(kind, connections, rules)| Scenario::established(kind, connections, rules))
        .collect();
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); rows.len()];
    for _ in 0..RUNS {
        for (scenario, costs) in scenarios.iter_mut().zip(&mut costs) {
            costs.push(scenario.run(PACKETS_PER_RUN));
        }
    }
    println!("| packets | connections | rules | ns per packet | least | allocations per packet |");
    println!("|---|---:|---:|---:|---:|---:|");
    for ((kind, connections, rules), costs) in rows.iter().zip(&mut costs) {
        costs.sort_by_key(|cost| cost.time);
        let (median, least) = (costs[RUNS / 2].ns_per_packet(), costs[0].ns_per_packet());
        let allocations = costs.iter().map(Cost::allocations_per_packet).fold(0.0, f64::max);
        println!("| {} | {connections} | {rules} | {median:.1} | {least:.1} | {allocations} |", kind.name());
    }
    println!();
    for kind in [Kind::Tcp4, Kind::Udp4] {
        let Some(row) = rows.iter().position(|&row| row == (kind, 65_536, 1_000)) else { continue };
        println!("New connections ({}): {}", kind.name(), opening(&mut scenarios[row], kind));
    }
    let Some(table) = scenarios.last().map(|scenario| scenario.gateway.table()) else { return };
    for (family, bytes, capacity) in [
        ("IPv4", table.v4.memory_bytes(), table.v4.capacity()),
        ("IPv6", table.v6.memory_bytes(), table.v6.capacity()),
    ] {
        println!("Memory per {family} connection: {:.1} bytes", bytes as f64 / f64::from(capacity));
    }
}

/// First packets only, of connections that the policy allows: the whole way with the policy's judgement.
fn opening(scenario: &mut Scenario, kind: Kind) -> String {
    let opening = Traffic::new(kind, &scenario.connections, Step::Open);
    let mut costs: Vec<Cost> = (0..RUNS)
        .map(|_| {
            scenario.gateway.clear();
            scenario.gateway.forward_all(&opening)
        })
        .collect();
    costs.sort_by_key(|cost| cost.time);
    let median = &costs[RUNS / 2];
    format!(
        "{:.2} million a second ({:.0} ns each, {} allocations each)",
        1e3 / median.ns_per_packet(),
        median.ns_per_packet(),
        median.allocations_per_packet()
    )
}
