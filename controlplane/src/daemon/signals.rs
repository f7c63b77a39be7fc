//! What security events do to sessions, and the threads that poll for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::acts::session_changes;
use super::desk::providers::at;
use super::gateway::Gateway;
use super::log;
use super::time::rfc3339;
use crate::api::types::Refusal;
use crate::audit::{By, Kind};
use crate::identity::https::Https;
use crate::identity::oidc::settings::read_secret;
use crate::identity::signals::poll::{self, BackOff, Outcomes};
use crate::identity::signals::{Effect, Told, Transmitter};
use crate::sessions::{Claims, Moment, Session, Which};

/// How often it is looked whether the transmitters are still those of the policy.
const LOOK: Duration = Duration::from_secs(1);
/// How often a waiting thread looks whether it is to end.
const NAP: Duration = Duration::from_millis(200);

/// Does to sessions what was told. Returns when every worker judges by it.
///
/// # Errors
///
/// A worker is stuck, or it cannot be recorded; for one session, and for all others it was done.
pub fn apply(gateway: &Gateway, transmitter: &str, told: &[Told]) -> Result<(), Refusal> {
    let model = gateway.in_force().model;
    let mut carried_out = Ok(());
    for told in told {
        let now = gateway.engine.now();
        let at = Moment::before(now, Duration::ZERO);
        // Before the look at who is there: whoever begins after it is reminded.
        gateway.desk.signals.note(&model.sign_in.transmitters, transmitter, told, at);
        let all = gateway.sessions.list(&Which::default(), now);
        let meant: Vec<_> = all.into_iter().filter(|session| told.subject.means(session)).collect();
        let event = &told.event;
        log::say(&format!("security event {event} of {transmitter}: {} session(s)", meant.len()));
        gateway.hub.told(json!({
            "ts": rfc3339(SystemTime::now()), "kind": "signal", "event": event, "transmitter": transmitter,
            "sessions": meant.len(),
        }));
        for session in meant {
            carried_out = carried_out.and(one(gateway, &session, told, transmitter, at));
        }
    }
    carried_out
}

fn one(
    gateway: &Gateway,
    session: &Session,
    told: &Told,
    transmitter: &str,
    at: Moment,
) -> Result<(), Refusal> {
    let entry = |kind, session: &Session| {
        let what = format!("{} of {transmitter}", told.event);
        session_changes(kind, session, By::Service(transmitter.to_owned())).with("what", what)
    };
    let end = || {
        gateway
            .end_sessions_as(&Which::one(session), None, |session| entry(Kind::SessionRevoked, session))
            .map(drop)
    };
    let change = |claims: &mut Claims| told.effect.change(claims, at);
    if told.effect == Effect::End {
        return end();
    }
    let amended = gateway.amend_session_as(session, None, entry(Kind::SessionChanged, session), change);
    match amended {
        Ok(_) => Ok(()),
        // What cannot be recorded is not changed; but then what may take something away takes everything.
        Err(_) if told.effect.restricts() => end(),
        Err(why) => Err(why),
    }
}

/// Polls every transmitter that wants it.
pub struct Pollers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// A thread that polls one.
struct Poller {
    settings: Transmitter,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Pollers {
    /// Starts; also when there is nobody to poll yet.
    ///
    /// # Errors
    ///
    /// There is no thread for it.
    pub fn start(gateway: &Arc<Gateway>) -> std::io::Result<Pollers> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, gateway) = (stop.clone(), gateway.clone());
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut running: Vec<Poller> = Vec::new();
            while !stopping.load(Ordering::Acquire) {
                follow(&gateway, &mut running);
                nap(LOOK, &stopping);
            }
            for poller in &running {
                poller.stop.store(true, Ordering::Release);
            }
            // One that waits for an answer has the gateway only weakly, and ends by itself.
        })?;
        Ok(Pollers { stop, thread })
    }

    /// Stops. A poll that is under way is not waited for.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.thread.join();
    }
}

/// Starts what the policy in force wants, and stops what it does not.
fn follow(gateway: &Arc<Gateway>, running: &mut Vec<Poller>) {
    let model = gateway.in_force().model;
    let wanted: Vec<&Transmitter> =
        model.sign_in.transmitters.iter().filter(|transmitter| transmitter.poll.is_some()).collect();
    running.retain(|poller| {
        let stays = wanted.contains(&&poller.settings) && !poller.thread.is_finished();
        if !stays {
            poller.stop.store(true, Ordering::Release);
        }
        stays
    });
    for settings in wanted {
        if running.iter().any(|poller| poller.settings == *settings) {
            continue;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, weak, stopping) = (settings.clone(), Arc::downgrade(gateway), stop.clone());
        let spawned = std::thread::Builder::new()
            .name("poll".to_owned())
            .spawn(move || poll_one(&weak, &theirs, &stopping));
        match spawned {
            Ok(thread) => running.push(Poller { settings: settings.clone(), stop, thread }),
            Err(error) => gateway.alarm(format!("no thread to poll {}: {error}", settings.name)),
        }
    }
}

fn nap(how_long: Duration, stop: &AtomicBool) {
    let until = Instant::now() + how_long;
    while !stop.load(Ordering::Acquire) && Instant::now() < until {
        std::thread::sleep(NAP.min(until.saturating_duration_since(Instant::now())));
    }
}

fn poll_one(gateway: &std::sync::Weak<Gateway>, settings: &Transmitter, stop: &AtomicBool) {
    let mut back_off = BackOff::default();
    let (mut outcomes, mut https) = (Outcomes::default(), None);
    let mut is_failing = false;
    while !stop.load(Ordering::Acquire) {
        let begun = Instant::now();
        let asked = ask(settings, &mut https, &outcomes);
        let Some(gateway) = gateway.upgrade().filter(|_| !stop.load(Ordering::Acquire)) else { return };
        let pause = match asked {
            Ok((sets, more)) => {
                outcomes = Outcomes::default();
                is_failing = false;
                let is_empty = sets.is_empty();
                for (id, token) in sets {
                    let outcome = take(&gateway, settings, &id, &token);
                    outcomes.note(id, outcome);
                }
                back_off.answered(is_empty, more, begun.elapsed())
            }
            Err(why) => {
                if !is_failing {
                    gateway.alarm(format!("{} cannot be polled for security events: {why}", settings.name));
                }
                is_failing = true;
                back_off.failed()
            }
        };
        drop(gateway);
        nap(pause, stop);
    }
}

type Sets = (Vec<(String, String)>, bool);

fn ask(settings: &Transmitter, https: &mut Option<Https>, outcomes: &Outcomes) -> Result<Sets, String> {
    let url = settings.poll.as_deref().unwrap_or_default();
    let https = match https {
        Some(https) => https,
        // It may let us wait; then there is still time to answer.
        None => {
            https.insert(Https::within(settings.ca_file.as_deref(), poll::LONG + Duration::from_secs(10))?)
        }
    };
    let token = settings.poll_token_file.as_deref().map(read_secret).transpose();
    let token = token.map_err(|error| error.to_string())?;
    let bearer = token.as_ref().map(|token| ("Bearer", token.reveal()));
    let answered = https.post(url, "application/json", &outcomes.request(), bearer);
    let answered = answered.map_err(|error| error.to_string())?;
    if answered.status != 200 {
        return Err(format!("it answers with status {}", answered.status));
    }
    poll::read(&answered.body)
}

fn take(
    gateway: &Gateway,
    settings: &Transmitter,
    id: &str,
    token: &str,
) -> Result<(), crate::identity::signals::NotTaken> {
    let model = gateway.in_force().model;
    let name = &settings.name;
    let told = gateway.desk.signals.take(&model.sign_in.transmitters, name, token, Some(id), at());
    let told = told.inspect_err(|why| log::say(&format!("security event of {name} refused: {why}")))?;
    if let Err(why) = apply(gateway, name, &told) {
        gateway.alarm(format!("an event of {name} could not be carried out: {}", why.message));
    }
    Ok(())
}
