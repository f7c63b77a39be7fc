//! Tables, chains, sets and definitions. What stands inside a rule is read in `statements`.

use std::collections::HashMap;

use super::super::lexer::{Kind, TOKENS_LIMIT, Token};
use super::syntax::{Atom, Base, Chain, Element, Ruleset, Set, Table};
use crate::config::diagnostics::{At, Report, nearest, quoted};

/// Reads a ruleset. Errors are in the report; after one, reading goes on behind the statement.
pub(super) fn ruleset(tokens: Vec<Token>, report: &mut Report) -> Ruleset {
    let tokens = expanded(tokens, report);
    let end = tokens.last().map_or(At { file: 0, start: 0, end: 0 }, |token| token.at);
    let mut parser = Parser { tokens, next: 0, end, report, ruleset: Ruleset::default() };
    while parser.peek().is_some() {
        if parser.skip_ends() {
            continue;
        }
        if parser.top_level().is_none() {
            parser.skip_statement();
        }
    }
    parser.ruleset
}

/// Replaces variables by what they were defined as.
fn expanded(tokens: Vec<Token>, report: &mut Report) -> Vec<Token> {
    let mut known: HashMap<String, Vec<Token>> = HashMap::new();
    let mut done: Vec<Token> = Vec::new();
    let mut next = 0;
    while next < tokens.len() {
        let is_first =
            next == 0 || tokens[next - 1].kind == Kind::End || tokens[next - 1].kind == Kind::Sign("{");
        let defined = match (&tokens[next].kind, tokens.get(next + 1), tokens.get(next + 2)) {
            (Kind::Word(word), Some(Token { kind: Kind::Word(name), .. }), Some(equals))
                if is_first && (word == "define" || word == "redefine") && equals.kind == Kind::Sign("=") =>
            {
                Some(name.clone())
            }
            _ => None,
        };
        if let Some(name) = defined {
            let length = statement_length(&tokens[next + 3..]);
            let value = &tokens[next + 3..next + 3 + length];
            let mut meant = Vec::new();
            value.iter().for_each(|token| replace(token, &known, &mut meant, report));
            meant.retain(|token| token.kind != Kind::End);
            known.insert(name, meant);
            next += 3 + length;
            continue;
        }
        replace(&tokens[next], &known, &mut done, report);
        next += 1;
        if done.len() > TOKENS_LIMIT {
            let message = "the ruleset is too long when its variables are written out";
            report.error(tokens[next - 1].at, message).hint(format!("{TOKENS_LIMIT} words are the limit"));
            return Vec::new();
        }
    }
    done
}

fn replace(token: &Token, known: &HashMap<String, Vec<Token>>, done: &mut Vec<Token>, report: &mut Report) {
    let Kind::Variable(name) = &token.kind else {
        done.push(token.clone());
        return;
    };
    match known.get(name) {
        // What is said of it later is said of the place where it is used.
        Some(meant) if done.len() <= TOKENS_LIMIT => {
            done.extend(meant.iter().map(|t| Token { kind: t.kind.clone(), at: token.at }));
        }
        Some(_) => {}
        None => {
            let hint = report.nearest(name, known.keys().map(String::as_str));
            let hint = hint.unwrap_or_else(|| format!("no `define {name} = …` comes before"));
            report.error(token.at, format!("unknown variable {}", quoted(&format!("${name}")))).hint(hint);
        }
    }
}

/// How many tokens there are up to the end of the statement; ends inside braces are none.
fn statement_length(tokens: &[Token]) -> usize {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Sign("{") => depth += 1,
            Kind::Sign("}") if depth == 0 => return index,
            Kind::Sign("}") => depth -= 1,
            Kind::End if depth == 0 => return index,
            _ => {}
        }
    }
    tokens.len()
}

pub(super) struct Parser<'r> {
    pub(super) tokens: Vec<Token>,
    pub(super) next: usize,
    /// The last place of the file.
    end: At,
    pub(super) report: &'r mut Report,
    ruleset: Ruleset,
}

const FAMILIES: [&str; 6] = ["ip", "ip6", "inet", "bridge", "arp", "netdev"];

impl Parser<'_> {
    pub(super) fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.next).map(|token| &token.kind)
    }

    pub(super) fn peek_word(&self) -> Option<&str> {
        match self.peek() {
            Some(Kind::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// The place of the next token.
    pub(super) fn at(&self) -> At {
        self.tokens.get(self.next).map_or(self.end, |token| token.at)
    }

    /// From a token to the last one taken.
    pub(super) fn since(&self, first: usize) -> At {
        let (from, to) = (self.tokens.get(first), self.tokens.get(self.next.saturating_sub(1)));
        match (from.map(|t| t.at), to.map(|t| t.at)) {
            (Some(from), Some(to)) => At { end: to.end.max(from.end), ..from },
            _ => self.end,
        }
    }

    pub(super) fn take_sign(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Kind::Sign(found)) if *found == sign);
        self.next += usize::from(is_it);
        is_it
    }

    pub(super) fn take_word(&mut self, wanted: &str) -> bool {
        let is_it = self.peek_word() == Some(wanted);
        self.next += usize::from(is_it);
        is_it
    }

    /// A word, or a text in quotation marks.
    pub(super) fn take_text(&mut self) -> Option<Atom> {
        let at = self.at();
        let text = match self.peek() {
            Some(Kind::Word(text) | Kind::Quoted(text)) => text.clone(),
            _ => return None,
        };
        self.next += 1;
        Some(Atom { text, at })
    }

    /// As [`Parser::take_text`]; an error says what should have stood there.
    pub(super) fn text(&mut self, what: &str) -> Option<Atom> {
        let found = self.take_text();
        if found.is_none() {
            self.expected(what);
        }
        found
    }

    pub(super) fn expected(&mut self, what: &str) {
        let found = match self.peek() {
            Some(Kind::Word(text) | Kind::Quoted(text)) => quoted(text),
            Some(Kind::Variable(name)) => quoted(&format!("${name}")),
            Some(Kind::Sign(sign)) => quoted(sign),
            Some(Kind::End) => "the end of the statement".to_owned(),
            None => "the end of the file".to_owned(),
        };
        self.report.error(self.at(), format!("expected {what}, found {found}"));
    }

    /// Skips line ends and `;`. Whether there were any.
    pub(super) fn skip_ends(&mut self) -> bool {
        let first = self.next;
        while self.peek() == Some(&Kind::End) {
            self.next += 1;
        }
        self.next > first
    }

    pub(super) fn is_at_end(&self) -> bool {
        matches!(self.peek(), None | Some(Kind::End | Kind::Sign("}")))
    }

    /// Goes to the end of the statement.
    pub(super) fn skip_statement(&mut self) {
        let length = statement_length(&self.tokens[self.next..]);
        // A stray closing brace must not stop everything.
        self.next += length.max(usize::from(self.next < self.tokens.len() && length == 0));
    }

    fn top_level(&mut self) -> Option<()> {
        let word = self.text("`table`, `define`, `add` or another command")?;
        match word.text.as_str() {
            "table" => self.table(),
            "add" | "create" | "insert" => self.added(word.text == "insert"),
            "flush" | "undefine" => {
                if word.text == "flush" && self.take_word("ruleset") {
                    self.ruleset.tables.clear();
                }
                self.skip_statement();
                Some(())
            }
            "delete" | "destroy" if self.take_word("table") => {
                let (family, name) = self.table_name()?;
                self.ruleset.tables.retain(|table| (&table.family, &table.name) != (&family, &name.text));
                Some(())
            }
            "include" => {
                let message = "`include` is not followed";
                self.report
                    .error(word.at, message)
                    .hint("what is included may change every verdict: import what `nft list ruleset` prints");
                None
            }
            other => {
                let known = ["table", "add", "create", "insert", "flush", "delete", "include", "define"];
                let hint = nearest(other, known)
                    .unwrap_or_else(|| "import what `nft list ruleset` prints".to_owned());
                self.report.error(word.at, format!("{} is not understood here", quoted(other))).hint(hint);
                None
            }
        }
    }

    fn table_name(&mut self) -> Option<(String, Atom)> {
        let family = match self.peek_word() {
            Some(word) if FAMILIES.contains(&word) => word.to_owned(),
            _ => String::new(),
        };
        self.next += usize::from(!family.is_empty());
        let name = self.text("the table's name")?;
        Some((if family.is_empty() { "ip".to_owned() } else { family }, name))
    }

    fn table_index(&mut self, family: &str, name: &str) -> usize {
        let found = self.ruleset.tables.iter().position(|table| table.family == family && table.name == name);
        found.unwrap_or_else(|| {
            let table = Table { family: family.to_owned(), name: name.to_owned(), ..Table::default() };
            self.ruleset.tables.push(table);
            self.ruleset.tables.len() - 1
        })
    }

    fn table(&mut self) -> Option<()> {
        let (family, name) = self.table_name()?;
        let table = self.table_index(&family, &name.text);
        self.block("the table's name", |parser| parser.table_part(table))
    }

    /// The parts between braces, or nothing behind `what`: a part that is not understood is skipped, its error told.
    fn block(&mut self, what: &str, mut part: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        if !self.take_sign("{") {
            return self.end_of(what);
        }
        loop {
            self.skip_ends();
            if self.take_sign("}") {
                return Some(());
            }
            if self.peek().is_none() {
                self.expected("`}`");
                return None;
            }
            if part(self).is_none() {
                self.skip_statement();
            }
        }
    }

    /// Nothing may follow.
    fn end_of(&mut self, what: &str) -> Option<()> {
        if self.is_at_end() {
            return Some(());
        }
        self.expected(&format!("the end of the statement after {what}"));
        None
    }

    fn table_part(&mut self, table: usize) -> Option<()> {
        let word = self.text("`chain`, `set` or `map`")?;
        match word.text.as_str() {
            "chain" => {
                let name = self.text("the chain's name")?;
                self.chain_body(table, name)
            }
            "set" | "map" => {
                let name = self.text("its name")?;
                self.set_body(table, name)
            }
            // What is named here is used by rules, which say so.
            "counter" | "quota" | "limit" | "flowtable" | "ct" | "meter" | "secmark" | "synproxy"
            | "flags" | "comment" => {
                self.skip_statement();
                Some(())
            }
            other => {
                let hint = nearest(other, ["chain", "set", "map", "counter", "flowtable"]);
                let message = format!("{} is not understood in a table", quoted(other));
                self.report.error(word.at, message).maybe_hint(hint);
                None
            }
        }
    }

    fn chain_index(&mut self, table: usize, name: Atom) -> usize {
        let chains = &mut self.ruleset.tables[table].chains;
        chains.iter().position(|chain| chain.name == name.text).unwrap_or_else(|| {
            let rules = Vec::new();
            chains.push(Chain { name: name.text, at: name.at, base: None, policy: None, rules });
            chains.len() - 1
        })
    }

    fn chain_body(&mut self, table: usize, name: Atom) -> Option<()> {
        let chain = self.chain_index(table, name);
        self.block("the chain's name", |parser| parser.chain_part(table, chain))
    }

    fn chain_part(&mut self, table: usize, chain: usize) -> Option<()> {
        match self.peek_word() {
            Some("type") => {
                let base = self.base()?;
                self.ruleset.tables[table].chains[chain].base = Some(base);
                Some(())
            }
            Some("policy") => {
                self.next += 1;
                let policy = self.text("`accept` or `drop`")?;
                if !["accept", "drop"].contains(&policy.text.as_str()) {
                    let message = format!("{} is not a policy", quoted(&policy.text));
                    self.report.error(policy.at, message).hint("use `accept` or `drop`");
                }
                self.ruleset.tables[table].chains[chain].policy = Some((policy.text, policy.at));
                Some(())
            }
            Some("comment") | Some("devices") => {
                self.skip_statement();
                Some(())
            }
            _ => {
                let rule = self.rule()?;
                self.ruleset.tables[table].chains[chain].rules.push(rule);
                Some(())
            }
        }
    }

    /// `type filter hook forward priority filter - 10`; the policy is a statement of its own.
    fn base(&mut self) -> Option<Base> {
        let first = self.next;
        self.next += 1;
        let kind = self.text("`filter`, `nat` or `route`")?.text;
        if !self.take_word("hook") {
            self.expected("`hook`");
            return None;
        }
        let hook = self.text("a hook such as `forward`")?.text;
        while !self.is_at_end() && self.peek_word() != Some("priority") {
            self.next += 1;
        }
        let mut priority = 0;
        if self.take_word("priority") {
            priority = self.priority()?;
        }
        Some(Base { kind, hook, priority, at: self.since(first) })
    }

    fn priority(&mut self) -> Option<i64> {
        let word = self.text("a priority")?;
        let named = [
            ("raw", -300),
            ("mangle", -150),
            ("dstnat", -100),
            ("filter", 0),
            ("security", 50),
            ("srcnat", 100),
        ];
        let mut sum = match named.iter().find(|(name, _)| *name == word.text) {
            Some((_, number)) => *number,
            None => match word.text.parse::<i32>() {
                Ok(number) => number.into(),
                Err(_) => {
                    self.report.error(word.at, format!("{} is not a priority", quoted(&word.text)));
                    return None;
                }
            },
        };
        // `filter + 10`, `filter - 10`.
        while !self.is_at_end() {
            let sign = self.text("`+`, `-` or the end")?;
            let number = if sign.text == "+" || sign.text == "-" {
                self.text("a number")?.text
            } else {
                sign.text.clone()
            };
            match number.trim_start_matches('+').parse::<i32>() {
                Ok(number) => sum += if sign.text == "-" { -i64::from(number) } else { number.into() },
                Err(_) => {
                    self.report.error(sign.at, format!("{} is not a number", quoted(&number)));
                    return None;
                }
            }
        }
        Some(sum)
    }

    fn set_index(&mut self, table: usize, name: Atom) -> usize {
        let sets = &mut self.ruleset.tables[table].sets;
        sets.iter().position(|set| set.name == name.text).unwrap_or_else(|| {
            sets.push(Set { name: name.text, elements: Vec::new(), is_dynamic: false });
            sets.len() - 1
        })
    }

    fn set_body(&mut self, table: usize, name: Atom) -> Option<()> {
        let set = self.set_index(table, name);
        self.block("its name", |parser| parser.set_part(table, set))
    }

    fn set_part(&mut self, table: usize, set: usize) -> Option<()> {
        if self.take_word("elements") {
            if !self.take_sign("=") {
                self.expected("`=`");
                return None;
            }
            let elements = self.braced()?;
            self.ruleset.tables[table].sets[set].elements.extend(elements);
            return Some(());
        }
        // The other properties say nothing of what a set holds: its type, size, time-out.
        while !self.is_at_end() {
            self.ruleset.tables[table].sets[set].is_dynamic |= self.peek_word() == Some("dynamic");
            self.next += 1;
        }
        Some(())
    }

    /// `add rule inet filter forward …` and its like.
    fn added(&mut self, first: bool) -> Option<()> {
        let what = self.text("`table`, `chain`, `rule`, `set`, `map` or `element`")?;
        if what.text == "table" {
            return self.table();
        }
        let (family, name) = self.table_name()?;
        let table = self.table_index(&family, &name.text);
        match what.text.as_str() {
            "chain" => {
                let name = self.text("the chain's name")?;
                self.chain_body(table, name)
            }
            "set" | "map" => {
                let name = self.text("its name")?;
                self.set_body(table, name)
            }
            "element" => {
                let name = self.text("the set's name")?;
                let set = self.set_index(table, name);
                let elements: Vec<Element> = self.braced()?;
                self.ruleset.tables[table].sets[set].elements.extend(elements);
                Some(())
            }
            "rule" => {
                let name = self.text("the chain's name")?;
                let chain = self.chain_index(table, name);
                if let Some("position" | "handle" | "index") = self.peek_word() {
                    let message = "a rule's place by number depends on what the kernel has";
                    self.report.error(self.at(), message).hint("import what `nft list ruleset` prints");
                    return None;
                }
                let rule = self.rule()?;
                let rules = &mut self.ruleset.tables[table].chains[chain].rules;
                rules.insert(if first { 0 } else { rules.len() }, rule);
                Some(())
            }
            "counter" | "quota" | "limit" | "flowtable" | "ct" => {
                self.skip_statement();
                Some(())
            }
            other => {
                self.report.error(what.at, format!("{} cannot be added", quoted(other)));
                None
            }
        }
    }
}
