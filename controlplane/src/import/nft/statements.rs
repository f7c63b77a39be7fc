//! What stands inside a rule.

use super::super::lexer::Kind;
use super::parse::Parser;
use super::syntax::{Atom, Element, Rule, Statement, StatementKind, Value, Verdict, VerdictKind};
use crate::config::diagnostics::quoted;

/// The deepest nesting of braces.
const BRACES: usize = 16;
/// What may be looked at by one word.
const BARE: [&str; 22] = [
    "iif",
    "iifname",
    "iiftype",
    "iifgroup",
    "oif",
    "oifname",
    "oiftype",
    "oifgroup",
    "mark",
    "skuid",
    "skgid",
    "pkttype",
    "cpu",
    "rtclassid",
    "length",
    "priority",
    "l4proto",
    "nfproto",
    "protocol",
    "hour",
    "day",
    "time",
];
/// What is looked at by two words.
const HEADERS: [&str; 22] = [
    "ip", "ip6", "tcp", "udp", "th", "sctp", "dccp", "udplite", "icmp", "icmpv6", "ct", "ether", "arp",
    "vlan", "rt", "socket", "exthdr", "esp", "ah", "comp", "igmp", "ipsec",
];

impl Parser<'_> {
    /// One rule, up to the end of the statement.
    pub(super) fn rule(&mut self) -> Option<Rule> {
        let first = self.next;
        let mut statements = Vec::new();
        let mut comment = None;
        while !self.is_at_end() {
            if self.take_word("comment") {
                comment = Some(self.text("the comment")?.text);
                continue;
            }
            if self.take_word("handle") {
                self.text("the handle")?;
                continue;
            }
            let start = self.next;
            let kind = self.statement()?;
            statements.push(Statement { kind, at: self.since(start) });
        }
        Some(Rule { at: self.since(first), statements, comment })
    }

    fn statement(&mut self) -> Option<StatementKind> {
        if let Some(verdict) = self.verdict() {
            return verdict.map(|verdict| StatementKind::Verdict(verdict.kind));
        }
        let Some(word) = self.peek_word().map(str::to_owned) else {
            self.expected("a condition or a verdict");
            return None;
        };
        match word.as_str() {
            "counter" => {
                self.next += 1;
                self.options(&["packets", "bytes", "name"]);
                Some(StatementKind::Silent)
            }
            "log" => {
                self.next += 1;
                self.options(&["prefix", "level", "group", "snaplen", "queue-threshold", "flags"]);
                Some(StatementKind::Effect("log".to_owned()))
            }
            "limit" => self.limit(),
            "notrack" => {
                self.next += 1;
                Some(StatementKind::Effect("notrack".to_owned()))
            }
            "masquerade" | "snat" | "dnat" | "redirect" | "tproxy" => Some(StatementKind::Nat(self.rest())),
            "flow" | "dup" | "fwd" | "synproxy" => {
                let rest = self.words_to_verdict();
                Some(StatementKind::Effect(rest))
            }
            "add" | "update" | "delete" | "set" | "meter" => {
                let text = self.words_to_verdict();
                let is_condition = ["limit", "count", "quota"].iter().any(|word| text.contains(word));
                Some(if is_condition { StatementKind::Condition(text) } else { StatementKind::Effect(text) })
            }
            "quota" | "xt" | "osf" | "numgen" | "jhash" | "symhash" | "@" => {
                Some(StatementKind::Condition(self.words_to_verdict()))
            }
            _ => self.condition(),
        }
    }

    /// Words with one value each, in any order.
    fn options(&mut self, known: &[&str]) {
        while self.peek_word().is_some_and(|word| known.contains(&word)) {
            self.next += 1;
            if !self.is_at_end() {
                self.next += 1;
            }
            while self.take_sign(",") {
                self.next += 1;
            }
        }
    }

    /// A verdict, if there is one; `Some(None)` for one that is wrong.
    fn verdict(&mut self) -> Option<Option<Verdict>> {
        let at = self.at();
        let word = self.peek_word()?.to_owned();
        let kind = match word.as_str() {
            "accept" => VerdictKind::Accept,
            "drop" => VerdictKind::Drop,
            "return" => VerdictKind::Return,
            "continue" => VerdictKind::Continue,
            "reject" => {
                self.next += 1;
                if self.take_word("with") {
                    self.rest_of_reject();
                }
                return Some(Some(Verdict { kind: VerdictKind::Reject, at }));
            }
            "queue" => {
                self.rest();
                return Some(Some(Verdict { kind: VerdictKind::Queue, at }));
            }
            "jump" | "goto" => {
                self.next += 1;
                let Some(chain) = self.text("the name of a chain") else { return Some(None) };
                let kind = if word == "jump" { VerdictKind::Jump } else { VerdictKind::Goto };
                return Some(Some(Verdict { kind: kind(chain.text), at }));
            }
            _ => return None,
        };
        self.next += 1;
        Some(Some(Verdict { kind, at }))
    }

    /// `tcp reset`, `icmp type port-unreachable`, `icmpx admin-prohibited`.
    fn rest_of_reject(&mut self) {
        while !self.is_at_end() && self.peek_word().is_some_and(|word| word != "comment") {
            self.next += 1;
        }
    }

    /// All that is left of the rule, as text.
    fn rest(&mut self) -> String {
        let first = self.next;
        while !self.is_at_end() && self.peek_word() != Some("comment") {
            if self.peek() == Some(&Kind::Sign("{")) {
                self.skip_braces();
            } else {
                self.next += 1;
            }
        }
        self.words(first)
    }

    /// As [`Parser::rest`], up to a verdict if one follows.
    fn words_to_verdict(&mut self) -> String {
        let first = self.next;
        self.next += 1;
        while !self.is_at_end() {
            match self.peek() {
                Some(Kind::Sign("{")) => self.skip_braces(),
                Some(Kind::Word(word)) if is_verdict_or_silent(word) => break,
                _ => self.next += 1,
            }
        }
        self.words(first)
    }

    fn skip_braces(&mut self) {
        let mut depth = 0usize;
        while let Some(kind) = self.peek() {
            match kind {
                Kind::Sign("{") => depth += 1,
                Kind::Sign("}") => depth -= 1,
                _ => {}
            }
            self.next += 1;
            if depth == 0 {
                return;
            }
        }
    }

    fn words(&self, first: usize) -> String {
        let shown =
            self.tokens[first..self.next.min(self.tokens.len())].iter().map(|token| match &token.kind {
                Kind::Word(text) => text.clone(),
                Kind::Quoted(text) => format!("\"{text}\""),
                Kind::Variable(name) => format!("${name}"),
                Kind::Sign(sign) => (*sign).to_owned(),
                Kind::End => ";".to_owned(),
            });
        shown.collect::<Vec<_>>().join(" ")
    }

    /// `limit rate over 10/second burst 5 packets`.
    fn limit(&mut self) -> Option<StatementKind> {
        let first = self.next;
        self.next += 1;
        if !self.take_word("rate") {
            return Some(StatementKind::Condition({
                self.next = first;
                self.words_to_verdict()
            }));
        }
        let over = self.take_word("over");
        if !over {
            self.take_word("until");
        }
        let rate = self.text("a rate such as `10/second`")?;
        let (number, mut unit) = match rate.text.split_once('/') {
            Some((number, unit)) => (number.to_owned(), unit.to_owned()),
            None => (rate.text.clone(), String::new()),
        };
        let mut in_bytes = false;
        if unit.is_empty() && !self.is_at_end() {
            // `10 mbytes/second`, `10 / second`.
            let next = self.text("a unit")?.text;
            in_bytes = next.contains("byte");
            unit = next.split_once('/').map_or(next.clone(), |(_, unit)| unit.to_owned());
            if unit.is_empty() && !self.is_at_end() {
                unit = self.text("a unit")?.text;
            }
        }
        if self.take_word("burst") {
            self.text("a number")?;
            if let Some("packets" | "bytes" | "kbytes" | "mbytes") = self.peek_word() {
                self.next += 1;
            }
        }
        let seconds = match unit.as_str() {
            "second" => 1,
            "minute" => 60,
            "hour" => 3_600,
            "day" => 86_400,
            "week" => 604_800,
            _ => {
                let message = format!("{} is not a rate", quoted(&rate.text));
                self.report.error(rate.at, message).hint("for example `10/second`");
                return None;
            }
        };
        Some(StatementKind::Limit { packets: number.parse().ok().filter(|_| !in_bytes), seconds, over })
    }

    /// A condition, or `meta mark set …`, which begins like one.
    fn condition(&mut self) -> Option<StatementKind> {
        let first = self.next;
        let mut keys = vec![self.key()?];
        while self.take_word(".") {
            keys.push(self.key()?);
        }
        if self.take_word("vmap") {
            let value = self.value(keys.len(), false)?;
            return Some(StatementKind::Vmap { keys, value });
        }
        if self.take_word("set") {
            let effect = keys.join(" . ") + " set";
            self.words_to_verdict();
            return Some(StatementKind::Effect(effect));
        }
        let is_called =
            |word: &str| matches!(word, "map" | "and" | "or" | "xor" | "lshift" | "rshift" | "mod");
        if self.peek_word().is_some_and(is_called) {
            self.next = first;
            return Some(StatementKind::Condition(self.words_to_verdict()));
        }
        let mut negated = false;
        let mut is_explicit = false;
        if self.take_sign("!=") || self.take_word("ne") {
            negated = true;
        } else if self.take_sign("==") || self.take_word("eq") {
            is_explicit = true;
        } else if let Some(Kind::Sign(sign @ ("<" | ">" | "<=" | ">="))) = self.peek().cloned() {
            self.next += 1;
            let number = self.text("a number")?;
            return Some(StatementKind::Match { keys, negated, value: compared(sign, number) });
        } else if self.take_sign("&") {
            let mask = self.flags()?;
            negated = self.take_sign("!=");
            if !negated && !self.take_sign("==") {
                self.expected("`==` or `!=`");
                return None;
            }
            let wanted = self.flags()?;
            return Some(StatementKind::Match { keys, negated, value: Value::Masked(mask, wanted) });
        }
        let value = self.value(keys.len(), is_explicit)?;
        Some(StatementKind::Match { keys, negated, value })
    }

    /// What is looked at.
    fn key(&mut self) -> Option<String> {
        let word = self.text("a condition or a verdict")?;
        match word.text.as_str() {
            "meta" => {
                let key = self.text("what of `meta`")?.text;
                Some(if BARE.contains(&key.as_str()) { key } else { format!("meta {key}") })
            }
            "fib" => {
                let mut key = "fib".to_owned();
                loop {
                    let part = self.text("what of `fib`")?.text;
                    key += &format!(" {part}");
                    if self.take_word(".") {
                        key += " .";
                    } else if matches!(part.as_str(), "oif" | "oifname" | "type") {
                        return Some(key);
                    }
                }
            }
            bare if BARE.contains(&bare) => Some(word.text),
            header if HEADERS.contains(&header) => {
                let field = self.text(&format!("what of `{header}`"))?.text;
                let mut key = format!("{header} {field}");
                let more = match key.as_str() {
                    "ct original" | "ct reply" | "tcp option" => 1,
                    "ct count" => {
                        self.take_word("over");
                        0
                    }
                    _ => 0,
                };
                for _ in 0..more {
                    key += &format!(" {}", self.text("what of it")?.text);
                    // `ct original ip saddr`, `tcp option maxseg size`.
                    if !self.is_at_end()
                        && self.peek_word().is_some_and(|w| w.chars().all(char::is_alphabetic))
                    {
                        key += &format!(" {}", self.text("what of it")?.text);
                    }
                }
                Some(key)
            }
            other => {
                let known = BARE
                    .iter()
                    .chain(&HEADERS)
                    .copied()
                    .chain(["accept", "drop", "reject", "jump", "counter"]);
                let hint = self.report.nearest(other, known);
                let message =
                    format!("{} is neither a condition nor a verdict that is understood", quoted(other));
                self.report.error(word.at, message).maybe_hint(hint);
                None
            }
        }
    }

    /// What a key of so many parts is compared with.
    fn value(&mut self, parts: usize, is_explicit: bool) -> Option<Value> {
        if self.peek() == Some(&Kind::Sign("{")) {
            return Some(Value::Elements(self.braced()?));
        }
        if self.take_sign("@") {
            return Some(Value::Named(self.text("the name of a set")?));
        }
        if parts > 1 {
            let parts = self.parts()?;
            return Some(Value::Elements(vec![Element { parts, verdict: None, is_mapped: false }]));
        }
        let first = self.flags()?;
        if self.take_word("/") {
            return Some(Value::Masked(self.flags()?, first));
        }
        Some(Value::Flags(first, is_explicit))
    }

    /// `a,b`, `a|b`, `(a|b)` or one value, which may be a range.
    fn flags(&mut self) -> Option<Vec<Atom>> {
        let is_in_parentheses = self.take_sign("(");
        let mut list = vec![self.atom()?];
        while self.take_sign(",") || self.take_sign("|") {
            list.push(self.atom()?);
        }
        if is_in_parentheses && !self.take_sign(")") {
            self.expected("`)`");
            return None;
        }
        Some(list)
    }

    /// A value; a range may have spaces in it.
    fn atom(&mut self) -> Option<Atom> {
        let mut atom = self.text("a value")?;
        if self.take_word("-") {
            let high = self.text("the end of the range")?;
            atom.text = format!("{}-{}", atom.text, high.text);
            atom.at.end = high.at.end.max(atom.at.end);
        }
        Some(atom)
    }

    /// The parts of a concatenation.
    fn parts(&mut self) -> Option<Vec<Atom>> {
        let mut parts = vec![self.atom()?];
        while self.take_word(".") {
            parts.push(self.atom()?);
        }
        Some(parts)
    }

    /// `{ a, b : accept }`.
    pub(super) fn braced(&mut self) -> Option<Vec<Element>> {
        let mut elements = Vec::new();
        self.braced_into(&mut elements, 0)?;
        Some(elements)
    }

    fn braced_into(&mut self, elements: &mut Vec<Element>, depth: usize) -> Option<()> {
        if depth > BRACES {
            self.report.error(self.at(), format!("braces are nested more than {BRACES} deep"));
            return None;
        }
        if !self.take_sign("{") {
            self.expected("`{`");
            return None;
        }
        loop {
            self.skip_ends();
            if self.take_sign("}") {
                return Some(());
            }
            if self.peek() == Some(&Kind::Sign("{")) {
                self.braced_into(elements, depth + 1)?;
            } else {
                elements.push(self.element()?);
            }
            self.skip_ends();
            if !self.take_sign(",") && self.peek() != Some(&Kind::Sign("}")) {
                self.expected("`,` or `}`");
                return None;
            }
        }
    }

    fn element(&mut self) -> Option<Element> {
        let parts = self.parts()?;
        // `timeout 1h expires 5m counter packets 0 bytes 0 comment "x"`.
        while let Some(Kind::Word(_) | Kind::Quoted(_)) = self.peek() {
            self.next += 1;
        }
        let mut element = Element { parts, verdict: None, is_mapped: false };
        if self.take_sign(":") {
            self.skip_ends();
            match self.verdict() {
                Some(verdict) => element.verdict = Some(verdict?),
                None => {
                    self.parts()?;
                    element.is_mapped = true;
                }
            }
        }
        Some(element)
    }
}

fn is_verdict_or_silent(word: &str) -> bool {
    matches!(
        word,
        "accept"
            | "drop"
            | "return"
            | "continue"
            | "reject"
            | "queue"
            | "jump"
            | "goto"
            | "counter"
            | "log"
            | "comment"
    )
}

/// `< 1024` as a range.
fn compared(sign: &str, number: Atom) -> Value {
    let Ok(value) = number.text.parse::<u64>() else { return Value::Unknown };
    let (low, high) = match sign {
        "<" => (0, value.checked_sub(1)),
        "<=" => (0, Some(value)),
        ">" => (value.saturating_add(1), Some(u64::from(u32::MAX))),
        _ => (value, Some(u64::from(u32::MAX))),
    };
    let Some(high) = high else { return Value::Unknown };
    let atom = Atom { text: format!("{low}-{high}"), at: number.at };
    Value::Elements(vec![Element { parts: vec![atom], verdict: None, is_mapped: false }])
}
