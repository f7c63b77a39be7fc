//! Listing and cutting live connections.

use std::io;
use std::net::IpAddr;

use bulkhead_dataplane::connection::{Family, Map, State, Summary};
use bulkhead_dataplane::event::EventKind;
use bulkhead_dataplane::pipeline::ended_event;
use bulkhead_dataplane::policy::Policy;
use bulkhead_dataplane::verdict::{Now, Reason, SegmentId};
use ipnet::IpNet;

use super::events::{protocol_name, shown_ports};
use super::gateway::{Gateway, lock};
use super::generations::segments;
use crate::api::server::Client;
use crate::api::types::{Connection, Filter, Live, Refusal, Reply};
use crate::config::diagnostics::{nearest, quoted};
use crate::model::{Model, Probe};

/// Connections looked at before the workers get a chance to reuse the memory of those that ended.
const SEEN_BATCH: usize = 256;

/// One end of a connection, as a filter names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Segment(SegmentId),
    Network(IpNet),
}

/// A filter whose names are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    from: Option<Place>,
    to: Option<Place>,
    source: Option<IpNet>,
    destination: Option<IpNet>,
    probe: Option<Probe>,
    rule: Option<String>,
    state: Option<State>,
}

impl Wanted {
    fn resolve(filter: &Filter, model: &Model) -> Result<Wanted, Refusal> {
        let place = |text: &Option<String>| text.as_deref().map(|text| place(text, model)).transpose();
        let network = |text: &Option<String>| {
            let parse = |text: &str| {
                network(text).ok_or_else(|| {
                    Refusal::error(format!("{} is neither an address nor a network", quoted(text)))
                })
            };
            text.as_deref().map(parse).transpose()
        };
        let probe = filter
            .port
            .as_deref()
            .map(|text| Probe::parse(text).map_err(|wrong| Refusal::error(wrong.to_string())));
        let state = filter.state.as_deref().map(|text| {
            State::ALL.into_iter().find(|state| state.name() == text).ok_or_else(|| {
                let names: Vec<_> = State::ALL.into_iter().map(State::name).collect();
                let hint = nearest(text, names.iter().copied())
                    .unwrap_or_else(|| format!("one of {}", names.join(", ")));
                Refusal::error(format!("{} is not a state; {hint}", quoted(text)))
            })
        });
        Ok(Wanted {
            from: place(&filter.from)?,
            to: place(&filter.to)?,
            source: network(&filter.source)?,
            destination: network(&filter.destination)?,
            probe: probe.transpose()?,
            // Not looked up in the model: the connection's rule may be of an earlier generation.
            rule: filter.rule.clone(),
            state: state.transpose()?,
        })
    }

    fn admits(&self, gateway: &Gateway, policy: &Policy, summary: &Summary) -> bool {
        let tuple = &summary.tuple;
        let at = |place: &Option<Place>, address: IpAddr, segment: &dyn Fn() -> Option<SegmentId>| match place
        {
            None => true,
            Some(Place::Network(network)) => network.contains(&address),
            Some(Place::Segment(wanted)) => segment() == Some(*wanted),
        };
        let within = |network: &Option<IpNet>, address: IpAddr| network.is_none_or(|n| n.contains(&address));
        within(&self.source, tuple.source)
            && within(&self.destination, tuple.destination)
            && self.state.is_none_or(|state| state == summary.state)
            && self.probe.is_none_or(|probe| {
                // An echo has none.
                probe.protocol == tuple.protocol && (probe.port == 0 || probe.port == tuple.destination_port)
            })
            && at(&self.from, tuple.source, &|| policy.source_segment(summary.ingress, tuple.source))
            && at(&self.to, tuple.destination, &|| policy.destination_segment(tuple.destination))
            && self.rule.as_ref().is_none_or(|rule| {
                gateway.rule_name(summary.stamp.generation, summary.stamp.rule).as_ref() == Some(rule)
            })
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn place(text: &str, model: &Model) -> Result<Place, Refusal> {
    if let Some(segment) = model.segment_id(text) {
        return Ok(Place::Segment(segment));
    }
    network(text).map(Place::Network).ok_or_else(|| {
        let hint = nearest(text, model.segments.iter().map(|s| s.name.as_str()))
            .unwrap_or_else(|| "give a network or the name of a segment".to_owned());
        Refusal::error(format!("{} is neither a network nor a segment; {hint}", quoted(text)))
    })
}

/// Sends the connections that match, at most `limit`, and how many match.
pub fn list(
    gateway: &Gateway,
    filter: &Filter,
    limit: u64,
    client: &mut Client,
) -> Result<io::Result<()>, Refusal> {
    let matched = each(gateway, filter, limit, |connection| client.say(Reply::Connection(connection)))?;
    Ok(matched.and_then(|matched| client.say(Reply::Matched(matched))))
}

/// The connections that match, at most `limit` of them.
pub fn find(gateway: &Gateway, filter: &Filter, limit: u64) -> Result<Live, Refusal> {
    let mut connections = Vec::new();
    let matched = each(gateway, filter, limit, |connection| {
        connections.push(connection);
        Ok(())
    })?;
    let matched = matched.map_err(|error| Refusal::error(error.to_string()))?;
    Ok(Live { matched, connections })
}

/// Calls with at most `limit` connections that match. Returns how many match, unless a call failed.
fn each(
    gateway: &Gateway,
    filter: &Filter,
    limit: u64,
    mut tell: impl FnMut(Connection) -> io::Result<()>,
) -> Result<io::Result<u64>, Refusal> {
    let model = gateway.in_force().model;
    let wanted = Wanted::resolve(filter, &model)?;
    let snapshot = gateway.engine.snapshot();
    let policy = &snapshot.policy.policy;
    let now = gateway.engine.now();
    let table = gateway.engine.table();
    let mut matched = 0;
    let v4 = table.v4.summaries(0, now).map(|(_, summary)| summary);
    let v6 = table.v6.summaries(0, now).map(|(_, summary)| summary);
    for summary in v4.chain(v6).filter(|summary| wanted.admits(gateway, policy, summary)) {
        matched += 1;
        if matched <= limit
            && let Err(error) = tell(row(gateway, &model, policy, &summary, now))
        {
            return Ok(Err(error));
        }
    }
    Ok(Ok(matched))
}

fn row(gateway: &Gateway, model: &Model, policy: &Policy, summary: &Summary, now: Now) -> Connection {
    let tuple = &summary.tuple;
    let (from, to) = segments(model, policy, summary.ingress, tuple.source, tuple.destination);
    let (source_port, destination_port) =
        shown_ports(tuple.protocol, (tuple.source_port, tuple.destination_port));
    let stamp = &summary.stamp;
    let session = gateway.sessions.whose(stamp.generation, stamp.bearer, tuple.source);
    Connection {
        protocol: protocol_name(tuple.protocol),
        source: tuple.source.to_string(),
        source_port,
        destination: tuple.destination.to_string(),
        destination_port,
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
        ingress: model.port_name(summary.ingress).unwrap_or("?").to_owned(),
        state: summary.state.name().to_owned(),
        rule: gateway.rule_name(summary.stamp.generation, summary.stamp.rule),
        user: session.as_ref().and_then(|session| session.claims.user.clone()),
        session: session.map(|session| session.id.clone()),
        generation: summary.stamp.generation.0,
        age_s: now.millis().saturating_sub(summary.opened_ms) / 1000,
        idle_s: u64::from(summary.idle_ms) / 1000,
        packets: summary.packets,
        bytes: summary.bytes,
    }
}

/// Cuts the connections that match, or counts them. Returns how many.
pub fn kill(gateway: &Gateway, filter: &Filter, all: bool, dry_run: bool) -> Result<u64, Refusal> {
    if *filter == Filter::default() && !all && !dry_run {
        return Err(Refusal::error("this would cut every connection; say which, or --all"));
    }
    let wanted = Wanted::resolve(filter, &gateway.in_force().model)?;
    let table = gateway.engine.table();
    Ok(kill_in(gateway, &table.v4, &wanted, dry_run) + kill_in(gateway, &table.v6, &wanted, dry_run))
}

fn kill_in<A: Family>(gateway: &Gateway, map: &Map<A>, wanted: &Wanted, dry_run: bool) -> u64 {
    let snapshot = gateway.engine.snapshot();
    let now = gateway.engine.now();
    let mut cutter = lock(&gateway.cutter);
    let mut count = 0;
    cutter.quiesce();
    for (seen, (hit, summary)) in map.summaries(0, now).enumerate() {
        let admitted = wanted.admits(gateway, &snapshot.policy.policy, &summary);
        if admitted && dry_run {
            count += 1;
        } else if admitted && let Some(ended) = map.remove(&mut cutter, hit, now) {
            count += 1;
            gateway.engine.record(ended_event(now, &ended, EventKind::Cut(Reason::Killed)));
        }
        // Only when done with `hit`.
        if seen % SEEN_BATCH == 0 {
            cutter.quiesce();
        }
    }
    cutter.pause();
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    const TEXT: &str = r#"
        version = 1
        [ports.a]
        interface = "eth1"
        [segments.office]
        port = "a"
        networks = ["10.0.0.0/24"]
    "#;

    fn resolve(filter: &Filter) -> Result<Wanted, String> {
        Wanted::resolve(filter, &model::parse("test", TEXT).unwrap()).map_err(|refusal| refusal.message)
    }

    #[test]
    fn an_end_is_a_segment_a_network_or_an_address() {
        let end = |text: &str| Filter { from: Some(text.to_owned()), ..Filter::default() };
        assert_eq!(resolve(&end("office")).unwrap().from, Some(Place::Segment(SegmentId(0))));
        assert_eq!(
            resolve(&end("10.1.0.0/16")).unwrap().from,
            Some(Place::Network("10.1.0.0/16".parse().unwrap()))
        );
        assert_eq!(
            resolve(&end("fd00::1")).unwrap().from,
            Some(Place::Network("fd00::1/128".parse().unwrap()))
        );
        assert!(resolve(&end("ofice")).unwrap_err().contains("did you mean `office`"));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_a_hint() {
        let state = Filter { state: Some("establishd".to_owned()), ..Filter::default() };
        assert!(resolve(&state).unwrap_err().contains("did you mean `established`"));
        let port = Filter { port: Some("tcp/99999".to_owned()), ..Filter::default() };
        assert!(resolve(&port).is_err());
        let source = Filter { source: Some("office".to_owned()), ..Filter::default() };
        assert!(resolve(&source).unwrap_err().contains("neither an address nor a network"));
        assert_eq!(resolve(&Filter::default()).unwrap(), Wanted::default());
    }
}
