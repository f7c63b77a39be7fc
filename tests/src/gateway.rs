//! The gateway's process, and the command line beside it.

use std::io::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bulkhead::lab::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{PATIENCE, wait_until};

/// The program under test.
pub const REAL: &str = "gateway-under-test";
/// The same, with a portal that was taken over.
pub const ROGUE: &str = "gateway-with-rogue-portal";

/// The program under test.
pub fn program() -> PathBuf {
    beside(REAL)
}

/// A program of this name, which cargo builds beside the tests' own directory.
///
/// # Panics
/// Panics when there is none.
pub fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own file");
    // Tests lie in target/PROFILE/deps, other programs beside it.
    let beside = |directory: &Path| directory.join(name);
    let program = own.ancestors().skip(1).take(2).map(beside).find(|program| program.exists());
    program.expect("the program under test is built")
}

/// A process that runs the gateway; killed on drop.
pub struct Gateway {
    child: Child,
    /// Its end kills the gateway: see `src/bin/gateway-under-test.rs`.
    _guard: ChildStdin,
    output: Arc<Mutex<Vec<String>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

/// The mount namespace in which a gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// One of its own, which goes with it, as `ip netns exec` gives.
    Private,
    /// That of the tests, as `nsenter --net` gives.
    Shared,
}

/// A gateway that did not come up.
#[derive(Debug)]
pub struct Failed {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said, on both streams.
    pub output: String,
}

impl Gateway {
    /// Starts `bulkhead run` in a namespace and waits until it is ready.
    ///
    /// # Errors
    /// How it ended instead.
    ///
    /// # Panics
    /// Panics when neither happens in time.
    pub fn start(
        namespace: &Namespace,
        mounts: Mounts,
        config: &Path,
        more: &[&str],
    ) -> Result<Gateway, Failed> {
        Gateway::start_program(REAL, namespace, mounts, config, more)
    }

    /// As [`Gateway::start`], of another program.
    ///
    /// # Errors
    /// How it ended instead.
    ///
    /// # Panics
    /// Panics when neither happens in time.
    pub fn start_program(
        program: &str,
        namespace: &Namespace,
        mounts: Mounts,
        config: &Path,
        more: &[&str],
    ) -> Result<Gateway, Failed> {
        let mut command = command(program, config, more);
        let child = match mounts {
            Mounts::Private => namespace.run_with_sysfs(|| command.spawn()),
            Mounts::Shared => namespace.run(|| command.spawn()),
        };
        Gateway::watch(child.expect("the program starts"))
    }

    fn watch(mut child: Child) -> Result<Gateway, Failed> {
        let output = Arc::new(Mutex::new(Vec::new()));
        let guard = child.stdin.take().expect("it was piped");
        let readers = vec![
            read_lines(child.stdout.take().expect("it was piped"), output.clone()),
            read_lines(child.stderr.take().expect("it was piped"), output.clone()),
        ];
        let mut gateway = Gateway { child, _guard: guard, output, readers };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if gateway.output().lines().any(|line| line.starts_with("ready")) {
                return Ok(gateway);
            }
            if let Some(status) = gateway.child.try_wait().expect("it can be waited for") {
                gateway.readers.drain(..).for_each(|reader| reader.join().expect("reading its output"));
                return Err(Failed { status, output: gateway.output() });
            }
            assert!(Instant::now() < deadline, "the gateway is not ready, it said:\n{}", gateway.output());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it has said so far, on both streams.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().join("\n")
    }

    /// Waits until it has said all of this. What it says of an act may come after the act's answer, and what it says on one
    /// stream after what it said later on the other.
    pub fn expect_said(&self, parts: &[&str]) {
        for part in parts {
            wait_until(&format!("it says {part:?}"), || self.output().contains(part));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is ours and not waited for");
    }

    /// Kills it at once and waits until the kernel has taken everything from it.
    pub fn kill_9(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("it can be waited for");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Panics when it does not end in time.
    pub fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the gateway does not end, it said:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail only for a process that was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway said:\n{}\n---", self.output());
        }
    }
}

fn command(program: &str, config: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(beside(program));
    command.arg("run").arg("--config").arg(config).args(more).env("BULKHEAD_TEST_GUARD", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn read_lines(
    stream: impl Read + Send + 'static,
    into: Arc<Mutex<Vec<String>>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    })
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a verb of the command line to its end.
///
/// # Panics
/// Panics when it was killed by a signal.
pub fn run(args: &[&str]) -> Ran {
    run_with(args, "")
}

/// As [`run`], with this on its standard input.
///
/// # Panics
/// Panics when it was killed by a signal.
pub fn run_with(args: &[&str], input: &str) -> Ran {
    let mut command = Command::new(program());
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // It may not want it.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("its output is text");
    Ran {
        code: output.status.code().expect("it ends by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}
