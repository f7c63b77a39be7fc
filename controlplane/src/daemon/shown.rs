//! One session, with everything that is known of it.

use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_dataplane::policy::{Restraint, reference};
use bulkhead_dataplane::verdict::Now;

use super::connections;
use super::events::{Entry, describe};
use super::gateway::Gateway;
use super::reach::reach_of_all;
use super::sessions::row;
use crate::algebra::Demand;
use crate::api::operator::{Limit, RuleShown, Shown};
use crate::api::types::{Filter, Refusal};
use crate::config::diagnostics::quoted;
use crate::model::Model;
use crate::plan::{Symbols, words};
use crate::sessions::{Session, Which};

/// So many live connections are told; all are counted.
const CONNECTIONS: usize = 50;
/// So many events of its address.
const EVENTS: usize = 10;

/// All that is known of the session with this id, or of this address.
///
/// # Errors
///
/// There is none.
pub fn session(gateway: &Gateway, which: &str) -> Result<Shown, Refusal> {
    let now = gateway.engine.now();
    let session = find(gateway, which, now)?;
    let model = gateway.in_force().model;
    let restraint = gateway.engine.snapshot().policy.policy.restraints().of(session.address);
    let restrained = restraint.map(|restraint| match restraint {
        Restraint::Locked => "locked".to_owned(),
        Restraint::Quarantined => "quarantined".to_owned(),
    });
    // What it reaches in quarantine, it reaches from there.
    let seen = gateway.restraints.of_model(&model).seen(session.address);
    let reached = match restraint {
        Some(Restraint::Locked) => Default::default(),
        Some(Restraint::Quarantined) if model.quarantine().is_none() => Default::default(),
        _ => reach_of_all(&model, seen, Some(&session), now),
    };
    let symbols = Symbols::of(&model);
    let rules = reached.rows.into_iter().map(|reach| RuleShown {
        asks_for: asks_for(&model, &symbols, seen, &reach.rule, &reach.to),
        rule: reach.rule,
        to: reach.to,
        services: reach.services,
        reason: reach.refusal.map(|refusal| refusal.reason),
        left_s: reach.left_s,
    });
    let source = Some(session.address.to_string());
    let live = connections::find(gateway, &Filter { source, ..Filter::default() }, u64::MAX)?;
    let mut mine: Vec<_> =
        live.connections.into_iter().filter(|c| c.session.as_ref() == Some(&session.id)).collect();
    mine.sort_by_key(|connection| connection.idle_s);
    let (matched, last_packet_s) = (mine.len() as u64, mine.first().map(|connection| connection.idle_s));
    mine.truncate(CONNECTIONS);
    Ok(Shown {
        factor_limits: factor_limits(&model, &session, now),
        posture_limits: posture_limits(&model, &session, now),
        session: row(gateway, &model, &session, now),
        restrained,
        rules: rules.collect(),
        is_partial: reached.is_partial,
        matched,
        connections: mine,
        last_packet_s,
        events: events(gateway, session.address),
    })
}

fn find(gateway: &Gateway, which: &str, now: Now) -> Result<Arc<Session>, Refusal> {
    let wanted = match which.parse::<IpAddr>() {
        Ok(address) => Which::at(address),
        Err(_) => Which { id: Some(which.to_owned()), ..Which::default() },
    };
    gateway.sessions.list(&wanted, now).into_iter().next().ok_or_else(|| {
        Refusal::error(format!(
            "no session has the id or the address {}; `bulkhead session list` shows them",
            quoted(which)
        ))
    })
}

fn limit(of: &str, max_age_s: u32, age_s: u32) -> Limit {
    Limit { of: of.to_owned(), max_age_s, left_s: max_age_s.saturating_sub(age_s) }
}

/// By every age of a second factor that some rule or floor names.
fn factor_limits(model: &Model, session: &Session, now: Now) -> Vec<Limit> {
    let Some(factor) = session.claims.factor else { return Vec::new() };
    let mut ages: Vec<u32> = model.rules.conditions.iter().filter_map(|c| c.mfa_max_age_s).collect();
    ages.sort_unstable();
    ages.dedup();
    ages.into_iter().map(|max_age_s| limit("mfa", max_age_s, factor.shown.age_s(now))).collect()
}

/// Of the postures whose reports have an age limit.
fn posture_limits(model: &Model, session: &Session, now: Now) -> Vec<Limit> {
    let reports = session.claims.reports.iter().filter_map(|report| {
        let id = model.identities.posture(&report.posture)?;
        let max_age_s = model.identities.postures[id.0 as usize].max_age_s?;
        Some(limit(&report.posture, max_age_s, report.at.age_s(now)))
    });
    reports.collect()
}

/// What a rule and the floors between two segments ask for, in words.
fn asks_for(model: &Model, symbols: &Symbols, from: IpAddr, rule: &str, to: &str) -> Vec<String> {
    let index = model.rule_id(rule).and_then(|id| id.index());
    let Some(rule) = index.and_then(|index| model.rules.rules.get(index)) else { return Vec::new() };
    let (from, to) = (reference::segment_of(&model.rules, from), model.segment_id(to));
    let demand = Demand::of(rule.action, reference::conditions(&model.rules, rule, from, to));
    words::demand(&demand, symbols)
}

/// The last events of connections of an address, and of its session.
fn events(gateway: &Gateway, address: IpAddr) -> Vec<serde_json::Value> {
    let text = address.to_string();
    let recent = gateway.hub.recent(usize::MAX);
    let mine = recent.iter().rev().filter_map(|entry| match entry {
        Entry::Event(event) if event.source == address => Some(describe(gateway, event)),
        Entry::Told(event) if event["address"] == text.as_str() => Some(serde_json::Value::clone(event)),
        _ => None,
    });
    let mut events: Vec<_> = mine.take(EVENTS).collect();
    events.reverse();
    events
}
