//! How fast packets cross, on veth pairs between network namespaces of its own: the gateway beside the bare AF_XDP
//! forwarder, the kernel's own forwarding and an equivalent nftables ruleset, alternating in one run.
//!
//! The source is an XDP program that the kernel runs on frames of its own ([`afxdp::source`]), several million packets a
//! second: more than anything here forwards, so the numbers are throughput under overload. The source's CPU also does the
//! receiving half of whatever is measured (veth receives on the sender's CPU), and the gateway's worker has the other CPU.
//! What is forwarded is counted at the sink's interface. The frames' Ethernet destination is not the sink's own, so the
//! sink's kernel drops them at the first look.

mod cpu;
mod forwarder;
mod measure;
mod rules;
mod site;

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

pub use forwarder::Kind;
pub use measure::Sample;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long each measurement takes.
    pub duration: Duration,
    /// How often each forwarder is measured, in turn with the others.
    pub runs: usize,
    /// The CPUs of the source and of the gateway's worker.
    pub cpus: [usize; 2],
    /// Preferred busy polling, for both AF_XDP forwarders.
    pub busy_poll: bool,
    /// What is measured.
    pub forwarders: Vec<Kind>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            duration: Duration::from_secs(2),
            runs: 5,
            cpus: [0, 1],
            busy_poll: false,
            forwarders: Kind::ALL.to_vec(),
        }
    }
}

/// One forwarder's measurements.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub forwarder: Kind,
    /// Its measurements, in the order in which they were made; or why there are none.
    pub samples: Result<Vec<Sample>, String>,
}

impl Row {
    /// The median over the runs of some number of a sample.
    fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.samples.as_ref().ok()?.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// Packets forwarded a second, median.
    pub fn packets_per_second(&self) -> Option<f64> {
        self.median(Sample::packets_per_second)
    }

    /// CPU time of both CPUs per forwarded packet, nanoseconds, the source's share included; median.
    pub fn cpu_ns_per_packet(&self) -> Option<f64> {
        self.median(Sample::cpu_ns_per_packet)
    }
}

/// All measurements.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each forwarder.
    pub rows: Vec<Row>,
    /// Differences between what a forwarder says it forwarded and what arrived: none in a sound run.
    pub differences: Vec<String>,
}

impl Report {
    /// The row of a forwarder, where it was measured.
    pub fn row(&self, forwarder: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.forwarder == forwarder && row.samples.is_ok())
    }

    /// The gateway's throughput as a share of another forwarder's: the median over the runs of the ratio within one run.
    pub fn ratio_to(&self, other: Kind) -> Option<f64> {
        let samples = |kind| self.row(kind).and_then(|row| row.samples.as_ref().ok());
        let (ours, theirs) = (samples(Kind::Bulkhead)?, samples(other)?);
        let mut ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| ours.packets_per_second() / theirs.packets_per_second())
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let runs: Vec<Value> = row.samples.iter().flatten().map(Sample::to_json).collect();
            json!({
                "forwarder": row.forwarder.name(),
                "packets_per_second": row.packets_per_second(),
                "cpu_ns_per_packet": row.cpu_ns_per_packet(),
                "bulkhead_is_times": self.ratio_to(row.forwarder),
                "skipped": row.samples.as_ref().err(),
                "runs": runs,
            })
        });
        json!({
            "ok": self.differences.is_empty(),
            "rows": rows.collect::<Vec<_>>(),
            "differences": self.differences,
        })
    }
}

/// Who is told how far a run has come.
pub trait Progress {
    /// Measurement number `done` of `all` begins.
    fn step(&mut self, done: usize, all: usize, forwarder: Kind);
}

/// Nobody.
impl Progress for () {
    fn step(&mut self, _: usize, _: usize, _: Kind) {}
}

/// Measures. Needs root.
///
/// # Errors
/// What could not be built or started, or a forwarder that forwarded nothing.
pub fn run(options: &Options, progress: &mut dyn Progress) -> Result<Report> {
    if !crate::lab::available() {
        bail!("the bench makes network namespaces, which needs root");
    }
    if options.runs == 0 || options.forwarders.is_empty() {
        bail!("nothing to measure");
    }
    let site = site::Site::new()?;
    let mut report = Report { rows: Vec::new(), differences: Vec::new() };
    for &forwarder in &options.forwarders {
        let samples = forwarder.unavailable().map_or_else(|| Ok(Vec::new()), Err);
        report.rows.push(Row { forwarder, samples });
    }
    let all = options.runs * report.rows.iter().filter(|row| row.samples.is_ok()).count();
    let mut done = 0;
    for _ in 0..options.runs {
        for row in &mut report.rows {
            let Ok(samples) = &mut row.samples else { continue };
            progress.step(done, all, row.forwarder);
            done += 1;
            let sample = measure::measure(&site, row.forwarder, options)?;
            if let Some(difference) = sample.difference() {
                report.differences.push(format!("{}: {difference}", row.forwarder.name()));
            }
            samples.push(sample);
        }
    }
    Ok(report)
}

/// One short measurement of the gateway and of the kernel's forwarding: some four seconds.
///
/// # Errors
/// As [`run`].
pub fn quick() -> Result<Report> {
    let options = Options {
        duration: Duration::from_millis(700),
        runs: 1,
        forwarders: vec![Kind::Bulkhead, Kind::Kernel],
        ..Options::default()
    };
    run(&options, &mut ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forwarder_forwards_and_what_it_says_it_forwarded_arrives() {
        if !crate::lab::available() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let options = Options { duration: Duration::from_secs(1), runs: 1, ..Options::default() };
        let report = run(&options, &mut ()).unwrap();
        assert_eq!(report.differences, Vec::<String>::new());
        for row in &report.rows {
            match &row.samples {
                Ok(samples) => assert!(samples[0].packets_per_second() > 1000.0, "{row:?}"),
                Err(why) => {
                    assert!(row.forwarder == Kind::Nftables && why.contains("not installed"), "{why}")
                }
            }
        }
        assert!(report.ratio_to(Kind::Kernel).unwrap() > 0.0);
    }
}
