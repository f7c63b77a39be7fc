//! The pipeline against a slow, obvious model of what it should do, and honest TCP across it.
//!
//! Random sequences of packets of a few connections (opened, closed and reset in every way, lost, repeated, reordered,
//! forged near every bound and far from it, simultaneous, fast, with windows closed and scaled, around the wrap of the
//! numbers; UDP, echo, ICMP errors; jumps of time) go through the pipeline and through [`reference::Model`]. After each
//! packet the verdict and what is left of every connection must be the same.

#[allow(dead_code, reason = "shared with the tests of the pipeline")]
#[path = "../pipeline/gateway.rs"]
mod gateway;
mod host;
mod packets;
mod reference;
mod transfer;

use std::collections::BTreeMap;
use std::fmt::Write;

use bulkhead_dataplane::connection::{State, Summary, Timeouts};
use bulkhead_dataplane::policy::{Rule, Service};
use bulkhead_dataplane::verdict::Reason;
use gateway::{Family, Gateway, allow};
use packets::{Content, End, Packet, Segment};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use reference::{Aim, Life, Model, Verdict, Why};

/// Where a number lies, seen from what would be right.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// What an honest end would send next.
    Right,
    /// So far from it.
    Off(i32),
    /// So far from what the other end has acknowledged (a sequence number), or from what the sender has (an
    /// acknowledgement).
    Acknowledged(i32),
    /// So far from the furthest that is granted.
    Furthest(i32),
    /// So far from the oldest that passes.
    Oldest(i32),
    /// Anything.
    Any(u32),
}

/// The combinations of flags that a TCP sends.
#[derive(Clone, Copy, Debug)]
enum Flags {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
    RstAck,
}

/// One step of a sequence.
#[derive(Clone, Debug)]
enum Move {
    /// Nothing happens for so many milliseconds.
    Wait(u64),
    /// A segment of TCP connection `number`.
    Tcp {
        number: u16,
        from: End,
        flags: Flags,
        seq: Place,
        ack: Place,
        payload: u16,
        window: u16,
        scale: Option<u8>,
    },
    /// A handshake by the client, in three steps, from these numbers with these scales.
    Open {
        number: u16,
        initial: [u32; 2],
        scales: [Option<u8>; 2],
    },
    /// Both ends send a SYN, and the one that is named answers the other's.
    Cross {
        number: u16,
        initial: [u32; 2],
        scales: [Option<u8>; 2],
        answers: End,
    },
    /// Both ends close, the one first, in three steps.
    Close {
        number: u16,
        first: End,
    },
    Udp {
        number: u16,
        from: End,
        bytes: u16,
    },
    Echo {
        number: u16,
        from: End,
        is_reply: bool,
    },
    /// Twice an ICMP error about the packet that was sent so many packets ago; of TCP, with its number so far off.
    Error {
        from: End,
        about: usize,
        off: i32,
    },
    /// The packet that was sent so many packets ago, once more: duplicated, or overtaken.
    Again {
        ago: usize,
    },
}

fn place() -> impl Strategy<Value = Place> {
    let near = prop_oneof![-2i32..3, Just(-100), Just(100), -20_000i32..20_000];
    prop_oneof![
        8 => Just(Place::Right),
        2 => near.clone().prop_map(Place::Off),
        2 => near.prop_map(Place::Acknowledged),
        2 => (-2i32..3).prop_map(Place::Furthest),
        2 => (-2i32..3).prop_map(Place::Oldest),
        1 => any::<u32>().prop_map(Place::Any),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Client), Just(End::Server)]
}

fn scale() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![Just(None), Just(Some(0)), Just(Some(3)), Just(Some(14))]
}

fn initial() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1000), Just(u32::MAX), Just(u32::MAX - 3000), Just((1 << 31) - 1), any::<u32>()]
}

fn tcp() -> impl Strategy<Value = Move> {
    let flags = prop_oneof![
        3 => Just(Flags::Syn),
        3 => Just(Flags::SynAck),
        8 => Just(Flags::Ack),
        3 => Just(Flags::Fin),
        2 => Just(Flags::Rst),
        1 => Just(Flags::RstAck),
    ];
    let payload = prop_oneof![3 => Just(0), 1 => Just(1), 2 => 0u16..1400];
    let window = prop_oneof![Just(0), Just(1), Just(1000), Just(4000), Just(u16::MAX), any::<u16>()];
    (1u16..3, end(), flags, place(), place(), payload, window, scale()).prop_map(
        |(number, from, flags, seq, ack, payload, window, scale)| {
            // Only the SYN of a client has data, as with TCP Fast Open.
            let is_syn = matches!(flags, Flags::Syn | Flags::SynAck);
            let payload = if is_syn && (from == End::Server || number == 1) { 0 } else { payload };
            Move::Tcp { number, from, flags, seq, ack, payload, window, scale }
        },
    )
}

fn step() -> impl Strategy<Value = Move> {
    let limit = Timeouts::default();
    let waits = [
        1,
        limit.tcp_closed_ms,
        limit.tcp_handshake_ms,
        limit.icmp_ms,
        limit.udp_replied_ms,
        limit.tcp_closing_ms,
        limit.tcp_established_ms,
    ];
    let wait = (0..waits.len(), 0u64..2).prop_map(move |(n, late)| Move::Wait(u64::from(waits[n]) + late));
    let open = (1u16..3, [initial(), initial()], [scale(), scale()])
        .prop_map(|(number, initial, scales)| Move::Open { number, initial, scales });
    let off = prop_oneof![3 => Just(0), 1 => -2i32..3, 1 => -5000i32..5000, 1 => any::<i32>()];
    let error = (end(), 0usize..8, off).prop_map(|(from, about, off)| Move::Error { from, about, off });
    let cross = (1u16..3, [initial(), initial()], [scale(), scale()], end())
        .prop_map(|(number, initial, scales, answers)| Move::Cross { number, initial, scales, answers });
    prop_oneof![
        24 => tcp(),
        2 => open,
        1 => cross,
        1 => (1u16..3, end()).prop_map(|(number, first)| Move::Close { number, first }),
        2 => wait,
        2 => (1u16..3, end(), 0u16..4).prop_map(|(number, from, bytes)| Move::Udp { number, from, bytes }),
        2 => (1u16..3, end(), any::<bool>())
            .prop_map(|(number, from, is_reply)| Move::Echo { number, from, is_reply }),
        2 => error,
        3 => (0usize..12).prop_map(|ago| Move::Again { ago }),
    ]
}

/// A gateway and a model that see the same.
struct Pair {
    family: Family,
    gateway: Gateway,
    model: Model,
    /// Milliseconds.
    now: u64,
    sent: Vec<Packet>,
    /// What happened, for whoever has to understand a failure.
    story: String,
}

/// The gateways of the pipeline's tests start at this time, milliseconds.
const START: u64 = 1000;

impl Pair {
    fn new(family: Family, both_ways: bool) -> Pair {
        let there = allow(Service::Any);
        let back = Rule { from: there.to.clone(), to: there.from.clone(), ..there.clone() };
        let rules = if both_ways { vec![there, back] } else { vec![there] };
        let story =
            format!("{family:?}, {}", if both_ways { "both may originate" } else { "one may originate" });
        let (gateway, model) = (Gateway::new(&rules), Model::new(both_ways));
        Pair { family, gateway, model, now: START, sent: Vec::new(), story }
    }

    fn run(&mut self, step: &Move) -> Result<(), TestCaseError> {
        match step.clone() {
            Move::Wait(ms) => {
                self.now += ms;
                self.gateway.advance(ms * 1_000_000);
                self.gateway.discard_events();
                let _ = write!(self.story, "\n{ms} ms later");
                self.compare_lives()
            }
            Move::Tcp { number, from, flags, seq, ack, payload, window, scale } => {
                let content = self.aim(number, from, flags, seq, ack, payload, window, scale);
                self.send(Packet { from, number, content: Content::Tcp(content) })
            }
            Move::Open { number, initial: [client, server], scales } => {
                let next = client.wrapping_add(1);
                let steps = [
                    (End::Client, Flags::Syn, client, 0, scales[0]),
                    (End::Server, Flags::SynAck, server, next, scales[1]),
                    (End::Client, Flags::Ack, next, server.wrapping_add(1), None),
                ];
                steps.into_iter().try_for_each(|(from, flags, seq, ack, scale)| {
                    let content = segment(flags, seq, ack, 0, 4000, scale);
                    self.send(Packet { from, number, content: Content::Tcp(content) })
                })
            }
            Move::Cross { number, initial, scales, answers } => {
                let peer = initial[answers.other() as usize].wrapping_add(1);
                let steps = [
                    (End::Client, Flags::Syn, 0),
                    (End::Server, Flags::Syn, 0),
                    (answers, Flags::SynAck, peer),
                ];
                steps.into_iter().try_for_each(|(from, flags, ack)| {
                    let content = segment(flags, initial[from as usize], ack, 0, 4000, scales[from as usize]);
                    self.send(Packet { from, number, content: Content::Tcp(content) })
                })
            }
            Move::Close { number, first } => {
                [(first, Flags::Fin), (first.other(), Flags::Fin), (first, Flags::Ack)]
                    .into_iter()
                    .try_for_each(|(from, flags)| {
                        let content =
                            self.aim(number, from, flags, Place::Right, Place::Right, 0, 4000, None);
                        self.send(Packet { from, number, content: Content::Tcp(content) })
                    })
            }
            Move::Udp { number, from, bytes } => {
                self.send(Packet { from, number, content: Content::Udp(bytes) })
            }
            Move::Echo { number, from, is_reply } => {
                let content = if is_reply { Content::EchoReply } else { Content::EchoRequest };
                self.send(Packet { from, number, content })
            }
            Move::Error { from, about, off } => match self.sent.iter().rev().nth(about).cloned() {
                Some(Packet { content: Content::Error(_), .. }) | None => Ok(()),
                Some(mut about) => {
                    let number = about.number;
                    if let Content::Tcp(segment) = &mut about.content {
                        segment.seq = segment.seq.wrapping_add_signed(off);
                    }
                    let error = Packet { from, number, content: Content::Error(Box::new(about)) };
                    // Routers and attackers repeat themselves.
                    self.send(error.clone())?;
                    self.send(error)
                }
            },
            Move::Again { ago } => match self.sent.iter().rev().nth(ago).cloned() {
                Some(packet) => self.send(packet),
                None => Ok(()),
            },
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what a segment says")]
    fn aim(
        &self,
        number: u16,
        from: End,
        flags: Flags,
        seq: Place,
        ack: Place,
        payload: u16,
        window: u16,
        scale: Option<u8>,
    ) -> Segment {
        let aims = self.model.aim(number).unwrap_or([Aim { end: 1000, ..Aim::default() }; 2]);
        let (own, peer) = (aims[from as usize], aims[from.other() as usize]);
        let is_syn = matches!(flags, Flags::Syn | Flags::SynAck);
        let off = |base: u32, by: i32| base.wrapping_add_signed(by);
        let seq = match seq {
            // A SYN again, as far as it can be again.
            Place::Right if is_syn => own.end.wrapping_sub(1),
            Place::Right => own.end,
            Place::Off(by) => off(own.end, by),
            Place::Acknowledged(by) => off(peer.ack, by),
            Place::Furthest(by) => off(peer.grants, by).wrapping_sub(u32::from(payload)),
            Place::Oldest(by) => off(own.end.wrapping_sub(peer.window), by),
            Place::Any(number) => number,
        };
        let ack = match ack {
            Place::Right => peer.end,
            Place::Off(by) => off(peer.end, by),
            Place::Acknowledged(by) => off(own.ack, by),
            Place::Furthest(by) => off(peer.end, by),
            Place::Oldest(by) => off(peer.end.wrapping_sub(own.window.max(66_000)), by),
            Place::Any(number) => number,
        };
        segment(flags, seq, ack, payload, window, scale)
    }

    fn send(&mut self, packet: Packet) -> Result<(), TestCaseError> {
        let frame = packet.frame(self.family);
        let verdict = match self.gateway.send(packet.from.port(), &frame) {
            Ok(_) => Verdict::Pass,
            Err(reason) => Verdict::Drop(class(reason)),
        };
        let expected = self.model.judge(&packet, self.now);
        let _ = write!(self.story, "\n{packet:?}: {verdict:?}");
        prop_assert_eq!(verdict, expected, "after{}", &self.story);
        self.sent.push(packet);
        self.compare_lives()
    }

    /// Compares what is left of every connection.
    fn compare_lives(&mut self) -> Result<(), TestCaseError> {
        let mut lives: Vec<_> = self.gateway.connections().iter().filter(|c| !is_idle(c)).map(life).collect();
        let mut expected = self.model.lives(self.now);
        lives.sort_by_key(|(key, life)| (*key, *life as u8));
        expected.sort_by_key(|(key, life)| (*key, *life as u8));
        prop_assert_eq!(lives, expected, "after{}", &self.story);
        Ok(())
    }
}

fn segment(
    flags: Flags,
    seq: u32,
    acknowledges: u32,
    payload: u16,
    window: u16,
    scale: Option<u8>,
) -> Segment {
    let is_syn = matches!(flags, Flags::Syn | Flags::SynAck);
    let ack = !matches!(flags, Flags::Syn | Flags::Rst);
    Segment {
        syn: is_syn,
        ack,
        fin: matches!(flags, Flags::Fin),
        rst: matches!(flags, Flags::Rst | Flags::RstAck),
        seq,
        acknowledges: if ack { acknowledges } else { 0 },
        window,
        scale: scale.filter(|_| is_syn),
        payload: if matches!(flags, Flags::Rst | Flags::RstAck) { 0 } else { payload },
    }
}

fn class(reason: Reason) -> Why {
    match reason {
        Reason::NoRule => Why::Policy,
        Reason::NoConnection => Why::NoConnection,
        Reason::TcpInvalid | Reason::TcpOutOfWindow => Why::Tcp,
        Reason::IcmpUnrelated | Reason::IcmpBadQuote | Reason::IcmpRepeated => Why::Icmp,
        other => panic!("{other} is no reason to drop any of these"),
    }
}

fn life(connection: &Summary) -> ((u8, u16), Life) {
    let tuple = &connection.tuple;
    let (protocol, number) = match tuple.protocol {
        // An echo's identifier stands at the requester's end.
        1 | 58 => (1, tuple.source_port),
        protocol if tuple.source_port == packets::SERVICE => (protocol, tuple.destination_port),
        protocol => (protocol, tuple.source_port),
    };
    let life = match connection.state {
        State::SynSent
        | State::SimultaneousSyn
        | State::SimultaneousOriginal
        | State::SimultaneousReply
        | State::SynReceived => Life::HalfOpen,
        State::Established => Life::Established,
        State::FinOriginal | State::FinReply | State::FinBoth => Life::Closing,
        State::TimeWait => Life::TimeWait,
        State::Closed => Life::Reset,
        State::UdpUnreplied | State::EchoUnreplied => Life::Unreplied,
        State::UdpReplied | State::EchoReplied => Life::Replied,
    };
    ((protocol, number), life)
}

/// Whether its time has run out, and only the sweep has not come by yet.
fn is_idle(connection: &Summary) -> bool {
    let limits = Timeouts::default();
    let limit = match (life(connection).1, connection.tuple.protocol) {
        (Life::HalfOpen, _) => limits.tcp_handshake_ms,
        (Life::Established, _) => limits.tcp_established_ms,
        (Life::Closing, _) => limits.tcp_closing_ms,
        (Life::TimeWait, _) => limits.tcp_time_wait_ms,
        (Life::Reset, _) => limits.tcp_closed_ms,
        (Life::Unreplied | Life::Replied, 17) => limits.udp_replied_ms,
        (Life::Unreplied | Life::Replied, _) => limits.icmp_ms,
    };
    connection.idle_ms > limit
}

/// How many sequences: `PROPTEST_CASES`, or so many that they take some seconds.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500)
}

fn sequences() -> impl Strategy<Value = Vec<Move>> {
    proptest::collection::vec(step(), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_pipeline_does_what_the_model_does(
        is_v6 in any::<bool>(),
        both_ways in any::<bool>(),
        steps in sequences(),
    ) {
        let mut pair = Pair::new(if is_v6 { Family::V6 } else { Family::V4 }, both_ways);
        for step in &steps {
            pair.run(step)?;
        }
    }
}

/// Or the property above would prove little.
#[test]
fn the_sequences_reach_every_state_and_every_reason() {
    let mut runner =
        TestRunner::new_with_rng(ProptestConfig::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut states = BTreeMap::<&str, u32>::new();
    let mut reasons = BTreeMap::<&str, u32>::new();
    for case in 0..200 {
        let steps = sequences().new_tree(&mut runner).unwrap().current();
        let mut pair = Pair::new(Family::V4, case % 2 == 0);
        for step in &steps {
            pair.run(step).unwrap();
            for connection in pair.gateway.connections() {
                *states.entry(connection.state.name()).or_default() += 1;
            }
        }
        let ledger = pair.gateway.ledger();
        for &reason in Reason::ALL {
            *reasons.entry(reason.name()).or_default() += ledger.dropped[reason as usize] as u32;
        }
    }
    println!("{states:#?}");
    assert_eq!(states.len(), State::COUNT, "{states:#?}");
    let expected = [
        "no_rule",
        "no_connection",
        "tcp_invalid",
        "tcp_out_of_window",
        "icmp_unrelated",
        "icmp_bad_quote",
        "icmp_repeated",
    ];
    assert!(expected.iter().all(|reason| reasons[reason] > 5), "{reasons:#?}");
}
