#![no_main]

use bulkhead::portal;

#[path = "../invariants/forms.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
