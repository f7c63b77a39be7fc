//! Captured traffic put to a policy, offline: `bulkhead replay`.
//!
//! Every packet of a capture goes through the pipeline of the running gateway (`judge.rs`), by the capture's clock. What
//! a capture does not tell is made up from the policy and said in [`ASSUMED`]: which port a packet came in by,
//! routes, neighbours, the ports' own addresses. Events become questions to the policy.

pub mod capture;
mod judge;
pub mod recorded;
mod tally;
#[cfg(test)]
mod tests;

use std::io::BufRead;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use bulkhead_dataplane::headers::{self, Transport, protocol};
use bulkhead_dataplane::policy::Query;
use bulkhead_dataplane::verdict::{Now, PortId};
use bulkhead_dataplane::wire::{checksum::Sum, ethernet};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::daemon::events::{protocol_name, shown_ports};
use crate::daemon::time::rfc3339;
use crate::model::Model;
use capture::{Broken, Capture, Packet};
use judge::{Dropped, Judge, Said};
use recorded::{Events, Recorded};
pub use tally::{Tally, Told};

/// What is taken for granted, for people.
pub const ASSUMED: [&str; 7] = [
    "a packet comes in by the first port of its source's segment, or by the port that its interface in a pcapng stands for",
    "every segment is on the link of its port: no routes, no next hop that does not answer, no limit of size",
    "a frame to any one host's MAC address is for the gateway",
    "rules in audit do not hold, and others at the times of the capture",
    "nobody has logged in, and clients of segments with `protect` have shown that they are there",
    "connections that began before the capture are unknown, as after a restart: no_connection",
    "what a limit of size in the capture cut off is zeros, with right checksums",
];

/// The first reading of the clock: the packet path takes 0 for never.
const START_NS: u64 = 1_000_000_000;
/// The longest frame that is judged, bytes.
const FRAME_MAX: usize = u16::MAX as usize;

/// How to read a capture.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Interfaces of the capture, and the ports that they stand for, by name.
    pub ports: Vec<(String, String)>,
    /// Take transport checksums for right.
    pub ignore_checksums: bool,
}

/// Traffic on its way through one policy, or through two that are compared.
pub struct Replay {
    judges: Vec<Judge>,
    options: Options,
    /// What it came to.
    pub tally: Tally,
    first_ns: Option<u64>,
    now_ns: u64,
}

/// What a packet is, as far as it can be read.
struct Facts {
    protocol: Option<u8>,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    ports: (u16, u16),
}

impl Replay {
    /// Through `policy`, and where given through `against` too; then only what differs is told.
    ///
    /// # Errors
    ///
    /// A policy cannot be compiled, or a port does not exist.
    pub fn new(policy: Model, against: Option<Model>, options: Options) -> Result<Replay, String> {
        for (_, port) in &options.ports {
            for model in [Some(&policy), against.as_ref()].into_iter().flatten() {
                if !model.ports.iter().any(|known| known.name == *port) {
                    let names: Vec<_> = model.ports.iter().map(|p| p.name.as_str()).collect();
                    let hint = crate::config::diagnostics::nearest(port, names.iter().copied())
                        .unwrap_or_else(|| format!("there are {}", names.join(", ")));
                    return Err(format!("there is no port `{port}`; {hint}"));
                }
            }
        }
        let mut judges = vec![Judge::new(policy)?];
        if let Some(against) = against {
            judges.push(Judge::new(against)?);
        }
        Ok(Replay { judges, options, tally: Tally::default(), first_ns: None, now_ns: 0 })
    }

    /// Whether two policies are compared.
    pub fn compares(&self) -> bool {
        self.judges.len() == 2
    }

    /// The models, the new one first.
    pub fn models(&self) -> Vec<&Model> {
        self.judges.iter().map(|judge| &judge.model).collect()
    }

    /// Puts a whole capture through; `each` gets the line of every packet that is to be told.
    ///
    /// # Errors
    ///
    /// Where the capture is broken. What came before is in the tally.
    pub fn capture(&mut self, capture: &mut Capture, mut each: impl FnMut(Value)) -> Result<(), Broken> {
        let result = loop {
            match capture.next_packet() {
                Ok(Some(packet)) => self.packet(packet, &mut each),
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        self.tally.foreign = capture.foreign();
        self.tally.held = self.judges[0].held();
        result
    }

    /// Puts recorded connections to the policy.
    ///
    /// # Errors
    ///
    /// Where the file is broken. What came before is in the tally.
    pub fn events<R: BufRead>(
        &mut self,
        events: &mut Events<R>,
        mut each: impl FnMut(Value),
    ) -> Result<(), Broken> {
        let result = loop {
            match events.next_event() {
                Ok(Some(event)) => self.event(&event, &mut each),
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        (self.tally.lost, self.tally.others) = (events.lost, events.others);
        result
    }

    fn event(&mut self, event: &Recorded, each: &mut impl FnMut(Value)) {
        if !matches!(event.kind.as_str(), "opened" | "denied") {
            // Of a connection that was opened, in a line of its own.
            self.tally.ended += 1;
            return;
        }
        self.tally.read += 1;
        self.judges.iter_mut().for_each(|judge| judge.set_time(event.at));
        let said: Vec<_> = self.judges.iter().map(|judge| judge.question(&query(judge, event))).collect();
        let facts = Facts {
            protocol: Some(event.protocol),
            source: Some(event.source),
            destination: Some(event.destination),
            ports: (event.source_port, event.destination_port),
        };
        let ts = (event.ts.clone(), event.line);
        let told = |replay: &Replay| {
            let mut line = replay.line("line", event.line, &event.ts, &facts, &said);
            line["recorded"] = json!({ "kind": event.kind, "rule": event.rule, "reason": event.reason });
            line
        };
        self.count(&said, ts, &facts, 0, each, told);
    }

    fn packet(&mut self, packet: Packet, each: &mut impl FnMut(Value)) {
        self.tally.read += 1;
        let number = self.tally.read;
        // A stamp of 0 is none, and time does not go backwards: the packet path's clock never does.
        self.now_ns = self.now_ns.max(packet.at_ns);
        self.tally.backwards += u64::from(packet.at_ns < self.now_ns);
        let first = *self.first_ns.get_or_insert(self.now_ns);
        let now = Now(START_NS.saturating_add(self.now_ns - first));
        let Packet { interface, is_outbound, mut bytes, length, .. } = packet;
        let (kept, is_cut) = (bytes.len(), bytes.len() < length);
        if length > FRAME_MAX {
            self.tally.oversized += 1;
            return;
        }
        bytes.resize(length, 0);
        if (is_cut || self.options.ignore_checksums) && !mend(&mut bytes, kept) {
            self.tally.too_short += 1;
            return;
        }
        let facts = facts(&bytes);
        let ports: Vec<_> = self.judges.iter().map(|judge| self.ingress(judge, &interface, &facts)).collect();
        if is_outbound || ports[0].1 {
            self.tally.leaving += 1;
            return;
        }
        self.tally.cut += u64::from(is_cut);
        let wall = Timestamp::from_nanosecond(self.now_ns.into()).unwrap_or(Timestamp::MAX);
        let mut dropped = Dropped::new();
        let mut said = Vec::with_capacity(2);
        for (judge, (port, _)) in self.judges.iter_mut().zip(&ports) {
            let mut gone = Dropped::new();
            judge.set_time(wall);
            said.push(judge.packet(now, *port, &bytes, &mut gone));
            if said.len() == 1 {
                dropped = gone;
            }
        }
        self.tally.gone(&dropped);
        let ts = rfc3339(UNIX_EPOCH + Duration::from_nanos(self.now_ns));
        let port_name = self.judges[0].model.port_name(ports[0].0).unwrap_or("?").to_owned();
        let told = |replay: &Replay| {
            let mut line = replay.line("packet", number, &ts, &facts, &said);
            line["ingress"] = json!(port_name);
            line["length"] = json!(length);
            line
        };
        self.count(&said, (ts.clone(), number), &facts, length as u64, each, told);
    }

    /// The port by which a packet came in, and whether it did not: it was captured where it left.
    fn ingress(&self, judge: &Judge, interface: &Option<String>, facts: &Facts) -> (PortId, bool) {
        let by_source = facts.source.and_then(|source| judge.port_of(source)).unwrap_or(PortId(0));
        let Some(interface) = interface else { return (by_source, false) };
        let wanted = self.options.ports.iter().find(|(name, _)| name == interface).map(|(_, port)| port);
        let ids = (0..=u8::MAX).map(PortId);
        let stands_for = ids.zip(&judge.model.ports).find(|(_, port)| match wanted {
            Some(wanted) => port.name == *wanted,
            None => port.interface == *interface,
        });
        let Some((port, _)) = stands_for else { return (by_source, false) };
        // The source lies behind another port and the destination behind this one: the gateway sent it.
        let is_here = |address: Option<IpAddr>| address.is_some_and(|a| judge.is_behind(port, a));
        let leaves = !is_here(facts.source)
            && is_here(facts.destination)
            && facts.source.is_some_and(|source| judge.port_of(source).is_some());
        (port, leaves)
    }

    fn count(
        &mut self,
        said: &[Said],
        (ts, number): (String, u64),
        facts: &Facts,
        bytes: u64,
        each: &mut impl FnMut(Value),
        line: impl Fn(&Replay) -> Value,
    ) {
        let names: Vec<_> = self.judges.iter().zip(said).map(|(judge, said)| told(judge, said)).collect();
        self.tally.ledger(&said[0]);
        let differs = names.len() == 2 && names[0] != names[1];
        if self.compares() && !differs {
            self.tally.same += 1;
            return;
        }
        each(line(self));
        let model = &self.judges[0].model;
        let name = |segment: Option<_>| segment.and_then(|s| model.segment_name(s)).map(str::to_owned);
        let pair = (name(said[0].pair.0), name(said[0].pair.1));
        let sample = format!("#{number} {}", text(facts));
        self.tally.add(names, pair, said[0].opened, bytes, ts, sample);
    }

    fn line(&self, what: &str, number: u64, ts: &str, facts: &Facts, said: &[Said]) -> Value {
        let model = &self.judges[0].model;
        let name = |segment: Option<_>| segment.and_then(|s| model.segment_name(s));
        let protocol = facts.protocol.map(protocol_name);
        let (source_port, destination_port) = shown_ports(facts.protocol.unwrap_or(0), facts.ports);
        let mut line = json!({
            what: number, "ts": ts, "protocol": protocol,
            "source": facts.source, "source_port": source_port,
            "destination": facts.destination, "destination_port": destination_port,
            "from": name(said[0].pair.0), "to": name(said[0].pair.1),
        });
        let verdicts: Vec<_> =
            self.judges.iter().zip(said).map(|(judge, s)| told(judge, s).to_json()).collect();
        match &verdicts[..] {
            [new, old] => {
                line["new"] = new.clone();
                line["old"] = old.clone();
            }
            _ => {
                for key in ["verdict", "reason", "rule"] {
                    line[key] = verdicts[0][key].clone();
                }
            }
        }
        if said[0].fragments > 0 {
            line["fragments"] = json!(said[0].fragments);
        }
        line
    }
}

fn told(judge: &Judge, said: &Said) -> tally::Told {
    tally::Told {
        fate: said.fate,
        reason: said.reason,
        rule: judge.model.rule_name(said.rule).map(str::to_owned),
    }
}

/// The question that a recorded connection is to a policy: by the port of that name, or else by its source's.
fn query(judge: &Judge, event: &Recorded) -> Query {
    let ids = (0..=u8::MAX).map(PortId);
    let named = ids.zip(&judge.model.ports).find(|(_, port)| port.name == event.ingress).map(|(id, _)| id);
    Query {
        ingress: named.or_else(|| judge.port_of(event.source)).unwrap_or(PortId(0)),
        source: event.source,
        destination: event.destination,
        protocol: event.protocol,
        destination_port: event.destination_port,
    }
}

fn facts(bytes: &[u8]) -> Facts {
    match headers::parse(bytes) {
        Ok(headers) => Facts {
            protocol: Some(headers.protocol),
            source: Some(headers.addresses.source()),
            destination: Some(headers.addresses.destination()),
            ports: (headers.source_port, headers.destination_port),
        },
        Err(_) => {
            let addresses = headers::fragment(bytes).ok().map(|fragment| fragment.addresses);
            let source = addresses.map(|addresses| addresses.source());
            let destination = addresses.map(|addresses| addresses.destination());
            Facts { protocol: None, source, destination, ports: (0, 0) }
        }
    }
}

fn text(facts: &Facts) -> String {
    let (source_port, destination_port) = shown_ports(facts.protocol.unwrap_or(0), facts.ports);
    let end = |address: Option<IpAddr>, port: u16| match (address, port) {
        (None, _) => "?".to_owned(),
        (Some(address), 0) => address.to_string(),
        (Some(IpAddr::V6(address)), port) => format!("[{address}]:{port}"),
        (Some(address), port) => format!("{address}:{port}"),
    };
    let protocol = facts.protocol.map(|protocol| format!("{} ", protocol_name(protocol))).unwrap_or_default();
    format!("{protocol}{} → {}", end(facts.source, source_port), end(facts.destination, destination_port))
}

/// Gives a frame of which only the beginning was kept, or whose checksum the sender's card was to fill in, the right
/// transport checksum. False when not even the transport header was kept.
fn mend(frame: &mut [u8], kept: usize) -> bool {
    if kept < frame.len() && kept < needed(frame, kept) {
        return false;
    }
    let Ok(headers) = headers::parse(frame) else { return true };
    let field = match headers.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => return true,
    };
    if headers.transport == Transport::IcmpError && kept < frame.len() {
        // What it quotes is checked too, so nothing of it may be missing.
        return false;
    }
    let (start, end) = (usize::from(headers.transport_offset), usize::from(headers.end));
    let Some(segment) = frame.get_mut(start..end) else { return true };
    // A UDP datagram may end before its packet does.
    let length = match headers.protocol {
        protocol::UDP => usize::from(u16::from_be_bytes([segment[4], segment[5]])),
        _ => segment.len(),
    };
    let Some(segment) = segment.get_mut(..length) else { return true };
    if segment[field..field + 2] == [0, 0] && headers.protocol == protocol::UDP {
        // There is none.
        return true;
    }
    segment[field..field + 2].fill(0);
    let sum = match headers.protocol {
        protocol::ICMP => Sum::new(),
        other => Sum::new().pseudo_header(&headers.addresses, other, length as u16),
    };
    let checksum = match sum.bytes(segment).checksum() {
        // Zero would say that there is none (RFC 768).
        0 if headers.protocol == protocol::UDP => u16::MAX,
        checksum => checksum,
    };
    segment[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// How much of a frame has to be there for its ports to be: the headers of Ethernet, IP and transport, bytes. What is no
/// IP is judged with whatever is there.
fn needed(frame: &[u8], kept: usize) -> usize {
    let transport = |number: u8| if number == protocol::TCP { 20 } else { 8 };
    match (frame.get(12..14), frame.get(14..)) {
        _ if kept < ethernet::HEADER_BYTES => ethernet::HEADER_BYTES,
        (Some([0x08, 0x00]), Some([first, ..])) if kept >= 34 => {
            14 + usize::from(first & 15) * 4 + transport(frame[23])
        }
        (Some([0x08, 0x00]), _) => 34,
        (Some([0x86, 0xdd]), _) if kept >= 54 => 54 + transport(frame[20]),
        (Some([0x86, 0xdd]), _) => 54,
        _ => 0,
    }
}
