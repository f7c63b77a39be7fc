#![no_main]

use bulkhead::{identity, sessions, tokens};

#[path = "../invariants/events.rs"]
mod invariants;
#[path = "../invariants/signed.rs"]
mod signed;
#[path = "../invariants/slow.rs"]
mod slow;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
