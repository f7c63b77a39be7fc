//! The gateway, whose portal and doormen were taken over from their first moment: see [`bulkhead_tests::rogue`].

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("portal") {
        bulkhead_tests::rogue::run();
        return ExitCode::SUCCESS;
    }
    if std::env::args().nth(1).as_deref() == Some("doorman") {
        bulkhead_tests::rogue::door();
        return ExitCode::SUCCESS;
    }
    bulkhead_tests::guard::end_with_the_tests();
    bulkhead::cli::main()
}
