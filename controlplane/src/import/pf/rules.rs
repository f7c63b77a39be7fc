//! `pass in quick on em0 inet proto tcp from <a> to any port 80`.

use bulkhead_dataplane::headers::protocol;

use super::super::lexer::Kind;
use super::super::names::{self, Icmp};
use super::super::program::InterfaceMatch;
use super::super::report::{Effect, Findings};
use super::super::sets::{Families, Ranges, Services};
use super::cursor::Cursor;
use super::hosts::{Host, Known, ports};
use crate::config::diagnostics::{Report, quoted};

/// What a rule says, or the head of an anchor, which its rules inherit.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    /// Whether it is about packets that come in, and those that go out.
    pub incoming: bool,
    pub outgoing: bool,
    pub quick: bool,
    /// `on`: where they come in, or go out.
    pub interfaces: Vec<InterfaceMatch>,
    /// `received-on`: where they came in.
    pub received: Vec<InterfaceMatch>,
    pub families: Families,
    pub services: Services,
    pub sources: Vec<Host>,
    pub destinations: Vec<Host>,
    /// Whether it can match the first packet of a connection.
    pub first: bool,
    /// Conditions that cannot be expressed.
    pub unsure: Vec<String>,
    /// What happens to addresses: the word, such as `rdr-to`.
    pub nat: Option<String>,
    pub label: Option<String>,
    pub is_stateless: bool,
    /// Why it concerns no first packet.
    pub covered: Option<&'static str>,
    /// Limits in `keep state (…)`.
    pub has_limits: bool,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            incoming: true,
            outgoing: true,
            quick: false,
            interfaces: Vec::new(),
            received: Vec::new(),
            families: Families::BOTH,
            services: Services::everything(),
            sources: Vec::new(),
            destinations: Vec::new(),
            first: true,
            unsure: Vec::new(),
            nat: None,
            label: None,
            is_stateless: false,
            covered: None,
            has_limits: false,
        }
    }
}

const SPOOFED: &str = "a source that does not lie behind the port it came in by is dropped as spoofed";
const ERRORS: &str = "replies and errors follow their connection";
const FRAGMENTS: &str = "a datagram is judged as a whole";
const SANITY: &str = "flags that no connection begins with are dropped";

/// Reads conditions.
pub(super) struct Reading<'r> {
    pub known: Known<'r>,
    pub report: &'r mut Report,
    pub findings: &'r mut Findings,
}

/// The words of a rule, for who has mistyped one.
const WORDS: &[&str] = &[
    "in",
    "out",
    "quick",
    "log",
    "on",
    "inet",
    "inet6",
    "proto",
    "from",
    "to",
    "all",
    "flags",
    "keep",
    "label",
    "icmp-type",
    "icmp6-type",
    "received-on",
    "nat-to",
    "rdr-to",
];

impl Reading<'_> {
    /// Adds what the rest of a statement says, up to `{` of an anchor. `None` after an error.
    pub(super) fn conditions(&mut self, cursor: &mut Cursor<'_>, mut c: Conditions) -> Option<Conditions> {
        c.quick = false;
        c.nat = None;
        while !cursor.is_done() && cursor.peek() != Some(&Kind::Sign("{")) {
            let at = cursor.at();
            let word = cursor.text("a part of a rule", self.report)?;
            match word {
                "in" => c.outgoing = false,
                "out" => c.incoming = false,
                "quick" => c.quick = true,
                "log" => drop(cursor.parentheses()),
                "on" => {
                    let interfaces = self.interfaces(cursor)?;
                    c.interfaces.push(interfaces);
                }
                "received-on" => {
                    let interfaces = self.interfaces(cursor)?;
                    c.received.push(interfaces);
                }
                "inet" => c.families = c.families.and(Families::V4),
                "inet6" => c.families = c.families.and(Families::V6),
                "proto" => {
                    let numbers = self.protocols(cursor)?;
                    c.services = c.services.intersection(&Services::protocols(&numbers));
                }
                "all" => {}
                "from" | "to" => {
                    let is_source = word == "from";
                    let has_host = cursor.peek_word() != Some("port");
                    let host = if has_host { self.known.host(cursor, self.report)? } else { Host::anybody() };
                    self.end(cursor, &mut c, host, is_source)?;
                }
                "flags" => self.flags(cursor, &mut c)?,
                "icmp-type" | "icmp6-type" => self.icmp(cursor, &mut c, word)?,
                "keep" | "modulate" | "synproxy" => {
                    cursor.take_word("state");
                    self.state(&cursor.parentheses(), &mut c);
                }
                "no" if cursor.take_word("state") => c.is_stateless = true,
                "label" => c.label = Some(cursor.text("the label", self.report)?.to_owned()),
                "fragment" => {
                    c.first = false;
                    c.covered = Some(FRAGMENTS);
                }
                "allow-opts" | "once" => {}
                "set" | "scrub" => drop(cursor.parentheses()),
                "tag" | "queue" | "rtable" | "rdomain" | "prio" | "tos-set" => {
                    cursor.skip();
                    if word == "queue" && cursor.peek() == Some(&Kind::Sign("(")) {
                        cursor.parentheses();
                    }
                }
                "tagged" | "user" | "group" | "os" | "tos" | "probability" | "max-pkt-rate" => {
                    c.unsure.push(format!("`{word}` cannot be asked for"));
                    self.values(cursor)?;
                }
                "route-to" | "reply-to" | "dup-to" => {
                    let message = format!("{}: routes are the kernel's", quoted(word));
                    self.findings.add(Effect::Note, Some(at), message);
                    self.values(cursor)?;
                }
                "nat-to" | "rdr-to" | "binat-to" | "af-to" | "divert-to" | "divert-packet"
                | "divert-reply" => {
                    c.nat = Some(word.to_owned());
                    cursor.rest();
                }
                other => {
                    let hint = self.report.nearest(other, WORDS.iter().copied());
                    let message = format!("{} is not understood in a rule", quoted(other));
                    self.report.error(at, message).maybe_hint(hint);
                    return None;
                }
            }
        }
        Some(c)
    }

    /// An end, and the ports behind it.
    fn end(
        &mut self,
        cursor: &mut Cursor<'_>,
        c: &mut Conditions,
        host: Host,
        is_source: bool,
    ) -> Option<()> {
        if host.is_spoofed && !host.any && host.addresses.is_empty() {
            c.first = false;
            c.covered = Some(SPOOFED);
        }
        if is_source {
            c.sources.push(host)
        } else {
            c.destinations.push(host)
        }
        if cursor.take_word("port") {
            let ports = ports(cursor, self.report)?;
            let transport = Services::protocols(&[protocol::TCP, protocol::UDP]);
            if !is_source {
                let meant = Services { tcp: ports.clone(), udp: ports, ..Services::default() };
                c.services = c.services.intersection(&meant);
            } else {
                c.services = c.services.intersection(&transport);
                if ports != Ranges::of(1, 65_535) {
                    c.unsure.push("source ports cannot be asked for".to_owned());
                }
            }
        }
        Some(())
    }

    pub(super) fn interfaces(&mut self, cursor: &mut Cursor<'_>) -> Option<InterfaceMatch> {
        let at = cursor.at();
        let (mut patterns, mut negations) = (Vec::new(), 0);
        cursor.list(self.report, |cursor, report| {
            negations += usize::from(cursor.take_sign("!"));
            patterns.push(cursor.text("the name of an interface", report)?.to_owned());
            Some(())
        })?;
        if negations > 0 && patterns.len() > 1 {
            let message = "a list of interfaces with `!` matches every interface";
            self.report
                .error(at, message)
                .hint("pf makes a rule of each item, and one of them always matches");
            return None;
        }
        if patterns == ["any"] {
            return Some(InterfaceMatch { patterns: Vec::new(), negated: true });
        }
        Some(InterfaceMatch { patterns, negated: negations > 0 })
    }

    fn protocols(&mut self, cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
        let mut numbers = Vec::new();
        cursor.list(self.report, |cursor, report| {
            let at = cursor.at();
            let word = cursor.text("a protocol", report)?;
            match names::ip_protocol(word) {
                Some(number) => numbers.push(number),
                None => {
                    let hint = report.nearest(word, names::protocol_names());
                    let message = format!("{} is not a protocol", quoted(word));
                    report.error(at, message).hint(hint.unwrap_or_else(|| "write its number".to_owned()));
                    return None;
                }
            }
            Some(())
        })?;
        Some(numbers)
    }

    /// `flags S/SA`, `flags any`: asked of a SYN; other protocols than TCP have none.
    fn flags(&mut self, cursor: &mut Cursor<'_>, c: &mut Conditions) -> Option<()> {
        let at = cursor.at();
        let word = cursor.text("flags such as `S/SA`", self.report)?;
        if word == "any" {
            return Some(());
        }
        let bits = |text: &str| text.chars().try_fold(0u8, |bits, c| Some(bits | 1 << "FSRPAUEW".find(c)?));
        let parts = word.split_once('/').and_then(|(set, mask)| Some((bits(set)?, bits(mask)?)));
        let Some((set, mask)) = parts else {
            self.report
                .error(at, format!("{} is not a list of flags", quoted(word)))
                .hint("for example `S/SA`");
            return None;
        };
        const SYN: u8 = 2;
        if SYN & mask != set {
            c.services.tcp = Ranges::default();
            c.covered = c.services.is_empty().then_some(SANITY);
            c.first &= !c.services.is_empty();
        }
        Some(())
    }

    fn icmp(&mut self, cursor: &mut Cursor<'_>, c: &mut Conditions, word: &str) -> Option<()> {
        let number = if word == "icmp-type" { protocol::ICMP } else { protocol::ICMPV6 };
        let mut has_echo = false;
        cursor.list(self.report, |cursor, report| {
            let at = cursor.at();
            let kind = cursor.text("a type of ICMP", report)?;
            let Some(kind) = names::icmp(number, kind) else {
                report
                    .error(at, format!("{} is not a type of ICMP", quoted(kind)))
                    .hint("for example `echoreq`");
                return None;
            };
            has_echo |= kind == Icmp::EchoRequest;
            if cursor.take_word("code") {
                cursor.skip();
            }
            Some(())
        })?;
        c.services = c.services.intersection(&Services::protocols(&[number]));
        if !has_echo {
            c.first = false;
            c.covered = Some(ERRORS);
        }
        Some(())
    }

    fn state(&mut self, options: &str, c: &mut Conditions) {
        c.has_limits |= options.split(' ').any(|word| word.starts_with("max") || word == "overload");
    }

    /// The values of an option that is not looked at: one word, a list, or what stands in parentheses.
    fn values(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        cursor.take_sign("!");
        for sign in ["=", "!=", "<", ">", "<=", ">="] {
            cursor.take_sign(sign);
        }
        if cursor.peek() == Some(&Kind::Sign("(")) {
            cursor.parentheses();
            return Some(());
        }
        cursor.list(self.report, |cursor, report| {
            cursor.take_sign("!");
            if cursor.peek() == Some(&Kind::Sign("(")) {
                cursor.parentheses();
                return Some(());
            }
            cursor.text("a value", report).map(|_| ())
        })
    }
}
