//! The same questions to the policy and to a plain evaluator of pf, which shares nothing with the import: it writes lists
//! out as `pfctl -nvv` does, and goes through all rules for each packet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bulkhead::import::Language;
use bulkhead_dataplane::policy::{Circumstances, Query, reference};
use bulkhead_dataplane::verdict::PortId;
use ipnet::IpNet;

use super::samples::{self, differs, imported, options};

/// One rule without lists, or an anchor with rules.
#[derive(Clone, Debug)]
struct Node {
    words: Vec<String>,
    inner: Option<Vec<Node>>,
}

/// A ruleset.
struct Pf {
    tables: BTreeMap<String, Vec<(bool, String)>>,
    nodes: Vec<Node>,
    returns: bool,
}

/// A packet coming in or going out.
struct Packet<'p> {
    query: &'p Query,
    incoming: bool,
    interface: &'p str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Drop,
    Return,
}

/// Networks of the interfaces, as `samples::options` has them.
fn network(interface: &str) -> [&'static str; 2] {
    match interface {
        "em1" => ["10.0.1.0/24", "fd00:1::/64"],
        "em2" => ["10.0.2.0/24", "fd00:2::/64"],
        other => panic!("{other} has no network"),
    }
}

impl Pf {
    fn read(text: &str) -> Pf {
        let mut macros: Vec<(String, String)> = Vec::new();
        let mut lines = Vec::new();
        for line in text.lines() {
            let mut line = line.split('#').next().unwrap().trim().to_owned();
            // Longest names first, or `$int` would be taken out of `$internal`.
            macros.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
            for (name, value) in &macros {
                line = line.replace(&format!("${name}"), value);
            }
            match line.split_once('=') {
                Some((name, value))
                    if name.trim().chars().all(|c| c.is_alphanumeric() || c == '_')
                        && !name.trim().is_empty() =>
                {
                    macros.push((name.trim().to_owned(), value.trim().trim_matches('"').to_owned()));
                }
                _ => lines.push(line),
            }
        }
        let mut pf = Pf { tables: BTreeMap::new(), nodes: Vec::new(), returns: false };
        let mut lines = lines.iter().map(String::as_str);
        pf.nodes = pf.block(&mut lines);
        pf
    }

    fn block<'l>(&mut self, lines: &mut impl Iterator<Item = &'l str>) -> Vec<Node> {
        let mut nodes = Vec::new();
        while let Some(line) = lines.next() {
            if line == "}" {
                return nodes;
            }
            let spaced = ["{", "}", ",", "<", ">", "!", "(", ")", "="]
                .iter()
                .fold(line.to_owned(), |line, sign| line.replace(sign, &format!(" {sign} ")))
                .replace(">  <", "><")
                .replace("<  >", "<>")
                .replace("!  =", "!=");
            let mut words: Vec<String> = spaced.split_whitespace().map(str::to_owned).collect();
            match words.first().map(String::as_str) {
                Some("table") => {
                    let start = words.iter().position(|word| word == "{").map_or(words.len(), |at| at + 1);
                    self.tables.insert(words[2].clone(), table(&words[start..]));
                }
                Some("set") => self.returns |= line.contains("block-policy return"),
                Some("pass" | "block") => {
                    nodes.extend(written_out(words).into_iter().map(|words| Node { words, inner: None }));
                }
                Some("anchor") if words.last().is_some_and(|word| word == "{") => {
                    words.pop();
                    let inner = Some(self.block(lines));
                    nodes.extend(
                        written_out(words).into_iter().map(|words| Node { words, inner: inner.clone() }),
                    );
                }
                _ => {}
            }
        }
        nodes
    }

    /// Both ways of a forwarded packet.
    fn judge(&self, query: &Query, from: &str, to: &str) -> Verdict {
        for (incoming, interface) in [(true, from), (false, to)] {
            let packet = Packet { query, incoming, interface };
            let mut verdict = Verdict::Pass;
            self.walk(&self.nodes, &packet, &mut verdict);
            if verdict != Verdict::Pass {
                return verdict;
            }
        }
        Verdict::Pass
    }

    /// Whether a quick rule ended it.
    fn walk(&self, nodes: &[Node], packet: &Packet<'_>, verdict: &mut Verdict) -> bool {
        for node in nodes {
            let Some(is_quick) = self.matches(&node.words, packet) else { continue };
            match &node.inner {
                Some(inner) => {
                    if self.walk(inner, packet, verdict) {
                        return true;
                    }
                }
                None => {
                    let returns = node.words.get(1).is_some_and(|word| word.starts_with("return"))
                        || self.returns && node.words.get(1).is_none_or(|word| word != "drop");
                    *verdict = match (node.words[0].as_str(), returns) {
                        ("pass", _) => Verdict::Pass,
                        (_, true) => Verdict::Return,
                        (_, false) => Verdict::Drop,
                    };
                    if is_quick {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Whether a rule matches, and if so whether it is quick.
    fn matches(&self, words: &[String], packet: &Packet<'_>) -> Option<bool> {
        let query = packet.query;
        let mut words = words.iter().map(String::as_str).skip(1).peekable();
        let (mut is_quick, mut matches) = (false, true);
        while let Some(word) = words.next() {
            let has_port = query.protocol == 6 || query.protocol == 17;
            matches &= match word {
                "in" => packet.incoming,
                "out" => !packet.incoming,
                "quick" => {
                    is_quick = true;
                    true
                }
                "on" => {
                    let negated = words.next_if_eq(&"!").is_some();
                    (words.next().unwrap() == packet.interface) != negated
                }
                "inet" => query.source.is_ipv4(),
                "inet6" => query.source.is_ipv6(),
                "proto" => match words.next().unwrap() {
                    "tcp" => query.protocol == 6,
                    "udp" => query.protocol == 17,
                    "icmp" => query.protocol == 1,
                    "ipv6-icmp" => query.protocol == 58,
                    other => panic!("protocol {other}"),
                },
                "from" | "to" => {
                    let is_source = word == "from";
                    let address = if is_source { query.source } else { query.destination };
                    let host = words.peek() == Some(&"port") || self.host(&mut words, address);
                    let port = words.next_if_eq(&"port").is_none()
                        || has_port
                            && port(&mut words, if is_source { 47_111 } else { query.destination_port });
                    host && port
                }
                "icmp-type" | "icmp6-type" => words.next() == Some("echoreq"),
                "flags" => words.next() == Some("S/SA"),
                "user" => {
                    words.next();
                    // What could be somebody's is not for the policy to let through, see `what_is_unknown`.
                    true
                }
                "label" => words.next().is_some(),
                "rdr-to" => return None,
                "keep" => {
                    words.by_ref().take_while(|word| *word != ")" && *word != "state").count();
                    if words.peek() == Some(&"(") {
                        words.by_ref().take_while(|word| *word != ")").count();
                    }
                    true
                }
                _ => true,
            };
        }
        matches.then_some(is_quick)
    }

    fn host<'w>(
        &self,
        words: &mut std::iter::Peekable<impl Iterator<Item = &'w str>>,
        address: IpAddr,
    ) -> bool {
        let negated = words.next_if_eq(&"!").is_some();
        let is_in = match words.next().unwrap() {
            "any" => true,
            "self" | "urpf-failed" => false,
            "<" => {
                let table = &self.tables[words.next().unwrap()];
                words.next();
                return longest(table, address) != negated;
            }
            "(" => {
                let interface = words.next().unwrap().trim_end_matches(":network");
                words.next();
                network(interface).iter().any(|network| net(network).contains(&address))
            }
            word if word.ends_with(":network") => network(word.trim_end_matches(":network"))
                .iter()
                .any(|network| net(network).contains(&address)),
            word => {
                let network = net(word);
                if network.addr().is_ipv4() != address.is_ipv4() {
                    return false;
                }
                network.contains(&address)
            }
        };
        is_in != negated
    }
}

/// `80`, `80:90`, `!= 25`, `> 1023`, `8000 >< 8010`, by name or number.
fn port<'w>(words: &mut std::iter::Peekable<impl Iterator<Item = &'w str>>, port: u16) -> bool {
    let number = |text: &str| match text {
        "ssh" => 22,
        "domain" => 53,
        "www" => 80,
        "https" => 443,
        other => other.parse::<u16>().unwrap(),
    };
    match words.next().unwrap() {
        "!=" => port != number(words.next().unwrap()),
        ">" => port > number(words.next().unwrap()),
        word => match word.split_once(':') {
            Some((low, high)) => (number(low)..=number(high)).contains(&port),
            None if words.next_if_eq(&"><").is_some() => {
                port > number(word) && port < number(words.next().unwrap())
            }
            None if words.next_if_eq(&"<>").is_some() => {
                port < number(word) || port > number(words.next().unwrap())
            }
            None => port == number(word),
        },
    }
}

/// Short networks such as `10/8` are written out; a range is what lies between.
fn net(text: &str) -> IpNet {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let missing = 3usize.saturating_sub(address.matches('.').count());
    let address =
        if address.contains(':') { address.to_owned() } else { address.to_owned() + &".0".repeat(missing) };
    let address: IpAddr = address.parse().unwrap();
    let length = length.parse().unwrap_or(if address.is_ipv4() { 32 } else { 128 });
    IpNet::new(address, length).unwrap()
}

/// Whether an item of a table that is no range, or lies in a range, has the address; of several the longest counts.
fn longest(table: &[(bool, String)], address: IpAddr) -> bool {
    let mut best: Option<(u8, bool)> = None;
    for (negated, item) in table {
        let found = match item.split_once('-') {
            Some((low, high)) => {
                let is_in =
                    (low.parse::<IpAddr>().unwrap()..=high.parse::<IpAddr>().unwrap()).contains(&address);
                is_in.then_some(32)
            }
            None => Some(net(item)).filter(|net| net.contains(&address)).map(|net| net.prefix_len()),
        };
        if let Some(length) = found
            && best.is_none_or(|(longest, _)| length > longest)
        {
            best = Some((length, !negated));
        }
    }
    best.is_some_and(|(_, is_in)| is_in)
}

fn table(words: &[String]) -> Vec<(bool, String)> {
    let mut items: Vec<(bool, String)> = Vec::new();
    let mut negated = false;
    let mut words = words.iter().filter(|word| *word != "," && *word != "}");
    while let Some(word) = words.next() {
        match word.as_str() {
            "!" => negated = true,
            "-" => {
                let last = items.last_mut().unwrap();
                last.1 = format!("{}-{}", last.1, words.next().unwrap());
            }
            _ => items.push((std::mem::take(&mut negated), word.clone())),
        }
    }
    items
}

/// A rule for each combination of its lists.
fn written_out(words: Vec<String>) -> Vec<Vec<String>> {
    let Some(start) = words.iter().position(|word| word == "{") else { return vec![words] };
    let end = start + words[start..].iter().position(|word| word == "}").expect("the list ends");
    let mut rules = Vec::new();
    for item in words[start + 1..end].iter().filter(|word| *word != ",") {
        let rule = [&words[..start], std::slice::from_ref(item), &words[end + 1..]].concat();
        rules.extend(written_out(rule));
    }
    rules
}

/// Of so many ports a pair of addresses asks one.
const STRIDE: usize = 13;

/// Whether first packets are judged exactly as they were; else only never more allowed.
fn compare(name: &str, text: &str, is_exact: bool) {
    let zones = ["em1", "em2", "em0"];
    let (imported, model) = imported(Language::Pf, name, text, &options(&zones));
    assert_eq!(!differs(&imported), is_exact, "{name}: {:#?}", imported.findings);
    let policy = model.compile().unwrap();
    let pf = Pf::read(text);
    let (addresses, ports) = (samples::addresses(&model), samples::ports(&model, text));
    let zone = |address: &IpAddr| -> &'static str {
        let is_in = |zone: &&str| network(zone).iter().any(|net| self::net(net).contains(address));
        ["em1", "em2"].into_iter().find(is_in).unwrap_or("em0")
    };
    let ingress = |zone: &str| {
        PortId(model.ports.iter().position(|port| port.interface == zone).expect("the interface is a port")
            as u8)
    };
    let (mut counts, mut pairs) = ([0usize; 2], 0);
    for source in &addresses {
        for destination in
            addresses.iter().filter(|other| *other != source && other.is_ipv4() == source.is_ipv4())
        {
            let (from, to) = (zone(source), zone(destination));
            let echo = (if source.is_ipv4() { 1 } else { 58 }, 0);
            // Every pair asks of other ports, so that each class of addresses meets all of them.
            pairs += 1;
            let some = ports.iter().skip(pairs % STRIDE).step_by(STRIDE);
            let all = some.flat_map(|&port| [(6, port), (17, port)]).chain([echo]);
            for (protocol, destination_port) in all {
                let (source, destination) = (*source, *destination);
                let query = Query { destination_port, ..query(ingress(from), source, destination, protocol) };
                let decision = policy.judge(&query);
                assert_eq!(
                    decision,
                    reference::judge(&model.rules, &query, &Circumstances::NONE),
                    "{query:?}"
                );
                let theirs = pf.judge(&query, from, to);
                let is_same = decision.allows() == (theirs == Verdict::Pass);
                assert!(
                    is_same || !is_exact && !decision.allows(),
                    "{name}: {query:?}: pf says {theirs:?}, we {decision:?}\n{}",
                    imported.toml
                );
                counts[usize::from(theirs == Verdict::Pass)] += 1;
            }
        }
    }
    assert!(counts[0] > 500 && counts[1] > 500, "{name} decides too little: {counts:?}");
}

fn query(ingress: PortId, source: IpAddr, destination: IpAddr, protocol: u8) -> Query {
    Query { ingress, source, destination, protocol, destination_port: 0 }
}

#[test]
fn a_home_gateway_with_tables_and_macros_does_what_it_did() {
    compare("home", include_str!("pf/home.conf"), true);
}

#[test]
fn the_last_match_decides_as_it_did() {
    compare("dmz", include_str!("pf/dmz.conf"), true);
}

#[test]
fn quick_rules_decide_as_they_did() {
    compare("quick", include_str!("pf/quick.conf"), true);
}

#[test]
fn rules_in_anchors_decide_as_they_did() {
    compare("anchors", include_str!("pf/anchors.conf"), true);
}

#[test]
fn what_pf_leaves_open_stays_open_and_what_is_unknown_does_not() {
    compare("open", include_str!("pf/open.conf"), false);
}
