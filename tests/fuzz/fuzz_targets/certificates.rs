#![no_main]

use bulkhead::identity;

#[path = "../invariants/certificates.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
