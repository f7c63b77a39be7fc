//! How the programs under test end with the tests that have started them.

use std::io::Read;

/// Ends this process when the tests go: a killed test run must leave nothing behind. The tests hold the other end of
/// standard input; PR_SET_PDEATHSIG does not serve, for it goes by the thread that started us.
pub fn end_with_the_tests() {
    if std::env::var_os("BULKHEAD_TEST_GUARD").is_some() {
        std::thread::spawn(|| {
            let mut byte = [0];
            while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
            std::process::abort();
        });
    }
}
