//! A new policy while two downloads run: one is cut in the middle, the other does not notice.
//!
//! Neither has a length: they last until what they are there for has been seen, however slowly this machine does it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::demo::probe::{Probe, Seen, Service, Tuple};
use crate::demo::row::Finding;
use crate::demo::servers::{ENOUGH, file_byte};
use crate::demo::stage::{Family, PATIENCE, Stage};

/// How much of the files has come when the policy changes, and how much of the other comes before the cut one is looked at,
/// and looked at again; bytes.
pub const SHARE: usize = 6_000_000;
/// How long a download may stand still.
const STILL: Duration = Duration::from_secs(20);
/// How long it may take for as much as somebody waits for.
const WAIT: Duration = Duration::from_secs(60);

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
    let (doomed, other) = (Download::start(stage, 8080)?, Download::start(stage, 443)?);
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
    let at_reload = doomed.taken()?;

    let gateway = stage.gateway()?;
    let connection = gateway.connection(&other.tuple)?.context("the gateway has forgotten the download")?;
    let generation = gateway.status()?.generation;
    let event = gateway.wait(PATIENCE, |events| {
        let of_it = |event: &&serde_json::Value| {
            event["kind"] == "cut" && event["source_port"] == doomed.tuple.source_port
        };
        events.iter().find(of_it).cloned()
    });
    let why = event.as_ref().and_then(|event| event["reason"].as_str()).unwrap_or("no event").to_owned();
    other.wait_for(other.received() + SHARE)?;
    let in_the_end = doomed.taken()?;
    let what = match in_the_end {
        end if end > at_reload => "went on for a while",
        _ => "cut",
    };
    let rule = connection.rule.unwrap_or_else(|| "no rule".to_owned());
    let judged = if connection.generation == generation { "" } else { ", by the OLD policy" };
    let whole = other.finish()?;
    let note = format!(
        "stopped for good at {:.1} MB; the reload took {} ms",
        megabytes(in_the_end),
        took.as_millis()
    );
    stage.row(cut, Finding::new("cut", "policy_revoked"), Finding::new(what, why), Some(note));
    let what = if whole.is_some() { "complete" } else { "INCOMPLETE" };
    let note = whole.map(|bytes| format!("{:.1} MB to its end, every byte right", megabytes(bytes)));
    stage.row(stays, Finding::new("complete", "web-pages"), Finding::new(what, rule + judged), note);
    stage.model = crate::model::parse("demo.toml", &text).map_err(|errors| anyhow!("{errors}"))?;
    Ok(())
}

/// Bytes in millions.
pub fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

/// What the reader of a download has seen.
#[derive(Default)]
struct Progress {
    received: AtomicUsize,
    wrong: AtomicBool,
    /// The server has ended it, and nothing is missing.
    ended: AtomicBool,
}

/// A client that fetches a file and checks every byte, until it has enough.
pub struct Download {
    stream: TcpStream,
    /// The client's packets.
    pub tuple: Tuple,
    progress: Arc<Progress>,
    reader: Option<JoinHandle<()>>,
}

impl Download {
    /// Begins to fetch a file from the web zone's server at this port.
    pub fn start(stage: &Stage<'_>, port: u16) -> Result<Download> {
        let (client, web) = (stage.lab.host("clients"), stage.lab.host("web"));
        let (source, destination) = (Family::V4.address(client), Family::V4.address(web));
        let mut probe = client.namespace.run(|| Probe::send(source, destination, Service::Tcp(port)))?;
        if probe.look(PATIENCE)? != Seen::Answered {
            bail!("the download on tcp/{port} does not begin");
        }
        let tuple = probe.tuple;
        Download::of(probe.into_stream()?, tuple)
    }

    fn of(stream: TcpStream, tuple: Tuple) -> Result<Download> {
        (&stream).write_all(b"get\n")?;
        let progress = Arc::new(Progress::default());
        let (from, seen) = (stream.try_clone()?, progress.clone());
        let reader = std::thread::Builder::new()
            .name("download".to_owned())
            .spawn(move || seen.ended.store(read(from, &seen).is_ok(), Ordering::Release))?;
        Ok(Download { stream, tuple, progress, reader: Some(reader) })
    }

    /// Bytes so far.
    pub fn received(&self) -> usize {
        self.progress.received.load(Ordering::Acquire)
    }

    /// Bytes so far, once all that has come to this host has been read: on a busy machine the reader may lag behind.
    pub fn taken(&self) -> Result<usize> {
        self.wait("is not read to where it has come", || {
            Ok((rustix::io::ioctl_fionread(&self.stream)? == 0).then(|| self.received()))
        })
    }

    /// Waits for so many bytes.
    pub fn wait_for(&self, bytes: usize) -> Result<()> {
        self.wait("stands still", || Ok((self.received() >= bytes).then_some(())))
    }

    /// Has enough of it, and waits for its end. How many bytes it had, if each of them was right and none is missing.
    pub fn finish(&self) -> Result<Option<usize>> {
        (&self.stream).write_all(format!("{ENOUGH}\n").as_bytes())?;
        let reader = self.reader.as_ref().context("the download has ended")?;
        self.wait("does not end", || Ok(reader.is_finished().then_some(())))?;
        let progress = &self.progress;
        let right = progress.ended.load(Ordering::Acquire) && !progress.wrong.load(Ordering::Acquire);
        Ok(right.then(|| self.received()))
    }

    /// Waits until `look` finds something, as long as bytes come; for a bounded time.
    fn wait<T>(&self, trouble: &str, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let begun = Instant::now();
        let mut last = (self.received(), begun);
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            let now = Instant::now();
            if self.received() != last.0 {
                last = (self.received(), now);
            }
            if now - last.1 > STILL || now - begun > WAIT {
                bail!("a download {trouble} at {:.1} MB", megabytes(self.received()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads a file to its end. What is read is counted before it is taken from the socket, so an empty socket has been counted.
fn read(mut from: TcpStream, seen: &Progress) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        let length = match from.peek(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if (at..).zip(&buffer[..length]).any(|(at, &byte)| byte != file_byte(at)) {
            seen.wrong.store(true, Ordering::Release);
        }
        at += length;
        seen.received.store(at, Ordering::Release);
        from.read_exact(&mut buffer[..length])?;
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
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::demo::servers::Servers;
    use crate::lab::Namespace;

    /// A download over loopback from the demonstration's own server; nothing where there are no namespaces.
    fn with_download(test: impl FnOnce(&Download)) {
        if !crate::lab::available() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let namespace = Namespace::new("download").unwrap();
        let _servers = Servers::start(&namespace, &[80], &[]).unwrap();
        let stream = namespace.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 80))).unwrap();
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let tuple = Tuple { protocol: 6, source: here, source_port: 1, destination: here };
        test(&Download::of(stream, tuple).unwrap());
    }

    #[test]
    fn a_download_lasts_until_it_is_told_that_it_is_enough() {
        with_download(|download| {
            download.wait_for(1_000_000).unwrap();
            // Longer than any length that somebody might have given it for a quick machine.
            std::thread::sleep(Duration::from_millis(300));
            let before = download.received();
            download.wait_for(before + 1_000_000).unwrap();
            let whole = download.finish().unwrap().expect("every byte is right");
            assert!(whole >= before + 1_000_000 && download.taken().unwrap() == whole);
        });
    }

    #[test]
    fn a_download_that_is_cut_is_not_complete() {
        with_download(|download| {
            download.wait_for(100_000).unwrap();
            // As when the server's zone is gone: the stream ends by a reset.
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(&download.stream, nix::sys::socket::sockopt::Linger, &linger)
                .unwrap();
            download.stream.shutdown(std::net::Shutdown::Write).unwrap();
            // The server sees the end of what it is told before it is told that it is enough, and breaks off.
            assert!(download.finish().is_err());
        });
    }

    #[test]
    fn a_diagnostic_is_told_in_one_line() {
        let said = "error: error: unknown segment `wbe`\n  --> /tmp/x/demo.toml:35:6\n   |\n   = help: did you mean `web`?\n";
        let line = "it says: demo.toml:35:6: unknown segment `wbe`; did you mean `web`?";
        assert_eq!(diagnostic(said).as_deref(), Some(line));
        assert_eq!(diagnostic("error: no gateway is running"), None);
    }
}
