//! What becomes of sessions by an event (CAEP 1.0; RISC 1.0 where it says that an account is over).

use bulkhead_dataplane::policy::conditions::Posture;
use serde_json::{Map, Value};

use super::Transmitter;
use crate::sessions::{Claims, Moment, Report};

const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";

/// What becomes of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They end.
    End,
    /// Their second factor counts no more: it has to be shown again.
    DropFactor,
    /// Their device stands so to a posture.
    Posture(String, Posture),
    /// Somebody says how risky they look, 0 to 100.
    Risk(u8),
}

impl Effect {
    /// Whether it may take something away.
    pub fn restricts(&self) -> bool {
        !matches!(self, Effect::Posture(_, Posture::Met))
    }

    /// What is known of whoever it concerns after it, if their session goes on.
    pub fn change(&self, claims: &mut Claims, now: Moment) {
        match self {
            Effect::End => {}
            Effect::DropFactor => claims.factor = None,
            Effect::Posture(posture, state) => {
                claims.reports.retain(|report| report.posture != *posture);
                claims.reports.push(Report { posture: posture.clone(), state: *state, at: now });
            }
            Effect::Risk(risk) => claims.risk = Some(*risk),
        }
    }
}

/// What an event means; nothing when it asks for nothing here, or is of a type that is not known.
///
/// # Errors
///
/// It does not say what it has to say.
pub fn effect(
    kind: &str,
    event: &Map<String, Value>,
    transmitter: &Transmitter,
) -> Result<Option<Effect>, String> {
    let word = |key: &str| {
        let word = event.get(key).and_then(Value::as_str);
        word.ok_or_else(|| format!("the event has no `{key}`"))
    };
    if let Some(kind) = kind.strip_prefix(RISC) {
        let is_over = ["account-disabled", "account-purged", "credential-compromise", "sessions-revoked"];
        return Ok(is_over.contains(&kind).then_some(Effect::End));
    }
    Ok(match kind.strip_prefix(CAEP) {
        Some("session-revoked") => Some(Effect::End),
        Some("credential-change") => match word("change_type")? {
            // A new credential takes nothing from what was shown with another one.
            "create" => None,
            _ => Some(Effect::DropFactor),
        },
        Some("assurance-level-change") => {
            let is_higher = event.get("change_direction").and_then(Value::as_str) == Some("increase");
            // Higher is what somebody shows here, not what is said of them.
            (!is_higher).then_some(Effect::DropFactor)
        }
        Some("device-compliance-change") => {
            let is_met = word("current_status")? == "compliant";
            match &transmitter.posture {
                Some(posture) if is_met => Some(Effect::Posture(posture.clone(), Posture::Met)),
                Some(posture) => Some(Effect::Posture(posture.clone(), Posture::Failed)),
                // Nobody has said which demand it fails, so it fails all.
                None => (!is_met).then_some(Effect::End),
            }
        }
        Some("risk-level-change") => Some(Effect::Risk(match word("current_level")? {
            level if level.eq_ignore_ascii_case("LOW") => 20,
            level if level.eq_ignore_ascii_case("MEDIUM") => 50,
            // Whatever is worse than these, or not known.
            _ => 90,
        })),
        _ => None,
    })
}
