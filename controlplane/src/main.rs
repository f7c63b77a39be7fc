//! Arguments → command → exit code.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    bulkhead::cli::main()
}
