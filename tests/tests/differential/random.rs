//! Random sequences: what the two gateways do not agree about must be of a class of the ledger.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::classes::class;
use crate::dice::Dice;
use crate::generate::{Body, Connection, Oddity, Packet};
use crate::ledger;
use crate::twins::{Twin, Twins};

/// For so many seconds sequences are tried, if it is set; otherwise [`SEQUENCES`], the same ones each time, in [`SECONDS`].
const LONGER: &str = "BULKHEAD_DIFFERENTIAL_SECONDS";
/// The most seconds unless [`LONGER`] is set.
const SECONDS: u64 = 15;
/// The first sequence's seed, unless `BULKHEAD_DIFFERENTIAL_SEED` says otherwise; each further one has the next.
const SEED: u64 = 1;
/// The most packets of a sequence.
const PACKETS: usize = 60;
/// After so many the gateways are started anew: there are as many ports, one for each of so many seeds in a row. They
/// depend on the seed alone, so that a sequence is the same wherever in a run it comes.
const SEQUENCES: u16 = 4000;
/// After so many differences without a class nothing more is learnt.
const FAILURES: usize = 5;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[derive(Default)]
struct Tally {
    sequences: u64,
    packets: u64,
    differences: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

#[test]
fn random_sequences_differ_only_in_classes_of_the_ledger() {
    let limit = Duration::from_secs(setting(LONGER, SECONDS));
    let (begun, mut seed) = (Instant::now(), setting("BULKHEAD_DIFFERENTIAL_SEED", SEED));
    let classes = ledger::classes();
    let mut tally = Tally::default();
    let is_over = |tally: &Tally| begun.elapsed() >= limit || tally.failures.len() >= FAILURES;
    loop {
        let Some(twins) = Twins::start() else { return };
        // What is no connection would be one to conntrack, and end nearly every sequence early.
        twins.set_loose(false);
        for _ in 0..SEQUENCES {
            if is_over(&tally) {
                break;
            }
            sequence(&twins, seed, &classes, &mut tally);
            seed += 1;
        }
        if is_over(&tally) || std::env::var(LONGER).is_err() {
            break;
        }
    }
    let Tally { sequences, packets, differences, failures } = &tally;
    let _ =
        writeln!(std::io::stderr(), "{sequences} sequences, {packets} packets; differences: {differences:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Sends packets of one connection until the gateways do not agree, for then they know different things.
fn sequence(twins: &Twins, seed: u64, classes: &BTreeMap<&'static str, Twin>, tally: &mut Tally) {
    let number = (seed % u64::from(SEQUENCES)) as u16;
    let mut dice = Dice::new(seed);
    let mut connection = Connection::new(twins, &mut dice, number);
    let mut trace = format!(
        "seed {seed}: {:?} {:?} ports {:?}, begun by {}\n",
        connection.kind, connection.family, connection.ports, connection.originator
    );
    tally.sequences += 1;
    for _ in 0..1 + dice.below(PACKETS) {
        let (packet, frames) = connection.packet(&mut dice);
        if dice.percent(5) {
            // Lost on its way to the gateway.
            continue;
        }
        let foretold = connection.foretold(&packet);
        let mut passed = false;
        for (piece, frame) in frames.iter().enumerate() {
            tally.packets += 1;
            let [nftables, bulkhead] = twins.send(packet.from, frame);
            let twin = match (nftables.is_empty(), bulkhead.is_empty()) {
                _ if nftables == bulkhead => {
                    passed |= !nftables.is_empty();
                    continue;
                }
                (false, true) => Some(Twin::Nftables),
                (true, false) => Some(Twin::Bulkhead),
                _ => None,
            };
            let is_foretold = foretold.is_none_or(|fate| fate.passes() == (twin == Some(Twin::Nftables)));
            let found = twin.filter(|_| is_foretold).and_then(|twin| {
                class(&connection, &packet, twin, foretold).filter(|class| classes[class] == twin)
            });
            match found {
                Some(class) => *tally.differences.entry(class).or_default() += 1,
                None => {
                    let _ = write!(
                        trace,
                        "  {} {foretold:?}: frame {piece} of {}: only {twin:?} passed it\n{}",
                        told(&packet),
                        frames.len(),
                        connection.story
                    );
                    tally.failures.push(trace);
                }
            }
            return;
        }
        let outcome = if passed { "passed" } else { "dropped" };
        let _ = writeln!(trace, "  {}: {outcome}, conntrack: {foretold:?}", told(&packet));
        if frames.len() > 1 {
            let _ = writeln!(trace, "    in {} frames", frames.len());
        }
        if foretold.is_some_and(|fate| fate.passes() != passed) {
            let _ = write!(trace, "  which is not what `conntrack.rs` foretells");
            tally.failures.push(trace);
            return;
        }
        if !passed && matches!(packet.oddity, Some(Oddity::Again | Oddity::Overlap)) {
            // Whether the datagram was whole to conntrack depends on how it was put together.
            return;
        }
        let reaches = dice.percent(92);
        match (&packet.body, passed) {
            (_, true) => connection.passed(&packet, reaches),
            (Body::Tcp(segment), false) if packet.is_right() => {
                connection.story.drops(packet.from, segment);
            }
            _ => {}
        }
        if let (Body::Tcp(segment), Some(fate)) = (&packet.body, foretold) {
            connection.causes.update(&connection.conntrack, fate, &connection.story, packet.from, segment);
        }
    }
}

/// A packet in a line.
fn told(packet: &Packet) -> String {
    let what = match &packet.body {
        Body::Tcp(segment) => {
            let header = &segment.header;
            let flags: String = [
                (header.syn, 'S'),
                (header.fin, 'F'),
                (header.rst, 'R'),
                (header.psh, 'P'),
                (header.ack, 'A'),
                (header.urg, 'U'),
            ]
            .iter()
            .filter_map(|(set, letter)| set.then_some(*letter))
            .collect();
            format!(
                "{flags} seq {} ack {} window {} {} bytes",
                header.sequence_number,
                header.acknowledgment_number,
                header.window_size,
                segment.payload.len()
            )
        }
        Body::Error { about, quoted } => {
            let kind = &packet.whole[packet.whole.len() - quoted - 8..][..8];
            format!("error {kind:?} in {quoted} bytes about {}", told(about))
        }
        other => format!("{other:?} {:02x?}", &packet.whole[..packet.whole.len().min(80)]),
    };
    format!(
        "from {} {what} {}",
        packet.from,
        packet.oddity.map(|oddity| format!("{oddity:?}")).unwrap_or_default()
    )
}
