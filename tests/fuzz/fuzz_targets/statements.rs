#![no_main]

use bulkhead::{config, identity, portal, sessions, tokens};

#[path = "../invariants/statements.rs"]
mod invariants;
#[path = "../invariants/signed.rs"]
mod signed;
#[path = "../invariants/slow.rs"]
mod slow;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
