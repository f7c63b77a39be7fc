//! `bulkhead diff A B`: what differs in the text of two stored policies.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use similar::TextDiff;

use super::control::ControlArgs;
use super::show::ask;
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::types::Text;

/// After so long a difference is told as larger than it had to be.
const DIFF_TIME: Duration = Duration::from_secs(5);

/// Show what differs in the text of two policies that were in force
///
/// As a unified difference, file by file.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 the same, 1 error, 2 there are differences\n\n\
    Examples:\n  bulkhead diff 11 12\n  bulkhead diff 11 12 -o json | jq '.files[].path'")]
pub struct DiffArgs {
    /// The one
    #[arg(value_name = "A")]
    old: u64,
    /// The other
    #[arg(value_name = "B")]
    new: u64,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A file that is not the same in both.
#[derive(Debug, PartialEq, Eq)]
struct Changed {
    path: String,
    change: &'static str,
    unified: String,
}

impl DiffArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let mut both = Vec::new();
        for revision in [self.old, self.new] {
            match ask(&self.control, revision)? {
                Ok(shown) => both.push(shown.files),
                Err(exit) => return Ok(exit),
            }
        }
        let changed = compare([&both[0], &both[1]], [self.old, self.new]);
        match self.output.output {
            Format::Json => {
                let files = changed
                    .iter()
                    .map(|file| json!({ "path": file.path, "change": file.change, "unified": file.unified }));
                say_json(&json!({ "old": self.old, "new": self.new, "files": files.collect::<Vec<_>>() }));
            }
            Format::Text if changed.is_empty() => {
                say(&format!("revisions {} and {} have the same text", self.old, self.new));
            }
            Format::Text => changed.iter().for_each(|file| say(file.unified.trim_end_matches('\n'))),
        }
        Ok(if changed.is_empty() { Exit::Ok } else { Exit::Differences })
    }
}

/// The files that are not the same. A main file is compared with the other main file, wherever they were.
fn compare(both: [&[Text]; 2], revisions: [u64; 2]) -> Vec<Changed> {
    let [old, new] = both;
    let mut pairs = vec![(old.first(), new.first())];
    let (old, new) = (old.get(1..).unwrap_or_default(), new.get(1..).unwrap_or_default());
    let find = |files: &'_ [Text], path: &str| files.iter().position(|file| file.path == path);
    pairs.extend(old.iter().map(|file| (Some(file), find(new, &file.path).map(|index| &new[index]))));
    let added = new.iter().filter(|file| find(old, &file.path).is_none());
    pairs.extend(added.map(|file| (None, Some(file))));
    let changed = pairs.into_iter().filter_map(|(old, new)| {
        let (path, change) = match (old, new) {
            (Some(old), Some(new)) if old.text == new.text => return None,
            (_, Some(file)) if old.is_none() => (&file.path, "added"),
            (Some(file), None) => (&file.path, "removed"),
            (_, Some(file)) => (&file.path, "changed"),
            (None, None) => return None,
        };
        let text = |file: Option<&Text>| file.map_or(String::new(), |file| file.text.clone());
        let name = |file: Option<&Text>, revision: u64| match file {
            Some(file) => format!("{}\trevision {revision}", file.path),
            None => "/dev/null".to_owned(),
        };
        let (before, after) = (text(old), text(new));
        let diff = TextDiff::configure().timeout(DIFF_TIME).diff_lines(&before, &after);
        let unified =
            diff.unified_diff().header(&name(old, revisions[0]), &name(new, revisions[1])).to_string();
        Some(Changed { path: path.clone(), change, unified })
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> Vec<Text> {
        texts.iter().map(|(path, text)| Text { path: (*path).to_owned(), text: (*text).to_owned() }).collect()
    }

    #[test]
    fn main_files_are_compared_wherever_they_were_and_included_ones_by_path() {
        let old = files(&[("/etc/a", "one\ntwo\n"), ("/etc/d/1", "x\n"), ("/etc/d/2", "y\n")]);
        let new = files(&[("/tmp/b", "one\n2\n"), ("/etc/d/2", "y\n"), ("/etc/d/3", "z")]);
        let changed = compare([&old, &new], [7, 9]);
        let kinds: Vec<_> = changed.iter().map(|file| (file.path.as_str(), file.change)).collect();
        assert_eq!(kinds, [("/tmp/b", "changed"), ("/etc/d/1", "removed"), ("/etc/d/3", "added")]);
        let expected = "--- /etc/a\trevision 7\n+++ /tmp/b\trevision 9\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n";
        assert_eq!(changed[0].unified, expected);
        assert_eq!(changed[1].unified, "--- /etc/d/1\trevision 7\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n");
        assert!(changed[2].unified.contains("\n+z\n\\ No newline at end of file"), "{}", changed[2].unified);
        assert_eq!(compare([&old, &old], [1, 2]), []);
    }
}
