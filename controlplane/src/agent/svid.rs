//! A certificate that is shown to the gateway from files: a workload's SVID, which somebody else renews.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client::Portal;
use crate::identity::unix_s;
use crate::portal::doorman::LEFT;
use crate::store::Stamp;

/// For a connection, a read or a write.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer, bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// A certificate with its chain, and its key, both in PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain, its own certificate first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What the gateway says.
    pub said: String,
    /// How long it will be so, if the certificate is not shown again.
    pub left: Duration,
}

impl Files {
    /// How they are now.
    pub fn stamp(&self) -> Stamp {
        Stamp::of([self.certificate.as_path(), self.key.as_path()])
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let reading = || format!("reading {}", self.certificate.display());
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .with_context(reading)?;
        if chain.is_empty() {
            bail!("there is no certificate in {}", self.certificate.display());
        }
        Ok(chain)
    }

    /// Shows the certificate at the gateway's certificate port.
    ///
    /// # Errors
    ///
    /// The files cannot be read, or do not belong together; the gateway cannot be reached, or recognises nobody.
    pub fn show(&self, at: &Portal) -> Result<Known> {
        let chain = self.chain()?;
        let ends_s = X509Certificate::from_der(&chain[0])
            .map(|(_, own)| u64::try_from(own.validity().not_after.timestamp()).unwrap_or_default())
            .map_err(|error| anyhow!("reading {}: {error}", self.certificate.display()))?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .with_context(|| format!("reading {}", self.key.display()))?;
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(at.verifier(&provider)?)
            .with_client_auth_cert(chain, key)
            .context("the certificate and its key")?;
        let answer = ask(at, config)?;
        let (status, left, said) = parsed(&answer).context("the gateway's answer is not understood")?;
        if status != 303 {
            bail!("the gateway says {status}: {said}");
        }
        let valid = Duration::from_secs(ends_s.saturating_sub(unix_s(SystemTime::now())));
        Ok(Known { said, left: left.min(valid) })
    }
}

fn ask(at: &Portal, config: ClientConfig) -> Result<Vec<u8>> {
    let (host, port) = at.host_and_port();
    let reaching = || format!("reaching the gateway at {}", at.authority);
    let addresses = (host, port).to_socket_addrs().with_context(reaching)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut connected = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => last = error,
        }
    }
    let stream = connected.ok_or(last).with_context(reaching)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(host.to_owned()).with_context(reaching)?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream);
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", at.authority);
    stream.write_all(request.as_bytes()).map_err(|error| at.told(error))?;
    stream.flush().map_err(|error| at.told(error))?;
    let mut answer = Vec::new();
    match (&mut stream).take(ANSWER_BYTES_MAX).read_to_end(&mut answer) {
        // A connection that is cut off after the answer is none of ours to judge: the answer says how long it is.
        Err(error) if answer.is_empty() => Err(at.told(error)),
        _ => Ok(answer),
    }
}

/// Status, for how long, and the words.
fn parsed(answer: &[u8]) -> Option<(u16, Duration, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let field = |wanted: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find_map(|(name, value)| (name == wanted).then(|| value.to_owned()))
    };
    let length: usize = field("content-length")?.parse().ok()?;
    let left_s = field(LEFT).and_then(|text| text.parse().ok()).unwrap_or_default();
    let words = body.get(..length)?.trim_end().to_owned();
    Some((status, Duration::from_secs(left_s), words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_understood_as_a_whole_or_not_at_all() {
        let whole = "HTTP/1.1 303 See Other\r\ncontent-length: 5\r\nbulkhead-left: 60\r\n\r\nhere\n";
        assert_eq!(parsed(whole.as_bytes()), Some((303, Duration::from_secs(60), "here".to_owned())));
        let no = "HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno\n";
        assert_eq!(parsed(no.as_bytes()), Some((403, Duration::ZERO, "no".to_owned())));
        for cut in ["", "HTTP/1.1 303 See", &whole[..whole.len() - 1], "HTTP/1.1 abc\r\n\r\n"] {
            assert_eq!(parsed(cut.as_bytes()), None, "{cut}");
        }
    }
}
