//! A new policy while two downloads run: one is cut in the middle, the other does not notice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::demo::probe::{Probe, Seen, Service, Tuple};
use crate::demo::row::Finding;
use crate::demo::servers::file_byte;
use crate::demo::stage::{Family, PATIENCE, Stage};

/// Length of the file that comes to its end, bytes.
const FILE: usize = 24_000_000;
/// Length of a file that is cut: long enough that it cannot end before, however slowly this machine does the rest.
pub const ENDLESS: usize = 10 * FILE;
/// How much of the files has come when the policy changes, and how much of the other comes before the cut one is looked at.
pub const SHARE: usize = FILE / 4;
/// How long a whole download may take.
const DOWNLOAD: Duration = Duration::from_secs(12);

/// Plays it.
pub fn play(stage: &mut Stage<'_>) -> Result<()> {
    stage.scene("A new policy while it runs");
    bad_reload(stage)?;
    downloads(stage)?;
    stage.attempt("clients", "web", "new download", Service::Tcp(8080))?;
    super::ledger(stage)
}

/// A configuration with a mistake changes nothing.
fn bad_reload(stage: &mut Stage<'_>) -> Result<()> {
    let tried = "reload of a file with a misspelt segment";
    stage.trying(tried)?;
    let before = stage.gateway()?.status()?.generation;
    stage.write_config(&stage.configuration(false).replacen("to = \"web\"", "to = \"wbe\"", 1))?;
    let output = stage.gateway()?.command(&["reload"])?;
    let after = stage.gateway()?.status()?.generation;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = if output.status.success() { "accepted" } else { "refused" };
    let why = |generation| format!("generation {generation}");
    let expected = Finding::new("refused", why(before));
    stage.row(tried, expected, Finding::new(refused, why(after)), diagnostic(&said));
    Ok(())
}

/// The first diagnostic in one line: what is wrong, where, and the hint.
fn diagnostic(said: &str) -> Option<String> {
    let after = |mark: &str| said.lines().find_map(|line| Some(line.split_once(mark)?.1.trim().to_owned()));
    let what = said.lines().find_map(|line| Some(&line[line.find("unknown segment")?..]))?;
    let place = after("--> ")?;
    let place = place.rsplit('/').next()?;
    Some(format!("it says: {place}: {what}; {}", after("= help: ")?))
}

fn downloads(stage: &mut Stage<'_>) -> Result<()> {
    let cut = "download on tcp/8080, whose rule goes";
    let stays = "download on tcp/443 beside it";
    stage.trying("two downloads, and a reload in the middle of both")?;
    let (doomed, other) = (Download::start(stage, 8080, ENDLESS)?, Download::start(stage, 443, FILE)?);
    doomed.wait_for(SHARE)?;
    other.wait_for(SHARE)?;

    let text = stage.configuration(false);
    stage.write_config(&text)?;
    let begun = Instant::now();
    let output = stage.gateway()?.command(&["reload"])?;
    let took = begun.elapsed();
    if !output.status.success() {
        bail!("the reload was refused: {}", String::from_utf8_lossy(&output.stderr));
    }
    // What had left the gateway before is with the client by the time that this much of the other has come, on the
    // same wire.
    other.wait_for(other.received() + SHARE)?;
    let at_reload = doomed.received();
    let whole = other.wait_for(FILE).is_ok();
    let in_the_end = doomed.received();

    let gateway = stage.gateway()?;
    let event = gateway.wait(PATIENCE, |events| {
        let of_it = |event: &&serde_json::Value| {
            event["kind"] == "cut" && event["source_port"] == doomed.tuple.source_port
        };
        events.iter().find(of_it).cloned()
    });
    let why = event.as_ref().and_then(|event| event["reason"].as_str()).unwrap_or("no event").to_owned();
    let what = match in_the_end {
        end if end >= ENDLESS => "went on to its end",
        end if end > at_reload => "went on for a while",
        _ => "cut",
    };
    let connection = gateway.connection(&other.tuple)?.context("the gateway has forgotten the download")?;
    let generation = gateway.status()?.generation;
    let rule = connection.rule.unwrap_or_else(|| "no rule".to_owned());
    let judged = if connection.generation == generation { "" } else { ", by the OLD policy" };
    let right = whole && other.is_right();
    let note = format!(
        "stopped for good at {:.1} of {:.0} MB; the reload took {} ms",
        megabytes(in_the_end),
        megabytes(ENDLESS),
        took.as_millis()
    );
    stage.row(cut, Finding::new("cut", "policy_revoked"), Finding::new(what, why), Some(note));
    let what = if right { "complete" } else { "INCOMPLETE" };
    let note = format!("{:.0} of {:.0} MB, every byte right", megabytes(other.received()), megabytes(FILE));
    let note = right.then_some(note);
    stage.row(stays, Finding::new("complete", "web-pages"), Finding::new(what, rule + judged), note);
    stage.model = crate::model::parse("demo.toml", &text).map_err(|errors| anyhow!("{errors}"))?;
    Ok(())
}

/// Bytes in millions.
pub fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

/// A client that fetches a file and checks every byte.
pub struct Download {
    stream: TcpStream,
    /// The client's packets.
    pub tuple: Tuple,
    received: Arc<AtomicUsize>,
    length: usize,
    wrong: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Download {
    /// Begins to fetch a file of this length from the web zone's server at this port.
    pub fn start(stage: &Stage<'_>, port: u16, length: usize) -> Result<Download> {
        let (client, web) = (stage.lab.host("clients"), stage.lab.host("web"));
        let (source, destination) = (Family::V4.address(client), Family::V4.address(web));
        let mut probe = client.namespace.run(|| Probe::send(source, destination, Service::Tcp(port)))?;
        if probe.look(PATIENCE)? != Seen::Answered {
            bail!("the download on tcp/{port} does not begin");
        }
        let tuple = probe.tuple;
        let stream = probe.into_stream()?;
        (&stream).write_all(format!("get {length}\n").as_bytes())?;
        let (received, wrong) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (mut from, count, bad) = (stream.try_clone()?, received.clone(), wrong.clone());
        let reader = std::thread::Builder::new().name("download".to_owned()).spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            let mut at = 0;
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if (at..).zip(&buffer[..length]).any(|(at, &byte)| byte != file_byte(at)) {
                    bad.store(true, Ordering::Relaxed);
                }
                at += length;
                count.store(at, Ordering::Release);
            }
        })?;
        Ok(Download { stream, tuple, received, length, wrong, reader: Some(reader) })
    }

    /// Bytes so far.
    pub fn received(&self) -> usize {
        self.received.load(Ordering::Acquire)
    }

    fn is_right(&self) -> bool {
        self.received() == self.length && !self.wrong.load(Ordering::Relaxed)
    }

    /// Waits for so many bytes.
    pub fn wait_for(&self, bytes: usize) -> Result<()> {
        let deadline = Instant::now() + DOWNLOAD;
        while self.received() < bytes.min(self.length) {
            if Instant::now() > deadline {
                bail!("a download stands still at {:.1} MB", megabytes(self.received()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // Releases the reader.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_is_told_in_one_line() {
        let said = "error: error: unknown segment `wbe`\n  --> /tmp/x/demo.toml:35:6\n   |\n   = help: did you mean `web`?\n";
        let line = "it says: demo.toml:35:6: unknown segment `wbe`; did you mean `web`?";
        assert_eq!(diagnostic(said).as_deref(), Some(line));
        assert_eq!(diagnostic("error: no gateway is running"), None);
    }
}
