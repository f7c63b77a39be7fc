//! The gateway's own certificate authority for devices: one key in the state directory, only for its owner.
//!
//! The gateway itself knows a device by its public key, which is in the book; the certificate is for others who shall know it
//! too (an 802.1X server, a proxy), and says until when it holds.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SerialNumber,
    SignatureAlgorithm,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// Its key, in the state directory.
const KEY: &str = "device-ca.key";
/// Its certificate, beside it.
pub const CERTIFICATE: &str = "device-ca.crt";
/// How long the authority's own certificate holds: longer than any device's.
const LASTS: Duration = Duration::days(3650);
/// The subject's serial number (X.520, section 6.2.9).
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];
/// A device's clock may be so much behind.
const SKEW: Duration = Duration::minutes(5);

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// Whom a certificate is for.
pub enum PublicKey {
    /// A device's own Ed25519 key (RFC 8032).
    Own([u8; 32]),
    /// Another key, of which the device's own key has said that it is this device's.
    Other {
        /// A point on P-256, not compressed.
        point: [u8; 65],
        /// Of the device's own key: when that is replaced, this one is worth nothing any more.
        mark: String,
    },
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        match self {
            PublicKey::Own(bytes) => bytes,
            PublicKey::Other { point, .. } => point,
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            PublicKey::Own(_) => &PKCS_ED25519,
            PublicKey::Other { .. } => &PKCS_ECDSA_P256_SHA256,
        }
    }
}

fn params(name: &str, until: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject.push(DnType::OrganizationName, "Bulkhead");
    params.distinguished_name = subject;
    params.not_before = OffsetDateTime::now_utc() - SKEW;
    params.not_after = until;
    params
}

fn authority_params() -> CertificateParams {
    let mut params = params("Bulkhead device authority", OffsetDateTime::now_utc() + LASTS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// Reads the authority of a state directory, or makes it.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written, or holds something else.
    pub fn open(directory: &Path) -> Result<Authority, String> {
        let (key_path, certificate_path) = (directory.join(KEY), directory.join(CERTIFICATE));
        let broken = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let pem = match fs::read_to_string(&key_path) {
            Ok(pem) => Zeroizing::new(pem),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = KeyPair::generate().map_err(|error| broken(&key_path, &error))?;
                let pem = Zeroizing::new(made.serialize_pem());
                write_new(&key_path, 0o600, pem.as_bytes()).map_err(|error| broken(&key_path, &error))?;
                pem
            }
            Err(error) => return Err(broken(&key_path, &error)),
        };
        let key = KeyPair::from_pem(&pem).map_err(|error| broken(&key_path, &error))?;
        let certificate = match fs::read_to_string(&certificate_path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = authority_params()
                    .self_signed(&key)
                    .map_err(|error| broken(&certificate_path, &error))?;
                let pem = made.pem();
                write_new(&certificate_path, 0o644, pem.as_bytes())
                    .map_err(|error| broken(&certificate_path, &error))?;
                pem
            }
            Err(error) => return Err(broken(&certificate_path, &error)),
        };
        // Of the certificate's own fields only its subject and key matter to whom it issues for.
        Ok(Authority { issuer: Issuer::new(authority_params(), key), certificate })
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate of a device's key, in PEM.
    ///
    /// # Errors
    ///
    /// `until` is out of the range of certificates.
    pub fn issue(&self, name: &str, key: &PublicKey, until: SystemTime) -> Result<String, String> {
        let until = OffsetDateTime::from(until);
        if until.year() > 9999 {
            return Err("a certificate cannot hold beyond the year 9999".to_owned());
        }
        let mut params = params(name, until);
        if let PublicKey::Other { mark, .. } = key {
            params.distinguished_name.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), mark.as_str());
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let mut serial = [0; 16];
        getrandom::fill(&mut serial).map_err(|error| format!("the kernel gives no random bytes: {error}"))?;
        // Positive (RFC 5280, section 4.1.2.2).
        serial[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(|error| error.to_string())?;
        Ok(certificate.pem())
    }
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
