//! The invariants of the control plane's fuzz targets as ordinary tests: over the committed seeds, and over random changes
//! of them.

use std::path::Path;

use bulkhead::{config, identity, portal, sessions, tokens};
use proptest::prelude::*;

#[path = "../../tests/fuzz/invariants/certificates.rs"]
mod certificates;
#[path = "../../tests/fuzz/invariants/connections.rs"]
mod connections;
#[path = "../../tests/fuzz/invariants/events.rs"]
mod events;
#[path = "../../tests/fuzz/invariants/forms.rs"]
mod forms;
#[path = "../../tests/fuzz/invariants/radius.rs"]
mod radius;
#[path = "../../tests/fuzz/invariants/signed.rs"]
mod signed;
#[path = "../../tests/fuzz/invariants/slow.rs"]
mod slow;
#[path = "../../tests/fuzz/invariants/statements.rs"]
mod statements;
// By this name it would hide the library's module, which the invariants name.
#[path = "../../tests/fuzz/invariants/tokens.rs"]
mod token;
#[path = "../../tests/fuzz/invariants/wire.rs"]
mod wire;

/// A target: its name, its function, and how many seeds it has at least.
type Target = (&'static str, fn(&[u8]), usize);

const TARGETS: [Target; 8] = [
    ("certificates", certificates::check, 50),
    ("connections", connections::check, 65),
    ("events", events::check, 30),
    ("forms", forms::check, 20),
    ("radius", radius::check, 20),
    ("statements", statements::check, 20),
    ("tokens", token::check, 8),
    ("wire", wire::check, 27),
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn every_seed_and_every_truncation_of_it_keeps_the_invariants() {
    for (name, check, least) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() >= least, "{name}");
        for seed in seeds {
            (0..=seed.len()).for_each(|length| check(&seed[..length]));
        }
    }
}

/// A change of a seed.
#[derive(Clone, Debug)]
enum Change {
    Replace(u8),
    Insert(Vec<u8>),
    Remove(usize),
    /// What stands there goes on as another seed does.
    Splice(prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Change)>> {
    let change = prop_oneof![
        4 => any::<u8>().prop_map(Change::Replace),
        1 => prop::collection::vec(any::<u8>(), 1..9).prop_map(Change::Insert),
        1 => (1_usize..9).prop_map(Change::Remove),
        1 => any::<prop::sample::Index>().prop_map(Change::Splice),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), change), 1..5)
}

fn changed(bytes: &mut Vec<u8>, at: usize, change: Change, seeds: &[Vec<u8>]) {
    match change {
        Change::Replace(byte) => bytes.splice(at..(at + 1).min(bytes.len()), [byte]).for_each(drop),
        Change::Insert(more) => bytes.splice(at..at, more).for_each(drop),
        Change::Remove(count) => bytes.drain(at..(at + count).min(bytes.len())).for_each(drop),
        Change::Splice(other) => {
            let other = other.get(seeds);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn changed_seeds_keep_the_invariants(
        target in prop::sample::select(&TARGETS[..]),
        pick: prop::sample::Index,
        changes in changes(),
    ) {
        let (name, check, _) = target;
        let seeds = seeds(name);
        let mut bytes = pick.get(&seeds).clone();
        for (at, change) in changes {
            let at = at.index(bytes.len() + 1);
            changed(&mut bytes, at, change, &seeds);
        }
        check(&bytes);
    }
}
