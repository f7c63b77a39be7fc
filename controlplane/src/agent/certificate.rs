//! Another key of this device, certified, for programs that show certificates: browsers and curl.
//!
//! Browsers do not sign with Ed25519, and the device's own key never leaves the agent. So a key is made for them, on P-256, and
//! the device's own key signs for the gateway that it is this device's. It signs too, so that nobody has somebody else's certified.

use anyhow::{Context, Result, anyhow, bail};
use data_encoding::BASE64URL_NOPAD;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use zeroize::Zeroizing;

use super::home::Home;
use super::statement::{challenge, unexpected};
use crate::identity::statements::possession;
use crate::portal::wire::{Answer, CERTIFICATION, Certification, Question, Secret};

/// A certificate with its key.
pub struct Certified {
    device: String,
    key: KeyPair,
    certificate: String,
    authority: String,
}

impl Certified {
    /// A new key, certified by the gateway.
    ///
    /// # Errors
    ///
    /// This device is not enrolled, or the gateway does not certify it.
    pub fn new(home: &Home) -> Result<Certified> {
        let settings = home.settings()?.unwrap_or_default();
        let (Some(device), Some(own)) = (settings.device, home.key()?) else {
            bail!("this device is not enrolled; `bulkhead agent enroll` does that");
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let (nonce, _, _) = challenge(&settings.portal)?;
        let public = BASE64URL_NOPAD.encode(key.der_bytes());
        let proof = BASE64URL_NOPAD.encode(&key.sign(&possession(&device, &nonce))?);
        let said = Certification { device: device.clone(), nonce, key: public };
        let token = Secret::new(own.sign(CERTIFICATION, &json!(said)));
        let question = Question::DeviceCertificate { device: device.clone(), token, proof };
        match settings.portal.ask(&question, None)? {
            Answer::Enrolled { certificate, authority } => {
                Ok(Certified { device, key, certificate, authority })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Certificate and key in one text, as curl takes it.
    pub fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}{}", self.certificate, self.key.serialize_pem()))
    }

    /// Certificate, authority and key as PKCS #12 (RFC 7292), as browsers take it.
    ///
    /// # Errors
    ///
    /// The gateway's certificates are none.
    pub fn pkcs12(&self, password: &str) -> Result<Zeroizing<Vec<u8>>> {
        let certificate = |pem: &str| -> Result<Certificate> {
            let der = CertificateDer::from_pem_slice(pem.as_bytes())?;
            Certificate::from_der(&der).map_err(|error| anyhow!("{error}"))
        };
        let chain = [certificate(&self.certificate)?, certificate(&self.authority)?];
        let der = Zeroizing::new(self.key.serialize_der());
        let key = PrivateKey::from_der(&der).map_err(|error| anyhow!("{error}"))?;
        let mut store = KeyStore::new();
        let entry = PrivateKeyChain::new("1".as_bytes(), key, chain);
        store.add_entry(&self.device, KeyStoreEntry::PrivateKeyChain(entry));
        let written = store.writer(password).write();
        written.map(Zeroizing::new).map_err(|error| anyhow!("{error}")).context("writing PKCS #12")
    }
}
