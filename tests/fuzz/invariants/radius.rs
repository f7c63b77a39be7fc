//! What holds for any bytes that come as accounting of RADIUS: as one datagram, and as a program of packets that clients have
//! signed.
//!
//! The program is attributes (RFC 2865, section 5). Type 0, which is none, ends a packet; its second byte says what comes of it:
//! bits 0 to 4 let time pass, in steps of 16 seconds; bit 5 is the client; with bit 6 it comes twice; with bit 7 nothing is
//! added to it but the code of the message.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use crate::config::values;
use crate::identity::radius::{Accounts, Act, Client, Request, Status, WINDOW_S};
use crate::portal::wire::Secret;
use md5::{Digest, Md5};

const NOW: i64 = 1_800_000_000;
/// The secrets of two clients.
const SECRETS: [&str; 2] =
    ["s3cret", "a longer one than a block of MD5, which has sixty-four bytes and no more"];

/// Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    for secret in SECRETS {
        is_read_as_slowly(bytes, secret);
    }
    let mut world = World::new();
    let (mut packet, mut rest) = (Vec::new(), bytes);
    while let [kind, second, ..] = rest {
        if *kind == 0 {
            world.step(std::mem::take(&mut packet), *second);
            rest = &rest[2..];
        } else {
            // Lengths that do not fit go into the packet as they are.
            let (attribute, more) = rest.split_at(usize::from(*second).clamp(2, rest.len()));
            packet.extend_from_slice(attribute);
            rest = more;
        }
    }
    world.step(packet, 0);
}

/// Reads a datagram, and holds what comes of it against the slow reading.
fn is_read_as_slowly(datagram: &[u8], secret: &str) -> Option<Request> {
    let read = Request::read(datagram, &Secret::new(secret.to_owned())).ok();
    let slow = slow(datagram, secret.as_bytes());
    assert_eq!(read.is_some(), slow.is_some(), "{datagram:02x?}");
    let (read, slow) = (read?, slow?);
    assert_eq!(read.authenticator[..], datagram[4..20]);
    assert_eq!(read.status, slow.status);
    assert_eq!((&read.session, &read.user, read.at), (&slow.session, &slow.user, slow.at));
    assert_eq!((&read.addresses, read.mac), (&slow.addresses, slow.mac));
    let length = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
    no_bit_of_it_is_free(&datagram[..length], secret);
    let padded = [&datagram[..length], &[1, 2, 3]].concat();
    assert_eq!(Request::read(&padded, &Secret::new(secret.to_owned())).as_ref(), Ok(&read), "padding");
    its_answer_is_its_clients(&read, &datagram[..length], &slow.proxy_states, secret);
    Some(read)
}

fn no_bit_of_it_is_free(packet: &[u8], secret: &str) {
    let place = packet.iter().fold(0, |sum, byte| (sum * 31 + usize::from(*byte)) % (packet.len() * 8));
    let mut changed = packet.to_vec();
    changed[place / 8] ^= 1 << (place % 8);
    assert!(Request::read(&changed, &Secret::new(secret.to_owned())).is_err(), "bit {place}: {packet:02x?}");
    for other in SECRETS.into_iter().filter(|other| *other != secret) {
        assert!(Request::read(packet, &Secret::new(other.to_owned())).is_err());
    }
}

/// RFC 2866, section 4.2: the answer has the identifier and the proxies' states, and no more than the request.
fn its_answer_is_its_clients(read: &Request, packet: &[u8], proxy_states: &[Vec<u8>], secret: &str) {
    let answer = read.response(&Secret::new(secret.to_owned()));
    let states: Vec<u8> = proxy_states
        .iter()
        .flat_map(|state| [&[33, state.len() as u8 + 2], state.as_slice()].concat())
        .collect();
    assert_eq!(answer.len(), 20 + states.len());
    assert!(answer.len() <= packet.len(), "nobody is flooded by answers");
    assert_eq!(answer[..4], [5, packet[1], (answer.len() >> 8) as u8, answer.len() as u8]);
    assert_eq!(answer[20..], states);
    let hashed = [&answer[..4], &packet[4..20], &states, secret.as_bytes()].concat();
    assert_eq!(answer[4..20], Md5::digest(hashed)[..]);
}

/// What a packet says.
struct Slow {
    status: Status,
    session: String,
    user: Option<String>,
    addresses: Vec<IpAddr>,
    mac: Option<[u8; 6]>,
    at: i64,
    proxy_states: Vec<Vec<u8>>,
}

/// The same by the letter of the RFCs, and without haste.
fn slow(datagram: &[u8], secret: &[u8]) -> Option<Slow> {
    if datagram.len() < 20 {
        return None;
    }
    let length = usize::from(datagram[2]) * 256 + usize::from(datagram[3]);
    if !(20..=4096).contains(&length) || datagram.len() < length || datagram[0] != 4 {
        return None;
    }
    let mut attributes: BTreeMap<u8, Vec<&[u8]>> = BTreeMap::new();
    let mut left = &datagram[20..length];
    let (mut codes, mut ordered) = (Vec::new(), Vec::new());
    while !left.is_empty() {
        let size = usize::from(*left.get(1)?);
        if size < 2 || size > left.len() {
            return None;
        }
        if left[0] == 80 {
            codes.push(length - left.len() + 2);
        }
        attributes.entry(left[0]).or_default().push(&left[2..size]);
        ordered.push((left[0], &left[2..size]));
        left = &left[size..];
    }
    let plain = |kind: u8| attributes.get(&kind).map(Vec::as_slice).unwrap_or_default();
    let ([code], [place]) = (plain(80), codes.as_slice()) else { return None };
    let mut packet = datagram[..length].to_vec();
    packet[4..20].copy_from_slice(&[0; 16]);
    if Md5::digest([&packet, secret].concat())[..] != datagram[4..20] || code.len() != 16 {
        return None;
    }
    packet[*place..*place + 16].copy_from_slice(&[0; 16]);
    if hmac(secret, &packet)[..] != **code {
        return None;
    }
    let at_most_one = |kind: u8| match plain(kind) {
        [] => Some(None),
        [one] => Some(Some(*one)),
        _ => None,
    };
    let number =
        |bytes: &[u8]| (bytes.len() == 4).then(|| bytes.iter().fold(0, |n, b| n << 8 | i64::from(*b)));
    let text = |kind: u8| match at_most_one(kind)? {
        Some(bytes) => String::from_utf8(bytes.to_vec()).ok().map(Some),
        None => Some(None),
    };
    Some(Slow {
        status: match number(at_most_one(40)??)? {
            1 => Status::Start,
            2 => Status::Stop,
            3 => Status::Interim,
            7 | 8 => Status::Anew,
            _ => Status::Other,
        },
        session: text(44)?.unwrap_or_default(),
        user: text(1)?,
        addresses: addresses(&ordered)?,
        mac: at_most_one(31)?.and_then(mac),
        at: number(at_most_one(55)??)?,
        proxy_states: plain(33).iter().map(|state| state.to_vec()).collect(),
    })
}

fn addresses(attributes: &[(u8, &[u8])]) -> Option<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for (kind, value) in attributes {
        let address = match kind {
            8 => IpAddr::from(<[u8; 4]>::try_from(*value).ok()?),
            168 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(*value).ok()?)).to_canonical(),
            _ => continue,
        };
        let is_chosen_later = *kind == 8 && (value[..3] == [255; 3] && value[3] >= 254);
        if !is_chosen_later && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    (addresses.len() <= 8).then_some(addresses)
}

fn mac(value: &[u8]) -> Option<[u8; 6]> {
    let text = std::str::from_utf8(value).ok()?.replace(['-', ':', '.'], "");
    let is_one = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(&text, 16).ok().filter(|_| is_one)?;
    number.to_be_bytes()[2..].try_into().ok()
}

/// RFC 2104, section 2.
fn hmac(secret: &[u8], text: &[u8]) -> Vec<u8> {
    let mut key = if secret.len() > 64 { Md5::digest(secret).to_vec() } else { secret.to_vec() };
    key.resize(64, 0);
    let pad = |with: u8| key.iter().map(|byte| byte ^ with).collect::<Vec<u8>>();
    let inner = Md5::digest([pad(0x36).as_slice(), text].concat());
    Md5::digest([pad(0x5c).as_slice(), &inner].concat()).to_vec()
}

/// A packet of these attributes, with both codes as its client makes them.
fn signed(attributes: &[u8], identifier: u8, secret: &[u8]) -> Vec<u8> {
    let mut packet = vec![4, identifier, 0, 0];
    packet.resize(20, 0);
    packet.extend_from_slice(attributes);
    packet.truncate(4096);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let mut place = 20;
    while let [kind, size, ..] = packet[place..] {
        let end = place + usize::from(size).max(2);
        if kind == 80 && size == 18 && end <= packet.len() {
            packet[place + 2..end].fill(0);
            let code = hmac(secret, &packet);
            packet[place + 2..end].copy_from_slice(&code);
            break;
        }
        place = end.min(packet.len());
    }
    let hash = Md5::digest([&packet, secret].concat());
    packet[4..20].copy_from_slice(&hash);
    packet
}

fn kinds(attributes: &[u8]) -> BTreeSet<u8> {
    let (mut kinds, mut rest) = (BTreeSet::new(), attributes);
    while let [kind, size, ..] = rest {
        kinds.insert(*kind);
        rest = &rest[usize::from(*size).clamp(2, rest.len())..];
    }
    kinds
}

/// What clients have told, and what has to follow of it.
struct World {
    accounts: Accounts,
    clients: [Client; 2],
    now: i64,
    steps: u8,
    /// Authenticators of what was told.
    told: BTreeSet<(usize, [u8; 16])>,
    /// When each client began anew.
    anew: [i64; 2],
    /// Sessions that are over.
    over: BTreeSet<(usize, String)>,
    /// Sessions of the gateway by those of the clients.
    begun: BTreeMap<(usize, String), BTreeMap<IpAddr, String>>,
}

impl World {
    fn new() -> World {
        let client = |name: &str| Client {
            name: name.to_owned(),
            address: [10, 2, 0, 5].into(),
            secret_file: PathBuf::new(),
            groups: Vec::new(),
            lasts_s: 60,
        };
        World {
            accounts: Accounts::default(),
            clients: [client("switch"), client("switch2")],
            now: NOW,
            steps: 0,
            told: BTreeSet::new(),
            anew: [i64::MIN; 2],
            over: BTreeSet::new(),
            begun: BTreeMap::new(),
        }
    }

    fn step(&mut self, mut attributes: Vec<u8>, how: u8) {
        self.now += i64::from(how & 31) * 16;
        let client = usize::from(how >> 5 & 1);
        let kinds = kinds(&attributes);
        if how & 0x80 == 0 && !kinds.contains(&55) {
            attributes.extend([55, 6]);
            attributes.extend((self.now as u32).to_be_bytes());
        }
        if !kinds.contains(&80) {
            attributes.extend([80, 18]);
            attributes.extend([0; 16]);
        }
        self.steps = self.steps.wrapping_add(1);
        let packet = signed(&attributes, self.steps, SECRETS[client].as_bytes());
        let Some(request) = is_read_as_slowly(&packet, SECRETS[client]) else { return };
        self.hear(client, &request);
        if how & 0x40 != 0 {
            self.hear(client, &request);
        }
    }

    fn hear(&mut self, client: usize, request: &Request) {
        let acts = self.accounts.decide(&self.clients[client], request, self.now);
        let is_of_now = (self.now - WINDOW_S..=self.now + WINDOW_S).contains(&request.at);
        let is_about_one = !matches!(request.status, Status::Anew | Status::Other);
        if !is_of_now || is_about_one && request.session.is_empty() {
            assert!(acts.is_err(), "{request:?}");
            return;
        }
        let is_new = self.told.insert((client, request.authenticator));
        let key = (client, request.session.clone());
        let is_over = is_about_one && (self.over.contains(&key) || request.at <= self.anew[client]);
        if is_about_one {
            self.begun.entry(key.clone()).or_default();
        }
        let goes_on = matches!(request.status, Status::Start | Status::Interim);
        let is_nobody = request.user.as_ref().is_some_and(|user| values::identity(user, "user").is_err());
        assert_eq!(acts.is_err(), is_new && goes_on && !is_over && is_nobody, "{request:?}");
        let Ok(acts) = acts else { return };
        assert!(is_new && !is_over || acts.is_empty(), "a repetition, or over: {acts:?}");
        for act in acts {
            match act {
                Act::Begin { address, mac, user } => {
                    assert!(goes_on && !is_over, "{request:?}");
                    assert_eq!((Some(&user), mac), (request.user.as_ref(), request.mac));
                    assert!(request.addresses.contains(&address));
                    let id = format!("{} {address}", self.told.len());
                    let before = self.begun.entry(key.clone()).or_default().insert(address, id.clone());
                    assert_eq!(before, None, "it was begun already");
                    self.accounts.begun(&self.clients[client], request, address, id);
                }
                Act::End { address, id } => {
                    let mine = self.begun.iter_mut().filter(|((of, _), _)| *of == client);
                    let found =
                        mine.filter_map(|(_, begun)| (begun.get(&address) == Some(&id)).then_some(begun));
                    let found: Vec<_> = found.collect();
                    assert_eq!(found.len(), 1, "it ends what this client has begun, once: {address} {id}");
                    found.into_iter().for_each(|begun| drop(begun.remove(&address)));
                }
            }
        }
        if is_new && !is_over {
            self.has_followed(client, request);
        }
    }

    fn has_followed(&mut self, client: usize, request: &Request) {
        let key = (client, request.session.clone());
        let begun = self.begun.get(&key);
        let begun: BTreeSet<IpAddr> = begun.into_iter().flat_map(|begun| begun.keys().copied()).collect();
        match request.status {
            Status::Stop => {
                assert!(begun.is_empty(), "it was stopped");
                self.over.insert(key);
            }
            Status::Anew => {
                let mut mine = self.begun.iter().filter(|((of, _), _)| *of == client);
                assert!(mine.all(|(_, begun)| begun.is_empty()), "the client begins anew");
                self.over.retain(|(of, _)| *of != client);
                self.anew[client] = self.anew[client].max(request.at);
            }
            Status::Start | Status::Interim if request.user.is_some() && !request.addresses.is_empty() => {
                assert_eq!(begun, request.addresses.iter().copied().collect());
            }
            _ => {}
        }
    }
}
