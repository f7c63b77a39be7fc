//! Reading the log, and finding where its chain breaks.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::journal::{FILE_BYTES_MAX, segments};
use super::line::{self, Head, Record};
use super::{ACTIVE, HEAD, Kind, segment_name};
use crate::store::{Disk, Files};

/// So many breaks are told; there may be more.
const BREAKS: usize = 20;

/// What was done to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tampering {
    /// A record is another than was written.
    Changed,
    /// Records are missing, and later ones are there.
    Removed,
    /// A record stands there that was not written there.
    Inserted,
    /// Records stand in another order than they were written in.
    Reordered,
    /// The last records are missing.
    Truncated,
    /// The last record is not complete, as after a power failure; the next start of the gateway cuts it off and says so.
    Torn,
}

/// One place at which the chain breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// What was done there.
    pub tampering: Tampering,
    /// File and line.
    pub at: String,
    /// The record concerned, or the first of those.
    pub seq: u64,
    /// For people.
    pub message: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// What became of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Lines in it.
    pub records: u64,
    /// The number of the first record; older ones were removed by the gateway, which is recorded.
    pub first: u64,
    /// The last record.
    pub head: Head,
    /// Where the chain breaks, in the order of the log; nothing if it is whole.
    pub breaks: Vec<Break>,
}

/// One line of the log.
struct Line {
    file: usize,
    number: usize,
    /// The record, and whether it is right by itself.
    record: Option<(Record, bool)>,
}

/// The whole log, line by line.
struct Log {
    files: Vec<String>,
    lines: Vec<Line>,
    /// Something stands behind the last line break.
    torn: bool,
    noted: Option<Head>,
}

impl Log {
    fn read(directory: &Path) -> io::Result<Log> {
        let disk = Files;
        let mut files: Vec<String> = segments(&disk, directory)?.into_iter().map(segment_name).collect();
        files.push(ACTIVE.to_owned());
        let mut log = Log { files, lines: Vec::new(), torn: false, noted: None };
        for (file, name) in log.files.iter().enumerate() {
            let bytes = match disk.read(&directory.join(name), FILE_BYTES_MAX) {
                // It is renamed before there is another.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name == ACTIVE => Vec::new(),
                read => read?,
            };
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            log.torn = whole < bytes.len();
            let lines = bytes[..whole].split_inclusive(|byte| *byte == b'\n');
            log.lines.extend((1..).zip(lines).map(|(number, line)| Line {
                file,
                number,
                record: line::read(&line[..line.len() - 1]).ok(),
            }));
        }
        log.noted = disk.read(&directory.join(HEAD), 4096).ok().and_then(|b| serde_json::from_slice(&b).ok());
        Ok(log)
    }

    fn place(&self, line: &Line) -> String {
        format!("{}:{}", self.files[line.file], line.number)
    }

    fn end(&self) -> String {
        format!("the end of {ACTIVE}")
    }
}

/// The records of a log that can be read, in the order in which they stand there. They are not verified.
///
/// # Errors
///
/// The log cannot be read.
pub fn records(directory: &Path) -> io::Result<Vec<Record>> {
    let lines = Log::read(directory)?.lines;
    Ok(lines.into_iter().filter_map(|line| line.record).map(|(record, _)| record).collect())
}

/// Checks a log, also against heads that were noted elsewhere: each must be one of its records. What a gateway that runs is
/// just writing is no break: `is_growing`.
///
/// # Errors
///
/// The log cannot be read.
pub fn verify(directory: &Path, heads: &[Head], is_growing: bool) -> io::Result<Verified> {
    let log = Log::read(directory)?;
    let mut walk = Walk::new(&log);
    walk.begin();
    for line in &log.lines {
        walk.step(line);
    }
    if log.torn && !is_growing {
        let message = format!("it ends in the middle of record {}", walk.expected);
        walk.tell(Tampering::Torn, log.end(), walk.expected, message);
    }
    let mut heads = heads.to_vec();
    // Read last, and by itself allowed to be older than the log.
    heads.extend(log.noted.clone());
    for head in &heads {
        walk.check_head(head);
    }
    let first = log.lines.iter().find_map(|line| line.record.as_ref()).map_or(0, |(record, _)| record.seq);
    let head = walk.last.last().cloned().unwrap_or_default();
    let head = Head { seq: walk.expected.saturating_sub(1), hash: head };
    Ok(Verified { records: log.lines.len() as u64, first, head, breaks: walk.breaks })
}

/// The way along a log.
struct Walk<'l> {
    log: &'l Log,
    /// By number, how often a record of that number stands in the log.
    counts: HashMap<u64, u32>,
    /// By number, its digest.
    hashes: HashMap<u64, Vec<String>>,
    /// The number of the next record.
    expected: u64,
    /// The digests of which the next record has to name one; none is known behind a changed record.
    last: Vec<String>,
    /// Numbers that are missing at their place, and are told of.
    told: Vec<(u64, u64)>,
    breaks: Vec<Break>,
}

impl<'l> Walk<'l> {
    fn new(log: &'l Log) -> Walk<'l> {
        let (mut counts, mut hashes) = (HashMap::new(), HashMap::<u64, Vec<String>>::new());
        let right = log.lines.iter().filter_map(|line| line.record.as_ref()).filter(|(_, right)| *right);
        for (record, _) in right {
            *counts.entry(record.seq).or_default() += 1;
            hashes.entry(record.seq).or_default().push(record.hash.clone());
        }
        let last = vec![Head::default().hash];
        Walk { log, counts, hashes, expected: 1, last, told: Vec::new(), breaks: Vec::new() }
    }

    fn tell(&mut self, tampering: Tampering, at: String, seq: u64, message: String) {
        if self.breaks.len() < BREAKS {
            self.breaks.push(Break { tampering, at, seq, message });
        }
    }

    /// Where older records were removed by the gateway, the log begins behind the last of those.
    fn begin(&mut self) {
        let first = self.log.lines.first().and_then(|line| line.record.as_ref()).map(|(record, _)| record);
        let Some(first) = first.filter(|first| first.seq > 1) else { return };
        let records = self.log.lines.iter().filter_map(|line| line.record.as_ref());
        let is_trimming = |record: &&Record| {
            record.kind == Kind::Trimmed.name()
                && record.what["through"] == first.seq - 1
                && record.what["hash"] == first.prev
        };
        if records.filter(|(_, right)| *right).map(|(record, _)| record).any(|record| is_trimming(&record)) {
            (self.expected, self.last) = (first.seq, vec![first.prev.clone()]);
        }
    }

    fn step(&mut self, line: &Line) {
        let at = self.log.place(line);
        let expected = self.expected;
        let Some((record, true)) = &line.record else {
            let message = format!("record {expected} was changed: its digest is not its own");
            self.tell(Tampering::Changed, at, expected, message);
            (self.expected, self.last) = (expected + 1, Vec::new());
            return;
        };
        let seq = record.seq;
        let times = self.counts.get(&seq).copied().unwrap_or_default();
        if seq == expected {
            if !self.last.is_empty() && !self.last.contains(&record.prev) {
                let message = format!(
                    "record {seq} was written behind another record {} than the one that stands before it: one of the two \
                     was replaced",
                    seq - 1
                );
                self.tell(Tampering::Changed, at, seq, message);
            }
            (self.expected, self.last) = (seq + 1, vec![record.hash.clone()]);
        } else if times > 1 {
            self.tell(
                Tampering::Inserted,
                at,
                seq,
                format!("record {seq} stands there {times} times: all but one were inserted"),
            );
            if seq + 1 == expected {
                // Nobody knows yet which of them the next one names.
                self.last.push(record.hash.clone());
            }
        } else if seq > expected {
            let stands_later =
                (expected..seq).take(100_000).any(|missing| self.counts.contains_key(&missing));
            let range = match seq - expected {
                1 => format!("record {expected}"),
                _ => format!("records {expected} to {}", seq - 1),
            };
            if stands_later {
                let message = format!("record {seq} stands before {range}: the order was changed");
                self.tell(Tampering::Reordered, at, expected, message);
            } else {
                let message =
                    format!("{range} {} missing before it", if seq - expected == 1 { "is" } else { "are" });
                self.tell(Tampering::Removed, at, expected, message);
            }
            self.told.push((expected, seq));
            (self.expected, self.last) = (seq + 1, vec![record.hash.clone()]);
        } else if !self.told.iter().any(|(from, to)| (*from..*to).contains(&seq)) {
            let message = format!("record {seq} does not belong there, behind record {}", expected - 1);
            self.tell(Tampering::Inserted, at, seq, message);
        }
    }

    /// Whether a head that somebody has noted is among the records.
    fn check_head(&mut self, head: &Head) {
        if head.seq == 0 || self.hashes.get(&head.seq).is_some_and(|hashes| hashes.contains(&head.hash)) {
            return;
        }
        let at = self.log.end();
        if head.seq >= self.expected {
            let from = self.expected;
            let message =
                format!("records {from} to {} are missing: they were written, and are no more", head.seq);
            self.tell(Tampering::Truncated, at, from, message);
        } else if head.seq >= self.log.lines.first().and_then(|l| l.record.as_ref()).map_or(1, |(r, _)| r.seq)
        {
            let message = format!(
                "record {} is another than was noted: it, or one before it, was written anew",
                head.seq
            );
            self.tell(Tampering::Changed, at, head.seq, message);
        }
    }
}
