//! What goes over the control socket. Times are RFC 3339 in UTC, durations seconds, sizes bytes of IP packets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use super::connection::{Connection, Filter};
use super::device::{Device, DeviceAct};
pub use super::operator::{AuditHead, Release, Restrain, Restrained, RestraintRow, Shown};
use super::session::{NewSession, Session, SessionFilter};
pub use super::tried::{AuditReport, AuditRow, Shadow, ShadowRow, Verdict};
use super::user::{User, UserAct};
use crate::matrix::Matrix;
use crate::plan::Plan;
use crate::restraints::Kind;
pub use crate::store::{Note, Said};

/// The version of the protocol.
pub const API: u32 = 1;

/// One request with its protocol version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// [`API`].
    pub api: u32,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What can be asked of the running gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// How the gateway is. Answered with [`Reply::Status`].
    Status,
    /// Load a configuration and put it in force. Answered with [`Reply::Reloaded`].
    Reload {
        /// The file; the one last loaded without. Relative paths are the gateway's.
        file: Option<PathBuf>,
        /// What the client says of whoever asks.
        #[serde(default)]
        said: Said,
    },
    /// Put a configuration in force, perhaps for a while only. Answered with [`Reply::Reloaded`].
    Apply {
        /// The file. Relative paths are the gateway's.
        file: PathBuf,
        /// Put the confirmed one back after so many milliseconds without [`Request::Confirm`].
        confirm_ms: Option<u64>,
        /// Also instead of one that waits for its confirmation.
        replace: bool,
        /// Why.
        note: Note,
        /// What the client says of whoever asks.
        #[serde(default)]
        said: Said,
    },
    /// Keep what waits for its confirmation. Answered with [`Reply::Confirmed`].
    Confirm {
        /// Only if it is this one.
        revision: Option<u64>,
        /// What the client says of whoever asks.
        #[serde(default)]
        said: Said,
    },
    /// Put an earlier policy in force. Answered with [`Reply::Reloaded`].
    Rollback {
        /// Which; without, the confirmed one before what runs.
        revision: Option<u64>,
        /// As in [`Request::Apply`].
        confirm_ms: Option<u64>,
        /// Why.
        note: Note,
        /// What the client says of whoever asks.
        #[serde(default)]
        said: Said,
    },
    /// The revisions that are kept, oldest first. Answered with [`Reply::Revision`]s.
    History,
    /// A revision. Answered with [`Reply::Revision`], then [`Reply::Text`]s.
    Show {
        /// Which.
        revision: u64,
    },
    /// Who may open connections to whom. Answered with [`Reply::Matrix`].
    Matrix,
    /// What a configuration would change. Answered with [`Reply::Planned`].
    Plan {
        /// The file. Relative paths are the gateway's.
        file: PathBuf,
    },
    /// Live connections. Answered with [`Reply::Connection`]s, then [`Reply::Matched`].
    Connections {
        /// Which.
        filter: Filter,
        /// At most so many are sent; all that match are counted.
        limit: u64,
    },
    /// Cut connections. Answered with [`Reply::Killed`].
    Kill {
        /// Which; a filter that says nothing needs `all`.
        filter: Filter,
        /// Every connection is meant.
        all: bool,
        /// Only count them.
        dry_run: bool,
    },
    /// Counters of the rules. Answered with [`Reply::Rules`].
    Rules,
    /// Counters of dropped packets. Answered with [`Reply::Drops`].
    Drops,
    /// The sources refused most. Answered with [`Reply::Sources`].
    Sources {
        /// At most so many.
        limit: u64,
    },
    /// What happened. Answered with [`Reply::Event`]s and [`Reply::Lost`].
    Events {
        /// How many of the recent ones to begin with.
        last: u64,
        /// Go on until the client leaves.
        follow: bool,
    },
    /// What the policy in force does with a connection, and which such connections live. Answered with
    /// [`Reply::Explained`].
    Explain {
        /// Address or segment.
        from: String,
        /// Address or segment.
        to: String,
        /// Such as `tcp/443`.
        port: String,
        /// Who and when.
        #[serde(default)]
        asked: Asked,
        /// At most so many live connections are sent; all are counted.
        limit: u64,
    },
    /// Ask another policy too, from now on. Answered with [`Reply::Shadow`].
    StartShadow {
        /// Its configuration.
        file: PathBuf,
    },
    /// What it has come to. Answered with [`Reply::Shadow`].
    Shadow,
    /// Ask it no more. Answered with [`Reply::Shadow`], what it came to.
    StopShadow,
    /// What would be decided otherwise if nothing were in audit. Answered with [`Reply::Audit`].
    Audit {
        /// Only what was last seen so many seconds ago, or less.
        since_s: Option<u64>,
    },
    /// The end of the audit log. Answered with [`Reply::AuditHead`].
    AuditHead,
    /// Lock somebody out, or move them into quarantine. Answered with [`Reply::Restrained`], when it holds for every packet.
    Restrain(Restrain),
    /// Let somebody in again, or out of quarantine. Answered with [`Reply::Restrained`], or [`Reply::Done`].
    Release(Release),
    /// Who is locked out, or in quarantine. Answered with [`Reply::Restraints`].
    Restraints {
        /// Which of the two.
        kind: Kind,
    },
    /// All that is known of a session. Answered with [`Reply::SessionShown`].
    ShowSession {
        /// Its id or address.
        which: String,
    },
    /// Begin a session. Answered with [`Reply::Session`], when every worker judges by it.
    BeginSession {
        /// Of whom.
        new: NewSession,
        /// What the client says of whoever asks.
        #[serde(default)]
        said: Said,
    },
    /// Who is behind which address. Answered with [`Reply::Session`]s.
    Sessions {
        /// Which.
        filter: SessionFilter,
    },
    /// End sessions. Answered with [`Reply::Revoked`], when no packet crosses by them any more.
    RevokeSessions {
        /// Which; a filter that says nothing needs `all`.
        filter: SessionFilter,
        /// Every session is meant.
        all: bool,
        /// What the client says of whoever asks.
        #[serde(default)]
        said: Said,
    },
    /// Change the gateway's own users. Answered with [`Reply::User`], when it is on the disk.
    User {
        /// Whose.
        name: String,
        /// What.
        act: UserAct,
        /// What the client says of whoever asks.
        #[serde(default)]
        said: Said,
    },
    /// The gateway's own users. Answered with [`Reply::User`]s.
    Users,
    /// Change an enrolled device. Answered with [`Reply::Device`], when it is on the disk.
    Device {
        /// Which.
        name: String,
        /// What.
        act: DeviceAct,
        /// What the client says of whoever asks.
        #[serde(default)]
        said: Said,
    },
    /// Enrolled devices. Answered with [`Reply::Device`]s.
    Devices,
    /// Stop the gateway. Answered when it has stopped.
    Stop {
        /// Remove the steering program too: traffic then reaches the kernel as if there were no gateway.
        unload: bool,
    },
}

/// Who asks and when, in the words of the command line; nothing given means nobody, now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// The user.
    pub user: Option<String>,
    /// Groups that the identity provider tells.
    pub groups: Vec<String>,
    /// What is known of the device: `enrolled`, `not-enrolled`, `tag=kiosk`; nothing when it is not known.
    pub device: Vec<String>,
    /// Postures, met as `compliant`, or `compliant=failed`, `compliant=unknown`.
    pub posture: Vec<String>,
    /// How long ago the second factor was shown, such as `2h`.
    pub mfa_age: Option<String>,
    /// `phishing-resistant`.
    pub mfa: Option<String>,
    /// The risk, 0 to 100.
    pub risk: Option<u8>,
    /// `expired`.
    pub session: Option<String>,
    /// When, such as `2027-01-31T08:00:00Z`.
    pub at: Option<String>,
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// [`API`].
    pub api: u32,
    /// What is said.
    #[serde(flatten)]
    pub reply: Reply,
}

/// What the gateway says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Reload`], [`Request::Apply`] and [`Request::Rollback`].
    Reloaded(Reloaded),
    /// To [`Request::Confirm`]: the revision.
    Confirmed(u64),
    /// To [`Request::History`] and [`Request::Show`].
    Revision(Box<Revision>),
    /// To [`Request::Show`]: one file of it, the main file first.
    Text(Text),
    /// To [`Request::Matrix`].
    Matrix(Box<Matrix>),
    /// To [`Request::Plan`].
    Planned(Box<Plan>),
    /// To [`Request::Connections`].
    Connection(Connection),
    /// How many connections matched, sent or not.
    Matched(u64),
    /// How many connections were cut, or would be.
    Killed(u64),
    /// To [`Request::Rules`].
    Rules(Rules),
    /// To [`Request::Drops`].
    Drops(Vec<DropRow>),
    /// To [`Request::Sources`].
    Sources(Sources),
    /// One event, as it is printed.
    Event(serde_json::Value),
    /// So many events were lost at this place.
    Lost(u64),
    /// To [`Request::Explain`].
    Explained(Explained),
    /// To [`Request::StartShadow`], [`Request::Shadow`] and [`Request::StopShadow`]; `None` when none runs.
    Shadow(Option<Box<Shadow>>),
    /// To [`Request::Audit`].
    Audit(Box<AuditReport>),
    /// To [`Request::AuditHead`].
    AuditHead(AuditHead),
    /// To [`Request::Restrain`] and [`Request::Release`].
    Restrained(Box<Restrained>),
    /// To [`Request::Restraints`].
    Restraints(Vec<RestraintRow>),
    /// To [`Request::ShowSession`].
    SessionShown(Box<Shown>),
    /// To [`Request::BeginSession`] and [`Request::Sessions`].
    Session(Box<Session>),
    /// To [`Request::Device`] and [`Request::Devices`].
    Device(Box<Device>),
    /// To [`Request::User`] and [`Request::Users`].
    User(Box<User>),
    /// To [`Request::RevokeSessions`]: how many have ended.
    Revoked(u64),
    /// Nothing went wrong, and nothing follows.
    Done {},
    /// It was refused, and nothing follows.
    Refused(Refusal),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For people.
    pub message: String,
    /// The exit code it deserves.
    pub exit: u8,
}

impl Refusal {
    /// An ordinary error.
    pub fn error(message: impl Into<String>) -> Refusal {
        Refusal { message: message.into(), exit: 1 }
    }
}

/// How the gateway is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: String,
    /// For how long it has run, seconds.
    pub uptime_s: u64,
    /// The policy in force, counted in this run.
    pub generation: u32,
    /// The same among the revisions that are kept, see `history`; `None` if it could not be stored.
    pub revision: Option<u64>,
    /// Until when it must be confirmed, if it must.
    pub confirm_until: Option<String>,
    /// The configuration's digest.
    pub digest: String,
    /// The file it came from.
    pub config: PathBuf,
    /// It was not read there, but is what was stored of it.
    pub config_stored: bool,
    /// When it was put in force.
    pub loaded: String,
    /// Rules in it.
    pub rules: u64,
    /// Workers configured.
    pub workers: u64,
    /// Workers that run.
    pub workers_alive: u64,
    /// Whether all packet memory is in 2 MiB pages.
    pub huge_pages: bool,
    /// The ports.
    pub ports: Vec<Port>,
    /// What became of every packet, over all workers.
    pub ledger: Ledger,
    /// The same, worker by worker.
    pub worker_ledgers: Vec<Ledger>,
    /// The connection table.
    pub connections: Table,
    /// Fragments that wait.
    pub fragments: Fragments,
    /// Sessions.
    pub sessions: Room,
    /// The end of the audit log.
    pub audit: AuditHead,
    /// Where people sign in, if anywhere.
    #[serde(default)]
    pub portal: Option<super::portal::Portal>,
    /// Events lost because they came faster than they could be taken.
    pub events_lost: u64,
    /// Settings by which the kernel forwards around the gateway; empty when all is well.
    pub kernel_forwarding: Vec<String>,
    /// How many alarms there were.
    pub alarms_total: u64,
    /// The last of them, oldest first.
    pub alarms: Vec<Alarm>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name in the configuration.
    pub name: String,
    /// The network interface.
    pub interface: String,
    /// Whether it is up and has carrier.
    pub up: bool,
    /// Where the steering program sits: `driver` or `generic`.
    pub attach: String,
    /// Why not in the driver, if not.
    pub driver_refusal: Option<String>,
    /// How packets reach the workers: `zero-copy`, `copy` or `down`.
    pub mode: String,
    /// Frames that arrived.
    pub received: u64,
    /// Frames given to the kernel.
    pub to_host: u64,
    /// Frames given to workers.
    pub to_worker: u64,
    /// Frames dropped because their queue had no worker.
    pub no_worker: u64,
    /// Frames lost because a worker's ring was full.
    pub rx_ring_full: u64,
    /// Frames that a worker's socket lost for other reasons.
    pub rx_dropped: u64,
}

/// What became of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Taken from the receive rings.
    pub received: u64,
    /// The same in bytes of frames.
    pub received_bytes: u64,
    /// Sent on.
    pub forwarded: u64,
    /// The same in bytes of frames.
    pub forwarded_bytes: u64,
    /// Dropped for any reason.
    pub dropped: u64,
    /// Waiting for a next hop, or for the rest of their datagram.
    pub held: u64,
    /// Our own answers sent.
    pub answered: u64,
    /// Answers that could not be sent.
    pub answers_lost: u64,
    /// Whether received = forwarded + dropped + held.
    pub balanced: bool,
}

/// Fragments that wait for the rest of their datagrams, or with them for a next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragments {
    /// How many there are; `held` of the ledger counts them too.
    pub held: u64,
    /// Datagrams that they belong to, and those condemned because their fragments overlap.
    pub datagrams: u64,
    /// How many may wait.
    pub capacity: u64,
}

/// The connection table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Connections.
    pub open: u64,
    /// Those of them that wait for a handshake or a first reply.
    pub half_open: u64,
    /// Those, since the start, that made room for new ones at a limit.
    pub evicted: u64,
    /// How many fit.
    pub capacity: u64,
}

/// How many there are of something that is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// How many there are.
    pub open: u64,
    /// How many fit.
    pub capacity: u64,
}

/// Something that an operator must see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// When.
    pub ts: String,
    /// What.
    pub message: String,
}

/// A configuration was put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Its generation, by which every worker judges now.
    pub generation: u32,
    /// Its number among the revisions that are kept.
    pub revision: Option<u64>,
    /// Until when it must be confirmed, if it must.
    pub confirm_until: Option<String>,
    /// Its digest.
    pub digest: String,
    /// The file.
    pub config: PathBuf,
    /// Rules in it.
    pub rules: u64,
    /// From reading the file to the last worker, milliseconds.
    pub took_ms: u64,
}

/// A policy that was in force, or is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// `in_force`, `pending` (in force, and not confirmed yet), `confirmed` (what comes back if the pending one is not),
    /// `rolled_back` or `superseded`.
    pub state: String,
    /// Until when it must be confirmed.
    pub until: Option<String>,
    /// When it was confirmed.
    pub confirmed: Option<String>,
    /// By whom.
    pub confirmed_by: Option<Asker>,
    /// When it was rolled back.
    pub rolled_back: Option<String>,
    /// Why it was.
    pub why: Option<String>,
    /// What is known of it; `None` if its file is damaged.
    pub about: Option<About>,
    /// What is wrong with its file.
    pub damaged: Option<String>,
}

/// Who asked for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// As the kernel says; `None` for a signal.
    pub uid: Option<u32>,
    /// The user's name.
    pub user: Option<String>,
    /// What the client said of whoever asked; nobody has checked it.
    pub client_said: Said,
}

/// What is known of a revision since it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// When it was put in force.
    pub at: String,
    /// By what: `start`, `reload`, `signal`, `apply` or `rollback`.
    pub cause: String,
    /// Of a rollback: to which revision.
    pub rollback_to: Option<u64>,
    /// Who asked, as the kernel says; `None` for a signal.
    pub uid: Option<u32>,
    /// The user's name.
    pub user: Option<String>,
    /// What the client said of whoever asked; nobody has checked it.
    pub client_said: Said,
    /// Why.
    pub message: Option<String>,
    /// Where it was asked for.
    pub ticket: Option<String>,
    /// The configuration's digest.
    pub digest: String,
    /// Rules in it.
    pub rules: u64,
    /// Within so many milliseconds it had to be confirmed.
    pub confirm_ms: Option<u64>,
}

/// One file of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Where it was.
    pub path: String,
    /// What stood in it.
    pub text: String,
}

/// Counters of the rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Since when rules have been counted, over restarts.
    pub observed_since: String,
    /// How often the gateway ended without stopping in order: the last minute before is missing.
    pub gaps: u64,
    /// When it started after the last such end.
    pub last_gap: Option<String>,
    /// Every rule in force, and the default deny at last.
    pub rules: Vec<RuleRow>,
}

/// Counters of one rule, over all generations and runs in which it had this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its name; `None` for the default deny.
    pub rule: Option<String>,
    /// `allow`, `deny` or `reject`.
    pub action: String,
    /// Packets decided.
    pub packets: u64,
    /// The same in bytes.
    pub bytes: u64,
    /// Connections opened under it.
    pub connections: u64,
    /// Connections there are now; `None` for a rule that has no limit for them.
    pub open: Option<u64>,
    /// When it last decided a packet.
    pub last_hit: Option<String>,
    /// When it was first in force; `None` for the default deny.
    pub first_seen: Option<String>,
    /// Since when it has been in force without interruption; `None` for the default deny.
    pub in_force_since: Option<String>,
    /// Whether it is in audit, and so decides nothing.
    pub audit: bool,
    /// Why it is not its time now, if it is not.
    pub untimely: Option<String>,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// Its name.
    pub reason: String,
    /// The stage that drops.
    pub group: String,
    /// How many.
    pub packets: u64,
    /// What it means and what to do.
    pub help: String,
}

/// The sources refused most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The most refused first.
    pub top: Vec<SourceRow>,
    /// How many sources are known.
    pub known: u64,
    /// Refusals of sources for which there was no room.
    pub overflow: u64,
    /// Events lost; their refusals are missing here.
    pub events_lost: u64,
}

/// One refused source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// Its address.
    pub source: String,
    /// How often it was refused a connection.
    pub denied: u64,
    /// The last reason.
    pub last_reason: String,
    /// When that was.
    pub last: String,
}

/// The answers to an explain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// One for each address family.
    pub answers: Vec<Answer>,
    /// The live connections that are asked about; `None` when no gateway was asked.
    pub live: Option<Live>,
}

/// One answer to an explain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// For programs.
    pub json: serde_json::Value,
    /// For people.
    pub text: String,
}

/// Live connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// How many there are.
    pub matched: u64,
    /// Those of them that are told.
    pub connections: Vec<Connection>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_flat_object() {
        let envelope = Envelope { api: API, request: Request::Events { last: 3, follow: true } };
        let text = serde_json::to_string(&envelope).unwrap();
        assert_eq!(text, r#"{"api":1,"verb":"events","last":3,"follow":true}"#);
        let back: Envelope = serde_json::from_str(&text).unwrap();
        assert_eq!(back.request, envelope.request);
        let status: Envelope = serde_json::from_str(r#"{"api":1,"verb":"status"}"#).unwrap();
        assert_eq!(status.request, Request::Status);
    }

    #[test]
    fn a_reply_names_its_kind_and_comes_back_the_same() {
        let refusal = Reply::Refused(Refusal::error("no"));
        for reply in [Reply::Done {}, Reply::Killed(7), Reply::Lost(u64::MAX), refusal] {
            let text = serde_json::to_string(&Line { api: API, reply: reply.clone() }).unwrap();
            let line: Line = serde_json::from_str(&text).unwrap();
            assert_eq!((line.api, line.reply), (API, reply), "{text}");
        }
        assert_eq!(
            serde_json::to_string(&Line { api: 1, reply: Reply::Done {} }).unwrap(),
            r#"{"api":1,"done":{}}"#
        );
    }

    #[test]
    fn a_misspelt_filter_is_refused_and_not_taken_as_no_filter() {
        let text = r#"{"api":1,"verb":"kill","filter":{"sorce":"10.0.0.1"},"all":false,"dry_run":false}"#;
        assert!(serde_json::from_str::<Envelope>(text).is_err());
    }
}
