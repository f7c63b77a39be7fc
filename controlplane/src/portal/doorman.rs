//! The doorman: where clients show certificates. One process for each connection, which knows of no other.
//!
//! A TLS handshake ends somewhere, and whoever ends it can say of anybody that they were there. So the portal, which serves
//! everybody for as long as it lives, ends none with certificates. Here the gateway itself accepts a connection, knows from where
//! it comes, and gives it to a new process, confined as the portal is ([`sandbox`]). It makes the handshake, gives the gateway
//! what the client has shown and signed, and says what the gateway answers. Whoever takes it over by what they send has taken
//! over nothing but their own connection: nobody else's certificate, signature or address comes by here.
//!
//! Not even the server's key is here: the gateway signs the one handshake ([`Word::Sign`]).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use data_encoding::BASE64;
use rustix::net::SocketType;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection, SignatureAlgorithm,
    SignatureScheme, StreamOwned,
};
use serde::{Deserialize, Serialize};

use super::limits::HEAD_BYTES_MAX;
use super::wire::Secret;
use super::{cookie, pages, sandbox, wire};
use crate::identity::certificates::{Evidence, SCHEMES};

/// The header that says for how long somebody is known, seconds.
pub const LEFT: &str = "bulkhead-left";
/// The status for those who are recognised: browsers go on to the portal.
pub const RECOGNISED: u16 = 303;
/// The status for those who have shown no certificate.
pub const NOTHING_SHOWN: u16 = 401;
/// A page here loads nothing, not even the portal's style sheet, and nothing frames it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
/// What is read after the answer, bytes: a client that goes on sending has its answer all the same.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// What the gateway says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// The first message; the connection comes with it.
    Begin(Box<Setup>),
    /// The signature that was asked for, in base64.
    Signature(String),
    /// What to tell the client.
    Say(Said),
}

/// How to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The server's certificate chain, PEM.
    pub certificate: String,
    /// How its key signs: `SignatureScheme` of TLS.
    pub schemes: Vec<u16>,
    /// The names of the authorities whose certificates are wanted, in DER, base64.
    pub authorities: Vec<String>,
    /// As whom to run.
    pub uid: u32,
    /// With which group.
    pub gid: u32,
}

/// What the doorman says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Word {
    /// The server's part of the handshake is to be signed. Once.
    Sign {
        /// `SignatureScheme` of TLS.
        scheme: u16,
        /// What, in base64.
        message: String,
    },
    /// The handshake is made; with what the client has shown, if anything. Once.
    Shown(Option<Evidence>),
}

/// What a client is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// The status of HTTP.
    pub status: u16,
    /// The portal, where browsers go on.
    pub portal: Option<String>,
    /// The session's cookie.
    pub cookie: Option<Secret>,
    /// For how long they are known, if they are not seen again, seconds.
    pub left_s: Option<u64>,
    /// A line of text.
    pub text: String,
}

impl Said {
    /// As HTTP, with a page for those who show pages. What its head is made of has no line break, for the gateway says it.
    fn response(&self, with_page: bool) -> String {
        let (media, body) = if with_page {
            let is_shown = self.status != NOTHING_SHOWN;
            ("text/html", pages::door::page(&self.text, is_shown, self.portal.as_deref()))
        } else {
            ("text/plain", format!("{}\n", self.text))
        };
        let reason = match self.status {
            RECOGNISED => "See Other",
            NOTHING_SHOWN => "Unauthorized",
            403 => "Forbidden",
            503 => "Service Unavailable",
            _ => "OK",
        };
        let mut head = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: {media}; charset=utf-8\r\ncontent-length: {}\r\n\
             content-security-policy: {POLICY}\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\
             connection: close\r\n",
            self.status,
            body.len()
        );
        for (name, value) in [
            ("location", self.portal.clone().filter(|_| self.status == RECOGNISED)),
            ("set-cookie", self.set_cookie()),
            (LEFT, self.left_s.map(|left| left.to_string())),
        ] {
            head.extend(value.map(|value| format!("{name}: {value}\r\n")));
        }
        format!("{head}\r\n{body}")
    }

    fn set_cookie(&self) -> Option<String> {
        Some(cookie::set(self.cookie.as_ref()?)?.to_str().ok()?.to_owned())
    }
}

/// Runs the process that the gateway has started, for its connection.
///
/// # Errors
///
/// It was not started by the gateway, or could not confine itself.
pub fn run() -> Result<()> {
    let pair = io::stdin().as_fd().try_clone_to_owned()?;
    if rustix::net::sockopt::socket_type(&pair).ok() != Some(SocketType::SEQPACKET) {
        bail!("`bulkhead doorman` is started by the gateway: see [portal] in its configuration");
    }
    let Some((Order::Begin(setup), Some(connection))) = wire::receive::<Order>(&pair)? else {
        bail!("the gateway's first message is not the doorman's setup");
    };
    sandbox::confine(setup.uid, setup.gid)?;
    // Whatever becomes of the handshake is the client's own affair.
    let _ = serve(&Arc::new(pair), &setup, TcpStream::from(connection));
    Ok(())
}

fn serve(pair: &Arc<OwnedFd>, setup: &Setup, stream: TcpStream) -> Result<()> {
    let witness = Arc::new(Witness::new(&setup.authorities)?);
    let connection = ServerConnection::new(Arc::new(config(pair, setup, witness.clone())?))?;
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    wire::send(pair, &Word::Shown(witness.evidence()), None)?;
    let Some((Order::Say(said), None)) = wire::receive::<Order>(pair)? else {
        bail!("the gateway said what it never says");
    };
    let with_page = shows_pages(&head(&mut stream)?);
    stream.write_all(said.response(with_page).as_bytes())?;
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(Shutdown::Write)?;
    let (mut left, mut buffer) = (TAIL_BYTES_MAX, [0; 1024]);
    while left > 0 {
        match stream.sock.read(&mut buffer)? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

/// Reads to the end of a request's head. Nothing in it matters but [`shows_pages`].
fn head(stream: &mut impl Read) -> Result<Vec<u8>> {
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        head.extend_from_slice(&buffer[..count]);
        if count == 0 || head.len() > HEAD_BYTES_MAX {
            bail!("no request");
        }
    }
    Ok(head)
}

/// Whether whoever asks is a browser, which shows pages.
fn shows_pages(head: &[u8]) -> bool {
    let is_accept = |name: &str| name.eq_ignore_ascii_case("accept");
    let lines = String::from_utf8_lossy(head);
    let mut fields = lines.lines().filter_map(|line| line.split_once(':'));
    fields.any(|(name, value)| is_accept(name) && value.contains("text/html"))
}

/// TLS 1.3 only, for there a client signs the whole handshake; nothing is resumed, and nothing comes early.
fn config(pair: &Arc<OwnedFd>, setup: &Setup, witness: Arc<Witness>) -> Result<ServerConfig> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(setup.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let schemes = setup.schemes.iter().copied().map(SignatureScheme::from).collect();
    let key = Arc::new(GatewaysKey { pair: pair.clone(), schemes });
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(witness)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The server's key, which the gateway has.
#[derive(Debug)]
struct GatewaysKey {
    pair: Arc<OwnedFd>,
    schemes: Vec<SignatureScheme>,
}

impl SigningKey for GatewaysKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(Asking { pair: self.pair.clone(), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        // It only matters in TLS 1.2.
        SignatureAlgorithm::ECDSA
    }
}

#[derive(Debug)]
struct Asking {
    pair: Arc<OwnedFd>,
    scheme: SignatureScheme,
}

impl Signer for Asking {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let failed = || rustls::Error::General("the gateway has not signed".to_owned());
        let word = Word::Sign { scheme: self.scheme.into(), message: BASE64.encode(message) };
        wire::send(&self.pair, &word, None).map_err(|_| failed())?;
        match wire::receive::<Order>(&self.pair) {
            Ok(Some((Order::Signature(signature), None))) => {
                BASE64.decode(signature.as_bytes()).map_err(|_| failed())
            }
            _ => Err(failed()),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// Keeps what the client shows and signs. Whether it is worth anything, the gateway says; here only that the signature is the
/// certificate's, so that whoever has no key fails at once.
#[derive(Debug)]
struct Witness {
    authorities: Vec<DistinguishedName>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
    evidence: Mutex<Option<Evidence>>,
}

impl Witness {
    fn new(authorities: &[String]) -> Result<Witness> {
        let name = |text: &String| Ok(DistinguishedName::from(BASE64.decode(text.as_bytes())?));
        let authorities =
            authorities.iter().map(name).collect::<Result<_>>().context("the authorities' names")?;
        Ok(Witness { authorities, chain: Mutex::default(), evidence: Mutex::default() })
    }

    fn evidence(&self) -> Option<Evidence> {
        self.evidence.lock().ok()?.take()
    }
}

impl ClientCertVerifier for Witness {
    /// A client without one is told so in words.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let all = std::iter::once(own).chain(above).map(|certificate| certificate.clone().into_owned());
        if let Ok(mut chain) = self.chain.lock() {
            *chain = all.collect();
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        let valid = rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)?;
        if let (Ok(chain), Ok(mut evidence)) = (self.chain.lock(), self.evidence.lock()) {
            *evidence = Some(Evidence::new(&chain, signed.scheme, message, signed.signature()));
        }
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_http_with_a_cookie_only_where_there_is_one() {
        let said = Said { status: 403, text: "no".to_owned(), ..Said::default() };
        let text = said.response(false);
        assert!(text.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{text}");
        assert!(text.contains("\r\ncontent-length: 3\r\n") && text.ends_with("\r\n\r\nno\n"), "{text}");
        assert!(!text.contains("location: ") && !text.contains("set-cookie: "), "{text}");
        let cookie = Some(Secret::new("abc".to_owned()));
        let said = Said {
            status: 303,
            portal: Some("https://a.example/".to_owned()),
            cookie,
            left_s: Some(60),
            text: "yes".to_owned(),
        };
        let text = said.response(false);
        assert!(text.contains("\r\nlocation: https://a.example/\r\n"), "{text}");
        assert!(text.contains("\r\nbulkhead-left: 60\r\n"), "{text}");
        assert!(text.contains("\r\nset-cookie: __Host-bulkhead=abc;"), "{text}");
    }

    #[test]
    fn browsers_get_a_page_that_loads_nothing_and_leads_to_the_portal() {
        let portal = Some("https://a.example/".to_owned());
        let said = Said { status: NOTHING_SHOWN, portal, text: "<b>".to_owned(), ..Said::default() };
        let text = said.response(true);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\ncontent-type: text/html;"), "{head}");
        assert!(head.contains("\r\ncontent-security-policy: default-src 'none'; "), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(!head.contains("location: "), "{head}");
        assert!(body.contains("href=\"https://a.example/\"") && !body.contains("src="), "{body}");
    }

    #[test]
    fn a_head_is_read_whatever_is_in_it_and_one_without_end_is_not_read_on() {
        assert!(head(&mut &b"GET / HTTP/1.1\r\nhost: x\r\n\r\nrest"[..]).is_ok());
        assert!(head(&mut &b"\x16\x03\x01\r\n\r\n"[..]).is_ok());
        assert!(head(&mut &b"GET / HTTP/1.1\r\n"[..]).is_err());
        let mut endless = io::repeat(b'x');
        assert!(head(&mut endless).is_err());
    }

    #[test]
    fn who_accepts_pages_is_a_browser() {
        let is = |head: &str| shows_pages(head.as_bytes());
        assert!(is("GET / HTTP/1.1\r\nhost: x\r\nAccept: text/html,*/*;q=0.8\r\n\r\n"));
        assert!(!is("GET / HTTP/1.1\r\naccept: */*\r\n\r\n"), "curl");
        assert!(!is("GET /text/html HTTP/1.1\r\nx-accept: text/html\r\n\r\n"));
        assert!(!is("\u{fffd}accept\r\n\r\n"));
    }
}
