//! Questions to a portal, over TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::portal::wire::{Answer, MESSAGE_BYTES_MAX, Question, Secret};
use crate::store::sha256;

/// The longest that a question may take, until its answer is here.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where Debian, and who follows it, keeps the authorities that browsers trust.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Which portal, and by what it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portal {
    /// Host or address, with a port if it is not 443; as it stands between `https://` and the path.
    pub authority: String,
    /// SHA-256 of its certificate, in hexadecimal without colons.
    pub fingerprint: Option<String>,
    /// File of the authorities that it may be known by.
    pub authorities: Option<PathBuf>,
}

impl Portal {
    /// From what a user writes.
    ///
    /// # Errors
    ///
    /// It is no place of a portal, or no fingerprint.
    pub fn parse(url: &str, fingerprint: Option<&str>, authorities: Option<PathBuf>) -> Result<Portal> {
        let authority = url.strip_prefix("https://").unwrap_or(url).trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', ' ', '?', '#']) || authority.contains("://")
        {
            bail!("--portal: {url:?} is no portal; give it as https://ADDRESS or https://ADDRESS:PORT");
        }
        let fingerprint = fingerprint.map(|text| {
            let plain: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
            let is_whole = plain.len() == 64 && plain.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_whole.then_some(plain).ok_or_else(|| {
                anyhow!("--fingerprint: it is the SHA-256 of a certificate, 64 hexadecimal digits; `bulkhead status` on the gateway shows it")
            })
        });
        Ok(Portal { authority: authority.to_owned(), fingerprint: fingerprint.transpose()?, authorities })
    }

    /// Host and port.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        let (host, port) = match self.authority.rsplit_once(':') {
            // A colon inside brackets, or one of several without brackets, is part of an IPv6 address.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
                Ok(port) => (host, port),
                Err(_) => (self.authority.as_str(), 443),
            },
            _ => (self.authority.as_str(), 443),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }

    pub(super) fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
        if let Some(fingerprint) = &self.fingerprint {
            return Ok(Arc::new(Pinned { fingerprint: fingerprint.clone(), provider: provider.clone() }));
        }
        let file = self.authorities.clone().unwrap_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&file).with_context(|| {
            format!("reading the authorities in {}; or give --fingerprint", file.display())
        })? {
            // The system's bundle may hold some that nobody can read.
            let _ = roots.add(certificate.with_context(|| format!("in {}", file.display()))?);
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        Ok(verifier.with_context(|| format!("there is no authority in {}", file.display()))?)
    }

    /// Asks.
    ///
    /// # Errors
    ///
    /// The portal cannot be reached, is not the one that was meant, or says what is not understood.
    pub fn ask(&self, question: &Question, cookie: Option<&Secret>) -> Result<Answer> {
        let mut fields = serde_json::to_value(question)?;
        let ask = fields.as_object_mut().and_then(|fields| fields.remove("ask"));
        let ask = ask.as_ref().and_then(|ask| ask.as_str()).context("a question has a name")?;
        let mut request = Request::post(format!("/api/v1/{ask}"))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(cookie) = cookie {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", cookie.reveal()));
        }
        let response = self.send(request.body(Full::new(Bytes::from(fields.to_string())))?)?;
        serde_json::from_slice(response.body()).map_err(|_| {
            let status = response.status();
            anyhow!("the portal at {} says {status}, and nothing that is understood", self.authority)
        })
    }

    /// Sends any request, on a connection of its own, and returns the whole answer.
    ///
    /// # Errors
    ///
    /// The portal cannot be reached, is not the one that was meant, or does not answer in time and length.
    pub(crate) fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sent = async { tokio::time::timeout(PATIENCE, self.send_now(request)).await };
        let response = runtime.block_on(sent);
        response.map_err(|_| anyhow!("the portal at {} does not answer", self.authority))?
    }

    async fn send_now(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        let (host, port) = self.host_and_port();
        let reaching = || format!("reaching the portal at {}", self.authority);
        let stream = TcpStream::connect((host, port)).await.with_context(reaching)?;
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(&provider)?)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).with_context(reaching)?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| self.told(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or with the time.
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.with_context(reaching)?.into_parts();
        let body = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!("{}: {error}", reaching()))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// What went wrong with the certificate, and what to do.
    pub(super) fn told(&self, error: std::io::Error) -> anyhow::Error {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let authority = &self.authority;
        match inner {
            Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
                anyhow!(
                    "the portal at {authority} has another certificate than the fingerprint says: \
                 it is not the one that you mean, or its certificate was renewed (`bulkhead status` on the gateway shows it)"
                )
            }
            Some(rustls::Error::InvalidCertificate(why)) => anyhow!(
                "the portal at {authority} cannot be believed: {why:?}; give its authority with --ca, or its certificate with \
                 --fingerprint, as `bulkhead status` on the gateway shows it"
            ),
            _ => anyhow!(error).context(format!("reaching the portal at {authority}")),
        }
    }
}

/// Takes one certificate, whoever has signed it and whatever name is in it.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if sha256(end_entity) == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn a_portal_is_a_place_and_what_it_is_known_by() {
        for (url, expected) in [
            ("https://10.1.0.1", ("10.1.0.1", 443)),
            ("10.1.0.1:8443/", ("10.1.0.1", 8443)),
            ("https://portal.example.org:444", ("portal.example.org", 444)),
            ("https://[fd00:1::1]", ("fd00:1::1", 443)),
            ("https://[fd00:1::1]:8443", ("fd00:1::1", 8443)),
            ("fd00:1::1", ("fd00:1::1", 443)),
        ] {
            let portal = Portal::parse(url, None, None).unwrap();
            assert_eq!(portal.host_and_port(), expected, "{url}");
        }
        for url in ["", "https://", "http://10.1.0.1", "https://a/b", "https://me@a"] {
            assert!(Portal::parse(url, None, None).is_err(), "{url}");
        }
        let colons = ["AB"; 32].join(":");
        let portal = Portal::parse("a", Some(&colons), None).unwrap();
        assert_eq!(portal.fingerprint.as_deref(), Some("ab".repeat(32).as_str()));
        assert!(Portal::parse("a", Some("abc"), None).is_err());
    }

    #[test]
    fn a_certificate_that_is_not_the_pinned_one_is_refused() {
        let made = rcgen::generate_simple_self_signed(["portal.test".to_owned()]).unwrap();
        let der = made.cert.der();
        let check = |fingerprint: String| {
            let pinned = Pinned { fingerprint, provider: Arc::new(ring::default_provider()) };
            let name = ServerName::try_from("elsewhere.test").unwrap();
            pinned
                .verify_server_cert(der, &[], &name, &[], UnixTime::since_unix_epoch(Duration::ZERO))
                .is_ok()
        };
        assert!(check(sha256(der)));
        assert!(!check("00".repeat(32)));
    }

    #[test]
    fn nobody_answers_at_a_place_where_no_portal_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place: SocketAddr = listener.local_addr().unwrap();
        drop(listener);
        let portal = Portal::parse(&place.to_string(), Some(&"00".repeat(32)), None).unwrap();
        let error = format!("{:#}", portal.ask(&Question::Standing, None).unwrap_err());
        assert!(error.contains(&place.to_string()) && error.contains("refused"), "{error}");
    }
}
