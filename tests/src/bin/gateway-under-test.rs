//! The gateway as the end-to-end tests start it: the real program, except that it dies with the tests.
//!
//! It is a program of its own so that `cargo test --workspace` builds it without being asked.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_tests::guard::end_with_the_tests();
    bulkhead::cli::main()
}
