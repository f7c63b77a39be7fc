//! Rules proposed from what was seen: one for a pair of segments and a service, the smallest first, with the evidence.
//!
//! A proposal allows exactly what was seen at that granularity. Many high ports between the same two segments are one
//! rule that lists those ports: looking like ephemeral ones, they are not worth a rule each, and a range would allow what
//! nobody has seen.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bulkhead_dataplane::headers::protocol;

use crate::config::values::{NAME_CHARS, protocol_text};
use crate::model::probe_text;

/// From here on a port may be one that a host chose for a moment: where Linux begins (RFC 6056 says 1024, IANA 49152).
pub const HIGH_PORT: u16 = 32_768;
/// So many different high ports between two segments look chosen, not served.
const HIGH_PORTS: usize = 4;

/// What was seen of one service from one segment to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many connections.
    pub count: u64,
    /// Bytes of them, as far as they are known.
    pub bytes: u64,
    /// When first and when last, RFC 3339.
    pub span: Option<(String, String)>,
    /// Different sources.
    pub sources: BTreeSet<String>,
    /// Sources for which there was no room.
    pub more_sources: u64,
}

/// Sources that are told apart for one service.
const SOURCES_MAX: usize = 1024;

impl Seen {
    /// Another connection.
    pub fn add(&mut self, count: u64, bytes: u64, first: &str, last: &str, source: &str) {
        self.count += count;
        self.bytes += bytes;
        self.span = Some(match self.span.take() {
            None => (first.to_owned(), last.to_owned()),
            // Of one form and length, so they compare as texts.
            Some((a, b)) => (a.min(first.to_owned()), b.max(last.to_owned())),
        });
        if self.sources.len() < SOURCES_MAX {
            self.sources.insert(source.to_owned());
        } else if !self.sources.contains(source) {
            self.more_sources += 1;
        }
    }

    fn merge(&mut self, other: &Seen) {
        if let Some((first, last)) = &other.span {
            self.add(0, 0, first, last, other.sources.first().map_or("", String::as_str));
        }
        self.count += other.count;
        self.bytes += other.bytes;
        self.sources.extend(other.sources.iter().cloned());
        self.more_sources += other.more_sources;
    }
}

/// One service from one segment to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The originator's segment.
    pub from: String,
    /// The responder's segment.
    pub to: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The responder's port, of TCP and UDP; else 0.
    pub port: u16,
}

/// A rule that is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its name, which no other rule has.
    pub name: String,
    /// From this segment.
    pub from: String,
    /// To this one.
    pub to: String,
    /// Services, as they are written.
    pub services: Vec<String>,
    /// Whether these are high ports that look chosen for the moment.
    pub is_ephemeral: bool,
    /// The evidence.
    pub seen: Seen,
    /// How many pieces of ports: the smaller, the narrower.
    size: usize,
}

/// Makes proposals: with `merge`, adjacent ports of one pair are one rule with a range. `taken` are names of rules that
/// are there.
pub fn propose(flows: &BTreeMap<Flow, Seen>, merge: bool, taken: &HashSet<String>) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    let mut by_pair: BTreeMap<_, Vec<(u16, &Seen)>> = BTreeMap::new();
    for (flow, seen) in flows {
        by_pair
            .entry((flow.from.as_str(), flow.to.as_str(), flow.protocol))
            .or_default()
            .push((flow.port, seen));
    }
    for ((from, to, number), ports) in by_pair {
        let has_ports = matches!(number, protocol::TCP | protocol::UDP);
        let high = ports.iter().filter(|(port, _)| has_ports && *port >= HIGH_PORT).count();
        let is_ephemeral = |port: u16| has_ports && high >= HIGH_PORTS && port >= HIGH_PORT;
        let mut groups: Vec<(Vec<u16>, Seen, bool)> = Vec::new();
        for (port, seen) in ports {
            let joins = groups.last().is_some_and(|(group, _, ephemeral)| {
                let is_next = group.last().is_some_and(|last| last.checked_add(1) == Some(port));
                *ephemeral == is_ephemeral(port) && (*ephemeral || (merge && has_ports && is_next))
            });
            match groups.last_mut() {
                Some((group, all, _)) if joins => {
                    group.push(port);
                    all.merge(seen);
                }
                _ => groups.push((vec![port], seen.clone(), is_ephemeral(port))),
            }
        }
        for (group, seen, is_ephemeral) in groups {
            proposals.push(Proposal {
                name: String::new(),
                from: from.to_owned(),
                to: to.to_owned(),
                services: services(number, &group),
                is_ephemeral,
                seen,
                size: group.len(),
            });
        }
    }
    proposals.sort_by(|a, b| {
        let key = |p: &Proposal| (p.size, p.seen.count);
        key(a).cmp(&key(b)).then_with(|| (&a.from, &a.to, &a.services).cmp(&(&b.from, &b.to, &b.services)))
    });
    let mut taken = taken.clone();
    for proposal in &mut proposals {
        proposal.name = name(proposal, &taken);
        taken.insert(proposal.name.clone());
    }
    proposals
}

/// Ascending ports, runs of them as ranges.
fn services(number: u8, ports: &[u16]) -> Vec<String> {
    let word = match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        other => return vec![probe_text(other, 0)],
    };
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match runs.last_mut() {
            Some((_, high)) if high.checked_add(1) == Some(port) => *high = port,
            _ => runs.push((port, port)),
        }
    }
    let text = |(low, high): (u16, u16)| match low == high {
        true => format!("{word}/{low}"),
        false => format!("{word}/{low}-{high}"),
    };
    runs.into_iter().map(text).collect()
}

fn name(proposal: &Proposal, taken: &HashSet<String>) -> String {
    let service = match &proposal.services[..] {
        _ if proposal.is_ephemeral => {
            format!("{}-high-ports", proposal.services[0].split('/').next().unwrap_or("tcp"))
        }
        services => services[0].replace("/echo-request", "-ping").replace('/', "-"),
    };
    let mut base = format!("{}-to-{}-{service}", proposal.from, proposal.to);
    base =
        base.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    // Room for a number.
    base.truncate(NAME_CHARS - 6);
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    std::iter::once(base.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(base)
}

impl Proposal {
    /// The rule as it is written, with these lines of comment before it.
    pub fn to_toml(&self, comments: &[String]) -> String {
        let mut text = String::new();
        for comment in comments {
            text += &format!("# {comment}\n");
        }
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let services: Vec<_> = self.services.iter().map(|service| quoted(service)).collect();
        text += &format!(
            "[[rule]]\nname = {}\nfrom = {}\nto = {}\nservices = [{}]\n",
            quoted(&self.name),
            quoted(&self.from),
            quoted(&self.to),
            services.join(", ")
        );
        text
    }

    /// What speaks for it.
    pub fn evidence(&self) -> Vec<String> {
        let seen = &self.seen;
        let (first, last) = seen.span.clone().unwrap_or_default();
        let more = if seen.more_sources > 0 { " or more" } else { "" };
        let mut lines = vec![format!(
            "seen {} time(s), {} bytes, from {}{more} source(s), first {first}, last {last}",
            seen.count,
            seen.bytes,
            seen.sources.len()
        )];
        if self.is_ephemeral {
            lines.push(format!(
                "{} high ports, which look chosen for the moment: find out what agrees on them (passive FTP, RPC)",
                self.size
            ));
        }
        lines
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        let seen = &self.seen;
        serde_json::json!({
            "name": self.name, "from": self.from, "to": self.to, "services": self.services,
            "ephemeral": self.is_ephemeral, "connections": seen.count, "bytes": seen.bytes,
            "sources": seen.sources.len(), "sources_overflow": seen.more_sources,
            "first": seen.span.as_ref().map(|span| &span.0), "last": seen.span.as_ref().map(|span| &span.1),
        })
    }
}

/// The protocol's name as events and lists have it.
pub fn flow_text(flow: &Flow) -> String {
    match flow.protocol {
        protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => {
            probe_text(flow.protocol, flow.port)
        }
        other => protocol_text(other),
    }
}
