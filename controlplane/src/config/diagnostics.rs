//! Errors of a configuration: where, what, and what to do about it. All independent ones are collected and shown
//! at once, each with its source line.

use std::fmt;
use std::sync::{Arc, OnceLock};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde_json::json;

/// At most so many errors are rendered; the rest is counted. A generated file can hold one mistake 100,000 times.
const SHOWN: usize = 50;
/// A line longer than this (bytes) is not quoted.
const QUOTED_LINE: usize = 4096;
/// A user's text is cut to this many characters inside a message.
const QUOTED_CHARS: usize = 80;

/// A place in one of the configuration's files: byte offsets, the end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At {
    /// Index of the file in [`Sources`].
    pub file: u32,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: At,
}

/// One file's name and text.
#[derive(Debug)]
pub struct Source {
    /// The path as it was given or found.
    pub path: String,
    /// The text.
    pub text: String,
    /// Where its lines start, byte offsets; found when somebody first asks for a place.
    line_starts: OnceLock<Vec<u32>>,
}

impl Source {
    fn line_starts(&self) -> &[u32] {
        self.line_starts.get_or_init(|| {
            let breaks = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            std::iter::once(0).chain(breaks.map(|(offset, _)| offset as u32 + 1)).collect()
        })
    }
}

/// The files that a configuration was read from. Cheap to clone: the texts are shared.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Arc<Source>>);

impl Sources {
    /// Adds a file and returns its index.
    pub fn add(&mut self, path: String, text: String) -> u32 {
        self.0.push(Arc::new(Source { path, text, line_starts: OnceLock::new() }));
        self.0.len() as u32 - 1
    }

    /// The file with this index.
    pub fn file(&self, index: u32) -> &Source {
        &self.0[index as usize]
    }

    /// The file with this index, to be kept.
    pub(super) fn shared(&self, index: u32) -> Arc<Source> {
        self.0[index as usize].clone()
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no file was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Path, line and column (in characters), both counted from 1.
    pub fn position(&self, at: At) -> (&str, usize, usize) {
        let (line_start, _) = self.line(at);
        let source = self.file(at.file);
        let line = source.line_starts().partition_point(|&s| s as usize <= line_start);
        let start = floor_boundary(&source.text, at.start as usize);
        (&source.path, line, source.text[line_start..start].chars().count() + 1)
    }

    /// `path:line:column`.
    pub fn place(&self, at: At) -> String {
        let (path, line, column) = self.position(at);
        format!("{path}:{line}:{column}")
    }

    /// Byte range of the line in which the place starts, without its line break.
    fn line(&self, at: At) -> (usize, usize) {
        let source = self.file(at.file);
        let (text, line_starts) = (&source.text, source.line_starts());
        let start = floor_boundary(text, at.start as usize);
        let next = line_starts.partition_point(|&s| s as usize <= start);
        let end = line_starts.get(next).map_or(text.len(), |&s| s as usize - 1);
        (line_starts[next - 1] as usize, end)
    }
}

/// The nearest character boundary at or before the offset, and within the text.
fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// One error.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// What is wrong, in one line.
    pub message: String,
    /// Where; `None` when no place in a file is to blame (a file that cannot be read).
    pub at: Option<At>,
    /// Words beside the underlined text.
    pub label: String,
    /// Another place that matters, with words.
    pub related: Option<(At, String)>,
    /// What helps.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Adds what helps.
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what helps, if anything does.
    pub fn maybe_hint(&mut self, hint: Option<String>) -> &mut Self {
        self.hint = hint.or(self.hint.take());
        self
    }

    /// Adds words beside the underlined text.
    pub fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = label.into();
        self
    }

    /// Adds another place that matters.
    pub fn related(&mut self, at: At, label: impl Into<String>) -> &mut Self {
        self.related = Some((at, label.into()));
        self
    }

    fn render(&self, sources: &Sources, level: Level<'_>) -> String {
        let mut group = level.primary_title(self.message.as_str()).elements([] as [Origin<'_>; 0]);
        for (at, label, kind) in [
            self.at.map(|at| (at, &self.label, AnnotationKind::Primary)),
            self.related.as_ref().map(|(at, label)| (*at, label, AnnotationKind::Context)),
        ]
        .into_iter()
        .flatten()
        {
            let (path, line, column) = sources.position(at);
            let (start, end) = sources.line(at);
            if end - start > QUOTED_LINE {
                group = group.element(Origin::path(path).line(line).char_column(column));
                continue;
            }
            let text = &sources.file(at.file).text;
            let from = floor_boundary(text, at.start as usize);
            let to = floor_boundary(text, (at.end as usize).clamp(from, end));
            let label = (!label.is_empty()).then_some(label.as_str());
            group = group.element(
                Snippet::source(&text[start..end])
                    .path(path)
                    .line_start(line)
                    .annotation(kind.span(from - start..to - start).label(label)),
            );
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        Renderer::plain().render(&[group])
    }
}

/// Everything that is wrong with a configuration, or worth a warning. `Display` renders it for people.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    sources: Sources,
    list: Vec<Diagnostic>,
    are_warnings: bool,
}

impl Diagnostics {
    /// The errors, in the order of their places.
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// The files they point into.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The errors as a JSON array of objects with message, file, line, column, hint and related place; as many
    /// as are rendered.
    pub fn to_json(&self) -> serde_json::Value {
        let place = |at: At| {
            let (path, line, column) = self.sources.position(at);
            json!({ "file": path, "line": line, "column": column })
        };
        self.list
            .iter()
            .take(SHOWN)
            .map(|d| {
                let mut object = d.at.map_or_else(|| json!({}), place);
                object["message"] = json!(d.message);
                if !d.label.is_empty() {
                    object["label"] = json!(d.label);
                }
                if let Some(hint) = &d.hint {
                    object["hint"] = json!(hint);
                }
                if let Some((at, label)) = &d.related {
                    object["related"] = place(*at);
                    object["related"]["label"] = json!(label);
                }
                object
            })
            .collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in self.list.iter().take(SHOWN) {
            let level = if self.are_warnings { Level::WARNING } else { Level::ERROR };
            writeln!(f, "{}\n", diagnostic.render(&self.sources, level))?;
        }
        let what = if self.are_warnings { "warning" } else { "error" };
        match self.list.len() {
            1 => write!(f, "1 {what}"),
            n if n > SHOWN => write!(f, "{n} {what}s; the first {SHOWN} are shown"),
            n => write!(f, "{n} {what}s"),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// Collects errors while a configuration is read and resolved.
#[derive(Debug, Default)]
pub struct Report {
    /// The files read so far.
    pub sources: Sources,
    list: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Report {
    /// No errors yet, in these files.
    pub fn new(sources: Sources) -> Report {
        Report { sources, ..Report::default() }
    }

    /// Adds what is not wrong, but hardly meant; the returned value takes a hint and a label.
    pub fn warn(&mut self, at: At, message: impl Into<String>) -> &mut Diagnostic {
        let message = message.into();
        self.warnings.push(Diagnostic {
            message,
            at: Some(at),
            label: String::new(),
            related: None,
            hint: None,
        });
        self.warnings.last_mut().expect("just pushed")
    }

    /// The files, and the warnings in the order of their places.
    pub fn into_warnings(mut self) -> (Sources, Diagnostics) {
        self.warnings.sort_by_key(|d| d.at);
        let sources = self.sources.clone();
        (sources, Diagnostics { sources: self.sources, list: self.warnings, are_warnings: true })
    }

    /// Adds an error at a place; the returned value takes a hint and a label.
    pub fn error(&mut self, at: At, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Some(at), message.into())
    }

    /// Adds an error that has no place in a file.
    pub fn failure(&mut self, message: impl Into<String>) -> &mut Diagnostic {
        self.push(None, message.into())
    }

    fn push(&mut self, at: Option<At>, message: String) -> &mut Diagnostic {
        self.list.push(Diagnostic { message, at, label: String::new(), related: None, hint: None });
        self.list.last_mut().expect("just pushed")
    }

    /// How many errors there are so far.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// As [`nearest`], but nothing once more errors are known than will be shown: the search is linear in the
    /// candidates, and a file can name 100,000 unknown things.
    pub fn nearest<'a>(&self, word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
        if self.list.len() > SHOWN { None } else { nearest(word, candidates) }
    }

    /// Whether nothing is wrong so far.
    pub fn is_clean(&self) -> bool {
        self.list.is_empty()
    }

    /// The collected errors in the order of their places.
    pub fn into_diagnostics(mut self) -> Diagnostics {
        self.list.sort_by_key(|d| d.at);
        Diagnostics { sources: self.sources, list: self.list, are_warnings: false }
    }
}

/// A user's text for a message: in backticks, control characters escaped, cut when long.
pub fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// "did you mean …?", if one of the candidates is near enough to be a misspelling.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Distance is quadratic in the length, and nobody misspells 64 characters.
    if word.len() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        // A third of the longer word: one letter in three, two in six.
        .filter(|(distance, candidate)| distance * 3 <= word.len().max(candidate.len()))
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}
