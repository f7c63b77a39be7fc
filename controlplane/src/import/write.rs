//! The policy as text.

use std::collections::HashMap;
use std::fmt::Write;

use super::classes::Class;
use super::program::{Bits, Program};
use super::regions::{Action, Emitted, Pairs};
use super::report::{Finding, place};
use super::sets::Services;
use crate::config::Sources;
use crate::config::values::NAME_CHARS;

/// The most tests that are written of what is allowed, and of what is not.
const TESTS: [usize; 2] = [30, 10];
/// Longest line that a list is written in.
const LINE: usize = 110;

/// All that is written.
pub struct Parts<'p> {
    /// `nft` or `pf`.
    pub language: &'p str,
    /// The ruleset.
    pub program: &'p Program,
    /// Its classes.
    pub classes: &'p [Class],
    /// What is decided of them.
    pub pairs: &'p Pairs,
    /// The rules.
    pub rules: &'p [Emitted],
    /// By interface, what the gateway answers.
    pub local: &'p [Services],
    /// What could not be expressed and so on.
    pub findings: &'p [Finding],
    /// The ruleset's text.
    pub sources: &'p Sources,
}

/// Gives names that are legal and that nobody else has.
#[derive(Default)]
struct Names {
    taken: HashMap<String, u32>,
}

impl Names {
    fn unique(&mut self, wanted: &str) -> String {
        let base = legal(wanted);
        let mut name = base.clone();
        while self.taken.contains_key(&name) {
            let number = self.taken.entry(base.clone()).or_insert(1);
            *number += 1;
            let suffix = format!("-{number}");
            let room = NAME_CHARS - suffix.len();
            name = format!("{}{suffix}", &base[..base.len().min(room)]);
        }
        self.taken.insert(name.clone(), 1);
        name
    }
}

/// The nearest text that may be a name.
fn legal(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || c == '.' || c == '_' => name.push(c),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
        if name.len() >= NAME_CHARS {
            break;
        }
    }
    let name = name.trim_matches(['-', '.', '_']);
    if name.is_empty() || name == "any" { format!("x{name}") } else { name.to_owned() }
}

/// A TOML string.
fn string(text: &str) -> String {
    toml::Value::String(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()).to_string()
}

/// Text in a comment: one line, whatever it holds.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `key = ["a", "b"]`, over several lines where it is long; one that has one alone without brackets where that is legal.
fn list(out: &mut String, key: &str, values: &[String], may_be_single: bool) {
    let quoted: Vec<String> = values.iter().map(|value| string(value)).collect();
    if may_be_single && let [one] = &quoted[..] {
        let _ = writeln!(out, "{key} = {one}");
        return;
    }
    let line = format!("{key} = [{}]", quoted.join(", "));
    if line.len() <= LINE {
        let _ = writeln!(out, "{line}");
        return;
    }
    let _ = writeln!(out, "{key} = [");
    let mut row = String::from("    ");
    for value in quoted {
        if row.len() + value.len() + 2 > LINE {
            let _ = writeln!(out, "{}", row.trim_end());
            row = String::from("    ");
        }
        row += &value;
        row += ", ";
    }
    let _ = writeln!(out, "{}\n]", row.trim_end());
}

/// The whole configuration.
pub fn write(parts: &Parts<'_>) -> String {
    let mut out = String::new();
    header(&mut out, parts);
    let ports: Vec<String> = {
        let mut names = Names::default();
        parts.program.interfaces.iter().map(|interface| names.unique(&interface.name)).collect()
    };
    for ((name, interface), local) in ports.iter().zip(&parts.program.interfaces).zip(parts.local) {
        let _ = writeln!(out, "\n[ports.{}]\ninterface = {}", key(name), string(&interface.name));
        if !local.is_empty() {
            list(&mut out, "local", &local.texts(false, &Services::everything()), false);
        }
    }
    let segments = segment_names(parts);
    for (name, class) in segments.iter().zip(parts.classes) {
        let _ = writeln!(out, "\n[segments.{}]\nport = {}", key(name), string(&ports[class.interface]));
        list(
            &mut out,
            "networks",
            &class.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            false,
        );
    }
    let mut names = Names::default();
    for emitted in parts.rules {
        rule(&mut out, parts, emitted, &segments, &mut names);
    }
    tests(&mut out, parts, &segments);
    out
}

/// A key as it stands in a header; a dot would divide it.
fn key(name: &str) -> String {
    if name.contains('.') { string(name) } else { name.to_owned() }
}

fn header(out: &mut String, parts: &Parts<'_>) {
    let path = comment(&parts.sources.file(0).path);
    let _ = writeln!(out, "# Made from {path} by `bulkhead import {}`.", parts.language);
    let worth_reading: Vec<&Finding> = parts
        .findings
        .iter()
        .filter(|finding| finding.effect.is_difference() || finding.effect == super::report::Effect::Assumed)
        .collect();
    if !worth_reading.is_empty() {
        let _ = writeln!(out, "#\n# What it does not say, and what of it could not be expressed:");
    }
    for finding in worth_reading {
        let place = place(parts.sources, finding.at);
        let _ =
            writeln!(out, "# {}: {}: {}", comment(&place), finding.effect.name(), comment(&finding.message));
    }
    let _ = writeln!(out, "version = 1");
}

/// Names of segments: of the set that it is, of its only network, or of its interface.
fn segment_names(parts: &Parts<'_>) -> Vec<String> {
    let mut names = Names::default();
    let mut users: HashMap<u32, usize> = HashMap::new();
    for set in parts.classes.iter().flat_map(|class| &class.sets) {
        *users.entry(*set).or_default() += 1;
    }
    let wanted = |class: &Class| {
        let interface = &parts.program.interfaces[class.interface];
        if class.networks.iter().any(|network| interface.networks.contains(network)) {
            return interface.name.clone();
        }
        let set = class.sets.iter().filter(|set| users[set] == 1);
        let named = set.filter_map(|set| parts.program.sets[*set as usize].name.as_deref()).next();
        match (named, &class.networks[..]) {
            (Some(name), _) => name.to_owned(),
            (None, [one]) if one.prefix_len() == one.max_prefix_len() => format!("host-{}", one.addr()),
            (None, [one]) => format!("net-{one}"),
            (None, _) => {
                let shared =
                    class.sets.iter().filter_map(|set| parts.program.sets[*set as usize].name.as_deref());
                shared.min_by_key(|name| name.len()).unwrap_or(&interface.name).to_owned() + "-part"
            }
        }
    };
    parts.classes.iter().map(|class| names.unique(&wanted(class))).collect()
}

fn ends(bits: &Bits, segments: &[String]) -> Vec<String> {
    if bits.count() == segments.len() {
        return vec!["any".to_owned()];
    }
    bits.iter().map(|class| segments[class].clone()).collect()
}

fn rule(out: &mut String, parts: &Parts<'_>, emitted: &Emitted, segments: &[String], names: &mut Names) {
    let source = emitted.rule.map(|number| &parts.program.rules[number]);
    let (from, to) = (ends(&emitted.sources, segments), ends(&emitted.destinations, segments));
    let written = source.and_then(|rule| rule.comment.as_deref()).filter(|text| !text.trim().is_empty());
    let refuses = if emitted.action == Action::Allow { "" } else { "no-" };
    let name = match (written, &from[..], &to[..], source) {
        (Some(text), ..) => names.unique(text),
        (None, [from], [to], _) => names.unique(&format!("{refuses}{from}-to-{to}")),
        (None, _, [to], _) => names.unique(&format!("{refuses}to-{to}")),
        (None, [from], ..) => names.unique(&format!("{refuses}from-{from}")),
        (.., Some(rule)) => names.unique(&format!("{refuses}line-{}", parts.sources.position(rule.at).1)),
        _ => names.unique(&format!("{refuses}policy")),
    };
    let allows = emitted.action == Action::Allow;
    let services = emitted.services.texts(allows, &parts.program.universe);
    match source {
        Some(rule) => {
            let _ = writeln!(out, "\n# from {}", comment(&parts.sources.place(rule.at)));
        }
        None => {
            let _ = writeln!(out, "\n# from the chain's policy in {}", comment(&parts.sources.file(0).path));
        }
    }
    let _ = writeln!(out, "[[rule]]\nname = {}", string(&name));
    list(out, "from", &from, true);
    list(out, "to", &to, true);
    list(out, "services", &services, services == ["any"]);
    match emitted.action {
        Action::Allow => {}
        Action::Reject => out.push_str("action = \"reject\"\n"),
        Action::Deny => out.push_str("action = \"deny\"\n"),
    }
    if let Some(per_second) = emitted.per_second {
        let _ = writeln!(out, "limits = {{ new_per_second = {per_second} }}");
    }
    if let Some(text) = written.filter(|text| legal(text) != *text) {
        let _ = writeln!(out, "description = {}", string(text));
    }
}

/// Tests that show what the rules do: for each that allows one connection that it allows, and for pairs of segments
/// between which nothing is allowed that nothing is.
fn tests(out: &mut String, parts: &Parts<'_>, segments: &[String]) {
    let [mut left, mut left_closed] = TESTS;
    let mut told: Vec<(usize, usize)> = Vec::new();
    for emitted in parts.rules.iter().filter(|rule| rule.action == Action::Allow) {
        let pair = emitted.sources.iter().find_map(|source| {
            let to = emitted.destinations.iter().find(|&to| {
                source != to
                    && !told.contains(&(source, to))
                    && example(parts, (source, to), emitted).is_some()
            })?;
            Some((source, to))
        });
        let Some((source, to)) = pair else { continue };
        let Some(port) = example(parts, (source, to), emitted) else { continue };
        told.push((source, to));
        if left == 0 {
            break;
        }
        left -= 1;
        test(out, (&segments[source], &segments[to]), &port, "allow");
    }
    for source in 0..segments.len() {
        for to in (0..segments.len()).filter(|&to| to != source) {
            let is_closed = parts.pairs.outcome(source, to).is_some_and(|outcome| {
                outcome.allowed.is_empty() && outcome.limited.is_empty() && outcome.rejected.is_empty()
            });
            if is_closed && left_closed > 0 && comparable(parts, (source, to)) {
                left_closed -= 1;
                test(out, (&segments[source], &segments[to]), "tcp/443", "deny");
            }
        }
    }
}

/// Whether a test between the two can be asked: they share a family, and not only that of one of them.
fn comparable(parts: &Parts<'_>, (source, to): (usize, usize)) -> bool {
    let (source, to) = (&parts.classes[source], &parts.classes[to]);
    !source.families.and(to.families).is_none()
}

/// A service that a rule allows between two segments.
fn example(parts: &Parts<'_>, (source, to): (usize, usize), emitted: &Emitted) -> Option<String> {
    let outcome = parts.pairs.outcome(source, to)?;
    let allowed = emitted.services.intersection(&outcome.allowed.union(&outcome.limited));
    let families = parts.classes[source].families.and(parts.classes[to].families);
    let usual = |ranges: &super::sets::Ranges| {
        [443, 80, 53, 22]
            .into_iter()
            .find(|port| ranges.contains(*port))
            .or(ranges.iter().next().map(|(low, _)| low))
    };
    if let Some(port) = usual(&allowed.tcp) {
        return Some(format!("tcp/{port}"));
    }
    if let Some(port) = usual(&allowed.udp) {
        return Some(format!("udp/{port}"));
    }
    match allowed.others.iter().next()?.0 {
        1 => families.has_v4().then(|| "icmp/echo-request".to_owned()),
        58 => families.has_v6().then(|| "icmpv6/echo-request".to_owned()),
        other => Some(format!("proto/{other}")),
    }
}

fn test(out: &mut String, (from, to): (&str, &str), port: &str, verdict: &str) {
    let name = format!("{from} to {to}, {port}");
    let _ = writeln!(
        out,
        "\n[[test]]\nname = {}\nfrom = {}\nto = {}\nport = {}\nexpect = {}",
        string(&name),
        string(from),
        string(to),
        string(port),
        string(verdict)
    );
}
