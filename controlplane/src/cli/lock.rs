//! `bulkhead lock`, `unlock`, `locks` and `quarantine`: who is kept from what the rules allow.

use clap::{Args, Subcommand};
use serde_json::json;

use super::control::{ControlArgs, Table, or_dash, said, unexpected};
use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::api::operator::{Release, Restrain, Restrained, RestraintRow, Whom};
use crate::api::{Reply, Request};
use crate::restraints::Kind;

/// Lock out a user, a device, a group, a workload or an address, at once
///
/// When this returns, no packet of theirs crosses: the sessions concerned have ended, and none begins while the lock
/// holds, whatever is shown for it. From and to a locked address nothing crosses at all, also what needs no session, and live
/// connections are cut in both directions. A lock survives restarts. Unlike a changed policy it needs no review and no file,
/// for it takes away only.
///
/// With --for it ends by itself, by the wall clock; putting that forward ends none early while the gateway runs.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead lock --user alice --reason \"lost her laptop\"\n  \
    bulkhead lock --address 10.1.0.7 --for 2h\n  bulkhead lock --group contractors\n  \
    bulkhead lock --spiffe spiffe://example.org/billing/api")]
pub struct LockArgs {
    #[command(flatten)]
    whom: WhomArgs,
    #[command(flatten)]
    more: MoreArgs,
}

/// Let somebody in again who was locked out
///
/// Sessions that have ended do not come back: whoever it was signs in again.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead unlock --user alice\n  bulkhead unlock --address 10.1.0.7")]
pub struct UnlockArgs {
    #[command(flatten)]
    whom: WhomArgs,
    /// The file in which it was written who is locked out or in quarantine is damaged: begin anew without it
    #[arg(long, conflicts_with_all = ["user", "device", "group", "spiffe", "address"])]
    damaged: bool,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show who is locked out
#[derive(Args)]
#[command(after_help = "Example:\n  bulkhead locks -o json")]
pub struct LocksArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Move somebody into the quarantine segment, list who is there, and let them out
///
/// The policy says what may be reached from there: `[segments.NAME]` with `quarantine = true`, and rules from and to it. All
/// else is denied as `quarantined`, live connections included, at their next packet and in both directions.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead quarantine add --address 10.1.0.7 --reason \"beacons\"\n  \
    bulkhead quarantine add --user alice --for 8h\n  bulkhead quarantine list\n  bulkhead quarantine remove --user alice")]
pub struct QuarantineArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Move an address, or whoever it is wherever they are, into quarantine
    ///
    /// Of a user or a device: every address at which they have a session, or get one. Those addresses stay in quarantine until
    /// it is over, also when the session ends: who signs out has not become healthy by that. A session goes on, and rules
    /// from the quarantine segment may ask who it is.
    Add(AddArgs),
    /// Show who is in quarantine
    List(LocksArgs),
    /// Let somebody out
    Remove(RemoveArgs),
}

/// Exactly one of them.
#[derive(Args)]
#[group(multiple = false)]
struct WhomArgs {
    /// This user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// This device
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Everybody in this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Whatever shows this SPIFFE ID
    #[arg(long, value_name = "ID")]
    spiffe: Option<String>,
    /// This address
    #[arg(long)]
    address: Option<String>,
}

impl WhomArgs {
    fn whom(self) -> Option<Whom> {
        let WhomArgs { user, device, group, spiffe, address } = self;
        let named = user.map(Whom::User).or(device.map(Whom::Device)).or(group.map(Whom::Group));
        named.or(spiffe.map(Whom::Spiffe)).or(address.map(Whom::Address))
    }
}

#[derive(Args)]
struct MoreArgs {
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// For how long; without, until it is taken back
    #[arg(long = "for", value_name = "DURATION")]
    lasts: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct AddArgs {
    /// The address of the session with this id
    #[arg(long, value_name = "ID", conflicts_with_all = ["user", "device", "address"])]
    session: Option<String>,
    #[command(flatten)]
    whom: PlaceArgs,
    #[command(flatten)]
    more: MoreArgs,
}

#[derive(Args)]
struct RemoveArgs {
    #[command(flatten)]
    whom: PlaceArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
#[group(multiple = false)]
struct PlaceArgs {
    /// This user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// This device
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// This address
    #[arg(long)]
    address: Option<String>,
}

impl PlaceArgs {
    fn whom(self) -> Option<Whom> {
        let PlaceArgs { user, device, address } = self;
        user.map(Whom::User).or(device.map(Whom::Device)).or(address.map(Whom::Address))
    }
}

impl MoreArgs {
    fn restrain(self, kind: Kind, whom: Option<Whom>) -> anyhow::Result<Exit> {
        let Some(whom) = whom else { anyhow::bail!("say whom; see --help") };
        let MoreArgs { reason, lasts, control, output } = self;
        let request = Request::Restrain(Restrain { kind, whom, reason, lasts, said: said() });
        told(&control, output, &request, |done| {
            let RestraintRow { subject, until, .. } = &done.restraint;
            let until = until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
            match kind {
                Kind::Lock => format!("{subject} is locked out{until}; {} session(s) ended", done.sessions),
                Kind::Quarantine => {
                    format!("{subject} is in quarantine{until}, with {} session(s)", done.sessions)
                }
            }
        })
    }
}

/// Asks, and tells what became of it.
fn told(
    control: &ControlArgs,
    output: OutputArgs,
    request: &Request,
    words: impl FnOnce(&Restrained) -> String,
) -> anyhow::Result<Exit> {
    let done = match control.ask_one(request, "waiting for the workers")? {
        Ok(Reply::Restrained(done)) => done,
        Ok(reply) => return Err(unexpected(&reply)),
        Err(exit) => return Ok(exit),
    };
    if output.output == Format::Json {
        say_json(&json!(done));
    } else {
        say(&words(&done));
    }
    if let Some(warning) = &done.warning {
        complain(&format!("warning: {warning}"));
    }
    Ok(Exit::Ok)
}

fn release(
    control: &ControlArgs,
    output: OutputArgs,
    kind: Kind,
    whom: Option<Whom>,
) -> anyhow::Result<Exit> {
    let Some(whom) = whom else { anyhow::bail!("say whom; see --help") };
    let request = Request::Release(Release { kind, whom: Some(whom), said: said() });
    told(control, output, &request, |done| match kind {
        Kind::Lock => format!("{} is no longer locked out", done.restraint.subject),
        Kind::Quarantine => format!("{} is out of quarantine", done.restraint.subject),
    })
}

impl LockArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        self.more.restrain(Kind::Lock, self.whom.whom())
    }
}

impl UnlockArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        if self.damaged {
            let request = Request::Release(Release { kind: Kind::Lock, whom: None, said: said() });
            let exit = self.control.ask(&request, |reply| Err(unexpected(&reply)))?;
            if exit == Exit::Ok {
                say("nobody is locked out or in quarantine but those of whom it was said since the start");
            }
            return Ok(exit);
        }
        release(&self.control, self.output, Kind::Lock, self.whom.whom())
    }
}

impl LocksArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        self.list(Kind::Lock)
    }

    fn list(self, kind: Kind) -> anyhow::Result<Exit> {
        let rows = match self.control.ask_one(&Request::Restraints { kind }, "asking")? {
            Ok(Reply::Restraints(rows)) => rows,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            let name = if kind == Kind::Lock { "locks" } else { "quarantine" };
            say_json(&json!({ name: rows }));
        } else {
            say(&text(kind, &rows));
        }
        Ok(Exit::Ok)
    }
}

fn text(kind: Kind, rows: &[RestraintRow]) -> String {
    let titles = ["WHO", "SINCE", "UNTIL", "BY", "REASON", "ADDRESSES"];
    let shown = if kind == Kind::Lock { &titles[..5] } else { &titles[..] };
    let mut table = Table::new(shown);
    for row in rows {
        let RestraintRow { subject, since, until, by, reason, addresses, .. } = row;
        let addresses = (!addresses.is_empty()).then(|| addresses.join(","));
        let cells = [
            subject.to_string(),
            since.clone(),
            or_dash(until.as_deref()),
            by.clone(),
            or_dash(reason.as_deref()),
            or_dash(addresses.as_deref()),
        ];
        table.row(cells.into_iter().take(shown.len()));
    }
    let what = if kind == Kind::Lock { "lock(s)" } else { "in quarantine" };
    format!("{}\n{} {what}", table.text(), rows.len())
}

impl QuarantineArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::Add(AddArgs { session, whom, more }) => {
                more.restrain(Kind::Quarantine, session.map(Whom::Session).or(whom.whom()))
            }
            Action::List(args) => args.list(Kind::Quarantine),
            Action::Remove(args) => release(&args.control, args.output, Kind::Quarantine, args.whom.whom()),
        }
    }
}
