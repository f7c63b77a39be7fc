//! `bulkhead bench`: how fast packets cross on this machine.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::bench::{self, Kind, Options, Progress, Report};

/// Measure how fast packets cross, beside what else this machine offers
///
/// On veth pairs between network namespaces of its own: the gateway with 1,000 rules and 1,000 established connections,
/// the bare AF_XDP forwarder, the kernel's forwarding and, where nft is installed, the same rules in nftables, in turn.
/// 64-byte UDP packets, offered faster than any of them forwards. Nothing outside is touched, and nothing is left
/// behind. Needs root and, to mean anything, two CPUs that do nothing else.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 measured, 1 it cannot run, or counts do not agree\n\n\
    Examples:\n  sudo bulkhead bench\n  sudo bulkhead bench --seconds 5 --runs 9 -o json | jq '.rows[] | .packets_per_second'")]
pub struct BenchArgs {
    /// Length of each measurement, seconds
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    seconds: f64,
    /// Measurements of each forwarder, taken in turn
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// CPUs of the source and of the gateway
    #[arg(long, value_name = "CPU,CPU", value_delimiter = ',', default_values_t = [0, 1])]
    cpu: Vec<usize>,
    /// Preferred busy polling, for both AF_XDP forwarders
    #[arg(long)]
    busy_poll: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl BenchArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let Ok(cpus) = <[usize; 2]>::try_from(self.cpu) else {
            bail!("--cpu takes two numbers: the source's CPU and the gateway's");
        };
        if !(0.1..=60.0).contains(&self.seconds) {
            bail!("--seconds must be from 0.1 to 60");
        }
        let options = Options {
            duration: Duration::from_secs_f64(self.seconds),
            runs: self.runs,
            cpus,
            busy_poll: self.busy_poll,
            ..Options::default()
        };
        let report = bench::run(&options, &mut Line);
        clear_line();
        let report = report?;
        match self.output.output {
            Format::Json => say_json(&report.to_json()),
            Format::Text => tell(&report, &options),
        }
        for difference in &report.differences {
            complain(&format!("error: {difference}"));
        }
        Ok(if report.differences.is_empty() { Exit::Ok } else { Exit::Error })
    }
}

/// One line of progress on a terminal; on anything else a line for each measurement would only be noise.
struct Line;

impl Progress for Line {
    fn step(&mut self, done: usize, all: usize, forwarder: Kind) {
        if std::io::stderr().is_terminal() {
            let line = format!("\r\x1b[Kmeasuring {} of {all}: {}", done + 1, forwarder.name());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

fn clear_line() {
    if std::io::stderr().is_terminal() {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
    }
}

fn tell(report: &Report, options: &Options) {
    say(&format!(
        "64-byte UDP packets, 1,000 connections, on veth; medians of {} runs of {} s in turn\n",
        options.runs,
        options.duration.as_secs_f64()
    ));
    say(&format!("{:<20}{:>12}{:>18}{:>16}", "forwarder", "Mpps", "Bulkhead is ×", "CPU ns/packet"));
    for row in &report.rows {
        let name = row.forwarder.name();
        match &row.samples {
            Err(why) => say(&format!("{name:<20}skipped: {why}")),
            Ok(_) => {
                let number =
                    |value: Option<f64>, digits| value.map_or(String::new(), |v| format!("{v:.digits$}"));
                say(&format!(
                    "{name:<20}{:>12}{:>18}{:>16}",
                    number(row.packets_per_second().map(|packets| packets / 1e6), 3),
                    number(report.ratio_to(row.forwarder), 2),
                    number(row.cpu_ns_per_packet(), 0)
                ));
            }
        }
    }
    say(
        "\nCPU time is that of both CPUs from /proc/stat, the source's work included: it is busy all the time, for it",
    );
    say("offers more than is forwarded. What arrived was counted at the sink.");
}
