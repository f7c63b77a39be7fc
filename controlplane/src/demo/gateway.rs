//! The gateway of the demonstration: this very program as `bulkhead run`, asked like any other gateway.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::probe::Tuple;
use crate::api::types::{Connection, DropRow, Filter, Status};
use crate::api::{Reply, Request, client};
use crate::lab::Lab;

/// How long a gateway may take to start.
const START: Duration = Duration::from_secs(30);
/// How often a starting gateway is asked whether it runs.
const START_CHECK: Duration = Duration::from_millis(5);
/// How many events the follower begins with: all there can be after a start.
const EVENTS: u64 = 10_000;

/// Becomes `bulkhead run`, and dies with the process that started this one.
///
/// The parent's death is noticed by its thread, so that even `kill -9` of the demonstration leaves no gateway behind.
pub fn become_gateway(config: &Path, parent: i32) -> Result<std::convert::Infallible> {
    set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before the line above.
    if nix::unistd::getppid().as_raw() != parent {
        bail!("the demonstration is gone");
    }
    let error = Command::new(std::env::current_exe()?).arg("run").arg("--config").arg(config).exec();
    Err(error).context("starting the gateway")
}

/// The child process, with the thread that the kernel takes for its parent.
struct Process {
    child: Child,
    done: Option<Sender<()>>,
    parent: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts the gateway in the laboratory, its output in a file.
    fn start(lab: &Arc<Lab>, config: &Path, log: &Path) -> Result<Process> {
        let file = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["demo", "--become-gateway"])
            .arg(config)
            .args(["--parent", &std::process::id().to_string()])
            // Out of the terminal's reach: at Ctrl-C it is the demonstration that ends it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let (done, wait) = mpsc::channel::<()>();
        let (started, child) = mpsc::channel();
        let lab = lab.clone();
        // The thread stays: a child with a parent-death signal dies with the thread that made it.
        let parent = std::thread::Builder::new().name("gateway".to_owned()).spawn(move || {
            lab.gateway.run_with_sysfs(move || {
                let _ = started.send(command.spawn());
                let _ = wait.recv();
            });
        })?;
        let child =
            child.recv().context("the thread for the gateway ended")?.context("starting the gateway")?;
        Ok(Process { child, done: Some(done), parent: Some(parent) })
    }

    /// `kill -9`.
    fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.done.take());
        if let Some(parent) = self.parent.take() {
            let _ = parent.join();
        }
    }
}

/// Everything the gateway has told of its connections.
#[derive(Default)]
struct Feed {
    events: Mutex<Vec<Value>>,
    more: Condvar,
}

/// A running gateway.
pub struct Gateway {
    process: Process,
    control: PathBuf,
    feed: Arc<Feed>,
    /// From its start to its first answer.
    pub started_in: Duration,
}

impl Gateway {
    /// Starts it and waits until it answers.
    pub fn start(lab: &Arc<Lab>, config: &Path, control: &Path, log: &Path) -> Result<Gateway> {
        let begun = Instant::now();
        let mut process = Process::start(lab, config, log)?;
        loop {
            if let Ok(Reply::Status(_)) = ask(control, &Request::Status) {
                break;
            }
            if let Some(status) = process.child.try_wait()? {
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("the gateway did not start ({status}):\n{}", said.trim_end());
            }
            if begun.elapsed() > START {
                bail!("the gateway does not answer after {} s", START.as_secs());
            }
            std::thread::sleep(START_CHECK);
        }
        let started_in = begun.elapsed();
        let feed = Arc::new(Feed::default());
        follow(control, feed.clone())?;
        Ok(Gateway { process, control: control.to_owned(), feed, started_in })
    }

    /// Starts it where it shall refuse; what it said. `None` if it did start.
    pub fn refusal(lab: &Arc<Lab>, config: &Path, control: &Path, log: &Path) -> Result<Option<String>> {
        fs::write(log, "")?;
        match Gateway::start(lab, config, control, log) {
            Ok(_) => Ok(None),
            Err(_) => Ok(Some(fs::read_to_string(log)?)),
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        Ok(())
    }

    /// Runs a verb of the command line against it.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let program = std::env::current_exe()?;
        Ok(Command::new(program).args(arguments).arg("--control").arg(&self.control).output()?)
    }

    /// The first event that concerns this attempt, or `None` after so long.
    pub fn event(&self, tuple: &Tuple, patience: Duration) -> Option<Value> {
        let protocol = protocol_name(tuple.protocol);
        let concerned = |event: &Value| {
            event["protocol"] == protocol
                && event["source"] == tuple.source.to_string()
                && event["source_port"] == tuple.source_port
                && event["destination"] == tuple.destination.to_string()
        };
        self.wait(patience, |events| events.iter().find(|event| concerned(event)).cloned())
    }

    /// Waits until what is looked for among the events is found, or so long.
    pub fn wait<T>(&self, patience: Duration, find: impl Fn(&[Value]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut events = self.feed.events.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&events) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            events = self.feed.more.wait_timeout(events, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks it for something that has one answer.
    pub fn request(&self, request: &Request) -> Result<Reply> {
        ask(&self.control, request)
    }

    /// How it is.
    pub fn status(&self) -> Result<Status> {
        match ask(&self.control, &Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// The packets dropped for each reason.
    pub fn drops(&self) -> Result<Vec<DropRow>> {
        match ask(&self.control, &Request::Drops)? {
            Reply::Drops(rows) => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    /// The live TCP connection of this attempt.
    pub fn connection(&self, tuple: &Tuple) -> Result<Option<Connection>> {
        let filter = Filter { source: Some(tuple.source.to_string()), ..Filter::default() };
        let mut answer = client::ask(&self.control, &Request::Connections { filter, limit: 10_000 })?;
        let mut found = None;
        while let Some(reply) = answer.read().map_err(failed)? {
            if let Reply::Connection(connection) = reply
                && connection.source_port == tuple.source_port
                && connection.protocol == protocol_name(tuple.protocol)
            {
                found = Some(connection);
            }
        }
        Ok(found)
    }
}

fn protocol_name(number: u8) -> &'static str {
    use bulkhead_dataplane::headers::protocol;
    match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMP => "icmp",
        _ => "icmpv6",
    }
}

/// Collects the events until the gateway goes away.
fn follow(control: &Path, feed: Arc<Feed>) -> Result<()> {
    let mut answer = client::ask(control, &Request::Events { last: EVENTS, follow: true })?;
    std::thread::Builder::new().name("events".to_owned()).spawn(move || {
        while let Ok(Some(reply)) = answer.read() {
            if let Reply::Event(event) = reply {
                feed.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                feed.more.notify_all();
            }
        }
    })?;
    Ok(())
}

fn ask(control: &Path, request: &Request) -> Result<Reply> {
    let mut answer = client::ask(control, request)?;
    answer.read().map_err(failed)?.context("the gateway's answer is empty")
}

fn failed(failure: client::Failure) -> anyhow::Error {
    match failure {
        client::Failure::Refused(refusal) => anyhow!(refusal.message),
        client::Failure::Broken(error) => error,
    }
}

fn unexpected(reply: &Reply) -> anyhow::Error {
    anyhow!("the gateway's answer does not fit the question: {reply:?}")
}
