//! One condition of a rule: what it asks of the first packet of a connection.

use bulkhead_dataplane::headers::protocol;

use super::super::names::{self, Icmp};
use super::super::program::{AddressSet, End, InterfaceMatch};
use super::super::report::{Effect, Findings};
use super::super::sets::{Addresses, Families, Services};
use super::syntax::{Atom, Value};
use super::values;
use crate::config::diagnostics::{At, Report, quoted};

/// The conditions of a rule as far as they have been read.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub source: End,
    pub destination: End,
    pub families: Families,
    pub services: Services,
    /// Can it match the first packet of a connection?
    pub first: bool,
    /// Can it match later ones?
    pub later: bool,
    /// Conditions that cannot be expressed, in words.
    pub unsure: Vec<String>,
    /// Packets, seconds, whether it matches beyond that.
    pub limit: Option<(Option<u64>, u64, bool)>,
    /// Why it concerns no first packet, if it does not.
    pub covered: Option<&'static str>,
}

impl Draft {
    pub(super) fn new(families: Families) -> Draft {
        Draft {
            source: End::default(),
            destination: End::default(),
            families,
            services: Services::everything(),
            first: true,
            later: true,
            unsure: Vec::new(),
            limit: None,
            covered: None,
        }
    }

    /// Of these services only, or of all others.
    fn of(&mut self, services: &Services, negated: bool) {
        self.services =
            if negated { self.services.minus(services) } else { self.services.intersection(services) };
    }

    /// It matches first packets if this holds; why it concerns no first packet otherwise.
    fn if_first(&mut self, holds: bool, why: &'static str) {
        if !holds {
            self.first = false;
            self.covered = self.covered.or(Some(why));
        }
    }

    /// It matches packets, first or later, if this holds.
    fn if_ever(&mut self, holds: bool, why: &'static str) {
        self.later &= holds;
        self.if_first(holds, why);
    }

    fn unsure(&mut self, what: impl Into<String>) {
        self.unsure.push(what.into());
    }
}

/// What conditions are read into, besides a draft.
pub(super) struct Reading<'r> {
    pub report: &'r mut Report,
    pub findings: &'r mut Findings,
    pub sets: &'r mut Vec<AddressSet>,
}

/// Why a condition about state needs no rule.
const STATE: &str = "replies and errors follow their connection, and what belongs to none is dropped";
const ERRORS: &str = "replies and errors follow their connection";
const LINK: &str = "neighbour discovery and multicast listening are the kernel's, and never forwarded";
const SANITY: &str = "flags that no connection begins with are dropped";
const SPOOFED: &str = "a source that does not lie behind the port it came in by is dropped as spoofed";
const UNICAST: &str = "broadcasts and multicasts are not forwarded, nor is what the gateway itself is asked";
const NO_NAT: &str = "the gateway translates no addresses, so no connection is in this state";

impl Reading<'_> {
    /// Adds a condition to a draft. `None` after an error.
    pub(super) fn condition(
        &mut self,
        draft: &mut Draft,
        key: &str,
        negated: bool,
        atoms: &[&Atom],
        name: Option<&str>,
    ) -> Option<()> {
        match key {
            "iif" | "iifname" | "oif" | "oifname" => {
                let patterns: Vec<String> = atoms.iter().map(|atom| atom.text.clone()).collect();
                let end = if key.starts_with('i') { &mut draft.source } else { &mut draft.destination };
                end.interfaces.push(InterfaceMatch { patterns, negated });
            }
            "ip saddr" | "ip daddr" | "ip6 saddr" | "ip6 daddr" => {
                let families = if key.starts_with("ip6") { Families::V6 } else { Families::V4 };
                let addresses = values::addresses(atoms, families, self.report)?;
                let at = atoms.first().map(|atom| atom.at);
                let set = self.set(addresses, name, at);
                let end = if key.ends_with("saddr") { &mut draft.source } else { &mut draft.destination };
                end.addresses.push((set, negated));
                draft.families = draft.families.and(families);
            }
            "l4proto" | "ip protocol" | "ip6 nexthdr" => {
                draft.of(&Services::protocols(&values::protocols(atoms, self.report)?), negated);
                match key {
                    "ip protocol" => draft.families = draft.families.and(Families::V4),
                    "ip6 nexthdr" => draft.families = draft.families.and(Families::V6),
                    _ => {}
                }
            }
            "nfproto" | "protocol" | "ether type" | "ip version" | "ip6 version" => {
                let named = atoms.iter().fold(Families(0), |all, atom| match atom.text.as_str() {
                    "ipv4" | "ip" | "2" | "4" | "0x0800" => all.or(Families::V4),
                    "ipv6" | "ip6" | "10" | "6" | "0x86dd" => all.or(Families::V6),
                    _ => all,
                });
                let meant = if negated { Families(!named.0 & Families::BOTH.0) } else { named };
                draft.families = draft.families.and(meant);
            }
            _ if key.ends_with(" dport") || key.ends_with(" sport") => {
                return self.ports(draft, key, negated, atoms);
            }
            "icmp type" | "icmpv6 type" => return self.icmp(draft, key, negated, atoms),
            "icmp code" | "icmpv6 code" => {
                draft.of(&Services::echo(), false);
                let is_zero =
                    |atom: &&Atom| ["0", "net-unreachable", "no-route"].contains(&atom.text.as_str());
                draft.if_first(atoms.iter().any(is_zero) != negated, ERRORS);
            }
            "tcp flags" => {
                draft.of(&Services::protocols(&[protocol::TCP]), false);
                // A set in braces: exactly one of these.
                let exact = |flags: u8| {
                    let is_it = |atom: &&Atom| values::flags(std::slice::from_ref(*atom)) == Some(flags);
                    atoms.iter().any(is_it) != negated
                };
                draft.later &= exact(values::ACK);
                draft.if_first(exact(values::SYN), SANITY);
            }
            _ => self.other(draft, key, negated, atoms),
        }
        Some(())
    }

    /// The place of a set of addresses among all, an equal one's if there is one.
    pub(super) fn set(&mut self, addresses: Addresses, name: Option<&str>, at: Option<At>) -> usize {
        if let Some(place) = self.sets.iter().position(|set| set.addresses == addresses) {
            let known = &mut self.sets[place].name;
            *known = known.take().or(name.map(str::to_owned));
            return place;
        }
        let at = at.unwrap_or(At { file: 0, start: 0, end: 0 });
        self.sets.push(AddressSet { name: name.map(str::to_owned), addresses, at });
        self.sets.len() - 1
    }

    fn ports(&mut self, draft: &mut Draft, key: &str, negated: bool, atoms: &[&Atom]) -> Option<()> {
        let ports = values::ports(atoms, self.report)?;
        let of = |numbers: &[u8]| Services::protocols(numbers);
        let (header, _) = key.split_once(' ')?;
        let protocols = match header {
            "tcp" => of(&[protocol::TCP]),
            "udp" => of(&[protocol::UDP]),
            "th" => of(&[protocol::TCP, protocol::UDP]),
            other => {
                let numbers: Vec<u8> = names::ip_protocol(other).into_iter().collect();
                draft.of(&of(&numbers), false);
                draft.unsure(format!("`{key}`: {other} has no ports here"));
                return Some(());
            }
        };
        draft.of(&protocols, false);
        if key.ends_with("sport") {
            draft.unsure(format!("`{key}`: rules do not ask for source ports"));
            return Some(());
        }
        let meant = Services { tcp: ports.clone(), udp: ports, ..Services::default() };
        draft.of(&meant, negated);
        Some(())
    }

    fn icmp(&mut self, draft: &mut Draft, key: &str, negated: bool, atoms: &[&Atom]) -> Option<()> {
        let (number, families) = if key == "icmp type" {
            (protocol::ICMP, Families::V4)
        } else {
            (protocol::ICMPV6, Families::V6)
        };
        draft.families = draft.families.and(families);
        draft.of(&Services::protocols(&[number]), false);
        let mut has_echo = false;
        let (mut others, mut link_only) = (Vec::new(), true);
        for atom in atoms {
            match names::icmp(number, &atom.text) {
                Some(Icmp::EchoRequest) => has_echo = true,
                Some(Icmp::OfConnection) => link_only = false,
                Some(Icmp::OfLink) => {}
                Some(Icmp::Other) => others.push(atom.text.as_str()),
                None => {
                    let message = format!("{} is not a type of ICMP", quoted(&atom.text));
                    self.report.error(atom.at, message).hint("for example `echo-request`");
                    return None;
                }
            }
        }
        if !others.is_empty() && !negated {
            let at = atoms.first().map(|atom| atom.at);
            let message = format!("ICMP {} never crosses the gateway", others.join(", "));
            self.findings.add(Effect::Note, at, message);
        }
        draft.if_first(has_echo != negated, if link_only && !negated { LINK } else { ERRORS });
        Some(())
    }

    /// Conditions whose answer for a first packet is known, and those that cannot be expressed.
    fn other(&mut self, draft: &mut Draft, key: &str, negated: bool, atoms: &[&Atom]) {
        let is_any_of = |words: &[&str]| atoms.iter().any(|atom| words.contains(&atom.text.as_str()));
        match key {
            "ct state" => {
                draft.later &= is_any_of(&["established"]) != negated;
                draft.if_first(is_any_of(&["new"]) != negated, STATE);
            }
            "ct direction" => draft.if_first(is_any_of(&["original", "0"]) != negated, STATE),
            "ct status" => {
                let never = atoms.iter().all(|atom| {
                    ["dnat", "snat", "seen-reply", "assured", "confirmed", "dying", "expected"]
                        .contains(&atom.text.as_str())
                });
                match never {
                    true => draft.if_ever(negated, NO_NAT),
                    false => draft.unsure(format!("`{key}` cannot be asked for")),
                }
            }
            "pkttype" => draft.if_ever(is_any_of(&["host", "unicast"]) != negated, UNICAST),
            "fib daddr type" => draft.if_ever(is_any_of(&["unicast"]) != negated, UNICAST),
            _ if key.starts_with("fib saddr") && key.contains("iif") && key.ends_with(" oif") => {
                let missing = is_any_of(&["missing", "0", "absent"]);
                match missing || is_any_of(&["exists", "1"]) {
                    true => draft.if_ever(missing == negated, SPOOFED),
                    false => draft.unsure(format!("`{key}` cannot be asked for")),
                }
            }
            _ => draft.unsure(format!("`{key}` cannot be asked for")),
        }
    }

    /// A comma list without braces: for flags any of them, otherwise plain values.
    pub(super) fn flags(
        &mut self,
        draft: &mut Draft,
        key: &str,
        negated: bool,
        (atoms, is_explicit): (&[Atom], bool),
    ) -> Option<()> {
        if key != "tcp flags" {
            let atoms: Vec<&Atom> = atoms.iter().collect();
            return self.condition(draft, key, negated, &atoms, None);
        }
        let Some(bits) = values::flags(atoms) else {
            return self.unknown_flags(atoms);
        };
        draft.of(&Services::protocols(&[protocol::TCP]), false);
        let matches = |flags: u8| (if is_explicit { flags == bits } else { flags & bits != 0 }) != negated;
        draft.later &= matches(values::ACK);
        draft.if_first(matches(values::SYN), SANITY);
        Some(())
    }

    fn unknown_flags(&mut self, atoms: &[Atom]) -> Option<()> {
        let at = atoms.first()?.at;
        self.report.error(at, "this is not a list of TCP flags").hint("for example `syn,ack`");
        None
    }

    /// `tcp flags & (fin|syn) == syn`, `ct state & (established|related) != 0`.
    pub(super) fn masked(
        &mut self,
        draft: &mut Draft,
        key: &str,
        negated: bool,
        (mask, wanted): (&[Atom], &[Atom]),
    ) -> Option<()> {
        if key != "tcp flags" {
            draft.unsure(format!("`{key}` under a mask cannot be asked for"));
            return Some(());
        }
        let (Some(mask_bits), Some(bits)) = (values::flags(mask), values::flags(wanted)) else {
            return self.unknown_flags(mask);
        };
        draft.of(&Services::protocols(&[protocol::TCP]), false);
        let matches = |flags: u8| (flags & mask_bits == bits) != negated;
        draft.later &= matches(values::ACK);
        draft.if_first(matches(values::SYN), SANITY);
        Some(())
    }
}

/// The elements of a set as values of one key.
pub(super) fn single(value: &Value) -> Option<Vec<&Atom>> {
    match value {
        Value::Elements(elements) => elements
            .iter()
            .map(|element| element.parts.first().filter(|_| element.parts.len() == 1))
            .collect(),
        Value::Flags(atoms, _) => Some(atoms.iter().collect()),
        _ => None,
    }
}
