//! The demonstration: a real gateway in a network of its own, tried from all sides by ordinary sockets.
//!
//! Three zones and the gateway are network namespaces of this process, gone with it. The gateway is this very program
//! as `bulkhead run`. What should happen is worked out from the printed policy by the reference evaluator; what
//! happened is seen by the sockets at both ends; why is asked from the gateway. A row is right when all three agree.
//!
//! That something did not arrive is never concluded from waiting: a sentinel was sent behind it and has arrived.

mod gateway;
mod policy;
mod probe;
mod provider;
mod row;
mod scenes;
mod servers;
mod stage;
mod watch;

pub use gateway::become_gateway;
pub use row::{Finding, Row, all_ok, ok_count};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::bench;

/// Who is shown the demonstration.
pub trait Audience {
    /// What to know: a title and lines of text.
    fn facts(&mut self, title: &str, lines: &[String]);
    /// A scene begins.
    fn scene(&mut self, title: &str);
    /// Something is being tried.
    fn trying(&mut self, tried: &str);
    /// It was tried.
    fn row(&mut self, row: &Row);
}

/// What came out.
pub struct Shown {
    /// Every line of the table, also those that differ.
    pub rows: Vec<Row>,
    /// How fast packets cross, or why that could not be measured.
    pub throughput: Result<bench::Report, String>,
}

/// Runs all of it.
///
/// # Errors
///
/// It could not be run: no permission, a kernel without what it needs, an interrupt.
pub fn run(audience: &mut dyn Audience) -> Result<Shown> {
    if !geteuid().is_root() {
        bail!(
            "the demonstration makes network namespaces and needs root; try `sudo` with this program:\n  sudo {} demo",
            std::env::current_exe().map_or("bulkhead".into(), |path| path.display().to_string())
        );
    }
    let mut stage = stage::Stage::build(audience)?;
    scenes::traffic::play(&mut stage)?;
    scenes::attacks::play(&mut stage)?;
    scenes::reload::play(&mut stage)?;
    scenes::identity::play(&mut stage)?;
    scenes::crash::play(&mut stage)?;
    let rows = stage.into_rows();
    // On a quiet machine: the laboratory is gone.
    audience.trying("measuring how fast packets cross, for some four seconds");
    let throughput = bench::quick().map_err(|error| format!("{error:#}"));
    audience.facts("How fast packets cross", &speed(&throughput));
    Ok(Shown { rows, throughput })
}

/// The measurement in words.
fn speed(throughput: &Result<bench::Report, String>) -> Vec<String> {
    let report = match throughput {
        Ok(report) => report,
        Err(why) => return vec![format!("not measured: {}", why.lines().next().unwrap_or("?"))],
    };
    let rate = |kind| report.row(kind).and_then(bench::Row::packets_per_second);
    let (Some(ours), Some(kernel)) = (rate(bench::Kind::Bulkhead), rate(bench::Kind::Kernel)) else {
        return vec!["not measured: one of the two forwarders is not available".to_owned()];
    };
    let line = |name: &str, rate: f64| format!("{name:<34} {:>6.0} thousand packets a second", rate / 1e3);
    let mut lines = vec![
        line("bulkhead, every connection checked", ours),
        line("this kernel's forwarding, no rules", kernel),
        "one worker, small packets, virtual links; `bulkhead bench` measures properly".to_owned(),
    ];
    if cfg!(debug_assertions) {
        lines.push("this is a debug build, many times slower than `cargo run --release -- demo`".to_owned());
    }
    lines.extend(report.differences.iter().map(|difference| format!("NOT sound: {difference}")));
    lines
}
