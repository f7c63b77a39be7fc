//! The harness of the end-to-end tests: a gateway as a child process between zones of a laboratory, frames in,
//! frames out, and the ledger checked when a scenario ends.
#![forbid(unsafe_code)]

pub mod authenticator;
pub mod config;
pub mod craft;
pub mod dialogue;
pub mod flood;
pub mod frames;
pub mod gateway;
pub mod guard;
pub mod https;
pub mod nft;
pub mod passkey;
pub mod peer;
pub mod rogue;
pub mod scene;
pub mod sockets;
pub mod traffic;
pub mod workers;

use std::io::Write;
use std::time::{Duration, Instant};

/// How long a thing that must happen may take before a test fails: far more than it takes on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Whether the calling test cannot run here; says so on the terminal, past the test runner's capture.
pub fn is_skipped() -> bool {
    if bulkhead::lab::available() {
        return false;
    }
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a scenario");
    let _ = writeln!(std::io::stderr(), "SKIP {name}: network namespaces need root");
    true
}

/// Asks until the answer is yes.
///
/// # Panics
/// Panics with `what` when that takes longer than [`PATIENCE`].
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
