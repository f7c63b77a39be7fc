//! From paths to texts: the main file, then what it includes, within limits.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::diagnostics::{At, Located, Report};
use super::{Config, read_file};

/// The largest configuration, bytes over all files. 100,000 rules take about 20 MiB.
const BYTES_LIMIT: u64 = 64 << 20;
/// The most files that may be included.
const FILES_LIMIT: usize = 10_000;

/// Reads the file and its includes; `None` when one of them could not be read or is not TOML.
pub(super) fn load(path: &Path, report: &mut Report) -> Option<Config> {
    let mut left = BYTES_LIMIT;
    let mut config = Config::default();
    read_path(path, None, &mut left, &mut config, report)?;
    let mut complete = true;
    for include in std::mem::take(&mut config.include) {
        for path in included(path, &include, report) {
            complete &= read_path(&path, Some(include.at), &mut left, &mut config, report).is_some();
        }
        config.include.push(include);
    }
    complete.then_some(config)
}

/// The text of one file, of which bytes that are no text are replaced.
pub(super) fn read_text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(BYTES_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// As [`load`], of texts that were read before: the main file's first, then those that it includes, in that order.
pub(super) fn load_texts(
    texts: impl IntoIterator<Item = (String, String)>,
    report: &mut Report,
) -> Option<Config> {
    let mut config = Config::default();
    let (mut complete, mut main) = (true, true);
    for (path, text) in texts {
        let file = report.sources.add(path, text);
        let source = report.sources.shared(file);
        complete &= read_file(file, &source.text, main, &mut config, report).is_some();
        main = false;
    }
    (complete && !main).then_some(config)
}

/// `from` is the place of the `include` that asked for it; `None` for the main file.
fn read_path(
    path: &Path,
    from: Option<At>,
    left: &mut u64,
    config: &mut Config,
    report: &mut Report,
) -> Option<()> {
    let shown = path.display().to_string();
    let fail = |report: &mut Report, message: String| {
        match from {
            Some(at) => report.error(at, message),
            None => report.failure(message),
        };
        None
    };
    let mut bytes = Vec::new();
    // One byte over the limit is enough to know; a device or a pipe has no length to ask for.
    let read = std::fs::File::open(path).and_then(|file| file.take(*left + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return fail(report, format!("cannot read {shown}: {error}"));
    }
    if bytes.len() as u64 > *left {
        return fail(report, format!("{shown} is too large: all files together may have 64 MiB"));
    }
    *left -= bytes.len() as u64;
    match String::from_utf8(bytes) {
        Ok(text) => {
            let file = report.sources.add(shown, text);
            let source = report.sources.shared(file);
            read_file(file, &source.text, from.is_none(), config, report)
        }
        Err(error) => {
            let start = error.utf8_error().valid_up_to() as u32;
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let file = report.sources.add(shown, text);
            report
                .error(At { file, start, end: start + 1 }, "not UTF-8 text")
                .hint("save the file as UTF-8; TOML knows no other encoding");
            None
        }
    }
}

/// The files that an include names, relative to the file that includes, in the order of their names.
fn included(main: &Path, include: &Located<String>, report: &mut Report) -> Vec<PathBuf> {
    let pattern = main.parent().unwrap_or(Path::new("")).join(&include.value);
    let name = pattern.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let directory = pattern.parent().unwrap_or(Path::new("")).to_owned();
    if directory.to_string_lossy().contains('*') || name.is_empty() {
        report
            .error(include.at, "`*` is understood only in the last part of an included path")
            .hint("for example \"policy.d/*.toml\"");
        return Vec::new();
    }
    if !name.contains('*') {
        return vec![pattern];
    }
    let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
    // A file that is left out might have held a deny rule, so the directory is read whole or not at all.
    let entries = std::fs::read_dir(listed).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            report.error(include.at, format!("cannot list {}: {error}", listed.display()));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .iter()
        // The parts of a pattern are UTF-8, so a name that is not matches as its readable form does.
        .map(std::fs::DirEntry::file_name)
        .filter(|file| {
            let shown = file.to_string_lossy();
            !shown.starts_with('.') && matches(&name, &shown)
        })
        .map(|file| directory.join(file))
        .collect();
    paths.sort();
    if paths.len() > FILES_LIMIT {
        report.error(include.at, format!("{} files match; {FILES_LIMIT} are the limit", paths.len()));
        paths.clear();
    }
    paths
}

/// Whether a file's name matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text_and_nothing_else_does() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("1*-*.toml", "10-web.toml", true),
            ("1*-*.toml", "20-web.toml", false),
            ("a*a", "a", false),
            ("*", "x", true),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
