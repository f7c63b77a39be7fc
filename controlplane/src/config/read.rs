//! Reads TOML tables key by key. Unlike a derived `Deserialize`, which stops at the first error, it notes every
//! wrong type and every unknown key with its place and goes on.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{At, Diagnostic, Located, Report, nearest, quoted};

/// A TOML value with its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

#[cfg(test)]
thread_local! {
    /// The keys that were asked for, by what their table is called.
    pub(super) static KNOWN: std::cell::RefCell<
        std::collections::BTreeMap<&'static str, std::collections::BTreeSet<&'static str>>,
    > = const { std::cell::RefCell::new(std::collections::BTreeMap::new()) };
}

/// Reads one file.
pub(super) struct Reader<'r> {
    pub file: u32,
    pub report: &'r mut Report,
}

/// A table being read: remembers which keys were asked for.
pub(super) struct Table<'d, 'i> {
    table: &'d DeTable<'i>,
    /// What it is called in messages: "[gateway]", "a rule".
    what: &'static str,
    pub at: At,
    known: Vec<&'static str>,
    /// The marks of all keys that are there: most that are asked for are not.
    marks: u64,
}

/// A bit that differs for most different keys.
fn mark(key: &str) -> u64 {
    let first = key.bytes().next().unwrap_or(0);
    1 << ((usize::from(first) + 11 * key.len()) % 64)
}

impl<'d, 'i> Table<'d, 'i> {
    pub fn new(table: &'d DeTable<'i>, what: &'static str, at: At) -> Self {
        let marks = table.iter().fold(0, |marks, (key, _)| marks | mark(key.get_ref()));
        Table { table, what, at, known: Vec::new(), marks }
    }

    /// The value of this key, which from now on is a known one.
    pub fn take(&mut self, key: &'static str) -> Option<&'d Value<'i>> {
        if self.known.capacity() == 0 {
            // As many as a rule is asked for: one allocation instead of three.
            self.known.reserve(20);
        }
        self.known.push(key);
        if self.marks & mark(key) == 0 {
            return None;
        }
        self.table.get(key)
    }

    /// All entries: for tables whose keys are names.
    pub fn entries(&self) -> impl Iterator<Item = (&'d Spanned<std::borrow::Cow<'i, str>>, &'d Value<'i>)> {
        self.table.iter()
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl Reader<'_> {
    /// A place in this file.
    pub fn at(&self, span: Range<usize>) -> At {
        At { file: self.file, start: span.start as u32, end: span.end as u32 }
    }

    pub fn mismatch(&mut self, value: &Value<'_>, expected: &str) -> &mut Diagnostic {
        let at = self.at(value.span());
        self.report.error(at, format!("expected {expected}, found {}", kind(value.get_ref())))
    }

    pub fn string(&mut self, value: Option<&Value<'_>>) -> Option<Located<String>> {
        let value = value?;
        let Some(text) = value.get_ref().as_str() else {
            self.mismatch(value, "a string");
            return None;
        };
        let at = self.at(value.span());
        // Texts are printed on terminals by many commands; none of them should have to think of escape sequences.
        let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !plain && text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            self.report.error(at, "control characters do not belong here");
            return None;
        }
        Some(Located { value: text.to_owned(), at })
    }

    /// A string, or a list of strings. An empty list is an error: it would match nothing while looking like a rule.
    pub fn strings(&mut self, value: Option<&Value<'_>>) -> Option<Vec<Located<String>>> {
        let value = value?;
        let DeValue::Array(array) = value.get_ref() else {
            if value.get_ref().as_str().is_none() {
                self.mismatch(value, "a string or a list of strings");
                return None;
            }
            return self.string(Some(value)).map(|s| vec![s]);
        };
        if array.is_empty() {
            let at = self.at(value.span());
            self.report.error(at, "this list is empty").hint("name at least one, or leave the key out");
        }
        Some(array.iter().filter_map(|item| self.string(Some(item))).collect())
    }

    pub fn integer(&mut self, value: Option<&Value<'_>>, range: Range<u64>) -> Option<Located<u64>> {
        let value = value?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.mismatch(value, "an integer");
            return None;
        };
        let at = self.at(value.span());
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(Located { value: number, at }),
            _ => {
                let message = format!("{} is out of range", quoted(&integer.to_string()));
                let hint = format!("from {} to {}", range.start, range.end - 1);
                self.report.error(at, message).hint(hint);
                None
            }
        }
    }

    pub fn boolean(&mut self, value: Option<&Value<'_>>) -> Option<Located<bool>> {
        let value = value?;
        let DeValue::Boolean(boolean) = value.get_ref() else {
            self.mismatch(value, "true or false");
            return None;
        };
        Some(Located { value: *boolean, at: self.at(value.span()) })
    }

    pub fn table<'d, 'i>(
        &mut self,
        value: Option<&'d Value<'i>>,
        what: &'static str,
    ) -> Option<Table<'d, 'i>> {
        let value = value?;
        let DeValue::Table(table) = value.get_ref() else {
            self.mismatch(value, "a table");
            return None;
        };
        Some(Table::new(table, what, self.at(value.span())))
    }

    /// The tables of `[[name]]`.
    pub fn tables<'d, 'i>(&mut self, value: Option<&'d Value<'i>>, what: &'static str) -> Vec<Table<'d, 'i>> {
        let Some(value) = value else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.mismatch(value, "a list of tables (write the header in double brackets)");
            return Vec::new();
        };
        array.iter().filter_map(|item| self.table(Some(item), what)).collect()
    }

    /// The named tables of `[what.NAME]`.
    pub fn named<'d, 'i>(
        &mut self,
        value: Option<&'d Value<'i>>,
        what: &'static str,
    ) -> Vec<(Located<String>, Table<'d, 'i>)> {
        let Some(table) = self.table(value, what) else { return Vec::new() };
        let mut named = Vec::new();
        for (key, value) in table.entries() {
            let name = Located { value: key.get_ref().to_string(), at: self.at(key.span()) };
            if let Some(inner) = self.table(Some(value), what) {
                named.push((name, inner));
            }
        }
        named
    }

    /// Reports the keys that nobody asked for. `later` are keys that a later version will know: they restrict, so
    /// ignoring one would open what its author meant to close.
    pub fn finish(&mut self, table: Table<'_, '_>, later: &[&str]) {
        #[cfg(test)]
        KNOWN.with_borrow_mut(|known| {
            known.entry(table.what).or_default().extend(table.known.iter().copied())
        });
        for (key, _) in table.entries() {
            let name = key.get_ref().as_ref();
            if table.known.contains(&name) {
                continue;
            }
            let at = self.at(key.span());
            if later.contains(&name) {
                self.report.error(at, format!("{} is not supported by this version yet", quoted(name))).hint(
                    "it is refused rather than ignored, because what looks restricted must be; take it out",
                );
                continue;
            }
            let mut known: Vec<&str> = Vec::new();
            // Some are asked for twice.
            for key in &table.known {
                if !known.contains(key) {
                    known.push(key);
                }
            }
            let hint = nearest(name, known.iter().copied())
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            self.report.error(at, format!("unknown key {} in {}", quoted(name), table.what)).hint(hint);
        }
    }
}
