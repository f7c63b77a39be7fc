//! Certificates of enrolled devices.
//!
//! The book says whom a certificate is worth anything for: it is revoked by revoking its device, by removing it, and by
//! enrolling the device again with another key.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::{Certificate, Refused};
use crate::identity::devices::{Device, public};
use crate::identity::unix_s;
use crate::store::sha256;

/// SubjectPublicKeyInfo of an Ed25519 key, up to the key (RFC 8410, section 4).
const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What stands in certificates of other keys that a device has had certified: by which key of its own.
pub fn mark(key: &[u8; 32]) -> String {
    sha256(key)
}

impl Certificate {
    /// The device's name in it.
    ///
    /// # Errors
    ///
    /// It has none.
    pub fn device_name(&self) -> Result<&str, Refused> {
        self.name.as_deref().ok_or(Refused::NoName)
    }

    /// Whether it is that of this device: `None` when the book has none of its name.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn is_of(
        &self,
        device: Option<Device>,
        authority: &CertificateDer<'_>,
        now: SystemTime,
    ) -> Result<Device, Refused> {
        self.verify(std::slice::from_ref(authority), now)?;
        let name = self.device_name()?.to_owned();
        let device = device.filter(|device| device.name == name && device.key.is_some());
        let device = device.ok_or(Refused::NoDevice(name.clone()))?;
        if device.revoked {
            return Err(Refused::Revoked(name));
        }
        let key = device.key.as_ref().and_then(public).ok_or(Refused::OtherKey(name.clone()))?;
        let is_own = self.public_key.strip_prefix(&ED25519).is_some_and(|own| own == key);
        if !is_own && self.subject_serial.as_deref() != Some(&*mark(&key)) {
            return Err(Refused::OtherKey(name));
        }
        if !device.is_enrolled(unix_s(now)) {
            return Err(Refused::Over(name));
        }
        Ok(device)
    }
}
