//! Who talks to whom: addresses, tables, and ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::Options;
use super::super::lexer::Kind;
use super::super::names;
use super::super::sets::{Addresses, Ranges};
use super::cursor::Cursor;
use crate::config::diagnostics::{Report, quoted};

/// One end of a rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// Everybody; else those of `addresses`, and the gateway if `is_self`.
    pub any: bool,
    /// Who.
    pub addresses: Addresses,
    /// The gateway's own addresses are among them.
    pub is_self: bool,
    /// The gateway's own addresses are not among everybody.
    pub is_not_self: bool,
    /// The name of the table that it is.
    pub name: Option<String>,
    /// It is about sources that do not lie where they come from.
    pub is_spoofed: bool,
}

impl Host {
    pub(super) fn anybody() -> Host {
        Host { any: true, ..Host::default() }
    }

    fn add(&mut self, other: Host) {
        self.any |= other.any;
        self.is_self |= other.is_self;
        self.is_not_self |= other.is_not_self;
        self.is_spoofed |= other.is_spoofed;
        self.name = if self.addresses.is_empty() { other.name } else { None };
        self.addresses = self.addresses.union(&other.addresses);
    }
}

/// What addresses may be said by.
pub(super) struct Known<'k> {
    pub tables: &'k BTreeMap<String, Addresses>,
    pub options: &'k Options,
}

impl Known<'_> {
    /// `any`, an address, a table, a list of them.
    pub(super) fn host(&self, cursor: &mut Cursor<'_>, report: &mut Report) -> Option<Host> {
        let mut host = Host::default();
        cursor.list(report, |cursor, report| {
            let one = self.one(cursor, report)?;
            host.add(one);
            Some(())
        })?;
        Some(host)
    }

    fn one(&self, cursor: &mut Cursor<'_>, report: &mut Report) -> Option<Host> {
        let negated = cursor.take_sign("!");
        let host = self.plain(cursor, report)?;
        if !negated {
            return Some(host);
        }
        if host.is_self && host.addresses.is_empty() {
            return Some(Host { any: true, is_not_self: true, ..Host::default() });
        }
        if host.any || host.is_spoofed {
            return Some(Host::default());
        }
        // Whoever is compared with an address is of its family; a table has both.
        let families =
            if host.name.is_some() { super::super::sets::Families::BOTH } else { host.addresses.families() };
        Some(Host {
            addresses: Addresses::all(families).minus(&host.addresses),
            is_self: true,
            ..Host::default()
        })
    }

    fn plain(&self, cursor: &mut Cursor<'_>, report: &mut Report) -> Option<Host> {
        let at = cursor.at();
        if cursor.take_sign("<") {
            let name = cursor.text("the name of a table", report)?;
            if !cursor.take_sign(">") {
                cursor.expected("`>`", report);
                return None;
            }
            let Some(addresses) = self.tables.get(name) else {
                let hint = report.nearest(name, self.tables.keys().map(String::as_str));
                let hint = hint.unwrap_or_else(|| "define it before: `table <NAME> { … }`".to_owned());
                report.error(at, format!("unknown table {}", quoted(&format!("<{name}>")))).hint(hint);
                return None;
            };
            return Some(Host {
                addresses: addresses.clone(),
                name: Some(name.to_owned()),
                ..Host::default()
            });
        }
        let in_parentheses = cursor.take_sign("(");
        let word = cursor.text("an address, a table or `any`", report)?;
        if in_parentheses && !cursor.take_sign(")") {
            cursor.expected("`)`", report);
            return None;
        }
        match word {
            "any" | "all" => return Some(Host::anybody()),
            "self" => return Some(Host { is_self: true, ..Host::default() }),
            "no-route" | "urpf-failed" => return Some(Host { is_spoofed: true, ..Host::default() }),
            _ => {}
        }
        if let Some((low, high)) = address(word) {
            let mut range = (low, high);
            if cursor.take_word("-") {
                let end = cursor.text("the last address of the range", report)?;
                match address(end) {
                    Some((last, _)) if last.is_ipv4() == low.is_ipv4() && last >= low => range.1 = last,
                    _ => {
                        report.error(at, format!("{word} - {} is not a range", quoted(end)));
                        return None;
                    }
                }
            }
            return Some(Host { addresses: Addresses::from_list([range]), ..Host::default() });
        }
        self.interface(word, in_parentheses, at, report)
    }

    /// `em0`, `em0:network`, `(em0)`.
    fn interface(
        &self,
        word: &str,
        in_parentheses: bool,
        at: crate::config::At,
        report: &mut Report,
    ) -> Option<Host> {
        let (name, part) = word.split_once(':').unwrap_or((word, ""));
        let is_given = self.options.interfaces.iter().find(|(known, _)| known == name);
        let looks_like_one = in_parentheses
            || is_given.is_some()
            || !part.is_empty()
            || name == "egress"
            || name.ends_with(|c: char| c.is_ascii_digit()) && !name.contains('.');
        if !looks_like_one {
            let message = format!("{} is not an address", quoted(word));
            report.error(at, message).hint("names of hosts are not looked up: write their addresses");
            return None;
        }
        match part {
            "network" => {
                let networks = is_given.map(|(_, networks)| networks.iter().copied().collect::<Addresses>());
                if networks.is_none() {
                    let message =
                        format!("the ruleset does not say which networks lie behind {}", quoted(name));
                    report.error(at, message).hint(format!("add --interface {name}=NETWORK,…"));
                }
                networks.map(|addresses| Host { addresses, ..Host::default() })
            }
            // Directed broadcasts are never forwarded.
            "broadcast" => Some(Host::default()),
            _ => Some(Host { is_self: true, ..Host::default() }),
        }
    }

    /// `{ 10/8, !10.1/16 }` of a table: the longest match decides.
    pub(super) fn table(&self, cursor: &mut Cursor<'_>, report: &mut Report) -> Option<Addresses> {
        let mut items: Vec<(IpNet, bool)> = Vec::new();
        cursor.list(report, |cursor, report| {
            let negated = cursor.take_sign("!");
            let host = self.plain(cursor, report)?;
            items.extend(host.addresses.networks().into_iter().map(|network| (network, negated)));
            Some(())
        })?;
        items.sort_by_key(|(network, _)| network.prefix_len());
        let mut all = Addresses::default();
        for (network, negated) in items {
            let one: Addresses = [network].into_iter().collect();
            all = if negated { all.minus(&one) } else { all.union(&one) };
        }
        Some(all)
    }
}

/// An address or a network, also short as in `10/8`, as first and last address.
fn address(text: &str) -> Option<(IpAddr, IpAddr)> {
    if let Some(found) = names::addresses(text) {
        return Some(found);
    }
    let (start, length) = text.split_once('/')?;
    let parts: Vec<&str> = start.split('.').collect();
    let is_short = (1..4).contains(&parts.len()) && parts.iter().all(|part| part.parse::<u8>().is_ok());
    let padded = format!("{start}{}/{length}", ".0".repeat(4usize.saturating_sub(parts.len())));
    is_short.then(|| names::addresses(&padded)).flatten()
}

/// `port 80`, `port { 80, 443 }`, `port 1024:65535`, `port != 25`, `port 80 >< 90`.
pub(super) fn ports(cursor: &mut Cursor<'_>, report: &mut Report) -> Option<Ranges> {
    let mut all = Ranges::default();
    cursor.list(report, |cursor, report| {
        let one = port(cursor, report)?;
        all = all.union(&one);
        Some(())
    })?;
    Some(all)
}

fn number(text: &str, at: crate::config::At, report: &mut Report) -> Option<u128> {
    let found = names::port(text);
    if found.is_none() {
        let hint = report.nearest(text, names::port_names());
        let message = format!("{} is not a port or a known service", quoted(text));
        report.error(at, message).hint(hint.unwrap_or_else(|| "write its number".to_owned()));
    }
    found.map(u128::from)
}

fn port(cursor: &mut Cursor<'_>, report: &mut Report) -> Option<Ranges> {
    let all = Ranges::of(1, 65_535);
    let sign = match cursor.peek() {
        Some(Kind::Sign(sign @ ("=" | "!=" | "<" | ">" | "<=" | ">="))) => {
            cursor.skip();
            *sign
        }
        _ => "",
    };
    let at = cursor.at();
    let word = cursor.text("a port", report)?;
    // From 1: port 0 never crosses.
    let between = |low: u128, high: u128| Ranges::from_list(vec![(low.max(1), high)]);
    if let Some((low, high)) = word.split_once(':') {
        let low = if low.is_empty() { 1 } else { number(low, at, report)? };
        let high = if high.is_empty() { 65_535 } else { number(high, at, report)? };
        return Some(between(low, high));
    }
    let low = number(word, at, report)?;
    if let Some(Kind::Sign(outside @ ("><" | "<>"))) = cursor.peek() {
        cursor.skip();
        let at = cursor.at();
        let high = number(cursor.text("a port", report)?, at, report)?;
        let inner = between(low + 1, high.saturating_sub(1));
        return Some(if *outside == "><" { inner } else { all.minus(&between(low, high)) });
    }
    Some(match sign {
        "!=" => all.minus(&between(low, low)),
        "<" => between(1, low.saturating_sub(1)),
        "<=" => between(1, low),
        ">" => between(low + 1, 65_535),
        ">=" => between(low, 65_535),
        _ => between(low, low),
    })
}
