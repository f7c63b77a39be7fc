//! What the device's key signs, and the talk around it.

use anyhow::{Result, bail};
use serde_json::json;

use super::client::Portal;
use super::facts;
use super::home::{Home, Settings};
use crate::portal::wire::{
    Answer, ENROLMENT, Enrolment, Question, STATEMENT, Secret, Standing, Statement, Why,
};
use crate::sessions::health::Facts;
use crate::tokens::sign::Signer;

/// A refusal in words.
pub fn words(why: Why) -> &'static str {
    match why {
        Why::Wrong => "the gateway does not take it",
        Why::TooMany => "there were too many wrong tries",
        Why::Stale => "it took too long, or began at another address",
        Why::NotSignedIn => "nobody is signed in from here",
        Why::NotFresh => "a second factor has to be shown first",
        Why::NotAdded => "there is no room for it, or it is there already",
        Why::Locked => "the user, the device or the address is locked",
        Why::Shared => "two users have signed in from this address, which nothing tells apart",
        Why::NoSegment => "this address belongs to no segment of the gateway",
        Why::Full => "the gateway has no room for more sessions",
        Why::Unknown => "the gateway is not set up for that",
        Why::Provider => "the identity provider said no",
        Why::Busy => "the gateway is busy",
        Why::Failed => "something failed at the gateway, whose log says what",
    }
}

/// A refusal as an error.
pub fn refusal(why: Why, retry_after_s: Option<u32>) -> anyhow::Error {
    let wait = retry_after_s.map(|s| format!("; try again in {s} s")).unwrap_or_default();
    anyhow::anyhow!("refused: {}{wait}", words(why))
}

/// An answer that does not belong to the question.
pub fn unexpected(answer: &Answer) -> anyhow::Error {
    match answer {
        Answer::Refused { why, retry_after_s } => refusal(*why, *retry_after_s),
        _ => anyhow::anyhow!("the portal's answer does not fit the question"),
    }
}

pub(super) fn challenge(portal: &Portal) -> Result<(String, Vec<String>, u32)> {
    match portal.ask(&Question::Challenge, None)? {
        Answer::Challenge { nonce, processes, heartbeat_s } => Ok((nonce, processes, heartbeat_s)),
        other => Err(unexpected(&other)),
    }
}

/// Makes a key for this device and has the gateway take it.
///
/// # Errors
///
/// The gateway does not, or nothing can be written here.
pub fn enroll(home: &Home, portal: Portal, device: &str, code: Secret) -> Result<()> {
    let (nonce, _, _) = challenge(&portal)?;
    let bytes = Signer::generate()?;
    let key = Signer::from_pkcs8(&bytes)?;
    let device = device.to_owned();
    let token = key.sign(ENROLMENT, &json!(Enrolment { device: device.clone(), nonce }));
    let (jwk, token) = (key.public_jwk().to_string(), Secret::new(token));
    let question = Question::DeviceEnroll { device: device.clone(), code, key: jwk, token };
    match portal.ask(&question, None)? {
        Answer::Enrolled { certificate, authority } => {
            home.keep_device(&bytes, &certificate, &authority)?;
            home.settle(&Settings { portal, device: Some(device) })
        }
        other => Err(unexpected(&other)),
    }
}

/// What came of a statement.
pub struct Heard {
    /// What the gateway knows now.
    pub standing: Standing,
    /// For how long, seconds.
    pub heartbeat_s: u32,
}

/// States once that the device is there, and how it is.
///
/// # Errors
///
/// It is not enrolled, or the gateway does not take it.
pub fn state(home: &Home, more: &Facts) -> Result<Heard> {
    let settings = home.settings()?.unwrap_or_default();
    let (Some(device), Some(key)) = (settings.device, home.key()?) else {
        bail!(
            "this device is not enrolled; `bulkhead agent enroll` does that, with a code that an operator makes"
        );
    };
    let (nonce, processes, heartbeat_s) = challenge(&settings.portal)?;
    let mut facts = facts::all(&processes);
    facts.extend(more.clone());
    let token = key.sign(STATEMENT, &json!(Statement { device: device.clone(), nonce, facts }));
    let question = Question::Statement { device, token: Secret::new(token) };
    match settings.portal.ask(&question, home.cookie()?.as_ref())? {
        Answer::Standing(standing) => Ok(Heard { standing: *standing, heartbeat_s }),
        Answer::Begun { cookie, standing } => {
            home.keep_cookie(Some(&cookie))?;
            Ok(Heard { standing: *standing, heartbeat_s })
        }
        other => Err(unexpected(&other)),
    }
}
