//! What lies behind which interface. A ruleset says it here and there: an accepted connection from an interface and an
//! address shows that the address is there. What it does not say, the caller has to.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Options;
use super::program::{End, Interface, InterfaceMatch, Program, Rule, Verdict};
use super::report::{Effect, Findings, place};
use super::sets::{Addresses, Families};
use crate::config::At;
use crate::config::diagnostics::{Report, quoted};

/// The most rules that are looked at, counted once for every way to them.
const WAYS_LIMIT: usize = 100_000;
/// Names, or their beginnings, that people give the interface to everybody else.
const INTERNET: [&str; 9] =
    ["wan", "ppp", "internet", "inet", "ext", "outside", "uplink", "egress", "untrust"];

/// An address set that a rule places behind an interface, and which rule.
type Evidence = BTreeMap<String, Vec<(usize, At)>>;

/// Gives the program its interfaces with their networks. `None` after an error.
pub fn assign(
    program: &mut Program,
    input: Option<&Program>,
    internet: &[String],
    options: &Options,
    report: &mut Report,
    findings: &mut Findings,
) -> Option<()> {
    let seen = program.stages.iter().fold(Families(0), |all, stage| all.or(stage.families));
    let names = names(program, input, options);
    if names.is_empty() {
        report
            .failure("the ruleset names no interface")
            .hint("say what lies where: --interface eth1=10.1.0.0/24 --interface eth0=0.0.0.0/0");
        return None;
    }
    let evidence = evidence(program);
    let given = |name: &str| options.interfaces.iter().find(|(known, _)| known == name).map(|(_, nets)| nets);
    let open = open_side(&names, &evidence, internet, options);
    let mut unknown = Vec::new();
    for name in &names {
        let mut networks: Vec<IpNet> = Vec::new();
        let text =
            |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if let Some(given) = given(name) {
            networks.extend(given);
        } else if open.as_deref() == Some(name.as_str()) {
            let everything = Addresses::all(seen);
            networks.extend(everything.networks());
            let message =
                format!("behind {} lies all that lies nowhere else: {}", quoted(name), text(&networks));
            findings.add(Effect::Assumed, None, message);
        } else if let Some(found) = evidence.get(name) {
            let all = found
                .iter()
                .fold(Addresses::default(), |all, (set, _)| all.union(&program.sets[*set].addresses));
            networks.extend(all.networks());
            let first = place(&report.sources, found.first().map(|(_, at)| *at));
            let message = format!(
                "behind {} lies {}, as rules say ({first}): if there is more, say --interface {name}=NETWORK,…",
                quoted(name),
                text(&networks)
            );
            findings.add(Effect::Assumed, None, message);
        } else {
            unknown.push(name.clone());
        }
        networks.retain(|network| !Families::of(&network.addr()).and(seen).is_none());
        program.interfaces.push(Interface { name: name.clone(), networks });
    }
    if !unknown.is_empty() {
        let shown: Vec<String> = unknown.iter().map(|name| quoted(name)).collect();
        let options: Vec<String> =
            unknown.iter().map(|name| format!("--interface {name}=NETWORK,…")).collect();
        report
            .failure(format!("the ruleset does not say which networks lie behind {}", shown.join(", ")))
            .hint(format!("add {}", options.join(" ")));
    }
    unambiguous(program, report);
    if seen != Families::BOTH {
        let other = if seen == Families::V4 { "IPv6" } else { "IPv4" };
        let message = format!("no chain that forwards sees {other}, so nothing of it is allowed");
        findings.add(Effect::Assumed, None, message);
    }
    report.is_clean().then_some(())
}

/// No network may lie behind two interfaces.
fn unambiguous(program: &Program, report: &mut Report) {
    let mut owners: BTreeMap<IpNet, &str> = BTreeMap::new();
    for interface in &program.interfaces {
        for network in &interface.networks {
            match owners.get(&network.trunc()) {
                Some(other) if *other != interface.name => {
                    let message =
                        format!("{network} lies behind {} and {}", quoted(other), quoted(&interface.name));
                    report
                        .failure(message)
                        .hint("say where it lies: --interface NAME=NETWORK,… for both of them");
                }
                _ => {
                    owners.insert(network.trunc(), &interface.name);
                }
            }
        }
    }
}

/// Every interface that is named: in options first, then by rules.
fn names(program: &Program, input: Option<&Program>, options: &Options) -> Vec<String> {
    let mut names: Vec<String> = options.interfaces.iter().map(|(name, _)| name.clone()).collect();
    let rules = program.rules.iter().chain(input.into_iter().flat_map(|input| &input.rules));
    for rule in rules {
        for matched in rule.source.interfaces.iter().chain(&rule.destination.interfaces) {
            for pattern in &matched.patterns {
                let is_port = !pattern.ends_with('*') && pattern != "lo" && !pattern.starts_with("lo0");
                if is_port && !names.contains(pattern) {
                    names.push(pattern.clone());
                }
            }
        }
    }
    names
}

/// The interface with everything else behind it.
fn open_side(
    names: &[String],
    evidence: &Evidence,
    internet: &[String],
    options: &Options,
) -> Option<String> {
    if options.interfaces.iter().any(|(_, networks)| networks.iter().any(|network| network.prefix_len() == 0))
    {
        return None;
    }
    let is_given = |name: &str| options.interfaces.iter().any(|(known, _)| known == name);
    let free: Vec<&String> = names.iter().filter(|name| !is_given(name)).collect();
    let only = |candidates: Vec<&String>| match candidates[..] {
        [one] => Some(one.clone()),
        _ => None,
    };
    let by_name = |name: &str| INTERNET.iter().any(|start| name.to_lowercase().starts_with(start));
    only(free.iter().copied().filter(|name| internet.contains(name)).collect())
        .or_else(|| only(free.iter().copied().filter(|name| by_name(name)).collect()))
        .or_else(|| only(free.iter().copied().filter(|name| !evidence.contains_key(*name)).collect()))
}

/// What accepting rules say of interfaces; and refusing ones, as "from this interface, but not from this network".
fn evidence(program: &Program) -> Evidence {
    let mut gathering = Gathering { program, evidence: BTreeMap::new(), left: WAYS_LIMIT };
    for stage in &program.stages {
        gathering.chain(stage.chain, &End::default(), &End::default(), 0);
    }
    let mut evidence = gathering.evidence;
    for found in evidence.values_mut() {
        found.sort_unstable_by_key(|(set, at)| (*at, *set));
        found.dedup_by_key(|(set, _)| *set);
    }
    evidence
}

struct Gathering<'p> {
    program: &'p Program,
    evidence: Evidence,
    left: usize,
}

impl Gathering<'_> {
    fn chain(&mut self, chain: usize, source: &End, destination: &End, depth: usize) {
        if depth > super::program::DEPTH_LIMIT {
            return;
        }
        for &number in &self.program.chains[chain].rules {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            let rule = &self.program.rules[number];
            let (from, to) = (joined(source, &rule.source), joined(destination, &rule.destination));
            match rule.verdict {
                Verdict::Jump(inner) | Verdict::Goto(inner) => self.chain(inner, &from, &to, depth + 1),
                Verdict::Accept if rule.first => {
                    self.end(&from, false, rule);
                    self.end(&to, false, rule);
                }
                Verdict::Drop | Verdict::Reject if rule.certain => self.end(&from, true, rule),
                _ => {}
            }
        }
    }

    fn end(&mut self, end: &End, negated: bool, rule: &Rule) {
        let [InterfaceMatch { patterns, negated: false }] = &end.interfaces[..] else { return };
        let [name] = &patterns[..] else { return };
        if name.ends_with('*') {
            return;
        }
        for &(set, is_not) in &end.addresses {
            let addresses = &self.program.sets[set].addresses;
            let is_all = [Families::V4, Families::V6, Families::BOTH].map(Addresses::all).contains(addresses);
            if is_not == negated && !is_all && !addresses.is_empty() {
                self.evidence.entry(name.clone()).or_default().push((set, rule.at));
            }
        }
    }
}

/// Both ends' conditions; the same interfaces once.
fn joined(outer: &End, inner: &End) -> End {
    let mut end = outer.clone();
    for interfaces in &inner.interfaces {
        if !end.interfaces.contains(interfaces) {
            end.interfaces.push(interfaces.clone());
        }
    }
    end.addresses.extend(&inner.addresses);
    end
}
