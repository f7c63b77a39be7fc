//! `bulkhead session`: say, list or revoke who is behind which address.

mod show;

use clap::{Args, Subcommand};
use serde_json::json;

use super::claims::ClaimArgs;
use super::control::{ControlArgs, Table, or_dash, said, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::session::{Factor, NewSession, Posture, Session, SessionFilter};
use crate::api::{Reply, Request};
use crate::plan::words::duration_s;

/// Say, list or revoke who is behind which address
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead session add --address 10.1.0.7 --user alice --mfa phishing-resistant --for 8h\n  \
    bulkhead session list\n  \
    bulkhead session revoke --user alice")]
pub struct SessionArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Vouch for whoever is behind an address
    ///
    /// For scripts, 802.1X hooks and machines with a fixed address: whoever may use the control socket says who it is, and
    /// nothing is checked but the words. The session takes the place of the one that the address has, and every worker
    /// judges by it when this returns. What is said of the device and its postures is of this moment; postures and second
    /// factors age from then on, as the policy says.
    ///
    /// An address on the link of a port is bound to the MAC address that the gateway's kernel knows for it, or to --mac:
    /// packets from another one are nobody's. Behind a router nothing tells two devices with one address apart.
    ///
    /// Sessions are not kept on disk: when the gateway starts, nobody is known.
    #[command(after_help = "Examples:\n  \
        bulkhead session add --address 10.1.0.7 --user alice --group dba --mfa-age 5m --for 8h\n  \
        bulkhead session add --address fd00:1::7 --user alice --device enrolled --device tag=laptop --posture compliant\n  \
        bulkhead session add --address 10.9.0.5 --device-name scanner-3 --device enrolled --for 30d --mac 02:00:00:00:00:07")]
    Add(AddArgs),
    /// Show who is behind which address
    #[command(
        after_help = "Examples:\n  bulkhead session list --user alice\n  bulkhead session list -o json"
    )]
    List(ListArgs),
    /// Show everything that is known of one session
    ///
    /// Who it is and how that was proved; how old the second factor and the reports of the device are, and for how long they
    /// still count; what the rules say of it now, and on what those fail that do not open; its live connections, and the last
    /// events of its address.
    #[command(
        after_help = "Examples:\n  bulkhead session show 7k2m9x4q0t\n  bulkhead session show 10.1.0.7 -o json | jq .rules"
    )]
    Show(ShowArgs),
    /// End sessions at once
    ///
    /// When this returns, no packet crosses by them any more: live connections that needed them are cut at their next
    /// packet, in either direction.
    #[command(
        after_help = "Examples:\n  bulkhead session revoke 7k2m9x4q0t\n  bulkhead session revoke --user alice\n  \
        bulkhead session revoke --all"
    )]
    Revoke(RevokeArgs),
}

#[derive(Args)]
struct AddArgs {
    /// The address, which has to belong to a segment; an IPv4 session opens nothing to the same device's IPv6 address
    #[arg(long)]
    address: String,
    #[command(flatten)]
    claims: ClaimArgs,
    /// What the device is called, in lists and logs
    #[arg(long, value_name = "NAME")]
    device_name: Option<String>,
    /// How long the session lasts, at most a year
    #[arg(long = "for", value_name = "DURATION", default_value = "8h")]
    lasts: String,
    /// The MAC address from which the packets come, where the gateway's kernel does not know it or knows another one
    #[arg(long)]
    mac: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct ListArgs {
    /// Those of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The one of this address
    #[arg(long)]
    address: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct ShowArgs {
    /// Its id or its address
    #[arg(value_name = "ID|ADDRESS")]
    which: String,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct RevokeArgs {
    /// The one with this id
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Those of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The one of this address
    #[arg(long)]
    address: Option<String>,
    /// Every session is meant
    #[arg(long, conflicts_with_all = ["id", "user", "address"])]
    all: bool,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl SessionArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::Add(args) => args.run(),
            Action::List(args) => args.run(),
            Action::Show(args) => args.run(),
            Action::Revoke(args) => args.run(),
        }
    }
}

impl AddArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let AddArgs { address, claims, device_name, lasts, mac, .. } = self;
        let new = NewSession { address, asked: claims.asked(), device_name, mac, lasts };
        let session = match self.control.ask_one(&Request::BeginSession { new, said: said() }, "asking")? {
            Ok(Reply::Session(session)) => session,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!(session));
        } else {
            let Session { id, address, segment, ends, .. } = &*session;
            say(&format!("session {id}: {} at {address} ({segment}) until {ends}", whose(&session)));
        }
        Ok(Exit::Ok)
    }
}

impl ListArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let filter = SessionFilter { id: None, user: self.user, address: self.address };
        let sessions = self.control.ask_all(&Request::Sessions { filter }, |reply| match reply {
            Reply::Session(session) => Ok(*session),
            reply => Err(Box::new(reply)),
        })?;
        let sessions = match sessions {
            Ok(sessions) => sessions,
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!({ "sessions": sessions }));
        } else {
            say(&text(&sessions));
        }
        Ok(Exit::Ok)
    }
}

/// The user, or else the device.
fn whose(session: &Session) -> String {
    let device = session.device.as_ref().and_then(|device| device.name.as_deref());
    or_dash(session.user.as_deref().or(device))
}

fn text(sessions: &[Session]) -> String {
    let mut table = Table::new(&[
        "ID", "WHO", "ADDRESS", "SEGMENT", "GROUPS", "DEVICE", ">MFA AGE", "POSTURE", "SINCE", ">LEFT",
    ]);
    for session in sessions {
        let list = |texts: Vec<String>| if texts.is_empty() { "-".to_owned() } else { texts.join(",") };
        let device = session.device.as_ref().map(|device| {
            let enrolled = if device.enrolled { "enrolled" } else { "not enrolled" };
            format!("{} ({enrolled})", or_dash(device.name.as_deref()))
        });
        let posture = |posture: &Posture| format!("{}={}", posture.name, posture.state);
        table.row([
            session.id.clone(),
            whose(session),
            session.address.clone(),
            session.segment.clone(),
            list(session.groups.clone()),
            or_dash(device.as_deref()),
            or_dash(session.mfa.as_ref().map(factor).as_deref()),
            list(session.postures.iter().map(posture).collect()),
            session.begun.clone(),
            duration_s(u32::try_from(session.left_s).unwrap_or(u32::MAX)),
        ]);
    }
    format!("{}\n{} session(s)", table.text(), sessions.len())
}

fn factor(factor: &Factor) -> String {
    let kind = if factor.phishing_resistant { " (phishing-resistant)" } else { "" };
    format!("{}{kind}", duration_s(factor.age_s))
}

impl ShowArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let shown = match self.control.ask_one(&Request::ShowSession { which: self.which }, "asking")? {
            Ok(Reply::SessionShown(shown)) => shown,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!(shown));
        } else {
            say(&show::text(&shown));
        }
        Ok(Exit::Ok)
    }
}

impl RevokeArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let filter = SessionFilter { id: self.id, user: self.user, address: self.address };
        let request = Request::RevokeSessions { filter, all: self.all, said: said() };
        let count = match self.control.ask_one(&request, "revoking")? {
            Ok(Reply::Revoked(count)) => count,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!({ "revoked": count }));
        } else {
            say(&format!("{count} session(s) revoked"));
        }
        Ok(Exit::Ok)
    }
}
