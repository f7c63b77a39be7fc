//! The fuzz target's invariants as ordinary tests: over the committed seeds, and over random changes of them.

use std::path::Path;

use bulkhead_dataplane::wire::checksum::Sum;
use proptest::prelude::*;

#[path = "../../tests/fuzz/invariants/parse.rs"]
mod parse;

fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/parse");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn every_seed_and_every_truncation_of_it_keeps_the_invariants() {
    let seeds = seeds();
    assert!(seeds.len() >= 17);
    for seed in seeds {
        for length in 0..=seed.len() {
            parse::check(&seed[..length]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn changed_seeds_keep_the_invariants(
        pick: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let seeds = seeds();
        let mut frame = pick.get(&seeds).clone();
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        // A right header checksum lets the changes get past the first check.
        let header = 14..14 + usize::from(frame[14] & 15) * 4;
        if frame[12..14] == [8, 0] && header.len() >= 20 && header.end <= frame.len() {
            frame[24..26].fill(0);
            let sum = Sum::new().bytes(&frame[header]).checksum();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        parse::check(&frame);
    }
}
