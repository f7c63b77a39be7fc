#![no_main]

use bulkhead::{config, identity, portal};

#[path = "../invariants/radius.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
