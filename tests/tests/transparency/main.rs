//! Whether the network notices us: real programs cross the gateway as if it were not there, and a scanner with all its
//! tricks finds what the policy opens and nothing else. Programs that are not installed are skipped with a line.

mod nmap;
mod programs;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use bulkhead::lab::Host;
use bulkhead_tests::is_skipped;

/// Where a program lies; servers must be called by their whole path.
fn path_of(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = std::env::split_paths(&path).collect();
    directories.push("/usr/sbin".into());
    let found = directories.into_iter().map(|directory| directory.join(program)).find(|file| file.is_file());
    found.unwrap_or_default()
}

/// Whether a program is missing; then a line says so.
fn lacks(program: &str) -> bool {
    let found = path_of(program).is_file();
    if !found {
        let _ = writeln!(std::io::stderr(), "SKIP: {program} is not installed");
    }
    !found || is_skipped()
}

/// Runs a program as a host of a zone does, for half a minute at most.
fn run(host: &Host, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "30", program]).args(args);
    host.namespace.run(|| command.output()).expect("the program starts")
}

/// What a program prints, which must succeed.
fn printed(host: &Host, program: &str, args: &[&str]) -> String {
    let output = run(host, program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}\n{complaints}", output.status);
    text
}
