//! What the verbs that ask the running gateway have in common.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::{Exit, complain};
use crate::api::client::{self, Failure};
use crate::api::types::{Reloaded, Said};
use crate::api::{DEFAULT_SOCKET, Reply, Request};

/// Progress is shown when an action takes longer than this.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);

/// `--control`: shared by the verbs that ask the running gateway.
#[derive(Args, Clone, Debug)]
pub struct ControlArgs {
    /// The running gateway's control socket
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_SOCKET)]
    pub control: PathBuf,
}

/// A refusal as it is told. Diagnostics of a configuration say themselves that they are errors.
fn as_error(message: &str) -> String {
    if message.starts_with("error:") { message.to_owned() } else { format!("error: {message}") }
}

impl ControlArgs {
    /// Asks, and hands every line of the answer to `each`. The exit code is the gateway's.
    pub fn ask(&self, request: &Request, mut each: impl FnMut(Reply) -> Result<()>) -> Result<Exit> {
        let mut answer = client::ask(&self.control, request)?;
        loop {
            match answer.read() {
                Ok(Some(reply)) => each(reply)?,
                Ok(None) => return Ok(Exit::Ok),
                Err(Failure::Refused(refusal)) => {
                    complain(&as_error(&refusal.message));
                    return Ok(Exit::of(refusal.exit));
                }
                Err(Failure::Broken(error)) => return Err(error),
            }
        }
    }

    /// Asks for lines of one kind, which `take` knows. A refusal is told, and `Err` holds its exit code.
    pub fn ask_all<T>(
        &self,
        request: &Request,
        take: impl Fn(Reply) -> Result<T, Box<Reply>>,
    ) -> Result<Result<Vec<T>, Exit>> {
        let mut lines = Vec::new();
        let exit = self.ask(request, |reply| {
            lines.push(take(reply).map_err(|reply| unexpected(&reply))?);
            Ok(())
        })?;
        Ok(if exit == Exit::Ok { Ok(lines) } else { Err(exit) })
    }

    /// Asks for one line. A refusal is told, and `Err` holds its exit code.
    pub fn ask_one(&self, request: &Request, what: &str) -> Result<Result<Reply, Exit>> {
        let mut reply = None;
        let exit = with_progress(what, || {
            self.ask(request, |line| {
                reply = Some(line);
                Ok(())
            })
        })?;
        match (exit, reply) {
            (Exit::Ok, Some(reply)) => Ok(Ok(reply)),
            (Exit::Ok, None) => bail!("the gateway's answer is empty"),
            (exit, _) => Ok(Err(exit)),
        }
    }
}

/// What can be said of whoever uses the command line.
pub fn said() -> Said {
    let variable = |name: &str| std::env::var(name).ok();
    let tty = std::fs::read_link("/proc/self/fd/0").ok().filter(|_| std::io::stdin().is_terminal());
    Said {
        sudo_user: variable("SUDO_USER"),
        ssh_connection: variable("SSH_CONNECTION"),
        tty: tty.map(|tty| tty.display().to_string()),
    }
}

/// Tells that a policy is in force.
pub fn in_force(reloaded: &Reloaded) -> String {
    let number = reloaded.revision.map_or_else(String::new, |revision| format!("revision {revision}, "));
    let (generation, rules, took_ms) = (reloaded.generation, reloaded.rules, reloaded.took_ms);
    let config = reloaded.config.display();
    let mut text = format!(
        "{number}generation {generation}: {rules} rules from {config}, in force in every worker after {took_ms} ms"
    );
    if let Some(until) = &reloaded.confirm_until {
        text += &format!("\nuntil {until}, then it is rolled back; `bulkhead confirm` keeps it");
    }
    text
}

/// An answer of another kind than was asked for.
pub fn unexpected(reply: &Reply) -> anyhow::Error {
    anyhow::anyhow!("the gateway's answer does not fit the question: {reply:?}")
}

/// Shows on a terminal that a long action goes on.
fn with_progress<T>(what: &str, action: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return action();
    }
    let (done, waiting) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let begun = Instant::now();
            let mut shown = false;
            while let Err(RecvTimeoutError::Timeout) = waiting.recv_timeout(PROGRESS_AFTER) {
                shown = true;
                eprint!("\r{what} … {:.0} s", begun.elapsed().as_secs_f32());
            }
            if shown {
                // Clears the line.
                eprint!("\r\x1b[K");
            }
        });
        let value = action();
        drop(done);
        value
    })
}

/// Columns of a table.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A title for every column; one that begins with `>` is aligned to the right.
    pub fn new(titles: &[&str]) -> Table {
        let right = titles.iter().map(|title| title.starts_with('>')).collect();
        let titles = titles.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
        Table { rows: vec![titles], right }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The aligned text, without a trailing line break.
    pub fn text(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.right.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).zip(&self.right).map(|((cell, width), right)| {
                if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// A dash where there is nothing.
pub fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_called_an_error_once() {
        assert_eq!(as_error("no such rule"), "error: no such rule");
        assert_eq!(as_error("error: unknown key"), "error: unknown key");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["name", ">count", "note"]);
        table.row(["a".to_owned(), "1000".to_owned(), String::new()]);
        table.row(["länger".to_owned(), "1".to_owned(), "x".to_owned()]);
        assert_eq!(table.text(), "name    count  note\na        1000\nlänger      1  x");
    }
}
