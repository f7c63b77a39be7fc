//! `bulkhead audit log` and `audit verify`: the hash-chained log of what was done.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::types::AuditHead;
use crate::api::{Reply, Request, client};
use crate::audit::{Break, Head, Kind, Record, Tampering, records, verify};
use crate::cli::control::{ControlArgs, Table};
use crate::cli::{Exit, Format, OutputArgs, say, say_json};
use crate::config::diagnostics::{nearest, quoted};
use crate::model;

/// Where the log is.
#[derive(Args)]
struct PlaceArgs {
    /// The state directory; without, that of the running gateway, or /var/lib/bulkhead when none runs
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

impl PlaceArgs {
    /// What the running gateway says, if one runs.
    fn ask(&self) -> Option<AuditHead> {
        let mut answer = client::ask(&self.control.control, &Request::AuditHead).ok()?;
        match answer.read().ok()?? {
            Reply::AuditHead(head) => Some(head),
            _ => None,
        }
    }

    /// The directory, and what the gateway says that writes there.
    fn find(&self) -> (PathBuf, Option<AuditHead>) {
        let running = self.ask();
        match (&self.state, running) {
            (None, Some(running)) => (running.directory.clone(), Some(running)),
            (Some(state), running) => {
                let is_there = |running: &AuditHead| same(&running.directory, state);
                (state.clone(), running.filter(is_there))
            }
            (None, None) => (model::Gateway::default().state, None),
        }
    }
}

fn same(a: &std::path::Path, b: &std::path::Path) -> bool {
    a == b || a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

#[derive(Args)]
pub struct LogArgs {
    /// Only what was recorded in this time, such as 2h or 7d, by the wall clock
    #[arg(long, value_name = "DURATION", value_parser = crate::cli::learn::since)]
    since: Option<Duration>,
    /// Only acts of this kind; may be given several times
    #[arg(long = "kind", value_name = "KIND", value_parser = kind)]
    kinds: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The name of a kind.
fn kind(text: &str) -> Result<String, String> {
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    if names.contains(&text) {
        return Ok(text.to_owned());
    }
    let hint = nearest(text, names.iter().copied()).unwrap_or_else(|| format!("one of {}", names.join(", ")));
    Err(format!("{} is not a kind of act; {hint}", quoted(text)))
}

impl LogArgs {
    pub fn run(self) -> Result<Exit> {
        let (directory, _) = self.place.find();
        let found = records(&directory).with_context(|| reading(&directory))?;
        let begin =
            self.since.map(|since| Timestamp::now() - SignedDuration::try_from(since).unwrap_or_default());
        let wanted = |record: &&Record| {
            let at = record.at.parse::<Timestamp>();
            begin.is_none_or(|begin| at.is_ok_and(|at| at >= begin))
                && (self.kinds.is_empty() || self.kinds.contains(&record.kind))
        };
        let wanted: Vec<&Record> = found.iter().filter(wanted).collect();
        if self.output.output == Format::Json {
            say_json(&json!({ "records": wanted }));
            return Ok(Exit::Ok);
        }
        let mut table = Table::new(&[">SEQ", "AT", "KIND", "BY", "WHAT"]);
        for record in &wanted {
            let Record { seq, at, kind, by, what, .. } = record;
            table.row([seq.to_string(), at.clone(), kind.clone(), whom(by), words(what)]);
        }
        say(&format!("{}\n{} record(s)", table.text(), wanted.len()));
        Ok(Exit::Ok)
    }
}

fn reading(directory: &std::path::Path) -> String {
    format!("reading the audit log in {} (--state says where it is)", directory.display())
}

/// On whose behalf, for people.
fn whom(by: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let operator = &by["operator"];
    let name = text(&operator["user"]).or_else(|| operator["uid"].as_u64().map(|uid| format!("user {uid}")));
    let sudo = text(&operator["said"]["sudo_user"]).map(|user| format!(" (sudo of {user})"));
    let user = text(&by["address"]).map(|at| {
        text(&by["user"]).map_or_else(|| format!("somebody at {at}"), |user| format!("{user} at {at}"))
    });
    let service = text(&by["service"]);
    name.map(|name| name + &sudo.unwrap_or_default())
        .or(user)
        .or(service)
        .or_else(|| text(by))
        .unwrap_or_default()
}

/// What was done, for people: one word or more for each thing that is said of it.
fn words(what: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) if text.is_empty() || text.contains([' ', '"', '\n']) => value.to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let members = what.as_object().into_iter().flatten();
    let said = members.filter(|(_, value)| !matches!(value, Value::Array(list) if list.is_empty()));
    said.map(|(name, value)| format!("{name}={}", word(value))).collect::<Vec<_>>().join(" ")
}

#[derive(Args)]
pub struct VerifyArgs {
    /// A record that was noted elsewhere: its number and digest as `status` prints them, or the digest alone of the last one
    #[arg(long, value_name = "HEAD")]
    head: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl VerifyArgs {
    pub fn run(self) -> Result<Exit> {
        let (directory, running) = self.place.find();
        let noted = self.head.as_deref().map(noted).transpose()?;
        let mut heads: Vec<Head> = running.iter().map(AuditHead::head).collect();
        heads.extend(noted.iter().filter(|head| head.seq > 0).cloned());
        let mut verified =
            verify(&directory, &heads, running.is_some()).with_context(|| reading(&directory))?;
        let mut add = |tampering, message: String| {
            let (at, seq) = ("the end of audit.log".to_owned(), verified.head.seq);
            verified.breaks.push(Break { tampering, at, seq, message });
        };
        // Asked again: what it has written since is behind the end that was just read.
        if let Some(now) = running.as_ref().and_then(|_| self.place.ask())
            && verified.head.seq > now.seq
        {
            let message = format!("the gateway has written {} records, and there are more", now.seq);
            add(Tampering::Inserted, message);
        }
        if let Some(head) = noted.filter(|head| head.seq == 0 && head.hash != verified.head.hash) {
            let hash = &head.hash;
            add(Tampering::Truncated, format!("the last record has another digest than {hash}"));
        }
        if self.output.output == Format::Json {
            say_json(&json!(verified));
        } else {
            verified.breaks.iter().for_each(|found| say(&found.to_string()));
            let (records, head) = (verified.records, &verified.head);
            let against = if running.is_some() { ", as the running gateway has it" } else { "" };
            let from = if verified.first > 1 { format!(" from {}", verified.first) } else { String::new() };
            say(&match verified.breaks.len() {
                0 => {
                    format!("ok: {records} record(s){from}, each behind the one before{against}\nhead {head}")
                }
                breaks => {
                    format!("the chain breaks at {breaks} place(s) of {records} record(s)\nhead {head}")
                }
            });
        }
        Ok(if verified.breaks.is_empty() { Exit::Ok } else { Exit::Differences })
    }
}

/// A head as somebody has noted it; number 0 stands for the last record.
fn noted(text: &str) -> Result<Head> {
    let (seq, hash) = text.split_once(':').unwrap_or(("0", text));
    let is_digest = hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
    match seq.parse() {
        Ok(seq) if is_digest => Ok(Head { seq, hash: hash.to_ascii_lowercase() }),
        _ => bail!("--head: {} is not a head; `bulkhead status` prints one, such as 17:5f…", quoted(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_a_digest_with_or_without_a_number() {
        let digest = "ab".repeat(32);
        assert_eq!(noted(&digest).unwrap(), Head { seq: 0, hash: digest.clone() });
        assert_eq!(
            noted(&format!("17:{}", digest.to_uppercase())).unwrap(),
            Head { seq: 17, hash: digest.clone() }
        );
        for wrong in ["", "17", "x:y", &digest[1..], &format!("-1:{digest}")] {
            assert!(noted(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn whoever_did_it_and_what_is_told_in_words() {
        let by = json!({ "operator": { "uid": 0, "user": "root", "said": { "sudo_user": "ada" } } });
        assert_eq!(whom(&by), "root (sudo of ada)");
        assert_eq!(whom(&json!({ "operator": { "uid": 7, "user": null, "said": {} } })), "user 7");
        assert_eq!(whom(&json!({ "user": "alice", "address": "10.1.0.7" })), "alice at 10.1.0.7");
        assert_eq!(whom(&json!({ "user": null, "address": "10.1.0.7" })), "somebody at 10.1.0.7");
        assert_eq!(
            (whom(&json!({ "service": "okta" })), whom(&json!("clock"))),
            ("okta".to_owned(), "clock".to_owned())
        );
        let what = json!({ "id": "s1", "groups": [], "message": "a b", "risk": 3, "tags": ["x"] });
        assert_eq!(words(&what), "id=s1 message=\"a b\" risk=3 tags=[\"x\"]");
    }

    #[test]
    fn a_misspelt_kind_is_told_with_a_hint() {
        assert_eq!(kind("locked"), Ok("locked".to_owned()));
        assert!(kind("lockd").unwrap_err().contains("did you mean `locked`"));
    }
}
