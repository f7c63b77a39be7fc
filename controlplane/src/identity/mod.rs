//! Proofs of who somebody is, and the gateway's own store of users.
//!
//! [`book`] is the store: who there is, with which password, authenticator and passkeys. [`limits`] bounds guessing, and
//! [`attempts`] remembers sign-ins that are not finished. None of them knows of packets, sessions or sockets: the desk of the
//! running gateway puts them together.

pub mod attempts;
pub mod authority;
pub mod book;
pub mod certificates;
pub mod devices;
pub mod fetched;
pub mod https;
pub mod limits;
pub mod oidc;
pub mod passkeys;
pub mod password;
pub mod radius;
pub mod seen;
pub mod signals;
pub mod statements;
pub mod totp;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::portal::wire::Secret;

/// Seconds since 1970.
pub fn unix_s(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A new token that nobody can guess: 256 bits, as 43 characters of base64url.
///
/// # Panics
///
/// The kernel gives no random bytes: then nothing here can be trusted.
pub fn token() -> Secret {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).expect("the kernel gives random bytes");
    Secret::new(data_encoding::BASE64URL_NOPAD.encode(&*bytes))
}

/// What is kept of a token: who reads the gateway's memory cannot show it, and to look it up takes as long for a token
/// that is nearly right as for any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shadow([u8; 32]);

impl Shadow {
    /// Of a token.
    pub fn of(token: &Secret) -> Shadow {
        Shadow(Sha256::digest(token.reveal()).into())
    }

    /// Of something that is kept, secrets and all.
    fn of_record(record: &impl Serialize) -> Shadow {
        // Nothing that is kept has a key that JSON cannot have.
        Shadow::of(&Secret::new(serde_json::to_string(record).unwrap_or_default()))
    }
}
