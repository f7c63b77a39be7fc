//! Two honest ends transfer data over a bad network with the gateway in its middle: every transfer completes, and not
//! one segment is dropped for a reason of TCP.

use std::collections::BTreeMap;
use std::fmt::Write;

use bulkhead_dataplane::policy::{Rule, Service};
use bulkhead_dataplane::verdict::Reason;
use proptest::prelude::*;

use crate::gateway::{Family, Gateway, allow};
use crate::host::{Habits, Host, Sent};
use crate::packets::End;

/// How bad the network is: on each of its four stretches (from an end to the gateway and from it to the other end, and
/// back) a packet is lost, duplicated, and delayed by up to twice as long as at least. So it is overtaken by packets of
/// its own round trip, but not by ones that were sent only after it had been answered.
#[derive(Clone, Copy, Debug)]
struct Network {
    loss_percent: u64,
    duplicate_percent: u64,
    delay_ms: u64,
}

/// Simulated time within which a transfer has to be done, milliseconds.
const PATIENCE: u64 = 900_000;
/// Until loss ends, milliseconds: no retransmission may be unlucky for ever.
const LOSSY: u64 = 60_000;

enum Place {
    Gateway(End),
    Host(End),
}

struct World {
    family: Family,
    gateway: Gateway,
    network: Network,
    hosts: [Host; 2],
    now: u64,
    /// What is on its way, by when it arrives.
    flying: BTreeMap<(u64, u64), (Place, Vec<u8>)>,
    count: u64,
    /// Linear congruential (Knuth): good enough to lose packets by.
    random: u64,
    story: String,
}

impl World {
    fn chance(&mut self, percent: u64) -> bool {
        self.number(100) < percent
    }

    fn number(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below.max(1)
    }

    fn fly(&mut self, to: fn(End) -> Place, end: End, frame: &[u8]) {
        let Network { loss_percent, duplicate_percent, delay_ms } = self.network;
        if self.now < LOSSY && self.chance(loss_percent) {
            return;
        }
        for _ in 0..1 + u64::from(self.chance(duplicate_percent)) {
            let at = self.now + delay_ms + self.number(delay_ms + 1);
            self.count += 1;
            self.flying.insert((at, self.count), (to(end), frame.to_vec()));
        }
    }

    fn send(&mut self, sent: Vec<Sent>) {
        for (packet, payload, blocks) in sent {
            let _ = write!(self.story, "\n{} {packet:?}", self.now);
            let frame = packet.frame_with(self.family, &payload, &blocks);
            self.fly(Place::Gateway, packet.from, &frame);
        }
    }

    /// Its last lines.
    fn end_of_story(&self) -> &str {
        let start = self.story.rmatch_indices('\n').nth(200).map_or(0, |(at, _)| at);
        &self.story[start..]
    }

    fn run(&mut self) -> Result<(), TestCaseError> {
        while !self.hosts.iter().all(Host::is_done) {
            let wakes = self.hosts.iter().filter_map(|host| host.wakes(self.now)).min();
            let arrives = self.flying.first_key_value().map(|((at, _), _)| *at);
            self.now = wakes.into_iter().chain(arrives).min().unwrap_or(PATIENCE).max(self.now + 1);
            prop_assert!(self.now < PATIENCE, "not done:{}", self.end_of_story());
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
                match entry.remove() {
                    (Place::Gateway(from), frame) => {
                        self.gateway.set_time(self.now);
                        match self.gateway.send(from.port(), &frame) {
                            Ok(out) => self.fly(Place::Host, from.other(), &out),
                            Err(reason) => {
                                prop_assert!(false, "{reason} at {} ms:{}", self.now, self.end_of_story())
                            }
                        }
                    }
                    (Place::Host(end), frame) => {
                        let replies = self.hosts[end as usize].receive(&frame, self.now);
                        self.send(replies);
                    }
                }
            }
            for end in End::BOTH {
                let sent = self.hosts[end as usize].tick(self.now);
                self.send(sent);
            }
        }
        Ok(())
    }
}

fn habits() -> impl Strategy<Value = Habits> {
    let initial = prop_oneof![Just(1000), Just(u32::MAX - 3), Just((1 << 31) - 2000), any::<u32>()];
    let scale = prop_oneof![Just(None), Just(Some(0)), Just(Some(7))];
    let bytes = prop_oneof![1 => Just(0), 1 => 1u64..2000, 2 => 2000u64..60_000];
    let buffer = prop_oneof![Just(1), Just(1500), Just(10_000), Just(65_535), Just(200_000)];
    let reads = prop_oneof![Just(1), Just(50), Just(100_000)];
    (initial, scale, any::<bool>(), bytes, buffer, reads, any::<bool>()).prop_map(
        |(initial, scale, selective, bytes, buffer, reads, shrinks)| {
            // A scaled window cannot tell a byte.
            let buffer = if scale == Some(7) { buffer.max(1500) } else { buffer };
            Habits { initial, scale, selective, bytes, buffer, reads, shrinks }
        },
    )
}

fn network() -> impl Strategy<Value = Network> {
    (prop_oneof![Just(0u64), 1u64..25], prop_oneof![Just(0u64), 1u64..10], 1u64..50).prop_map(
        |(loss_percent, duplicate_percent, delay_ms)| Network { loss_percent, duplicate_percent, delay_ms },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases() / 10, max_shrink_iters: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn honest_transfers_complete_without_a_drop(
        is_v6 in any::<bool>(),
        is_simultaneous in any::<bool>(),
        habits in [habits(), habits()],
        network in network(),
        random in any::<u64>(),
    ) {
        let there = allow(Service::Any);
        let back = Rule { from: there.to.clone(), to: there.from.clone(), ..there.clone() };
        let rules = if is_simultaneous { vec![there, back] } else { vec![there] };
        let hosts = End::BOTH.map(|end| {
            // A byte at a time takes its time.
            let bytes = habits[end as usize].bytes.min(40 * habits[end.other() as usize].buffer);
            Host::new(end, 1000, Habits { bytes, ..habits[end as usize] })
        });
        let mut world = World {
            family: if is_v6 { Family::V6 } else { Family::V4 },
            gateway: Gateway::new(&rules),
            network,
            hosts,
            now: crate::START,
            flying: BTreeMap::new(),
            count: 0,
            random,
            story: String::new(),
        };
        for end in &End::BOTH[..1 + usize::from(is_simultaneous)] {
            let sent = world.hosts[*end as usize].connect(world.now);
            world.send(sent);
        }
        world.run()?;
        let dropped = world.gateway.ledger().dropped;
        prop_assert!(Reason::ALL.iter().all(|reason| dropped[*reason as usize] == 0));
    }
}
