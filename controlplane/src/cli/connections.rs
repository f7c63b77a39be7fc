//! `bulkhead connections`: list or cut live connections.

use clap::{Args, Subcommand};
use serde_json::json;

use super::control::{ControlArgs, Table, or_dash, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::types::{Connection, Filter};
use crate::api::{Reply, Request};

/// List or cut live connections
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead connections list --from office --port tcp/443\n  \
    bulkhead connections kill --source 10.1.0.7 --dry-run\n  \
    bulkhead connections kill --rule office-to-web")]
pub struct ConnectionsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show live connections
    #[command(after_help = "Example:\n  bulkhead connections list --to servers --state established -o json")]
    List(ListArgs),
    /// Cut live connections
    ///
    /// The next packet of a cut connection, in either direction, belongs to no connection and is dropped. A new one may
    /// be opened at once if the policy allows it: to forbid that, change the policy.
    #[command(after_help = "Examples:\n  bulkhead connections kill --source 10.1.0.7 --dry-run\n  \
        bulkhead connections kill --all")]
    Kill(KillArgs),
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Show at most so many; all that match are counted
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct KillArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Every connection is meant
    #[arg(long)]
    all: bool,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which connections; everything given must hold.
#[derive(Args)]
struct FilterArgs {
    /// The originator's segment or network
    #[arg(long, value_name = "SEGMENT|NETWORK")]
    from: Option<String>,
    /// The responder's segment or network
    #[arg(long, value_name = "SEGMENT|NETWORK")]
    to: Option<String>,
    /// The originator's address or network
    #[arg(long, value_name = "NETWORK")]
    source: Option<String>,
    /// The responder's address or network
    #[arg(long, value_name = "NETWORK")]
    destination: Option<String>,
    /// Protocol and destination port: tcp/443, udp/53, icmp/echo-request
    #[arg(long, value_name = "SERVICE")]
    port: Option<String>,
    /// The rule that lets it through
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Its state, such as established or syn_sent
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
}

impl FilterArgs {
    fn filter(self) -> Filter {
        let FilterArgs { from, to, source, destination, port, rule, state } = self;
        Filter { from, to, source, destination, port, rule, state }
    }
}

impl ConnectionsArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::List(args) => args.run(),
            Action::Kill(args) => args.run(),
        }
    }
}

impl ListArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let request = Request::Connections { filter: self.filter.filter(), limit: self.limit };
        let (mut shown, mut matched) = (Vec::new(), 0);
        let exit = self.control.ask(&request, |reply| match reply {
            Reply::Connection(connection) => {
                shown.push(connection);
                Ok(())
            }
            Reply::Matched(count) => {
                matched = count;
                Ok(())
            }
            reply => Err(unexpected(&reply)),
        })?;
        if exit != Exit::Ok {
            return Ok(exit);
        }
        if self.output.output == Format::Json {
            say_json(&json!({ "matched": matched, "connections": shown }));
        } else {
            say(&text(&shown, matched));
        }
        Ok(Exit::Ok)
    }
}

/// A table of connections of which some may be left out.
pub fn text(shown: &[Connection], matched: u64) -> String {
    let mut table = Table::new(&[
        "PROTOCOL",
        "SOURCE",
        "DESTINATION",
        "FROM",
        "TO",
        "STATE",
        "RULE",
        "USER",
        ">AGE",
        ">IDLE",
        ">PACKETS",
        ">BYTES",
    ]);
    let end = |address: &str, port: u16| {
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    for connection in shown {
        table.row([
            connection.protocol.clone(),
            end(&connection.source, connection.source_port),
            end(&connection.destination, connection.destination_port),
            or_dash(connection.from.as_deref()),
            or_dash(connection.to.as_deref()),
            connection.state.clone(),
            or_dash(connection.rule.as_deref()),
            or_dash(connection.user.as_deref()),
            format!("{}s", connection.age_s),
            format!("{}s", connection.idle_s),
            connection.packets.iter().sum::<u64>().to_string(),
            connection.bytes.iter().sum::<u64>().to_string(),
        ]);
    }
    let more = matched.saturating_sub(shown.len() as u64);
    let more = if more > 0 { format!(", {more} of them not shown (see --limit)") } else { String::new() };
    format!("{}\n{matched} connection(s){more}", table.text())
}

impl KillArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let request = Request::Kill { filter: self.filter.filter(), all: self.all, dry_run: self.dry_run };
        let count = match self.control.ask_one(&request, "cutting connections")? {
            Ok(Reply::Killed(count)) => count,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(
                &json!({ "killed": if self.dry_run { 0 } else { count }, "matched": count, "dry_run": self.dry_run }),
            );
        } else if self.dry_run {
            say(&format!("{count} connection(s) would be cut"));
        } else {
            say(&format!("{count} connection(s) cut"));
        }
        Ok(Exit::Ok)
    }
}
