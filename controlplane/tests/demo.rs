//! `bulkhead demo` as a user meets it: the real thing, its table, and nothing left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The demonstration takes under 30 s; a debug build beside other tests on few CPUs gets three times that.
const LIMIT: Duration = Duration::from_secs(90);

/// One demonstration at a time: each wants the CPUs for itself.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for this test's turn; `None` where it cannot run.
fn turn() -> Option<MutexGuard<'static, ()>> {
    if !bulkhead::lab::available() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    // A failure of another test spoils nothing here.
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The processes of this machine that run the demonstration's gateway, by the directory that belongs to its process.
fn gateways_of(demo: u32) -> Vec<u32> {
    let config = directory_of(demo).join("demo.toml").display().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|argument| argument == config)
    })
    .collect()
}

fn directory_of(demo: u32) -> PathBuf {
    std::env::temp_dir().join(format!("bulkhead-demo-{demo}"))
}

/// The interfaces of the test's own namespace.
fn interfaces() -> BTreeSet<String> {
    fs::read_dir("/sys/class/net").unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect()
}

/// Runs it to its end; its process number, output and how long it took.
fn finished(arguments: &[&str]) -> (u32, Output, Duration) {
    let begun = Instant::now();
    let child = demo(arguments).spawn().unwrap();
    let pid = child.id();
    (pid, child.wait_with_output().unwrap(), begun.elapsed())
}

fn assert_nothing_is_left(pid: u32, interfaces_before: &BTreeSet<String>) {
    assert_eq!(gateways_of(pid), [] as [u32; 0], "a gateway is left");
    assert!(!directory_of(pid).exists(), "the temporary directory is left");
    assert_eq!(&interfaces(), interfaces_before);
}

#[test]
fn every_line_is_as_the_policy_says_and_nothing_is_left_behind() {
    let Some(_turn) = turn() else { return };
    let before = interfaces();
    let (pid, output, took) = finished(&["-o", "json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let rows = json["rows"].as_array().unwrap();
    let differing: Vec<_> = rows.iter().filter(|row| row["ok"] != true).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!((output.status.code(), &json["ok"]), (Some(0), &true.into()), "{said}");
    assert_eq!(json["rows_ok"], rows.len());
    // Each of these must have been shown, with what decided it.
    for (tried, what, why) in [
        ("clients → web: web page, tcp/443", "answered", "web-pages"),
        ("clients → web: login, tcp/22", "no answer", "no_rule"),
        ("clients → db: database, tcp/5432", "refused at once", "not-into-db"),
        ("db → clients: web page, tcp/443", "no answer", "db-stays-home"),
        ("clients → db as if from web, tcp/5432", "no answer", "spoofed_source"),
        ("clients → web: scan of tcp/1–1000", "open: 80, 443", "no_rule × 998"),
        ("download on tcp/8080, whose rule goes", "cut", "policy_revoked"),
        ("download on tcp/443 beside it", "complete", "web-pages"),
        ("download, killed in the middle of it", "cut", "steering stays"),
        ("the same with kernel forwarding on", "no answer", "steering stays"),
        ("no gateway, kernel forwards: the same", "crosses", "no gateway"),
    ] {
        let row =
            rows.iter().find(|row| row["tried"] == tried).unwrap_or_else(|| panic!("{tried} is missing"));
        assert_eq!(
            (&row["happened"]["what"], &row["happened"]["why"]),
            (&what.into(), &why.into()),
            "{tried}"
        );
    }
    let throughput = &json["throughput"];
    let is_measured = throughput["rows"].as_array().is_some_and(|rows| rows.len() == 2);
    assert!(is_measured || throughput["skipped"].is_string(), "{throughput:#}");
    assert!(took < LIMIT, "{took:?}");
    assert_nothing_is_left(pid, &before);
}

#[test]
fn the_table_fits_100_columns_and_has_no_colour_in_a_file() {
    let Some(_turn) = turn() else { return };
    let (pid, output, _) = finished(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert!(!line.contains('\x1b') && !line.contains('\r'), "{line:?}");
    }
    let rows = text.lines().filter(|line| line.ends_with(" ok")).count();
    assert!(rows > 20 && text.contains(&format!("{rows} of {rows} as the policy says")), "{text}");
    assert_eq!(gateways_of(pid), [] as [u32; 0]);
}

#[test]
fn killed_in_the_middle_it_takes_its_gateway_along() {
    let Some(_turn) = turn() else { return };
    let before = interfaces();
    let mut child = demo(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let deadline = Instant::now() + LIMIT;
    while gateways_of(pid).is_empty() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "no gateway was started");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while !gateways_of(pid).is_empty() {
        assert!(Instant::now() < deadline, "the gateway outlives the demonstration");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(interfaces(), before);
    // This much a SIGKILL leaves.
    fs::remove_dir_all(directory_of(pid)).unwrap();
}

#[test]
fn interrupted_it_says_so_and_cleans_up() {
    let Some(_turn) = turn() else { return };
    let before = interfaces();
    let child = demo(&[]).spawn().unwrap();
    let pid = child.id();
    let deadline = Instant::now() + LIMIT;
    while gateways_of(pid).is_empty() {
        assert!(Instant::now() < deadline, "no gateway was started");
        std::thread::sleep(Duration::from_millis(5));
    }
    let process = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("interrupted"), "{said}");
    assert_nothing_is_left(pid, &before);
}

#[test]
fn without_root_it_says_what_to_do() {
    let Some(_turn) = turn() else { return };
    use std::os::unix::process::CommandExt;
    // The program may lie where an ordinary user cannot reach it.
    let program = std::env::temp_dir().join(format!("bulkhead-demo-test-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_bulkhead"), &program).unwrap();
    let output = Command::new(&program).arg("demo").uid(65_534).gid(65_534).output();
    fs::remove_file(&program).unwrap();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("needs root") && said.contains("sudo"), "{said}");
}
