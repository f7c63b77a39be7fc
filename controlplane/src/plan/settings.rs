//! What is set differently besides who may connect to whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bulkhead_dataplane::policy::{Rule, RuleSet};
use bulkhead_dataplane::steering::LocalService;
use bulkhead_dataplane::verdict::SegmentId;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use super::{Names, Setting, words};
use crate::model::{Model, SignIn};

/// The settings that differ, and segments that only have another name.
pub(super) fn compare(old: &Model, new: &Model) -> (Vec<Setting>, Vec<String>) {
    let mut settings = gateway(old, new);
    settings.extend(portal(old, new));
    settings.extend(ports(old, new));
    let (segments, renamed) = segments(old, new);
    settings.extend(segments);
    settings.extend(definitions(old, new));
    settings.extend(workloads(old, new));
    (settings, renamed)
}

/// Of which machines a model says who they are.
fn workloads(old: &Model, new: &Model) -> Vec<Setting> {
    let values = |model: &Model| -> BTreeMap<String, Values> {
        let of = |workload: &crate::model::Workload| {
            let addresses: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
            let mut values = Values::from([("addresses".to_owned(), addresses.join(", "))]);
            values.extend(workload.spiffe.as_ref().map(|id| ("spiffe".to_owned(), id.to_string())));
            values.extend(workload.mac.map(|mac| ("mac".to_owned(), crate::config::values::mac_text(mac))));
            values.extend((!workload.tags.is_empty()).then(|| ("tags".to_owned(), workload.tags.join(", "))));
            values.extend(workload.enrolled.then(|| ("enrolled".to_owned(), "true".to_owned())));
            (format!("workload {}", workload.name), values)
        };
        model.workloads.iter().map(of).collect()
    };
    let ([before, after], empty) = ([old, new].map(values), Values::new());
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let of = |name: &String| {
        let [old, new] = [&before, &after].map(|all| all.get(name).unwrap_or(&empty));
        differing(name, old, new, false)
    };
    names.into_iter().flat_map(of).collect()
}

/// What has a name: its keys with their values.
type Values = BTreeMap<String, String>;

/// One setting for each key that differs.
fn differing(of: &str, old: &Values, new: &Values, restart: bool) -> Vec<Setting> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differing = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    differing
        .map(|key| Setting {
            of: of.to_owned(),
            key: key.clone(),
            old: old.get(key).cloned(),
            new: new.get(key).cloned(),
            restart,
        })
        .collect()
}

fn gateway(old: &Model, new: &Model) -> Vec<Setting> {
    let fixed = |model: &Model| -> Values {
        let gateway = &model.gateway;
        let values = [
            ("control", gateway.control.display().to_string()),
            ("state", gateway.state.display().to_string()),
            ("workers", gateway.workers.to_string()),
            ("connections", gateway.connections_v4.to_string()),
            ("connections_v6", gateway.connections_v6.to_string()),
            ("half_open_percent", gateway.half_open_percent.to_string()),
            ("half_open_per_source", gateway.half_open_per_source.to_string()),
            ("fragments", gateway.fragments.to_string()),
            ("sessions", gateway.sessions.to_string()),
            ("busy_poll", gateway.busy_poll.to_string()),
        ];
        values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    };
    let timeouts = |model: &Model| -> Values {
        let t = &model.gateway.timeouts;
        let values = [
            ("tcp_handshake", t.tcp_handshake_ms),
            ("tcp_established", t.tcp_established_ms),
            ("tcp_closing", t.tcp_closing_ms),
            ("tcp_time_wait", t.tcp_time_wait_ms),
            ("tcp_closed", t.tcp_closed_ms),
            ("udp_unreplied", t.udp_unreplied_ms),
            ("udp_replied", t.udp_replied_ms),
            ("icmp", t.icmp_ms),
            ("fragment", t.fragment_ms),
        ];
        values.map(|(key, ms)| (format!("timeouts.{key}"), words::duration_ms(ms.into()))).into()
    };
    let mut settings = differing("gateway", &fixed(old), &fixed(new), true);
    settings.extend(differing("gateway", &timeouts(old), &timeouts(new), false));
    let sign_in = |model: &Model| -> Values {
        let SignIn { session_s, heartbeat_s, passwords, radius, .. } = &model.sign_in;
        let port = radius.as_ref().map(|radius| ("radius.port".to_owned(), radius.port.to_string()));
        let values = [
            ("session", words::duration_s(*session_s)),
            ("heartbeat", words::duration_s(*heartbeat_s)),
            ("passwords", passwords.to_string()),
        ];
        values.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(port).collect()
    };
    settings.extend(differing("identity", &sign_in(old), &sign_in(new), false));
    settings.extend(trusted("provider", &old.sign_in.providers, &new.sign_in.providers));
    let clients = |model: &Model| {
        let radius = model.sign_in.radius.clone();
        radius.map(|radius| radius.clients).unwrap_or_default()
    };
    settings.extend(trusted("RADIUS client", &clients(old), &clients(new)));
    settings.extend(trusted("trust domain", &old.sign_in.trust_domains, &new.sign_in.trust_domains));
    settings.extend(trusted("transmitter", &old.sign_in.transmitters, &new.sign_in.transmitters));
    settings
}

/// Those who are believed, by their names.
fn trusted<T: Serialize>(what: &str, old: &[T], new: &[T]) -> Vec<Setting> {
    let by_name = |list: &[T]| -> BTreeMap<String, Values> {
        let keys = |one: &T| -> Values {
            let Ok(Value::Object(keys)) = serde_json::to_value(one) else { return Values::new() };
            let told = |value: Value| match value {
                Value::Null => None,
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            };
            keys.into_iter().filter_map(|(key, value)| Some((key, told(value)?))).collect()
        };
        list.iter().map(keys).map(|keys| (keys.get("name").cloned().unwrap_or_default(), keys)).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let none = Values::new();
    names
        .into_iter()
        .flat_map(|name| {
            let of = format!("{what} {name}");
            differing(&of, old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none), false)
        })
        .collect()
}

fn portal(old: &Model, new: &Model) -> Vec<Setting> {
    let values = |model: &Model| -> Values {
        let Some(portal) = &model.portal else { return Values::new() };
        let ports: Vec<_> = portal.ports.iter().filter_map(|port| model.port_name(*port)).collect();
        let mut values = Values::from([
            ("ports".to_owned(), ports.join(", ")),
            ("port".to_owned(), portal.port.to_string()),
            ("name".to_owned(), portal.name.clone()),
            ("user".to_owned(), portal.user.clone()),
        ]);
        values.extend(portal.redirect_port.map(|port| ("redirect_port".to_owned(), port.to_string())));
        values.extend(portal.certificate_port.map(|port| ("certificate_port".to_owned(), port.to_string())));
        if let Some((certificate, key)) = &portal.files {
            values.insert("certificate".to_owned(), certificate.display().to_string());
            values.insert("key".to_owned(), key.display().to_string());
        }
        values
    };
    differing("portal", &values(old), &values(new), false)
}

fn ports(old: &Model, new: &Model) -> Vec<Setting> {
    let mut settings = Vec::new();
    let names: BTreeSet<&str> =
        [old, new].into_iter().flat_map(|m| m.ports.iter().map(|p| &*p.name)).collect();
    for name in names {
        let of = format!("port {name}");
        let sides = [old, new].map(|model| model.ports.iter().position(|port| port.name == name));
        let interface = |model: &Model, index: Option<usize>| -> Values {
            let port = index.map(|index| ("interface".to_owned(), model.ports[index].interface.clone()));
            port.into_iter().collect()
        };
        settings.extend(differing(&of, &interface(old, sides[0]), &interface(new, sides[1]), true));
        let local = |model: &Model, index: Option<usize>| -> Values {
            let Some(index) = index.filter(|index| !model.ports[*index].local.is_empty()) else {
                return Values::new();
            };
            let services = model.ports[index].local.iter().map(local_text).collect::<Vec<_>>().join(", ");
            let sources = model.rules.sources(bulkhead_dataplane::verdict::PortId(index as u8));
            Values::from([("local".to_owned(), services), ("local, for whom".to_owned(), networks(&sources))])
        };
        settings.extend(differing(&of, &local(old, sides[0]), &local(new, sides[1]), false));
    }
    settings
}

fn local_text(service: &LocalService) -> String {
    match service {
        LocalService::Tcp(port) => format!("tcp/{port}"),
        LocalService::Udp(port) => format!("udp/{port}"),
        LocalService::IcmpEcho => "icmp/echo-request".to_owned(),
        LocalService::Icmpv6Echo => "icmpv6/echo-request".to_owned(),
    }
}

/// Networks that may speak, and those inside them that may not.
fn networks(sources: &[(IpNet, bool)]) -> String {
    let text = |(network, is_here): &(IpNet, bool)| {
        if *is_here { network.to_string() } else { format!("not {network}") }
    };
    sources.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Where the segments of two models lie, by name.
fn segments(old: &Model, new: &Model) -> (Vec<Setting>, Vec<String>) {
    let places = |model: &Model| -> BTreeMap<String, Values> {
        let segments = model.segments.iter().zip(&model.rules.segments);
        segments
            .map(|(info, segment)| {
                if info.is_quarantine {
                    let values = Values::from([("quarantine".to_owned(), "true".to_owned())]);
                    return (info.name.clone(), values);
                }
                let mut ports: Vec<_> =
                    segment.ports.iter().filter_map(|port| model.port_name(*port)).collect();
                ports.sort_unstable();
                let mut networks = segment.networks.clone();
                networks.sort_unstable();
                let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
                let values = [("networks", networks.join(", ")), ("ports", ports.join(", "))];
                let values = values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
                (info.name.clone(), values)
            })
            .collect()
    };
    let [before, after] = [old, new].map(places);
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    let mut by_place: HashMap<&Values, &str> =
        gone.clone().map(|(name, values)| (values, name.as_str())).collect();
    let mut renamed: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, values) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        if let Some(earlier) = by_place.remove(values) {
            renamed.insert(earlier, name);
        }
    }
    let (is_renamed_from, is_renamed_to) =
        (|name: &str| renamed.contains_key(name), |name: &str| renamed.values().any(|new| *new == name));
    let empty = Values::new();
    let mut settings = Vec::new();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names.into_iter().filter(|name| !is_renamed_from(name) && !is_renamed_to(name)) {
        let [old, new] = [&before, &after].map(|places| places.get(name).unwrap_or(&empty));
        settings.extend(differing(&format!("segment {name}"), old, new, false));
    }
    (settings, renamed.iter().map(|(old, new)| format!("{old} → {new}")).collect())
}

/// What the names in conditions mean, where both models have the name; and rules that are only tried, or no longer.
fn definitions(old: &Model, new: &Model) -> Vec<Setting> {
    let postures = |model: &Model| -> Values {
        let postures = model.identities.postures.iter();
        postures
            .map(|posture| {
                let age = posture.max_age_s.map(|age| format!("max_age {}", words::duration_s(age)));
                let checks = posture.checks.iter().map(|(name, check)| format!("{name} {check:?}"));
                (format!("posture {}", posture.name), checks.chain(age).collect::<Vec<_>>().join(", "))
            })
            .collect()
    };
    let schedules = |model: &Model| -> Values {
        let schedules = model.identities.schedules.iter();
        let text = |schedule: &crate::model::Schedule| {
            format!("{:?} {:?} {:?}", schedule.days, schedule.hours, schedule.zone.iana_name())
        };
        schedules.map(|schedule| (format!("schedule {}", schedule.name), text(schedule))).collect()
    };
    let modes = |model: &Model| -> Values {
        let mode = |audit: bool| (if audit { "audit" } else { "enforce" }).to_owned();
        model.rule_infos.iter().map(|info| (format!("rule {}", info.name), mode(info.audit))).collect()
    };
    let kinds: [(&str, [Values; 2]); 3] = [
        ("checks", [old, new].map(postures)),
        ("times", [old, new].map(schedules)),
        ("mode", [old, new].map(modes)),
    ];
    let mut settings = Vec::new();
    for (key, [before, after]) in kinds {
        for (of, old) in before {
            if let Some(new) = after.get(&of).filter(|new| **new != old) {
                let (key, new) = (key.to_owned(), Some(new.clone()));
                settings.push(Setting { of, key, old: Some(old), new, restart: false });
            }
        }
    }
    settings
}

/// Rules by name: which came, went, or read differently.
///
/// `sets` are their rules in one numbering.
pub(super) fn rules([old, new]: [&Model; 2], sets: [&RuleSet; 2]) -> Names {
    let segment_names = |model: &Model, list: &[SegmentId]| -> Vec<String> {
        list.iter().filter_map(|segment| model.segment_name(*segment)).map(str::to_owned).collect()
    };
    // By old segment, the new one of the same name.
    let numbers: Vec<Option<SegmentId>> = old.segments.iter().map(|s| new.segment_id(&s.name)).collect();
    let same_list = |a: &[SegmentId], b: &[SegmentId]| {
        a.len() == b.len()
            && (a.iter().zip(b).all(|(a, b)| numbers[a.0 as usize] == Some(*b))
                || segment_names(old, a) == segment_names(new, b))
    };
    let condition = |set: &RuleSet, rule: &Rule| rule.condition.map(|id| set.condition(id).clone());
    let tier = |model: &Model, tier: u8| model.tiers.get(usize::from(tier)).cloned();
    let is_same = |old_index: usize, new_index: usize| {
        let (a, b) = (&sets[0].rules[old_index], &sets[1].rules[new_index]);
        let (info_a, info_b) = (&old.rule_infos[old_index], &new.rule_infos[new_index]);
        same_list(&a.from, &b.from)
            && same_list(&a.to, &b.to)
            && (a.action, &a.services) == (b.action, &b.services)
            && tier(old, info_a.tier) == tier(new, info_b.tier)
            && condition(sets[0], a) == condition(sets[1], b)
            && info_a.audit == info_b.audit
            && info_a.timeouts == info_b.timeouts
            && info_a.limits == info_b.limits
    };
    let mut names = Names::default();
    for (index, info) in new.rule_infos.iter().enumerate() {
        match old.rule_id(&info.name).and_then(|id| id.index()) {
            None => names.added.push(info.name.clone()),
            Some(before) if !is_same(before, index) => names.changed.push(info.name.clone()),
            Some(_) => {}
        }
    }
    let gone = old.rule_infos.iter().filter(|info| new.rule_id(&info.name).is_none());
    names.removed = gone.map(|info| info.name.clone()).collect();
    names
}
