//! What devices sign: that they are there and how they are, or what else is granted to their keys alone.
//!
//! [`heard`] says whether it counts. It knows of no book, session or clock, so that what a stranger sends can be judged
//! anywhere.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
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

/// What a key signs that a device wants certified, so that nobody has a key certified that somebody else has (RFC 2986,
/// section 3, note 2): ECDSA on P-256 with SHA-256, in DER.
pub fn possession(device: &str, nonce: &str) -> Vec<u8> {
    // Nothing else begins so that such keys sign, of TLS above all (RFC 8446, section 4.4.3).
    [b"bulkhead-possession", device.as_bytes(), nonce.as_bytes()].join(&0)
}

/// The key that a device wants certified, if it has signed for the device and the challenge itself.
///
/// # Errors
///
/// It is none, or has not.
pub fn possessed(said: &Certification, proof: &str) -> Result<[u8; 65], &'static str> {
    let point = point(said).ok_or("what it wants certified is no key on P-256")?;
    let proof = BASE64URL_NOPAD.decode(proof.as_bytes()).unwrap_or_default();
    // Verifying looks at whether the point lies on the curve, too.
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    let signed = key.verify(&possession(&said.device, &said.nonce), &proof);
    signed.map(|()| point).map_err(|_| "the key that it wants certified has not signed for that")
}

/// The key that a device wants certified: a point on P-256, not compressed (SEC 1, section 2.3.3). Whether it lies on the
/// curve is not looked at.
pub fn point(said: &Certification) -> Option<[u8; 65]> {
    let point = BASE64URL_NOPAD.decode(said.key.as_bytes()).ok()?;
    point.try_into().ok().filter(|point: &[u8; 65]| point[0] == 4)
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};

    use super::*;

    fn key() -> KeyPair {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
    }

    fn said(point: &[u8], device: &str, nonce: &str) -> Certification {
        let (device, nonce) = (device.to_owned(), nonce.to_owned());
        Certification { device, nonce, key: BASE64URL_NOPAD.encode(point) }
    }

    fn proof(key: &KeyPair, device: &str, nonce: &str) -> String {
        BASE64URL_NOPAD.encode(&key.sign(&possession(device, nonce)).unwrap())
    }

    #[test]
    fn a_key_was_certified_that_the_device_did_not_have_or_that_was_none() {
        let (own, others) = (key(), key());
        let mine = said(own.der_bytes(), "laptop-7", "n1");
        assert_eq!(possessed(&mine, &proof(&own, "laptop-7", "n1")).unwrap(), own.der_bytes());
        let no = "the key that it wants certified has not signed for that";
        for proof in [
            proof(&others, "laptop-7", "n1"),
            proof(&own, "laptop-8", "n1"),
            proof(&own, "laptop-7", "n2"),
            String::new(),
            "no base64!".to_owned(),
        ] {
            assert_eq!(possessed(&mine, &proof), Err(no), "{proof}");
        }
        // Beside the curve, and at infinity; the length and the first byte are right.
        let mut beside: [u8; 65] = own.der_bytes().try_into().unwrap();
        beside[64] ^= 1;
        let infinity = [&[4][..], &[0; 64]].concat();
        for point in [&beside[..], &infinity] {
            let said = said(point, "laptop-7", "n1");
            assert!(super::point(&said).is_some());
            assert_eq!(possessed(&said, &proof(&own, "laptop-7", "n1")), Err(no));
        }
        let short = said(&beside[..64], "laptop-7", "n1");
        assert!(possessed(&short, &proof(&own, "laptop-7", "n1")).is_err());
    }
}
