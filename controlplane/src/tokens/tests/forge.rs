//! Tokens as somebody else would sign them, rightly and wrongly.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::tokens::{Key, Keys};

/// Somebody who signs with Ed25519 (`EdDSA`) and with P-256 (`ES256`).
pub struct Forger {
    edwards: Ed25519KeyPair,
    nist: EcdsaKeyPair,
}

impl Forger {
    pub fn new() -> Forger {
        let chance = SystemRandom::new();
        let edwards = Ed25519KeyPair::generate_pkcs8(&chance).unwrap();
        let nist = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &chance).unwrap();
        Forger {
            edwards: Ed25519KeyPair::from_pkcs8(edwards.as_ref()).unwrap(),
            nist: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, nist.as_ref(), &chance).unwrap(),
        }
    }

    pub fn edwards_jwk(&self, kid: &str) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.edwards.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid })
    }

    pub fn nist_jwk(&self, kid: &str) -> Value {
        let point = self.nist.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid })
    }

    /// Its Ed25519 key, as `k`.
    pub fn keys(&self) -> Keys {
        Keys::one(Key::of(self.edwards_jwk("k").as_object().unwrap()).unwrap())
    }

    /// Whatever these two are, signed with Ed25519.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let signed = unsigned(header, payload);
        let signature = self.edwards.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// The same with P-256.
    pub fn sign_nist(&self, header: &str, payload: &str) -> String {
        let signed = unsigned(header, payload);
        let signature = self.nist.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// A token of `k` with this `typ`.
    pub fn token(&self, typ: &str, claims: &Value) -> String {
        self.sign(&json!({ "alg": "EdDSA", "kid": "k", "typ": typ }).to_string(), &claims.to_string())
    }
}

/// The first two parts of a token.
pub fn unsigned(header: &str, payload: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}
