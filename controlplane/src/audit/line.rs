//! One record as a line of the log.
//!
//! ```text
//! {"seq":7,"at":"2026-11-27T20:41:03.120Z","kind":"locked","by":{…},"what":{…},"prev":"<64 digits>","hash":"<64 digits>"}
//! ```
//!
//! `hash` is the SHA-256 of everything before `,"hash":`, in hexadecimal digits; `prev` is that of the record before, and 64
//! zeros in the very first one. So a record is checked by itself, byte by byte, and the chain by comparing.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Entry;
use crate::daemon::time::rfc3339;
pub(super) use crate::store::sha256;

/// `,"hash":"` before the digits.
const BEFORE: &str = ",\"hash\":\"";
/// And behind them.
const AFTER: &str = "\"}";
/// Digits of a digest.
const DIGITS: usize = 64;

/// A record by its number and digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number, from 1; 0 where there is none.
    pub seq: u64,
    /// Its digest, hexadecimal.
    pub hash: String,
}

impl Default for Head {
    /// Before the first record.
    fn default() -> Head {
        Head { seq: 0, hash: "0".repeat(DIGITS) }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// All of a record but its own digest.
#[derive(Serialize)]
struct Body<'r> {
    seq: u64,
    at: String,
    kind: &'r str,
    by: Value,
    what: Value,
    prev: &'r str,
}

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number; the first is 1, and none is given twice.
    pub seq: u64,
    /// When, RFC 3339.
    pub at: String,
    /// See [`Kind`](super::Kind); a later version may know more.
    pub kind: String,
    /// On whose behalf.
    pub by: Value,
    /// What exactly.
    pub what: Value,
    /// The digest of the record before.
    pub prev: String,
    /// Its own.
    pub hash: String,
}

impl Record {
    /// It as a head.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}

/// The line behind this record, with its line break, and the new head.
pub(super) fn write(after: &Head, at: SystemTime, entry: &Entry) -> (String, Head) {
    let seq = after.seq + 1;
    let (by, what) = (entry.by(), entry.what());
    let body = Body { seq, at: rfc3339(at), kind: entry.kind().name(), by, what, prev: &after.hash };
    let mut line = serde_json::to_string(&body).expect("keys are texts, and writing to memory cannot fail");
    // The closing brace comes behind the digest.
    line.pop();
    let hash = sha256(line.as_bytes());
    line += &format!("{BEFORE}{hash}{AFTER}\n");
    (line, Head { seq, hash })
}

/// A line without its line break. It is right by itself if the second is true.
///
/// # Errors
///
/// It is no record.
pub(super) fn read(line: &[u8]) -> Result<(Record, bool), String> {
    let record: Record = serde_json::from_slice(line).map_err(|error| format!("it is no record: {error}"))?;
    let tail = BEFORE.len() + DIGITS + AFTER.len();
    let body = line.len().checked_sub(tail).map(|at| line.split_at(at));
    let is_right = body.is_some_and(|(body, tail)| {
        let hash = sha256(body);
        record.hash == hash && tail == format!("{BEFORE}{hash}{AFTER}").as_bytes()
    });
    Ok((record, is_right))
}
