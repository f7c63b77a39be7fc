//! Requests of the control socket, answered.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::acts;
use super::connections;
use super::devices;
use super::events::{Entry, describe};
use super::gateway::{Gateway, StopRequest};
use super::lifecycle::{Candidate, Order, who};
use super::plan;
use super::sessions;
use super::shown;
use super::status;
use super::time::rfc3339;
use super::users;
use crate::api::server::Client;
use crate::api::types::{Explained, Filter, Refusal, Release, Reply, Request, Sources, Text};
use crate::audit::{self, Kind};
use crate::explain::{Occasion, explain_on};
use crate::matrix::Matrix;
use crate::store::Cause;

/// How long a follower's thread sleeps when there is nothing to tell.
const FOLLOW_SLEEP: Duration = Duration::from_millis(20);

/// Answers one client.
pub fn answer(gateway: &Arc<Gateway>, request: Request, mut client: Client) {
    let result = match request {
        Request::Stop { unload } => {
            // Answered by the main thread, when it is done.
            let _ = gateway.stop.send(StopRequest { client, unload });
            return;
        }
        Request::Connections { filter, limit } => connections::list(gateway, &filter, limit, &mut client),
        Request::Events { last, follow } => events(gateway, last, follow, &mut client),
        Request::History => revisions(gateway, &mut client),
        Request::Show { revision } => show(gateway, revision, &mut client),
        Request::Devices => devices::list(gateway, &mut client),
        Request::Users => users::list(gateway, &mut client),
        Request::Sessions { filter } => sessions::list(gateway, &filter, &mut client),
        other => reply(gateway, other, client.uid()).map(|reply| client.say(reply)),
    };
    // What fails from here on is that the client left.
    let _ = match result {
        Ok(said) => said.and_then(|()| client.end(Ok(()))),
        Err(refusal) => client.end(Err(refusal)),
    };
}

/// The answers of one line.
fn reply(gateway: &Gateway, request: Request, uid: u32) -> Result<Reply, Refusal> {
    match request {
        Request::Status => status::status(gateway).map(|status| Reply::Status(Box::new(status))),
        Request::Reload { file, said } => {
            let order = Order::plain(Cause::Reload, who(uid, said));
            gateway.put_in_force(Candidate::File(file), &order).map(Reply::Reloaded)
        }
        Request::Apply { file, confirm_ms, replace, note, said } => {
            let confirm = confirm_ms.map(Duration::from_millis);
            let order = Order { cause: Cause::Apply, who: who(uid, said), note, confirm, replace };
            gateway.put_in_force(Candidate::File(Some(file)), &order).map(Reply::Reloaded)
        }
        Request::Confirm { revision, said } => {
            gateway.confirm(revision, who(uid, said)).map(Reply::Confirmed)
        }
        Request::Rollback { revision, confirm_ms, note, said } => {
            let confirm = confirm_ms.map(Duration::from_millis);
            let order = Order { note, confirm, ..Order::plain(Cause::Apply, who(uid, said)) };
            gateway.roll_back(revision, order).map(Reply::Reloaded)
        }
        Request::Matrix => {
            let in_force = gateway.in_force();
            let mut matrix =
                Matrix::of(&in_force.model).map_err(|error| Refusal::error(error.to_string()))?;
            matrix.source = format!("generation {} ({})", in_force.generation, in_force.file.display());
            Ok(Reply::Matrix(Box::new(matrix)))
        }
        Request::Plan { file } => plan::plan(gateway, &file).map(|plan| Reply::Planned(Box::new(plan))),
        act @ (Request::Kill { .. } | Request::StartShadow { .. } | Request::StopShadow) => {
            recorded(gateway, act, uid)
        }
        operators @ (Request::AuditHead
        | Request::Restrain(_)
        | Request::Release(_)
        | Request::Restraints { .. }
        | Request::BeginSession { .. }
        | Request::RevokeSessions { .. }
        | Request::ShowSession { .. }) => operate(gateway, operators, uid),
        Request::Shadow => Ok(Reply::Shadow(gateway.shadow().map(Box::new))),
        Request::Audit { since_s } => {
            let since = since_s.and_then(|s| SystemTime::now().checked_sub(Duration::from_secs(s)));
            Ok(Reply::Audit(Box::new(gateway.audit_report(since))))
        }
        Request::Rules => status::rules(gateway).map(Reply::Rules),
        Request::Drops => status::drops(gateway).map(Reply::Drops),
        Request::Sources { limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let (top, known, overflow) = gateway.sources.read(limit, |at| rfc3339(gateway.engine.wall(at)));
            Ok(Reply::Sources(Sources { top, known, overflow, events_lost: gateway.engine.events_lost() }))
        }
        Request::Explain { from, to, port, asked, limit } => {
            let model = gateway.in_force().model;
            let answers = explain_on(&model, &from, &to, &port, |model| {
                let known = sessions::occasion(gateway, model, &from, &asked);
                let restraints = gateway.restraints.of_model(model);
                known
                    .map_or_else(|| Occasion::of(&asked, model), Ok)
                    .map(|occasion| Occasion { restraints, ..occasion })
            });
            let answers = answers.map_err(|error| Refusal::error(format!("{error:#}")))?;
            let answers = answers.iter().map(|answer| answer.to_api()).collect();
            let (from, to, port) = (Some(from), Some(to), Some(port));
            let live = connections::find(gateway, &Filter { from, to, port, ..Filter::default() }, limit)?;
            Ok(Reply::Explained(Explained { answers, live: Some(live) }))
        }
        Request::Device { name, act, said } => devices::change(gateway, &name, act, &who(uid, said))
            .map(|device| Reply::Device(Box::new(device))),
        Request::User { name, act, said } => {
            users::change(gateway, &name, act, &who(uid, said)).map(|user| Reply::User(Box::new(user)))
        }
        Request::Stop { .. }
        | Request::Users
        | Request::Devices
        | Request::Connections { .. }
        | Request::Sessions { .. }
        | Request::Events { .. }
        | Request::History
        | Request::Show { .. } => Err(Refusal::error("this request has an answer of many lines")),
    }
}

/// What operators see and do besides policies.
fn operate(gateway: &Gateway, request: Request, uid: u32) -> Result<Reply, Refusal> {
    match request {
        Request::AuditHead => Ok(Reply::AuditHead(gateway.audit_head())),
        Request::Restrain(mut wanted) => {
            let by = who(uid, std::mem::take(&mut wanted.said));
            gateway.restrain(&wanted, &by).map(|restrained| Reply::Restrained(Box::new(restrained)))
        }
        Request::Release(wanted) => release(gateway, wanted, uid),
        Request::Restraints { kind } => Ok(Reply::Restraints(gateway.restraints_of(kind))),
        Request::ShowSession { which } => {
            shown::session(gateway, &which).map(|shown| Reply::SessionShown(Box::new(shown)))
        }
        Request::BeginSession { new, said } => {
            let begun = sessions::begin(gateway, &new, &who(uid, said))?;
            Ok(Reply::Session(Box::new(begun)))
        }
        Request::RevokeSessions { filter, all, said } => {
            sessions::revoke(gateway, &filter, all, &who(uid, said)).map(Reply::Revoked)
        }
        _ => Err(Refusal::error("this request is none of these")),
    }
}

fn release(gateway: &Gateway, wanted: Release, uid: u32) -> Result<Reply, Refusal> {
    let by = who(uid, wanted.said);
    match wanted.whom {
        Some(whom) => {
            let released = gateway.release(wanted.kind, &whom, &by)?;
            Ok(Reply::Restrained(Box::new(released)))
        }
        None => gateway.forget_damaged(&by).map(|()| Reply::Done {}),
    }
}

/// Acts that take nothing but attention: recorded when they are done.
fn recorded(gateway: &Gateway, request: Request, uid: u32) -> Result<Reply, Refusal> {
    match request {
        Request::Kill { filter, all, dry_run } => {
            let killed = connections::kill(gateway, &filter, all, dry_run)?;
            if !dry_run {
                let which = serde_json::to_value(&filter).unwrap_or_default();
                let entry = audit::Entry::new(Kind::Killed, acts::client(uid));
                gateway.done(entry.with("connections", killed).with("filter", which).with("all", all));
            }
            Ok(Reply::Killed(killed))
        }
        Request::StartShadow { file } => {
            let shadow = gateway.start_shadow(&file)?;
            let entry = audit::Entry::new(Kind::ShadowStarted, acts::client(uid));
            gateway.done(entry.with("file", file.display().to_string()));
            Ok(Reply::Shadow(Some(Box::new(shadow))))
        }
        Request::StopShadow => {
            let shadow = gateway.stop_shadow()?;
            if shadow.is_some() {
                gateway.done(audit::Entry::new(Kind::ShadowStopped, acts::client(uid)));
            }
            Ok(Reply::Shadow(shadow.map(Box::new)))
        }
        _ => Err(Refusal::error("this request is no such act")),
    }
}

/// Tells the revisions that are kept.
fn revisions(gateway: &Gateway, client: &mut Client) -> Result<io::Result<()>, Refusal> {
    let revisions = gateway.revisions()?;
    Ok(revisions.into_iter().try_for_each(|revision| client.say(Reply::Revision(Box::new(revision)))))
}

/// Tells a revision and its files.
fn show(gateway: &Gateway, revision: u64, client: &mut Client) -> Result<io::Result<()>, Refusal> {
    let (revision, files) = gateway.revision(revision)?;
    let mut files = files.into_iter().map(|file| Reply::Text(Text { path: file.path, text: file.text }));
    let said = client.say(Reply::Revision(Box::new(revision)));
    Ok(said.and_then(|()| files.try_for_each(|file| client.say(file))))
}

/// Tells the recent events, and then, if wanted, what happens until the client leaves.
fn events(
    gateway: &Gateway,
    last: u64,
    follow: bool,
    client: &mut Client,
) -> Result<io::Result<()>, Refusal> {
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    if !follow {
        return Ok(gateway.hub.recent(last).iter().try_for_each(|entry| client.say(tell(gateway, entry))));
    }
    let Some((recent, follower)) = gateway.hub.follow(last) else {
        return Err(Refusal::error("too many clients follow the events already"));
    };
    let mut told = recent.iter().try_for_each(|entry| client.say(tell(gateway, entry)));
    while told.is_ok() && !client.is_over() {
        let mut any = false;
        while let (Some(entry), Ok(())) = (follower.next(), &told) {
            any = true;
            told = client.say(tell(gateway, &entry));
        }
        if told.is_ok() {
            told = client.flush();
        }
        if !any {
            std::thread::sleep(FOLLOW_SLEEP);
        }
    }
    Ok(told)
}

fn tell(gateway: &Gateway, entry: &Entry) -> Reply {
    match entry {
        Entry::Event(event) => Reply::Event(describe(gateway, event)),
        Entry::Alarm(alarm) => {
            Reply::Event(serde_json::json!({ "ts": alarm.ts, "kind": "alarm", "message": alarm.message }))
        }
        Entry::Told(event) => Reply::Event(Value::clone(event)),
        Entry::Lost(lost) => Reply::Lost(*lost),
    }
}
