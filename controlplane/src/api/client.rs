//! The client's side of the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use super::types::{API, Envelope, Line, Refusal, Reply, Request};

/// An answer that is being read.
pub struct Answer {
    lines: io::Lines<BufReader<UnixStream>>,
    over: bool,
}

/// How an answer ended before its end.
#[derive(Debug)]
pub enum Failure {
    /// The gateway said no.
    Refused(Refusal),
    /// The conversation broke.
    Broken(anyhow::Error),
}

/// Asks the gateway behind this socket.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer> {
    let mut stream = UnixStream::connect(socket).map_err(|error| anyhow!(refusal(socket, &error)))?;
    let envelope = Envelope { api: API, request: request.clone() };
    let mut line = serde_json::to_vec(&envelope)?;
    line.push(b'\n');
    // A gateway that refuses us at the door may close before it has read anything; its reason is there to be read.
    if let Err(error) = stream.write_all(&line)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(error).with_context(|| format!("writing to {}", socket.display()));
    }
    Ok(Answer { lines: BufReader::new(stream).lines(), over: false })
}

fn refusal(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "no gateway is running: there is no {socket} (start one with `bulkhead run`, or name its socket with --control)"
            )
        }
        io::ErrorKind::ConnectionRefused => {
            format!(
                "no gateway is running: nobody listens at {socket}, it was left by one that died (start one with `bulkhead run`)"
            )
        }
        io::ErrorKind::PermissionDenied => format!("{socket}: only root may talk to the gateway"),
        _ => format!("{socket}: {error}"),
    }
}

impl Answer {
    /// The next line; `None` after the last one.
    pub fn read(&mut self) -> Result<Option<Reply>, Failure> {
        if self.over {
            return Ok(None);
        }
        let text = match self.lines.next() {
            Some(Ok(text)) => text,
            Some(Err(error)) => return Err(Failure::Broken(error.into())),
            None => {
                return Err(Failure::Broken(anyhow!("the gateway went away in the middle of its answer")));
            }
        };
        match parse(&text).map_err(Failure::Broken)? {
            Reply::Done {} => {
                self.over = true;
                Ok(None)
            }
            Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
            reply => Ok(Some(reply)),
        }
    }
}

fn parse(text: &str) -> Result<Reply> {
    let version = serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|value| value.get("api")?.as_u64())
        .context("the gateway's answer is not of the control protocol")?;
    if version != u64::from(API) {
        bail!("the gateway speaks version {version} of the control protocol, this program version {API}");
    }
    let line: Line = serde_json::from_str(text).context("the gateway's answer cannot be understood")?;
    Ok(line.reply)
}
