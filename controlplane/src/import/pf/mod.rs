//! Rulesets of pf, the packet filter of OpenBSD and FreeBSD.
//!
//! A packet that is forwarded passes the rules twice: coming in, and going out. The last rule that matches decides, or the
//! first that is `quick`; where none matches, it passes.

mod cursor;
mod hosts;
mod rules;

use std::collections::{BTreeMap, HashMap};

use super::lexer::{Dialect, Kind, TOKENS_LIMIT, Token, tokens};
use super::program::{AddressSet, Chain, End, InterfaceMatch, Order, Program, Rule, Stage, Verdict};
use super::report::{Effect, Findings};
use super::sets::{Addresses, Families, Services};
use super::{Options, Ruleset};
use crate::config::At;
use crate::config::diagnostics::{Report, quoted};
use cursor::Cursor;
use hosts::{Host, Known};
use rules::{Conditions, Reading};

/// The deepest nesting of anchors.
const ANCHORS: usize = 16;

/// Reads a ruleset of pf. `None` after an error, which is in the report.
pub fn read(
    file: u32,
    text: &str,
    options: &Options,
    report: &mut Report,
    findings: &mut Findings,
) -> Option<Ruleset> {
    let tokens = tokens(file, text, Dialect::Pf, report);
    let tokens = expanded(file, tokens, report);
    let mut builder = Builder {
        options,
        report,
        findings,
        tables: BTreeMap::new(),
        program: Program {
            interfaces: Vec::new(),
            sets: Vec::new(),
            rules: Vec::new(),
            chains: ["in", "out"].map(|name| Chain { name: name.to_owned(), rules: Vec::new() }).into(),
            stages: vec![stage(0, true), stage(1, false)],
            universe: Services::transport(),
        },
        own: Vec::new(),
        internet: Vec::new(),
        block: Verdict::Drop,
    };
    builder.statements(&tokens, &Conditions::default(), 0);
    if !builder.report.is_clean() {
        return None;
    }
    let Builder { program, own, internet, .. } = builder;
    let input = Program {
        sets: program.sets.clone(),
        chains: vec![Chain { name: "in".to_owned(), rules: (0..own.len()).collect() }],
        rules: own,
        stages: vec![stage(0, true)],
        ..program.clone()
    };
    Some(Ruleset { forward: program, input: Some(input), internet })
}

fn stage(chain: usize, is_main: bool) -> Stage {
    Stage { chain, order: Order::Last, families: Families::BOTH, policy: Verdict::Accept, is_main }
}

/// Replaces macros by what they were defined as, and takes their definitions out.
fn expanded(file: u32, tokens: Vec<Token>, report: &mut Report) -> Vec<Token> {
    let mut known: HashMap<String, Vec<Token>> = HashMap::new();
    let mut done: Vec<Token> = Vec::new();
    let mut next = 0;
    while next < tokens.len() {
        let is_first = next == 0 || tokens[next - 1].kind == Kind::End;
        let defines = match (&tokens[next].kind, tokens.get(next + 1).map(|token| &token.kind)) {
            (Kind::Word(name), Some(Kind::Sign("="))) if is_first => Some(name.clone()),
            _ => None,
        };
        let start = if defines.is_some() { next + 2 } else { next };
        let length = if defines.is_some() { statement_length(&tokens[start..]) } else { 1 };
        let mut meant: Vec<Token> = Vec::new();
        for token in &tokens[start..start + length] {
            replace(file, token, &known, if defines.is_some() { &mut meant } else { &mut done }, report);
        }
        if let Some(name) = defines {
            // What stands in quotation marks is read when it is used.
            let read = meant.iter().flat_map(|token| match &token.kind {
                Kind::Quoted(text) => reread(file, text, token.at, report),
                _ => vec![token.clone()],
            });
            known.insert(name, read.collect());
        }
        next = start + length;
        if done.len() > TOKENS_LIMIT {
            report
                .error(tokens[next - 1].at, "the ruleset is too long when its macros are written out")
                .hint(format!("{TOKENS_LIMIT} words are the limit"));
            return Vec::new();
        }
    }
    done
}

/// The tokens of a text in quotation marks, at its place.
fn reread(file: u32, text: &str, at: At, report: &mut Report) -> Vec<Token> {
    let mut read = tokens(file, text, Dialect::Pf, report);
    read.iter_mut().for_each(|token| token.at = at);
    read
}

fn replace(
    file: u32,
    token: &Token,
    known: &HashMap<String, Vec<Token>>,
    done: &mut Vec<Token>,
    report: &mut Report,
) {
    match &token.kind {
        Kind::Variable(name) => match known.get(name) {
            Some(_) if done.len() > TOKENS_LIMIT => {}
            Some(meant) => done.extend(meant.iter().map(|t| Token { kind: t.kind.clone(), at: token.at })),
            None => {
                let hint = report.nearest(name, known.keys().map(String::as_str));
                let hint = hint.unwrap_or_else(|| format!("no `{name} = …` comes before"));
                report.error(token.at, format!("unknown macro {}", quoted(&format!("${name}")))).hint(hint);
            }
        },
        // `$lan:network`.
        Kind::Word(word) if word.starts_with(':') => match done.last_mut() {
            Some(Token { kind: Kind::Word(before), at }) if at.end == token.at.start && at.file == file => {
                before.push_str(word);
                at.end = token.at.end;
            }
            _ => done.push(token.clone()),
        },
        _ => done.push(token.clone()),
    }
}

/// How many tokens there are up to the end of the statement; ends inside braces are none.
fn statement_length(tokens: &[Token]) -> usize {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Sign("{") => depth += 1,
            Kind::Sign("}") => depth = depth.saturating_sub(1),
            Kind::End if depth == 0 => return index,
            _ => {}
        }
    }
    tokens.len()
}

struct Builder<'r> {
    options: &'r Options,
    report: &'r mut Report,
    findings: &'r mut Findings,
    tables: BTreeMap<String, Addresses>,
    program: Program,
    /// The rules for what comes in to the gateway itself.
    own: Vec<Rule>,
    internet: Vec<String>,
    /// What `block` does by default.
    block: Verdict,
}

impl Builder<'_> {
    fn statements(&mut self, tokens: &[Token], outer: &Conditions, depth: usize) {
        let mut next = 0;
        while next < tokens.len() {
            let length = statement_length(&tokens[next..]);
            if length > 0 {
                let mut cursor = Cursor::new(&tokens[next..next + length]);
                // After an error the rest is read for its errors.
                let _ = self.statement(&mut cursor, outer, depth);
            }
            next += length + 1;
        }
    }

    fn statement(&mut self, cursor: &mut Cursor<'_>, outer: &Conditions, depth: usize) -> Option<()> {
        let (whole, at) = (cursor.whole(), cursor.at());
        let word = cursor.text("a statement such as `pass` or `block`", self.report)?;
        let mut tell = |effect, message: &str| self.findings.add(effect, Some(whole), message);
        match word {
            "pass" => return self.rule(cursor, Verdict::Accept, outer, whole),
            "block" => {
                let verdict = self.block_action(cursor);
                return self.rule(cursor, verdict, outer, whole);
            }
            "match" => return self.matching(cursor, outer, whole),
            "anchor" => return self.anchor(cursor, outer, whole, depth),
            "set" => return self.setting(cursor, whole),
            "table" => return self.table(cursor, whole),
            "antispoof" => {
                tell(
                    Effect::Covered,
                    "a source that does not lie behind the port it came in by is dropped as spoofed",
                );
            }
            "scrub" => tell(Effect::Covered, "datagrams are judged as wholes, and malformed ones dropped"),
            "nat" | "rdr" | "binat" | "no" | "nat-anchor" | "rdr-anchor" | "binat-anchor" => {
                tell(
                    Effect::Narrower,
                    "the gateway translates no addresses: keep the translation on another machine",
                );
                if word == "nat" && cursor.take_word("on") {
                    self.internet.extend(cursor.peek_word().map(str::to_owned));
                }
            }
            "altq" | "queue" => tell(Effect::Note, "queues have no counterpart"),
            "load" | "include" => {
                self.report
                    .error(whole, format!("{} is not followed", quoted(word)))
                    .hint("what is loaded may change every verdict: import what `pfctl -sr` prints");
                return None;
            }
            other => {
                let known =
                    ["pass", "block", "match", "anchor", "set", "table", "antispoof", "scrub", "nat", "rdr"];
                let hint = self.report.nearest(other, known);
                self.report.error(at, format!("{} is not understood", quoted(other))).maybe_hint(hint);
                return None;
            }
        }
        Some(())
    }

    fn block_action(&mut self, cursor: &mut Cursor<'_>) -> Verdict {
        let verdict = match cursor.peek_word() {
            Some("drop") => Verdict::Drop,
            Some("return" | "return-rst" | "return-icmp" | "return-icmp6") => Verdict::Reject,
            _ => return self.block,
        };
        cursor.skip();
        if cursor.peek() == Some(&Kind::Sign("(")) {
            cursor.parentheses();
        }
        verdict
    }

    /// `set skip on lo`, `set block-policy return`; the others are about the machine.
    fn setting(&mut self, cursor: &mut Cursor<'_>, whole: At) -> Option<()> {
        if cursor.take_word("block-policy") {
            self.block = if cursor.take_word("return") { Verdict::Reject } else { Verdict::Drop };
        } else if cursor.take_word("skip") {
            cursor.take_word("on");
            let known = Known { tables: &self.tables, options: self.options };
            let mut reading = Reading { known, report: self.report, findings: self.findings };
            let interfaces = reading.interfaces(cursor)?;
            if interfaces.patterns.iter().any(|name| !name.starts_with("lo")) {
                let skipped =
                    Conditions { quick: true, interfaces: vec![interfaces], ..Conditions::default() };
                self.add(skipped, Verdict::Accept, whole);
            }
        }
        Some(())
    }

    /// `table <NAME> persist { … }`.
    fn table(&mut self, cursor: &mut Cursor<'_>, whole: At) -> Option<()> {
        if !cursor.take_sign("<") {
            cursor.expected("`<`", self.report);
            return None;
        }
        let name = cursor.text("the table's name", self.report)?.to_owned();
        if !cursor.take_sign(">") {
            cursor.expected("`>`", self.report);
            return None;
        }
        let mut addresses = Addresses::default();
        let mut changes = false;
        while !cursor.is_done() {
            if cursor.peek() == Some(&Kind::Sign("{")) {
                let known = Known { tables: &self.tables, options: self.options };
                addresses = addresses.union(&known.table(cursor, self.report)?);
                continue;
            }
            match cursor.text("`persist`, `const`, `file` or `{`", self.report)? {
                "file" => {
                    cursor.text("the file", self.report)?;
                    let message = format!(
                        "what the file of table {} holds is not read: write it into the ruleset",
                        quoted(&name)
                    );
                    self.findings.add(Effect::Wider, Some(whole), message);
                }
                "persist" => changes = true,
                _ => {}
            }
        }
        if changes && addresses.is_empty() {
            let message = format!("what is put into table {} at run time is not carried over", quoted(&name));
            self.findings.add(Effect::Wider, Some(whole), message);
        }
        self.tables.insert(name, addresses);
        Some(())
    }

    fn conditions(&mut self, cursor: &mut Cursor<'_>, outer: &Conditions) -> Option<Conditions> {
        let known = Known { tables: &self.tables, options: self.options };
        let mut reading = Reading { known, report: self.report, findings: self.findings };
        reading.conditions(cursor, outer.clone())
    }

    fn rule(
        &mut self,
        cursor: &mut Cursor<'_>,
        verdict: Verdict,
        outer: &Conditions,
        whole: At,
    ) -> Option<()> {
        let conditions = self.conditions(cursor, outer)?;
        if !cursor.is_done() {
            cursor.expected("the end of the rule", self.report);
            return None;
        }
        self.add(conditions, verdict, whole);
        Some(())
    }

    /// `match` decides nothing.
    fn matching(&mut self, cursor: &mut Cursor<'_>, outer: &Conditions, whole: At) -> Option<()> {
        let conditions = self.conditions(cursor, outer)?;
        match conditions.nat {
            Some(_) => {
                let message = "the gateway translates no addresses: keep the translation on another machine";
                self.findings.add(Effect::Narrower, Some(whole), message);
                self.note_internet(&conditions);
            }
            None => self.findings.add(
                Effect::Note,
                Some(whole),
                "`match` decides nothing, and what it sets has no counterpart",
            ),
        }
        Some(())
    }

    fn note_internet(&mut self, conditions: &Conditions) {
        let is_source_nat = conditions.nat.as_deref() == Some("nat-to");
        for interfaces in
            conditions.interfaces.iter().filter(|interfaces| is_source_nat && !interfaces.negated)
        {
            self.internet.extend(interfaces.patterns.clone());
        }
    }

    fn anchor(&mut self, cursor: &mut Cursor<'_>, outer: &Conditions, whole: At, depth: usize) -> Option<()> {
        // Its name may be missing.
        let is_name = cursor.peek_word().is_some_and(|word| {
            !["in", "out", "on", "inet", "inet6", "proto", "from", "to", "all", "quick"].contains(&word)
        });
        if is_name {
            cursor.skip();
        }
        let conditions = self.conditions(cursor, outer)?;
        let body = cursor.rest();
        let ([Token { kind: Kind::Sign("{"), .. }, inner @ .., Token { kind: Kind::Sign("}"), .. }], true) =
            (body, depth < ANCHORS)
        else {
            let message = match body {
                [] => "the rules that are loaded into this anchor are not known, and are not carried over",
                _ => "this anchor is not understood, or nested too deeply",
            };
            if body.is_empty() {
                self.findings.add(Effect::Wider, Some(whole), message);
                return Some(());
            }
            self.report.error(whole, message);
            return None;
        };
        if conditions.quick {
            self.report
                .error(whole, "a `quick` anchor with rules is not understood")
                .hint("make its rules quick instead");
            return None;
        }
        self.statements(inner, &conditions, depth + 1);
        Some(())
    }

    /// Adds a rule to what it is about: what comes in, what goes out, what comes to the gateway.
    fn add(&mut self, c: Conditions, verdict: Verdict, at: At) {
        self.tell(&c, verdict, at);
        if let Some(nat) = &c.nat
            && nat != "nat-to"
            && verdict == Verdict::Accept
        {
            return;
        }
        let (Some(source), Some(destination)) = (self.sets(&c.sources, at), self.sets(&c.destinations, at))
        else {
            // Only for the gateway itself.
            self.add_own(&c, verdict, at);
            return;
        };
        let end = |interfaces: &[InterfaceMatch], addresses: &[(usize, bool)]| End {
            interfaces: interfaces.to_vec(),
            addresses: addresses.to_vec(),
        };
        if c.incoming {
            let source = end(&c.interfaces, &source);
            let rule = rule(&c, verdict, at, (source, end(&[], &destination)));
            self.program.chains[0].rules.push(self.program.rules.len());
            self.program.rules.push(rule);
        }
        if c.outgoing {
            let rule = rule(&c, verdict, at, (end(&c.received, &source), end(&c.interfaces, &destination)));
            self.program.chains[1].rules.push(self.program.rules.len());
            self.program.rules.push(rule);
        }
        self.add_own(&c, verdict, at);
    }

    fn add_own(&mut self, c: &Conditions, verdict: Verdict, at: At) {
        let is_asked = c.destinations.iter().all(|host| {
            // Which addresses the gateway has is not known: what is refused to some of them is refused to all.
            host.any && !host.is_not_self || host.is_self || verdict != Verdict::Accept && !host.is_not_self
        });
        if let (true, true, Some(source)) = (c.incoming, is_asked, self.sets(&c.sources, at)) {
            let source = End { interfaces: c.interfaces.clone(), addresses: source };
            self.own.push(rule(c, verdict, at, (source, End::default())));
        }
    }

    fn tell(&mut self, c: &Conditions, verdict: Verdict, at: At) {
        let allows = verdict == Verdict::Accept;
        if let Some(nat) = &c.nat {
            let left_out = if allows && nat != "nat-to" { "; the rule is left out" } else { "" };
            let message = format!("{}: the gateway translates no addresses{left_out}", quoted(nat));
            self.findings.add(Effect::Narrower, Some(at), message);
            self.note_internet(c);
        }
        if let (Some(why), false) = (c.covered, c.first) {
            self.findings.add(Effect::Covered, Some(at), why);
            return;
        }
        if !c.unsure.is_empty() {
            let what = c.unsure.join("; ");
            let message = match allows {
                true => format!("left out, for it cannot be narrowed as it is: {what}"),
                false => format!("all that it might refuse is refused: {what}"),
            };
            self.findings.add(Effect::Narrower, Some(at), message);
        }
        if c.has_limits && allows {
            let message = "limits of states are not carried over: give the rule `limits`";
            self.findings.add(Effect::Wider, Some(at), message);
        }
        if c.is_stateless && allows {
            let message =
                "without state, replies would need a rule of their own: here they follow their connection";
            self.findings.add(Effect::Wider, Some(at), message);
        }
    }

    /// The sets that an end has to be in; `None` if nobody but the gateway can be that end.
    fn sets(&mut self, hosts: &[Host], at: At) -> Option<Vec<(usize, bool)>> {
        let mut sets = Vec::new();
        for host in hosts.iter().filter(|host| !host.any) {
            if host.addresses.is_empty() && host.is_self {
                return None;
            }
            let place = self.program.sets.iter().position(|set| set.addresses == host.addresses);
            let place = place.unwrap_or_else(|| {
                let addresses = host.addresses.clone();
                self.program.sets.push(AddressSet { name: host.name.clone(), addresses, at });
                self.program.sets.len() - 1
            });
            sets.push((place, false));
        }
        Some(sets)
    }
}

fn rule(c: &Conditions, verdict: Verdict, at: At, (source, destination): (End, End)) -> Rule {
    Rule {
        at,
        comment: c.label.clone(),
        source,
        destination,
        families: c.families,
        services: c.services.clone(),
        certain: c.unsure.is_empty(),
        first: c.first,
        // Replies belong to states, which pass before any rule.
        later: false,
        per_second: None,
        verdict,
        quick: c.quick,
    }
}
