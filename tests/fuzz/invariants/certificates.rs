//! What holds for any certificate that a stranger shows at the door, also when an authority of ours has signed whatever it was
//! given.
//!
//! The bytes say who signs, when it is shown and which of its bits is changed, and are a `TBSCertificate` in a short form of
//! DER ([`assembled`]), so that a change of them leaves the lengths right. It is signed, its key signs a handshake, and what is
//! made of it is held against a slow reading by the letter of X.690 and RFC 5280.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;

use crate::identity::certificates::{Certificate, Evidence, device::mark};
use crate::identity::devices::Device;

/// The first of January 2030.
const NOW_S: u64 = 1_893_456_000;
/// Ed25519 (RFC 8410, section 3).
const ALGORITHM: [u8; 7] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
/// What the device is called.
const DEVICE: &str = "laptop-7";
/// How deep the short form may be nested.
const DEPTH: usize = 16;

/// Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    let [by, hours, high, low, short @ ..] = bytes else { return };
    let world = &*WORLD;
    let author = &world.authors[usize::from(*by) % world.authors.len()];
    let tbs = assembled(short);
    let own = signed(&author.key, &tbs);
    let chain: Vec<Vec<u8>> = std::iter::once(own).chain(author.above.iter().cloned()).collect();
    let now_s = NOW_S.saturating_add_signed(i64::from(*hours as i8) * 3600);
    nobody_believes_what_nobody_has_signed(&tbs, now_s);
    no_bit_can_be_changed(&chain, u16::from_be_bytes([*high, *low]).into(), now_s);
    let slow = Slow::read(&tbs);
    let shown = shown(&chain);
    if let (Ok(shown), Some(slow)) = (&shown, &slow) {
        it_says_what_the_slow_reading_finds(shown, slow);
    }
    let mut moments = vec![now_s];
    if let Some(slow) = &slow {
        let about = |at: i64| [at - 1, at, at + 1];
        moments
            .extend([slow.from, slow.to].into_iter().flat_map(about).filter_map(|at| u64::try_from(at).ok()));
    }
    for at in moments {
        it_is_believed_when_the_slow_reading_says_so(shown.as_ref().ok(), slow.as_ref(), author, at);
    }
}

/// What is shown, and what is made of it.
fn shown(chain: &[Vec<u8>]) -> Result<Certificate, String> {
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let message = [&[0x20; 64][..], b"TLS 1.3, client CertificateVerify\0", &[9; 32]].concat();
    let signature = WORLD.client.sign(&message);
    let evidence = Evidence::new(&chain, SignatureScheme::ED25519, &message, signature.as_ref());
    Certificate::shown(&evidence).map_err(|refused| refused.to_string())
}

fn moment(at: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(at)
}

/// The SPIFFE ID as which it is believed.
fn as_svid(shown: &Certificate, at: u64) -> Option<String> {
    let bundle = [CertificateDer::from(WORLD.root.as_slice())];
    shown.is_svid_by(&bundle, moment(at)).ok().map(|id| id.to_string())
}

/// Whether it is believed as the device's own, and as that of a key which a device with another one has had certified.
fn as_device(shown: &Certificate, at: u64) -> [bool; 2] {
    let root = CertificateDer::from(WORLD.root.as_slice());
    [&WORLD.client, &WORLD.other].map(|key| {
        let device = Device {
            name: DEVICE.to_owned(),
            key: Some(serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(key) })),
            lasts_s: u64::MAX,
            ..Device::default()
        };
        shown.is_of(Some(device), &root, moment(at)).is_ok()
    })
}

fn nobody_believes_what_nobody_has_signed(tbs: &[u8], now_s: u64) {
    for der in [tbs.to_vec(), sequence(&[tbs, &ALGORITHM, &bits(&[0; 64])])] {
        if let Ok(shown) = shown(&[der]) {
            assert_eq!((as_svid(&shown, now_s), as_device(&shown, now_s)), (None, [false; 2]));
        }
    }
}

fn no_bit_can_be_changed(chain: &[Vec<u8>], bit: usize, now_s: u64) {
    let mut chain = chain.to_vec();
    let count: usize = chain.iter().map(Vec::len).sum();
    let mut octet = bit / 8 % count;
    for der in &mut chain {
        if octet < der.len() {
            der[octet] ^= 1 << (bit % 8);
            break;
        }
        octet -= der.len();
    }
    if let Ok(shown) = shown(&chain) {
        assert_eq!((as_svid(&shown, now_s), as_device(&shown, now_s)), (None, [false; 2]), "bit {bit}");
    }
}

fn it_says_what_the_slow_reading_finds(shown: &Certificate, slow: &Slow) {
    let hexadecimal: String = slow.serial.iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(shown.serial, hexadecimal);
    assert_eq!(shown.ends_s, u64::try_from(slow.to).unwrap_or(0));
    assert_eq!(shown.device_name().ok(), slow.common.as_deref());
    assert_eq!(shown.spiffe_id().ok().map(|id| id.to_string()), slow.spiffe_id());
    let is_svid = slow.uris.iter().any(|uri| uri.len() >= 7 && uri[..7].eq_ignore_ascii_case(b"spiffe:"));
    assert_eq!(shown.is_svid(), is_svid);
}

fn it_is_believed_when_the_slow_reading_says_so(
    shown: Option<&Certificate>,
    slow: Option<&Slow>,
    author: &Author,
    at: u64,
) {
    let slow = slow.filter(|slow| slow.holds(author, at));
    let svid = shown.and_then(|shown| as_svid(shown, at));
    let device = shown.map_or([false; 2], |shown| as_device(shown, at));
    // Others may refuse more of what is written in an unusual way.
    if (&svid, device) == (&None, [false; 2]) && slow.is_some_and(|slow| !slow.is_plain) {
        return;
    }
    assert_eq!(svid, slow.and_then(Slow::spiffe_id), "at {at}");
    let of_device = slow.filter(|slow| slow.common.as_deref() == Some(DEVICE));
    let marked = of_device.is_some_and(|slow| slow.mark.as_deref() == Some(&*mark(&public(&WORLD.other))));
    let expected = [of_device.is_some(), marked];
    assert_eq!(device, expected, "at {at}");
}

/// Somebody who signs certificates.
struct Author {
    key: Ed25519KeyPair,
    /// `Name` of the subject, in DER.
    name: Vec<u8>,
    /// The certificates that are shown for it.
    above: Vec<Vec<u8>>,
    /// Whether what it signs is worth something at this moment.
    counts: fn(u64) -> bool,
}

struct World {
    root: Vec<u8>,
    authors: Vec<Author>,
    /// Whose certificate it is.
    client: Ed25519KeyPair,
    /// The own key of a device that has had another one certified.
    other: Ed25519KeyPair,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let key = |number: u8| Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("a seed");
    let (root_key, middle_key) = (key(1), key(2));
    let root_name = name("root");
    let may_certify = |path: Option<u8>| {
        let length = path.map(|length| element(0x02, &[&[length]])).unwrap_or_default();
        let constraints = sequence(&[&element(0x01, &[&[0xff]]), &length]);
        vec![extension(19, &constraints), extension(15, &element(0x03, &[&[1, 0x06]]))]
    };
    let root = signed(&root_key, &authority(&root_name, &root_name, &root_key, 0, &may_certify(None)));
    let middle = |name: &str, from_year: u16, extensions: &[Vec<u8>]| {
        let name = self::name(name);
        let der = signed(&root_key, &authority(&root_name, &name, &middle_key, from_year, extensions));
        (name, der)
    };
    let author = |key, name, above, counts| Author { key, name, above, counts };
    let never: fn(u64) -> bool = |_| false;
    let always: fn(u64) -> bool = |_| true;
    let mut authors = vec![
        author(key(1), root_name.clone(), vec![], always),
        // Somebody else of that name.
        author(key(3), root_name.clone(), vec![], never),
    ];
    let (name, der) = middle("middle", 0, &may_certify(Some(0)));
    // It holds for the years 2029 to 2030.
    authors.push(author(key(2), name.clone(), vec![der.clone()], |at| {
        (1_861_920_000..=1_924_991_999).contains(&at)
    }));
    authors.push(author(key(2), name.clone(), vec![], never));
    // Below one that may have no authority below it.
    let below_name = self::name("middle");
    let below = signed(&middle_key, &authority(&name, &below_name, &key(4), 0, &may_certify(None)));
    authors.push(author(key(4), below_name, vec![below, der], never));
    // One that is no authority, one whose key must not sign certificates, and one that has ended.
    let (name, der) = middle("middle", 0, &[]);
    authors.push(author(key(2), name, vec![der], never));
    let mut extensions = may_certify(None);
    extensions[1] = extension(15, &element(0x03, &[&[7, 0x80]]));
    let (name, der) = middle("middle", 0, &extensions);
    authors.push(author(key(2), name, vec![der], never));
    let (name, der) = middle("middle", 1, &may_certify(None));
    authors.push(author(key(2), name, vec![der], |at| (946_684_800..=978_307_199).contains(&at)));
    World { root, authors, client: key(5), other: key(6) }
});

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let written = match length {
        0..128 => vec![length as u8],
        128..256 => vec![0x81, length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    };
    [&[tag], &written[..], &content].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, parts)
}

/// A BIT STRING of whole octets.
fn bits(octets: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], octets])
}

fn name(common: &str) -> Vec<u8> {
    let attribute = sequence(&[&[6, 3, 0x55, 4, 3], &element(0x0c, &[common.as_bytes()])]);
    sequence(&[&element(0x31, &[&attribute])])
}

/// One of those below 2.5.29, which must be understood.
fn extension(number: u8, value: &[u8]) -> Vec<u8> {
    sequence(&[&[6, 3, 0x55, 0x1d, number], &[1, 1, 0xff], &element(0x04, &[value])])
}

fn key_info(key: &Ed25519KeyPair) -> Vec<u8> {
    sequence(&[&ALGORITHM, &bits(key.public_key().as_ref())])
}

fn public(key: &Ed25519KeyPair) -> [u8; 32] {
    key.public_key().as_ref().try_into().expect("32 bytes")
}

fn base64url(key: &Ed25519KeyPair) -> String {
    data_encoding::BASE64URL_NOPAD.encode(key.public_key().as_ref())
}

/// The certificate of an authority, not signed yet: for 2029 and 2030, or for 2000.
fn authority(
    issuer: &[u8],
    subject: &[u8],
    key: &Ed25519KeyPair,
    old: u16,
    extensions: &[Vec<u8>],
) -> Vec<u8> {
    let (from, to) =
        if old == 0 { (b"290101000000Z", b"301231235959Z") } else { (b"000101000000Z", b"001231235959Z") };
    let validity = sequence(&[&element(0x17, &[from]), &element(0x17, &[to])]);
    let extensions = element(0xa3, &[&sequence(&[&extensions.concat()])]);
    let version = element(0xa0, &[&[2, 1, 2]]);
    sequence(&[&version, &[2, 1, 1], &ALGORITHM, issuer, &validity, subject, &key_info(key), &extensions])
}

fn signed(key: &Ed25519KeyPair, tbs: &[u8]) -> Vec<u8> {
    sequence(&[tbs, &ALGORITHM, &bits(key.sign(tbs).as_ref())])
}

/// DER from a short form of it. An octet is a tag, another one says how many octets are in the element, or from 128 on how many
/// elements; their lengths are computed. Tag 0 has octets that stand there as they are, 0xff is the client's public key, and
/// 0xfe says by which key it was certified.
fn assembled(mut short: &[u8]) -> Vec<u8> {
    one(&mut short, 0)
}

fn one(short: &mut &[u8], depth: usize) -> Vec<u8> {
    let Some((tag, rest)) = short.split_first() else { return Vec::new() };
    *short = rest;
    match tag {
        0xff => return key_info(&WORLD.client),
        0xfe => return element(0x13, &[mark(&public(&WORLD.other)).as_bytes()]),
        _ => {}
    }
    let Some((count, rest)) = short.split_first() else { return Vec::new() };
    *short = rest;
    let content = if *count < 128 || depth == DEPTH {
        let (content, rest) = short.split_at(usize::from(count & 127).min(short.len()));
        *short = rest;
        content.to_vec()
    } else {
        (128..*count).flat_map(|_| one(short, depth + 1)).collect()
    };
    if *tag == 0 { content } else { element(*tag, &[&content]) }
}

/// A certificate as X.690 and RFC 5280 have it, as far as it concerns us.
struct Slow {
    serial: Vec<u8>,
    issuer: Vec<u8>,
    /// The first and the last second in which it holds, since 1970.
    from: i64,
    to: i64,
    /// Its common name, if there is one and no more.
    common: Option<String>,
    /// The same of a serial number among the subject's names.
    mark: Option<String>,
    uris: Vec<Vec<u8>>,
    /// It is ours.
    is_of_client: bool,
    /// It is no authority's.
    is_leaf: bool,
    /// Its key may sign handshakes and no certificates.
    is_key_for_handshakes: bool,
    is_for_clients: bool,
    /// Nothing of it is written in an unusual way.
    is_plain: bool,
}

/// An element: its tag, what is in it, and itself.
struct Element<'b> {
    tag: u8,
    content: &'b [u8],
    whole: &'b [u8],
}

/// The elements of which something consists (X.690, sections 8.1 and 10.1).
fn elements(mut bytes: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = *bytes.first()?;
        let short = usize::from(*bytes.get(1)?);
        let (head, length) = if short < 128 {
            (2, short)
        } else {
            let octets = bytes.get(2..2 + (short - 128))?;
            // Not without end, and in as few octets as there can be.
            if octets.len() > 4 || *octets.first()? == 0 {
                return None;
            }
            let length = octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
            (2 + octets.len(), if length < 128 { return None } else { length })
        };
        if tag & 0x1f == 0x1f {
            return None;
        }
        let whole = bytes.get(..head.checked_add(length)?)?;
        all.push(Element { tag, content: &whole[head..], whole });
        bytes = &bytes[whole.len()..];
    }
    Some(all)
}

/// The elements of a SEQUENCE, or of whatever has this tag.
fn parts<'b>(element: &Element<'b>, tag: u8) -> Option<Vec<Element<'b>>> {
    if element.tag == tag { elements(element.content) } else { None }
}

fn is_integer(element: &Element) -> bool {
    let plain = match element.content {
        [] => false,
        [0, next, ..] => *next >= 0x80,
        [0xff, next, ..] => *next < 0x80,
        _ => true,
    };
    element.tag == 0x02 && plain
}

impl Slow {
    fn read(tbs: &[u8]) -> Option<Slow> {
        let all = elements(tbs)?;
        let [tbs] = all.as_slice() else { return None };
        let fields = parts(tbs, 0x30)?;
        let [version, serial, algorithm, issuer, validity, subject, key, rest @ ..] = fields.as_slice()
        else {
            return None;
        };
        let is_version_3 = version.tag == 0xa0 && version.content == [2, 1, 2];
        // How a serial number is written, and that it is none below zero, is not asked.
        let is_serial = serial.tag == 0x02 && !serial.content.is_empty();
        if !is_version_3 || !is_serial || algorithm.whole != ALGORITHM {
            return None;
        }
        attributes(issuer)?;
        let attributes = attributes(subject)?;
        let times = parts(validity, 0x30)?;
        let [from, to] = times.as_slice() else { return None };
        let mut slow = Slow {
            serial: serial.content.to_vec(),
            issuer: issuer.whole.to_vec(),
            from: seconds(from)?,
            to: seconds(to)?,
            common: the_one(&attributes, 3),
            mark: the_one(&attributes, 5),
            uris: Vec::new(),
            is_of_client: key.whole == key_info(&WORLD.client),
            is_leaf: true,
            is_key_for_handshakes: false,
            is_for_clients: true,
            is_plain: is_integer(serial) && serial.content[0] < 0x80 && serial.content.len() <= 20,
        };
        slow.is_plain &= attributes.iter().all(|(_, text)| text.as_ref().is_some_and(|text| text.is_ascii()));
        match rest {
            [] => {}
            [extensions] => slow.extensions(extensions)?,
            _ => return None,
        }
        Some(slow)
    }

    /// RFC 5280, section 4.2.
    fn extensions(&mut self, element: &Element) -> Option<()> {
        let sequences = parts(element, 0xa3)?;
        let [sequence] = sequences.as_slice() else { return None };
        let mut known = Vec::new();
        for extension in parts(sequence, 0x30)? {
            let fields = parts(&extension, 0x30)?;
            let (id, is_critical, value) = match fields.as_slice() {
                [id, value] => (id, false, value),
                [id, critical, value] if critical.whole == [1, 1, 0xff] => (id, true, value),
                // DER leaves this out too, and some write it.
                [id, critical, value] if critical.whole == [1, 1, 0] => {
                    self.is_plain = false;
                    (id, false, value)
                }
                _ => return None,
            };
            if id.tag != 0x06 || value.tag != 0x04 {
                return None;
            }
            let number = match id.content {
                [0x55, 0x1d, number] => Some(*number),
                _ => None,
            };
            let values = || elements(value.content).filter(|values| values.len() == 1);
            match number {
                Some(15) => self.key_usage(&values()?[0])?,
                Some(17) => self.alternative_names(&values()?[0])?,
                Some(19) => self.constraints(&values()?[0])?,
                Some(37) => self.purposes(&values()?[0])?,
                // Understood, and not about clients: name constraints and where to ask for revocations.
                Some(30 | 31) => drop(values()?),
                _ if is_critical => return None,
                _ => {
                    self.is_plain = false;
                    continue;
                }
            }
            self.is_plain &= ![Some(30), Some(31)].contains(&number);
            if known.contains(&number) {
                return None;
            }
            known.push(number);
        }
        Some(())
    }

    /// Section 4.2.1.3.
    fn key_usage(&mut self, element: &Element) -> Option<()> {
        let (unused, octets) = element.content.split_first()?;
        let hidden = (1_u16 << unused.min(&8)) - 1;
        if element.tag != 0x03 || *unused > 7 || u16::from(*octets.last().unwrap_or(&0)) & hidden != 0 {
            return None;
        }
        if octets.is_empty() && *unused != 0 {
            return None;
        }
        let first = octets.first().unwrap_or(&0);
        self.is_plain &= octets.len() == 1;
        self.is_key_for_handshakes = first & 0x80 != 0 && first & 0x06 == 0;
        Some(())
    }

    /// Section 4.2.1.6.
    fn alternative_names(&mut self, element: &Element) -> Option<()> {
        for name in parts(element, 0x30)? {
            self.is_plain &= name.tag == 0x86 && name.content.is_ascii();
            if name.tag == 0x86 {
                self.uris.push(name.content.to_vec());
            }
        }
        Some(())
    }

    /// Section 4.2.1.9.
    fn constraints(&mut self, element: &Element) -> Option<()> {
        let fields = parts(element, 0x30)?;
        let mut fields = fields.as_slice();
        if let [first, rest @ ..] = fields
            && first.tag == 0x01
        {
            // DER leaves out what is so by default (X.690, section 11.5); many write it.
            self.is_leaf = match first.content {
                [0] => true,
                [0xff] => false,
                _ => return None,
            };
            fields = rest;
        }
        self.is_plain &= fields.is_empty();
        matches!(fields, [] | [Element { tag: 0x02, .. }]).then_some(())
    }

    /// Section 4.2.1.12.
    fn purposes(&mut self, element: &Element) -> Option<()> {
        let all = parts(element, 0x30)?;
        let known = [0x2b, 6, 1, 5, 5, 7, 3];
        self.is_plain &=
            all.iter().all(|purpose| purpose.content.len() == 8 && purpose.content[..7] == known);
        self.is_for_clients = all.iter().any(|purpose| purpose.content == [0x2b, 6, 1, 5, 5, 7, 3, 2]);
        let is_list = !all.is_empty() && all.iter().all(|purpose| purpose.tag == 0x06);
        is_list.then_some(())
    }

    /// The SPIFFE ID that it names, if it names nothing else.
    fn spiffe_id(&self) -> Option<String> {
        let [uri] = self.uris.as_slice() else { return None };
        let text = String::from_utf8(uri.clone()).ok()?;
        let parts: Vec<&str> = text.split('/').collect();
        let ["spiffe:", "", domain, path @ ..] = parts.as_slice() else { return None };
        let has_only = |text: &str, plain: &str| !text.is_empty() && text.chars().all(|c| plain.contains(c));
        let (small, large) = ("abcdefghijklmnopqrstuvwxyz0123456789.-_", "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
        let is_domain = has_only(domain, small) && domain.len() < 256;
        let is_part = |part: &&str| has_only(part, &format!("{small}{large}")) && ![".", ".."].contains(part);
        let is_id = is_domain && !path.is_empty() && path.iter().all(is_part) && text.len() <= 2048;
        is_id.then_some(text)
    }

    /// Whether somebody who has this author's certificates believes it then.
    fn holds(&self, author: &Author, at: u64) -> bool {
        let at_s = i64::try_from(at).expect("a moment");
        let is_signed = self.issuer == author.name && (author.counts)(at);
        let is_now = self.from <= at_s && at_s <= self.to;
        let is_clients =
            self.is_leaf && self.is_key_for_handshakes && self.is_for_clients && self.is_of_client;
        is_signed && is_now && is_clients
    }
}

/// A name (section 4.1.2.4): which attributes below 2.5.4 it has, and what they are if they are text.
fn attributes(name: &Element) -> Option<Vec<(u8, Option<String>)>> {
    let mut all = Vec::new();
    for set in parts(name, 0x30)? {
        for attribute in parts(&set, 0x31)? {
            let fields = parts(&attribute, 0x30)?;
            let [id, value] = fields.as_slice() else { return None };
            if id.tag != 0x06 {
                return None;
            }
            // UTF8String, NumericString, PrintableString and IA5String.
            let text = [0x0c, 0x12, 0x13, 0x16].contains(&value.tag).then(|| value.content.to_vec());
            if let [0x55, 4, number] = id.content {
                all.push((*number, text.and_then(|text| String::from_utf8(text).ok())));
            }
        }
    }
    Some(all)
}

/// The attribute with this number, if there is one and no more, and it is text.
fn the_one(attributes: &[(u8, Option<String>)], number: u8) -> Option<String> {
    let mut all = attributes.iter().filter(|(found, _)| *found == number);
    let (_, text) = all.next()?;
    if all.next().is_some() { None } else { text.clone() }
}

/// Section 4.1.2.5, counted day by day.
fn seconds(time: &Element) -> Option<i64> {
    let digits: Vec<i64> = match time.content {
        [digits @ .., b'Z'] if digits.iter().all(u8::is_ascii_digit) => {
            digits.iter().map(|digit| i64::from(digit - b'0')).collect()
        }
        _ => return None,
    };
    let pairs: Vec<i64> = digits.chunks_exact(2).map(|pair| pair[0] * 10 + pair[1]).collect();
    let (year, rest) = match (time.tag, digits.len()) {
        (0x17, 12) => (if pairs[0] < 50 { 2000 } else { 1900 } + pairs[0], &pairs[1..]),
        (0x18, 14) => (pairs[0] * 100 + pairs[1], &pairs[2..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = rest.try_into().ok()?;
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month - 1).ok()?)?;
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days_of = |year: i64| if is_leap(year) { 366 } else { 365 };
    let years: i64 =
        if year < 1970 { -(year..1970).map(days_of).sum::<i64>() } else { (1970..year).map(days_of).sum() };
    let days = years + lengths[..month as usize - 1].iter().sum::<i64>() + day - 1;
    // Nobody's certificate began or ended before 1970.
    Some(((days * 24 + hour) * 60 + minute) * 60 + second).filter(|seconds| *seconds >= 0)
}
