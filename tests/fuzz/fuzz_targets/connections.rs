#![no_main]

use bulkhead::portal;

#[path = "../invariants/connections.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
