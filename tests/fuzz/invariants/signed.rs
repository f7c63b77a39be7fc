//! Who signs what the targets of tokens, statements and events are given, and what is known of them.

use crate::tokens::sign::Signer;
use crate::tokens::{Key, Keys};

/// A key in PKCS#8 (RFC 8410) without its seed.
const KEY: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Somebody who signs.
pub struct Author {
    pub signer: Signer,
    /// What whoever knows them has of them.
    pub keys: Keys,
    /// What this key is called.
    pub kid: String,
}

impl Author {
    /// The one with this seed.
    pub fn new(seed: &[u8; 32]) -> Author {
        let signer = Signer::from_pkcs8_without_public(&[&KEY[..], seed].concat()).expect("it is a key");
        let key = Key::of(signer.public_jwk().as_object().expect("an object")).expect("it is a key");
        let (keys, kid) = (Keys::one(key), signer.thumbprint());
        Author { signer, keys, kid }
    }
}

/// What is to be signed, of a step of a target: a header, a zero and claims.
pub fn parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
