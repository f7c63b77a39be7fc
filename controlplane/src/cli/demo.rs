//! `bulkhead demo`: see it work, on this machine, in half a minute.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::demo::{self, Audience, Row, Shown};

/// Show what the gateway does, by itself, on this machine
///
/// Builds a network of three zones out of network namespaces, runs the gateway between them, and tries it from all
/// sides: what is allowed, what is not, a spoofed source, a port scan, a new policy in the middle of a download, and
/// kill -9. Nothing outside is touched, and nothing is left behind. Needs root.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 all as the policy says, 1 something differs, or it cannot run\n\n\
    Examples:\n  sudo bulkhead demo\n  sudo bulkhead demo -o json | jq '.rows[] | select(.ok | not)'")]
pub struct DemoArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Become the gateway of a demonstration
    #[arg(long, value_name = "FILE", hide = true, requires = "parent")]
    become_gateway: Option<PathBuf>,
    /// The demonstration's process, with which its gateway ends
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<i32>,
}

impl DemoArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        if let (Some(config), Some(parent)) = (&self.become_gateway, self.parent) {
            match demo::become_gateway(config, parent)? {}
        }
        let rows = match self.output.output {
            Format::Json => {
                let Shown { rows, throughput } = demo::run(&mut Quiet)?;
                let list: Vec<_> = rows.iter().map(Row::to_json).collect();
                let throughput = match throughput {
                    Ok(report) => report.to_json(),
                    Err(why) => json!({ "skipped": why }),
                };
                say_json(&json!({
                    "ok": demo::all_ok(&rows), "rows": list, "rows_ok": demo::ok_count(&rows),
                    "throughput": throughput,
                }));
                rows
            }
            Format::Text => {
                let begun = std::time::Instant::now();
                let mut screen = Screen::new();
                let Shown { rows, .. } = demo::run(&mut screen).inspect_err(|_| clear_line())?;
                screen.summary(&rows, begun.elapsed().as_secs_f32());
                rows
            }
        };
        Ok(if demo::all_ok(&rows) { Exit::Ok } else { Exit::Error })
    }
}

/// Tells on standard error only that it goes on.
struct Quiet;

impl Audience for Quiet {
    fn facts(&mut self, title: &str, _: &[String]) {
        complain(title);
    }

    fn scene(&mut self, title: &str) {
        complain(title);
    }

    fn trying(&mut self, _: &str) {}

    fn row(&mut self, _: &Row) {}
}

/// Widths of the columns: 100 characters with the verdict and what is between and before them.
const TRIED: usize = 40;
const SHOULD: usize = 15;
const HAPPENED: usize = 15;
const WHY: usize = 17;
/// From this width on a row takes one line.
const WIDE: usize = 100;

/// A terminal, or a file that will be read on one.
struct Screen {
    terminal: bool,
    colour: bool,
    wide: bool,
}

impl Screen {
    fn new() -> Screen {
        let terminal = std::io::stdout().is_terminal();
        // https://no-color.org: present and not empty.
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen {
            terminal,
            colour: terminal && !no_colour,
            wide: width().is_none_or(|columns| columns >= WIDE),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Before what is said further of a row.
    fn indent(&self) -> &'static str {
        if self.wide { "    " } else { "     " }
    }

    fn summary(&self, rows: &[Row], seconds: f32) {
        let (ok, all) = (demo::ok_count(rows), rows.len());
        let text = format!("{ok} of {all} as the policy says");
        let text = if demo::all_ok(rows) { self.paint("1;32", &text) } else { self.paint("1;31", &text) };
        say(&format!("\n{text} ({seconds:.1} s; nothing is left behind)"));
    }
}

/// Columns of the terminal at standard output.
fn width() -> Option<usize> {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| size.ws_col.into())
        .filter(|&columns| columns > 0)
}

fn clear_line() {
    if std::io::stdout().is_terminal() {
        let _ = write!(std::io::stdout(), "\r\x1b[K");
    }
}

impl Audience for Screen {
    fn facts(&mut self, title: &str, lines: &[String]) {
        if self.terminal {
            clear_line();
        }
        say(&format!("\n{}", self.paint("1", title)));
        for line in lines {
            say(format!("  {line}").trim_end());
        }
    }

    fn scene(&mut self, title: &str) {
        if self.terminal {
            clear_line();
        }
        let mut line = self.paint("1", &format!("{title:<0$}", TRIED + 2));
        if self.wide {
            let head = format!(" {:<SHOULD$} {:<HAPPENED$} rule or reason", "should happen", "happened");
            line += &self.paint("2", &head);
        }
        say(&format!("\n{}", line.trim_end()));
    }

    fn trying(&mut self, tried: &str) {
        if self.terminal {
            let _ = write!(std::io::stdout(), "\r\x1b[K  {}", self.paint("2", &format!("{tried} …")));
            let _ = std::io::stdout().flush();
        }
    }

    fn row(&mut self, row: &Row) {
        if self.terminal {
            clear_line();
        }
        let (expected, happened) = (&row.expected, &row.happened);
        let mark = if row.is_ok() { self.paint("32", "ok") } else { self.paint("1;31", "DIFFERS") };
        if self.wide {
            say(&format!(
                "  {:<TRIED$} {:<SHOULD$} {:<HAPPENED$} {:<WHY$} {mark}",
                row.tried, expected.what, happened.what, happened.why
            ));
        } else {
            say(&format!("  {mark:<2} {}", row.tried));
            say(&format!("     should: {}; happened: {} ({})", expected.what, happened.what, happened.why));
        }
        if expected.why != happened.why {
            say(&format!("{}expected by: {}", self.indent(), expected.why));
        }
        if let Some(note) = &row.note {
            say(&self.paint("2", &format!("{}{note}", self.indent())));
        }
    }
}
