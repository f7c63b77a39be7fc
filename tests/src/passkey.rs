//! A software authenticator: makes a passkey of options as a browser gives them, and signs. It does what it is told, also
//! what no honest one does; the browser's part (`origin`) is in it too.
//!
//! Web Authentication Level 3, sections 5.8.1 (client data), 6.1 (authenticator data) and 6.5.4 (attestation object).

use data_encoding::BASE64URL_NOPAD as BASE64;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

/// The user was there (section 6.1, `flags`).
pub const PRESENT: u8 = 0x01;
/// And was verified.
pub const VERIFIED: u8 = 0x04;
/// Attested credential data follow.
const ATTESTED: u8 = 0x40;

/// A passkey, and all that it will say.
pub struct Passkey {
    key: EcdsaKeyPair,
    /// The credential's id.
    pub id: Vec<u8>,
    /// Whose it is, as the options said.
    pub handle: Option<String>,
    /// Where it was shown, as the browser says.
    pub origin: String,
    /// For whom, as the browser says.
    pub rp_id: String,
    /// Of the authenticator data.
    pub flags: u8,
    /// The counter that it shows next; grows by one each time unless it is 0.
    pub count: u32,
    /// `type` of what it signs, where it is not what was asked for.
    pub kind: Option<&'static str>,
}

impl Passkey {
    /// For the portal of this origin and name.
    ///
    /// # Panics
    /// Panics without random bytes.
    pub fn new(origin: &str, rp_id: &str) -> Passkey {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key");
        let id = digest(&SHA256, key.public_key().as_ref()).as_ref().to_vec();
        let (origin, rp_id) = (origin.to_owned(), rp_id.to_owned());
        Passkey { key, id, handle: None, origin, rp_id, flags: PRESENT | VERIFIED, count: 1, kind: None }
    }

    /// Its id, as JSON has it.
    pub fn id(&self) -> String {
        BASE64.encode(&self.id)
    }

    fn client_data(&self, kind: &str, options: &Value) -> Vec<u8> {
        let kind = self.kind.unwrap_or(kind);
        let challenge = options["challenge"].as_str().expect("a challenge");
        let origin = &self.origin;
        let text = format!(
            "{{\"type\":\"{kind}\",\"challenge\":\"{challenge}\",\"origin\":\"{origin}\",\"crossOrigin\":false}}"
        );
        text.into_bytes()
    }

    fn authenticator_data(&mut self, flags: u8, attested: &[u8]) -> Vec<u8> {
        let count = self.count;
        self.count += u32::from(count != 0);
        let hash = digest(&SHA256, self.rp_id.as_bytes());
        [hash.as_ref(), &[self.flags | flags], &count.to_be_bytes(), attested].concat()
    }

    /// As `navigator.credentials.create` answers, as JSON.
    ///
    /// # Panics
    /// Panics when the options are none.
    pub fn made(&mut self, options: &Value) -> String {
        self.handle = Some(options["user"]["id"].as_str().expect("a handle").to_owned());
        let point = self.key.public_key().as_ref();
        // {1: 2, 3: -7, -1: 1, -2: x, -3: y} (RFC 9053, section 7.1.1).
        let cose = [
            &[0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20],
            &point[1..33],
            &[0x22, 0x58, 0x20],
            &point[33..],
        ]
        .concat();
        let length = u16::try_from(self.id.len()).expect("a short id").to_be_bytes();
        let attested = [&[0; 16][..], &length, &self.id, &cose].concat();
        let data = self.authenticator_data(ATTESTED, &attested);
        let size = u8::try_from(data.len()).expect("less than 256 bytes");
        // {"fmt": "none", "attStmt": {}, "authData": …}.
        let object =
            [b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58", &[size][..], data.as_slice()].concat();
        let client = self.client_data("webauthn.create", options);
        let response = json!({
            "clientDataJSON": BASE64.encode(&client), "attestationObject": BASE64.encode(&object), "transports": ["usb"],
        });
        self.answer(&response)
    }

    /// As `navigator.credentials.get` answers, as JSON.
    ///
    /// # Panics
    /// Panics when the options are none.
    pub fn shown(&mut self, options: &Value) -> String {
        let client = self.client_data("webauthn.get", options);
        let data = self.authenticator_data(0, &[]);
        let signed = [data.as_slice(), digest(&SHA256, &client).as_ref()].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed).expect("it signs");
        let mut response = json!({
            "clientDataJSON": BASE64.encode(&client), "authenticatorData": BASE64.encode(&data),
            "signature": BASE64.encode(signature.as_ref()),
        });
        if let Some(handle) = &self.handle {
            response["userHandle"] = handle.as_str().into();
        }
        self.answer(&response)
    }

    fn answer(&self, response: &Value) -> String {
        let id = self.id();
        json!({
            "id": id, "rawId": id, "type": "public-key", "response": response, "clientExtensionResults": {},
        })
        .to_string()
    }
}
