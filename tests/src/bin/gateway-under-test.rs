//! The gateway as the end-to-end tests start it: the real program, except that it dies with the tests.
//!
//! It is a program of its own so that `cargo test --workspace` builds it without being asked.

use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A killed test run must leave nothing behind. The tests hold the other end of standard input; PR_SET_PDEATHSIG
    // does not serve, for it goes by the thread that started us.
    if std::env::var_os("BULKHEAD_TEST_GUARD").is_some() {
        std::thread::spawn(|| {
            let mut byte = [0];
            while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
            std::process::abort();
        });
    }
    bulkhead::cli::main()
}
