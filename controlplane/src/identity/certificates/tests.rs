use std::time::UNIX_EPOCH;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
    SignatureAlgorithm, SigningKey, date_time_ymd,
};
use serde_json::json;

use super::device::mark;
use super::spiffe::{Id, NoId, authorities};
use super::*;
use crate::identity::authority::{Authority, PublicKey};
use crate::identity::book::tests::Directory;
use crate::identity::devices::{Device, public};
use crate::tokens::sign::Signer;

/// The first of January 2030.
const NOW_S: u64 = 1_893_456_000;
const ID: &str = "spiffe://example.org/billing/api";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW_S)
}

/// A certificate with its key.
struct Made {
    key: KeyPair,
    der: CertificateDer<'static>,
    params: CertificateParams,
}

fn key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

fn authority(name: &str, path: BasicConstraints, above: Option<&Made>) -> Made {
    let key = key(&PKCS_ECDSA_P256_SHA256);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2029, 1, 1), date_time_ymd(2031, 1, 1));
    params.is_ca = IsCa::Ca(path);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let made = match above {
        Some(above) => params.signed_by(&key, &Issuer::from_params(&above.params, &above.key)).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Made { der: made.der().clone(), key, params }
}

fn root(name: &str) -> Made {
    authority(name, BasicConstraints::Unconstrained, None)
}

/// A leaf of this authority, changed.
fn leaf(
    by: &Made,
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Made {
    let key = key(algorithm);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    (params.not_before, params.not_after) = (date_time_ymd(2029, 12, 31), date_time_ymd(2030, 1, 2));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    change(&mut params);
    let made = params.signed_by(&key, &Issuer::from_params(&by.params, &by.key)).unwrap();
    Made { der: made.der().clone(), key, params }
}

fn scheme(key: &KeyPair) -> SignatureScheme {
    [
        (&PKCS_ED25519, SignatureScheme::ED25519),
        (&PKCS_ECDSA_P256_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256),
        (&PKCS_ECDSA_P384_SHA384, SignatureScheme::ECDSA_NISTP384_SHA384),
    ]
    .into_iter()
    .find_map(|(algorithm, scheme)| key.is_compatible(algorithm).then_some(scheme))
    .unwrap()
}

/// What a client signs of a transcript with this hash.
fn handshake(hash: &[u8]) -> Vec<u8> {
    [&PADDING, CONTEXT, hash].concat()
}

/// What somebody shows who has the key.
fn evidence(chain: &[&Made], transcript: u8) -> Evidence {
    let message = handshake(&[transcript; 32]);
    let signature = chain[0].key.sign(&message).unwrap();
    let certificates: Vec<_> = chain.iter().map(|made| made.der.clone()).collect();
    Evidence::new(&certificates, scheme(&chain[0].key), &message, &signature)
}

fn svid(chain: &[&Made], bundle: &[&Made]) -> Result<String, Refused> {
    let bundle: Vec<_> = bundle.iter().map(|made| made.der.clone()).collect();
    Certificate::shown(&evidence(chain, 1))?.is_svid_by(&bundle, now()).map(|id| id.to_string())
}

#[test]
fn an_svid_of_its_trust_domain_is_believed_whatever_its_kind_of_key() {
    let root = root("example.org");
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let own = leaf(&root, algorithm, |_| ());
        assert_eq!(svid(&[&own], &[&root]), Ok(ID.to_owned()));
        let shown = Certificate::shown(&evidence(&[&own], 1)).unwrap();
        assert!(shown.is_svid());
        assert_eq!(shown.left(now()), Duration::from_secs(86_400));
    }
    // Without extended key usages it is for everything (X509-SVID, section 4.4).
    assert!(svid(&[&leaf(&root, &PKCS_ED25519, |leaf| leaf.extended_key_usages.clear())], &[&root]).is_ok());
    let middle = authority("middle", BasicConstraints::Constrained(0), Some(&root));
    let own = leaf(&middle, &PKCS_ECDSA_P256_SHA256, |_| ());
    assert_eq!(svid(&[&own, &middle], &[&root]), Ok(ID.to_owned()));
    assert_eq!(svid(&[&own], &[&root]), Err(Refused::Authority), "its chain is not there");
}

#[test]
fn what_is_no_svid_is_refused_for_its_exact_reason() {
    let (root, other) = (root("example.org"), root("elsewhere"));
    let p256 = &PKCS_ECDSA_P256_SHA256;
    let refused =
        |change: fn(&mut CertificateParams)| svid(&[&leaf(&root, p256, change)], &[&root]).unwrap_err();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    assert_eq!(svid(&[&leaf(&root, p256, |_| ())], &[&other]), Err(Refused::Authority), "another's bundle");
    assert_eq!(svid(&[&leaf(&root, p256, |_| ())], &[]), Err(Refused::Authority), "no bundle");
    let same_name = self::root("example.org");
    assert_eq!(svid(&[&leaf(&same_name, p256, |_| ())], &[&root]), Err(Refused::Authority), "its name only");
    assert_eq!(refused(|leaf| leaf.not_after = date_time_ymd(2029, 12, 31)), Refused::Expired);
    assert_eq!(refused(|leaf| leaf.not_before = date_time_ymd(2030, 1, 2)), Refused::NotYetValid);
    assert_eq!(refused(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Refused::IsAuthority);
    assert_eq!(
        refused(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        Refused::NotForClients
    );
    assert_eq!(refused(|leaf| leaf.key_usages.clear()), Refused::KeyUsage);
    assert_eq!(refused(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]), Refused::KeyUsage);
    for more in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let own = leaf(&root, p256, |leaf| leaf.key_usages.push(more));
        assert_eq!(svid(&[&own], &[&root]), Err(Refused::KeyUsage), "{more:?}");
    }
    let two = leaf(&root, p256, |leaf| leaf.subject_alt_names.push(uri("spiffe://example.org/other")));
    assert_eq!(svid(&[&two], &[&root]), Err(Refused::Names(2)));
    let two = leaf(&root, p256, |leaf| leaf.subject_alt_names.push(uri("https://example.org/")));
    assert_eq!(svid(&[&two], &[&root]), Err(Refused::Names(2)), "of another scheme too");
    let none = leaf(&root, p256, |leaf| leaf.subject_alt_names.clear());
    assert_eq!(svid(&[&none], &[&root]), Err(Refused::Names(0)));
    for (text, why) in
        [("https://example.org/billing", NoId::Scheme), ("spiffe://Example.org/a", NoId::TrustDomain)]
    {
        let own = leaf(&root, p256, |leaf| leaf.subject_alt_names = vec![uri(text)]);
        assert_eq!(svid(&[&own], &[&root]), Err(Refused::Id(why)), "{text}");
    }
    // An extension that must be understood and is not.
    let unknown = leaf(&root, p256, |leaf| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        extension.set_criticality(true);
        leaf.custom_extensions.push(extension);
    });
    assert!(matches!(svid(&[&unknown], &[&root]), Err(Refused::Chain(_))));
    // Authorities below those that may not.
    let middle = authority("middle", BasicConstraints::Constrained(0), Some(&root));
    let below = authority("below", BasicConstraints::Unconstrained, Some(&middle));
    let own = leaf(&below, p256, |_| ());
    assert_eq!(svid(&[&own, &below, &middle], &[&root]), Err(Refused::Path));
    let no_authority = leaf(&root, p256, |_| ());
    let own = leaf(&no_authority, p256, |_| ());
    assert_eq!(svid(&[&own, &no_authority], &[&root]), Err(Refused::Path));
}

#[test]
fn who_has_not_the_key_shows_nothing() {
    let root = root("example.org");
    let (own, other) =
        (leaf(&root, &PKCS_ECDSA_P256_SHA256, |_| ()), leaf(&root, &PKCS_ECDSA_P256_SHA256, |_| ()));
    let whole = evidence(&[&own], 1);
    let refused = |evidence: Evidence| Certificate::shown(&evidence).unwrap_err();
    let text = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
    let others = Evidence { chain: evidence(&[&other], 1).chain, ..whole.clone() };
    assert_eq!(refused(others), Refused::Signature, "a thief with the certificate");
    assert_eq!(
        refused(Evidence { message: text(&handshake(&[2; 32])), ..whole.clone() }),
        Refused::Signature,
        "of another handshake"
    );
    assert_eq!(refused(Evidence { signature: text(&[7; 64]), ..whole.clone() }), Refused::Signature);
    let (key, signs) = (&own.key, |message: &[u8]| text(&own.key.sign(message).unwrap()));
    for message in [
        b"whatever else this key signs".to_vec(),
        [&PADDING, &b"TLS 1.3, server CertificateVerify\0"[..], &[1; 32]].concat(),
        handshake(&[1; 31]),
        handshake(&[]),
        [&PADDING[1..], CONTEXT, &[1; 32]].concat(),
    ] {
        let shown = Evidence { message: text(&message), signature: signs(&message), ..whole.clone() };
        assert_eq!(refused(shown), Refused::NoHandshake);
    }
    assert!(key.is_compatible(&PKCS_ECDSA_P256_SHA256));
    for scheme in [
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::ECDSA_SHA1_Legacy,
        SignatureScheme::Unknown(0x4242),
    ] {
        assert_eq!(
            refused(Evidence { scheme: scheme.into(), ..whole.clone() }),
            Refused::Scheme,
            "{scheme:?}"
        );
    }
    let ed25519 = Evidence { scheme: SignatureScheme::ED25519.into(), ..whole.clone() };
    assert_eq!(refused(ed25519), Refused::Signature, "of another kind of key");
    assert_eq!(refused(Evidence::default()), Refused::Unreadable("there is no certificate"));
    let long = Evidence { chain: vec![whole.chain[0].clone(); CHAIN_MAX + 1], ..whole.clone() };
    assert_eq!(refused(long), Refused::Unreadable("its chain is too long"));
    let big = Evidence { chain: vec!["A".repeat(CHAIN_BYTES_MAX * 2)], ..whole.clone() };
    assert_eq!(refused(big), Refused::Unreadable("its chain is too long"));
    for garbage in ["", "AAAA", "!", "MIIB"] {
        let shown = Evidence { chain: vec![garbage.to_owned()], ..whole.clone() };
        assert!(matches!(refused(shown), Refused::Unreadable(_)), "{garbage}");
    }
}

#[test]
fn a_handshake_serves_once_and_what_is_remembered_is_bounded() {
    let root = root("example.org");
    let own = leaf(&root, &PKCS_ED25519, |_| ());
    let mut taken = Taken::default();
    let mut shown = Certificate::shown(&evidence(&[&own], 1)).unwrap();
    assert_eq!(taken.take(&shown), Ok(()));
    assert_eq!(taken.take(&shown), Err(Refused::Taken));
    assert_eq!(taken.take(&Certificate::shown(&evidence(&[&own], 2)).unwrap()), Ok(()));
    for number in 0..TAKEN_MAX as u32 + 10 {
        shown.transcript[..4].copy_from_slice(&number.to_be_bytes());
        assert_eq!(taken.take(&shown), Ok(()));
    }
    assert_eq!((taken.known.len(), taken.order.len()), (TAKEN_MAX, TAKEN_MAX));
}

/// An enrolled device, and what its key signs of a handshake, with the certificate that the authority has issued.
struct Enrolled {
    device: Device,
    key: Signer,
    pkcs8: Vec<u8>,
    der: CertificateDer<'static>,
}

fn enrolled(authority: &Authority) -> Enrolled {
    use rustls::pki_types::pem::PemObject;
    let pkcs8 = Signer::generate().unwrap().to_vec();
    let key = Signer::from_pkcs8(&pkcs8).unwrap();
    let device = Device {
        name: "laptop-7".to_owned(),
        key: Some(key.public_jwk()),
        enrolled_s: NOW_S - 1000,
        lasts_s: 2000,
        ..Device::default()
    };
    let bytes = public(&key.public_jwk()).unwrap();
    let pem = authority.issue("laptop-7", &PublicKey::Own(bytes), now() + Duration::from_secs(1000)).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    Enrolled { device, key, pkcs8, der }
}

impl Enrolled {
    fn shows(&self) -> Certificate {
        let key = ring::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&self.pkcs8).unwrap();
        let message = handshake(&[9; 48]);
        let signature = key.sign(&message);
        let chain = std::slice::from_ref(&self.der);
        let evidence = Evidence::new(chain, SignatureScheme::ED25519, &message, signature.as_ref());
        Certificate::shown(&evidence).unwrap()
    }
}

#[test]
fn a_device_is_known_by_its_certificate_until_its_entry_in_the_book_says_otherwise() {
    use rustls::pki_types::pem::PemObject;
    let directory = Directory::new("device-certificates");
    let authority = Authority::open(&directory.0).unwrap();
    let anchor = CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap();
    let own = enrolled(&authority);
    let shown = own.shows();
    assert!(!shown.is_svid());
    assert_eq!(shown.device_name(), Ok("laptop-7"));
    let is_of = |device: Option<Device>, at| shown.is_of(device, &anchor, at).map(|device| device.name);
    let name = || "laptop-7".to_owned();
    // The authority's own certificate began when the test did, and holds for ten years.
    assert_eq!(is_of(Some(own.device.clone()), now()), Ok(name()));
    assert_eq!(is_of(None, now()), Err(Refused::NoDevice(name())), "removed");
    let of = |device: Device| is_of(Some(device), now()).unwrap_err();
    assert_eq!(of(Device { revoked: true, ..own.device.clone() }), Refused::Revoked(name()));
    assert_eq!(of(Device { lasts_s: 1000, ..own.device.clone() }), Refused::Over(name()));
    assert_eq!(of(Device { key: None, ..own.device.clone() }), Refused::NoDevice(name()));
    let again = enrolled(&authority);
    assert_eq!(of(again.device), Refused::OtherKey(name()), "enrolled again");
    assert_eq!(of(Device { name: "tablet".to_owned(), ..own.device.clone() }), Refused::NoDevice(name()));
    assert_eq!(
        of(Device { key: Some(json!({ "kty": "OKP" })), ..own.device.clone() }),
        Refused::OtherKey(name())
    );
    assert_eq!(is_of(Some(own.device.clone()), now() + Duration::from_secs(1001)), Err(Refused::Expired));
    // Whoever else makes certificates, also under the same name.
    let elsewhere = Directory::new("another-authority");
    let other = enrolled(&Authority::open(&elsewhere.0).unwrap());
    assert_eq!(other.shows().is_of(Some(other.device.clone()), &anchor, now()), Err(Refused::Authority));
    assert_eq!(own.key.public_jwk(), own.device.key.unwrap());
}

#[test]
fn a_certificate_without_one_name_is_no_devices() {
    let root = root("devices");
    let own = leaf(&root, &PKCS_ED25519, |leaf| leaf.subject_alt_names.clear());
    let shown = Certificate::shown(&evidence(&[&own], 1)).unwrap();
    assert_eq!(shown.is_of(None, &root.der, now()), Err(Refused::NoName));
}

#[test]
fn a_name_that_is_no_text_is_one_beside_another() {
    let root = root("devices");
    let (device, bmp) = ("laptop-7", DnValue::BmpString("tablet".try_into().unwrap()));
    for (second, name) in [(None, Ok(device)), (Some(bmp), Err(Refused::NoName))] {
        let own = leaf(&root, &PKCS_ED25519, |leaf| {
            // rcgen has each kind of attribute once; the common name by its number is another.
            leaf.distinguished_name.push(DnType::CommonName, device);
            second.into_iter().for_each(|second| {
                leaf.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), second);
            });
        });
        assert_eq!(Certificate::shown(&evidence(&[&own], 1)).unwrap().device_name(), name);
    }
    // An SVID's URI, and another one that is not UTF-8.
    let id = [&[0x86, ID.len() as u8], ID.as_bytes()].concat();
    for (second, expected) in
        [(&[][..], Ok(ID.to_owned())), (&[0x86, 3, b'a', 0xff, b'b'], Err(Refused::Names(2)))]
    {
        let names = [&id, second].concat();
        let own = leaf(&root, &PKCS_ED25519, |leaf| {
            leaf.subject_alt_names.clear();
            let content = [&[0x30, names.len() as u8], names.as_slice()].concat();
            leaf.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
        });
        assert_eq!(svid(&[&own], &[&root]), expected);
    }
}

#[test]
fn an_authority_whose_key_must_not_sign_certificates_has_signed_none() {
    let root = root("example.org");
    for (usages, expected) in [
        (vec![KeyUsagePurpose::KeyCertSign], Ok(ID.to_owned())),
        (vec![], Ok(ID.to_owned())),
        (vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign], Err(Refused::Path)),
    ] {
        let (key, mut params) = (key(&PKCS_ECDSA_P256_SHA256), root.params.clone());
        params.distinguished_name.push(DnType::OrganizationName, "below");
        params.key_usages = usages;
        let made = params.signed_by(&key, &Issuer::from_params(&root.params, &root.key)).unwrap();
        let middle = Made { der: made.der().clone(), key, params };
        let own = leaf(&middle, &PKCS_ECDSA_P256_SHA256, |_| ());
        assert_eq!(svid(&[&own, &middle], &[&root]), expected);
    }
}

#[test]
fn key_usages_behind_which_something_else_stands_are_none() {
    let root = root("example.org");
    for (content, is_one) in [(&[3, 2, 7, 0x80][..], true), (&[3, 2, 7, 0x80, 5, 0], false)] {
        let own = leaf(&root, &PKCS_ED25519, |leaf| {
            leaf.key_usages.clear();
            leaf.custom_extensions =
                vec![CustomExtension::from_oid_content(&[2, 5, 29, 15], content.to_vec())];
        });
        assert_eq!(svid(&[&own], &[&root]).is_ok(), is_one, "{content:?}");
    }
}

#[test]
fn a_spiffe_id_is_read_to_the_letter() {
    for (text, domain) in [
        ("spiffe://example.org/a", "example.org"),
        ("spiffe://a/b/c.d/E-f_9", "a"),
        ("spiffe://trust_domain-1.example/..a", "trust_domain-1.example"),
    ] {
        let id = Id::parse(text).unwrap();
        assert_eq!((id.as_str(), id.trust_domain()), (text, domain));
    }
    let long = format!("spiffe://example.org/{}", "a".repeat(2048 - 21));
    assert!(Id::parse(&long).is_ok());
    assert_eq!(Id::parse(&format!("{long}a")), Err(NoId::Long));
    assert!(Id::parse(&format!("spiffe://{}/a", "a".repeat(255))).is_ok());
    for (text, why) in [
        ("", NoId::Scheme),
        ("example.org/a", NoId::Scheme),
        ("SPIFFE://example.org/a", NoId::Scheme),
        ("https://example.org/a", NoId::Scheme),
        ("spiffe:///a", NoId::TrustDomain),
        ("spiffe://Example.org/a", NoId::TrustDomain),
        ("spiffe://example.org:80/a", NoId::TrustDomain),
        ("spiffe://user@example.org/a", NoId::TrustDomain),
        ("spiffe://exämple.org/a", NoId::TrustDomain),
        ("spiffe://example.org?q/a", NoId::TrustDomain),
        (&format!("spiffe://{}/a", "a".repeat(256)), NoId::TrustDomain),
        ("spiffe://example.org", NoId::NoPath),
        ("spiffe://example.org/", NoId::Path),
        ("spiffe://example.org/a/", NoId::Path),
        ("spiffe://example.org//a", NoId::Path),
        ("spiffe://example.org/a/./b", NoId::Path),
        ("spiffe://example.org/../b", NoId::Path),
        ("spiffe://example.org/a?b", NoId::Path),
        ("spiffe://example.org/a#b", NoId::Path),
        ("spiffe://example.org/%61", NoId::Path),
        ("spiffe://example.org/a b", NoId::Path),
    ] {
        assert_eq!(Id::parse(text), Err(why), "{text}");
    }
}

#[test]
fn a_bundle_has_authorities_and_nothing_else_is_one() {
    let pem = |made: &Made| {
        let text = data_encoding::BASE64_MIME.encode(&made.der);
        format!("-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")
    };
    let (one, other) = (root("one"), root("other"));
    let both = pem(&one) + &pem(&other);
    assert_eq!(authorities(both.as_bytes()), Ok(vec![one.der.clone(), other.der.clone()]));
    for text in ["", "no PEM at all", &one.key.serialize_pem()] {
        assert!(authorities(text.as_bytes()).unwrap_err().contains("it has 0 certificates"), "{text}");
    }
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(authorities(broken.as_bytes()).unwrap_err().starts_with("a certificate in it: "));
}

#[test]
fn another_key_of_a_device_is_worth_what_the_devices_own_key_is() {
    use rustls::pki_types::pem::PemObject;
    let directory = Directory::new("other-keys");
    let authority = Authority::open(&directory.0).unwrap();
    let anchor = CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap();
    let own = enrolled(&authority);
    let key = key(&PKCS_ECDSA_P256_SHA256);
    let point = rcgen::PublicKeyData::der_bytes(&key).try_into().unwrap();
    let other = PublicKey::Other { point, mark: mark(&public(&own.key.public_jwk()).unwrap()) };
    let pem = authority.issue("laptop-7", &other, now() + Duration::from_secs(1000)).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let shown = Made { key, der, params: CertificateParams::default() };
    let shown = Certificate::shown(&evidence(&[&shown], 3)).unwrap();
    let is_of = |device: Device| shown.is_of(Some(device), &anchor, now()).map(|device| device.name);
    assert_eq!(is_of(own.device.clone()), Ok("laptop-7".to_owned()));
    assert_eq!(is_of(enrolled(&authority).device), Err(Refused::OtherKey("laptop-7".to_owned())));
    assert_eq!(is_of(Device { revoked: true, ..own.device }), Err(Refused::Revoked("laptop-7".to_owned())));
}
