#![no_main]

use bulkhead::tokens;

#[path = "../invariants/tokens.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
