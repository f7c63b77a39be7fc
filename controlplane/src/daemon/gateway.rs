//! What the threads of the running gateway share: the engine and everything said about it in names.

mod clock;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use bulkhead_dataplane::connection;
use bulkhead_dataplane::engine::Engine;
use bulkhead_dataplane::policy::reference;
use bulkhead_dataplane::verdict::{Generation, PortId, RuleId};
use jiff::Timestamp;

use super::alarms::Alarms;
use super::beside::Besides;
use super::counters::Counting;
use super::desk::Desk;
use super::events::{Hub, Sources};
use super::generations::{History, InForce, Names};
use super::lifecycle::Lifecycle;
use super::load::{self, Before, Loaded};
use super::log;
use super::portal;
use super::refusals::Refusals;
use super::totals::Totals;
use crate::api::server::Client;
use crate::api::types::Refusal;
use crate::audit::{By, Entry, Journal, Kind};
use crate::model::Model;
use crate::restraints::Restraints;
use crate::sessions::{Claims, Sessions};

/// A stop that a client asked for; it is answered when it is done.
pub struct StopRequest {
    /// Who asked.
    pub client: Client,
    /// Remove the steering program too.
    pub unload: bool,
}

/// The running gateway.
pub struct Gateway {
    /// The dataplane.
    pub engine: Engine,
    /// What happened.
    pub hub: Hub,
    /// Who was refused.
    pub sources: Sources,
    /// What an operator must see.
    pub alarms: Alarms,
    /// Policies that are asked too, and decide nothing.
    pub besides: Besides,
    /// Who is behind which address.
    pub sessions: Sessions,
    /// Who is locked out, and who is in quarantine.
    pub restraints: Restraints,
    /// Who did what: the audit log.
    pub audit: Journal,
    /// What of it refusals may take.
    pub refusals: Mutex<Refusals>,
    /// Where people say who they are.
    pub desk: Desk,
    /// How the portal is.
    pub portal: portal::View,
    /// Settings by which the kernel forwards, as of the last look.
    pub kernel_forwarding: Mutex<Vec<String>>,
    /// When it started.
    pub started: (Instant, SystemTime),
    /// For cutting connections.
    pub cutter: Mutex<connection::Worker>,
    /// Where a stop is asked for.
    pub stop: Sender<StopRequest>,
    in_force: RwLock<InForce>,
    history: RwLock<History>,
    clock: Mutex<clock::Clock>,
    /// Held during a publication, so that who reads counters sees the retired policy's either there or here.
    totals: Mutex<Totals>,
    /// Where they are written.
    pub counting: Counting,
    /// What was in force, on disk, and what waits for its confirmation.
    pub lifecycle: Lifecycle,
}

/// Where a policy comes from, and how long it stays.
pub struct Place {
    /// The main file.
    pub file: PathBuf,
    /// Its number in the store.
    pub revision: Option<u64>,
    /// It came from the store, whatever the file says.
    pub from_store: bool,
    /// Until when it must be confirmed.
    pub confirm_until: Option<SystemTime>,
}

/// Locks; a panic elsewhere leaves nothing half-done in what these protect.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gateway {
    /// Around an engine that was just started with this model, whose policy has the slots of these sessions.
    pub fn new(
        engine: Engine,
        model: Arc<Model>,
        sessions: Sessions,
        place: Place,
        lifecycle: Lifecycle,
        restraints: Restraints,
        stop: Sender<StopRequest>,
    ) -> anyhow::Result<Gateway> {
        let Some(mut cutter) = engine.table().worker() else {
            anyhow::bail!("the connection table has no handle left for the control plane");
        };
        cutter.pause();
        let generation = engine.snapshot().generation();
        sessions.serves(generation, &engine.snapshot().policy.policy);
        let mut history = History::default();
        let names = Names::of(&model);
        let since = SystemTime::now();
        let totals = Totals::new(&names, engine.now(), since);
        history.add(generation, Arc::new(names));
        let desk = Desk::open(lifecycle.directory());
        let Place { file, revision, from_store, confirm_until } = place;
        let in_force = InForce { generation, revision, from_store, confirm_until, model, file, since };
        Ok(Gateway {
            engine,
            hub: Hub::default(),
            sources: Sources::default(),
            alarms: Alarms::default(),
            besides: Besides::default(),
            sessions,
            restraints,
            audit: Journal::default(),
            refusals: Mutex::default(),
            desk,
            portal: portal::View::default(),
            kernel_forwarding: Mutex::default(),
            started: (Instant::now(), since),
            cutter: Mutex::new(cutter),
            stop,
            in_force: RwLock::new(in_force),
            history: RwLock::new(history),
            clock: Mutex::default(),
            totals: Mutex::new(totals),
            counting: Counting::default(),
            lifecycle,
        })
    }

    /// What is in force.
    pub fn in_force(&self) -> InForce {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in force, compiled; nothing while it changes.
    pub(super) fn compiled(&self) -> Option<Before> {
        let (model, policy) = (self.in_force(), self.engine.snapshot().policy.clone());
        (model.generation == policy.generation).then_some(Before { model: model.model, policy })
    }

    /// Changes what is known of what is in force.
    pub(super) fn amend(&self, change: impl FnOnce(&mut InForce)) {
        change(&mut self.in_force.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The names of a generation.
    pub fn names(&self, generation: Generation) -> Option<Arc<Names>> {
        self.history.read().unwrap_or_else(PoisonError::into_inner).names(generation)
    }

    /// A rule's name, also of an earlier generation; `None` is the default deny.
    pub fn rule_name(&self, generation: Generation, rule: RuleId) -> Option<String> {
        let index = rule.index()?;
        let names = self.names(generation);
        Some(names.and_then(|n| n.rule(rule).map(str::to_owned)).unwrap_or_else(|| format!("#{index}")))
    }

    /// The totals by rule name, while nothing is being published.
    pub fn totals(&self) -> MutexGuard<'_, Totals> {
        let mut totals = lock(&self.totals);
        totals.follow(self.engine.now(), SystemTime::now());
        totals
    }

    /// The name of the segment to which an address belongs, of the policy in force.
    pub fn segment_of(&self, address: IpAddr) -> Option<String> {
        let model = self.in_force().model;
        let segment = reference::segment_of(&model.rules, address)?;
        model.segment_name(segment).map(str::to_owned)
    }

    /// Raises an alarm: on standard error, in `status`, among the events, and in the audit log.
    pub fn alarm(&self, message: impl Into<String>) {
        let alarm = self.alarms.raise(message.into());
        self.audit.later(Entry::new(Kind::Alarm, By::Gateway).with("message", alarm.message.clone()));
        self.hub.alarm(alarm);
    }

    /// Puts the local services of every port in force, with the sources that may use them, or of none.
    pub(super) fn set_local(&self, old: &Model, new: &Model) -> Result<(), Refusal> {
        let ids = || (0..=u8::MAX).map(PortId);
        for (id, (port, sources)) in ids().zip(new.ports.iter().zip(load::sources(new))) {
            if let Err(error) = self.engine.set_local(id, &port.local, sources) {
                let old = old.ports.iter().zip(load::sources(old));
                for (id, (port, sources)) in ids().zip(old).take(usize::from(id.0) + 1) {
                    if let Err(error) = self.engine.set_local(id, &port.local, sources) {
                        self.alarm(format!(
                            "{}: the local services are neither old nor new: {error}",
                            port.name
                        ));
                    }
                }
                return Err(Refusal::error(format!("nothing was changed: {error}")));
            }
        }
        Ok(())
    }

    /// Has every worker judge by a policy whose limits are bound ([`Engine::bind_limits`]), whatever happens. Returns its
    /// generation.
    pub(super) fn publish(
        &self,
        before: &InForce,
        loaded: Loaded,
        place: Place,
    ) -> Result<Generation, Refusal> {
        let Loaded { model, mut policy } = loaded;
        let Place { file, revision, from_store, confirm_until } = place;
        let names = Arc::new(Names::of(&model));
        let model = Arc::new(model);
        let mut totals = self.totals();
        // Since it was loaded some of it may have expired.
        policy.set_gates(model.gates_at(Timestamp::now()).0);
        let retired = self.engine.snapshot().policy.clone();
        let generation = retired.generation.next();
        // Before the publication: its events come at once.
        self.history.write().unwrap_or_else(PoisonError::into_inner).add(generation, names.clone());
        self.engine.table().set_timeouts(&model.gateway.timeouts);
        let admits = |claims: &Claims, address| self.restraints.admits(&model, claims, address);
        let placed = self.sessions.place(&model, &mut policy, self.engine.now(), &admits);
        policy.set_restraints(self.restraints.of_model(&model));
        self.sessions.serves(generation, &policy);
        let besides = self.besides.renew(&model, &policy, self.engine.workers().0);
        let published = self.engine.publish_policy_with(policy, besides);
        // Also when a worker is stuck: the policy is posted, and that worker judges by it as soon as it moves.
        let names_before =
            self.names(retired.generation).unwrap_or_else(|| Arc::new(Names::of(&before.model)));
        totals.fold(&names_before, &retired.counters, &names);
        let since = SystemTime::now();
        let in_force = InForce { generation, revision, from_store, confirm_until, model, file, since };
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = in_force;
        drop(totals);
        self.tell_placed(&placed);
        // Somebody may be in a group now that is locked out.
        self.keep_locked_out();
        self.look_at_files(&self.in_force().model.sign_in);
        match published {
            Ok(published) => {
                debug_assert_eq!(published.generation, generation);
                Ok(generation)
            }
            Err(error) => {
                self.alarm(format!("generation {generation} is posted, but {error}"));
                Err(Refusal::error(format!("generation {generation} is posted, but {error}")))
            }
        }
    }
}
