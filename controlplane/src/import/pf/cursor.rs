//! The tokens of one statement.

use super::super::lexer::{Kind, Token};
use crate::config::diagnostics::{At, Report, quoted};

/// Goes through tokens.
pub(super) struct Cursor<'t> {
    tokens: &'t [Token],
    next: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(tokens: &'t [Token]) -> Cursor<'t> {
        Cursor { tokens, next: 0 }
    }

    pub(super) fn peek(&self) -> Option<&'t Kind> {
        self.tokens.get(self.next).map(|token| &token.kind)
    }

    /// The next word, or text in quotation marks.
    pub(super) fn peek_word(&self) -> Option<&'t str> {
        match self.peek() {
            Some(Kind::Word(text) | Kind::Quoted(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn skip(&mut self) {
        self.next += 1;
    }

    pub(super) fn is_done(&self) -> bool {
        self.next >= self.tokens.len()
    }

    /// The place of the next token, or of the last.
    pub(super) fn at(&self) -> At {
        let token = self.tokens.get(self.next).or(self.tokens.last());
        token.map_or(At { file: 0, start: 0, end: 0 }, |token| token.at)
    }

    /// The whole statement.
    pub(super) fn whole(&self) -> At {
        match (self.tokens.first(), self.tokens.last()) {
            (Some(first), Some(last)) => At { end: last.at.end.max(first.at.end), ..first.at },
            _ => self.at(),
        }
    }

    pub(super) fn take_word(&mut self, wanted: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Kind::Word(word)) if word == wanted);
        self.next += usize::from(is_it);
        is_it
    }

    pub(super) fn take_sign(&mut self, wanted: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Kind::Sign(sign)) if *sign == wanted);
        self.next += usize::from(is_it);
        is_it
    }

    pub(super) fn text(&mut self, what: &str, report: &mut Report) -> Option<&'t str> {
        match self.peek_word() {
            Some(word) => {
                self.next += 1;
                Some(word)
            }
            None => {
                self.expected(what, report);
                None
            }
        }
    }

    pub(super) fn expected(&self, what: &str, report: &mut Report) {
        let found = match self.peek() {
            Some(Kind::Word(text) | Kind::Quoted(text)) => quoted(text),
            Some(Kind::Variable(name)) => quoted(&format!("${name}")),
            Some(Kind::Sign(sign)) => quoted(sign),
            Some(Kind::End) | None => "the end of the statement".to_owned(),
        };
        report.error(self.at(), format!("expected {what}, found {found}"));
    }

    /// One item, or a list of them in braces, with or without commas; `each` reads one.
    pub(super) fn list(
        &mut self,
        report: &mut Report,
        mut each: impl FnMut(&mut Self, &mut Report) -> Option<()>,
    ) -> Option<()> {
        if !self.take_sign("{") {
            return each(self, report);
        }
        let mut depth = 1;
        while depth > 0 {
            if self.take_sign("}") {
                depth -= 1;
            } else if self.take_sign("{") {
                depth += 1;
            } else if self.peek() == Some(&Kind::End) {
                self.skip();
            } else if self.take_sign(",") {
            } else if self.is_done() {
                self.expected("`}`", report);
                return None;
            } else {
                each(self, report)?;
            }
        }
        Some(())
    }

    /// Skips what stands in parentheses, and gives it as text.
    pub(super) fn parentheses(&mut self) -> String {
        let mut depth = 0usize;
        let mut words = Vec::new();
        while let Some(kind) = self.peek() {
            match kind {
                Kind::Sign("(") => depth += 1,
                Kind::Sign(")") => depth = depth.saturating_sub(1),
                Kind::Word(text) | Kind::Quoted(text) => words.push(text.as_str()),
                _ => {}
            }
            if depth == 0 && words.is_empty() && *kind != Kind::Sign(")") {
                break;
            }
            self.next += 1;
            if depth == 0 {
                break;
            }
        }
        words.join(" ")
    }

    /// What is left.
    pub(super) fn rest(&mut self) -> &'t [Token] {
        let rest = &self.tokens[self.next.min(self.tokens.len())..];
        self.next = self.tokens.len();
        rest
    }
}
