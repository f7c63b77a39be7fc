//! SPIFFE: names of workloads, and the X.509 documents that prove them.
//!
//! After the SPIFFE-ID and X509-SVID specifications (spiffe.io): an SVID has one URI as its name, and is believed for what the
//! authorities of that very trust domain have signed.

use std::fmt;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{Certificate, Refused};

/// The longest id, bytes (SPIFFE-ID, section 2.3).
const ID_BYTES_MAX: usize = 2048;
/// The longest trust domain, bytes (SPIFFE-ID, section 2.1).
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
/// The longest bundle that is read, bytes.
pub const BUNDLE_BYTES_MAX: u64 = 1 << 20;
/// The most authorities of a bundle.
const AUTHORITIES_MAX: usize = 256;

/// A SPIFFE ID with a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    text: String,
    /// Bytes of the trust domain.
    domain: usize,
}

/// Why something is no SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoId {
    /// It does not begin with `spiffe://`.
    Scheme,
    /// It is longer than [`ID_BYTES_MAX`].
    Long,
    /// Its trust domain is empty, too long, or has other characters.
    TrustDomain,
    /// It names a trust domain, and nobody in it.
    NoPath,
    /// A part of its path is empty, `.` or `..`, or has other characters.
    Path,
}

impl fmt::Display for NoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoId::Scheme => "it does not begin with `spiffe://`",
            NoId::Long => "it has more than 2048 bytes",
            NoId::TrustDomain => {
                "its trust domain has 1 to 255 lower-case letters, digits, dots, hyphens and underscores, and nothing else"
            }
            NoId::NoPath => "it names a trust domain, and nobody in it",
            NoId::Path => {
                "the parts of its path have letters, digits, dots, hyphens and underscores, and none is empty, `.` or `..`"
            }
        })
    }
}

/// Whether this is the name of a trust domain.
pub fn is_trust_domain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (1..=TRUST_DOMAIN_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

impl Id {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn parse(text: &str) -> Result<Id, NoId> {
        let rest = text.strip_prefix("spiffe://").ok_or(NoId::Scheme)?;
        if text.len() > ID_BYTES_MAX {
            return Err(NoId::Long);
        }
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        if !is_trust_domain(domain) {
            return Err(NoId::TrustDomain);
        }
        let path = path.ok_or(NoId::NoPath)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        if !path.split('/').all(is_part) {
            return Err(NoId::Path);
        }
        Ok(Id { text: text.to_owned(), domain: domain.len() })
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.text["spiffe://".len()..][..self.domain]
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The authorities of a bundle in PEM.
///
/// # Errors
///
/// There are none, or too many, or one cannot be read; in words.
pub fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if all.is_empty() || all.len() > AUTHORITIES_MAX {
        return Err(format!("it has {} certificates, and a bundle has 1 to {AUTHORITIES_MAX}", all.len()));
    }
    for authority in &all {
        webpki::anchor_from_trusted_cert(authority)
            .map_err(|error| format!("a certificate in it: {error}"))?;
    }
    Ok(all)
}

impl Certificate {
    /// The SPIFFE ID in it; it is not verified with that.
    ///
    /// # Errors
    ///
    /// It has none, or several.
    pub fn spiffe_id(&self) -> Result<Id, Refused> {
        match self.uris.as_slice() {
            [uri] => Id::parse(uri).map_err(Refused::Id),
            uris => Err(Refused::Names(uris.len())),
        }
    }

    /// That it is an SVID for its id, by the authorities of its trust domain.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn is_svid_by(&self, bundle: &[CertificateDer<'_>], now: SystemTime) -> Result<Id, Refused> {
        let id = self.spiffe_id()?;
        self.verify(bundle, now)?;
        Ok(id)
    }
}
