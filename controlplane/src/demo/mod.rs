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
mod row;
mod scenes;
mod servers;
mod stage;
mod watch;

pub use gateway::become_gateway;
pub use row::{Finding, Row, all_ok, ok_count};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

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

/// Runs all of it; what came out, also of rows that differ.
///
/// # Errors
///
/// It could not be run: no permission, a kernel without what it needs, an interrupt.
pub fn run(audience: &mut dyn Audience) -> Result<Vec<Row>> {
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
    scenes::crash::play(&mut stage)?;
    Ok(stage.into_rows())
}
