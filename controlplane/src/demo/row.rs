//! What was expected, what happened, and whether that is the same.

use serde_json::{Value, json};

/// What was seen from outside, and what decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Seen by the sockets at both ends: "answered", "no answer".
    pub what: String,
    /// The rule, or the reason where no rule decided.
    pub why: String,
}

impl Finding {
    /// From its two parts.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding { what: what.into(), why: why.into() }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The scene it belongs to.
    pub scene: &'static str,
    /// What was tried.
    pub tried: String,
    /// What the policy says should happen.
    pub expected: Finding,
    /// What happened. Its `why` comes from the gateway or from the kernel.
    pub happened: Finding,
    /// Figures that differ from run to run; not compared.
    pub note: Option<String>,
}

impl Row {
    /// Whether all of it, also the deciding rule or reason, is as expected.
    pub fn is_ok(&self) -> bool {
        self.expected == self.happened
    }

    /// The row as a JSON object.
    pub fn to_json(&self) -> Value {
        let finding = |finding: &Finding| json!({ "what": finding.what, "why": finding.why });
        json!({
            "scene": self.scene, "tried": self.tried, "expected": finding(&self.expected),
            "happened": finding(&self.happened), "note": self.note, "ok": self.is_ok(),
        })
    }
}

/// How many rows are as expected.
pub fn ok_count(rows: &[Row]) -> usize {
    rows.iter().filter(|row| row.is_ok()).count()
}

/// Whether the demonstration succeeded. One without rows shows nothing, so it did not.
pub fn all_ok(rows: &[Row]) -> bool {
    !rows.is_empty() && ok_count(rows) == rows.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(what: &str, why: &str) -> Row {
        Row {
            scene: "scene",
            tried: "something".to_owned(),
            expected: Finding::new("answered", "web-pages"),
            happened: Finding::new(what, why),
            note: None,
        }
    }

    #[test]
    fn a_row_is_ok_only_if_both_what_happened_and_why_are_as_expected() {
        assert!(row("answered", "web-pages").is_ok());
        assert!(!row("no answer", "web-pages").is_ok());
        assert!(!row("answered", "another-rule").is_ok());
        assert_eq!(row("answered", "another-rule").to_json()["ok"], false);
    }

    #[test]
    fn one_row_that_differs_fails_the_demonstration_and_so_does_an_empty_one() {
        let good = row("answered", "web-pages");
        assert!(all_ok(&[good.clone(), good.clone()]));
        assert!(!all_ok(&[good.clone(), row("no answer", "no_rule"), good]));
        assert!(!all_ok(&[]));
    }
}
