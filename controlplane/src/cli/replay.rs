//! `bulkhead replay`: what would this policy have done with that traffic?

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use super::control::{Table, or_dash};
use super::{Exit, Format, OutputArgs, complain, say};
use crate::model::{self, Model};
use crate::replay::capture::{Broken, Capture};
use crate::replay::recorded::Events;
use crate::replay::{ASSUMED, Options, Replay, Tally};

/// Put captured traffic to a policy, offline
///
/// Every packet of a pcap or pcapng file goes through the same code as in the running gateway, by the capture's clock;
/// of a file that `bulkhead events` wrote, every connection opened or denied becomes a question to the policy. Needs no
/// privileges and no running gateway, and changes nothing.
///
/// A capture does not tell the network around it, so this is assumed: a packet comes in by the first port of its
/// source's segment, or by the port that its pcapng interface stands for (by the interface's name in the policy, or by
/// --port); what was captured where it left is not judged again. Every segment is on the link of its port: there are no
/// routes, no next hop fails to answer, nothing is too large. A frame to any one host's MAC address is for the gateway.
/// Rules hold at the times of the capture, and none in audit. Nobody has logged in, and clients of segments with `protect` have shown that they are there. Connections that
/// began before the capture are unknown, as after a restart. What the capture cut off is taken for zeros with right
/// checksums.
#[derive(Args)]
#[command(
    after_help = "With -o json, a line for every packet (or recorded connection) that is told, then one with the sum.\n\n\
    Exit codes: 0 done, 1 the policy or the capture is broken (what came before is told), 2 with --against: there are \
    differences\n\n\
    Examples:\n  \
    tcpdump -i eth1 -w lan.pcap; bulkhead replay lan.pcap --policy new.toml\n  \
    bulkhead replay lan.pcap --policy new.toml --against bulkhead.toml\n  \
    bulkhead events > events.jsonl; bulkhead replay events.jsonl --policy new.toml --against bulkhead.toml\n  \
    bulkhead replay both.pcapng --policy new.toml --port enp3s0=lan --port enp4s0=servers -o json"
)]
pub struct ReplayArgs {
    /// A pcap or pcapng file, or one with the events that `bulkhead events` prints
    #[arg(value_name = "CAPTURE")]
    capture: PathBuf,
    /// The configuration whose policy judges
    #[arg(long, value_name = "NEW")]
    policy: PathBuf,
    /// Tell only what this configuration's policy would have done otherwise
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
    /// An interface of a pcapng, and the port of the configuration that it stands for; may be repeated
    #[arg(long = "port", value_name = "INTERFACE=PORT", value_parser = interface_port)]
    ports: Vec<(String, String)>,
    /// Take the checksums of TCP, UDP and ICMP for right: in captures from a sender's own machine they are not filled in
    #[arg(long)]
    ignore_checksums: bool,
    #[command(flatten)]
    output: OutputArgs,
}

fn interface_port(text: &str) -> Result<(String, String), String> {
    let (interface, port) = text.split_once('=').ok_or("write INTERFACE=PORT, such as eth1=lan")?;
    Ok((interface.to_owned(), port.to_owned()))
}

impl ReplayArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let Some(policy) = load(&self.policy) else { return Ok(Exit::Error) };
        let against = match &self.against {
            None => None,
            Some(file) => match load(file) {
                Some(model) => Some(model),
                None => return Ok(Exit::Error),
            },
        };
        let file = self.capture.display().to_string();
        let source = Source::open(&self.capture).with_context(|| file.clone())?;
        let options = Options { ports: self.ports, ignore_checksums: self.ignore_checksums };
        let mut replay = Replay::new(policy, against, options).map_err(|message| anyhow::anyhow!(message))?;
        let is_json = self.output.output == Format::Json;
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut line = |line: Value| {
            if is_json {
                // Whoever reads may have had enough.
                let _ = io::Write::write_fmt(&mut out, format_args!("{line}\n"));
            }
        };
        let (what, result) = match source {
            Source::Capture(mut capture) => ("packet", replay.capture(&mut capture, &mut line)),
            Source::Events(mut events) => ("connection", replay.events(&mut events, &mut line)),
        };
        if is_json {
            let mut sum = replay.tally.to_json();
            sum["assumed"] = json!(ASSUMED);
            sum["broken"] =
                json!(result.as_ref().err().map(|b| json!({ "offset": b.offset, "problem": b.problem })));
            line(json!({ "summary": sum }));
        }
        drop(out);
        if !is_json {
            say(&text(&file, what, &replay));
        }
        if let Err(broken) = result {
            complain(&format!(
                "error: {file}: {broken}; {} {what}(s) before it were read",
                replay.tally.read
            ));
            return Ok(Exit::Error);
        }
        Ok(if replay.compares() && replay.tally.differences() > 0 { Exit::Differences } else { Exit::Ok })
    }
}

fn load(file: &Path) -> Option<Model> {
    model::load(file).inspect_err(|errors| complain(&errors.to_string())).ok()
}

enum Source {
    Capture(Box<Capture>),
    Events(Events<BufReader<File>>),
}

impl Source {
    fn open(path: &Path) -> anyhow::Result<Source> {
        let mut file = File::open(path)?;
        let mut magic = [0; 4];
        let mut begin = Vec::new();
        file.by_ref().take(4).read_to_end(&mut begin)?;
        file.rewind()?;
        magic[..begin.len()].copy_from_slice(&begin);
        Ok(match magic {
            [0x1f, 0x8b, ..] => bail!("it is compressed; unpack it first (`gunzip`)"),
            [0x28, 0xb5, 0x2f, 0xfd] => bail!("it is compressed; unpack it first (`unzstd`)"),
            [b'{', ..] => Source::Events(Events::new(BufReader::new(file))),
            _ => match Capture::new(file) {
                Ok(capture) => Source::Capture(Box::new(capture)),
                Err(Broken { problem, .. }) => {
                    bail!("{problem}, and not what `bulkhead events` prints, a JSON object a line")
                }
            },
        })
    }
}

fn text(file: &str, what: &str, replay: &Replay) -> String {
    let tally = &replay.tally;
    let models = replay.models();
    let digest = |model: &Model| model.digest[..12.min(model.digest.len())].to_owned();
    let mut lines = vec![match &models[..] {
        [new, old] => format!(
            "{file}: {} {what}(s) by the new policy ({}) against the old one ({}): {} alike, {} different",
            tally.read,
            digest(new),
            digest(old),
            tally.same,
            tally.differences()
        ),
        _ => format!(
            "{file}: {} {what}(s): {} forwarded, {} refused, {} wait at the end, {} not judged",
            tally.read,
            tally.forwarded,
            tally.refused,
            tally.held,
            tally.left_out()
        ),
    }];
    lines.extend(notes(tally));
    if !tally.groups().is_empty() {
        lines.push(String::new());
        lines.push(table(replay, what));
    }
    lines.push(String::new());
    lines.push("assumed:".to_owned());
    lines.extend(ASSUMED.iter().map(|assumed| format!("  {assumed}")));
    lines.join("\n")
}

/// What of the file was not judged, or not as it stood there.
fn notes(tally: &Tally) -> Vec<String> {
    let notes = [
        (tally.leaving, "were captured where they left the gateway, and not judged"),
        (tally.foreign, "are of interfaces that are not Ethernet, and not judged"),
        (tally.too_short, "were cut before their ports, and not judged"),
        (tally.oversized, "are longer than any packet, and not judged"),
        (tally.cut, "were cut by the capture; the rest was taken for zeros"),
        (tally.backwards, "are stamped earlier than one before them; the clock stood still for them"),
        (tally.ended, "events are ends of connections: no questions"),
        (tally.others, "lines are about no connection"),
        (tally.lost, "events were lost before they were written"),
        (tally.overflow, "found no room in the table below: too many different outcomes"),
    ];
    notes.iter().filter(|(count, _)| *count > 0).map(|(count, note)| format!("  {count} {note}")).collect()
}

fn table(replay: &Replay, what: &str) -> String {
    let compares = replay.compares();
    let count = if what == "packet" { ">PACKETS" } else { ">COUNT" };
    let mut titles = vec![count, "FROM", "TO"];
    titles.extend(if compares { &["OLD", "NEW"][..] } else { &["VERDICT"][..] });
    titles.push("FOR EXAMPLE");
    let mut table = Table::new(&titles);
    let verdict = |told: &crate::replay::Told| {
        let mut text = told.fate.name().to_owned();
        if let Some(reason) = told.reason {
            text += &format!(" ({reason})");
        }
        if let Some(rule) = &told.rule {
            text += &format!(" by {rule}");
        }
        text
    };
    for group in replay.tally.groups() {
        let mut row = vec![group.packets.to_string()];
        row.extend([&group.pair.0, &group.pair.1].map(|name| or_dash(name.as_deref())));
        row.extend(group.told.iter().rev().map(verdict));
        row.push(group.samples.first().cloned().unwrap_or_default());
        table.row(row);
    }
    table.text()
}
