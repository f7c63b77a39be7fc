//! Names to ids. Every independent error is reported; what hangs on a reported one stays silent.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_dataplane::connection::{MAX_LIMITED_RULES, MAX_OVERRIDES, Overrides, RuleLimits, Timeouts};
use bulkhead_dataplane::headers::Permits;
use bulkhead_dataplane::policy::restraints::{QUARANTINE_V4, QUARANTINE_V6};
use bulkhead_dataplane::policy::rules::MAX_TIERS;
use bulkhead_dataplane::policy::{Action, Rule, RuleSet, Segment, Service};
use bulkhead_dataplane::steering::LocalService;
use bulkhead_dataplane::verdict::{MAX_PORTS, PortId, SegmentId};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::audit;
use super::conditions::Names;
use super::{Gateway, Model, Port, RuleInfo, SegmentInfo};
use crate::config::Sources;
use crate::config::diagnostics::{At, Diagnostics, Report, nearest, quoted};
use crate::config::schema::{self, Config, Text};
use crate::config::values::{self, Wrong};

/// The most ports that one range in `local` may open.
const LOCAL_RANGE: u16 = 64;

/// `report` may hold errors of reading already; then there is no model, but there may be more errors.
pub(super) fn resolve(config: Config, report: Report) -> Result<Model, Diagnostics> {
    resolve_within(EXPANDED_LIMIT, config, report)
}

/// As [`resolve`], with a limit of one's own for the entries of written-out lists.
pub(super) fn resolve_within(limit: usize, mut config: Config, report: Report) -> Result<Model, Diagnostics> {
    let mut resolver = Resolver { report, names: Names::default(), expanded: 0, limit };
    config.ports.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    config.segments.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    let postures: Vec<String> = config.postures.iter().map(|posture| posture.name.value.clone()).collect();
    resolver.identities(&mut config);
    let tiers = resolver.tiers(config.tiers.as_deref());
    let mut written = std::mem::take(&mut config.rules);
    let services = resolver.services(&config);
    let mut ports = resolver.ports(&config, &services);
    let portal = config.portal.as_ref().and_then(|written| resolver.portal(written, &mut ports));
    let sign_in = resolver.sign_in(&config, portal.is_some(), &postures, &mut ports);
    let (segments, mut rules) = resolver.segments(&config, &ports);
    let (mut rule_infos, resolved) = resolver.rules(&mut written, &segments, &services, &tiers, &rules);
    rules.rules = resolved;
    rules.conditions = std::mem::take(&mut resolver.names.conditions);
    audit::merge(&mut rule_infos, &mut rules.rules, resolver.audits(&config, &segments));
    audit::number_tiers(&mut rules.rules, &rule_infos);
    resolver.check_audit_tier(&rules.rules, &rule_infos);
    let audited = audit::split(&mut rules, &rule_infos);
    let mut model = Model {
        gateway: gateway(&config),
        portal,
        sign_in,
        ports,
        segments,
        rule_infos,
        rules,
        audited,
        tiers,
        identities: resolver.names.list.clone(),
        workloads: Vec::new(),
        tests: Vec::new(),
        digest: String::new(),
        warnings: Diagnostics::default(),
        sources: Sources::default(),
    };
    model.workloads = resolver.workloads(&config, &model.rules);
    model.tests = config.tests.iter().filter_map(|test| resolver.test(test, &model)).collect();
    if !resolver.report.is_clean() {
        return Err(resolver.report.into_diagnostics());
    }
    let used = services.iter().filter(|(_, named)| named.is_used.get()).map(|(name, _)| (*name).to_owned());
    resolver.warn_of_unused(&config, &used.collect(), &model.rules.conditions);
    (model.sources, model.warnings) = resolver.report.into_warnings();
    model.digest = model.compute_digest();
    Ok(model)
}

fn text(text: &Option<Text>) -> &str {
    text.as_ref().map_or("", |t| &t.value)
}

fn value(text: &Option<Text>) -> Option<String> {
    text.as_ref().map(|t| t.value.clone())
}

/// The order of the rules by name, as written among equals. Rules are large, so they themselves stay where they are.
fn by_name(rules: &[schema::Rule]) -> Vec<u32> {
    let mut named: Vec<(&str, u32)> = rules.iter().map(|rule| text(&rule.name)).zip(0..).collect();
    named.sort_unstable();
    named.into_iter().map(|(_, index)| index).collect()
}

fn gateway(config: &Config) -> Gateway {
    let (written, default) = (&config.gateway, Gateway::default());
    let mut timeouts = default.timeouts;
    for (name, duration) in &written.timeouts {
        // Reading has bounded the duration, so that its milliseconds fit.
        *timeout(&mut timeouts, &name.value) = duration.as_millis() as u32;
    }
    let size = |given: &Option<crate::config::Located<u64>>, default: usize| {
        given.as_ref().map_or(default, |v| v.value as usize)
    };
    Gateway {
        control: written.control.as_ref().map_or(default.control, |t| PathBuf::from(&t.value)),
        state: written.state.as_ref().map_or(default.state, |t| PathBuf::from(&t.value)),
        workers: size(&written.workers, default.workers),
        connections_v4: size(&written.connections, default.connections_v4),
        connections_v6: size(&written.connections_v6, default.connections_v6),
        half_open_percent: size(&written.half_open_percent, default.half_open_percent.into()) as u8,
        half_open_per_source: size(&written.half_open_per_source, 0) as u32,
        fragments: size(&written.fragments, default.fragments as usize) as u32,
        sessions: size(&written.sessions, default.sessions),
        busy_poll: written.busy_poll.as_ref().map_or(default.busy_poll, |v| v.value),
        timeouts,
    }
}

/// The time-out of this name, one of [`schema::TIMEOUTS`].
fn timeout<'t>(timeouts: &'t mut Timeouts, name: &str) -> &'t mut u32 {
    match name {
        "tcp_handshake" => &mut timeouts.tcp_handshake_ms,
        "tcp_established" => &mut timeouts.tcp_established_ms,
        "tcp_closing" => &mut timeouts.tcp_closing_ms,
        "tcp_time_wait" => &mut timeouts.tcp_time_wait_ms,
        "tcp_closed" => &mut timeouts.tcp_closed_ms,
        "udp_unreplied" => &mut timeouts.udp_unreplied_ms,
        "udp_replied" => &mut timeouts.udp_replied_ms,
        "icmp" => &mut timeouts.icmp_ms,
        "fragment" => &mut timeouts.fragment_ms,
        other => unreachable!("`{other}` is not in TIMEOUTS, and reading refuses it"),
    }
}

/// As [`timeout`], of a rule.
fn override_of<'t>(overrides: &'t mut Overrides, name: &str) -> &'t mut Option<u32> {
    match name {
        "tcp_handshake" => &mut overrides.tcp_handshake_ms,
        "tcp_established" => &mut overrides.tcp_established_ms,
        "tcp_closing" => &mut overrides.tcp_closing_ms,
        "tcp_time_wait" => &mut overrides.tcp_time_wait_ms,
        "tcp_closed" => &mut overrides.tcp_closed_ms,
        "udp_unreplied" => &mut overrides.udp_unreplied_ms,
        "udp_replied" => &mut overrides.udp_replied_ms,
        "icmp" => &mut overrides.icmp_ms,
        other => unreachable!("`{other}` is not in TIMEOUTS, and reading refuses it"),
    }
}

/// Whether a service has connections of the protocol that a time-out's name begins with.
fn has_timeout(service: Service, name: &str) -> bool {
    match service {
        Service::Any => true,
        Service::Tcp(..) => name.starts_with("tcp"),
        Service::Udp(..) | Service::Protocol(_) => name.starts_with("udp"),
        Service::IcmpEcho | Service::Icmpv6Echo => name.starts_with("icmp"),
    }
}

/// Named services, flattened.
type Services<'c> = HashMap<&'c str, Named>;

/// A service by name.
#[derive(Default)]
struct Named {
    list: Vec<Service>,
    /// Whether something names it.
    is_used: Cell<bool>,
}

impl Named {
    fn used(&self) -> &[Service] {
        self.is_used.set(true);
        &self.list
    }
}

pub(super) struct Resolver {
    pub(super) report: Report,
    pub(super) names: Names,
    /// List entries that names have been expanded to.
    expanded: usize,
    /// The most it may come to.
    limit: usize,
}

impl Resolver {
    pub(super) fn wrong(&mut self, at: At, wrong: Wrong) {
        self.report.error(at, wrong.message).maybe_hint(wrong.hint);
    }

    pub(super) fn unknown<'a>(&mut self, what: &str, name: &Text, candidates: impl Iterator<Item = &'a str>) {
        let hint = self
            .report
            .nearest(&name.value, candidates)
            .unwrap_or_else(|| format!("no [{what}s.NAME] of this name is in the configuration"));
        self.report.error(name.at, format!("unknown {what} {}", quoted(&name.value))).hint(hint);
    }

    /// Checks one name and that it is new; `seen` remembers it.
    pub(super) fn claim<'c>(&mut self, what: &str, name: &'c Text, seen: &mut HashMap<&'c str, At>) {
        if let Err(wrong) = values::name(&name.value) {
            self.wrong(name.at, wrong);
        }
        if let Some(&first) = seen.get(name.value.as_str()) {
            self.report
                .error(name.at, format!("two {what}s are named {}", quoted(&name.value)))
                .related(first, "the first one");
        } else {
            seen.insert(&name.value, name.at);
        }
    }

    /// The names of the tiers, in their order.
    fn tiers(&mut self, written: Option<&[Text]>) -> Vec<String> {
        let Some(written) = written else { return TIERS.map(str::to_owned).to_vec() };
        let mut seen = HashMap::new();
        for tier in written {
            self.claim("tier", tier, &mut seen);
        }
        if let Some(tier) = written.get(usize::from(MAX_TIERS)) {
            self.report.error(tier.at, format!("more than {MAX_TIERS} tiers"));
        }
        written.iter().map(|tier| tier.value.clone()).collect()
    }

    fn services<'c>(&mut self, config: &'c Config) -> Services<'c> {
        let mut seen = HashMap::new();
        for group in &config.services {
            self.claim("service", &group.name, &mut seen);
            if values::is_service_literal(&group.name.value) && group.name.value != "any" {
                let message =
                    format!("{} is a protocol and cannot name a service", quoted(&group.name.value));
                self.report.error(group.name.at, message).hint("rules may use it as it is");
            }
        }
        let groups: BTreeMap<&str, &schema::ServiceGroup> =
            config.services.iter().map(|g| (g.name.value.as_str(), g)).collect();
        let mut done = Services::new();
        for &name in groups.keys() {
            self.service_group(name, &groups, &mut Vec::new(), &mut done);
        }
        done
    }

    /// Flattens one service into `done`. `path` holds the services being flattened: meeting one again is a cycle.
    /// It also bounds the recursion, to the number of services.
    fn service_group<'c>(
        &mut self,
        name: &'c str,
        groups: &BTreeMap<&'c str, &'c schema::ServiceGroup>,
        path: &mut Vec<&'c str>,
        done: &mut Services<'c>,
    ) {
        if done.contains_key(name) {
            return;
        }
        path.push(name);
        let mut list = Vec::new();
        for member in &groups[name].members {
            if values::is_service_literal(&member.value) {
                match values::service(&member.value) {
                    Ok(service) => list.push(service),
                    Err(wrong) => self.wrong(member.at, wrong),
                }
            } else if let Some(start) = path.iter().position(|p| *p == member.value) {
                let mut way = path[start..].to_vec();
                way.push(&member.value);
                let message = format!("service {} contains itself", quoted(&member.value));
                self.report.error(member.at, message).label(way.join(" → "));
            } else if path.len() >= GROUP_DEPTH {
                let message = format!("services are nested more than {GROUP_DEPTH} deep");
                self.report.error(member.at, message);
            } else if let Some((&inner, _)) = groups.get_key_value(member.value.as_str()) {
                self.service_group(inner, groups, path, done);
                list.extend_from_slice(done[inner].used());
                list.sort();
                list.dedup();
            } else {
                self.unknown_service(member, groups.keys().copied());
            }
        }
        path.pop();
        list.sort();
        list.dedup();
        self.expand(list.len(), groups[name].name.at);
        done.insert(name, Named { list, ..Named::default() });
    }

    /// Counts entries towards the limit, and reports once that it is passed. `false`: expand no more.
    pub(super) fn expand(&mut self, entries: usize, at: At) -> bool {
        let before = self.expanded;
        self.expanded = before.saturating_add(entries);
        if before <= self.limit && self.expanded > self.limit {
            self.report
                .error(at, "the rules' lists of segments and services are too long when written out")
                .label(format!("the limit of {} entries is passed here", self.limit))
                .hint("many rules with \"any\" or with large services: merge them, or name fewer segments");
        }
        self.expanded <= self.limit
    }

    fn unknown_service<'a>(&mut self, name: &Text, candidates: impl Iterator<Item = &'a str>) {
        let hint = self.report.nearest(&name.value, candidates).unwrap_or_else(|| {
            "define it as [services.NAME], or write the port itself: \"tcp/443\"".to_owned()
        });
        self.report.error(name.at, format!("unknown service {}", quoted(&name.value))).hint(hint);
    }

    /// The services behind names and literals, sorted.
    fn service_list(&mut self, names: &[Text], services: &Services<'_>) -> Vec<Service> {
        let mut list = Vec::new();
        for name in names {
            if values::is_service_literal(&name.value) {
                match values::service(&name.value) {
                    Ok(service) => list.push(service),
                    Err(wrong) => self.wrong(name.at, wrong),
                }
            } else if let Some(found) = services.get(name.value.as_str()) {
                list.extend_from_slice(found.used());
            } else {
                self.unknown_service(name, services.keys().copied());
            }
        }
        list.sort();
        list.dedup();
        list
    }

    fn local(&mut self, names: &[Text], services: &Services<'_>) -> Vec<LocalService> {
        let mut local = Vec::new();
        for name in names {
            for service in self.service_list(std::slice::from_ref(name), services) {
                match service {
                    Service::IcmpEcho => local.push(LocalService::IcmpEcho),
                    Service::Icmpv6Echo => local.push(LocalService::Icmpv6Echo),
                    Service::Tcp(low, high) if high - low < LOCAL_RANGE => {
                        local.extend((low..=high).map(LocalService::Tcp));
                    }
                    Service::Udp(low, high) if high - low < LOCAL_RANGE => {
                        local.extend((low..=high).map(LocalService::Udp));
                    }
                    Service::Protocol(_) => {
                        let message =
                            format!("{} is nothing the gateway itself answers", quoted(&name.value));
                        let hint = "name TCP or UDP ports, or echo requests";
                        self.report.error(name.at, message).hint(hint);
                    }
                    Service::Any | Service::Tcp(..) | Service::Udp(..) => {
                        let message = format!("{} opens too much of the gateway itself", quoted(&name.value));
                        let hint =
                            format!("name the services one by one; a range may have {LOCAL_RANGE} ports");
                        self.report.error(name.at, message).hint(hint);
                    }
                }
            }
        }
        local
    }

    fn ports(&mut self, config: &Config, services: &Services<'_>) -> Vec<Port> {
        let (mut seen, mut interfaces) = (HashMap::new(), HashMap::new());
        let everywhere = self.local(&config.gateway.local, services);
        let mut ports = Vec::new();
        for port in &config.ports {
            self.claim("port", &port.name, &mut seen);
            if ports.len() == MAX_PORTS {
                self.report.error(port.name.at, format!("more than {MAX_PORTS} ports"));
            }
            match &port.interface {
                None => {
                    let message = format!("port {} has no `interface`", quoted(&port.name.value));
                    self.report.error(port.name.at, message).hint("for example `interface = \"eth1\"`");
                }
                Some(interface) => {
                    if let Err(wrong) = values::interface(&interface.value) {
                        self.wrong(interface.at, wrong);
                    } else if let Some(&first) = interfaces.get(interface.value.as_str()) {
                        let message = format!("interface {} is used twice", quoted(&interface.value));
                        self.report.error(interface.at, message).related(first, "the first port with it");
                    } else {
                        interfaces.insert(interface.value.as_str(), interface.at);
                    }
                }
            }
            let mut local = self.local(&port.local, services);
            local.extend_from_slice(&everywhere);
            local.sort();
            local.dedup();
            let interface = value(&port.interface).unwrap_or_default();
            ports.push(Port { name: port.name.value.clone(), interface, local });
        }
        ports
    }

    fn segments(&mut self, config: &Config, ports: &[Port]) -> (Vec<SegmentInfo>, RuleSet) {
        let (mut seen, mut owners) = (HashMap::new(), HashMap::new());
        let (mut infos, mut rules) = (Vec::new(), RuleSet::default());
        for segment in &config.segments {
            self.claim("segment", &segment.name, &mut seen);
            let mut resolved = Segment {
                floor: self.floor(segment.require.as_deref()),
                floor_out: self.floor(segment.require_from.as_deref()),
                ..Segment::default()
            };
            for name in &segment.ports {
                match ports.binary_search_by(|p| p.name.as_str().cmp(&name.value)) {
                    Ok(index) => resolved.ports.push(PortId(index.min(MAX_PORTS) as u8)),
                    Err(_) => self.unknown("port", name, ports.iter().map(|p| p.name.as_str())),
                }
            }
            for network in &segment.networks {
                match values::network(&network.value) {
                    Err(wrong) => self.wrong(network.at, wrong),
                    Ok(net) => {
                        self.own_network(net, network.at, &segment.name.value, &mut owners);
                        resolved.networks.push(net);
                    }
                }
            }
            let is_quarantine = segment.quarantine.as_ref().is_some_and(|quarantine| quarantine.value);
            if is_quarantine {
                if let Some(first) = infos.iter().find(|info: &&SegmentInfo| info.is_quarantine) {
                    let (at, first) = (segment.name.at, first.at);
                    self.report.error(at, "two segments are the quarantine").related(first, "the first one");
                }
                let networks = [IpAddr::from(QUARANTINE_V4), IpAddr::from(QUARANTINE_V6)].map(IpNet::from);
                resolved.networks.extend(networks);
                // Whose addresses are in quarantine may lie anywhere.
                resolved.ports.extend((0..ports.len().min(MAX_PORTS)).map(|port| PortId(port as u8)));
            }
            resolved.ports.sort();
            resolved.ports.dedup();
            resolved.networks.sort();
            infos.push(SegmentInfo {
                name: segment.name.value.clone(),
                syn_cookies: segment.protect.is_some(),
                permits: self.permits(&segment.permit),
                is_quarantine,
                description: value(&segment.description),
                at: segment.name.at,
            });
            rules.segments.push(resolved);
        }
        (infos, rules)
    }

    fn permits(&mut self, names: &[Text]) -> Permits {
        let mut permits = Permits::NONE;
        for name in names {
            if let Some(permit) = Permits::from_name(&name.value) {
                permits |= permit;
                continue;
            }
            let known = || Permits::ALL.iter().map(|(_, name)| *name);
            let hint = self.report.nearest(&name.value, known());
            let hint =
                hint.unwrap_or_else(|| format!("known are {}", known().collect::<Vec<_>>().join(", ")));
            let message = format!("{} is nothing that can be permitted", quoted(&name.value));
            self.report.error(name.at, message).hint(hint);
        }
        permits
    }

    /// Notes that a segment holds a network; the longest match decides, so no other may hold the very same.
    fn own_network<'c>(
        &mut self,
        net: IpNet,
        at: At,
        segment: &'c str,
        owners: &mut HashMap<IpNet, (&'c str, At)>,
    ) {
        match owners.get(&net) {
            Some((owner, first)) if *owner == segment => {
                self.report.error(at, format!("`{net}` is listed twice")).related(*first, "the first time");
            }
            Some((owner, first)) => {
                self.report
                    .error(at, format!("`{net}` already belongs to segment {}", quoted(owner)))
                    .hint("a network belongs to one segment; a smaller one inside it may belong to another")
                    .related(*first, "there");
            }
            None => {
                owners.insert(net, (segment, at));
            }
        }
    }

    pub(super) fn segment_list(&mut self, names: &[Text], segments: &[SegmentInfo]) -> Vec<SegmentId> {
        let mut list = Vec::new();
        for name in names {
            if name.value == "any" {
                // What is meant for everybody is not meant for the quarantine, which reaches only what is named for it.
                let ids = (0..).map(SegmentId).zip(segments);
                list.extend(ids.filter(|(_, segment)| !segment.is_quarantine).map(|(id, _)| id));
                continue;
            }
            match segments.binary_search_by(|s| s.name.as_str().cmp(&name.value)) {
                Ok(index) => list.push(SegmentId(index as u32)),
                Err(_) => self.unknown("segment", name, segments.iter().map(|s| s.name.as_str())),
            }
        }
        list.sort();
        list.dedup();
        list
    }

    /// The segments that a rule of this action names, on either side.
    fn ends(&mut self, rule: &schema::Rule, action: Action, segments: &[SegmentInfo]) -> [Vec<SegmentId>; 2] {
        let mut ends = [&rule.from, &rule.to].map(|names| self.segment_list(names, segments));
        if matches!(action, Action::Deny | Action::Reject) {
            // What nobody may, those in quarantine may not either.
            for (list, names) in ends.iter_mut().zip([&rule.from, &rule.to]) {
                let is_any = names.iter().any(|name| name.value == "any");
                let ids = (0..).map(SegmentId).zip(segments).filter(|(_, segment)| segment.is_quarantine);
                list.extend(ids.filter(|_| is_any).map(|(id, _)| id));
                list.sort();
                list.dedup();
            }
        }
        ends
    }

    /// Takes the texts out of the rules as written: copies of them would cost as much as all the rest.
    fn rules(
        &mut self,
        written: &mut [schema::Rule],
        segments: &[SegmentInfo],
        services: &Services<'_>,
        tiers: &[String],
        set: &RuleSet,
    ) -> (Vec<RuleInfo>, Vec<Rule>) {
        let mut infos: Vec<RuleInfo> = Vec::with_capacity(written.len());
        let mut rules = Vec::with_capacity(written.len());
        // Of the rules with the name that came last: sorted, equal names follow each other.
        let mut first: Option<usize> = None;
        let clean = self.report.is_clean();
        let families: Vec<u8> = set.segments.iter().map(families).collect();
        let mut different = HashSet::new();
        let mut limited = 0;
        for index in by_name(written) {
            let rule = &mut written[index as usize];
            let before = self.report.count();
            let at = rule.name.as_ref().map_or(rule.at, |n| n.at);
            if let Some(name) = &rule.name {
                if let Err(wrong) = values::name(&name.value) {
                    self.wrong(name.at, wrong);
                }
                match first {
                    Some(known) if infos[known].name == name.value => {
                        let message = format!("two rules are named {}", quoted(&name.value));
                        self.report.error(name.at, message).related(infos[known].at, "the first one");
                    }
                    _ => first = Some(infos.len()),
                }
            }
            let action = self.action(&rule.action);
            let [from, to] = self.ends(rule, action, segments);
            let resolved = Rule {
                from,
                to,
                services: self.service_list(&rule.services, services),
                action,
                tier: self.tier(rule.tier.as_ref(), tiers),
                condition: self.condition(rule, action),
                waives_floors: false,
            };
            let entries = resolved.from.len() + resolved.to.len() + resolved.services.len();
            if !self.expand(entries, at) {
                break;
            }
            if clean && self.report.count() == before && !can_match(&resolved, &families) {
                self.report
                    .error(at, format!("rule {} can never match", quoted(text(&rule.name))))
                    .hint("`from`, `to` and `services` have no address family (IPv4, IPv6) in common");
            }
            let timeouts = self.timeouts(&rule.timeouts, &resolved, &mut different);
            let limits = self.limits(rule, resolved.action, &mut limited);
            let taken = |text: &mut Option<Text>| text.take().map(|t| t.value);
            infos.push(RuleInfo {
                name: taken(&mut rule.name).unwrap_or_default(),
                services: rule.services.drain(..).map(|s| s.value).collect(),
                tier: resolved.tier,
                audit: rule.audit,
                is_synthetic: false,
                starts: rule.starts.as_ref().map(|moment| moment.value),
                expires: rule.expires.as_ref().map(|moment| moment.value),
                schedule: taken(&mut rule.schedule),
                timeouts,
                limits,
                owner: taken(&mut rule.owner),
                ticket: taken(&mut rule.ticket),
                description: taken(&mut rule.description),
                at,
            });
            rules.push(resolved);
        }
        (infos, rules)
    }

    /// The time-outs of a rule; `different` holds those of the rules before it.
    fn timeouts(
        &mut self,
        written: &[(Text, Duration)],
        rule: &Rule,
        different: &mut HashSet<Overrides>,
    ) -> Overrides {
        let mut overrides = Overrides::default();
        for (name, duration) in written {
            if rule.action != Action::Allow {
                let message = format!("`{}` of a rule that lets nothing through", name.value);
                self.report.error(name.at, message).hint("only rules that allow have connections");
            } else if !rule.services.is_empty() && !rule.services.iter().any(|s| has_timeout(*s, &name.value))
            {
                let message = format!("`{}` concerns none of this rule's services", name.value);
                self.report.error(name.at, message).hint("take it out, or add the service that it is for");
            }
            // Reading has bounded the duration, so that its milliseconds fit.
            *override_of(&mut overrides, &name.value) = Some(duration.as_millis() as u32);
        }
        if let Some((name, _)) = written.first()
            && different.insert(overrides)
            && different.len() == MAX_OVERRIDES + 1
        {
            let message = format!("more than {MAX_OVERRIDES} different sets of `timeouts`");
            self.report.error(name.at, message).hint("rules with the same time-outs count as one set");
        }
        overrides
    }

    /// The limits of a rule; `limited` counts the rules that have some.
    fn limits(&mut self, rule: &schema::Rule, action: Action, limited: &mut usize) -> Option<RuleLimits> {
        let limits = rule.limits.as_ref()?;
        if action != Action::Allow {
            let message = "`limits` of a rule that lets nothing through";
            self.report.error(limits.at, message).hint("they belong to rules that allow");
        }
        *limited += 1;
        if *limited == MAX_LIMITED_RULES + 1 {
            self.report.error(limits.at, format!("more than {MAX_LIMITED_RULES} rules have limits"));
        }
        let value = |number: &Option<crate::config::Located<u64>>| number.as_ref().map(|n| n.value as u32);
        // The name is the rule's identity, whatever its number in the next policy.
        let digest = Sha256::digest(text(&rule.name));
        let identity = digest.iter().take(8).fold(0, |bits, byte| (bits << 8) | u64::from(*byte));
        Some(RuleLimits {
            identity,
            connections: value(&limits.connections),
            connections_per_source: value(&limits.connections_per_source),
            new_per_second: value(&limits.new_per_second),
            new_per_second_per_source: value(&limits.new_per_second_per_source),
        })
    }

    /// An unknown action is an error; what stands in for it is never used.
    fn action(&mut self, action: &Option<Text>) -> Action {
        let Some(action) = action else { return Action::Allow };
        match action.value.as_str() {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            "reject" => Action::Reject,
            "pass" => Action::Pass,
            other => {
                let hint = nearest(other, ["allow", "deny", "reject", "pass"]);
                self.report
                    .error(action.at, format!("{} is not an action", quoted(other)))
                    .hint("use \"allow\", \"deny\", \"reject\" or \"pass\"")
                    .maybe_hint(hint);
                Action::Deny
            }
        }
    }
}

/// The tiers where none are given; rules without one stand in the last.
const TIERS: [&str; 3] = ["platform", "security", "app"];

/// The most entries that all lists together may have when names and "any" are written out: bounds the memory of a
/// model to some hundred MiB. 10,000 rules from any to any of 1,000 segments take 20 million.
const EXPANDED_LIMIT: usize = 32_000_000;

/// Deepest nesting of services in services: the flattening recurses.
const GROUP_DEPTH: usize = 32;

const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// The address families that a segment has, as bits.
fn families(segment: &Segment) -> u8 {
    segment.networks.iter().fold(0, |bits, net| bits | if net.addr().is_ipv4() { IPV4 } else { IPV6 })
}

/// Whether a packet exists that the rule matches: some source and destination share a family that a service has.
fn can_match(rule: &Rule, families: &[u8]) -> bool {
    let of = |ids: &[SegmentId]| ids.iter().fold(0, |bits, s| bits | families[s.0 as usize]);
    let shared = of(&rule.from) & of(&rule.to);
    rule.services.iter().any(|service| match service {
        Service::IcmpEcho => shared & IPV4 != 0,
        Service::Icmpv6Echo => shared & IPV6 != 0,
        Service::Any | Service::Tcp(..) | Service::Udp(..) | Service::Protocol(_) => shared != 0,
    })
}
