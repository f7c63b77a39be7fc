//! Certificates that somebody has shown in a TLS 1.3 handshake, verified by the gateway itself.
//!
//! Whoever has made the handshake may be somebody else's by now, so nothing of it is believed but what can be computed again:
//! that the certificate's key has signed a transcript of a handshake (RFC 8446, section 4.4.3), that an authority of ours has
//! signed the certificate for a client, and that it holds now.

pub mod device;
pub mod spiffe;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::oid_registry::{OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer, GeneralName, KeyUsage, X509Certificate, X509Error,
};

use super::unix_s;

/// The most certificates of a chain.
pub const CHAIN_MAX: usize = 8;
/// The most bytes of a chain: with the rest of the evidence it fits into a message between processes.
pub const CHAIN_BYTES_MAX: usize = 24 * 1024;
/// Handshakes that are remembered, each of which serves once.
const TAKEN_MAX: usize = 65_536;
/// What either side signs begins so (RFC 8446, section 4.4.3).
const PADDING: [u8; 64] = [0x20; 64];
/// And goes on so, of a client.
const CONTEXT: &[u8] = b"TLS 1.3, client CertificateVerify\0";
/// And so, of a server.
pub const SERVER_CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\0";
/// Bytes of a transcript's hash: SHA-256 and SHA-384.
const HASHES: [usize; 2] = [32, 48];
/// Those of TLS 1.3 (RFC 8446, section 4.2.3) that are verified here; of RSA only PSS, from 2048 bits on.
pub const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// What was shown, as it goes from one process to another. Everything in base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The certificates, the client's own first, in DER.
    pub chain: Vec<String>,
    /// `SignatureScheme` of TLS.
    pub scheme: u16,
    /// What the client has signed.
    pub message: String,
    /// The signature.
    pub signature: String,
}

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is none, or too long; what of it.
    Unreadable(&'static str),
    /// What was signed is not the transcript of a handshake.
    NoHandshake,
    /// In a way that is not believed.
    Scheme,
    /// By another key, or something else.
    Signature,
    /// It was shown before.
    Taken,
    /// No authority of ours has signed it.
    Authority,
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYetValid,
    /// It is an authority's.
    IsAuthority,
    /// It is not for clients.
    NotForClients,
    /// An authority of its chain signed what it may not: below another one, or with a key that is not for it.
    Path,
    /// Its key must not sign a handshake, or may sign certificates.
    KeyUsage,
    /// Something else of the chain does not hold.
    Chain(String),
    /// It names no device.
    NoName,
    /// No such device is enrolled.
    NoDevice(String),
    /// The device was revoked.
    Revoked(String),
    /// Its enrolment is over.
    Over(String),
    /// Another key has taken the place of this one.
    OtherKey(String),
    /// It names nobody, or more than one (X509-SVID, section 2).
    Names(usize),
    /// It is no SPIFFE ID.
    Id(spiffe::NoId),
    /// Nothing is believed of this trust domain.
    TrustDomain(String),
    /// The policy knows no such workload.
    Workload(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Unreadable(what) => write!(f, "{what}"),
            Refused::NoHandshake => f.write_str("what its key has signed is no handshake of TLS 1.3"),
            Refused::Scheme => f.write_str("its key has signed in a way that is not believed"),
            Refused::Signature => f.write_str("its key has not signed this handshake"),
            Refused::Taken => f.write_str("this handshake was shown before"),
            Refused::Authority => f.write_str("it was not signed by an authority that is believed"),
            Refused::Expired => f.write_str("it has expired"),
            Refused::NotYetValid => f.write_str("it is not valid yet"),
            Refused::IsAuthority => f.write_str("it is the certificate of an authority"),
            Refused::NotForClients => {
                f.write_str("it is not for clients (its extended key usage has no clientAuth)")
            }
            Refused::Path => f.write_str("an authority in its chain may not sign what it has signed"),
            Refused::KeyUsage => f.write_str(
                "its key usage is not that of a client: digitalSignature, and no signing of certificates",
            ),
            Refused::Chain(why) => write!(f, "its chain does not hold: {why}"),
            Refused::NoName => f.write_str("it names no device"),
            Refused::NoDevice(name) => write!(f, "device {name} is not enrolled"),
            Refused::Revoked(name) => write!(f, "device {name} was revoked"),
            Refused::Over(name) => write!(f, "the enrolment of device {name} is over"),
            Refused::OtherKey(name) => write!(f, "device {name} was enrolled again, with another key"),
            Refused::Names(count) => write!(f, "an SVID has one URI as its name, and this has {count}"),
            Refused::Id(why) => write!(f, "it names no SPIFFE ID: {why}"),
            Refused::TrustDomain(name) => write!(f, "nothing is configured of the trust domain {name}"),
            Refused::Workload(id) => write!(f, "no workload is configured as {id}"),
        }
    }
}

/// A client's certificate, whose key has signed a handshake.
#[derive(Debug)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    /// Of what was signed.
    transcript: [u8; 32],
    /// Its serial number, as people read it.
    pub serial: String,
    /// When it ends, seconds since 1970.
    pub ends_s: u64,
    /// Its common name.
    name: Option<String>,
    /// Its serial number among the subject's names.
    subject_serial: Option<String>,
    /// Its URIs.
    uris: Vec<String>,
    /// SubjectPublicKeyInfo, in DER.
    public_key: Vec<u8>,
    may_sign: bool,
    may_certify: bool,
}

fn decoded(text: &str, what: &'static str) -> Result<Vec<u8>, Refused> {
    data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| Refused::Unreadable(what))
}

impl Evidence {
    /// From what a handshake has.
    pub fn new(
        chain: &[CertificateDer<'_>],
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Evidence {
        let text = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
        Evidence {
            chain: chain.iter().map(|certificate| text(certificate)).collect(),
            scheme: scheme.into(),
            message: text(message),
            signature: text(signature),
        }
    }
}

impl Certificate {
    /// The certificate that was shown, if its key has signed a handshake of TLS 1.3.
    ///
    /// # Errors
    ///
    /// It is none, or has not.
    pub fn shown(evidence: &Evidence) -> Result<Certificate, Refused> {
        if evidence.chain.is_empty() {
            return Err(Refused::Unreadable("there is no certificate"));
        }
        let total: usize = evidence.chain.iter().map(String::len).sum();
        if evidence.chain.len() > CHAIN_MAX || total / 4 * 3 > CHAIN_BYTES_MAX {
            return Err(Refused::Unreadable("its chain is too long"));
        }
        let unreadable = "it cannot be read";
        let chain: Vec<CertificateDer<'static>> = evidence
            .chain
            .iter()
            .map(|text| decoded(text, unreadable).map(CertificateDer::from))
            .collect::<Result<_, _>>()?;
        let message = decoded(&evidence.message, unreadable)?;
        if !is_handshake(&message, CONTEXT) {
            return Err(Refused::NoHandshake);
        }
        signed(&chain[0], evidence.scheme, &message, &decoded(&evidence.signature, unreadable)?)?;
        let transcript = Sha256::digest(&message).into();
        let own = chain[0].clone();
        let (_, parsed) = X509Certificate::from_der(&own).map_err(|_| Refused::Unreadable(unreadable))?;
        Certificate::parsed(chain, transcript, &parsed)
    }

    fn parsed(
        chain: Vec<CertificateDer<'static>>,
        transcript: [u8; 32],
        parsed: &X509Certificate<'_>,
    ) -> Result<Certificate, Refused> {
        let unreadable = |_| Refused::Unreadable("its extensions cannot be read");
        let usage = key_usage(parsed).map_err(unreadable)?;
        let names = parsed.subject_alternative_name().map_err(unreadable)?;
        let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            // One that is no text is a name all the same.
            GeneralName::Invalid(Tag(6), octets) => Some(String::from_utf8_lossy(octets).into_owned()),
            _ => None,
        });
        let subject = parsed.subject();
        // Of what is written in another way the parser would pass over the rest, and see one name of two.
        let are_all_seen = is_name(subject.as_raw())
            && names
                .as_ref()
                .is_none_or(|names| are_alternative_names(names.value.general_names.len(), parsed));
        if !are_all_seen {
            return Err(Refused::Unreadable("its names cannot be read"));
        }
        let oid = &x509_parser::oid_registry::OID_X509_SERIALNUMBER;
        Ok(Certificate {
            transcript,
            serial: data_encoding::HEXLOWER.encode(parsed.raw_serial()),
            ends_s: u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default(),
            name: the_one(subject.iter_common_name()),
            subject_serial: the_one(subject.iter_by_oid(oid)),
            uris: uris.collect(),
            public_key: parsed.public_key().raw.to_vec(),
            may_sign: usage.is_some_and(KeyUsage::digital_signature),
            may_certify: usage.is_some_and(|usage| usage.key_cert_sign() || usage.crl_sign()),
            chain,
        })
    }

    /// Whether it names a workload rather than a device.
    pub fn is_svid(&self) -> bool {
        self.uris.iter().any(|uri| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:")))
    }

    /// How much longer it holds.
    pub fn left(&self, now: SystemTime) -> Duration {
        Duration::from_secs(self.ends_s.saturating_sub(unix_s(now)))
    }

    /// That one of these authorities, and nobody else, has signed it for a client, and that it holds now.
    fn verify(&self, authorities: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Refused> {
        let anchors: Vec<_> =
            authorities.iter().filter_map(|authority| anchor_from_trusted_cert(authority).ok()).collect();
        let own = EndEntityCert::try_from(&self.chain[0]).map_err(refused)?;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(unix_s(now)));
        // What keys may be used for besides, that library leaves to others.
        let is_path = |path: &VerifiedPath<'_>| {
            let may = path.intermediate_certificates().all(|above| may_certify(&above.der()));
            if may { Ok(()) } else { Err(webpki::Error::EndEntityUsedAsCa) }
        };
        own.verify_for_usage(
            algorithms.all,
            &anchors,
            &self.chain[1..],
            at,
            webpki::KeyUsage::client_auth(),
            None,
            Some(&is_path),
        )
        .map_err(refused)?;
        if self.may_sign && !self.may_certify { Ok(()) } else { Err(Refused::KeyUsage) }
    }
}

/// The elements of which something consists, and nothing else.
fn elements(mut der: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, element) = Any::from_der(der).ok()?;
        all.push(element);
        der = rest;
    }
    Some(all)
}

/// Whether it is one of this universal type, written as such (X.690, sections 8.1.2 and 10.2).
fn is(element: &Any<'_>, tag: Tag) -> bool {
    let is_made_of_others = matches!(tag, Tag::Sequence | Tag::Set);
    element.class() == Class::Universal
        && element.tag() == tag
        && element.header.is_constructed() == is_made_of_others
}

/// Those within the only element of something, a sequence.
fn sequence(der: &[u8]) -> Option<Vec<Any<'_>>> {
    match elements(der)?.as_slice() {
        [one] if is(one, Tag::Sequence) => elements(one.data),
        _ => None,
    }
}

/// Whether this is a name, to the last byte: sequences of a type and a value, in sets (RFC 5280, section 4.1.2.4).
fn is_name(der: &[u8]) -> bool {
    let is_attribute = |attribute: &Any<'_>| {
        let parts = elements(attribute.data).unwrap_or_default();
        let [id, value] = parts.as_slice() else { return false };
        is(attribute, Tag::Sequence) && is(id, Tag::Oid) && is(value, value.tag())
    };
    let is_set = |set: &Any<'_>| {
        is(set, Tag::Set) && elements(set.data).is_some_and(|set| set.iter().all(is_attribute))
    };
    sequence(der).is_some_and(|sets| sets.iter().all(is_set))
}

/// Whether the alternative names are so many elements, and nothing else, each written as its kind is (section 4.2.1.6).
fn are_alternative_names(count: usize, parsed: &X509Certificate<'_>) -> bool {
    let extension = parsed.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).ok().flatten();
    let is_name = |name: &Any<'_>| {
        name.class() == Class::ContextSpecific
            && name.header.is_constructed() == [0, 3, 4, 5].contains(&name.tag().0)
    };
    let all = extension.and_then(|extension| sequence(extension.value));
    all.is_some_and(|all| all.len() == count && all.iter().all(is_name))
}

/// The only attribute of its kind, if it is text.
fn the_one<'a>(mut all: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<String> {
    let one = all.next()?;
    if all.next().is_some() { None } else { one.as_str().ok().map(str::to_owned) }
}

/// Whether the key of an authority may sign certificates, if its certificate says what it may (RFC 5280, section 6.1.4, n).
fn may_certify(authority: &[u8]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(authority) else { return false };
    key_usage(&parsed).is_ok_and(|usage| usage.is_none_or(KeyUsage::key_cert_sign))
}

/// The key usages, behind which nothing else stands: the parser would pass over it.
fn key_usage<'c>(parsed: &'c X509Certificate<'_>) -> Result<Option<&'c KeyUsage>, X509Error> {
    let Some(usage) = parsed.key_usage()? else { return Ok(None) };
    let extension = parsed.get_extension_unique(&OID_X509_EXT_KEY_USAGE)?;
    // A tag, a length and that many octets: there are nine usages.
    let is_whole = extension.is_some_and(|extension| match extension.value {
        [_, length, octets @ ..] => octets.len() == usize::from(*length),
        _ => false,
    });
    if is_whole { Ok(Some(usage.value)) } else { Err(X509Error::InvalidExtensions) }
}

/// Whether a message is what this side of a handshake of TLS 1.3 signs: a transcript's hash behind its words.
pub fn is_handshake(message: &[u8], side: &[u8]) -> bool {
    let hash = message.strip_prefix(&PADDING).and_then(|rest| rest.strip_prefix(side));
    hash.is_some_and(|hash| HASHES.contains(&hash.len()))
}

/// That the key of a certificate has signed a message.
fn signed(own: &CertificateDer<'_>, scheme: u16, message: &[u8], signature: &[u8]) -> Result<(), Refused> {
    let scheme = SignatureScheme::from(scheme);
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let algorithm = algorithms.mapping.iter().find(|(known, _)| *known == scheme && SCHEMES.contains(known));
    // The first is the one of TLS 1.3, where the scheme names the curve too.
    let algorithm = algorithm.and_then(|(_, algorithms)| algorithms.first()).ok_or(Refused::Scheme)?;
    let own = EndEntityCert::try_from(own).map_err(|error| match error {
        webpki::Error::UnsupportedCriticalExtension => refused(error),
        _ => Refused::Unreadable("it cannot be read"),
    })?;
    own.verify_signature(*algorithm, message, signature).map_err(|_| Refused::Signature)
}

fn refused(error: webpki::Error) -> Refused {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => Refused::Expired,
        Error::CertNotValidYet { .. } => Refused::NotYetValid,
        // One of the same name with another key.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => Refused::Authority,
        Error::CaUsedAsEndEntity => Refused::IsAuthority,
        Error::EndEntityUsedAsCa | Error::PathLenConstraintViolated => Refused::Path,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => Refused::NotForClients,
        error => Refused::Chain(error.to_string()),
    }
}

/// The handshakes that were taken lately. Each serves once.
#[derive(Debug, Default)]
pub struct Taken {
    known: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Taken {
    /// Takes the handshake of a certificate that holds: nobody fills this with what is worth nothing.
    ///
    /// # Errors
    ///
    /// It was taken before.
    pub fn take(&mut self, certificate: &Certificate) -> Result<(), Refused> {
        if !self.known.insert(certificate.transcript) {
            return Err(Refused::Taken);
        }
        self.order.push_back(certificate.transcript);
        if self.order.len() > TAKEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        Ok(())
    }
}
