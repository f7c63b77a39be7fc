//! Devices in the book: which are enrolled, by which keys they are known, and codes with which one may be enrolled.
//!
//! A code is for one device, once, within [`CODE_LASTS`]. With it the device's own key is taken, which never leaves the device;
//! whoever has the code first has the device, and an operator sees whether it was used.

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::book::{Book, Broken, Table};
use super::{Shadow, token};
use crate::portal::wire::Secret;
use crate::store::sha256;
use crate::tokens::key::{Key, Keys};

/// By name, a [`Device`] as JSON.
pub(super) const DEVICES: Table = TableDefinition::new("devices");
/// The most devices.
pub const DEVICES_MAX: u64 = 1_000_000;
/// How long a code may be used, seconds.
pub const CODE_LASTS_S: u64 = 3600;

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// What it is called.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its public key, as a JSON Web Key; `None` before it is enrolled.
    pub key: Option<Value>,
    /// The `kid` in what it signs.
    pub kid: Option<String>,
    /// When it was enrolled, seconds since 1970.
    pub enrolled_s: u64,
    /// How long an enrolment holds, seconds.
    pub lasts_s: u64,
    /// It counts no more.
    pub revoked: bool,
    /// With what it can be enrolled: the SHA-256 of the code, and until when.
    pub code: Option<(String, u64)>,
}

impl Device {
    /// Whether what its key signs counts.
    pub fn is_enrolled(&self, now_s: u64) -> bool {
        self.key.is_some() && !self.revoked && now_s < self.ends_s()
    }

    /// Until when it is enrolled, seconds since 1970.
    pub fn ends_s(&self) -> u64 {
        self.enrolled_s.saturating_add(self.lasts_s)
    }

    /// What stands for all of a device that its statements and certificates go by: another one as soon as somebody has changed
    /// something of it.
    pub fn mark(&self) -> Shadow {
        let until = (self.enrolled_s, self.lasts_s, self.revoked);
        Shadow::of_record(&(&self.name, &self.tags, &self.key, &self.kid, until))
    }

    /// Whether this code enrolls it.
    pub fn is_invited_by(&self, code: &Secret, now_s: u64) -> bool {
        self.code.as_ref().is_some_and(|(kept, until_s)| *kept == digest(code) && now_s < *until_s)
    }

    /// By what its signatures are verified.
    pub fn keys(&self) -> Option<Keys> {
        Key::of(self.key.as_ref()?.as_object()?).ok().map(Keys::one)
    }
}

/// Why a device was not enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEnrolled {
    /// There is no such code, it was used, or is too old.
    Code,
    /// Its key is not an Ed25519 key.
    Key,
}

/// A code that can be given as an argument of a command: one in sixty-four tokens looks like an option there.
fn code() -> Secret {
    loop {
        let code = token();
        if !code.reveal().starts_with('-') {
            return code;
        }
    }
}

fn digest(code: &Secret) -> String {
    sha256(code.reveal().as_bytes())
}

impl Book {
    /// A device.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn device(&self, name: &str) -> Result<Option<Device>, Broken> {
        self.read(DEVICES, |table| {
            let bytes = table.get(name).map_err(|error| self.broken(error))?;
            bytes.map(|bytes| self.parse("device", name, bytes.value())).transpose()
        })
    }

    /// All devices, by name.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn devices(&self) -> Result<Vec<Device>, Broken> {
        self.read(DEVICES, |table| {
            let entries = table.iter().map_err(|error| self.broken(error))?;
            let device = |entry: Result<_, redb::StorageError>| {
                let (name, bytes): (redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>) =
                    entry.map_err(|error| self.broken(error))?;
                self.parse("device", name.value(), bytes.value())
            };
            entries.map(device).collect()
        })
    }

    /// How many devices there are.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn devices_count(&self) -> Result<u64, Broken> {
        self.read(DEVICES, |table| table.len().map_err(|error| self.broken(error)))
    }

    /// Changes a device, as [`Book::change`] a user.
    ///
    /// # Errors
    ///
    /// As of [`Book::change`].
    pub fn change_device<T, E>(
        &self,
        name: &str,
        change: impl FnOnce(Option<Device>) -> Result<(Option<Device>, T), E>,
    ) -> Result<Result<T, E>, Broken> {
        self.change_record(DEVICES, "device", name, change)
    }

    /// A new code for a device of this name, with these tags and this time, which takes the place of the one before. A key that
    /// counts goes on counting; one whose time is over does not begin to count again.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn invite(&self, device: Device, now_s: u64) -> Result<Secret, Broken> {
        let code = code();
        let Device { name, tags, lasts_s, .. } = device;
        let invited = Some((digest(&code), now_s + CODE_LASTS_S));
        let written = self.change_device(&name, |before| {
            let before = before.unwrap_or_default();
            let is_over = !before.revoked && !before.is_enrolled(now_s);
            let (key, kid) = if is_over { (None, None) } else { (before.key, before.kid) };
            let device = Device { name: name.clone(), tags, lasts_s, key, kid, code: invited, ..before };
            Ok::<_, std::convert::Infallible>((Some(device), ()))
        })?;
        written.map(|()| code).map_err(|never| match never {})
    }

    /// Takes a device's key for its code, which is used then. The key replaces the one before.
    ///
    /// # Errors
    ///
    /// The outer one: the file cannot be written. The inner one: see [`NotEnrolled`].
    pub fn enroll(
        &self,
        name: &str,
        code: &Secret,
        key: &Value,
        now_s: u64,
    ) -> Result<Result<Device, NotEnrolled>, Broken> {
        let Some(kid) = key.get("kid").and_then(Value::as_str) else { return Ok(Err(NotEnrolled::Key)) };
        if key.as_object().is_none_or(|jwk| Key::of(jwk).is_err()) || public(key).is_none() {
            return Ok(Err(NotEnrolled::Key));
        }
        self.change_device(name, |before| {
            let device =
                before.filter(|device| device.is_invited_by(code, now_s)).ok_or(NotEnrolled::Code)?;
            let device = Device {
                key: Some(key.clone()),
                kid: Some(kid.to_owned()),
                enrolled_s: now_s,
                revoked: false,
                code: None,
                ..device
            };
            Ok((Some(device.clone()), device))
        })
    }
}

/// The bytes of an Ed25519 key.
pub fn public(jwk: &Value) -> Option<[u8; 32]> {
    let is = |name: &str, wanted: &str| jwk.get(name).and_then(Value::as_str) == Some(wanted);
    let x = jwk.get("x").and_then(Value::as_str).filter(|_| is("kty", "OKP") && is("crv", "Ed25519"))?;
    data_encoding::BASE64URL_NOPAD.decode(x.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::Directory;
    use super::*;
    use crate::identity::authority::PublicKey;
    use crate::tokens::sign::Signer;

    const NOW: u64 = 1_700_000_000;

    fn jwk() -> Value {
        Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap().public_jwk()
    }

    fn device() -> Device {
        Device { name: "laptop".to_owned(), lasts_s: 1000, ..Device::default() }
    }

    #[test]
    fn a_code_enrolls_one_key_once_in_time_and_survives_a_restart() {
        let directory = Directory::new("enroll");
        let book = Book::open(&directory.0).unwrap();
        let code = book.invite(device(), NOW).unwrap();
        assert!(!book.device("laptop").unwrap().unwrap().is_enrolled(NOW));
        drop(book);
        let book = Book::open(&directory.0).unwrap();
        let (first, second) = (jwk(), jwk());
        let enroll = |name: &str, code: &Secret, at| book.enroll(name, code, &first, at).unwrap();
        assert_eq!(enroll("laptop", &token(), NOW), Err(NotEnrolled::Code), "guessed");
        assert_eq!(enroll("tablet", &code, NOW), Err(NotEnrolled::Code), "of another device");
        assert_eq!(enroll("laptop", &code, NOW + CODE_LASTS_S), Err(NotEnrolled::Code), "too late");
        let enrolled = enroll("laptop", &code, NOW + 1).unwrap();
        assert_eq!((enrolled.key.as_ref(), enrolled.ends_s()), (Some(&first), NOW + 1001));
        assert!(enrolled.is_enrolled(NOW + 1000) && !enrolled.is_enrolled(NOW + 1001));
        assert_eq!(book.enroll("laptop", &code, &second, NOW + 2), Ok(Err(NotEnrolled::Code)), "used");
        assert_eq!(book.device("laptop"), Ok(Some(enrolled)));
    }

    #[test]
    fn an_invitation_revived_a_key_whose_time_was_over() {
        let directory = Directory::new("revived");
        let book = Book::open(&directory.0).unwrap();
        let code = book.invite(device(), NOW).unwrap();
        let old = book.enroll("laptop", &code, &jwk(), NOW).unwrap().unwrap();
        let later = NOW + old.lasts_s;
        assert!(!old.is_enrolled(later));
        // For the machine that takes its place.
        let code = book.invite(Device { lasts_s: 5000, ..old }, later).unwrap();
        assert!(!book.device("laptop").unwrap().unwrap().is_enrolled(later));
        assert!(book.enroll("laptop", &code, &jwk(), later).unwrap().unwrap().is_enrolled(later));
    }

    #[test]
    fn only_a_public_ed25519_key_is_taken() {
        let directory = Directory::new("keys");
        let book = Book::open(&directory.0).unwrap();
        let code = book.invite(device(), NOW).unwrap();
        let mut private = jwk();
        private["d"] = "AAAA".into();
        let mut nameless = jwk();
        nameless.as_object_mut().unwrap().remove("kid");
        let ec = serde_json::json!({ "kty": "EC", "crv": "P-256", "kid": "1",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
        for key in [private, nameless, ec, Value::Null, serde_json::json!({ "kid": "1" })] {
            assert_eq!(book.enroll("laptop", &code, &key, NOW), Ok(Err(NotEnrolled::Key)), "{key}");
        }
        assert!(book.enroll("laptop", &code, &jwk(), NOW).unwrap().is_ok(), "the code was not used up");
    }

    #[test]
    fn a_code_that_began_with_a_dash_was_taken_for_an_option_where_it_was_typed() {
        assert!((0..4096).all(|_| !code().reveal().starts_with('-')));
    }

    #[test]
    fn the_authority_is_the_same_after_a_restart_and_signs_the_devices_key() {
        let directory = Directory::new("authority");
        let authority = super::super::authority::Authority::open(&directory.0).unwrap();
        let again = super::super::authority::Authority::open(&directory.0).unwrap();
        assert_eq!(authority.certificate(), again.certificate());
        let key = public(&jwk()).unwrap();
        let until = std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW);
        let pem = again.issue("laptop", &PublicKey::Own(key), until).unwrap();
        let der = data_encoding::BASE64
            .decode(pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>().as_bytes())
            .unwrap();
        assert!(der.windows(32).any(|bytes| bytes == key));
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(directory.0.join("device-ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
