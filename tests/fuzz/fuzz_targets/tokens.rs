#![no_main]

use bulkhead::tokens;

#[path = "../invariants/tokens.rs"]
mod invariants;
#[path = "../invariants/signed.rs"]
mod signed;
#[path = "../invariants/slow.rs"]
mod slow;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
