//! What the threads of the running gateway share: the engine and everything said about it in names.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use bulkhead_dataplane::connection;
use bulkhead_dataplane::engine::Engine;
use bulkhead_dataplane::verdict::{Generation, PortId, RuleId};

use super::alarms::Alarms;
use super::events::{Hub, Sources};
use super::generations::{History, InForce, Names, Totals};
use super::load::{self, Loaded};
use crate::api::server::Client;
use crate::api::types::{Refusal, Reloaded};
use crate::model::Model;

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
    /// Held during a publication, so that who reads counters sees the retired policy's either there or here.
    totals: Mutex<Totals>,
    /// Held during a reload.
    reloading: Mutex<()>,
}

/// Locks; a panic elsewhere leaves nothing half-done in what these protect.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gateway {
    /// Around an engine that was just started with this model.
    pub fn new(
        engine: Engine,
        model: Model,
        file: PathBuf,
        stop: Sender<StopRequest>,
    ) -> anyhow::Result<Gateway> {
        let Some(mut cutter) = engine.table().worker() else {
            anyhow::bail!("the connection table has no handle left for the control plane");
        };
        cutter.pause();
        let generation = engine.snapshot().generation();
        let mut history = History::default();
        history.add(generation, Names::of(&model));
        let since = SystemTime::now();
        Ok(Gateway {
            engine,
            hub: Hub::default(),
            sources: Sources::default(),
            alarms: Alarms::default(),
            kernel_forwarding: Mutex::default(),
            started: (Instant::now(), since),
            cutter: Mutex::new(cutter),
            stop,
            in_force: RwLock::new(InForce { generation, model: Arc::new(model), file, since }),
            history: RwLock::new(history),
            totals: Mutex::default(),
            reloading: Mutex::default(),
        })
    }

    /// What is in force.
    pub fn in_force(&self) -> InForce {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
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
        lock(&self.totals)
    }

    /// Raises an alarm: on standard error, in `status` and among the events.
    pub fn alarm(&self, message: impl Into<String>) {
        let alarm = self.alarms.raise(message.into());
        self.hub.alarm(alarm);
    }

    /// Puts a file in force, or the one last loaded. Returns when every worker judges by it; refused, it changes
    /// nothing.
    pub fn reload(&self, file: Option<&Path>) -> Result<Reloaded, Refusal> {
        let begun = Instant::now();
        let _one_at_a_time = lock(&self.reloading);
        let before = self.in_force();
        let file = file.map_or(before.file.clone(), Path::to_owned);
        let loaded = load::load(&file)?;
        let changes = load::needs_restart(&before.model, &loaded.model);
        if !changes.is_empty() {
            return Err(Refusal::error(format!(
                "{}: a reload cannot change this, only a restart can; nothing was changed\n  {}",
                file.display(),
                changes.join("\n  ")
            )));
        }
        self.set_local(&before.model, &loaded.model)?;
        let rules = loaded.model.rule_infos.len() as u64;
        let digest = loaded.model.digest.clone();
        let generation = self.publish(&before, loaded, file.clone())?;
        let took_ms = begun.elapsed().as_millis() as u64;
        Ok(Reloaded { generation: generation.0, digest, config: file, rules, took_ms })
    }

    /// Puts the local services of every port in force, with the sources that may use them, or of none.
    fn set_local(&self, old: &Model, new: &Model) -> Result<(), Refusal> {
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

    fn publish(&self, before: &InForce, loaded: Loaded, file: PathBuf) -> Result<Generation, Refusal> {
        let Loaded { model, mut policy } = loaded;
        // First, while a refusal still changes nothing.
        self.engine.bind_limits(&mut policy).map_err(|error| Refusal::error(error.to_string()))?;
        let names = Names::of(&model);
        let mut totals = lock(&self.totals);
        let retired = self.engine.snapshot().policy.clone();
        let generation = retired.generation.next();
        // Before the publication: its events come at once.
        self.history.write().unwrap_or_else(PoisonError::into_inner).add(generation, Names::of(&model));
        self.engine.table().set_timeouts(&model.gateway.timeouts);
        let published = self.engine.publish_policy(policy);
        // Also when a worker is stuck: the policy is posted, and that worker judges by it as soon as it moves.
        totals.fold(&Names::of(&before.model), &retired.counters, &names);
        let in_force = InForce { generation, model: Arc::new(model), file, since: SystemTime::now() };
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = in_force;
        drop(totals);
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
