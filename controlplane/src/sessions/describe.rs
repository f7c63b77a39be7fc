//! A session in the numbers of one policy, at every moment until it ends.

use bulkhead_dataplane::identity::{MAX_STAGES, Stage};
use bulkhead_dataplane::policy::conditions::{Device, Identity, Posture as State, PostureId};
use bulkhead_dataplane::verdict::Now;

use super::{Report, Session};
use crate::model::{Identities, Model};

/// A session that has more stages than fit is described again when so many are over.
const STAGES_BEFORE_AGAIN: usize = MAX_STAGES / 2;

/// The ages at which a policy's conditions change their answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// Of a second factor, seconds, ascending.
    factor_s: Vec<u32>,
    /// Of the reports of postures that are asked for, seconds.
    postures: Vec<(PostureId, u32)>,
    /// The postures that are asked for.
    asked: Vec<PostureId>,
}

impl Ages {
    /// Those of a model.
    pub fn of(model: &Model) -> Ages {
        let conditions = &model.rules.conditions;
        let mut factor_s: Vec<u32> = conditions.iter().filter_map(|c| c.mfa_max_age_s).collect();
        factor_s.sort_unstable();
        factor_s.dedup();
        let mut postures: Vec<PostureId> = conditions.iter().flat_map(|c| &c.postures).copied().collect();
        postures.sort_unstable();
        postures.dedup();
        let max_age_s = |id: PostureId| model.identities.postures[id.0 as usize].max_age_s;
        let ages = postures.iter().filter_map(|id| Some((*id, max_age_s(*id)?))).collect();
        Ages { factor_s, postures: ages, asked: postures }
    }
}

/// What a slot holds of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// From now on, by the clock. None when the session has ended.
    pub stages: Vec<Stage>,
    /// There were too many, and the rest is missing: from then on the session is to be described again. If nobody does, it
    /// ends with the last stage.
    pub again: Option<Now>,
}

/// What is known of a session at a moment, whether it has ended by then or not.
pub fn identity(names: &Identities, session: &Session, at: Now) -> Identity {
    let claims = &session.claims;
    let told = claims.groups.iter().map(String::as_str);
    let mut postures = vec![State::Unknown; names.postures.len()];
    // Of several of one posture the latest counts, also when it has grown too old.
    let mut reports: Vec<_> = claims.reports.iter().collect();
    reports.sort_by_key(|report| report.at);
    for report in reports {
        // The policy may have changed since it was reported.
        let Some(id) = names.posture(&report.posture) else { continue };
        let is_fresh = names.postures[id.0 as usize].takes(report.at, at);
        postures[id.0 as usize] = if is_fresh { report.state } else { State::Unknown };
    }
    if let Some(health) = &claims.health {
        for (posture, state) in names.postures.iter().zip(&mut postures) {
            let told = claims.reports.iter().filter(|report| report.posture == posture.name);
            // What somebody else has found amiss the device does not talk away.
            let counts = |told: &Report| told.at > health.at || told.state == State::Failed;
            if told.max_by_key(|report| report.at).is_some_and(counts) {
                continue;
            }
            let is_fresh = posture.takes(health.at, at);
            *state = if is_fresh { health.stands_to(&posture.checks, at) } else { State::Unknown };
        }
    }
    Identity {
        user: claims.user.as_deref().map(|user| names.user(user)),
        groups: claims.user.as_deref().map(|user| names.groups_of(user, told)).unwrap_or_default(),
        device: claims.device.as_ref().filter(|device| device.until.is_none_or(|until| at < until)).map(
            |device| Device {
                enrolled: device.enrolled,
                tags: names.tags_of(device.tags.iter().map(String::as_str)),
            },
        ),
        mfa_age_s: claims.factor.map(|factor| factor.shown.age_s(at)),
        phishing_resistant: claims.factor.is_some_and(|factor| factor.phishing_resistant),
        postures,
        risk: claims.risk,
    }
}

/// A session from now on: one stage up to every moment at which a condition may change its answer, and to its end.
pub fn describe(names: &Identities, ages: &Ages, session: &Session, now: Now) -> Described {
    if now >= session.ends {
        return Described { stages: Vec::new(), again: None };
    }
    let claims = &session.claims;
    let of_factor = claims
        .factor
        .iter()
        .flat_map(|factor| ages.factor_s.iter().map(|limit_s| factor.shown.older_than(*limit_s)));
    let of_reports = claims.reports.iter().filter_map(|report| {
        let id = names.posture(&report.posture)?;
        let (_, max_age_s) = ages.postures.iter().find(|(asked, _)| *asked == id)?;
        Some(report.at.older_than(*max_age_s))
    });
    let of_device = claims.device.iter().filter_map(|device| device.until);
    let of_health = claims.health.iter().flat_map(|health| {
        ages.asked.iter().flat_map(|id| {
            let posture = &names.postures[id.0 as usize];
            let too_old = posture.max_age_s.map(|max_age_s| health.at.older_than(max_age_s));
            health.edges(&posture.checks).chain(too_old)
        })
    });
    let is_ahead = |edge: &Now| *edge > now && *edge < session.ends;
    let mut edges: Vec<Now> =
        of_factor.chain(of_reports).chain(of_device).chain(of_health).filter(is_ahead).collect();
    edges.sort_unstable();
    edges.dedup();
    edges.push(session.ends);
    let again = (edges.len() > MAX_STAGES).then(|| edges[STAGES_BEFORE_AGAIN - 1]);
    edges.truncate(MAX_STAGES);
    let begins = [now].into_iter().chain(edges.iter().copied());
    let stages = begins.zip(&edges).map(|(begin, until)| Stage {
        until: *until,
        // No condition tells any two moments of a stage apart.
        identity: identity(names, session, begin),
    });
    Described { stages: stages.collect(), again }
}
