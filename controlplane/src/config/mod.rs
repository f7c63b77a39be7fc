//! The configuration as the user wrote it, with the place of every value.
//!
//! Files → [`Config`]. Nothing is defaulted or resolved here: names become ids in [`model`](crate::model). Every
//! independent error is reported at once; a key that this version does not know is always an error.

pub mod diagnostics;
mod files;
pub mod format;
pub mod identity;
pub mod json_schema;
pub mod portal;
mod read;
pub mod schema;
pub mod sign_in;
pub mod trust;
pub mod values;

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

pub use diagnostics::{At, Diagnostic, Diagnostics, Located, Report, Sources};
pub use schema::Config;

use read::Reader;

/// A configuration and the files it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was written.
    pub config: Config,
    /// Where: resolves the places in it.
    pub sources: Sources,
}

/// Reads a file and what it includes.
pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    finish(read(path))
}

/// As [`load`], but also gives what could be read of a file with errors, so that resolving can find more of them.
/// Nothing when a file is missing or its syntax is broken.
pub(crate) fn read(path: &Path) -> (Option<Config>, Report) {
    let mut report = Report::default();
    let config = files::load(path, &mut report);
    (config, report)
}

fn finish((config, report): (Option<Config>, Report)) -> Result<Loaded, Diagnostics> {
    match config {
        Some(config) if report.is_clean() => Ok(Loaded { config, sources: report.sources }),
        _ => Err(report.into_diagnostics()),
    }
}

/// As [`read`], of texts that were read before, each with its path: the main file's first, then those that it includes.
/// The disk is not looked at.
pub(crate) fn read_texts(texts: impl IntoIterator<Item = (String, String)>) -> (Option<Config>, Report) {
    let mut report = Report::default();
    let config = files::load_texts(texts, &mut report);
    (config, report)
}

/// The `state` that a file names, as far as it can be read; also of one with errors, so that what was in force can be
/// found although the file is broken.
pub(crate) fn state_of(path: &Path) -> Option<PathBuf> {
    let text = files::read_text(path).ok()?;
    let (table, _) = DeTable::parse_recoverable(&text);
    let state = table.get_ref().get("gateway")?.get_ref().as_table()?.get("state")?.get_ref().as_str()?;
    state.starts_with('/').then(|| PathBuf::from(state))
}

/// Reads a text that includes nothing. `name` stands for the file's path in messages.
pub fn parse(name: &str, text: &str) -> Result<Loaded, Diagnostics> {
    finish(read_text(name, text))
}

/// As [`read`], for [`parse`].
pub(crate) fn read_text(name: &str, text: &str) -> (Option<Config>, Report) {
    let mut report = Report::default();
    let mut config = Config::default();
    let file = report.sources.add(name.to_owned(), text.to_owned());
    let valid = read_file(file, text, true, &mut config, &mut report);
    for include in &config.include {
        report.error(include.at, "`include` works only in a file");
    }
    (valid.map(|()| config), report)
}

/// Reads one text into the configuration. `None` says that its syntax is broken.
fn read_file(file: u32, text: &str, main: bool, config: &mut Config, report: &mut Report) -> Option<()> {
    let table = parse_table(file, text, report)?;
    let mut reader = Reader { file, report };
    let at = reader.at(table.span());
    schema::root(&mut reader, table.get_ref(), at, main, config);
    Some(())
}

/// The text as TOML. With broken syntax nothing but the syntax is reported: what a recovering parser makes of the rest
/// would only mislead.
fn parse_table<'t>(file: u32, text: &'t str, report: &mut Report) -> Option<Spanned<DeTable<'t>>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(table);
    }
    // A recovering parser closes 80 open brackets with 80 equal errors.
    let mut told = std::collections::HashSet::new();
    let reader = Reader { file, report };
    for error in errors {
        let at = reader.at(error.span().or_else(|| long_key(text)).unwrap_or(0..0));
        if !told.insert((at, error.message().to_owned())) {
            continue;
        }
        reader.report.error(at, format!("not valid TOML: {}", error.message()));
    }
    None
}

/// The line with a key of more parts than the parser takes, which it refuses without saying where.
fn long_key(text: &str) -> Option<std::ops::Range<usize>> {
    const PARTS: usize = 80;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if line.bytes().filter(|byte| *byte == b'.').count() >= PARTS - 1 {
            return Some(start..start + line.trim_end().len());
        }
        start += line.len();
    }
    None
}

#[cfg(test)]
mod tests;
