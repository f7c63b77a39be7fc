//! `bulkhead history`: what was in force, since when, and on whose behalf.

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, Table, or_dash, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::types::{About, Revision};
use crate::api::{Reply, Request};

/// Show which policies were in force, since when, and on whose behalf
///
/// WHO is the user of the process that asked, as the kernel says. What stands under CLIENT SAYS (the user before sudo, the
/// SSH connection, the terminal) is what the command line found in its environment: nobody has checked it.
///
/// Revisions are counted for ever. The generation in `status`, `connections` and `events` counts within one run of the
/// gateway.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead history\n  bulkhead history -o json | jq '.revisions[-1]'")]
pub struct HistoryArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl HistoryArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let mut revisions = Vec::new();
        let exit = self.control.ask(&Request::History, |reply| match reply {
            Reply::Revision(revision) => {
                revisions.push(*revision);
                Ok(())
            }
            reply => Err(unexpected(&reply)),
        })?;
        if exit == Exit::Ok {
            match self.output.output {
                Format::Json => say_json(&json!({ "revisions": revisions })),
                Format::Text => say(&text(&revisions)),
            }
        }
        Ok(exit)
    }
}

fn text(revisions: &[Revision]) -> String {
    let mut table = Table::new(&[
        ">REVISION",
        "PUT IN FORCE",
        "BY",
        "WHO",
        "CLIENT SAYS",
        ">RULES",
        "DIGEST",
        "TICKET",
        "STATE",
        "MESSAGE",
    ]);
    for revision in revisions {
        let about = revision.about.as_ref();
        let of = |part: fn(&About) -> String| about.map_or_else(|| "?".to_owned(), part);
        table.row([
            revision.revision.to_string(),
            of(|about| about.at.clone()),
            of(cause),
            of(who),
            of(client_says),
            of(|about| about.rules.to_string()),
            of(|about| about.digest.chars().take(12).collect()),
            of(|about| or_dash(about.ticket.as_deref())),
            state(revision),
            of(|about| or_dash(about.message.as_deref())),
        ]);
    }
    table.text()
}

fn cause(about: &About) -> String {
    match (about.cause.as_str(), about.rollback_to) {
        ("signal", _) => "SIGHUP".to_owned(),
        ("rollback", Some(to)) => format!("rollback to {to}"),
        (cause, _) => cause.to_owned(),
    }
}

fn who(about: &About) -> String {
    match (&about.user, about.uid) {
        (Some(user), _) => user.clone(),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "-".to_owned(),
    }
}

fn client_says(about: &About) -> String {
    let said = &about.client_said;
    let user = said.sudo_user.as_ref().map(|user| format!("sudo by {user}"));
    // "client port server port"
    let ssh = said
        .ssh_connection
        .as_ref()
        .and_then(|ssh| ssh.split(' ').next())
        .map(|from| format!("ssh from {from}"));
    let parts: Vec<_> = [user, ssh, said.tty.clone()].into_iter().flatten().collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn state(revision: &Revision) -> String {
    if revision.damaged.is_some() {
        return "DAMAGED".to_owned();
    }
    match (revision.state.as_str(), &revision.until, &revision.why) {
        ("in_force", ..) => "in force".to_owned(),
        ("pending", Some(until), _) => format!("PENDING until {until}"),
        ("rolled_back", _, Some(why)) => format!("rolled back: {why}"),
        (state, ..) => state.to_owned(),
    }
}
