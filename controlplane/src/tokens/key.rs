//! Public keys, as JSON Web Keys (RFC 7517, RFC 7518 section 6, RFC 8037).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde_json::{Map, Value};

use super::{json, roca};

/// The longest set of keys: a hundred RSA keys, each with a chain of certificates.
pub const KEYS_BYTES_MAX: usize = 512 * 1024;
/// The most keys in one set.
pub const KEYS_MAX: usize = 128;

/// An algorithm of signatures (RFC 7518 section 3.1, RFC 8037, RFC 9864).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    Ed25519,
}

use Algorithm::{Ed25519, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};

impl Algorithm {
    /// By its name in `alg`.
    pub fn named(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Rs256,
            "RS384" => Rs384,
            "RS512" => Rs512,
            "PS256" => Ps256,
            "PS384" => Ps384,
            "PS512" => Ps512,
            "ES256" => Es256,
            "ES384" => Es384,
            // RFC 9864 gives the pair of "EdDSA" and its curve a name.
            "EdDSA" | "Ed25519" => Ed25519,
            _ => return None,
        })
    }

    /// Its hash, for `at_hash` (OpenID Connect Core, section 3.1.3.6). That of Ed25519 is the one inside the signature.
    pub fn hash(self) -> &'static ring::digest::Algorithm {
        match self {
            Rs256 | Ps256 | Es256 => &ring::digest::SHA256,
            Rs384 | Ps384 | Es384 => &ring::digest::SHA384,
            Rs512 | Ps512 | Ed25519 => &ring::digest::SHA512,
        }
    }
}

/// Why something is no key to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKey {
    /// It has members of a private key.
    Private,
    /// It is a shared secret.
    Symmetric,
    /// `use` or `key_ops` says that it is for something else.
    OtherUse,
    /// A type, a curve or an algorithm that is not taken, or that does not fit the others.
    Unsupported,
    /// RSA of less than 2048 bits or more than 8192, an exponent below 65537, or a key of a broken generator.
    Weak,
    /// A member is missing, or is not what it should be.
    Malformed,
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadKey::Private => "it is a private key; only its public members may be here",
            BadKey::Symmetric => "it is a shared secret (`oct`); only public keys are taken",
            BadKey::OtherUse => "`use` or `key_ops` says that it is not for verifying signatures",
            BadKey::Unsupported => "its type, curve and algorithm are not ones that are taken together",
            BadKey::Weak => "it is too weak (RSA needs 2048 to 8192 bits and an exponent from 65537 on)",
            BadKey::Malformed => "it is not a JSON Web Key",
        })
    }
}

impl std::error::Error for BadKey {}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// `kid`.
    id: Option<String>,
    /// What it may verify.
    algorithms: Vec<Algorithm>,
    material: Material,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point of an elliptic curve, or an Ed25519 key.
    Point(Vec<u8>),
}

/// Members that only a private key has (RFC 7518 sections 6.2.2 and 6.3.2, RFC 8037 section 2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

impl Key {
    /// Reads one key.
    ///
    /// # Errors
    ///
    /// See [`BadKey`].
    pub fn parse(bytes: &[u8]) -> Result<Key, BadKey> {
        if bytes.len() > KEYS_BYTES_MAX {
            return Err(BadKey::Malformed);
        }
        Key::of(&json::object(bytes).map_err(|_| BadKey::Malformed)?)
    }

    /// Reads one key.
    ///
    /// # Errors
    ///
    /// See [`BadKey`].
    pub fn of(jwk: &Map<String, Value>) -> Result<Key, BadKey> {
        let kind = text(jwk, "kty")?.ok_or(BadKey::Malformed)?;
        if kind == "oct" || jwk.contains_key("k") {
            return Err(BadKey::Symmetric);
        }
        if PRIVATE.iter().any(|member| jwk.contains_key(*member)) {
            return Err(BadKey::Private);
        }
        if !is_for_verifying(jwk)? {
            return Err(BadKey::OtherUse);
        }
        let (material, mut algorithms) = match kind {
            "RSA" => (rsa(jwk)?, vec![Rs256, Rs384, Rs512, Ps256, Ps384, Ps512]),
            "EC" => match text(jwk, "crv")?.ok_or(BadKey::Malformed)? {
                "P-256" => (point(jwk, 32)?, vec![Es256]),
                "P-384" => (point(jwk, 48)?, vec![Es384]),
                _ => return Err(BadKey::Unsupported),
            },
            "OKP" if text(jwk, "crv")? == Some("Ed25519") => {
                (Material::Point(octets(jwk, "x", 32)?), vec![Ed25519])
            }
            _ => return Err(BadKey::Unsupported),
        };
        if let Some(name) = text(jwk, "alg")? {
            let only = Algorithm::named(name).ok_or(BadKey::Unsupported)?;
            algorithms.retain(|algorithm| *algorithm == only);
        }
        if algorithms.is_empty() {
            return Err(BadKey::Unsupported);
        }
        Ok(Key { id: text(jwk, "kid")?.map(str::to_owned), algorithms, material })
    }

    /// Its `kid`.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it may verify by this algorithm.
    pub fn takes(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether the signature is this key's. `false` also of an algorithm that it does not take, and of a point that is on
    /// no curve.
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        if !self.takes(algorithm) {
            return false;
        }
        let point = |by: &'static dyn VerificationAlgorithm| match &self.material {
            Material::Point(point) => UnparsedPublicKey::new(by, point).verify(signed, signature).is_ok(),
            Material::Rsa { .. } => false,
        };
        let rsa = |by| match &self.material {
            Material::Rsa { modulus: n, exponent: e } => {
                RsaPublicKeyComponents { n, e }.verify(by, signed, signature).is_ok()
            }
            Material::Point(_) => false,
        };
        match algorithm {
            Rs256 => rsa(&RSA_PKCS1_2048_8192_SHA256),
            Rs384 => rsa(&RSA_PKCS1_2048_8192_SHA384),
            Rs512 => rsa(&RSA_PKCS1_2048_8192_SHA512),
            Ps256 => rsa(&RSA_PSS_2048_8192_SHA256),
            Ps384 => rsa(&RSA_PSS_2048_8192_SHA384),
            Ps512 => rsa(&RSA_PSS_2048_8192_SHA512),
            Es256 => point(&ECDSA_P256_SHA256_FIXED),
            Es384 => point(&ECDSA_P384_SHA384_FIXED),
            Ed25519 => point(&ED25519),
        }
    }
}

/// A member that is a string, if it is there.
fn text<'j>(jwk: &'j Map<String, Value>, member: &str) -> Result<Option<&'j str>, BadKey> {
    jwk.get(member).map(|value| value.as_str().ok_or(BadKey::Malformed)).transpose()
}

/// A member that is so many octets in base64url.
fn octets(jwk: &Map<String, Value>, member: &str, length: usize) -> Result<Vec<u8>, BadKey> {
    let octets = integer(jwk, member)?;
    if octets.len() == length { Ok(octets) } else { Err(BadKey::Malformed) }
}

fn integer(jwk: &Map<String, Value>, member: &str) -> Result<Vec<u8>, BadKey> {
    let text = text(jwk, member)?.ok_or(BadKey::Malformed)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| BadKey::Malformed)
}

/// `use` (RFC 7517, section 4.2) and `key_ops` (section 4.3).
fn is_for_verifying(jwk: &Map<String, Value>) -> Result<bool, BadKey> {
    let by_use = text(jwk, "use")?.is_none_or(|purpose| purpose == "sig");
    let Some(operations) = jwk.get("key_ops") else { return Ok(by_use) };
    let operations = operations.as_array().ok_or(BadKey::Malformed)?;
    for (index, operation) in operations.iter().enumerate() {
        if !operation.is_string() || operations[..index].contains(operation) {
            return Err(BadKey::Malformed);
        }
    }
    Ok(by_use && operations.iter().any(|operation| operation == "verify"))
}

fn rsa(jwk: &Map<String, Value>) -> Result<Material, BadKey> {
    let (modulus, exponent) = (integer(jwk, "n")?, integer(jwk, "e")?);
    // As few octets as possible (RFC 7518, section 6.3.1.1).
    if modulus.first().is_none_or(|first| *first == 0) || exponent.first().is_none_or(|first| *first == 0) {
        return Err(BadKey::Malformed);
    }
    let bits = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
    // FIPS 186-5, section 5.4: odd, and between 2^16 and 2^256; *ring* takes those of up to 33 bits.
    let exponent_is_sound = exponent.len() <= 5
        && exponent.last().is_some_and(|last| last % 2 == 1)
        && exponent.iter().fold(0_u64, |value, octet| value << 8 | u64::from(*octet)) > 1 << 16;
    if !(2048..=8192).contains(&bits) || !exponent_is_sound || roca::is_suspect(&modulus) {
        return Err(BadKey::Weak);
    }
    Ok(Material::Rsa { modulus, exponent })
}

/// An uncompressed point (SEC 1, section 2.3.3). *ring* looks at verifying whether it is on the curve.
fn point(jwk: &Map<String, Value>, length: usize) -> Result<Material, BadKey> {
    let mut point = vec![4];
    point.extend(octets(jwk, "x", length)?);
    point.extend(octets(jwk, "y", length)?);
    Ok(Material::Point(point))
}

/// Why something is no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKeys {
    /// It is not a JSON Web Key Set, or is longer than [`KEYS_BYTES_MAX`], or has more keys than [`KEYS_MAX`].
    Malformed,
    /// A key of it is secret.
    Secret(BadKey),
    /// Two keys have the same `kid`.
    Twice,
    /// There is no key in it with which a signature could be verified.
    None,
}

impl fmt::Display for BadKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadKeys::Malformed => f.write_str("it is not a JSON Web Key Set, or too large a one"),
            BadKeys::Secret(bad) => write!(f, "a key in it should not be there: {bad}"),
            BadKeys::Twice => f.write_str("two keys in it have the same `kid`"),
            BadKeys::None => f.write_str("there is no key in it with which a signature can be verified"),
        }
    }
}

impl std::error::Error for BadKeys {}

/// The keys of somebody whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// This key alone.
    pub fn one(key: Key) -> Keys {
        Keys(vec![key])
    }

    /// Reads a JSON Web Key Set. Keys of kinds that are not taken, for other uses, and weak ones are left out (RFC 7517,
    /// section 5): whoever signs with them is not understood. A set with a secret in it is refused as a whole, for whoever
    /// publishes that does not know what they do, and so is one that does not say which key a `kid` means.
    ///
    /// # Errors
    ///
    /// See [`BadKeys`].
    pub fn parse_set(bytes: &[u8]) -> Result<Keys, BadKeys> {
        if bytes.len() > KEYS_BYTES_MAX {
            return Err(BadKeys::Malformed);
        }
        Keys::of_set(&json::object(bytes).map_err(|_| BadKeys::Malformed)?)
    }

    /// As [`Keys::parse_set`].
    ///
    /// # Errors
    ///
    /// See [`BadKeys`].
    pub fn of_set(set: &Map<String, Value>) -> Result<Keys, BadKeys> {
        let list = set.get("keys").and_then(Value::as_array).ok_or(BadKeys::Malformed)?;
        if list.len() > KEYS_MAX {
            return Err(BadKeys::Malformed);
        }
        let mut keys: Vec<Key> = Vec::new();
        for jwk in list {
            match Key::of(jwk.as_object().ok_or(BadKeys::Malformed)?) {
                Ok(key) if key.id.is_some() && keys.iter().any(|other| other.id == key.id) => {
                    return Err(BadKeys::Twice);
                }
                Ok(key) => keys.push(key),
                Err(bad @ (BadKey::Private | BadKey::Symmetric)) => return Err(BadKeys::Secret(bad)),
                Err(BadKey::OtherUse | BadKey::Unsupported | BadKey::Weak | BadKey::Malformed) => {}
            }
        }
        if keys.is_empty() { Err(BadKeys::None) } else { Ok(Keys(keys)) }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}
