//! What an identity provider says of itself (OpenID Connect Discovery 1.0, RFC 8414, RFC 8628, RFC 9207).

use serde_json::{Map, Value};

use crate::identity::https::is_https;
use crate::tokens::json;

/// How the client shows who it is at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_secret_basic`.
    Basic,
    /// `client_secret_post`.
    Post,
}

/// What is needed of the provider's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Where browsers go.
    pub authorization: String,
    /// Where codes become tokens.
    pub token: String,
    /// Where its keys are.
    pub keys: String,
    /// Where terminals begin.
    pub device: Option<String>,
    /// Where claims are that are not in the ID token.
    pub userinfo: Option<String>,
    /// It names itself in what it sends browsers back with.
    pub names_itself: bool,
    /// It can be asked for single claims (Core, section 5.5).
    pub takes_claims: bool,
    /// How it wants us to show the secret.
    pub client_auth: ClientAuth,
}

/// Where an issuer's metadata are (Discovery, section 4).
pub fn address(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// Reads the metadata of this issuer.
///
/// # Errors
///
/// What is wrong with them.
pub fn read(issuer: &str, bytes: &[u8]) -> Result<Metadata, String> {
    let metadata = json::object(bytes).map_err(|error| format!("the provider's metadata: {error}"))?;
    // Section 4.3: else one provider could speak for another.
    let named = metadata.get("issuer").and_then(Value::as_str).unwrap_or_default();
    if named != issuer {
        return Err(format!(
            "the provider's metadata name the issuer {named:?}, and the configuration {issuer:?}"
        ));
    }
    let needed = |name| endpoint(&metadata, name)?.ok_or(format!("the provider's metadata have no `{name}`"));
    if !names(&metadata, "response_types_supported").is_none_or(|types| types.contains(&"code")) {
        return Err("the provider does not support the code flow".to_owned());
    }
    if names(&metadata, "code_challenge_methods_supported").is_some_and(|list| !list.contains(&"S256")) {
        return Err("the provider does not support PKCE with S256 (RFC 7636)".to_owned());
    }
    let says_yes = |name| metadata.get(name) == Some(&Value::Bool(true));
    let methods = names(&metadata, "token_endpoint_auth_methods_supported");
    let client_auth = match methods {
        // The default (Discovery, section 3).
        None => ClientAuth::Basic,
        Some(methods) if methods.contains(&"client_secret_basic") => ClientAuth::Basic,
        Some(_) => ClientAuth::Post,
    };
    Ok(Metadata {
        authorization: needed("authorization_endpoint")?,
        token: needed("token_endpoint")?,
        keys: needed("jwks_uri")?,
        device: endpoint(&metadata, "device_authorization_endpoint")?,
        userinfo: endpoint(&metadata, "userinfo_endpoint")?,
        names_itself: says_yes("authorization_response_iss_parameter_supported"),
        takes_claims: says_yes("claims_parameter_supported"),
        client_auth,
    })
}

fn endpoint(metadata: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    let Some(value) = metadata.get(name) else { return Ok(None) };
    match value.as_str() {
        Some(url) if is_https(url) && !url.contains('#') => Ok(Some(url.to_owned())),
        _ => Err(format!("the provider's metadata have a `{name}` that is no https address")),
    }
}

fn names<'m>(metadata: &'m Map<String, Value>, name: &str) -> Option<Vec<&'m str>> {
    Some(metadata.get(name)?.as_array()?.iter().filter_map(Value::as_str).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://idp.example/realms/one";

    fn good() -> Value {
        json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://idp.example/auth",
            "token_endpoint": "https://idp.example/token",
            "jwks_uri": "https://idp.example/keys",
            "response_types_supported": ["code", "id_token"],
            "code_challenge_methods_supported": ["plain", "S256"],
        })
    }

    fn with(name: &str, value: Value) -> Result<Metadata, String> {
        let mut metadata = good();
        metadata[name] = value;
        read(ISSUER, metadata.to_string().as_bytes())
    }

    #[test]
    fn metadata_are_found_beside_the_issuer() {
        let expected = "https://idp.example/realms/one/.well-known/openid-configuration";
        assert_eq!(address(ISSUER), expected);
        assert_eq!(address("https://idp.example/"), "https://idp.example/.well-known/openid-configuration");
    }

    /// OIDF: `oidcc-client-test-discovery-issuer-mismatch`.
    #[test]
    fn c3_a_provider_speaks_only_for_itself() {
        assert!(read(ISSUER, good().to_string().as_bytes()).is_ok());
        for issuer in ["https://idp.example/realms/two", "https://idp.example/realms/one/", ""] {
            assert!(with("issuer", json!(issuer)).unwrap_err().contains("name the issuer"), "{issuer}");
        }
    }

    #[test]
    fn endpoints_are_https_and_what_is_needed_is_there() {
        for name in ["authorization_endpoint", "token_endpoint", "jwks_uri"] {
            assert!(with(name, json!("http://idp.example/x")).unwrap_err().contains(name));
            let mut metadata = good();
            metadata.as_object_mut().unwrap().remove(name);
            let error = read(ISSUER, metadata.to_string().as_bytes()).unwrap_err();
            assert!(error.contains(&format!("have no `{name}`")), "{error}");
        }
        assert!(with("device_authorization_endpoint", json!("javascript:x")).is_err());
        assert!(with("code_challenge_methods_supported", json!(["plain"])).unwrap_err().contains("S256"));
        assert!(with("response_types_supported", json!(["id_token"])).unwrap_err().contains("code flow"));
        assert!(read(ISSUER, b"{}").is_err() && read(ISSUER, b"no").is_err());
    }

    #[test]
    fn the_secret_is_shown_as_the_provider_wants_it() {
        let of = |methods| with("token_endpoint_auth_methods_supported", methods).unwrap().client_auth;
        assert_eq!(of(json!(["client_secret_post", "client_secret_basic"])), ClientAuth::Basic);
        assert_eq!(of(json!(["private_key_jwt", "client_secret_post"])), ClientAuth::Post);
        assert_eq!(with("x", json!(1)).unwrap().client_auth, ClientAuth::Basic);
    }
}
