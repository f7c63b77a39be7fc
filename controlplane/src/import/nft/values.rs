//! Words of a rule as values.

use super::super::names;
use super::super::sets::{Addresses, Families, Ranges};
use super::syntax::Atom;
use crate::config::diagnostics::{Report, quoted};

/// Addresses of one family.
pub(super) fn addresses(atoms: &[&Atom], families: Families, report: &mut Report) -> Option<Addresses> {
    let mut list = Vec::new();
    for atom in atoms {
        if atom.text == "*" {
            return Some(Addresses::all(families));
        }
        match names::addresses(&atom.text) {
            Some((low, high)) if Families::of(&low) == families => list.push((low, high)),
            Some(_) => {
                let other = if families == Families::V4 { "`ip6`" } else { "`ip`" };
                let message = format!("{} is of the other family", quoted(&atom.text));
                report.error(atom.at, message).hint(format!("it is compared with after {other}"));
                return None;
            }
            None => {
                let message = format!("{} is not an address, a network or a range", quoted(&atom.text));
                report
                    .error(atom.at, message)
                    .hint("names of hosts are not looked up: write their addresses");
                return None;
            }
        }
    }
    Some(Addresses::from_list(list))
}

/// Ports, ranges of them, or their names.
pub(super) fn ports(atoms: &[&Atom], report: &mut Report) -> Option<Ranges> {
    let mut list = Vec::new();
    for atom in atoms {
        let text = atom.text.as_str();
        let range = match (names::port(text), text.split_once('-')) {
            (Some(port), _) => Some((port, port)),
            (None, _) if text == "*" => Some((0, u16::MAX)),
            (None, Some((low, high))) => {
                let high = names::number(high)
                    .map(|high| high.min(u16::MAX.into()) as u16)
                    .or_else(|| names::port(high));
                names::port(low).zip(high).filter(|(low, high)| low <= high)
            }
            _ => None,
        };
        let Some((low, high)) = range else {
            let hint = report.nearest(text, names::port_names());
            let message = format!("{} is not a port, a range or a known service", quoted(text));
            report.error(atom.at, message).hint(hint.unwrap_or_else(|| "write its number".to_owned()));
            return None;
        };
        // Port 0 never crosses.
        list.push((u128::from(low.max(1)), u128::from(high)));
    }
    Some(Ranges::from_list(list))
}

/// Numbers of protocols.
pub(super) fn protocols(atoms: &[&Atom], report: &mut Report) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    for atom in atoms {
        let range = atom.text.split_once('-').map(|(low, high)| (low.parse::<u8>(), high.parse::<u8>()));
        match (names::ip_protocol(&atom.text), range) {
            (Some(number), _) => list.push(number),
            (None, Some((Ok(low), Ok(high)))) => list.extend(low..=high),
            _ => {
                let hint = report.nearest(&atom.text, names::protocol_names());
                let message = format!("{} is not a protocol", quoted(&atom.text));
                report.error(atom.at, message).hint(hint.unwrap_or_else(|| "write its number".to_owned()));
                return None;
            }
        }
    }
    Some(list)
}

/// TCP flags of a SYN, and of the packets that follow.
pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// TCP flags as bits.
pub(super) fn flags(atoms: &[Atom]) -> Option<u8> {
    let mut bits = 0;
    for atom in atoms {
        bits |= match atom.text.as_str() {
            "fin" => 0x01,
            "syn" => SYN,
            "rst" => 0x04,
            "psh" => 0x08,
            "ack" => ACK,
            "urg" => 0x20,
            "ecn" => 0x40,
            "cwr" => 0x80,
            number => match number.strip_prefix("0x") {
                Some(hex) => u8::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            },
        };
    }
    Some(bits)
}
