//! The pipeline of one worker in memory, with a rule set of any size, a topology for its segments and connections that
//! are established by their own packets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_dataplane::answer::{Limits, RateLimiter};
use bulkhead_dataplane::connection::{Table, TableConfig};
use bulkhead_dataplane::counters::RuleCounters;
use bulkhead_dataplane::event::EventQueue;
use bulkhead_dataplane::packet::MemoryFrame;
use bulkhead_dataplane::pipeline::{BURST, Context, Pipeline};
use bulkhead_dataplane::policy::{Policy, RuleSet, compile};
use bulkhead_dataplane::snapshot::{ActivePolicy, Mailbox, Snapshot};
use bulkhead_dataplane::topology::{Mac, Neighbour, PortState, Route, RouteKind, Topology, TopologySpec};
use bulkhead_dataplane::verdict::{Generation, Now, PortId, Verdict};
use ipnet::{IpNet, Ipv4Net};

use crate::allocations::allocations;
use crate::clock::cpu;
use crate::traffic::{Connection, HOSTS, Kind, Step, Traffic, connections};
use crate::{PORTS, rule_set};

/// Bursts between two readings of the real clock. Their frames (of 1,792 bytes each) are written before, untimed, and
/// so lie in the second-level cache, much as a network card leaves them near the CPU.
const BURSTS_PER_BATCH: usize = 8;

/// What the clock of the pipeline moves on by with every burst, nanoseconds.
const BURST_NS: u64 = 5_000;

/// The Ethernet address of a port of the gateway.
pub fn port_mac(port: PortId) -> Mac {
    [2, 0, 0, 0, 0, port.0]
}

/// The Ethernet address of a host.
pub fn host_mac(host: IpAddr) -> Mac {
    let [a, b, c] = match host {
        IpAddr::V4(address) => [address.octets()[1], address.octets()[2], address.octets()[3]],
        IpAddr::V6(address) => [address.octets()[6], address.octets()[7], address.octets()[15]],
    };
    [2, 1, u8::from(host.is_ipv6()), a, b, c]
}

/// What a run of packets cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Packets, all of them forwarded.
    pub packets: u64,
    /// Time in the pipeline. Writing the frames beforehand is not in it.
    pub time: Duration,
    /// The same as time on the CPU of this thread: what others do meanwhile is not in it.
    pub cpu: Duration,
    /// Allocations in that time.
    pub allocations: u64,
}

impl Cost {
    /// Nanoseconds a packet.
    pub fn ns_per_packet(&self) -> f64 {
        self.time.as_nanos() as f64 / self.packets as f64
    }

    /// Allocations a packet.
    pub fn allocations_per_packet(&self) -> f64 {
        self.allocations as f64 / self.packets as f64
    }
}

/// One worker's pipeline and all that it works on.
pub struct Gateway {
    snapshot: Arc<Snapshot>,
    mailbox: Arc<Mailbox>,
    table: Arc<Table>,
    pipeline: Pipeline,
    events: Arc<EventQueue>,
    frames: Vec<Vec<MemoryFrame>>,
    verdicts: Vec<Verdict>,
    now: Now,
    next: usize,
    lap: u32,
}

impl Gateway {
    /// A gateway with this policy and room for exactly `capacity` connections of each family (at least 1,024).
    pub fn new(rules: &RuleSet, capacity: usize) -> Gateway {
        Gateway::judging_by(compile(rules).expect("the generated rule set compiles"), rules, capacity)
    }

    /// As [`Gateway::new`], with a policy that has the segments of the rules and perhaps asks for more than they do.
    pub fn judging_by(mut policy: Policy, rules: &RuleSet, capacity: usize) -> Gateway {
        let capacity = capacity.max(1024) as u32;
        let table = Arc::new(Table::new(&TableConfig {
            connections_v4: capacity,
            connections_v6: capacity,
            half_open_share_percent: 100,
            ..TableConfig::default()
        }));
        policy.bind(&table);
        let counters = RuleCounters::new(policy.rule_count(), 1);
        let snapshot = Arc::new(Snapshot {
            version: 1,
            beside: Arc::default(),
            policy: Arc::new(ActivePolicy { generation: Generation(1), policy, counters }),
            topology: Arc::new(Topology::new(topology(rules))),
        });
        let events = Arc::new(EventQueue::new(1024));
        let worker = table.worker().expect("the first worker");
        let pipeline = Pipeline::new(0, worker, RateLimiter::new(Limits::default()), events.clone());
        let burst = || (0..BURST).map(|_| MemoryFrame::new(&[])).collect();
        Gateway {
            snapshot,
            mailbox: Arc::default(),
            table,
            pipeline,
            events,
            frames: (0..BURSTS_PER_BATCH).map(|_| burst()).collect(),
            verdicts: Vec::with_capacity(BURST),
            now: Now(1_000_000_000),
            next: 0,
            lap: 0,
        }
    }

    /// The connection table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// What it judges by.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Where another snapshot can be posted while it works; the packets of the next burst are judged by that one.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Sends at least `packets` packets, the next bursts of the traffic in turn.
    ///
    /// # Panics
    /// Panics when one is not forwarded.
    pub fn forward(&mut self, traffic: &Traffic, packets: u64) -> Cost {
        let mut cost = Cost::default();
        while cost.packets < packets {
            let bursts =
                (packets - cost.packets).div_ceil(BURST as u64).min(BURSTS_PER_BATCH as u64) as usize;
            self.batch(traffic, bursts, &mut cost);
        }
        cost
    }

    /// Sends the whole traffic once.
    pub fn forward_all(&mut self, traffic: &Traffic) -> Cost {
        self.next = 0;
        self.forward(traffic, (traffic.bursts().len() * BURST) as u64)
    }

    fn batch(&mut self, traffic: &Traffic, bursts: usize, cost: &mut Cost) {
        let all = traffic.bursts();
        let (first, lap) = (self.next, self.lap);
        for number in 0..bursts {
            for packet in 0..BURST {
                traffic.write(
                    &all[(first + number) % all.len()],
                    packet,
                    lap,
                    &mut self.frames[number][packet],
                );
            }
        }
        while self.events.take().is_some() {}
        let before = allocations();
        let (start, start_cpu) = (Instant::now(), cpu());
        let mut forwarded = 0;
        for (number, frames) in self.frames[..bursts].iter_mut().enumerate() {
            self.now.0 += BURST_NS;
            if let Some(next) = self.mailbox.take(self.snapshot.version) {
                self.snapshot = next;
                self.mailbox.acknowledge(self.snapshot.version);
            }
            let context = Context { now: self.now, snapshot: &self.snapshot, table: &self.table };
            self.pipeline.quiesce();
            let ingress = all[(first + number) % all.len()].ingress;
            self.pipeline.process(&context, ingress, frames, &mut self.verdicts);
            self.pipeline.sweep(&context, 0);
            forwarded += self.verdicts.iter().filter(|v| matches!(v, Verdict::Forward(_))).count();
        }
        cost.time += start.elapsed();
        cost.cpu += cpu() - start_cpu;
        cost.allocations += allocations() - before;
        cost.packets += (bursts * BURST) as u64;
        assert_eq!(forwarded, bursts * BURST, "in the last burst: {:?}", self.verdicts);
        self.next = first + bursts;
        if self.next >= all.len() {
            self.next %= all.len();
            self.lap = self.lap.wrapping_add(1);
        }
    }

    /// Ends every connection, untimed, so that they can be opened again.
    pub fn clear(&mut self) {
        let mut worker = self.table.worker().expect("a handle of the control plane");
        let (table, now) = (&self.table, self.now);
        let v4: Vec<_> = table.v4.summaries(0, now).map(|(hit, _)| hit).collect();
        let v6: Vec<_> = table.v6.summaries(0, now).map(|(hit, _)| hit).collect();
        for (index, hit) in v4.into_iter().enumerate() {
            let _ = table.v4.remove(&mut worker, hit, now);
            if index % BURST == 0 {
                worker.quiesce();
                self.pipeline.quiesce();
            }
        }
        for (index, hit) in v6.into_iter().enumerate() {
            let _ = table.v6.remove(&mut worker, hit, now);
            if index % BURST == 0 {
                worker.quiesce();
                self.pipeline.quiesce();
            }
        }
        drop(worker);
        // The entries come back once every worker has been between two bursts.
        for _ in 0..4 {
            self.pipeline.quiesce();
        }
        assert!(table.is_empty());
    }
}

/// A gateway with established connections, and a data packet for each of them.
pub struct Scenario {
    /// The gateway.
    pub gateway: Gateway,
    /// The data packets.
    pub data: Traffic,
    /// The connections.
    pub connections: Vec<Connection>,
}

impl Scenario {
    /// `count` established connections under `rules` rules, in a table that they fill.
    pub fn established(kind: Kind, count: usize, rules: usize) -> Scenario {
        let rules = rule_set(rules);
        let mut gateway = Gateway::new(&rules, count);
        let connections = connections(&rules, &gateway.snapshot.policy.policy, kind, count);
        for step in [Step::Open, Step::Accept, Step::Confirm] {
            gateway.forward_all(&Traffic::new(kind, &connections, step));
        }
        assert_eq!((gateway.table.len(), gateway.table.half_open()), (count as u32, 0));
        let data = Traffic::new(kind, &connections, Step::Data);
        Scenario { gateway, data, connections }
    }

    /// Sends at least `packets` data packets, the connections in turn.
    pub fn run(&mut self, packets: u64) -> Cost {
        self.gateway.forward(&self.data, packets)
    }
}

/// Every segment on link behind its port, and [`HOSTS`] hosts of each with their neighbour entries.
fn topology(rules: &RuleSet) -> TopologySpec {
    let port = |number: u8| PortState {
        mac: port_mac(PortId(number)),
        mtu: 1500,
        up: true,
        addresses: vec![Ipv4Net::new(Ipv4Addr::new(172, 16, number, 1), 24).expect("at most 32").into()],
    };
    let mut spec = TopologySpec { ports: (0..PORTS).map(port).collect(), ..TopologySpec::default() };
    for segment in &rules.segments {
        let port = segment.ports[0];
        for &network in segment.networks.iter().filter(|network| network.prefix_len() != 28) {
            spec.routes.push(Route { prefix: network, kind: RouteKind::Via(port, None) });
            for host in 1..=HOSTS {
                let address = match network {
                    IpNet::V4(network) => {
                        IpAddr::from(Ipv4Addr::from_bits(network.network().to_bits() + host))
                    }
                    IpNet::V6(network) => IpAddr::from(std::net::Ipv6Addr::from_bits(
                        network.network().to_bits() + u128::from(host),
                    )),
                };
                spec.neighbours.push(Neighbour { port, address, mac: host_mac(address) });
            }
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_every_kind_flows_on_connections_that_its_own_packets_established() {
        for kind in [Kind::Tcp4, Kind::Udp4, Kind::Tcp6] {
            for (connections, rules) in [(1, 1000), (1500, 10), (1500, 1000)] {
                let mut scenario = Scenario::established(kind, connections, rules);
                let cost = scenario.run(3 * connections as u64);
                assert!(cost.packets >= 3 * connections as u64);
                assert_eq!(scenario.gateway.table().len(), connections as u32);
            }
        }
    }

    #[test]
    fn a_cleared_gateway_opens_the_same_connections_again() {
        let mut scenario = Scenario::established(Kind::Tcp4, 2000, 100);
        let opening = Traffic::new(Kind::Tcp4, &scenario.connections, Step::Open);
        for _ in 0..3 {
            scenario.gateway.clear();
            scenario.gateway.forward_all(&opening);
            assert_eq!(scenario.gateway.table().half_open(), 2000);
        }
    }
}
