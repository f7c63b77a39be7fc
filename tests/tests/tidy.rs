//! The habits of this project that a program can check: sizes, unsafe code, configurations, paths of somebody's machine.

use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a source file, its unit tests not counted.
const FILE_LINES: usize = 800;
/// The most lines of a function, from its signature to its last brace.
const FUNCTION_LINES: usize = 80;
/// The places of unsafe code: the package that owns packet memory, and the benches' counting allocator, because
/// `GlobalAlloc` is an unsafe trait.
const UNSAFE_IN: [&str; 2] = ["dataplane/afxdp/", "benches/src/allocations.rs"];
/// The most lines between an unsafe block, function or implementation and its argument.
const ARGUMENT_LINES: usize = 12;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Every file of the project, relative to its root: nothing that is built, and nothing of version control.
fn files() -> Vec<PathBuf> {
    let (root, mut found) = (root(), Vec::new());
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = entry.file_name();
            let built =
                ["target", ".git", "corpus", "artifacts", "coverage"].iter().any(|skipped| name == *skipped);
            if kind.is_dir() && !built {
                directories.push(path);
            } else if kind.is_file() && !built {
                found.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    assert!(found.len() > 100, "the project has more than {} files", found.len());
    found
}

/// Every Rust file with its text.
fn sources() -> Vec<(String, String)> {
    let rust = files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| (path.display().to_string(), fs::read_to_string(root().join(&path)).unwrap())).collect()
}

/// The same text with comments, strings and characters blanked, so that its braces and words are code.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let length = blank_length(bytes, at);
        for byte in &mut code[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length.max(1);
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// How many bytes from here are no code: a comment, a string, a character; else 0.
fn blank_length(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let follows_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => 1 + quoted(&rest[1..], b'"'),
        [b'r', b'"' | b'#', ..] if !follows_word => raw_string(rest),
        [b'b', b'r', b'"' | b'#', ..] if !follows_word => 1 + raw_string(&rest[1..]),
        // A lifetime has no quote behind its first character, a character literal has.
        [b'\'', b'\\', ..] => 1 + quoted(&rest[1..], b'\''),
        [b'\'', _, b'\'', ..] => 3,
        [b'\'', first, ..] if !first.is_ascii() => 1 + quoted(&rest[1..], b'\''),
        _ => 0,
    }
}

/// Length up to and with the closing quote.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of `r#"…"#`; 0 for a raw identifier.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let body = &rest[2 + hashes..];
    let found = body.windows(end.len()).position(|window| window == end).unwrap_or(body.len() - end.len());
    2 + hashes + found + end.len()
}

/// The lines, from 0, of `word` as a word of its own.
fn lines_of(code: &str, word: &str) -> Vec<usize> {
    let is_word =
        |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word);
    code.lines().enumerate().filter(|(_, line)| is_word(line)).map(|(number, _)| number).collect()
}

/// The line of the brace that closes the first one opened from this line on; `None` where a `;` ends it before.
fn closing_line(lines: &[&str], from: usize) -> Option<usize> {
    let mut depth = 0;
    for (number, line) in lines.iter().enumerate().skip(from) {
        for c in line.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ';' if depth == 0 && !line.contains('[') => return None,
                _ => continue,
            }
            if depth == 0 {
                return Some(number);
            }
        }
    }
    None
}

#[test]
fn source_files_are_no_longer_than_a_sitting() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        let code = code(&text);
        let lines: Vec<_> = code.lines().collect();
        let mut count = lines.len();
        for number in 0..lines.len() {
            let is_tests = lines.get(number + 1).is_some_and(|next| next.trim_start().starts_with("mod "));
            if lines[number].trim() == "#[cfg(test)]" && is_tests {
                count -= closing_line(&lines, number + 1).map_or(0, |end| end + 1 - number);
            }
        }
        if count > FILE_LINES {
            long.push(format!("{path}: {count} lines"));
        }
    }
    assert!(long.is_empty(), "more than {FILE_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    let mut seen = 0;
    for (path, text) in sources() {
        let code = code(&text);
        let lines: Vec<_> = code.lines().collect();
        for first in lines_of(&code, "fn") {
            seen += 1;
            let Some(last) = closing_line(&lines, first) else { continue };
            if last + 1 - first > FUNCTION_LINES {
                let signature = text.lines().nth(first).unwrap().trim();
                long.push(format!("{path}:{}: {} lines: {signature}", first + 1, last + 1 - first));
            }
        }
    }
    assert!(seen > 1000, "only {seen} functions were seen");
    assert!(long.is_empty(), "more than {FUNCTION_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn unsafe_code_stands_in_one_place_and_every_piece_has_its_argument() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources() {
        let lines: Vec<_> = text.lines().collect();
        for number in lines_of(&code(&text), "unsafe") {
            seen += 1;
            if !UNSAFE_IN.iter().any(|place| path.starts_with(place)) {
                wrong.push(format!("{path}:{}: outside {UNSAFE_IN:?}", number + 1));
            }
            if !is_argued(&lines, number) {
                wrong.push(format!("{path}:{}: no SAFETY comment: {}", number + 1, lines[number].trim()));
            }
        }
    }
    assert!(seen > 20, "only {seen} pieces of unsafe code were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether an argument stands above this line of unsafe code. A function of an unsafe implementation keeps the contract
/// that is argued there.
fn is_argued(lines: &[&str], number: usize) -> bool {
    let above = lines[number.saturating_sub(ARGUMENT_LINES)..=number].iter().rev();
    let argued = above
        .take_while(|line| !line.trim().is_empty())
        .any(|line| line.contains("// SAFETY:") || line.contains("/// # Safety"));
    let is_outermost = |line: &&&str| line.starts_with(|c: char| c.is_alphabetic());
    let within = lines[..number].iter().rev().find(is_outermost);
    let is_member = lines[number].starts_with(' ') && lines[number].trim_start().starts_with("unsafe fn ");
    argued || is_member && within.is_some_and(|line| line.starts_with("unsafe impl "))
}

#[test]
fn every_configuration_is_right_and_its_tests_pass() {
    let mut seen = 0;
    for path in files() {
        let name = path.display().to_string();
        if !(name.starts_with("configs/") && name.ends_with(".toml")) {
            continue;
        }
        seen += 1;
        let model = bulkhead::model::load(&root().join(&path)).unwrap_or_else(|errors| panic!("{errors}"));
        let policy = model.compile().unwrap_or_else(|error| panic!("{name}: {error}"));
        let results = model.run_tests(&policy);
        assert!(!results.is_empty(), "{name} has no tests");
        for result in results {
            assert_eq!(result.failure, None, "{name}: {}", result.test.name);
        }
    }
    assert!(seen >= 3, "only {seen} configurations");
}

#[test]
fn no_file_names_a_path_of_somebodys_machine() {
    let root = root().display().to_string();
    // In two parts, or this file would name them.
    let mut forbidden: Vec<String> = ["home", "root", "Users"].map(|top| format!("/{top}/")).into();
    if root.len() > 1 {
        forbidden.push(root);
    }
    let mut found = Vec::new();
    for path in files() {
        let bytes = fs::read(self::root().join(&path)).unwrap();
        for place in &forbidden {
            if bytes.windows(place.len()).any(|window| window == place.as_bytes()) {
                found.push(format!("{}: {place}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_is_no_code_is_blanked() {
    let text = r##"let a = "{ \" {"; // {
        let b = '{'; let c: &'static str = r#"{ " {"#; /* { /* { */ */ let d = b'\''; { let r#fn = 1; }"##;
    let blanked = code(text);
    assert_eq!(blanked.len(), text.len());
    assert_eq!(blanked.matches('{').count(), 1, "{blanked}");
    assert!(
        ["let a", "let b", "&'static str", "let d", "let r#fn = 1"].iter().all(|kept| blanked.contains(kept))
    );
    let lines: Vec<_> = blanked.lines().collect();
    assert_eq!(closing_line(&lines, 0), None, "a semicolon comes first");
    assert_eq!(closing_line(&["fn a()", "{", "if b { c() }", "}"], 0), Some(3));
}
