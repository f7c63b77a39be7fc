//! What the gateway itself answers: the rules for its own services as `local` of its ports.
//!
//! A port answers all that lies behind it or nobody, so a service is taken over where the ruleset accepts it from every
//! address behind the interface.

use bulkhead_dataplane::headers::protocol;

use super::classes::{TooMany, classes};
use super::program::{Decided, Program, TooMuch, Verdict, Walk};
use super::report::{Effect, Findings};
use super::sets::{Families, Ranges, Services};
use crate::config::diagnostics::quoted;

/// The most ports that one range in `local` may open.
const RANGE: u128 = 64;

/// By interface, what it answers.
pub fn local(
    mut input: Program,
    forward: &Program,
    findings: &mut Findings,
) -> Result<Result<Vec<Services>, TooMuch>, TooMany> {
    input.interfaces = forward.interfaces.clone();
    for rule in &mut input.rules {
        // What comes to the gateway leaves by no interface, and its own addresses are not known here.
        rule.first &= rule.destination.interfaces.is_empty();
        let asks = !std::mem::take(&mut rule.destination).addresses.is_empty();
        if asks && rule.first && rule.certain {
            rule.certain = false;
            if rule.verdict == Verdict::Accept {
                let message = "left out: which of the gateway's own addresses is asked is not looked at";
                findings.add(Effect::Narrower, Some(rule.at), message);
            }
        }
    }
    let classes = classes(&input)?;
    Ok(of_interfaces(&input, &classes, findings))
}

fn of_interfaces(
    input: &Program,
    classes: &[super::classes::Class],
    findings: &mut Findings,
) -> Result<Vec<Services>, TooMuch> {
    let mut walk = Walk::new(input);
    let (mut all, mut told) = (Vec::new(), false);
    for (number, interface) in input.interfaces.iter().enumerate() {
        let mut common: Option<Services> = None;
        let mut by_rule: Vec<(usize, Services)> = Vec::new();
        for class in classes.iter().filter(|class| class.interface == number) {
            let outcome = walk.outcome(&class.as_source, class.families)?;
            let is_open = |part: &Decided| {
                part.rule.is_none() && part.verdict == Verdict::Accept && !part.services.is_empty()
            };
            if outcome.decided.iter().any(is_open) && !std::mem::replace(&mut told, true) {
                let message = "what no rule refuses the gateway's own services may answer: only what a rule accepts by \
                               name becomes `local`";
                findings.add(Effect::Narrower, input.rules.first().map(|rule| rule.at), message);
            }
            let mut here = Services::default();
            for part in &outcome.decided {
                let Some(rule) = part.rule.filter(|_| part.verdict == Verdict::Accept) else { continue };
                by_rule.push((rule, part.services.clone()));
                if outcome.limited.intersection(&part.services).is_empty() {
                    here = here.union(&part.services);
                }
            }
            here = here.union(&unasked(class.families));
            common = Some(common.map_or(here.clone(), |common| common.intersection(&here)));
        }
        let here = classes.iter().filter(|class| class.interface == number);
        let families = here.fold(Families(0), |all, class| all.or(class.families));
        let answered = answerable(&common.unwrap_or_default()).minus(&unasked(families));
        for (rule, services) in by_rule {
            let lost = services.minus(&answered).minus(&unasked(families));
            if !lost.is_empty() {
                let texts = lost.texts(false, &Services::everything());
                let message = format!(
                    "the gateway will not answer {} at {}: `local` takes services by name that all behind a port may use",
                    shortened(&texts),
                    quoted(&interface.name)
                );
                findings.add(Effect::Narrower, Some(input.rules[rule].at), message);
            }
        }
        all.push(answered);
    }
    Ok(all)
}

/// Echo requests of a family that is not there: they never come.
fn unasked(families: Families) -> Services {
    let mut numbers = Vec::new();
    numbers.extend((!families.has_v4()).then_some(protocol::ICMP));
    numbers.extend((!families.has_v6()).then_some(protocol::ICMPV6));
    Services::protocols(&numbers)
}

/// What `local` can hold.
fn answerable(services: &Services) -> Services {
    let small =
        |ranges: &Ranges| Ranges::from_list(ranges.iter().filter(|(low, high)| high - low < RANGE).collect());
    Services {
        tcp: small(&services.tcp),
        udp: small(&services.udp),
        others: services.intersection(&Services::echo()).others,
    }
}

/// At most a few of a list.
pub fn shortened(texts: &[String]) -> String {
    const SHOWN: usize = 4;
    match texts.len() {
        0..=SHOWN => texts.join(", "),
        more => format!("{} and {} more", texts[..SHOWN].join(", "), more - SHOWN),
    }
}
