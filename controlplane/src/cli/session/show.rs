//! One session, for people.

use crate::api::operator::{Limit, RuleShown, Shown};
use crate::api::session::Session;
use crate::cli::connections;
use crate::cli::control::{Table, or_dash};
use crate::plan::words::duration_s;

/// All that is known of it.
pub fn text(shown: &Shown) -> String {
    let mut lines = who(&shown.session);
    lines.extend(limits(shown));
    if let Some(restrained) = &shown.restrained {
        let (words, verb) = match restrained.as_str() {
            "locked" => ("the address is LOCKED OUT: nothing crosses", "bulkhead locks"),
            _ => (
                "the address is in QUARANTINE: the rules below are those from there",
                "bulkhead quarantine list",
            ),
        };
        lines.push(format!("restrained   {words} (`{verb}`)"));
    }
    lines.push(String::new());
    lines.push(rules(&shown.rules));
    if shown.is_partial {
        lines.push("there are more rules than are shown".to_owned());
    }
    lines.push(String::new());
    lines.push(connections::text(&shown.connections, shown.matched));
    if let Some(last) = shown.last_packet_s {
        lines.push(format!("last packet {last}s ago"));
    }
    if !shown.events.is_empty() {
        lines.push("\nlast events of the address".to_owned());
        lines.extend(shown.events.iter().map(|event| format!("  {}", words(event))));
    }
    lines.join("\n")
}

fn who(session: &Session) -> Vec<String> {
    let list = |texts: &[String]| if texts.is_empty() { "-".to_owned() } else { texts.join(", ") };
    let mac = session.mac.as_ref().map(|mac| format!(", from {mac} only")).unwrap_or_default();
    let device = session.device.as_ref().map(|device| {
        let enrolled = if device.enrolled { "enrolled" } else { "not enrolled" };
        let tags = if device.tags.is_empty() {
            String::new()
        } else {
            format!(", tagged {}", device.tags.join(", "))
        };
        let shown = device.credential.as_ref().map(|shown| format!(", by {shown}")).unwrap_or_default();
        format!("{} ({enrolled}{tags}){shown}", or_dash(device.name.as_deref()))
    });
    let risk = session.risk.map(|risk| risk.to_string());
    let left = duration_s(u32::try_from(session.left_s).unwrap_or(u32::MAX));
    vec![
        format!("session      {} of {}", session.id, session.user.as_deref().unwrap_or("a device")),
        format!("address      {} ({}){mac}", session.address, session.segment),
        format!("proof        {}", session.proof),
        format!("since        {}", session.begun),
        format!("until        {}, in {left}", session.ends),
        format!("groups       {}", list(&session.groups)),
        format!("device       {}", or_dash(device.as_deref())),
        format!("risk         {}", or_dash(risk.as_deref())),
    ]
}

/// For how long something counts still.
fn left(limit: &Limit) -> String {
    match limit.left_s {
        0 => format!("too old for {}", duration_s(limit.max_age_s)),
        left => format!("good for {} within {}", duration_s(left), duration_s(limit.max_age_s)),
    }
}

fn limits(shown: &Shown) -> Vec<String> {
    let mut lines = Vec::new();
    let join = |limits: Vec<String>| {
        if limits.is_empty() { String::new() } else { format!("; {}", limits.join(", ")) }
    };
    lines.push(match &shown.session.mfa {
        None => "factor       none was shown".to_owned(),
        Some(factor) => {
            let kind = if factor.phishing_resistant { ", cannot be phished" } else { "" };
            let limits = join(shown.factor_limits.iter().map(left).collect());
            format!("factor       shown {} ago{kind}{limits}", duration_s(factor.age_s))
        }
    });
    for posture in &shown.session.postures {
        let limit = shown.posture_limits.iter().filter(|limit| limit.of == posture.name).map(left).collect();
        let (name, state) = (&posture.name, &posture.state);
        lines.push(format!(
            "posture      {name} {state}, reported {} ago{}",
            duration_s(posture.age_s),
            join(limit)
        ));
    }
    lines
}

fn rules(rules: &[RuleShown]) -> String {
    let mut table = Table::new(&["RULE", "TO", "SERVICES", "NOW", ">FOR", "ASKS FOR"]);
    for rule in rules {
        let left = rule.left_s.map(|left| duration_s(u32::try_from(left).unwrap_or(u32::MAX)));
        table.row([
            rule.rule.clone(),
            rule.to.clone(),
            rule.services.join(" "),
            rule.reason.clone().unwrap_or_else(|| "open".to_owned()),
            or_dash(left.as_deref()),
            rule.asks_for.join(", "),
        ]);
    }
    let open = rules.iter().filter(|rule| rule.reason.is_none()).count();
    format!("{}\n{open} of {} open", table.text(), rules.len())
}

/// An event in a line.
fn words(event: &serde_json::Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let what = match text("kind").as_str() {
        "session" => format!("session {}", text("change")),
        kind => {
            let (protocol, destination, port) =
                (text("protocol"), text("destination"), &event["destination_port"]);
            let why = event["reason"].as_str().or(event["rule"].as_str()).unwrap_or_default();
            format!("{kind} {protocol} to {destination} port {port} ({why})")
        }
    };
    format!("{} {what}", text("ts"))
}
