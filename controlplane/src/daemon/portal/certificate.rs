//! The portal's certificate: from the files that the configuration names, or one that the gateway makes for itself.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use jiff::{Timestamp, ToSpan, tz};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::model::Portal;
use crate::portal::{self, wire::Secret};
use crate::store::disk::{self, Files};

/// The file in the state directory.
const FILE: &str = "portal.json";
/// The longest file that is read, bytes: a chain of a dozen certificates has a tenth.
const FILE_BYTES_MAX: u64 = 48 * 1024;
/// How long one of our own lasts: as long as browsers believe one at all (398 days).
const DAYS: i64 = 397;
/// So long before its end it is made anew.
const RENEWED_DAYS: i64 = 30;

/// A certificate with its key.
pub struct Certificate {
    /// PEM.
    pub chain: String,
    /// PEM.
    pub key: Secret,
    /// SHA-256 of the first certificate, as browsers show it.
    pub fingerprint: String,
    /// It is of our own making, so browsers ask their users whether to believe it.
    pub is_own: bool,
}

/// The files of the certificate, unless it is of our own making.
pub fn files(portal: &Portal) -> impl Iterator<Item = &Path> {
    portal.files.iter().flat_map(|(certificate, key)| [certificate.as_path(), key.as_path()])
}

/// One of our own, as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    /// Seconds since 1970.
    made_s: i64,
    certificate: String,
    key: Secret,
}

/// The certificate for this portal, at these addresses.
///
/// # Errors
///
/// A file cannot be read, or certificate and key do not fit, in words.
pub fn of(portal: &Portal, state: &Path, addresses: &[IpAddr]) -> Result<Certificate, String> {
    let (chain, key) = match &portal.files {
        Some((certificate, key)) => (read(certificate)?, Secret::new(read(key)?.to_string())),
        None => own(portal, state, addresses)?,
    };
    let chain = chain.to_string();
    let told = |error: &dyn std::fmt::Display| match &portal.files {
        Some((certificate, key)) => format!("{} and {}: {error}", certificate.display(), key.display()),
        None => format!("{}: {error}; remove it, and it is made anew", state.join(FILE).display()),
    };
    // Here it can be told where an operator sees it; the portal would only end.
    portal::tls(&chain, &key).map_err(|error| told(&format!("{error:#}")))?;
    let first = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| told(&error))?;
    Ok(Certificate { fingerprint: fingerprint(&first), chain, key, is_own: portal.files.is_none() })
}

fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let wrong = |error: String| format!("{}: {error}", path.display());
    let length = fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(format!("it has {length} bytes, and more than {FILE_BYTES_MAX} are not read")));
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(|error| wrong(error.to_string()))
}

/// The one in the state directory, if it is still good; else a new one, which is kept there.
fn own(portal: &Portal, state: &Path, addresses: &[IpAddr]) -> Result<(Zeroizing<String>, Secret), String> {
    let path = state.join(FILE);
    let now = Timestamp::now();
    let kept = match fs::read(&path).map(Zeroizing::new) {
        Ok(bytes) => serde_json::from_slice::<Kept>(&bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let is_good = |kept: &Kept| {
        let age_days = now.as_second().saturating_sub(kept.made_s) / 86_400;
        kept.name == portal.name && (0..DAYS - RENEWED_DAYS).contains(&age_days)
    };
    if let Some(kept) = kept.filter(is_good) {
        return Ok((Zeroizing::new(kept.certificate), kept.key));
    }
    let kept =
        make(&portal.name, addresses, now).map_err(|error| format!("making a certificate: {error}"))?;
    let bytes = serde_json::to_vec(&kept).map(Zeroizing::new);
    let bytes = bytes.map_err(|error| format!("making a certificate: {error}"))?;
    let written =
        disk::Disk::make_directory(&Files, state).and_then(|()| disk::replace(&Files, &path, &bytes));
    written.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((Zeroizing::new(kept.certificate), kept.key))
}

/// A self-signed certificate for a name and addresses.
fn make(name: &str, addresses: &[IpAddr], now: Timestamp) -> Result<Kept, rcgen::Error> {
    let names = [name.to_owned()].into_iter().chain(addresses.iter().map(IpAddr::to_string));
    let mut params = CertificateParams::new(names.collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let day = |days: i64| {
        let date = tz::Offset::UTC.to_datetime(now).date();
        let date = date.checked_add(days.days()).unwrap_or(date);
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    // Clocks differ.
    (params.not_before, params.not_after) = (day(-1), day(DAYS));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Kept {
        name: name.to_owned(),
        made_s: now.as_second(),
        certificate,
        key: Secret::new(key.serialize_pem()),
    })
}

/// SHA-256 in pairs of hexadecimal digits.
fn fingerprint(certificate: &[u8]) -> String {
    let pairs: Vec<String> = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use bulkhead_dataplane::verdict::PortId;

    use super::*;
    use crate::store::Stamp;

    /// A directory that goes with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn portal(name: &str, files: Option<(PathBuf, PathBuf)>) -> Portal {
        Portal {
            ports: vec![PortId(0)],
            port: 443,
            redirect_port: None,
            certificate_port: None,
            name: name.to_owned(),
            files,
            user: "nobody".to_owned(),
        }
    }

    const ADDRESS: &str = "10.1.0.1";

    fn made(portal: &Portal, state: &Path) -> Result<Certificate, String> {
        of(portal, state, &[ADDRESS.parse().unwrap()])
    }

    #[test]
    fn one_of_our_own_is_made_once_kept_to_ourselves_and_stays_for_its_name() {
        let state = Directory::new("own-certificate");
        let first = made(&portal("a.example", None), &state.0).unwrap();
        assert!(first.is_own && first.fingerprint.len() == 95, "{}", first.fingerprint);
        let mode = fs::metadata(state.0.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = made(&portal("a.example", None), &state.0).unwrap();
        assert_eq!(again.fingerprint, first.fingerprint);
        let other = made(&portal("b.example", None), &state.0).unwrap();
        assert_ne!(other.fingerprint, first.fingerprint);
    }

    #[test]
    fn one_that_soon_ends_or_is_damaged_is_made_anew() {
        let state = Directory::new("old-certificate");
        let name = portal("a.example", None);
        let old = Timestamp::now() - jiff::SignedDuration::from_hours(24 * (DAYS - RENEWED_DAYS));
        let kept = make("a.example", &[], old).unwrap();
        let bytes = serde_json::to_vec(&kept).unwrap();
        fs::write(state.0.join(FILE), bytes).unwrap();
        let renewed = made(&name, &state.0).unwrap();
        assert_ne!(renewed.chain, kept.certificate);
        fs::write(state.0.join(FILE), b"{\"name\"").unwrap();
        assert_ne!(made(&name, &state.0).unwrap().chain, renewed.chain);
    }

    #[test]
    fn files_are_taken_when_they_fit_and_their_change_is_seen() {
        let state = Directory::new("given-certificate");
        let (certificate, key) = (state.0.join("c.pem"), state.0.join("k.pem"));
        let given = portal("a.example", Some((certificate.clone(), key.clone())));
        let missing = made(&given, &state.0).err().unwrap();
        assert!(missing.contains("c.pem") && missing.contains("No such file"), "{missing}");
        let stamp = || Stamp::of(files(&given));
        let before = stamp();
        let kept = make("a.example", &[], Timestamp::now()).unwrap();
        fs::write(&certificate, &kept.certificate).unwrap();
        fs::write(&key, kept.key.reveal()).unwrap();
        let taken = made(&given, &state.0).unwrap();
        assert!(!taken.is_own && taken.chain == kept.certificate);
        assert_ne!(stamp(), before);
        let other = make("a.example", &[], Timestamp::now()).unwrap();
        fs::write(&key, other.key.reveal()).unwrap();
        let wrong = made(&given, &state.0).err().unwrap();
        assert!(wrong.contains("k.pem") && !wrong.contains("PRIVATE"), "{wrong}");
        fs::write(&key, "x".repeat(50_000)).unwrap();
        assert!(made(&given, &state.0).err().unwrap().contains("50000 bytes"));
    }
}
