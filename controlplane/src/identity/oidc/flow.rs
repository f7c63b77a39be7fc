//! The authorization code flow with PKCE (RFC 6749, RFC 7636, RFC 9700) and the device flow (RFC 8628): what is sent, and
//! what an answer has to be. No sockets here.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use form_urlencoded::{Serializer, byte_serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::discovery::{ClientAuth, Metadata};
use super::settings::Settings;
use crate::identity::https::is_https;
use crate::identity::{Shadow, attempts, token};
use crate::portal::wire::Secret;
use crate::tokens::json;

/// Wait so long between two polls where the provider does not say (RFC 8628, section 3.2).
const INTERVAL_S: u32 = 5;
/// The most that a provider may have us wait.
const INTERVAL_MAX_S: u32 = 60;
/// The longest code that people are to type.
const USER_CODE_MAX: usize = 64;

/// A sign-in that has begun in a browser.
#[derive(Clone, Debug)]
pub struct Begun {
    /// At which provider.
    pub provider: String,
    /// What the ID token has to repeat.
    pub nonce: Secret,
    /// What only we can show when the code becomes a token.
    pub verifier: Secret,
    /// What the browser has to show.
    pub binding: Shadow,
    /// For a fresh second factor.
    pub step_up: bool,
    /// When, seconds since 1970.
    pub at: i64,
}

impl Begun {
    /// Begins one, with what the browser has to keep.
    pub fn new(provider: &str, step_up: bool, at: i64) -> (Begun, Secret) {
        let binding = token();
        let begun = Begun {
            provider: provider.to_owned(),
            nonce: token(),
            verifier: token(),
            binding: Shadow::of(&binding),
            step_up,
            at,
        };
        (begun, binding)
    }
}

/// How and when the user has signed in, which some tell only if they are asked.
const CLAIMS: &str = r#"{"id_token":{"acr":null,"amr":null,"auth_time":null}}"#;

/// What is asked for besides: how fresh and how strong the sign-in is to be, and to be told so. Who does not know these at
/// a device authorization endpoint ignores them (RFC 8628, section 3.1).
pub fn wishes(settings: &Settings, metadata: &Metadata, step_up: bool) -> Vec<(&'static str, String)> {
    let mut wishes = Vec::new();
    if metadata.takes_claims {
        wishes.push(("claims", CLAIMS.to_owned()));
    }
    if step_up {
        wishes.extend([("prompt", "login".to_owned()), ("max_age", "0".to_owned())]);
        if !settings.step_up_acr.is_empty() {
            wishes.push(("acr_values", settings.step_up_acr.join(" ")));
        }
    } else if let Some(seconds) = settings.max_age_s {
        wishes.push(("max_age", seconds.to_string()));
    }
    wishes
}

/// Where the browser is to go.
pub fn authorization_url(
    settings: &Settings,
    metadata: &Metadata,
    redirect: &str,
    state: &Secret,
    begun: &Begun,
) -> String {
    let challenge = ring::digest::digest(&ring::digest::SHA256, begun.verifier.reveal().as_bytes());
    let mut query = Serializer::new(String::new());
    query
        .append_pair("response_type", "code")
        .append_pair("client_id", &settings.client_id)
        .append_pair("redirect_uri", redirect)
        .append_pair("scope", &settings.scopes.join(" "))
        .append_pair("state", state.reveal())
        .append_pair("nonce", begun.nonce.reveal())
        .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge))
        .append_pair("code_challenge_method", "S256");
    query.extend_pairs(wishes(settings, metadata, begun.step_up));
    let separator = if metadata.authorization.contains('?') { '&' } else { '?' };
    format!("{}{separator}{}", metadata.authorization, query.finish())
}

/// A request to the token endpoint, or another one at which the client has to show who it is.
pub struct Request {
    /// Its body, a form.
    pub body: Zeroizing<String>,
    /// What follows `Authorization: Basic`.
    pub basic: Option<Zeroizing<String>>,
}

/// Makes such a request of these parameters.
pub fn request(
    settings: &Settings,
    client_auth: ClientAuth,
    secret: Option<&Secret>,
    parameters: &[(&str, &str)],
) -> Request {
    let mut form = Serializer::new(String::new());
    form.extend_pairs(parameters);
    let basic = match (client_auth, secret) {
        // RFC 6749, section 2.3.1: both are encoded as in a form first.
        (ClientAuth::Basic, Some(secret)) => {
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair =
                Zeroizing::new(format!("{}:{}", encoded(&settings.client_id), encoded(secret.reveal())));
            Some(Zeroizing::new(STANDARD.encode(pair.as_bytes())))
        }
        (ClientAuth::Post, Some(secret)) => {
            form.append_pair("client_id", &settings.client_id).append_pair("client_secret", secret.reveal());
            None
        }
        (_, None) => {
            form.append_pair("client_id", &settings.client_id);
            None
        }
    };
    Request { body: Zeroizing::new(form.finish()), basic }
}

/// What a token endpoint gives.
#[derive(Debug)]
pub struct Tokens {
    /// The ID token.
    pub id_token: Secret,
    /// The access token.
    pub access_token: Option<Secret>,
}

/// Why it gives none: `error` of RFC 6749, section 5.2, fit to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied(pub String);

/// Reads an answer of the token endpoint.
///
/// # Errors
///
/// It gives no ID token; why.
pub fn tokens(status: u16, body: &[u8]) -> Result<Tokens, Denied> {
    let body = object(status, body)?;
    let secret = |name: &str| body.get(name).and_then(Value::as_str).map(|text| Secret::new(text.to_owned()));
    let id_token = secret("id_token").ok_or(Denied("there is no ID token in the answer".to_owned()))?;
    Ok(Tokens { id_token, access_token: secret("access_token") })
}

/// The object of a good answer.
fn object(status: u16, body: &[u8]) -> Result<Map<String, Value>, Denied> {
    let body = json::object(body).map_err(|error| Denied(format!("status {status}: {error}")))?;
    if status == 200 {
        return Ok(body);
    }
    let error = body.get("error").and_then(Value::as_str).unwrap_or("no error code");
    Err(Denied(printable(error)))
}

/// What of a word of the other side may stand in a log (RFC 6749, section 4.1.2.1 allows no more).
pub fn printable(word: &str) -> String {
    word.chars().filter(char::is_ascii_graphic).take(64).collect()
}

/// A sign-in that has begun at a terminal.
#[derive(Clone, Debug)]
pub struct DeviceBegun {
    /// At which provider.
    pub provider: String,
    /// What is shown when polling.
    pub code: Secret,
    /// How often that may be done, seconds.
    pub interval_s: u32,
    /// Not before.
    pub next: Instant,
}

/// What the user is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTold {
    /// The code to type.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// With the code in it.
    pub verification_uri_complete: Option<String>,
    /// How long it holds, seconds.
    pub expires_s: u32,
}

/// Reads an answer of the device authorization endpoint (RFC 8628, section 3.2).
///
/// # Errors
///
/// What is wrong with it.
pub fn device(
    provider: &str,
    status: u16,
    body: &[u8],
    now: Instant,
) -> Result<(DeviceBegun, DeviceTold), Denied> {
    let body = object(status, body)?;
    let text = |name: &'static str| body.get(name).and_then(Value::as_str);
    let needed = |name| text(name).ok_or(Denied(format!("there is no `{name}` in the answer")));
    let page = |url: &str| {
        if is_https(url) {
            Ok(url.to_owned())
        } else {
            Err(Denied("the page is no https address".to_owned()))
        }
    };
    let user_code = needed("user_code")?;
    if user_code.is_empty()
        || user_code.chars().count() > USER_CODE_MAX
        || user_code.contains(|c: char| c.is_control())
    {
        return Err(Denied("the code is none that people could type".to_owned()));
    }
    let seconds = |name| body.get(name).and_then(Value::as_u64).map(|s| u32::try_from(s).unwrap_or(u32::MAX));
    let interval_s = seconds("interval").unwrap_or(INTERVAL_S).clamp(1, INTERVAL_MAX_S);
    let told = DeviceTold {
        user_code: user_code.to_owned(),
        verification_uri: page(needed("verification_uri")?)?,
        verification_uri_complete: text("verification_uri_complete").map(page).transpose()?,
        // No attempt is remembered for longer.
        expires_s: seconds("expires_in").unwrap_or(u32::MAX).min(attempts::LASTS.as_secs() as u32),
    };
    let begun = DeviceBegun {
        provider: provider.to_owned(),
        code: Secret::new(needed("device_code")?.to_owned()),
        interval_s,
        next: now + Duration::from_secs(interval_s.into()),
    };
    Ok((begun, told))
}

/// What a poll comes to.
#[derive(Debug)]
pub enum Polled {
    /// The user has signed in.
    Done(Tokens),
    /// Not yet.
    Wait,
    /// No, for good.
    Denied(Denied),
}

/// Reads an answer to a poll (RFC 8628, section 3.5).
pub fn polled(begun: &mut DeviceBegun, status: u16, body: &[u8]) -> Polled {
    match tokens(status, body) {
        Ok(tokens) => Polled::Done(tokens),
        Err(Denied(why)) if status == 400 && why == "authorization_pending" => Polled::Wait,
        Err(Denied(why)) if status == 400 && why == "slow_down" => {
            begun.interval_s = (begun.interval_s + 5).min(INTERVAL_MAX_S);
            Polled::Wait
        }
        Err(denied) => Polled::Denied(denied),
    }
}
