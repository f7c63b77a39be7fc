//! What an ID token has to say (OpenID Connect Core, section 3.1.3.7), and what it tells of whoever signed in.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};

use super::key::Algorithm;

/// How far two clocks may be apart, seconds. It is granted to `exp`, `nbf`, `iat` and `auth_time`, always against whoever
/// showed the token from the other side: a token lives at most this much too long.
pub const LEEWAY_S: i64 = 60;
/// How long before it is shown an ID token may have been issued, seconds: it comes right from the provider.
pub const AGE_MAX_S: i64 = 600;
/// The longest `sub`, octets of ASCII (section 2).
const SUBJECT_MAX: usize = 255;
/// The most groups, and authentication methods, that one token may tell.
pub const GROUPS_MAX: usize = 1000;

/// What is expected of an ID token.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// `iss`, to the letter.
    pub issuer: &'a str,
    /// Our client id: `aud`, and `azp` where there is one.
    pub client: &'a str,
    /// `nonce`, as it was sent; `None` where none could be (RFC 8628).
    pub nonce: Option<&'a str>,
    /// The access token that came with it, which `at_hash` has to be of if there is one.
    pub access_token: Option<&'a str>,
    /// `auth_time` has to be there and not older, seconds.
    pub auth_age_max_s: Option<i64>,
    /// The time, seconds since 1970.
    pub now: i64,
}

/// Which claim does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is missing.
    Missing(&'static str),
    /// It is of the wrong type, or out of all bounds.
    Malformed(&'static str),
    /// It is not what was expected.
    Mismatch(&'static str),
    /// `exp` or the age of `iat` is over.
    Expired,
    /// `nbf`, `iat` or `auth_time` is in the future.
    NotYet(&'static str),
    /// The user signed in longer ago than was asked for.
    Stale,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Missing(claim) => write!(f, "the claim `{claim}` is missing"),
            Wrong::Malformed(claim) => write!(f, "the claim `{claim}` is not what its definition says"),
            Wrong::Mismatch(claim) => write!(f, "the claim `{claim}` is not what was expected"),
            Wrong::Expired => f.write_str("it has expired, or was issued too long ago; is the clock right?"),
            Wrong::NotYet(claim) => write!(f, "the claim `{claim}` is in the future; is the clock right?"),
            Wrong::Stale => f.write_str("the sign-in that it tells of is too long ago"),
        }
    }
}

impl std::error::Error for Wrong {}

/// What an ID token tells.
#[derive(Clone, Debug, PartialEq)]
pub struct IdToken {
    /// `sub`.
    pub subject: String,
    /// `auth_time`, seconds since 1970.
    pub auth_time: Option<i64>,
    /// `acr`.
    pub acr: Option<String>,
    /// `amr`.
    pub amr: Vec<String>,
    /// `sid`, which Shared Signals may name.
    pub sid: Option<String>,
    /// All claims.
    pub claims: Map<String, Value>,
}

/// Holds the claims of an ID token against what is expected.
///
/// # Errors
///
/// See [`Wrong`].
pub fn id_token(
    claims: Map<String, Value>,
    algorithm: Algorithm,
    expected: &Expected<'_>,
) -> Result<IdToken, Wrong> {
    if text(&claims, "iss")?.ok_or(Wrong::Missing("iss"))? != expected.issuer {
        return Err(Wrong::Mismatch("iss"));
    }
    check_audience(&claims, expected.client)?;
    let subject = text(&claims, "sub")?.ok_or(Wrong::Missing("sub"))?;
    if subject.is_empty() || subject.len() > SUBJECT_MAX || !subject.is_ascii() {
        return Err(Wrong::Malformed("sub"));
    }
    check_times(&claims, expected.now, AGE_MAX_S)?;
    if let Some(nonce) = expected.nonce
        && text(&claims, "nonce")?.ok_or(Wrong::Missing("nonce"))? != nonce
    {
        return Err(Wrong::Mismatch("nonce"));
    }
    // Where the access token comes from the token endpoint `at_hash` may be missing (section 3.1.3.6), never wrong.
    if let Some(hash) = text(&claims, "at_hash")?
        && expected.access_token.is_none_or(|token| at_hash(algorithm, token) != hash)
    {
        return Err(Wrong::Mismatch("at_hash"));
    }
    let auth_time = date(&claims, "auth_time")?;
    if auth_time.is_some_and(|at| at > expected.now + LEEWAY_S) {
        return Err(Wrong::NotYet("auth_time"));
    }
    if let Some(most) = expected.auth_age_max_s {
        let at = auth_time.ok_or(Wrong::Missing("auth_time"))?;
        if expected.now - at > most + LEEWAY_S {
            return Err(Wrong::Stale);
        }
    }
    let optional = |claim| text(&claims, claim).map(|text| text.map(str::to_owned));
    Ok(IdToken {
        subject: subject.to_owned(),
        auth_time,
        acr: optional("acr")?,
        amr: claims.get("amr").map_or(Ok(Vec::new()), |amr| texts(amr, "amr"))?,
        sid: optional("sid")?,
        claims,
    })
}

/// `aud` names us; if it names others too, or anybody is named by `azp`, `azp` is us.
fn check_audience(claims: &Map<String, Value>, client: &str) -> Result<(), Wrong> {
    let audience = claims.get("aud").ok_or(Wrong::Missing("aud"))?;
    let audience = match audience {
        Value::String(one) => vec![one.clone()],
        Value::Array(_) => texts(audience, "aud")?,
        _ => return Err(Wrong::Malformed("aud")),
    };
    if !audience.iter().any(|name| name == client) {
        return Err(Wrong::Mismatch("aud"));
    }
    match text(claims, "azp")? {
        Some(party) if party != client => Err(Wrong::Mismatch("azp")),
        None if audience.iter().any(|name| name != client) => Err(Wrong::Missing("azp")),
        _ => Ok(()),
    }
}

/// `exp`, `nbf`, `iat`; the last at most so many seconds ago.
fn check_times(claims: &Map<String, Value>, now: i64, age_max_s: i64) -> Result<(), Wrong> {
    let expires = date(claims, "exp")?.ok_or(Wrong::Missing("exp"))?;
    let issued = date(claims, "iat")?.ok_or(Wrong::Missing("iat"))?;
    if now >= expires + LEEWAY_S || now - issued > age_max_s + LEEWAY_S {
        return Err(Wrong::Expired);
    }
    if issued > now + LEEWAY_S {
        return Err(Wrong::NotYet("iat"));
    }
    if date(claims, "nbf")?.is_some_and(|from| from > now + LEEWAY_S) {
        return Err(Wrong::NotYet("nbf"));
    }
    Ok(())
}

/// The left half of the hash of an access token (section 3.1.3.6).
pub fn at_hash(algorithm: Algorithm, access_token: &str) -> String {
    let digest = ring::digest::digest(algorithm.hash(), access_token.as_bytes());
    let half = &digest.as_ref()[..digest.as_ref().len() / 2];
    URL_SAFE_NO_PAD.encode(half)
}

/// A claim that is a string, if it is there.
///
/// # Errors
///
/// It is something else.
pub fn text<'c>(claims: &'c Map<String, Value>, claim: &'static str) -> Result<Option<&'c str>, Wrong> {
    claims.get(claim).map(|value| value.as_str().ok_or(Wrong::Malformed(claim))).transpose()
}

/// A NumericDate (RFC 7519, section 2) in whole seconds since 1970, if it is there.
///
/// # Errors
///
/// It is something else, or before 1970, or after the year 9999.
pub fn date(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<i64>, Wrong> {
    /// 9999-12-31T23:59:59Z.
    const LAST: f64 = 253_402_300_799.0;
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().ok_or(Wrong::Malformed(claim))?;
    // The fraction is of no account beside the leeway.
    if (0.0..=LAST).contains(&seconds) { Ok(Some(seconds as i64)) } else { Err(Wrong::Malformed(claim)) }
}

/// A list of strings, or one string.
fn texts(value: &Value, claim: &'static str) -> Result<Vec<String>, Wrong> {
    let list = match value {
        Value::String(one) => return Ok(vec![one.clone()]),
        Value::Array(list) if list.len() <= GROUPS_MAX => list,
        _ => return Err(Wrong::Malformed(claim)),
    };
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(Wrong::Malformed(claim));
    list.iter().map(text).collect()
}

/// The groups that a token tells: a claim of this name (`groups`, `https://example.org/groups`), or one inside of
/// others (`realm_access.roles`). One that is not there tells none.
///
/// # Errors
///
/// It is not a list of strings, or too long a one, or the token only says where the groups could be fetched (OpenID
/// Connect Core, section 5.6.2): whoever would be denied by a group must not be taken for somebody who is in none.
pub fn groups(claims: &Map<String, Value>, path: &str) -> Result<Vec<String>, Wrong> {
    if claims.get("_claim_names").and_then(|names| names.get(path)).is_some() {
        return Err(Wrong::Missing("groups"));
    }
    let found = claims.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
    });
    found.map_or(Ok(Vec::new()), |value| texts(value, "groups"))
}

/// How a user has shown who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strength {
    /// With more than one factor.
    pub second_factor: bool,
    /// With one that cannot be phished.
    pub phishing_resistant: bool,
}

/// What an operator trusts a provider's words to mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Trusted {
    /// Values of `acr` that tell of a second factor.
    pub mfa_acr: Vec<String>,
    /// Values of `acr` that tell of one that cannot be phished, beside `phr` and `phrh`.
    pub phishing_resistant_acr: Vec<String>,
    /// Values of `amr` that tell of one that cannot be phished.
    pub phishing_resistant_amr: Vec<String>,
}

/// Authentication methods by what they prove (RFC 8176, section 2): that one knows, has, is.
const KNOWS: [&str; 3] = ["pwd", "pin", "kba"];
const HAS: [&str; 8] = ["hwk", "swk", "otp", "sc", "sms", "tel", "pop", "fido"];
const IS: [&str; 5] = ["face", "fpt", "iris", "retina", "vbm"];

/// What `acr` and `amr` say. `mfa` is a second factor, and so are methods of two kinds together; that something was signed
/// with a key (`hwk`, `pop`) does not by itself mean that it could not be phished.
pub fn strength(token: &IdToken, trusted: &Trusted) -> Strength {
    let acr = token.acr.as_deref().unwrap_or_default();
    let names = |list: &[String]| list.iter().any(|value| value == acr) && !acr.is_empty();
    // OpenID Connect EAP ACR Values, section 4.
    let phishing_resistant = ["phr", "phrh"].contains(&acr)
        || names(&trusted.phishing_resistant_acr)
        || token.amr.iter().any(|method| trusted.phishing_resistant_amr.contains(method));
    let any = |kind: &[&str]| token.amr.iter().any(|method| kind.contains(&method.as_str()));
    let kinds = [any(&KNOWS), any(&HAS), any(&IS)].into_iter().filter(|shown| *shown).count();
    let second_factor = phishing_resistant || names(&trusted.mfa_acr) || any(&["mfa"]) || kinds > 1;
    Strength { second_factor, phishing_resistant }
}
