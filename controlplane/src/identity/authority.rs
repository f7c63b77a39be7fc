//! The gateway's own certificate authority for devices: one key in the state directory, only for its owner.
//!
//! The gateway itself knows a device by its public key, which is in the book; the certificate is for others who shall know it
//! too (an 802.1X server, a proxy), and says until when it holds.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SerialNumber,
    SignatureAlgorithm,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::store::{Disk, Files, replace};

/// Its key, in the state directory.
const KEY: &str = "device-ca.key";
/// Its certificate, beside it.
pub const CERTIFICATE: &str = "device-ca.crt";
/// The most of either file that is read.
const BYTES_MAX: u64 = 64 << 10;
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
        Authority::open_on(&Files, directory)
    }

    fn open_on(disk: &dyn Disk, directory: &Path) -> Result<Authority, String> {
        let (key_path, certificate_path) = (directory.join(KEY), directory.join(CERTIFICATE));
        let pem = kept(disk, &key_path, || {
            let made = KeyPair::generate().map_err(|error| error.to_string())?;
            Ok(Zeroizing::new(made.serialize_pem()))
        })?;
        let key = KeyPair::from_pem(&pem).map_err(|error| broken(&key_path, &error))?;
        let certificate = kept(disk, &certificate_path, || {
            let made = authority_params().self_signed(&key).map_err(|error| error.to_string())?;
            Ok(Zeroizing::new(made.pem()))
        })?;
        // Of the certificate's own fields only its subject and key matter to whom it issues for.
        Ok(Authority { issuer: Issuer::new(authority_params(), key), certificate: certificate.to_string() })
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

fn broken(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// What a file holds, which is made as a whole or not at all.
fn kept(
    disk: &dyn Disk,
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<String>, String>,
) -> Result<Zeroizing<String>, String> {
    match disk.read(path, BYTES_MAX) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| broken(path, &"it is no text"))?;
            Ok(Zeroizing::new(text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = make().map_err(|error| broken(path, &error))?;
            replace(disk, path, made.as_bytes()).map_err(|error| broken(path, &error))?;
            Ok(made)
        }
        Err(error) => Err(broken(path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::machine::{Fault, Machine};

    #[test]
    fn a_power_failure_while_the_authority_was_made_left_half_a_key_with_which_nobody_was_enrolled() {
        let mut stopped = 0;
        for step in 0.. {
            let machine = Machine::default();
            machine.arm(Some(Fault::Stop(step)));
            let made = Authority::open_on(&machine, Path::new("/state"));
            if !machine.has_struck() {
                made.map(drop).unwrap();
                break;
            }
            stopped += 1;
            for left in machine.after_power_failure() {
                let found = Authority::open_on(&left, Path::new("/state"))
                    .map_err(|why| format!("step {step}: {why}"));
                let again = Authority::open_on(&left, Path::new("/state")).unwrap();
                assert_eq!(found.unwrap().certificate(), again.certificate());
                assert!(
                    made.is_err()
                        || made.as_ref().is_ok_and(|made| made.certificate() == again.certificate())
                );
            }
        }
        assert!(stopped >= 8, "{stopped}");
    }
}
