//! Connections out of what `bulkhead events` printed: each one opened or denied is a question to a policy.

use std::io::{BufRead, Read};
use std::net::IpAddr;

use bulkhead_dataplane::headers::protocol;
use jiff::Timestamp;
use serde::Deserialize;

use super::capture::Broken;
use crate::config::values;

/// The longest line, bytes.
const LINE_MAX: u64 = 64 << 10;

/// A connection that was opened, denied, cut or closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its line in the file, from 1.
    pub line: u64,
    /// When, as it is written.
    pub ts: String,
    /// The same.
    pub at: Timestamp,
    /// The word for what happened.
    pub kind: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The originator.
    pub source: IpAddr,
    /// Its port; of an echo, the identifier.
    pub source_port: u16,
    /// The responder.
    pub destination: IpAddr,
    /// Its port.
    pub destination_port: u16,
    /// The port of the gateway by which it came.
    pub ingress: String,
    /// The rule that decided then.
    pub rule: Option<String>,
    /// The reason then.
    pub reason: Option<String>,
    /// Bytes in both directions, of one that has ended.
    pub bytes: u64,
}

/// A file of events that is being read.
pub struct Events<R> {
    file: R,
    offset: u64,
    line: u64,
    /// Events that the file says were lost.
    pub lost: u64,
    /// Lines that are about no connection: alarms and the like.
    pub others: u64,
}

#[derive(Deserialize)]
struct Line {
    lost: Option<u64>,
    kind: Option<String>,
    ts: Option<String>,
    protocol: Option<String>,
    source: Option<IpAddr>,
    #[serde(default)]
    source_port: u16,
    destination: Option<IpAddr>,
    #[serde(default)]
    destination_port: u16,
    ingress: Option<String>,
    rule: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    bytes: u64,
}

impl<R: BufRead> Events<R> {
    /// Begins to read.
    pub fn new(file: R) -> Events<R> {
        Events { file, offset: 0, line: 0, lost: 0, others: 0 }
    }

    /// The next event of a connection; `None` at the end.
    ///
    /// # Errors
    ///
    /// A line that is no event.
    pub fn next_event(&mut self) -> Result<Option<Recorded>, Broken> {
        loop {
            let mut bytes = Vec::new();
            let offset = self.offset;
            let broken = |problem: String| Broken { offset, problem };
            let read = self.file.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes);
            let read = read.map_err(|error| broken(format!("it cannot be read any further: {error}")))?;
            if read == 0 {
                return Ok(None);
            }
            self.offset += read as u64;
            self.line += 1;
            let number = self.line;
            if read as u64 == LINE_MAX && !bytes.ends_with(b"\n") {
                return Err(broken(format!("line {number} is longer than 64 KiB")));
            }
            let text = bytes.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let line: Line = serde_json::from_slice(text)
                .map_err(|error| broken(format!("line {number} is no event: {error}")))?;
            if let Some(lost) = line.lost {
                self.lost = self.lost.saturating_add(lost);
                continue;
            }
            match recorded(line, number) {
                Ok(Some(recorded)) => return Ok(Some(recorded)),
                Ok(None) => self.others += 1,
                Err(missing) => return Err(broken(format!("line {number} is no event: {missing}"))),
            }
        }
    }
}

/// A line as a connection's event; `None` for what is about no connection.
fn recorded(line: Line, number: u64) -> Result<Option<Recorded>, String> {
    let kind = line.kind.ok_or("it has no `kind`")?;
    if !matches!(kind.as_str(), "opened" | "denied" | "cut" | "closed") {
        return Ok(None);
    }
    let name = line.protocol.ok_or("it has no `protocol`")?;
    let protocol = protocol_number(&name).ok_or_else(|| format!("`{name}` is no protocol"))?;
    let ts = line.ts.ok_or("it has no `ts`")?;
    Ok(Some(Recorded {
        line: number,
        at: ts.parse().map_err(|_| format!("`{ts}` is no time"))?,
        ts,
        kind,
        protocol,
        source: line.source.ok_or("it has no `source`")?,
        source_port: line.source_port,
        destination: line.destination.ok_or("it has no `destination`")?,
        destination_port: line.destination_port,
        ingress: line.ingress.unwrap_or_default(),
        rule: line.rule,
        reason: line.reason,
        bytes: line.bytes,
    }))
}

/// The number of a protocol as events and lists name it.
pub fn protocol_number(name: &str) -> Option<u8> {
    use bulkhead_dataplane::policy::Service;
    match name {
        "tcp" => Some(protocol::TCP),
        "udp" => Some(protocol::UDP),
        "icmp" => Some(protocol::ICMP),
        "icmpv6" => Some(protocol::ICMPV6),
        other => match values::service(other) {
            Ok(Service::Protocol(number)) => Some(number),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENED: &str = r#"{"ts":"2026-11-27T10:00:00.000Z","kind":"opened","protocol":"tcp","source":"10.1.0.5","source_port":40000,"destination":"10.2.0.5","destination_port":443,"ingress":"lan","from":"office","to":"servers","rule":"web","reason":null,"generation":1}"#;

    fn read(text: &str) -> (Vec<Recorded>, Option<Broken>, u64, u64) {
        let mut events = Events::new(text.as_bytes());
        let mut all = Vec::new();
        let broken = loop {
            match events.next_event() {
                Ok(Some(event)) => all.push(event),
                Ok(None) => break None,
                Err(broken) => break Some(broken),
            }
        };
        (all, broken, events.lost, events.others)
    }

    #[test]
    fn events_are_read_as_they_are_printed() {
        let alarm = r#"{"ts":"2026-11-27T10:00:00.000Z","kind":"alarm","message":"x"}"#;
        let gre = OPENED.replace("\"tcp\"", "\"gre\"").replace("opened", "denied");
        let (all, broken, lost, others) = read(&format!("{OPENED}\n\n{alarm}\n{{\"lost\":7}}\n{gre}"));
        assert_eq!((broken, lost, others), (None, 7, 1));
        assert_eq!((all[0].line, all[0].protocol, all[0].destination_port), (1, 6, 443));
        assert_eq!((all[1].line, all[1].protocol, all[1].kind.as_str()), (5, 47, "denied"));
    }

    #[test]
    fn a_line_that_is_no_event_is_told_with_its_place_and_what_came_before_counts() {
        for wrong in [
            "{\"kind\":\"opened\"",
            "[]",
            "{}",
            &OPENED.replace("10.1.0.5", "ten"),
            &OPENED.replace("tcp", "tpc"),
        ] {
            let (all, broken, ..) = read(&format!("{OPENED}\n{wrong}\n"));
            let broken = broken.unwrap();
            assert!(all.len() == 1 && broken.offset == OPENED.len() as u64 + 1, "{broken}");
            assert!(broken.problem.starts_with("line 2 is no event"), "{broken}");
        }
        let (_, broken, ..) = read(&"x".repeat(100_000));
        assert!(broken.unwrap().problem.contains("longer than 64 KiB"));
    }
}
