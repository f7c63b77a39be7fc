//! A plan told to people.

use super::{Access, Change, EndName, Expiring, Names, Plan, Setting, Told, Witness};
use crate::daemon::time::duration;

/// At most so many changes are told; JSON has all.
const TOLD: usize = 100;
/// At most so many names stand in one list.
const LISTED: usize = 6;

/// Colours of a terminal, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colours(pub bool);

impl Colours {
    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A segment's name, or both where it has two.
pub fn end(name: &EndName) -> String {
    let or_none = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
    if name.old == name.new {
        or_none(&name.old)
    } else {
        format!("({} → {})", or_none(&name.old), or_none(&name.new))
    }
}

/// A list, cut where it gets long.
fn list(items: impl ExactSizeIterator<Item = String>) -> String {
    let count = items.len();
    // Leaving out one would save nothing.
    let shown = if count <= LISTED + 1 { count } else { LISTED };
    let mut text = items.take(shown).collect::<Vec<_>>().join(", ");
    if shown < count {
        text += &format!(" and {} more", count - shown);
    }
    text
}

impl Change {
    fn mark(self) -> (&'static str, &'static str) {
        match self {
            Change::Gained => ("+ gained", "32"),
            Change::Lost => ("- lost", "31"),
            Change::Rejected => ("~ refused, sender now told", "33"),
            Change::Silenced => ("~ refused, now silently", "33"),
            Change::Effect => ("~ allowed, limits or time-outs differ", "33"),
        }
    }
}

/// The whole plan, without a last line break.
pub fn tell(plan: &Plan, colours: Colours) -> String {
    let mut lines: Vec<String> = Vec::new();
    for access in plan.access.iter().take(TOLD) {
        tell_access(access, colours, &mut lines);
    }
    if plan.access.len() > TOLD {
        lines.push(format!("… and {} more changes (-o json has them all)", plan.access.len() - TOLD));
    }
    if !plan.settings.is_empty() {
        lines.push("settings:".to_owned());
        lines.extend(plan.settings.iter().take(TOLD).map(|setting| setting_line(setting, colours)));
        if plan.settings.len() > TOLD {
            lines.push(format!("  … and {} more (-o json has them all)", plan.settings.len() - TOLD));
        }
    }
    tell_rules(&plan.rules, &mut lines);
    if !plan.renamed.is_empty() {
        lines.push(format!("segments renamed: {}", list(plan.renamed.iter().cloned())));
    }
    tell_expiring(&plan.expiring, colours, &mut lines);
    tell_connections(plan, colours, &mut lines);
    if !plan.failed_tests.is_empty() {
        lines.push(colours.paint("31", "tests of the new policy fail, so that it will be refused:"));
        lines.extend(plan.failed_tests.iter().map(|failure| format!("  {failure}")));
    }
    lines.push(summary(plan));
    lines.join("\n")
}

fn tell_access(access: &Access, colours: Colours, lines: &mut Vec<String>) {
    let (mark, colour) = access.change.mark();
    let ends = |names: &[EndName]| list(names.iter().map(end));
    lines.push(format!(
        "{}: {} → {}: {}",
        colours.paint(colour, mark),
        ends(&access.from),
        ends(&access.to),
        list(access.services.iter().cloned())
    ));
    let treatment = |texts: &[String]| list(texts.iter().cloned());
    lines.push(format!("    before  {}", treatment(&access.before)));
    lines.push(format!("    after   {}", treatment(&access.after)));
    match &access.witness {
        Some(witness) => lines.push(format!("    packet  {}", witness_line(witness))),
        None => lines.push(
            "    the conditions of these rules are too many to find out for whom; there may be no difference"
                .to_owned(),
        ),
    }
}

fn witness_line(witness: &Witness) -> String {
    let Witness { source, port_in, destination, service, who, before, after } = witness;
    let who = if who.is_empty() { String::new() } else { format!(" ({})", who.join(", ")) };
    format!("{source} in by {port_in}{who} → {destination} {service}: {} → {}", told(before), told(after))
}

fn told(told: &Told) -> String {
    let Told { verdict, reason, rule, at } = told;
    match (reason, rule, at) {
        (None, Some(rule), Some(at)) => format!("{verdict} by `{rule}` ({at})"),
        (Some(reason), Some(rule), Some(at)) => format!("{verdict}, {reason}: `{rule}` ({at})"),
        (Some(reason), ..) => format!("{verdict}, {reason}"),
        _ => verdict.clone(),
    }
}

fn setting_line(setting: &Setting, colours: Colours) -> String {
    let Setting { of, key, old, new, restart } = setting;
    let restart = if *restart { " (only a restart changes this)" } else { "" };
    let line = match (old, new) {
        (None, Some(new)) => colours.paint("32", &format!("+ {of}: {key} {new}")),
        (Some(old), None) => colours.paint("31", &format!("- {of}: {key} {old}")),
        (old, new) => {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            colours.paint("33", &format!("~ {of}: {key} {} → {}", or_none(old), or_none(new)))
        }
    };
    format!("  {line}{restart}")
}

fn tell_rules(rules: &Names, lines: &mut Vec<String>) {
    let kinds = [("added", &rules.added), ("removed", &rules.removed), ("changed", &rules.changed)];
    let texts = kinds.into_iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| {
        let quoted = names.iter().map(|name| format!("`{name}`"));
        format!("{} {kind} ({})", names.len(), list(quoted))
    });
    let texts: Vec<String> = texts.collect();
    if !texts.is_empty() {
        lines.push(format!("rules: {}", texts.join(", ")));
    }
}

fn tell_expiring(expiring: &[Expiring], colours: Colours, lines: &mut Vec<String>) {
    if expiring.is_empty() {
        return;
    }
    lines.push("rules that have expired or expire soon:".to_owned());
    for row in expiring.iter().take(TOLD) {
        let Expiring { rule, expires, at, .. } = row;
        let when = match row.left_s {
            None => colours.paint("31", &format!("expired at {expires}")),
            Some(left_s) => colours.paint("33", &format!("expires at {expires}, in {}", duration(left_s))),
        };
        let of = match (row.old, row.new) {
            (true, false) => ", and not so in the new policy",
            (false, true) => ", and not so in the old one",
            _ => "",
        };
        lines.push(format!("  `{rule}` {when}{of} ({at})"));
    }
    if expiring.len() > TOLD {
        lines.push(format!("  … and {} more (-o json has them all)", expiring.len() - TOLD));
    }
}

fn tell_connections(plan: &Plan, colours: Colours, lines: &mut Vec<String>) {
    let Some(connections) = &plan.connections else { return };
    let cut: u64 = connections.cut.iter().map(|cut| cut.connections).sum();
    let text = format!("live connections: {cut} would be cut, {} stay", connections.stay);
    lines.push(if cut > 0 { colours.paint("31", &text) } else { text });
    for row in connections.cut.iter().take(TOLD) {
        let rule = row.rule.as_ref().map_or_else(|| "no rule".to_owned(), |rule| format!("`{rule}`"));
        let by = row.by.as_ref().map(|by| format!(" by `{by}`")).unwrap_or_default();
        lines
            .push(format!("  {} of {rule}: {}{by}, for example {}", row.connections, row.reason, row.sample));
    }
}

fn summary(plan: &Plan) -> String {
    let count = |change: Change| plan.access.iter().filter(|access| access.change == change).count();
    if !plan.is_different() {
        return format!("no difference: {} and {} do the same", plan.old.source, plan.new.source);
    }
    let other = count(Change::Rejected) + count(Change::Silenced) + count(Change::Effect);
    let restart = if plan.needs_restart() { "; needs a restart" } else { "" };
    format!(
        "plan: {} gained, {} lost, {other} otherwise changed, {} settings{restart}",
        count(Change::Gained),
        count(Change::Lost),
        plan.settings.len()
    )
}
