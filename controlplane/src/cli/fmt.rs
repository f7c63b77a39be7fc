//! `bulkhead fmt FILE…`: one layout for every configuration.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{Exit, complain, files, say};
use crate::config::format::format;

/// The largest file, bytes; that of a whole configuration.
const BYTES_LIMIT: u64 = 64 << 20;

/// Lay out configuration files in the common way
///
/// Spaces, line breaks and commas change; keys, values, their order and comments do not, and a file is written only
/// after its new text was read again and found to mean the same. Files that a configuration includes are given by name.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 done, 1 errors, 2 with --check: some files would change\n\n\
    Examples:\n  bulkhead fmt /etc/bulkhead/bulkhead.toml /etc/bulkhead/policy.d/*.toml\n  \
    bulkhead fmt --check configs/*.toml\n  bulkhead fmt - < old.toml > new.toml")]
pub struct FmtArgs {
    /// The files; `-` lays out standard input to standard output
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Change nothing; name the files that would change
    #[arg(long)]
    check: bool,
}

impl FmtArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let (mut failed, mut different) = (false, false);
        for file in &self.files {
            match self.lay_out(file) {
                Ok(changes) => different |= changes,
                Err(error) => {
                    complain(&format!("{error:#}"));
                    failed = true;
                }
            }
        }
        Ok(match (failed, different && self.check) {
            (true, _) => Exit::Error,
            (false, true) => Exit::Differences,
            (false, false) => Exit::Ok,
        })
    }

    /// Whether the file's layout was another.
    fn lay_out(&self, file: &Path) -> anyhow::Result<bool> {
        let is_stdin = file == Path::new("-");
        let shown = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
        let text = if is_stdin { read(std::io::stdin()) } else { File::open(file).and_then(read) };
        let text = text.with_context(|| format!("error: cannot read {shown}"))?;
        let formatted = format(&shown, &text).map_err(|errors| anyhow::anyhow!(errors.to_string()))?;
        let changes = formatted != text;
        match (is_stdin, self.check) {
            (_, true) if changes => say(&format!("{shown}: would change")),
            (true, false) => print!("{formatted}"),
            (false, false) if changes => {
                files::replace(file, formatted.as_bytes())
                    .with_context(|| format!("error: cannot write {shown}; it is as it was"))?;
                say(&format!("{shown}: laid out"));
            }
            _ => {}
        }
        Ok(changes)
    }
}

fn read(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(BYTES_LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_LIMIT {
        return Err(std::io::Error::other("it is larger than 64 MiB"));
    }
    Ok(text)
}
