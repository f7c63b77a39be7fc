//! One file a scene.

pub mod attacks;
mod corporate;
pub mod crash;
pub mod identity;
pub mod reload;
pub mod traffic;

use std::time::{Duration, Instant};

use anyhow::Result;

use super::row::Finding;
use super::stage::{PATIENCE, Stage};

/// The ledger against the ports' own counters: every frame given to a worker is forwarded, dropped or held.
pub fn ledger(stage: &mut Stage<'_>) -> Result<()> {
    let tried = "the books: every packet is accounted for";
    stage.trying(tried)?;
    let gateway = stage.gateway()?;
    let deadline = Instant::now() + PATIENCE;
    let (missing, balanced, ledger) = loop {
        let status = gateway.status()?;
        let ring: u64 =
            status.ports.iter().map(|port| port.to_worker - port.rx_ring_full - port.rx_dropped).sum();
        let ledger = status.ledger;
        let accounted = ledger.forwarded + ledger.dropped + ledger.held;
        let missing = ring.abs_diff(ledger.received) + ledger.received.abs_diff(accounted);
        let balanced = ledger.balanced && status.worker_ledgers.iter().all(|worker| worker.balanced);
        // The two are read one after the other; on a quiet network they agree.
        if missing == 0 || Instant::now() > deadline {
            break (missing, balanced, ledger);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let what = if balanced { "balanced" } else { "NOT balanced" };
    let note = format!(
        "{} received = {} forwarded + {} dropped + {} waiting",
        ledger.received, ledger.forwarded, ledger.dropped, ledger.held
    );
    let happened = Finding::new(what, format!("{missing} missing"));
    stage.row(tried, Finding::new("balanced", "0 missing"), happened, Some(note));
    Ok(())
}
