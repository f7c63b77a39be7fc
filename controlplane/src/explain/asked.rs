//! Who asks and when, in the words of the command line, which are those of a `[[test]]`.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use bulkhead_dataplane::policy::Restraints;
use bulkhead_dataplane::policy::conditions::Posture;
use jiff::Timestamp;

use crate::api::types::Asked;
use crate::config::At;
use crate::config::diagnostics::{Located, nearest, quoted};
use crate::config::identity::{Asker as Written, Devices};
use crate::config::schema::Text;
use crate::config::values::{self, Wrong};
use crate::model::{Asker, Model};
use crate::plan::words::duration_s;

/// No file: it stands on the command line.
const NOWHERE: At = At { file: 0, start: 0, end: 0 };

/// Who asks, and when.
#[derive(Clone, Debug)]
pub struct Occasion {
    /// Who.
    pub asker: Asker,
    /// When.
    pub moment: Timestamp,
    /// What was said of both; nothing when nothing was.
    pub words: Vec<String>,
    /// Which addresses are locked out or in quarantine: none but of a running gateway.
    pub restraints: Arc<Restraints>,
}

impl Occasion {
    /// Nobody, now.
    pub fn now() -> Occasion {
        Occasion {
            asker: Asker::Nobody,
            moment: Timestamp::now(),
            words: Vec::new(),
            restraints: Arc::default(),
        }
    }

    /// Resolves what was asked.
    ///
    /// # Errors
    ///
    /// What of it makes no sense, with a hint.
    pub fn of(asked: &Asked, model: &Model) -> Result<Occasion> {
        let written = written(asked, model)?;
        let asker = model.identities.asker(&written).ok_or_else(|| {
            anyhow!("this says something of nobody; say who asks (--user), or at least from which device (--device)")
        })?;
        let moment = match &asked.at {
            Some(text) => option("--at", values::moment(text))?,
            None => Timestamp::now(),
        };
        let mut words = told(&written, &asker, model);
        words.extend(asked.at.as_ref().map(|_| format!("at {moment}")));
        Ok(Occasion { asker, moment, words, restraints: Arc::default() })
    }
}

/// What is wrong with an option's value.
fn option<T>(name: &str, result: Result<T, Wrong>) -> Result<T> {
    result.map_err(|wrong| anyhow!("{name}: {wrong}"))
}

fn text(value: &str) -> Text {
    Text { value: value.to_owned(), at: NOWHERE }
}

/// What was asked, checked against the names of a model.
///
/// # Errors
///
/// What of it makes no sense, with a hint.
pub fn written(asked: &Asked, model: &Model) -> Result<Written> {
    if let Some(user) = &asked.user {
        option("--user", values::identity(user, "user"))?;
    } else if !asked.groups.is_empty() {
        bail!("--group: `groups` of nobody; say whose with --user");
    }
    for group in &asked.groups {
        option("--group", model.identities.check_told(group))?;
    }
    if let Some(mfa) = &asked.mfa {
        option("--mfa", values::second_factor(mfa))?;
    }
    if let Some(session) = &asked.session {
        option("--session", values::session(session))?;
    }
    let mfa_age_s =
        asked.mfa_age.as_ref().map(|age| option("--mfa-age", values::seconds(age))).transpose()?;
    if asked.risk.is_some_and(|risk| risk > 100) {
        bail!("--risk: from 0 to 100");
    }
    Ok(Written {
        user: asked.user.as_deref().map(text),
        groups: asked.groups.iter().map(|group| text(group)).collect(),
        device: device(&asked.device)?,
        postures: asked.posture.iter().map(|posture| posture_of(posture, model)).collect::<Result<_>>()?,
        // A factor without an age was shown just now.
        mfa_age_s: mfa_age_s.or(asked.mfa.as_ref().map(|_| 0)),
        phishing_resistant: asked.mfa.is_some(),
        risk: asked.risk,
        expired: asked.session.is_some(),
        at: None,
    })
}

/// `enrolled`, `not-enrolled`, `tag=kiosk`.
fn device(words: &[String]) -> Result<Option<Devices>> {
    let mut enrolled = None;
    let mut tags = Vec::new();
    for word in words {
        match (word.as_str(), word.strip_prefix("tag=")) {
            (_, Some(tag)) => {
                option("--device", values::identity(tag, "tag"))?;
                tags.push(text(tag));
            }
            ("enrolled", _) if enrolled != Some(false) => enrolled = Some(true),
            ("not-enrolled", _) if enrolled != Some(true) => enrolled = Some(false),
            ("enrolled" | "not-enrolled", _) => bail!("--device: it is enrolled, or it is not"),
            (other, None) => {
                let hint = nearest(other, ["enrolled", "not-enrolled", "tag="]);
                let hint = hint.unwrap_or_else(|| "use `enrolled`, `not-enrolled` or `tag=NAME`".to_owned());
                bail!("--device: {} says nothing of a device; {hint}", quoted(other));
            }
        }
    }
    let enrolled = enrolled.unwrap_or_default();
    Ok((!words.is_empty()).then_some(Devices { at: NOWHERE, enrolled, tags }))
}

/// `compliant`, `compliant=failed`.
fn posture_of(word: &str, model: &Model) -> Result<(Text, Located<Posture>)> {
    let (name, state) = word.split_once('=').unwrap_or((word, "met"));
    if model.identities.posture(name).is_none() {
        let names = model.identities.postures.iter().map(|posture| posture.name.as_str());
        let hint = nearest(name, names).map(|hint| format!("; {hint}")).unwrap_or_default();
        bail!("--posture: unknown posture {}{hint}", quoted(name));
    }
    let value = option("--posture", values::posture_state(state))?;
    Ok((text(name), Located { value, at: NOWHERE }))
}

/// What was said, and the groups that follow from it.
fn told(written: &Written, asker: &Asker, model: &Model) -> Vec<String> {
    let identity = match asker {
        Asker::Nobody => return Vec::new(),
        Asker::Expired => return vec!["a session that has ended".to_owned()],
        Asker::Known(identity) => identity,
    };
    let mut words: Vec<String> =
        written.user.iter().map(|user| format!("user {}", user.value.escape_debug())).collect();
    let groups = &model.identities.groups;
    words.extend(identity.groups.iter().map(|id| format!("in group {}", groups[id as usize].name)));
    if let Some(device) = &written.device {
        let enrolled = if device.enrolled { "an enrolled device" } else { "a device that is not enrolled" };
        words.push(format!("on {enrolled}"));
        words.extend(device.tags.iter().map(|tag| format!("tagged {}", tag.value.escape_debug())));
    }
    if let Some(age_s) = written.mfa_age_s {
        let kind = if written.phishing_resistant { " that cannot be phished" } else { "" };
        words.push(format!("second factor{kind} shown {} ago", duration_s(age_s)));
    }
    for (name, state) in &written.postures {
        words.push(format!("posture `{}` {}", name.value, values::posture_state_name(state.value)));
    }
    words.extend(written.risk.map(|risk| format!("risk {risk}")));
    words
}
