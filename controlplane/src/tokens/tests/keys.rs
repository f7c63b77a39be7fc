//! Sets of keys.

use serde_json::{Value, json};

use super::forge::Forger;
use crate::tokens::key::{KEYS_BYTES_MAX, KEYS_MAX};
use crate::tokens::{BadKey, BadKeys, Key, Keys};

fn of(jwk: &Value) -> Result<Key, BadKey> {
    Key::parse(jwk.to_string().as_bytes())
}

fn with(mut jwk: Value, member: &str, value: Value) -> Value {
    jwk[member] = value;
    jwk
}

fn set(keys: &[Value]) -> Result<Keys, BadKeys> {
    Keys::parse_set(json!({ "keys": keys }).to_string().as_bytes())
}

#[test]
fn a_key_says_what_it_is_for_and_that_holds() {
    let jwk = Forger::new().edwards_jwk("k");
    for (member, value, expected) in [
        ("use", json!("sig"), Ok(())),
        ("use", json!("enc"), Err(BadKey::OtherUse)),
        ("use", json!("SIG"), Err(BadKey::OtherUse)),
        ("use", json!(["sig"]), Err(BadKey::Malformed)),
        ("key_ops", json!(["verify"]), Ok(())),
        ("key_ops", json!(["sign", "verify"]), Ok(())),
        ("key_ops", json!(["sign"]), Err(BadKey::OtherUse)),
        ("key_ops", json!([]), Err(BadKey::OtherUse)),
        ("key_ops", json!(["verify", "verify"]), Err(BadKey::Malformed)),
        ("key_ops", json!("verify"), Err(BadKey::Malformed)),
        ("alg", json!("EdDSA"), Ok(())),
        ("alg", json!("Ed25519"), Ok(())),
        ("alg", json!("ES256"), Err(BadKey::Unsupported)),
        ("alg", json!("none"), Err(BadKey::Unsupported)),
        ("kty", json!("EC"), Err(BadKey::Unsupported)),
        ("kty", json!("oct"), Err(BadKey::Symmetric)),
        ("kty", json!(1), Err(BadKey::Malformed)),
        ("crv", json!("Ed448"), Err(BadKey::Unsupported)),
        ("crv", json!("X25519"), Err(BadKey::Unsupported)),
        ("d", json!("AAAA"), Err(BadKey::Private)),
        ("k", json!("AAAA"), Err(BadKey::Symmetric)),
        ("kid", json!(1), Err(BadKey::Malformed)),
        ("x", json!("AAAA"), Err(BadKey::Malformed)),
        ("x", json!("AAAA="), Err(BadKey::Malformed)),
    ] {
        let jwk = with(jwk.clone(), member, value.clone());
        assert_eq!(of(&jwk).map(|_| ()), expected, "{member}: {value}");
    }
}

#[test]
fn an_rsa_key_is_strong_enough_and_written_in_one_way() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let rsa = |modulus: &[u8], exponent: &[u8]| {
        let (n, e) = (URL_SAFE_NO_PAD.encode(modulus), URL_SAFE_NO_PAD.encode(exponent));
        of(&json!({ "kty": "RSA", "n": n, "e": e })).map(|_| ())
    };
    let modulus = |bytes: usize, first: u8| {
        let mut modulus = vec![0xab; bytes];
        modulus[0] = first;
        modulus
    };
    let e = [1, 0, 1];
    assert_eq!(rsa(&modulus(256, 0x80), &e), Ok(()));
    assert_eq!(rsa(&modulus(256, 0x7f), &e), Err(BadKey::Weak), "2047 bits");
    assert_eq!(rsa(&modulus(1024, 0xff), &e), Ok(()));
    assert_eq!(rsa(&modulus(1025, 0x01), &e), Err(BadKey::Weak), "8193 bits");
    assert_eq!(rsa(&modulus(257, 0x00), &e), Err(BadKey::Malformed), "a zero before it");
    assert_eq!(rsa(&modulus(256, 0x80), &[0, 1, 0, 1]), Err(BadKey::Malformed));
    for weak in [&[1][..], &[3], &[1, 0, 0], &[0xff, 0xff], &[1, 0, 0, 0, 0, 1]] {
        assert_eq!(rsa(&modulus(256, 0x80), weak), Err(BadKey::Weak), "{weak:?}");
    }
    assert_eq!(rsa(&[], &e), Err(BadKey::Malformed));
    assert_eq!(rsa(&modulus(256, 0x80), &[]), Err(BadKey::Malformed));
}

#[test]
fn a_set_leaves_out_what_it_does_not_understand() {
    let forger = Forger::new();
    let strange = [
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "pq" }),
        with(forger.nist_jwk("encryption"), "use", json!("enc")),
        with(forger.nist_jwk("k1"), "crv", json!("secp256k1")),
        json!({ "kid": "nothing" }),
    ];
    let mut keys = strange.to_vec();
    assert_eq!(set(&keys), Err(BadKeys::None));
    keys.push(forger.edwards_jwk("k"));
    assert_eq!(set(&keys).unwrap().iter().map(Key::id).collect::<Vec<_>>(), [Some("k")]);
}

#[test]
fn a_set_with_a_secret_or_an_ambiguous_name_is_refused_whole() {
    let (one, two) = (Forger::new(), Forger::new());
    let secret = json!({ "kty": "oct", "k": "AAAA", "kid": "s" });
    assert_eq!(set(&[one.edwards_jwk("k"), secret]), Err(BadKeys::Secret(BadKey::Symmetric)));
    let private = with(two.nist_jwk("p"), "d", json!("AAAA"));
    assert_eq!(set(&[one.edwards_jwk("k"), private]), Err(BadKeys::Secret(BadKey::Private)));
    assert_eq!(set(&[one.edwards_jwk("k"), two.nist_jwk("k")]), Err(BadKeys::Twice));
    // What is for something else may be called the same.
    assert!(set(&[one.edwards_jwk("k"), with(two.nist_jwk("k"), "use", json!("enc"))]).is_ok());
}

#[test]
fn a_set_is_bounded() {
    let jwk = Forger::new().edwards_jwk("k");
    let many = |count: usize| -> Vec<Value> {
        (0..count).map(|index| with(jwk.clone(), "kid", json!(format!("k{index}")))).collect()
    };
    assert_eq!(set(&many(KEYS_MAX)).unwrap().iter().count(), KEYS_MAX);
    assert_eq!(set(&many(KEYS_MAX + 1)), Err(BadKeys::Malformed));
    assert_eq!(set(&[with(jwk, "x5c", json!("A".repeat(KEYS_BYTES_MAX)))]), Err(BadKeys::Malformed));
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, r#"{"keys":[],"keys":[]}"#] {
        assert_eq!(Keys::parse_set(text.as_bytes()), Err(BadKeys::Malformed), "{text}");
    }
    assert_eq!(Keys::parse_set(br#"{"keys":[]}"#), Err(BadKeys::None));
}
