//! The topology: what a packet's next hop costs, and what compiling costs, which every change of a neighbour does.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_benches::Random;
use bulkhead_dataplane::topology::{Neighbour, PortState, Route, RouteKind, Topology, TopologySpec};
use bulkhead_dataplane::verdict::PortId;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::IpNet;

const DESTINATIONS: usize = 4096;

/// A port with neighbours of both families in turn, one /12 and one /64 on its link, and a default route of each.
fn neighbours(count: u32) -> TopologySpec {
    let route = |prefix: &str, gateway: Option<&str>| Route {
        prefix: prefix.parse().expect("a network"),
        kind: RouteKind::Via(PortId(0), gateway.map(|g| g.parse().expect("an address"))),
    };
    let neighbour = |index: u32| Neighbour {
        port: PortId(0),
        address: host(index),
        mac: [2, 0, (index >> 24) as u8, (index >> 16) as u8, (index >> 8) as u8, index as u8],
    };
    let port = PortState {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        addresses: vec!["10.0.0.1/12".parse().expect("a network")],
    };
    TopologySpec {
        ports: vec![port],
        routes: vec![
            route("10.0.0.0/12", None),
            route("fd00::/64", None),
            route("0.0.0.0/0", Some("10.0.0.2")),
            route("::/0", Some("fd00::2")),
        ],
        neighbours: (0..count).map(neighbour).collect(),
        own_addresses: vec![],
    }
}

fn host(index: u32) -> IpAddr {
    if index.is_multiple_of(2) {
        Ipv4Addr::from_bits((10 << 24) + 2 + index / 2).into()
    } else {
        Ipv6Addr::from_bits((0xfd00 << 112) + 2 + u128::from(index / 2)).into()
    }
}

/// As [`neighbours`], with this many IPv4 routes more, of the lengths that the Internet's have: most /24, rest /16 up.
fn full_table(routes: usize) -> TopologySpec {
    let mut spec = neighbours(64);
    let mut random = Random::new(routes as u64);
    spec.routes.extend((0..routes).map(|_| {
        let len = if random.below(5) < 3 { 24 } else { 16 + random.below(8) as u8 };
        let address = Ipv4Addr::from_bits((1 << 24) + random.below(0xdeff_ffff));
        let prefix = IpNet::new(address.into(), len).expect("at most 32").trunc();
        Route { prefix, kind: RouteKind::Via(PortId(0), Some(host(2 * random.below(8)))) }
    }));
    spec
}

fn egress(c: &mut Criterion) {
    let mut group = c.benchmark_group("topology/egress");
    group.throughput(Throughput::Elements(DESTINATIONS as u64));
    let mut random = Random::new(1);
    for count in [64, 50_000] {
        let topology = Topology::new(neighbours(count));
        for (family, odd) in [("v4", 0), ("v6", 1)] {
            let known: Vec<IpAddr> =
                (0..DESTINATIONS).map(|_| host(random.below(count / 2) * 2 + odd)).collect();
            group.bench_function(BenchmarkId::new(format!("neighbours_{family}"), count), |b| {
                b.iter(|| {
                    known.iter().for_each(|address| {
                        black_box(topology.egress(*black_box(address)));
                    })
                });
            });
        }
    }
    let topology = Topology::new(full_table(900_000));
    let anywhere: Vec<IpAddr> = (0..DESTINATIONS)
        .map(|_| Ipv4Addr::from_bits((1 << 24) + random.below(0xdeff_ffff)).into())
        .collect();
    group.bench_function("routes_v4/900000", |b| {
        b.iter(|| {
            anywhere.iter().for_each(|address| {
                black_box(topology.egress(*black_box(address)));
            })
        });
    });
    group.finish();
}

fn compiling(c: &mut Criterion) {
    let mut group = c.benchmark_group("topology/new");
    group.sample_size(10);
    let specs = [
        ("neighbours/64", neighbours(64)),
        ("neighbours/50000", neighbours(50_000)),
        ("neighbours/200000", neighbours(200_000)),
        ("routes_v4/900000", full_table(900_000)),
    ];
    for (name, spec) in specs {
        group.bench_function(name, |b| {
            b.iter_batched(|| spec.clone(), Topology::new, BatchSize::PerIteration)
        });
    }
    group.finish();
}

criterion_group!(topology, egress, compiling);
criterion_main!(topology);
