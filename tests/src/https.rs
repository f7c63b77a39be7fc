//! A client of the portal that sends exactly what a test wants: whole requests, halves of them, and what is none.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bulkhead::lab::Host;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use rustls::{SupportedProtocolVersion, version};

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(15);
/// The name under which the tests' portals are known.
pub const NAME: &str = "portal.test";

/// Believes any certificate, but not that somebody has its key who has not.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// Reads one; `None` when it is none.
    fn parse(bytes: &[u8]) -> Option<Answer> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Some(Answer { status, headers: headers.collect(), body: body.to_owned() })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The session's cookie that it sets, as `Cookie` gives it back.
    pub fn cookie(&self) -> Option<String> {
        /// That of a browser that is told to forget it.
        const NONE: &str = "__Host-bulkhead=";
        let set = self.headers.iter().filter(|(name, _)| name == "set-cookie");
        let mut pairs = set.filter_map(|(_, value)| value.split(';').next());
        pairs.find(|pair| pair.len() > NONE.len() && pair.starts_with(NONE)).map(str::to_owned)
    }
}

/// A connection on which TLS is spoken.
pub struct Client(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    /// Connects from a host, with TLS 1.3 or 1.2.
    ///
    /// # Errors
    /// The portal does not want it.
    pub fn connect(host: &Host, to: SocketAddr) -> io::Result<Client> {
        Client::connect_with(host, to, &[&version::TLS13, &version::TLS12], &[b"http/1.1"])
    }

    /// As [`Client::connect`], with these versions of TLS and these protocols inside.
    ///
    /// # Errors
    /// The portal does not want it.
    pub fn connect_with(
        host: &Host,
        to: SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> io::Result<Client> {
        Client::over(dial(host, to)?, versions, protocols)
    }

    /// Over a connection that is there.
    ///
    /// # Errors
    /// The portal does not want it.
    pub fn over(
        stream: TcpStream,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> io::Result<Client> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut client = Client(StreamOwned::new(connection, stream));
        while client.0.conn.is_handshaking() {
            client.0.conn.complete_io(&mut client.0.sock)?;
        }
        Ok(client)
    }

    /// The version that was agreed upon.
    pub fn version(&self) -> Option<rustls::ProtocolVersion> {
        self.0.conn.protocol_version()
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The portal has closed.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// All that comes until the portal closes; what came before an error counts.
    pub fn rest(&mut self) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count) = self.0.read(&mut buffer) {
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&buffer[..count]);
        }
        bytes
    }

    /// One answer, to a request that asked to close; `None` when what came is none.
    pub fn answer(&mut self) -> Option<Answer> {
        Answer::parse(&self.rest())
    }
}

/// A certificate that a client shows, and the key with which it signs: perhaps not the certificate's.
pub struct Shown {
    /// The chain, in PEM.
    pub chain: Vec<u8>,
    /// PKCS #8.
    pub key: Vec<u8>,
}

/// Shows it at the door.
///
/// # Errors
/// The handshake fails.
///
/// # Panics
/// Panics when it is no certificate or no key.
pub fn show(host: &Host, to: SocketAddr, shown: &Shown) -> io::Result<Answer> {
    use rustls::client::ResolvesClientCert;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    let provider = Arc::new(ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(&shown.chain).map(|one| one.expect("a certificate")).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(shown.key.clone()));
    let key = ring::sign::any_supported_type(&key).expect("a key");
    // Not asked whether they belong together, as an honest client would be.
    let both: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_client_cert_resolver(both);
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut client = Client(StreamOwned::new(connection, dial(host, to)?));
    client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
    client.answer().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// A TCP connection from a host.
///
/// # Errors
/// It is refused, or nobody answers.
pub fn dial(host: &Host, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = host.namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// As [`dial`], from one of the host's addresses.
///
/// # Errors
/// As of [`dial`].
pub fn dial_from(host: &Host, source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = host.namespace.run(|| dial_here(source, to))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// From an address of the namespace in which this is called.
///
/// # Errors
/// As of [`dial`].
pub fn dial_here(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// Sends a request with these header lines, and reads the answer.
///
/// # Panics
/// Panics when there is none.
pub fn ask(host: &Host, to: SocketAddr, first: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut client = Client::connect(host, to).expect("the portal speaks TLS");
    let mut head = format!("{first} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n");
    for header in headers {
        head += &format!("{header}\r\n");
    }
    if first.starts_with("POST") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let request = [head.as_bytes(), body].concat();
    client.send(&request).expect("the portal takes the request");
    client.answer().unwrap_or_else(|| panic!("no answer to {first}"))
}

/// Gets a page, with a cookie if there is one.
pub fn get(host: &Host, to: SocketAddr, path: &str, cookie: Option<&str>) -> Answer {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}"));
    let headers: Vec<&str> = cookie.iter().map(String::as_str).collect();
    ask(host, to, &format!("GET {path}"), &headers, b"")
}

/// Sends a form as a browser does from the portal's own page.
pub fn post(host: &Host, to: SocketAddr, path: &str, cookie: Option<&str>, form: &str) -> Answer {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}"));
    let mut headers = vec!["Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: same-origin"];
    headers.extend(cookie.as_deref());
    ask(host, to, &format!("POST {path}"), &headers, form.as_bytes())
}
