//! What holds for any sequence of frames, time jumps, reloads and topology changes: of the whole worker loop, with
//! state. The bytes are a little program; see [`check`].

use bulkhead_dataplane::headers::parse;
use bulkhead_dataplane::policy::{Action, Rule, Service};
use bulkhead_dataplane::verdict::Reason;
use etherparse::SlicedPacket;

use crate::gateway::{
    self, CLIENT, CLIENTS, Gateway, SERVER, SERVERS, Station, allow, echo, rule, tcp, udp, udp6, unreachable,
};

/// The most steps of one program: more would only repeat.
const STEPS: usize = 96;

/// The program, read front to back; it ends with its bytes.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }
}

/// Runs the program against a fresh gateway. Panics if an invariant does not hold after any step.
pub fn check(bytes: &[u8]) {
    let mut program = Program(bytes);
    let mut gateway = Gateway::new(&rules(1));
    let mut last = Vec::new();
    for _ in 0..STEPS {
        if step(&mut program, &mut gateway, &mut last).is_none() {
            break;
        }
    }
    // Time ends every connection and every wait.
    for _ in 0..2 {
        gateway.advance(8_000_000_000_000);
    }
    drain(&mut gateway);
    let ledger = gateway.ledger();
    assert!(ledger.is_balanced() && ledger.held == 0, "{ledger:?}");
}

fn step(program: &mut Program<'_>, gateway: &mut Gateway, last: &mut Vec<u8>) -> Option<()> {
    match program.byte()? % 8 {
        0 => {
            let port = port(program.byte()?);
            let len = usize::from(program.byte()?).min(program.0.len());
            let (frame, rest) = program.0.split_at(len);
            program.0 = rest;
            put(gateway, port, frame);
        }
        1..=4 => {
            let (port, frame) = packet(program, last)?;
            *last = put(gateway, port, &frame).unwrap_or(frame);
        }
        5 => {
            gateway.advance(u64::from(program.word()?) * 10_000_000);
            drain(gateway);
        }
        6 => {
            gateway.publish(&rules(program.byte()?));
            drain(gateway);
        }
        _ => {
            let kind = program.byte()?;
            gateway.change_topology(|spec| match kind % 4 {
                0 => spec.neighbours.clear(),
                1 => {
                    spec.neighbours =
                        vec![gateway::neighbour(CLIENTS, CLIENT), gateway::neighbour(SERVERS, SERVER)]
                }
                2 => spec.ports[usize::from(kind / 4 % 2)].up ^= true,
                _ => spec.ports[usize::from(kind / 4 % 2)].mtu = 600 + u16::from(kind) * 4,
            });
            drain(gateway);
        }
    }
    Some(())
}

fn port(byte: u8) -> Station {
    [CLIENTS, SERVERS][usize::from(byte & 1)]
}

/// A well-formed packet of a few connections, and then perhaps one changed byte.
fn packet(program: &mut Program<'_>, last: &[u8]) -> Option<(Station, Vec<u8>)> {
    let kind = program.byte()?;
    let (ingress, from, to) = match kind & 1 {
        0 => (CLIENTS, CLIENT, SERVER),
        _ => (SERVERS, SERVER, CLIENT),
    };
    let number = program.byte()?;
    let (near, far) = (1000 + u16::from(number & 3), [53, 443, 80, 22][usize::from(number >> 2 & 3)]);
    let (source, destination) = if kind & 1 == 0 { (near, far) } else { (far, near) };
    let mut frame = match kind >> 1 & 7 {
        0 => udp(from, to, source, destination),
        1 => echo(from, to, number & 16 == 0, near),
        2 if last.len() > 34 => unreachable(from, to, last),
        3 => match kind & 1 {
            0 => udp6("fd00:1::9", "fd00:2::9", source, destination),
            _ => udp6("fd00:2::9", "fd00:1::9", source, destination),
        },
        _ => {
            let flags = program.byte()? & 0x17;
            let sequence = u32::from(program.word()?);
            tcp(from, to, source, destination, flags, sequence, u32::from(program.word()?))
        }
    };
    if kind & 0x80 != 0 {
        let at = usize::from(program.byte()?) % frame.len();
        frame[at] = program.byte()?;
    }
    Some((ingress, frame))
}

/// Rule sets to change between: none, and several that allow, deny and reject different things.
fn rules(kind: u8) -> Vec<Rule> {
    let services = [Service::Any, Service::Udp(53, 53), Service::Tcp(80, 443), Service::IcmpEcho];
    let actions = [Action::Allow, Action::Allow, Action::Reject, Action::Deny];
    let mut rules: Vec<_> = (0..kind % 4)
        .map(|i| rule(actions[usize::from((kind >> 2) + i) % 4], services[usize::from((kind >> 4) + i) % 4]))
        .collect();
    if kind & 0x40 != 0 {
        let mut back = allow(Service::Tcp(1, 65535));
        std::mem::swap(&mut back.from, &mut back.to);
        rules.push(back);
    }
    rules
}

/// Puts a frame in and checks what comes out; answers it, if it was one forwarded frame.
fn put(gateway: &mut Gateway, ingress: Station, frame: &[u8]) -> Option<Vec<u8>> {
    let before = gateway.ledger();
    let reason = gateway.put(ingress, frame);
    let after = gateway.ledger();
    let out = drain(gateway);
    let forwarded = after.forwarded - before.forwarded;
    let answered = after.answered - before.answered;
    assert_eq!(forwarded + answered, out.len() as u64);
    let dropped = after.dropped_total() - before.dropped_total();
    assert_eq!(forwarded + dropped + after.held - before.held, 1, "one packet, one fate");
    assert!(answered <= dropped);
    let [(port, sent)] = out.as_slice() else { return None };
    let headers = parse(sent).expect("what we send is well formed");
    if forwarded == 1 {
        assert_ne!(*port, ingress, "every packet that may cross goes to the other segment");
        assert_eq!(headers.hop_limit, parse(frame).expect("only parsed frames are forwarded").hop_limit - 1);
        assert_eq!(sent.len(), frame.len());
        // Up to the hop limit nothing but the Ethernet addresses changes.
        assert_eq!(sent[12..21], frame[12..21]);
        assert_eq!(reason, None);
    } else {
        assert_eq!(*port, ingress);
        assert!(
            reason.is_some_and(|r| !matches!(r, Reason::SpoofedSource | Reason::NoRule | Reason::RuleDenied))
        );
        assert!(SlicedPacket::from_ethernet(sent).is_ok());
        // What earlier packets have earned may be spent on it (D8).
        assert!(sent.len() <= 14 + 1280);
    }
    (forwarded == 1).then(|| sent.clone())
}

fn drain(gateway: &mut Gateway) -> Vec<(Station, Vec<u8>)> {
    let mut out = Vec::new();
    for port in [CLIENTS, SERVERS] {
        while let Some(frame) = gateway.sent_by(port) {
            out.push((port, frame));
        }
    }
    gateway.unresolved();
    gateway.discard_events();
    out
}
