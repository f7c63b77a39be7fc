//! What whoever is behind an address may reach now, and why not the rest: what the portal shows them.
//!
//! The rules are asked one by one, by the reference evaluator and with what is known of the session, so what is shown
//! is what happens. Of rules that are for others nothing is told: who has not signed in sees what is open to everybody,
//! and who has sees besides what their own session lacks.

use std::net::IpAddr;

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::conditions::{Bits, Circumstances, Identity, Who};
use bulkhead_dataplane::policy::{Action, Query, Rule, Service, reference};
use bulkhead_dataplane::verdict::{Now, Reason, RuleId, SegmentId};
use jiff::Timestamp;

use crate::model::{Endpoint, Model, Probe, probe_text};
use crate::portal::wire::{Reach, Refusal, Remedy};
use crate::sessions::{self, Ages, Session};

/// The most rows: what a page can show, and what fits in a message.
const ROWS_MAX: usize = 120;
/// The most bytes of the texts of all rows, so that the answer fits in a message.
const TEXT_BYTES_MAX: usize = 24 * 1024;
/// How many times a rule may be asked, all in all: some ten milliseconds.
const WORK_MAX: usize = 400_000;
/// The most services of a row that are told one by one.
const SERVICES_MAX: usize = 16;

/// What may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Row by row: by the destination's name, then by the rule's.
    pub rows: Vec<Reach>,
    /// There is more than fits.
    pub is_partial: bool,
}

/// What the rules say of an address, for this session, or for somebody who has not signed in.
pub fn reach(model: &Model, address: IpAddr, session: Option<&Session>, now: Now) -> Reached {
    reach_as(model, address, session, now, false)
}

/// As [`reach`], for operators: also of rules that are for others.
pub fn reach_of_all(model: &Model, address: IpAddr, session: Option<&Session>, now: Now) -> Reached {
    reach_as(model, address, session, now, true)
}

fn reach_as(model: &Model, address: IpAddr, session: Option<&Session>, now: Now, of_all: bool) -> Reached {
    let Some(from) = reference::segment_of(&model.rules, address) else { return Reached::default() };
    let (gates, _) = model.gates_at(Timestamp::now());
    let mut asking =
        Asking { model, from, gates, stages: Vec::new(), work: 0, told: Reached::default(), of_all };
    if let Some(session) = session {
        let described = sessions::describe(&model.identities, &Ages::of(model), session, now);
        asking.stages = described
            .stages
            .into_iter()
            .map(|stage| (stage.until.0.saturating_sub(now.0) / 1_000_000_000, stage.identity))
            .collect();
    }
    let ids = || (0..).map(RuleId).zip(&model.rules.rules);
    let mine: Vec<(RuleId, &Rule)> = ids().filter(|(_, rule)| rule.from.contains(&from)).collect();
    for to in (0..model.segments.len() as u32).map(SegmentId) {
        asking.work += mine.len();
        let pair: Vec<(RuleId, &Rule)> =
            mine.iter().filter(|(_, rule)| rule.to.contains(&to)).copied().collect();
        // Only one of the address's family, and only if the segment has such addresses.
        let probe = Probe { protocol: protocol::TCP, port: 1 };
        let queries = model.questions(Endpoint::Address(address), Endpoint::Segment(to), probe);
        let Ok([query]) = queries.as_deref() else { continue };
        asking.destination(&pair, to, query);
        if asking.told.is_partial {
            break;
        }
    }
    asking.told
}

/// What becomes of a connection: refused or not, and after how many seconds the session lets it be no more.
type Outcome = (Option<Reason>, Option<u64>);

struct Asking<'m> {
    model: &'m Model,
    from: SegmentId,
    gates: Bits,
    /// What is known from now on, each up to so many seconds from now. None for somebody who has not signed in.
    stages: Vec<(u64, Identity)>,
    work: usize,
    told: Reached,
    /// Also what is for others.
    of_all: bool,
}

impl Asking<'_> {
    fn destination(&mut self, pair: &[(RuleId, &Rule)], to: SegmentId, query: &Query) {
        for (id, rule) in pair {
            let Some(info) = id.index().and_then(|index| self.model.rule_infos.get(index)) else { continue };
            let over = info.expires.is_some_and(|at| at <= Timestamp::now());
            let ahead = info.starts.is_some_and(|at| at > Timestamp::now());
            if rule.action != Action::Allow || info.is_synthetic || over || ahead {
                continue;
            }
            // Pieces with one outcome are one row, and the first one's place is the row's.
            let mut outcomes: Vec<(Outcome, Vec<String>)> = Vec::new();
            for service in pieces(rule, pair, query.source.is_ipv4()) {
                if self.work > WORK_MAX {
                    self.told.is_partial = true;
                    return;
                }
                let (protocol, port, text) = service;
                let outcome = self.outcome(pair, &Query { protocol, destination_port: port, ..*query });
                match outcomes.iter_mut().find(|(known, _)| *known == outcome) {
                    Some((_, texts)) => texts.push(text),
                    None => outcomes.push((outcome, vec![text])),
                }
            }
            let is_one = outcomes.len() == 1;
            for ((refusal, left_s), texts) in outcomes {
                if !self.is_theirs(refusal) {
                    continue;
                }
                let mut services = if is_one { info.services.clone() } else { texts };
                if services.len() > SERVICES_MAX {
                    services.truncate(SERVICES_MAX);
                    services.push("…".to_owned());
                }
                let refusal = refusal.map(|reason| self.refusal(rule, to, reason));
                self.tell(Reach {
                    to: self.model.segments[to.0 as usize].name.clone(),
                    description: self.model.segments[to.0 as usize].description.clone(),
                    services,
                    rule: info.name.clone(),
                    refusal,
                    left_s,
                });
                if self.told.is_partial {
                    return;
                }
            }
        }
    }

    /// Whether it is any of their business: a refusal only if it is their own session that lacks something.
    fn is_theirs(&self, refusal: Option<Reason>) -> bool {
        match refusal {
            None => true,
            Some(_) if self.of_all => true,
            Some(Reason::NotInGroup) => false,
            Some(_) => !self.stages.is_empty(),
        }
    }

    fn tell(&mut self, row: Reach) {
        let bytes = |row: &Reach| {
            let services: usize = row.services.iter().map(|service| service.len() + 3).sum();
            let refusal = row.refusal.as_ref().map_or(0, |refusal| refusal.help.len() + refusal.reason.len());
            row.to.len()
                + row.description.as_ref().map_or(0, String::len)
                + row.rule.len()
                + services
                + refusal
        };
        let all: usize = self.told.rows.iter().map(bytes).sum::<usize>() + bytes(&row);
        if self.told.rows.len() == ROWS_MAX || all > TEXT_BYTES_MAX {
            self.told.is_partial = true;
        } else {
            self.told.rows.push(row);
        }
    }

    fn outcome(&mut self, pair: &[(RuleId, &Rule)], query: &Query) -> Outcome {
        let (model, gates) = (self.model, &self.gates);
        let mut asked = 0;
        let mut judge = |who: Who<'_>| {
            asked += pair.len();
            let among = pair.iter().map(|(id, _)| *id);
            reference::judge_among(&model.rules, among, query, &Circumstances { who, gates }).refusal
        };
        let outcome = match self.stages.split_first() {
            None => (judge(Who::Nobody), None),
            Some(((until, first), later)) => match judge(Who::Known(first)) {
                None => {
                    let mut left_s = *until;
                    let lasts = |refusal: Option<Reason>| refusal.is_none();
                    let stays = later.iter().all(|(until, identity)| {
                        let lasts = lasts(judge(Who::Known(identity)));
                        left_s = if lasts { *until } else { left_s };
                        lasts
                    });
                    let for_ever = stays && lasts(judge(Who::Expired));
                    (None, (!for_ever).then_some(left_s))
                }
                refused => (refused, None),
            },
        };
        self.work += asked;
        outcome
    }

    fn refusal(&self, rule: &Rule, to: SegmentId, reason: Reason) -> Refusal {
        let mut conditions = reference::conditions(&self.model.rules, rule, Some(self.from), Some(to));
        let remedy = match reason {
            Reason::NotAuthenticated | Reason::SessionExpired => Some(Remedy::SignIn),
            Reason::MfaTooWeak => Some(Remedy::Passkey),
            Reason::MfaMissing | Reason::MfaTooOld if conditions.any(|c| c.phishing_resistant) => {
                Some(Remedy::Passkey)
            }
            Reason::MfaMissing | Reason::MfaTooOld => Some(Remedy::StepUp),
            _ => None,
        };
        Refusal { reason: reason.name().to_owned(), help: reason.help().to_owned(), remedy }
    }
}

/// A rule's services, cut where services of other rules of the pair begin or end, so that no rule tells two ports of a
/// piece apart: protocol, first port, and the piece in words.
fn pieces(rule: &Rule, pair: &[(RuleId, &Rule)], is_v4: bool) -> Vec<(u8, u16, String)> {
    let mut pieces = Vec::new();
    let mut range = |number: u8, (low, high): (u16, u16)| {
        let mut begins: Vec<u16> = vec![low];
        for service in pair.iter().flat_map(|(_, rule)| &rule.services) {
            let (Service::Tcp(first, last) | Service::Udp(first, last)) = service else { continue };
            if matches!(service, Service::Tcp(..)) == (number == protocol::TCP) {
                begins.extend([Some(*first), last.checked_add(1)].into_iter().flatten());
            }
        }
        begins.retain(|begin| (low..=high).contains(begin));
        begins.sort_unstable();
        begins.dedup();
        let ends = begins.iter().skip(1).map(|begin| begin - 1).chain([high]);
        pieces.extend(begins.iter().zip(ends).map(|(begin, end)| {
            let text = probe_text(number, *begin);
            (number, *begin, if *begin == end { text } else { format!("{text}-{end}") })
        }));
    };
    let mut others: Vec<u8> = Vec::new();
    let echo = if is_v4 { protocol::ICMP } else { protocol::ICMPV6 };
    for service in &rule.services {
        match *service {
            Service::Tcp(low, high) => range(protocol::TCP, (low, high)),
            Service::Udp(low, high) => range(protocol::UDP, (low, high)),
            Service::Any => {
                range(protocol::TCP, (0, u16::MAX));
                range(protocol::UDP, (0, u16::MAX));
                others.push(echo);
            }
            Service::IcmpEcho if is_v4 => others.push(echo),
            Service::Icmpv6Echo if !is_v4 => others.push(echo),
            Service::IcmpEcho | Service::Icmpv6Echo => {}
            Service::Protocol(number) => others.push(number),
        }
    }
    pieces.extend(others.into_iter().map(|number| (number, 0, probe_text(number, 0))));
    pieces
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model;
    use crate::sessions::{Claims, Factor, Moment, Proof, later};

    const TEXT: &str = r#"version = 1
[ports.a]
interface = "eth1"
[ports.b]
interface = "eth2"
[segments.office]
port = "a"
networks = ["10.1.0.0/24"]
[segments.db]
port = "b"
networks = ["10.2.0.0/24"]
description = "Databases"
require = { mfa_max_age = "1h" }
[segments.web]
port = "b"
networks = ["10.3.0.0/24", "fd00:3::/64"]
[groups.dba]
members = ["alice"]
[[rule]]
name = "dba"
from = "office"
to = "db"
services = ["tcp/5432", "tcp/22"]
users = { groups = ["dba"] }
[[rule]]
name = "keys"
from = "office"
to = "db"
services = ["tcp/8443"]
users = { groups = ["dba"] }
require = { mfa = "phishing-resistant" }
[[rule]]
name = "web"
from = "office"
to = "web"
services = ["tcp/80-90", "udp/53", "icmpv6/echo-request"]
[[rule]]
name = "no-85"
from = "office"
to = "web"
services = ["tcp/85"]
action = "deny"
[[rule]]
name = "over"
from = "office"
to = "web"
services = ["tcp/1"]
expires = 2020-01-01T00:00:00Z
"#;
    const NOW: Now = Now(1_000_000_000_000);

    fn session(user: &str, factor_age_s: Option<u64>) -> Session {
        let factor = factor_age_s.map(|age_s| Factor {
            shown: Moment::before(NOW, Duration::from_secs(age_s)),
            phishing_resistant: false,
        });
        Session {
            id: "s".to_owned(),
            address: "10.1.0.7".parse().unwrap(),
            segment: "office".to_owned(),
            mac: None,
            claims: Claims { user: Some(user.to_owned()), factor, ..Claims::default() },
            proof: Proof::Operator,
            begun: NOW,
            ends: later(NOW, Duration::from_secs(7200)),
        }
    }

    fn told(session: Option<&Session>) -> Vec<String> {
        let model = model::parse("t.toml", TEXT).unwrap();
        let reached = reach(&model, "10.1.0.7".parse().unwrap(), session, NOW);
        assert!(!reached.is_partial);
        let row = |row: &Reach| {
            let services = row.services.join(" ");
            let refusal = row
                .refusal
                .as_ref()
                .map_or("open".to_owned(), |refusal| format!("{} {:?}", refusal.reason, refusal.remedy));
            format!("{} {services} {} {refusal} {:?}", row.to, row.rule, row.left_s)
        };
        reached.rows.iter().map(row).collect()
    }

    const OPEN: &str = "web tcp/80-84 tcp/86-90 udp/53 web open None";

    #[test]
    fn who_has_not_signed_in_sees_what_is_open_to_everybody_and_no_more() {
        assert_eq!(told(None), [OPEN]);
    }

    #[test]
    fn a_rule_for_others_is_not_told() {
        let denied = "web tcp/85 web rule_denied None None";
        assert_eq!(told(Some(&session("bob", Some(0)))), [OPEN, denied]);
    }

    #[test]
    fn what_the_own_session_lacks_is_told_with_what_helps() {
        let alice = told(Some(&session("alice", None)));
        assert_eq!(alice[0], "db tcp/5432 tcp/22 dba mfa_missing Some(StepUp) None");
        assert_eq!(alice[1], "db tcp/8443 keys mfa_missing Some(Passkey) None");
        let old = told(Some(&session("alice", Some(3601))));
        assert_eq!(old[0], "db tcp/5432 tcp/22 dba mfa_too_old Some(StepUp) None");
        assert_eq!(old[1], "db tcp/8443 keys mfa_too_weak Some(Passkey) None");
    }

    #[test]
    fn an_open_way_says_when_the_session_shuts_it() {
        let alice = told(Some(&session("alice", Some(600))));
        assert_eq!(alice[0], "db tcp/5432 tcp/22 dba open Some(3000)", "the second factor grows too old");
        assert_eq!(alice[2], OPEN, "this needs no session");
        let mut relaxed = session("alice", Some(0));
        relaxed.ends = later(NOW, Duration::from_secs(60));
        assert_eq!(told(Some(&relaxed))[0], "db tcp/5432 tcp/22 dba open Some(60)", "the session ends");
    }

    #[test]
    fn a_row_says_what_the_evaluator_decides_for_every_port() {
        let model = model::parse("t.toml", TEXT).unwrap();
        let alice = session("alice", Some(600));
        let identity = sessions::identity(&model.identities, &alice, NOW);
        let (gates, _) = model.gates_at(Timestamp::now());
        let rows = reach(&model, alice.address, Some(&alice), NOW).rows;
        for (segment, destination) in [("db", "10.2.0.9"), ("web", "10.3.0.9")] {
            for port in 1..=9000 {
                let query = Query {
                    ingress: bulkhead_dataplane::verdict::PortId(0),
                    source: alice.address,
                    destination: destination.parse().unwrap(),
                    protocol: protocol::TCP,
                    destination_port: port,
                };
                let circumstances = Circumstances { who: Who::Known(&identity), gates: &gates };
                let allows = reference::judge(&model.rules, &query, &circumstances).allows();
                let names = |text: &String| {
                    let ports = text.strip_prefix("tcp/").unwrap_or("0");
                    let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
                    (low.parse::<u16>().unwrap()..=high.parse().unwrap()).contains(&port)
                };
                let is_open = |row: &Reach| {
                    row.to == segment && row.refusal.is_none() && row.services.iter().any(names)
                };
                assert_eq!(rows.iter().any(is_open), allows, "{segment} {port}");
            }
        }
    }

    #[test]
    fn more_than_fits_is_cut_and_said_to_be() {
        let mut text = TEXT.to_owned();
        for number in 0..200 {
            text += &format!(
                "[[rule]]\nname = \"x{number}\"\nfrom = \"office\"\nto = \"web\"\nservices = [\"udp/{}\"]\n",
                2000 + number
            );
        }
        let model = model::parse("t.toml", &text).unwrap();
        let reached = reach(&model, "10.1.0.7".parse().unwrap(), None, NOW);
        assert!(reached.is_partial && reached.rows.len() == ROWS_MAX, "{}", reached.rows.len());
        let bytes = serde_json::to_vec(&reached.rows).unwrap().len();
        assert!(bytes < crate::portal::wire::MESSAGE_BYTES_MAX / 2, "{bytes}");
        let stranger = reach(&model, "192.0.2.1".parse().unwrap(), None, NOW);
        assert_eq!(stranger, Reached::default());
    }
}
