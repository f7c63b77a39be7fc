#![no_main]

#[path = "../../../dataplane/tests/pipeline/gateway.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod gateway;
#[path = "../invariants/quotes.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invariants::check(bytes));
