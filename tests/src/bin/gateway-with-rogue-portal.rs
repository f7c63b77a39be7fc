//! The gateway, whose portal's process was taken over from its first moment: see [`bulkhead_tests::rogue`].

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("portal") {
        bulkhead_tests::rogue::run();
        return ExitCode::SUCCESS;
    }
    bulkhead_tests::guard::end_with_the_tests();
    bulkhead::cli::main()
}
