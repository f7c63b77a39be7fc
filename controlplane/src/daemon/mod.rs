//! The running gateway: `bulkhead run`.
//!
//! Threads: the main loop here (topology, watch over steering and forwarding, signals); one that takes the workers'
//! events; one that writes the rules' counters to disk; one that looks after the portal's process, and those that answer it; the control socket's listener and one thread for each of its
//! bounded clients; one for a reload by signal.
//! None of them is on the way of a packet: the workers belong to the engine, and go on by the last good policy
//! whatever happens here.

mod acts;
mod alarms;
mod audit;
mod beside;
mod connections;
mod control;
mod counters;
mod desk;
mod devices;
pub(crate) mod events;
mod files;
mod gateway;
mod generations;
mod lifecycle;
mod load;
mod log;
mod main_loop;
mod notify;
mod plan;
mod portal;
mod radius;
mod reach;
mod refusals;
mod restraints;
mod sessions;
mod shown;
mod signals;
mod start;
mod status;
pub mod time;
mod totals;
mod users;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bulkhead_dataplane::engine::Engine;
use bulkhead_dataplane::steering;
use bulkhead_dataplane::topology::Topology;
use bulkhead_dataplane::verdict::Now;

use crate::api::server::{self, Place};
use crate::api::types::Refusal;
use crate::forwarding;
use crate::restraints::Restraints;
use crate::sessions::{Claims, Sessions};
use crate::topology::Watcher;
use acts::Recorder;
use counters::{Last, Saver};
use gateway::{Gateway, StopRequest};
use lifecycle::Lifecycle;
use load::Loaded;
use main_loop::{MainLoop, Signals};
use portal::{Doorman, Portal};
use radius::Listener;
use signals::Pollers;
use start::Choice;

/// How long the events' thread sleeps when there are none.
const EVENT_SLEEP: Duration = Duration::from_millis(10);
/// How long clients may take to finish when the gateway stops.
const CLIENT_PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait for threads to let go of the gateway.
const LAST_PATIENCE: Duration = Duration::from_secs(12);

/// How long each thread but the workers runs at once. What operators and providers ask for (a revocation, before all) takes
/// far less; it shall not wait until workers that are never idle have had their turns.
const TIME_SLICE: Duration = Duration::from_micros(100);

/// What `bulkhead run` was asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration.
    pub config: PathBuf,
    /// Turn the kernel's forwarding off, at the start and whenever it is found on.
    pub manage_forwarding: bool,
    /// The state directory, whatever the configuration says.
    pub state: Option<PathBuf>,
    /// Refuse to start when the configuration is broken.
    pub no_fallback: bool,
}

/// Runs the gateway until it is told to stop. The refusal of a bad configuration has the exit code it deserves.
pub fn run(options: &Options) -> Result<Result<(), Refusal>> {
    // Before anything else: a signal during the start stops it in order.
    let signals = Signals::listen().context("listening to signals")?;
    afxdp::prefer_time_slice(TIME_SLICE);
    let file = std::path::absolute(&options.config)?;
    let wanted =
        start::Wanted { file: &file, state: options.state.as_deref(), no_fallback: options.no_fallback };
    let mut choice = match start::choose(&wanted) {
        Ok(choice) => choice,
        Err(refusal) => return Ok(Err(refusal)),
    };
    check_forwarding(options.manage_forwarding)?;
    // Before the engine: it would take the ports from a gateway that is running.
    let place = Place::claim(&choice.loaded.model.gateway.control)?;
    let (stop, stops) = mpsc::channel();
    let alarms = std::mem::take(&mut choice.alarms);
    let (gateway, watcher) = begin(choice, file, stop)?;
    gateway.open_audit();
    gateway.remember_start(alarms);
    gateway.look_at_files(&gateway.in_force().model.sign_in);
    gateway.recall_counters();
    log::say(&status::report(&gateway).map_err(|refusal| anyhow::anyhow!(refusal.message))?);

    let events = Events::start(&gateway)?;
    let pollers = Pollers::start(&gateway)?;
    let listener = Listener::start(&gateway)?;
    let saver = Saver::start(&gateway)?;
    let recorder = Recorder::start(&gateway)?;
    let portal = Portal::start(&gateway)?;
    let doorman = Doorman::start(&gateway)?;
    let answerer = gateway.clone();
    let socket = place.path().display().to_string();
    let server =
        server::serve(place, Arc::new(move |request, client| control::answer(&answerer, request, client)))?;
    log::say(&format!("ready: control socket {socket}"));
    notify::notify("READY=1");
    let mut request = MainLoop::new(&gateway, watcher, signals, stops, options.manage_forwarding).turn();

    notify::notify("STOPPING=1");
    doorman.stop();
    portal.stop();
    let place = server.stop(CLIENT_PATIENCE);
    pollers.stop();
    listener.stop();
    events.stop();
    saver.stop();
    recorder.stop(
        request.as_ref().map_or_else(
            || acts::operator(&lifecycle::nobody()),
            |request| acts::client(request.client.uid()),
        ),
    );
    let stopped = finish(gateway, request.as_ref().is_some_and(|request| request.unload));
    drop(place);
    if let Some(StopRequest { client, .. }) = &mut request {
        // A client that left does not mind.
        let _ =
            client.end(stopped.as_ref().map(|_| ()).map_err(|error| Refusal::error(format!("{error:#}"))));
    }
    log::say(&format!("stopped{}", stopped?));
    Ok(Ok(()))
}

/// Refuses to run beside a kernel that forwards, or has it stop that.
fn check_forwarding(manage: bool) -> Result<()> {
    let enabled = forwarding::enabled().context("looking whether the kernel forwards")?;
    if enabled.is_empty() {
        return Ok(());
    }
    if !manage {
        bail!(
            "the kernel forwards packets here, around the gateway: {}\n\
             turn that off with `{}`, or start with --manage-forwarding, which does it",
            enabled.join(", "),
            forwarding::command(&enabled)
        );
    }
    let off = forwarding::disable().context("turning the kernel's forwarding off")?;
    log::say(&format!("turned the kernel's forwarding off: {}", off.join(", ")));
    Ok(())
}

fn begin(choice: Choice, own: PathBuf, stop: mpsc::Sender<StopRequest>) -> Result<(Arc<Gateway>, Watcher)> {
    let Choice {
        loaded: Loaded { model, mut policy },
        file,
        revision,
        from_store,
        directory,
        store,
        seen,
        ..
    } = choice;
    let interfaces: Vec<_> = model.ports.iter().map(|port| port.interface.clone()).collect();
    for interface in &interfaces {
        forwarding::distrust(interface).context("closing the kernel to its neighbours' routes")?;
    }
    let watcher =
        Watcher::new(&interfaces).context("reading the kernel's routes, neighbours and addresses")?;
    let troubles = main_loop::enslaved(&watcher, &model);
    if !troubles.is_empty() {
        bail!(troubles.join("\n"));
    }
    let topology = Topology::new(watcher.spec().clone());
    let model = Arc::new(model);
    let sessions = Sessions::new(model.gateway.sessions);
    let restraints = Restraints::default();
    let place = store.as_ref().map(|store| (store.disk(), store.directory().to_owned()));
    let unread = place.and_then(|(disk, directory)| restraints.open(disk, &directory).err());
    // There are none yet but the policy's own, which have no age, so the time does not matter.
    let admits = |claims: &Claims, address| restraints.admits(&model, claims, address);
    let placed = sessions.place(&model, &mut policy, Now::default(), &admits);
    policy.set_restraints(restraints.of_model(&model));
    let engine = Engine::start(&load::engine_config(&model), policy, topology)?;
    let place = gateway::Place { file, revision, from_store, confirm_until: None };
    let lifecycle = Lifecycle::new(own, directory, store, seen);
    let gateway = Gateway::new(engine, model, sessions, place, lifecycle, restraints, stop)?;
    unread.into_iter().for_each(|why| gateway.alarm(why));
    gateway.tell_placed(&placed);
    gateway.begin_audit().map_err(|refusal| anyhow::anyhow!(refusal.message))?;
    Ok((Arc::new(gateway), watcher))
}

/// Stops the workers once nobody uses them. Says what became of the steering.
fn finish(mut gateway: Arc<Gateway>, unload: bool) -> Result<&'static str> {
    let deadline = Instant::now() + LAST_PATIENCE;
    let mut gateway = loop {
        match Arc::try_unwrap(gateway) {
            Ok(gateway) => break gateway,
            Err(shared) if Instant::now() < deadline => gateway = shared,
            Err(_) => bail!("a thread did not let go of the gateway; it ends with the process"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let last = Last::of(&mut gateway);
    let stopped = gateway.engine.stop(unload);
    // Whatever the steering program does: the workers have stopped.
    if let Some(Err(why)) = last.map(Last::save) {
        log::complain(&why);
    }
    stopped?;
    Ok(if unload {
        "; the steering program is removed"
    } else {
        "; the steering program stays and drops everything (`bulkhead stop --unload` removes it)"
    })
}

/// Removes the steering program from the ports of a configuration, without a running gateway. Returns the interfaces
/// from which it was removed.
///
/// # Errors
///
/// A gateway is running, or some interface refused; the others are done all the same.
pub fn unload(config: &Path) -> Result<Vec<String>> {
    let model = crate::model::load(config).map_err(|errors| anyhow::anyhow!(errors.to_string()))?;
    let _place = Place::claim(&model.gateway.control)?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for port in &model.ports {
        let interface = &port.interface;
        let detached = nix::net::if_::if_nametoindex(interface.as_str())
            .map_err(|_| format!("{interface}: there is no such interface here"))
            .and_then(|index| steering::detach(index).map_err(|error| format!("{interface}: {error}")));
        match detached {
            Ok(true) => removed.push(interface.clone()),
            Ok(false) => {}
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(removed) } else { bail!(failures.join("\n")) }
}

/// The thread that takes the workers' events.
struct Events {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Events {
    fn start(gateway: &Arc<Gateway>) -> Result<Events> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, gateway) = (stop.clone(), gateway.clone());
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            let mut lost = 0;
            loop {
                // Read before pumping: what came before the stop is passed on.
                let last = stopping.load(Ordering::Acquire);
                if !events::pump(&gateway, &mut lost) {
                    if last {
                        break;
                    }
                    std::thread::sleep(EVENT_SLEEP);
                }
            }
        })?;
        Ok(Events { stop, thread })
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        // A panic in it was told on standard error.
        let _ = self.thread.join();
    }
}
