//! Signing, with Ed25519: what a device states of itself.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// A private key.
pub struct Signer {
    pair: Ed25519KeyPair,
}

/// It is not an Ed25519 key in PKCS#8 (RFC 8410), or the system gave no randomness for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKey;

impl std::fmt::Display for NoKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is not an Ed25519 key in PKCS#8")
    }
}

impl std::error::Error for NoKey {}

impl Signer {
    /// A new key, in PKCS#8.
    ///
    /// # Errors
    ///
    /// The system gave no randomness.
    pub fn generate() -> Result<Zeroizing<Vec<u8>>, NoKey> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| NoKey)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads a key in PKCS#8.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Signer, NoKey> {
        Ed25519KeyPair::from_pkcs8(bytes).map(|pair| Signer { pair }).map_err(|_| NoKey)
    }

    /// Reads a key in PKCS#8 that does not say what its public half is (RFC 5958 calls it version 1), as OpenSSL writes it.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn from_pkcs8_without_public(bytes: &[u8]) -> Result<Signer, NoKey> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map(|pair| Signer { pair }).map_err(|_| NoKey)
    }

    /// Its public half as a JSON Web Key, with a `kid` that is its thumbprint (RFC 7638).
    pub fn public_jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA", "kid": self.thumbprint() })
    }

    /// RFC 7638, as RFC 8037 appendix A.3 has it.
    pub fn thumbprint(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()))
    }

    /// Signs an object as a compact JWS of this `typ`.
    pub fn sign(&self, typ: &str, payload: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "kid": self.thumbprint(), "typ": typ });
        self.sign_parts(header.to_string().as_bytes(), payload.to_string().as_bytes())
    }

    /// Signs these as header and payload, whatever they are.
    pub fn sign_parts(&self, header: &[u8], payload: &[u8]) -> String {
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = self.pair.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        token
    }
}
