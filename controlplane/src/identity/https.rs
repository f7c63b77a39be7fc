//! Asking others over HTTPS: identity providers, and transmitters of security events.
//!
//! Blocking, bounded in time and size, without redirects, cookies or proxies of the environment. TLS 1.2 or 1.3 with the
//! roots of the operator's file, or of Mozilla's programme where there is none.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use zeroize::Zeroizing;

use crate::portal::wire::Secret;

/// The longest body that is read, bytes: as long as a set of keys may be.
pub const BODY_BYTES_MAX: u64 = 512 * 1024;
/// The longest file of roots, bytes.
const ROOTS_BYTES_MAX: u64 = 4 << 20;
/// How long one request may take from the look-up of the name to the last byte.
const WHOLE: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(4);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer(String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAnswer {}

/// An answer.
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
}

/// One who asks.
pub struct Https {
    agent: Agent,
}

impl Https {
    /// Trusts the roots in this file, or those of Mozilla's programme.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has no certificate in it; where and why.
    pub fn new(roots: Option<&Path>) -> Result<Https, String> {
        Https::within(roots, WHOLE)
    }

    /// As [`Https::new`], for somebody who lets one wait for an answer.
    ///
    /// # Errors
    ///
    /// As of [`Https::new`].
    pub fn within(roots: Option<&Path>, whole: Duration) -> Result<Https, String> {
        let roots = roots.map_or(Ok(RootCerts::WebPki), read_roots)?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(roots)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(whole))
            .timeout_connect(Some(CONNECT))
            .max_response_header_size(32 * 1024)
            .max_idle_connections(4)
            .user_agent("bulkhead")
            .build();
        Ok(Https { agent: config.new_agent() })
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    ///
    /// There is no answer with status 200 in time.
    pub fn get(&self, url: &str, bearer: Option<&Secret>) -> Result<Zeroizing<Vec<u8>>, NoAnswer> {
        let mut request = self.agent.get(url).header("Accept", "application/json");
        if let Some(token) = bearer {
            request = request.header("Authorization", authorization("Bearer", token.reveal()).as_str());
        }
        let answered = read(url, request.call())?;
        if answered.status != 200 {
            return Err(NoAnswer(format!("{} answers with status {}", host(url), answered.status)));
        }
        Ok(answered.body)
    }

    /// Posts a body.
    ///
    /// # Errors
    ///
    /// There is no answer in time.
    pub fn post(
        &self,
        url: &str,
        content_type: &str,
        body: &str,
        credentials: Option<(&str, &str)>,
    ) -> Result<Answered, NoAnswer> {
        let mut request =
            self.agent.post(url).header("Accept", "application/json").header("Content-Type", content_type);
        if let Some((scheme, value)) = credentials {
            request = request.header("Authorization", authorization(scheme, value).as_str());
        }
        read(url, request.send(body))
    }
}

fn authorization(scheme: &str, value: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("{scheme} {value}"))
}

fn read(
    url: &str,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Answered, NoAnswer> {
    let told = |error: ureq::Error| NoAnswer(format!("{} cannot be asked: {error}", host(url)));
    let response = response.map_err(told)?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let body = body.with_config().limit(BODY_BYTES_MAX).read_to_vec().map_err(told)?;
    Ok(Answered { status, body: Zeroizing::new(body) })
}

/// What of an address may be told: no query.
fn host(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

fn read_roots(path: &Path) -> Result<RootCerts, String> {
    let told = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| told(&error))?;
    file.take(ROOTS_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| told(&error))?;
    let mut roots: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&bytes) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| told(&error))? {
            roots.push(certificate);
        }
    }
    if roots.is_empty() {
        return Err(told(&"there is no certificate in it (PEM, `BEGIN CERTIFICATE`)"));
    }
    Ok(roots.into())
}

/// Whether the text is an address that may be asked: `https`, a host, and nothing that a log must not show.
pub fn is_https(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}".contains(c);
    !authority.is_empty() && !authority.contains('@') && url.chars().all(plain) && url.len() <= 2048
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_may_be_asked() {
        for good in ["https://idp.example", "https://idp.example:8443/a?b=c", "https://[::1]:9/"] {
            assert!(is_https(good), "{good}");
        }
        let wrong = [
            "http://idp.example",
            "https://",
            "https:///x",
            "https://a@b",
            "https://a b",
            "ftp://x",
            "",
            "https://ä",
        ];
        for wrong in wrong {
            assert!(!is_https(wrong), "{wrong}");
        }
    }

    #[test]
    fn roots_are_in_a_file_that_has_some() {
        let directory = std::env::temp_dir().join(format!("bulkhead-roots-{}", std::process::id()));
        std::fs::write(&directory, "nothing").unwrap();
        let error = Https::new(Some(&directory)).err().unwrap();
        assert!(error.contains("there is no certificate in it"), "{error}");
        std::fs::remove_file(&directory).unwrap();
        assert!(Https::new(Some(&directory)).err().unwrap().contains("No such file"));
    }
}
