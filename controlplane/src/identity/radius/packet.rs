//! Accounting packets (RFC 2866, RFC 2869, RFC 3579, RFC 6911).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::topology::Mac;
use hmac::{Hmac, KeyInit, Mac as _};
use md5::{Digest, Md5};

use crate::portal::wire::Secret;

/// The shortest and the longest packet, bytes (RFC 2865, section 3).
pub const BYTES_MIN: usize = 20;
/// See [`BYTES_MIN`].
pub const BYTES_MAX: usize = 4096;
/// The most addresses that one packet may tell.
const ADDRESSES_MAX: usize = 8;

const ACCOUNTING_REQUEST: u8 = 4;
const ACCOUNTING_RESPONSE: u8 = 5;

const USER_NAME: u8 = 1;
const FRAMED_IP_ADDRESS: u8 = 8;
const PROXY_STATE: u8 = 33;
const CALLING_STATION_ID: u8 = 31;
const ACCT_STATUS_TYPE: u8 = 40;
const ACCT_SESSION_ID: u8 = 44;
const EVENT_TIMESTAMP: u8 = 55;
const MESSAGE_AUTHENTICATOR: u8 = 80;
const FRAMED_IPV6_ADDRESS: u8 = 168;

/// Why a packet is dropped. Nothing is answered: whoever has the secret does not send such packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its lengths do not fit, or it is no Accounting-Request.
    Malformed,
    /// An attribute that is needed is missing; its name.
    Missing(&'static str),
    /// An attribute is there twice, or is not what it should be; its name.
    Wrong(&'static str),
    /// It was not made with the secret.
    Authenticator,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Malformed => f.write_str("it is no Accounting-Request"),
            Refused::Missing(name) => write!(f, "it has no {name}"),
            Refused::Wrong(name) => write!(f, "its {name} is twice there, or not what it should be"),
            Refused::Authenticator => f.write_str("it was not made with the client's secret"),
        }
    }
}

impl std::error::Error for Refused {}

/// What is told of a session (RFC 2866, section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It begins.
    Start,
    /// It goes on.
    Interim,
    /// It has ended.
    Stop,
    /// The client begins or ends to account: what it told before holds no more.
    Anew,
    /// Something of which nothing follows here.
    Other,
}

/// A request that was made with the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    identifier: u8,
    /// The Request Authenticator: repetitions have the same.
    pub authenticator: [u8; 16],
    proxy_states: Vec<Vec<u8>>,
    /// What is told.
    pub status: Status,
    /// Of which session of the client.
    pub session: String,
    /// Of whom.
    pub user: Option<String>,
    /// At which addresses.
    pub addresses: Vec<IpAddr>,
    /// By which device.
    pub mac: Option<Mac>,
    /// When, seconds since 1970.
    pub at: i64,
}

impl Request {
    /// Reads a datagram that came from the client with this secret.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn read(datagram: &[u8], secret: &Secret) -> Result<Request, Refused> {
        let length = datagram.get(2..4).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
        let length = length.filter(|length| (BYTES_MIN..=BYTES_MAX).contains(length));
        // What follows the length is padding (RFC 2865, section 3).
        let packet = length.and_then(|length| datagram.get(..length)).ok_or(Refused::Malformed)?;
        if packet[0] != ACCOUNTING_REQUEST {
            return Err(Refused::Malformed);
        }
        let attributes = attributes(packet)?;
        verify(packet, &attributes, secret)?;
        let one = |kind, name| one(&attributes, kind, name);
        let number = |kind, name| -> Result<Option<u32>, Refused> {
            let number =
                |value: &[u8]| value.try_into().map(u32::from_be_bytes).map_err(|_| Refused::Wrong(name));
            one(kind, name)?.map(number).transpose()
        };
        let text = |kind, name| -> Result<Option<String>, Refused> {
            let text = |value: &[u8]| {
                std::str::from_utf8(value).map(str::to_owned).map_err(|_| Refused::Wrong(name))
            };
            one(kind, name)?.map(text).transpose()
        };
        let status = match number(ACCT_STATUS_TYPE, "Acct-Status-Type")? {
            Some(1) => Status::Start,
            Some(2) => Status::Stop,
            Some(3) => Status::Interim,
            Some(7 | 8) => Status::Anew,
            Some(_) => Status::Other,
            None => return Err(Refused::Missing("Acct-Status-Type")),
        };
        let at = number(EVENT_TIMESTAMP, "Event-Timestamp")?.ok_or(Refused::Missing("Event-Timestamp"))?;
        let proxy_states = attributes.iter().filter(|attribute| attribute.kind == PROXY_STATE);
        let mut authenticator = [0; 16];
        authenticator.copy_from_slice(&packet[4..20]);
        Ok(Request {
            identifier: packet[1],
            authenticator,
            proxy_states: proxy_states.map(|attribute| attribute.value.to_vec()).collect(),
            status,
            session: text(ACCT_SESSION_ID, "Acct-Session-Id")?.unwrap_or_default(),
            user: text(USER_NAME, "User-Name")?,
            addresses: addresses(&attributes)?,
            mac: one(CALLING_STATION_ID, "Calling-Station-Id")?.and_then(mac),
            at: at.into(),
        })
    }

    /// The answer that ends its repetitions (RFC 2866, section 4.2). It has no Message-Authenticator: over which
    /// authenticator that would be made nothing says, and clients differ; the Response Authenticator covers all of it.
    pub fn response(&self, secret: &Secret) -> Vec<u8> {
        let mut packet = vec![ACCOUNTING_RESPONSE, self.identifier, 0, 0];
        packet.extend(self.authenticator);
        for state in &self.proxy_states {
            // RFC 2865, section 5.33: unchanged, in the same order.
            packet.extend([PROXY_STATE, state.len() as u8 + 2]);
            packet.extend(state);
        }
        let length = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&length);
        let hash = Md5::new().chain_update(&packet).chain_update(secret.reveal()).finalize();
        packet[4..20].copy_from_slice(&hash);
        packet
    }
}

struct Attribute<'p> {
    kind: u8,
    value: &'p [u8],
    /// Where its value begins in the packet.
    place: usize,
}

fn attributes(packet: &[u8]) -> Result<Vec<Attribute<'_>>, Refused> {
    let (mut list, mut place) = (Vec::new(), BYTES_MIN);
    while place < packet.len() {
        let length = usize::from(*packet.get(place + 1).ok_or(Refused::Malformed)?);
        if length < 2 {
            return Err(Refused::Malformed);
        }
        let value = packet.get(place + 2..place + length).ok_or(Refused::Malformed)?;
        list.push(Attribute { kind: packet[place], value, place: place + 2 });
        place += length;
    }
    Ok(list)
}

fn one<'p>(attributes: &[Attribute<'p>], kind: u8, name: &'static str) -> Result<Option<&'p [u8]>, Refused> {
    let mut found = attributes.iter().filter(|attribute| attribute.kind == kind);
    let first = found.next();
    if found.next().is_some() {
        return Err(Refused::Wrong(name));
    }
    Ok(first.map(|attribute| attribute.value))
}

/// Both codes have to be right. In an Accounting-Request that of the message is made over an authenticator of zeros, since
/// the Request Authenticator covers it (RFC 5176, section 3.4 says so of the other packets of that kind).
fn verify(packet: &[u8], attributes: &[Attribute<'_>], secret: &Secret) -> Result<(), Refused> {
    let mut codes = attributes.iter().filter(|attribute| attribute.kind == MESSAGE_AUTHENTICATOR);
    let code = codes.next().ok_or(Refused::Missing("Message-Authenticator"))?;
    if code.value.len() != 16 || codes.next().is_some() {
        return Err(Refused::Wrong("Message-Authenticator"));
    }
    let mut zeroed = packet.to_vec();
    zeroed[4..20].fill(0);
    let hash = Md5::new().chain_update(&zeroed).chain_update(secret.reveal()).finalize();
    zeroed[code.place..code.place + 16].fill(0);
    let mut mac =
        Hmac::<Md5>::new_from_slice(secret.reveal().as_bytes()).map_err(|_| Refused::Authenticator)?;
    mac.update(&zeroed);
    // In constant time; the other one is of what the first has covered.
    mac.verify_slice(code.value).map_err(|_| Refused::Authenticator)?;
    if hash.as_slice() == &packet[4..20] { Ok(()) } else { Err(Refused::Authenticator) }
}

fn addresses(attributes: &[Attribute<'_>]) -> Result<Vec<IpAddr>, Refused> {
    let mut list = Vec::new();
    for attribute in attributes {
        let address: IpAddr = match attribute.kind {
            FRAMED_IP_ADDRESS => {
                let octets: [u8; 4] =
                    attribute.value.try_into().map_err(|_| Refused::Wrong("Framed-IP-Address"))?;
                // RFC 2865, section 5.8: the user, or the client, chooses one; then it is not known yet.
                if octets == [255; 4] || octets == [255, 255, 255, 254] {
                    continue;
                }
                Ipv4Addr::from(octets).into()
            }
            FRAMED_IPV6_ADDRESS => {
                let octets: [u8; 16] =
                    attribute.value.try_into().map_err(|_| Refused::Wrong("Framed-IPv6-Address"))?;
                Ipv6Addr::from(octets).to_canonical()
            }
            _ => continue,
        };
        if !list.contains(&address) {
            list.push(address);
        }
    }
    if list.len() > ADDRESSES_MAX { Err(Refused::Wrong("Framed-IPv6-Address")) } else { Ok(list) }
}

/// A MAC address in any of the forms that clients write (RFC 3580, section 3.21: `00-10-A4-23-19-C0`).
fn mac(value: &[u8]) -> Option<Mac> {
    let text = std::str::from_utf8(value).ok()?;
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !b"-:.".contains(byte))
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let octets: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0)).collect();
    let octets: [u8; 6] = octets.try_into().ok().filter(|_| digits.len() == 12)?;
    Some(octets)
}
