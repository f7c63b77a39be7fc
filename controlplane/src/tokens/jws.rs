//! JSON Web Signatures in the compact serialization (RFC 7515, RFC 8725).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use super::key::{Algorithm, Key, Keys};

/// The longest token. An ID token that tells three hundred groups has about that.
pub const TOKEN_BYTES_MAX: usize = 32 * 1024;

/// Header parameters that bring a key or say where to get one (RFC 7515, sections 4.1.2, 4.1.3, 4.1.5 and 4.1.6), or that
/// belong to encryption (RFC 7516). Nobody whom we trust needs them.
const REFUSED_PARAMETERS: [&str; 6] = ["jwk", "jku", "x5u", "x5c", "enc", "zip"];

/// What `typ` has to be (RFC 8725, section 3.11), so that no kind of token passes for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typ {
    /// Absent, or `JWT`: of ID tokens, whose `typ` OpenID Connect leaves open.
    Jwt,
    /// This one, with or without `application/` before it.
    Is(&'static str),
}

impl Typ {
    fn is(self, typ: Option<&str>) -> bool {
        let Some(typ) = typ else { return self == Typ::Jwt };
        // Names of media types know no case (RFC 7515, section 4.1.9).
        let prefix = "application/";
        let typ = match typ.get(..prefix.len()) {
            Some(start) if start.eq_ignore_ascii_case(prefix) => &typ[prefix.len()..],
            _ => typ,
        };
        match self {
            Typ::Jwt => typ.eq_ignore_ascii_case("JWT"),
            Typ::Is(wanted) => typ.eq_ignore_ascii_case(wanted),
        }
    }
}

/// Why a token is not taken. None of it repeats a part of the token but its `kid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is longer than [`TOKEN_BYTES_MAX`], or is not three parts in canonical base64url.
    NotCompact,
    /// Its header or its payload is not a JSON object, or a name comes twice in it.
    NotJson,
    /// `alg` is missing, `none`, not taken, or not one that the key takes.
    Algorithm,
    /// A header parameter that is not taken: `crit`, or one that brings a key.
    Parameter(&'static str),
    /// `typ` is another one than expected.
    Type,
    /// There is no such key; `None` when the token names none.
    UnknownKey(Option<String>),
    /// The token names no key, and several could be meant.
    Ambiguous,
    /// The signature is not the key's.
    Signature,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotCompact => f.write_str("it is not a compact JWS, or too long a one"),
            Refused::NotJson => f.write_str("it has a part that is not JSON, or a name twice"),
            Refused::Algorithm => f.write_str("`alg` is not one that the key takes"),
            Refused::Parameter(name) => write!(f, "its header has `{name}`"),
            Refused::Type => f.write_str("`typ` is of another kind of token"),
            Refused::UnknownKey(Some(kid)) => write!(f, "no key has the `kid` {kid:?}"),
            Refused::UnknownKey(None) => f.write_str("it has no `kid`, and no key is of its kind"),
            Refused::Ambiguous => f.write_str("it has no `kid`, and several keys are of its kind"),
            Refused::Signature => f.write_str("the signature is wrong"),
        }
    }
}

impl std::error::Error for Refused {}

/// A token whose signature nobody has looked at yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Token<'t> {
    algorithm: Algorithm,
    kid: Option<String>,
    typ: Option<String>,
    signed: &'t [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    /// Takes it apart.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn parse(token: &'t str) -> Result<Token<'t>, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::NotCompact);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refused::NotCompact);
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::NotCompact);
        let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let header = json::object(&decode(header)?).map_err(|_| Refused::NotJson)?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        // No extension is known, so none that is critical; `b64` works only as one (RFC 7797, section 6).
        if header.contains_key("crit") {
            return Err(Refused::Parameter("crit"));
        }
        if let Some(name) = REFUSED_PARAMETERS.iter().find(|name| header.contains_key(**name)) {
            return Err(Refused::Parameter(name));
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::named);
        let algorithm = algorithm.ok_or(Refused::Algorithm)?;
        let (kid, typ) = (text(&header, "kid")?, text(&header, "typ")?);
        Ok(Token { algorithm, kid, typ, signed, payload, signature })
    }

    /// Its `kid`.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key that it names. One without a name has to be the only one of its kind (OpenID Connect Core, section 10.1).
    fn key<'k>(&self, keys: &'k Keys) -> Result<&'k Key, Refused> {
        if let Some(kid) = &self.kid {
            let named = keys.iter().find(|key| key.id() == Some(kid));
            return named.ok_or_else(|| Refused::UnknownKey(Some(kid.clone())));
        }
        let mut fitting = keys.iter().filter(|key| key.takes(self.algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(Refused::UnknownKey(None)),
            _ => Err(Refused::Ambiguous),
        }
    }

    /// The bytes that were signed, whatever they are.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn verify(&self, keys: &Keys) -> Result<&[u8], Refused> {
        let key = self.key(keys)?;
        if !key.takes(self.algorithm) {
            return Err(Refused::Algorithm);
        }
        if !key.verifies(self.algorithm, self.signed, &self.signature) {
            return Err(Refused::Signature);
        }
        Ok(&self.payload)
    }
}

fn text(header: &Map<String, Value>, name: &str) -> Result<Option<String>, Refused> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(Refused::NotJson);
    header.get(name).map(text).transpose()
}

/// What a token says that one of these keys has signed, and by which algorithm.
///
/// # Errors
///
/// See [`Refused`].
pub fn open(token: &str, keys: &Keys, typ: Typ) -> Result<(Map<String, Value>, Algorithm), Refused> {
    let token = Token::parse(token)?;
    let payload = token.verify(keys)?;
    // After the signature, so that its refusals tell a stranger nothing.
    if !typ.is(token.typ.as_deref()) {
        return Err(Refused::Type);
    }
    Ok((json::object(payload).map_err(|_| Refused::NotJson)?, token.algorithm))
}
