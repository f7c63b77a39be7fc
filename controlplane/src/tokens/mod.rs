//! Signed tokens of others: ID tokens, Security Event Tokens, statements of devices. One strict way in for all of them.
//!
//! [`open`] is that way. It takes the compact serialization alone, of at most [`TOKEN_BYTES_MAX`] bytes, in canonical
//! base64url, with a header and a payload in which no name comes twice ([`json`]). The key is looked up among those that
//! the caller trusts ([`Keys`]) and says which algorithms it takes; nothing in the token can bring, fetch or choose
//! another one. Only then is there a payload to look at, and [`claims`] holds it against what the caller expects.
//!
//! Arithmetic is *ring*'s. Taken are RS256 to RS512, PS256 to PS512, ES256, ES384 and Ed25519; no `none`, nothing with a
//! shared secret, no encryption, and not ES512, which *ring* does not have.

pub mod claims;
pub mod json;
pub mod jws;
pub mod key;
mod roca;
pub mod sign;

pub use claims::{Expected, IdToken, Wrong};
pub use jws::{Refused, TOKEN_BYTES_MAX, Typ, open};
pub use key::{Algorithm, BadKey, BadKeys, Key, Keys};

#[cfg(test)]
mod tests;
