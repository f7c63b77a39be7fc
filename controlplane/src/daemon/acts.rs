//! Acts in the audit log: what grants is recorded before it is done, what takes away is done whether it can be recorded or
//! not.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::gateway::Gateway;
use super::lifecycle::{nobody, who};
use crate::api::types::{AuditHead, Refusal};
use crate::audit::{By, Entry, Kind};
use crate::sessions::{Claims, Proof, Session};
use crate::store::{Said, Who};

/// How soon the disk is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// An operator, or whoever sent a signal.
pub fn operator(who: &Who) -> By {
    if *who == nobody() {
        By::Service("a signal to the process".to_owned())
    } else {
        By::Operator(who.clone())
    }
}

/// Somebody who asks over the control socket, of whom no more is known than the kernel says.
pub fn client(uid: u32) -> By {
    By::Operator(who(uid, Said::default()))
}

/// Whom a session is of: the operator who vouched for it, or else the user it is of.
fn vouched(session: &Session, by: Option<&Who>) -> By {
    match by {
        Some(who) => operator(who),
        None if session.proof == Proof::Static => By::Gateway,
        None => By::User { user: session.claims.user.clone(), address: session.address },
    }
}

/// What is recorded of a session that begins, and how it was proved.
pub fn session_begins(session: &Session, by: Option<&Who>) -> Entry {
    let Claims { user, groups, device, factor, reports, health: _, risk, origin } = &session.claims;
    let now = session.begun;
    let lasts_s = session.ends.0.saturating_sub(now.0) / 1_000_000_000;
    let factor = factor.map(|factor| {
        serde_json::json!({ "age_s": factor.shown.age_s(now), "phishing_resistant": factor.phishing_resistant })
    });
    let device = device.as_ref().map(
        |device| serde_json::json!({ "name": device.name, "enrolled": device.enrolled, "tags": device.tags, "credential": device.credential }),
    );
    let reports: Vec<String> = reports.iter().map(|report| report.posture.clone()).collect();
    Entry::new(Kind::SessionBegun, vouched(session, by))
        .with("id", session.id.clone())
        .with("address", session.address.to_string())
        .with("mac", session.mac.map(crate::config::values::mac_text))
        .with("proof", session.proof.name())
        .with("user", user.clone())
        .with("provider", origin.as_ref().map(|origin| origin.provider.clone()))
        .with("subject", origin.as_ref().map(|origin| origin.subject.clone()))
        .with("groups", groups.clone())
        .with("device", device)
        .with("factor", factor)
        .with("postures", reports)
        .with("risk", *risk)
        .with("lasts_s", lasts_s)
}

/// What is recorded of a session of which something else has become true.
pub fn session_changes(kind: Kind, session: &Session, by: By) -> Entry {
    Entry::new(kind, by)
        .with("id", session.id.clone())
        .with("address", session.address.to_string())
        .with("user", session.claims.user.clone())
}

/// As [`session_changes`], by the operator who asked for it, or else by the user.
pub fn session_changed(kind: Kind, session: &Session, by: Option<&Who>) -> Entry {
    session_changes(kind, session, vouched(session, by))
}

impl Gateway {
    /// Opens the audit log, if the state directory can be used.
    pub fn open_audit(&self) {
        let Some((disk, directory)) = self.lifecycle.place_of_audit() else { return };
        match self.audit.open(disk, &directory) {
            Ok(troubles) => troubles.into_iter().for_each(|trouble| self.alarm(trouble)),
            Err(why) => self.alarm(format!("{why}; until it can be, nothing more is granted to anybody")),
        }
    }

    /// Records an act that grants something to somebody. To be called before it is done.
    ///
    /// # Errors
    ///
    /// It cannot be recorded, so it must not be done.
    pub fn grant(&self, entry: Entry) -> Result<(), Refusal> {
        if !self.audit.is_open() {
            self.reopen_state()?;
        }
        self.audit.record(entry).map_err(|why| {
            Refusal::error(format!(
                "nothing was changed: {why}; what grants something has to be recorded, while revocations and locks hold all \
                 the same"
            ))
        })
    }

    /// Records an act that has been done, and that takes something away. It is kept until the disk takes it.
    pub fn done(&self, entry: Entry) {
        self.done_all([entry]);
    }

    /// As [`Gateway::done`], of several at once.
    pub fn done_all(&self, entries: impl IntoIterator<Item = Entry>) {
        entries.into_iter().for_each(|entry| self.audit.later(entry));
        // What is amiss, the recorder tells, and tries again.
        let _ = self.audit.flush();
    }

    /// The end of the log, as `status` tells it.
    pub fn audit_head(&self) -> AuditHead {
        let (trouble, pending) = self.audit.trouble();
        let head = self.audit.head();
        let directory = self.lifecycle.directory().to_owned();
        AuditHead { directory, seq: head.seq, hash: head.hash, pending: pending as u64, trouble }
    }
}

/// The thread that writes what nobody waits for.
pub struct Recorder {
    gateway: Arc<Gateway>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Starts it.
    pub fn start(gateway: &Arc<Gateway>) -> io::Result<Recorder> {
        let recorded = gateway.clone();
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            let mut told = false;
            while recorded.audit.wait(AGAIN) {
                recorded.follow_refusals();
                match recorded.audit.flush() {
                    Ok(()) => told = false,
                    Err(why) => {
                        // Once, or the alarm would be the next to wait.
                        if !told {
                            recorded
                                .alarm(format!("{why}; nothing more is granted to anybody until it can be"));
                        }
                        told = true;
                        std::thread::sleep(AGAIN);
                    }
                }
            }
        })?;
        Ok(Recorder { gateway: gateway.clone(), thread })
    }

    /// Ends it; what is pending is written once more.
    pub fn stop(self, by: By) {
        self.gateway.end_refusals();
        self.gateway.audit.later(Entry::new(Kind::Stop, by));
        self.gateway.audit.end_waiting();
        // A panic in it was told on standard error.
        let _ = self.thread.join();
        if let Err(why) = self.gateway.audit.flush() {
            let (_, pending) = self.gateway.audit.trouble();
            super::log::complain(&format!("{why}; {pending} record(s) are lost"));
        }
    }
}
