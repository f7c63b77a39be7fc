//! Byte counts, whose upper half stands beside the entries.

use super::*;

#[test]
fn bytes_are_counted_beyond_4_gib_and_from_nothing_by_whoever_has_the_entry_next() {
    const PACKET: usize = 65_535;
    const PACKETS: usize = 2 * (1 << 32) / PACKET + 10;
    let mut bench = Bench::new(1, 100);
    let bytes = |table: &Table| -> Vec<_> {
        table.v4.summaries(0, at(1)).map(|(_, summary)| summary.bytes).collect()
    };
    let hit = bench.open_new(&tuple(1, UDP), at(0));
    let back = Hit { direction: Direction::Reply, ..hit };
    (0..PACKETS).for_each(|_| bench.table.v4.count(hit, PACKET));
    (0..PACKETS / 2).for_each(|_| bench.table.v4.account(back, PACKET, at(0)));
    let expected = [PACKETS * PACKET, PACKETS / 2 * PACKET].map(|bytes| bytes as u64);
    assert!(expected[0] > 2 << 32 && expected[1] > 1 << 32);
    assert_eq!(bytes(&bench.table), [expected]);
    let ended = bench.table.v4.remove(&mut bench.worker, hit, at(1)).unwrap();
    assert_eq!(ended.bytes, expected);
    let entries = bench.table.v4.entries.len();
    let has_it_again = (0..2 * entries).any(|_| {
        bench.worker.quiesce();
        let next = bench.open_new(&tuple(1, UDP), at(0));
        assert_eq!(bytes(&bench.table), [[0, 0]]);
        bench.table.v4.remove(&mut bench.worker, next, at(1)).unwrap();
        next.entry == hit.entry
    });
    assert!(has_it_again);
}
