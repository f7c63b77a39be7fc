//! The gateway's side of the portal: it starts the process, gives it sockets to listen at, answers its questions, and
//! starts another when it ends or is not to be believed.
//!
//! The process decides nothing, so its end costs nobody their session: it costs the page for a moment. What it asks is
//! bounded here once more ([`broker`]), for it may be somebody else's by now.

mod broker;
mod certificate;
mod child;
mod doorman;
mod listen;
mod visitor;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::gateway::{Gateway, lock};
use super::log;
use crate::api::portal as api;
use crate::model::{Model, Portal as Settings};
use crate::portal::orders::Order;
use crate::store::Stamp;
use broker::{Broker, Counts, Over, Waiting};
use certificate::Certificate;
use child::Child;
pub use doorman::Doorman;
use listen::Place;

/// How long a look at the pair takes at most: a stop is seen this late.
const GLANCE: Duration = Duration::from_millis(100);
/// How often addresses, settings and certificate are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Before the process is started again: doubled at every failure.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A process that ran for so long has not failed at its start.
const GOOD: Duration = Duration::from_secs(60);

/// How the portal is, for `status`.
#[derive(Default)]
pub struct View {
    state: Mutex<State>,
    counts: Counts,
    /// What came to the door.
    door: doorman::Counts,
    /// Where certificates are shown.
    doors: Mutex<Vec<String>>,
    /// Two threads want a certificate, and one makes it.
    making: Mutex<()>,
}

#[derive(Clone, Default)]
struct State {
    name: String,
    pid: Option<u32>,
    listening: Vec<String>,
    fingerprint: String,
    starts: u64,
    trouble: Option<String>,
    is_wanted: bool,
}

impl View {
    /// In the words of the control socket; nothing when there is no portal.
    pub fn to_api(&self) -> Option<api::Portal> {
        let State { name, pid, listening, fingerprint, starts, trouble, is_wanted } =
            lock(&self.state).clone();
        is_wanted.then(|| api::Portal {
            name,
            pid,
            listening,
            fingerprint,
            restarts: starts.saturating_sub(1),
            asked: self.counts.asked.load(Ordering::Relaxed),
            busy: self.counts.busy.load(Ordering::Relaxed),
            trouble,
            certificates: lock(&self.doors).clone(),
            shown: self.door.shown.load(Ordering::Relaxed),
            recognised: self.door.recognised.load(Ordering::Relaxed),
        })
    }

    fn tell_door(&self, listening: Vec<String>) {
        *lock(&self.doors) = listening;
    }

    fn certificate(
        &self,
        settings: &Settings,
        state: &Path,
        addresses: &[IpAddr],
    ) -> Result<Certificate, String> {
        let _one = lock(&self.making);
        certificate::of(settings, state, addresses)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
    }
}

/// The thread that looks after the process.
pub struct Portal {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Portal {
    /// Starts it; whether there is a portal goes by the policy in force at any time.
    pub fn start(gateway: &Arc<Gateway>) -> std::io::Result<Portal> {
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = Keeper { gateway: gateway.clone(), stop: stop.clone(), waiting: Arc::default() };
        let thread = std::thread::Builder::new().name("portal".to_owned()).spawn(move || keeper.keep())?;
        Ok(Portal { stop, thread })
    }

    /// Ends the process and what belongs to it.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        // A panic in it was told on standard error.
        let _ = self.thread.join();
    }
}

/// How a run of the process ended.
enum Ended {
    /// It was ended, for the gateway stops or wants another one.
    Wanted,
    /// By itself or for what it did, in words.
    Failed(String),
}

struct Keeper {
    gateway: Arc<Gateway>,
    stop: Arc<AtomicBool>,
    waiting: Arc<Waiting>,
}

impl Keeper {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Keeps a process running wherever the policy in force wants one.
    fn keep(&self) {
        let mut pause = PAUSE_MIN;
        while !self.is_stopping() {
            let model = self.gateway.in_force().model;
            let Some(settings) = &model.portal else {
                self.gateway
                    .portal
                    .change(|state| *state = State { starts: state.starts, ..State::default() });
                self.sleep(GLANCE);
                continue;
            };
            let begun = Instant::now();
            self.gateway.portal.change(|state| {
                state.is_wanted = true;
                state.name.clone_from(&settings.name);
            });
            let ended = self.run(&model, settings);
            self.gateway.portal.change(|state| (state.pid, state.listening) = (None, Vec::new()));
            if let Ended::Failed(why) = ended {
                if begun.elapsed() >= GOOD {
                    pause = PAUSE_MIN;
                }
                let message = format!(
                    "the portal does not run: {why}; it is started again in {} ms",
                    pause.as_millis()
                );
                self.gateway.portal.change(|state| state.trouble = Some(why));
                self.gateway.alarm(message);
                self.sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Sleeps, unless the gateway stops.
    fn sleep(&self, long: Duration) {
        let until = Instant::now() + long;
        while !self.is_stopping() && Instant::now() < until {
            std::thread::sleep(GLANCE.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// One process, from its start to its end.
    fn run(&self, model: &Model, settings: &Settings) -> Ended {
        let places = self.places(model, settings);
        let addresses: BTreeSet<IpAddr> = places.iter().map(|place| place.address.ip()).collect();
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        let stamp = Stamp::of(certificate::files(settings));
        let directory = self.gateway.lifecycle.directory();
        let certificate = match self.gateway.portal.certificate(settings, directory, &addresses) {
            Ok(certificate) => certificate,
            Err(why) => return Ended::Failed(why),
        };
        let child = match Child::start(settings, &certificate) {
            Ok(child) => child,
            Err(why) => return Ended::Failed(why),
        };
        self.tell_begun(&child, settings, &certificate);
        // It is the child's now.
        drop(certificate);
        let open = RwLock::new(BTreeSet::new());
        let counts = &self.gateway.portal.counts;
        let ended = match Broker::start(&self.gateway, &child, &open, &self.waiting, counts) {
            Ok(broker) => self.attend(broker, &child, settings, &stamp),
            Err(error) => Err(Ended::Failed(format!("there are no threads for it: {error}"))),
        };
        let mut child = child;
        match ended {
            Ok(()) => Ended::Wanted,
            Err(Ended::Failed(why)) if why.is_empty() => Ended::Failed(child.end()),
            Err(ended) => ended,
        }
    }

    fn tell_begun(&self, child: &Child, settings: &Settings, certificate: &Certificate) {
        let Certificate { fingerprint, is_own, .. } = certificate;
        self.gateway.portal.change(|state| {
            state.pid = Some(child.pid());
            state.fingerprint.clone_from(fingerprint);
            state.starts += 1;
        });
        let own = if *is_own { ", made by the gateway itself" } else { "" };
        log::say(&format!(
            "portal {} runs as {} in process {}; its certificate has SHA-256 {fingerprint}{own}",
            settings.name,
            settings.user,
            child.pid(),
        ));
    }

    /// Answers and watches, until the process is not wanted any more or the run is over.
    fn attend(
        &self,
        mut broker: Broker<'_>,
        child: &Child,
        settings: &Settings,
        stamp: &Stamp,
    ) -> Result<(), Ended> {
        let mut tick = Instant::now();
        let mut refused: Option<String> = None;
        loop {
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                let model = self.gateway.in_force().model;
                if model.portal.as_ref() != Some(settings) {
                    return Ok(());
                }
                if Stamp::of(certificate::files(settings)) != *stamp && self.is_good(settings) {
                    log::say("portal: the certificate's files have changed, so it begins anew");
                    return Ok(());
                }
                self.listen(&model, settings, broker.places, child, &mut refused)?;
            }
            if self.is_stopping() {
                return Ok(());
            }
            broker.hear(GLANCE).map_err(|over| match over {
                // How, is known when it is waited for.
                Over::Gone => Ended::Failed(String::new()),
                Over::Lied(why) => Ended::Failed(format!("it was killed for what it did: {why}")),
            })?;
        }
    }

    /// Whether the certificate's files can be used; while they are being replaced, the old ones serve.
    fn is_good(&self, settings: &Settings) -> bool {
        let directory = self.gateway.lifecycle.directory();
        self.gateway.portal.certificate(settings, directory, &[]).is_ok()
    }

    fn places(&self, model: &Model, settings: &Settings) -> BTreeSet<Place> {
        listen::places(model, settings, &self.gateway.engine.snapshot().topology)
    }

    /// Gives the process a socket for every place where it does not listen yet. Where an address went away, its socket
    /// stays: nobody can reach it, and it serves when the address comes back.
    fn listen(
        &self,
        model: &Model,
        settings: &Settings,
        open: &RwLock<BTreeSet<Place>>,
        child: &Child,
        refused: &mut Option<String>,
    ) -> Result<(), Ended> {
        let wanted = self.places(model, settings);
        let have = open.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let mut failures = Vec::new();
        let mut added = false;
        for place in wanted.difference(&have) {
            if open.read().unwrap_or_else(std::sync::PoisonError::into_inner).len() >= listen::PLACES_MAX {
                // So many addresses have come and gone; a new process begins with those that are there.
                return Err(Ended::Wanted);
            }
            match listen::open(place) {
                Ok(socket) => {
                    // First known, then open: a question may come at once.
                    open.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(place.clone());
                    added = true;
                    let told = child.line.tell(&Order::Listen { secure: place.secure }, Some(&socket));
                    told.map_err(|error| {
                        Ended::Failed(format!("it does not listen to the gateway: {error}"))
                    })?;
                }
                Err(error) => failures.push(format!("{} ({}): {error}", place.address, place.interface.1)),
            }
        }
        let trouble = (!failures.is_empty())
            .then(|| format!("it cannot listen at {}; it is tried again", failures.join(", ")))
            .or_else(|| wanted.is_empty().then(|| "its ports have no addresses of the gateway".to_owned()));
        if added || *refused != trouble {
            let open = open.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let listening = open
                .iter()
                .map(|place| format!("{}://{}", if place.secure { "https" } else { "http" }, place.address));
            let listening: Vec<String> = listening.collect();
            self.gateway.portal.change(|state| {
                state.listening = listening;
                state.trouble.clone_from(&trouble);
            });
        }
        if *refused != trouble {
            if let Some(trouble) = &trouble {
                self.gateway.alarm(format!("the portal: {trouble}"));
            }
            *refused = trouble;
        }
        Ok(())
    }
}
