//! From a file to what the engine takes: nothing that is wrong, or fails its own tests, gets further.

use std::path::Path;
use std::sync::Arc;

use bulkhead_dataplane::engine::{EngineConfig, PortConfig};
use bulkhead_dataplane::policy::Policy;
use bulkhead_dataplane::snapshot::ActivePolicy;
use bulkhead_dataplane::verdict::PortId;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::api::types::Refusal;
use crate::config::{self, Diagnostics, Sources};
use crate::model::{self, Gateway, Model};
use crate::store::{Stored, Text, digest_of};

/// Packet buffers of 2 KiB: for each port its receive and transmit rings (2048 each) twice over, because a frame is
/// back only when its receiver is done with it, and at least the default 32 MiB.
const FRAMES_PER_PORT: u32 = 8192;
/// The fewest packet buffers of a worker.
const FRAMES_MIN: u32 = 16_384;
/// Events buffered per worker: 65,536 of about 100 bytes, a few tenths of a second of a flood.
const EVENTS: usize = 65_536;

/// Exit code of failed tests.
const TESTS_FAILED: u8 = 3;

/// A configuration that may be put in force.
pub struct Loaded {
    /// In names.
    pub model: Model,
    /// Compiled.
    pub policy: Policy,
}

/// What is in force, from which a policy that differs in a few rules is made in less time.
pub struct Before {
    /// In names.
    pub model: Arc<Model>,
    /// What it was compiled to.
    pub policy: Arc<ActivePolicy>,
}

/// Reads, resolves and compiles a file, and runs its tests.
///
/// # Errors
///
/// The full diagnostics, or the tests that failed (exit code 3).
pub fn load(file: &Path, before: Option<&Before>) -> Result<Loaded, Refusal> {
    let model = model::load(file).map_err(|errors| Refusal::error(errors.to_string()))?;
    check_as_of(model, before, Timestamp::now())
}

/// As [`load`] of what is first put in force, with the digest of the texts that could be read ([`digest_of`]), be they right
/// or wrong.
pub fn attempt(file: &Path) -> (String, Result<Loaded, Refusal>) {
    match model::load(file) {
        Ok(model) => (content(&model.sources), check(model)),
        Err(errors) => (content(errors.sources()), Err(Refusal::error(errors.to_string()))),
    }
}

/// What a stored revision means: the seam for whatever wants to look at an earlier policy.
///
/// # Errors
///
/// The full diagnostics: this version of the program understands it no more.
pub fn model_of(stored: Stored) -> Result<Model, Diagnostics> {
    model::load_texts(stored.files.into_iter().map(|Text { path, text }| (path, text)))
}

/// The texts of a configuration, as they are stored.
pub fn texts(sources: &Sources) -> Vec<Text> {
    let files = (0..sources.len() as u32).map(|index| sources.file(index));
    files.map(|file| Text { path: file.path.clone(), text: file.text.clone() }).collect()
}

/// The digest of the texts of a file and what it includes, as far as they can be read, be they right or wrong.
pub fn content_of(file: &Path) -> String {
    content(&config::read(file).1.sources)
}

/// The digest of the texts of a configuration.
pub fn content(sources: &Sources) -> String {
    digest_of((0..sources.len() as u32).map(|index| sources.file(index).text.as_str()))
}

/// Compiles a model and runs its tests.
///
/// # Errors
///
/// As of [`load`].
pub fn check(model: Model) -> Result<Loaded, Refusal> {
    check_as_of(model, None, Timestamp::now())
}

/// As [`check`], of a stored revision. Its tests that name no moment are about the one when it was put in force: otherwise
/// a rule that has expired since would keep what was right from being put in force again.
pub fn check_stored(stored: Stored, before: Option<&Before>) -> Result<Loaded, Refusal> {
    let at = i64::try_from(stored.about.at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let model = model_of(stored).map_err(|errors| Refusal::error(errors.to_string()))?;
    check_as_of(model, before, at.unwrap_or_else(Timestamp::now))
}

/// Compiles a model, in less time where it differs little from what is in force.
pub(super) fn compile(model: &Model, before: Option<&Before>) -> Result<Policy, Refusal> {
    let compiled = match before {
        Some(before) => model.recompile(&before.model, &before.policy.policy),
        None => model.compile(),
    };
    compiled.map_err(Refusal::error)
}

fn check_as_of(model: Model, before: Option<&Before>, moment: Timestamp) -> Result<Loaded, Refusal> {
    let mut policy = compile(&model, before)?;
    let failures = model.failed_tests_at(&policy, moment);
    if !failures.is_empty() {
        return Err(Refusal { message: failures.join("\n"), exit: TESTS_FAILED });
    }
    policy.set_gates(model.gates_at(Timestamp::now()).0);
    Ok(Loaded { model, policy })
}

/// What the engine is started with.
pub fn engine_config(model: &Model) -> EngineConfig {
    let gateway = &model.gateway;
    let ports: Vec<_> = model
        .ports
        .iter()
        .zip(sources(model))
        .map(|(port, sources)| PortConfig {
            interface: port.interface.clone(),
            local: port.local.clone(),
            sources,
        })
        .collect();
    EngineConfig {
        workers: gateway.workers,
        table: gateway.table_config(),
        busy_poll: gateway.busy_poll,
        frames: (ports.len() as u32 * FRAMES_PER_PORT).max(FRAMES_MIN),
        events: EVENTS,
        fragments: gateway.fragments,
        cpus: Vec::new(),
        ports,
    }
}

/// Port by port, whose packets its kernel may answer. Of nobody where it answers nothing: that spares a port with no
/// local services the whole policy's networks.
pub fn sources(model: &Model) -> impl Iterator<Item = Vec<(IpNet, bool)>> {
    let ids = (0..=u8::MAX).map(PortId);
    ids.zip(&model.ports)
        .map(|(id, port)| if port.local.is_empty() { Vec::new() } else { model.rules.sources(id) })
}

/// What of a new configuration only a restart can put in force, as `key: old → new`.
pub fn needs_restart(old: &Model, new: &Model) -> Vec<String> {
    let mut changes = Vec::new();
    let mut compare = |key: &str, old: String, new: String| {
        if old != new {
            changes.push(format!("{key}: {old} → {new}"));
        }
    };
    let ports = |model: &Model| {
        let ports = model.ports.iter().map(|port| format!("{} on {}", port.name, port.interface));
        ports.collect::<Vec<_>>().join(", ")
    };
    compare("ports", ports(old), ports(new));
    let (old, new) = (&old.gateway, &new.gateway);
    compare("control", old.control.display().to_string(), new.control.display().to_string());
    compare("state", old.state.display().to_string(), new.state.display().to_string());
    compare("workers", old.workers.to_string(), new.workers.to_string());
    compare("connections", old.connections_v4.to_string(), new.connections_v4.to_string());
    compare("connections_v6", old.connections_v6.to_string(), new.connections_v6.to_string());
    compare("half_open_percent", old.half_open_percent.to_string(), new.half_open_percent.to_string());
    let per_source = |gateway: &Gateway| gateway.half_open_per_source.to_string();
    compare("half_open_per_source", per_source(old), per_source(new));
    compare("fragments", old.fragments.to_string(), new.fragments.to_string());
    compare("sessions", old.sessions.to_string(), new.sessions.to_string());
    compare("busy_poll", old.busy_poll.to_string(), new.busy_poll.to_string());
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        version = 1
        [gateway]
        connections = 4096
        [ports.a]
        interface = "eth1"
        [segments.a]
        port = "a"
        networks = ["10.0.0.0/24"]
    "#;

    #[test]
    fn a_rule_that_has_expired_since_keeps_no_stored_revision_from_coming_back() {
        let text = TEXT.to_owned()
            + "[[rule]]\nname = \"r\"\nfrom = \"a\"\nto = \"a\"\nservices = \"any\"\nexpires = 2020-01-01T00:00:00Z\n\
               [[test]]\nname = \"t\"\nfrom = \"a\"\nto = \"a\"\nport = \"tcp/1\"\nexpect = \"allow\"\n";
        let model = model::parse("t.toml", &text).unwrap();
        let refusal = check(model.clone()).err().unwrap();
        assert!(refusal.message.contains("it expired at 2020-01-01T00:00:00Z"), "{}", refusal.message);
        let then = "2019-12-01T00:00:00Z".parse().unwrap();
        let loaded = check_as_of(model, None, then).ok().unwrap();
        // It has expired all the same.
        assert!(!loaded.policy.gates().contains(0));
    }

    #[test]
    fn what_a_reload_cannot_change_is_named_and_the_rest_is_not() {
        let old = model::parse("old", TEXT).unwrap();
        let same = model::parse("new", &TEXT.replace("10.0.0.0", "10.9.0.0")).unwrap();
        assert_eq!(needs_restart(&old, &same), [] as [&str; 0]);
        let larger = model::parse("new", &TEXT.replace("4096", "8192")).unwrap();
        assert_eq!(needs_restart(&old, &larger), ["connections: 4096 → 8192"]);
        let fewer = TEXT.replace("connections = 4096", "connections = 4096\nsessions = 10");
        let fewer = model::parse("new", &fewer).unwrap();
        assert_eq!(needs_restart(&old, &fewer), ["sessions: 16384 → 10"]);
        let moved = model::parse("new", &TEXT.replace("eth1", "eth2")).unwrap();
        assert_eq!(needs_restart(&old, &moved), ["ports: a on eth1 → a on eth2"]);
    }
}
