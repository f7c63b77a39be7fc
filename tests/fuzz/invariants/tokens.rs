//! What holds for any bytes that come as a token, as keys, or as a header and claims that somebody has signed.

use std::sync::LazyLock;

use crate::signed::{Author, parts};
use crate::slow;
use crate::tokens::{Keys, Typ, json, jws::Token, open};
use serde_json::Value;

/// RFC 8037, appendix A.1.
const SEED: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44,
    0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];
static AUTHOR: LazyLock<Author> = LazyLock::new(|| Author::new(&SEED));

/// Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    json_is_read_as_others_read_it_or_refused(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        a_token_has_one_spelling(text);
        assert!(open(text, &AUTHOR.keys, Typ::Jwt).is_err(), "nobody has signed it");
    }
    if let Ok(keys) = Keys::parse_set(bytes) {
        assert!(keys.iter().next().is_some(), "a set is not empty");
    }
    what_was_signed_is_taken_only_with_a_plain_header(bytes);
}

fn json_is_read_as_others_read_it_or_refused(bytes: &[u8]) {
    let value = json::value(bytes).ok();
    assert_eq!(value, slow::json(bytes));
    if let Some(value) = value {
        let other: Value = serde_json::from_slice(bytes).expect("what we take, others take");
        assert_eq!(value, other);
    }
}

fn a_token_has_one_spelling(text: &str) {
    if Token::parse(text).is_ok() {
        assert_eq!(text.split('.').count(), 3);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(text.bytes().all(plain), "{text}");
    }
}

fn what_was_signed_is_taken_only_with_a_plain_header(bytes: &[u8]) {
    let (header, payload) = parts(bytes);
    let Author { signer, keys, kid } = &*AUTHOR;
    let token = signer.sign_parts(header, payload);
    let claims = open(&token, keys, Typ::Jwt).ok().map(|(claims, _)| claims);
    assert_eq!(claims, slow::opened(header, payload, kid, None));
}
