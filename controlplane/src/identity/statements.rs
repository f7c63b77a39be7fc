//! What devices sign: that they are there and how they are, or what else is granted to their keys alone.
//!
//! [`heard`] says whether it counts. It knows of no book, session or clock, so that what a stranger sends can be judged
//! anywhere.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use data_encoding::BASE64URL_NOPAD;
use serde::de::DeserializeOwned;

use super::attempts::Attempts;
use crate::portal::wire::{CERTIFICATION, Certification, ENROLMENT, Enrolment, STATEMENT, Secret, Statement};
use crate::sessions::health::is_bounded;
use crate::tokens::{Keys, Typ, open};

/// What a device signs.
pub trait Signed: DeserializeOwned {
    /// Its `typ`, so that no kind of it passes for another one.
    const TYP: &'static str;
    /// The device that it is of.
    fn device(&self) -> &str;
    /// The challenge that it answers.
    fn nonce(&self) -> &str;
    /// Whether it is of a size that is kept.
    fn is_bounded(&self) -> bool {
        true
    }
}

impl Signed for Statement {
    const TYP: &'static str = STATEMENT;

    fn device(&self) -> &str {
        &self.device
    }

    fn nonce(&self) -> &str {
        &self.nonce
    }

    fn is_bounded(&self) -> bool {
        is_bounded(&self.facts)
    }
}

impl Signed for Enrolment {
    const TYP: &'static str = ENROLMENT;

    fn device(&self) -> &str {
        &self.device
    }

    fn nonce(&self) -> &str {
        &self.nonce
    }
}

impl Signed for Certification {
    const TYP: &'static str = CERTIFICATION;

    fn device(&self) -> &str {
        &self.device
    }

    fn nonce(&self) -> &str {
        &self.nonce
    }
}

/// What these keys have signed as this device, for a challenge of this address that nobody has used. The challenge is used up
/// only by what holds otherwise.
///
/// # Errors
///
/// Why it does not count, for the log.
pub fn heard<S: Signed>(
    token: &Secret,
    keys: &Keys,
    device: &str,
    challenges: &Mutex<Attempts<()>>,
    address: IpAddr,
    now: Instant,
) -> Result<S, &'static str> {
    let (claims, _) =
        open(token.reveal(), keys, Typ::Is(S::TYP)).map_err(|_| "what it signed does not hold")?;
    let said: S =
        serde_json::from_value(claims.into()).map_err(|_| "what it signed is not what was asked for")?;
    if said.device() != device {
        return Err("what it signed is of another device");
    }
    if !said.is_bounded() {
        return Err("it says more than is kept");
    }
    let nonce = Secret::new(said.nonce().to_owned());
    let mut challenges = challenges.lock().unwrap_or_else(PoisonError::into_inner);
    challenges
        .take(&nonce, address, now)
        .map(|()| said)
        .ok_or("its challenge was used, is too old, or was another address's")
}

/// The key that a device wants certified: a point on P-256, not compressed (SEC 1, section 2.3.3).
pub fn point(said: &Certification) -> Option<[u8; 65]> {
    let point = BASE64URL_NOPAD.decode(said.key.as_bytes()).ok()?;
    point.try_into().ok().filter(|point: &[u8; 65]| point[0] == 4)
}
