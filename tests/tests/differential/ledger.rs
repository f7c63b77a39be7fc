//! The ledger of deviations, `tests/deviations.md`.

use std::collections::BTreeMap;

use crate::twins::Twin;

const TEXT: &str = include_str!("../../deviations.md");

/// Every class with who lets its packet pass.
///
/// # Panics
/// Panics where the ledger is not as its head says.
pub fn classes() -> BTreeMap<&'static str, Twin> {
    let mut classes = BTreeMap::new();
    for line in TEXT.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [class, requirement, _, nftables, bulkhead, why] = cells[..] else {
            panic!("a row of six cells: {line}");
        };
        let says = |cell: &str, word: &str| cell.split([' ', ',', ';']).next() == Some(word);
        let passes = match (says(nftables, "passes"), says(bulkhead, "passes")) {
            (true, false) if says(bulkhead, "drops") => Twin::Nftables,
            (false, true) if says(nftables, "drops") => Twin::Bulkhead,
            _ => panic!("one passes and the other drops: {line}"),
        };
        assert!(!requirement.is_empty() && !why.is_empty(), "a requirement and a reason: {line}");
        let known = classes.insert(class.trim_matches('`'), passes);
        assert!(known.is_none(), "two rows for {class}");
    }
    assert!(!classes.is_empty(), "the ledger has rows");
    classes
}
