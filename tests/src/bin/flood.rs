//! Floods a gateway and prints what honest clients noticed, a line for each kind of flood:
//!
//! ```text
//! cargo build --release -p bulkhead-tests --bins && target/release/flood [seconds] [frames per second]
//! ```
//!
//! A minute each at the full rate by default. Needs root, and makes all its traffic in namespaces of its own.

use std::process::ExitCode;
use std::time::Duration;

use bulkhead_tests::flood::{Kind, Plan, run};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let (seconds, rate) = match (arguments.next().transpose(), arguments.next().transpose()) {
        (Ok(seconds), Ok(rate)) => (seconds.unwrap_or(60).clamp(1, 600), rate.filter(|rate| *rate > 0)),
        _ => {
            eprintln!("usage: flood [seconds] [frames per second]");
            return ExitCode::from(2);
        }
    };
    let mut all_harmless = true;
    for kind in Kind::ALL {
        let duration = Duration::from_secs(seconds.into());
        let plan = Plan { kind, duration, rate, connections: 65_536, timeouts: "" };
        let Some(report) = run(&plan) else { return ExitCode::FAILURE };
        println!("{report}");
        all_harmless &= report.is_harmless();
    }
    if all_harmless { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
