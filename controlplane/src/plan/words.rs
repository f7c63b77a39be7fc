//! What the algebra finds, in the words of the configuration.

use bulkhead_dataplane::connection::{Overrides, RuleLimits};
use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::conditions::{Posture, UserId, Users};
use bulkhead_dataplane::policy::{Action, Decision};
use bulkhead_dataplane::verdict::Reason;

use super::{Symbols, Told};
use crate::algebra::forms::line;
use crate::algebra::{Clause, Demand, DemandId, Demands, Occasion};
use crate::config::values::protocol_text;
use crate::model::{Expected, Model};

/// Places on the line of protocols as services.
pub fn services(spans: &[(u32, u32)]) -> Vec<String> {
    let covers = |low: u32, high: u32| spans.iter().any(|span| span.0 <= low && high <= span.1);
    let echoes = [line::ICMP, line::ICMPV6].map(|place| covers(place, place));
    // An echo of the other family would not be there at all.
    let any = covers(0, line::UDP - 1) && covers(line::UDP, line::ICMP - 1) && echoes != [false; 2];
    let mut texts = Vec::new();
    if any {
        texts.push("any".to_owned());
    }
    for (low, high) in spans {
        if !any {
            texts.extend(range("tcp", (*low, *high), 0));
            texts.extend(range("udp", (*low, *high), line::UDP));
        }
        let has = |place: u32| !any && (*low..=*high).contains(&place);
        texts.extend(has(line::ICMP).then(|| "icmp/echo-request".to_owned()));
        texts.extend(has(line::ICMPV6).then(|| "icmpv6/echo-request".to_owned()));
    }
    texts.extend(numbers(spans));
    texts
}

fn range(protocol: &str, (low, high): (u32, u32), base: u32) -> Option<String> {
    let (low, high) = (low.max(base), high.min(base + u32::from(u16::MAX)));
    if low > high {
        return None;
    }
    let (low, high) = (low - base, high - base);
    // No packet has port 0.
    Some(match (low, high) {
        (0 | 1, 65535) => format!("{protocol}/1-65535"),
        (0, high) if high > 0 => format!("{protocol}/1-{high}"),
        (low, high) if low == high => format!("{protocol}/{low}"),
        (low, high) => format!("{protocol}/{low}-{high}"),
    })
}

/// Protocols that have to be named to be allowed.
fn numbers(spans: &[(u32, u32)]) -> Vec<String> {
    let is_covered = |number: &u8| {
        let place = line::NUMBERS + u32::from(*number);
        spans.iter().any(|(low, high)| (low..=high).contains(&&place))
    };
    let all = (0..=u8::MAX).filter(|number| protocol::is_opaque(*number));
    let (covered, missing): (Vec<u8>, Vec<u8>) = all.partition(is_covered);
    let texts = |list: &[u8]| list.iter().map(|number| protocol_text(*number)).collect::<Vec<_>>();
    if missing.is_empty() {
        vec!["every other protocol".to_owned()]
    } else if covered.len() > missing.len() {
        vec![format!("every other protocol but {}", texts(&missing).join(", "))]
    } else {
        texts(&covered)
    }
}

/// A treatment, clause by clause.
pub fn treatment(clauses: &[Clause], demands: &Demands, symbols: &Symbols, model: &Model) -> Vec<String> {
    let mut texts: Vec<String> = clauses
        .iter()
        .map(|clause| {
            let verb = match clause.action {
                Action::Allow => "allowed by",
                Action::Deny => "denied by",
                Action::Reject => "rejected by",
                Action::Pass => "left to the next tier by",
            };
            let mut text = format!("{verb} `{}`", model.rule_name(clause.rule).unwrap_or("?"));
            let wants = demand(demands.demand(clause.demand), symbols);
            if !wants.is_empty() {
                text += &format!(
                    " {} {}",
                    if clause.action == Action::Allow { "for" } else { "unless it is known not to be" },
                    wants.join(", ")
                );
            }
            text
        })
        .collect();
    let decided = clauses.iter().any(|c| c.demand == DemandId::NONE && c.action != Action::Pass);
    if !decided {
        texts.push(if texts.is_empty() { "no rule" } else { "else no rule" }.to_owned());
    }
    texts
}

/// What is asked for.
pub fn demand(demand: &Demand, symbols: &Symbols) -> Vec<String> {
    let mut texts: Vec<String> = demand.users.iter().map(|set| users(set, symbols)).collect();
    if demand.enrolled {
        texts.push("an enrolled device".to_owned());
    } else if demand.device && demand.tags.is_empty() {
        texts.push("a known device".to_owned());
    }
    for tags in &demand.tags {
        let tags: Vec<String> = tags.iter().map(|tag| symbols.tag(tag.0)).collect();
        texts.push(format!("a device tagged {}", tags.join(" or ")));
    }
    if demand.phishing_resistant {
        texts.push("a second factor that cannot be phished".to_owned());
    }
    texts.extend(demand.mfa_max_age_s.map(|age| format!("a second factor at most {} old", duration_s(age))));
    texts.extend(demand.postures.iter().map(|posture| format!("posture `{}`", symbols.posture(posture.0))));
    texts.extend(demand.risk_below.map(|limit| format!("a risk below {limit}")));
    texts.extend(demand.gates.iter().map(|gate| symbols.gate(gate.0)));
    texts
}

fn users(set: &Users, symbols: &Symbols) -> String {
    if *set == Users::default() {
        return "any user".to_owned();
    }
    let users = set.users.iter().map(|user| format!("user {}", symbols.user(user.0)));
    let groups = set.groups.iter().map(|group| format!("group {}", symbols.group(group.0)));
    users.chain(groups).collect::<Vec<_>>().join(" or ")
}

/// Who and when; nothing when it is nobody and no gate is open.
pub fn occasion(occasion: &Occasion, symbols: &Symbols) -> Vec<String> {
    let mut texts = Vec::new();
    if let Some(identity) = &occasion.identity {
        match identity.user {
            None => {}
            Some(UserId::OTHER) => texts.push("a user that no rule names".to_owned()),
            Some(user) => texts.push(format!("user {}", symbols.user(user.0))),
        }
        texts.extend(identity.groups.iter().map(|group| format!("in group {}", symbols.group(group))));
        if let Some(device) = &identity.device {
            let enrolled =
                if device.enrolled { "an enrolled device" } else { "a device that is not enrolled" };
            texts.push(format!("on {enrolled}"));
            texts.extend(device.tags.iter().map(|tag| format!("tagged {}", symbols.tag(tag))));
        }
        if let Some(age) = identity.mfa_age_s {
            let kind = if identity.phishing_resistant { " that cannot be phished" } else { "" };
            texts.push(format!("second factor{kind} shown {} ago", duration_s(age)));
        }
        for (posture, index) in identity.postures.iter().zip(0..) {
            if *posture == Posture::Met {
                texts.push(format!("posture `{}` met", symbols.posture(index)));
            }
        }
        texts.extend(identity.risk.map(|risk| format!("risk {risk}")));
    }
    texts.extend(occasion.gates.iter().map(|gate| symbols.gate(gate)));
    texts
}

/// Limits and time-outs, if there are any.
pub fn effect(timeouts: &Overrides, limits: Option<&RuleLimits>) -> String {
    let timeouts = [
        ("tcp_handshake", timeouts.tcp_handshake_ms),
        ("tcp_established", timeouts.tcp_established_ms),
        ("tcp_closing", timeouts.tcp_closing_ms),
        ("tcp_time_wait", timeouts.tcp_time_wait_ms),
        ("tcp_closed", timeouts.tcp_closed_ms),
        ("udp_unreplied", timeouts.udp_unreplied_ms),
        ("udp_replied", timeouts.udp_replied_ms),
        ("icmp", timeouts.icmp_ms),
    ];
    let timeouts =
        timeouts.into_iter().filter_map(|(name, ms)| Some(format!("{name} {}", duration_ms(ms?.into()))));
    let limits = limits.map(|limits| {
        [
            ("connections", limits.connections),
            ("connections_per_source", limits.connections_per_source),
            ("new_per_second", limits.new_per_second),
            ("new_per_second_per_source", limits.new_per_second_per_source),
        ]
    });
    let limits = limits.into_iter().flatten().filter_map(|(name, limit)| Some(format!("{name} {}", limit?)));
    let texts: Vec<String> = timeouts.chain(limits).collect();
    if texts.is_empty() {
        " without limits and time-outs of its own".to_owned()
    } else {
        format!(" with {}", texts.join(", "))
    }
}

/// A decision in names.
pub fn told(decision: &Decision, model: &Model) -> Told {
    Told {
        verdict: Expected::of(decision).name().to_owned(),
        reason: decision.refusal.map(Reason::name).map(str::to_owned),
        rule: model.rule_name(decision.rule).map(str::to_owned),
        at: model.rule_place(decision.rule),
    }
}

/// Seconds in the largest units that fit.
pub fn duration_s(seconds: u32) -> String {
    duration_ms(u64::from(seconds) * 1000)
}

/// Milliseconds in the largest units that fit: `2h4m`.
pub fn duration_ms(millis: u64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let (mut text, mut left) = (String::new(), millis);
    for (unit, size) in units {
        if left >= size {
            text += &format!("{}{unit}", left / size);
            left %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}
