//! `bulkhead show REVISION`: the text of a stored policy.

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::types::{Revision, Text};
use crate::api::{Reply, Request};

/// Print a policy that was in force, as its files were then
///
/// The main file, then those it includes; each after a line `# --- PATH` when there are several.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  bulkhead show 12\n  bulkhead show 12 --file /etc/bulkhead/bulkhead.toml > old.toml"
)]
pub struct ShowArgs {
    /// Which
    #[arg(value_name = "REVISION")]
    revision: u64,
    /// Only this file
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ShowArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let Shown { about, mut files } = match ask(&self.control, self.revision)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        if let Some(wanted) = &self.file {
            let paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
            files.retain(|file| file.path == *wanted);
            if files.is_empty() {
                anyhow::bail!("revision {} has no file {wanted}, but {}", self.revision, paths.join(", "));
            }
        }
        match self.output.output {
            Format::Json => say_json(&json!({ "revision": about, "files": files })),
            Format::Text => say(text(&files).trim_end_matches('\n')),
        }
        Ok(Exit::Ok)
    }
}

/// A revision as the gateway shows it.
pub(super) struct Shown {
    pub about: Option<Revision>,
    pub files: Vec<Text>,
}

/// A revision and its files; a refusal is told, and `Err` holds its exit code.
pub(super) fn ask(control: &ControlArgs, revision: u64) -> anyhow::Result<Result<Shown, Exit>> {
    let (mut about, mut files) = (None, Vec::new());
    let exit = control.ask(&Request::Show { revision }, |reply| {
        match reply {
            Reply::Revision(revision) => about = Some(*revision),
            Reply::Text(text) => files.push(text),
            reply => return Err(unexpected(&reply)),
        }
        Ok(())
    })?;
    Ok(if exit == Exit::Ok { Ok(Shown { about, files }) } else { Err(exit) })
}

fn text(files: &[Text]) -> String {
    if let [only] = files {
        return only.text.clone();
    }
    let mut text = String::new();
    for file in files {
        text += &format!("# --- {}\n{}\n", file.path, file.text.trim_end_matches('\n'));
    }
    text
}
