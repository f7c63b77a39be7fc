//! How many next hops the kernel is asked for at a time.
//!
//! The kernel's neighbour table is one for all ports (1,024 entries by default, `gc_thresh3`), and each address asked
//! for in vain takes an entry for three seconds. Without bounds a host that scans an IPv6 /64 on link fills it, and then
//! no port finds a new neighbour any more (RFC 6583). So a port has its own share of what may be asked for and not yet
//! answered. Of that the packets that came by one port have half, however many sources they forge, and a source has an
//! eighth; whoever is there answers in milliseconds and takes no share then.
//! Neighbours that have answered before are asked for beyond the shares, because who uses them is no scanner
//! (RFC 6583, section 7.2, says the same of known ones).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bulkhead_dataplane::verdict::PortId;
use bulkhead_dataplane::worker::Unresolved;

/// How long the kernel asks: three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most that all ports together may have asked for in vain at a time: half of the kernel's table.
const ALL: usize = 512;
/// The least and the most of it that is one port's.
const PORT_SHARE: (usize, usize) = (8, 128);
/// A source has this part of a port's share.
const SOURCES: usize = 8;
/// And all that come by one port have this part.
const INGRESSES: usize = 2;
/// Neighbours that are remembered to have answered; with twice as many the older ones are forgotten.
const KNOWN: usize = 4096;

type Hop = (PortId, IpAddr);

#[derive(Clone, Copy)]
struct Asked {
    source: IpAddr,
    ingress: PortId,
    since: Instant,
    /// Asked for beyond the shares.
    is_known: bool,
}

/// What the kernel has been asked for and has not answered.
pub struct Asking {
    per_port: usize,
    per_source: usize,
    pending: HashMap<Hop, Asked>,
    known: HashSet<Hop>,
    /// Those before, asked first to be remembered: a set that is full becomes the older one.
    known_before: HashSet<Hop>,
}

impl Asking {
    /// For so many ports.
    pub fn new(ports: usize) -> Asking {
        let per_port = (ALL / ports.max(1)).clamp(PORT_SHARE.0, PORT_SHARE.1);
        Asking {
            per_port,
            per_source: (per_port / SOURCES).max(4),
            pending: HashMap::new(),
            known: HashSet::new(),
            known_before: HashSet::new(),
        }
    }

    /// Whether to ask the kernel for this next hop now; if so, it counts as asked for.
    pub fn admit(&mut self, wanted: &Unresolved, now: Instant) -> bool {
        let hop = (wanted.port, wanted.next_hop);
        if self.pending.get(&hop).is_some_and(|asked| now < asked.since + PATIENCE) {
            return false;
        }
        let is_known = self.known.contains(&hop) || self.known_before.contains(&hop);
        if !is_known {
            self.pending.retain(|_, asked| now < asked.since + PATIENCE);
            let shares = || self.pending.iter().filter(|(_, asked)| !asked.is_known);
            let of_port = shares().filter(|((port, _), _)| *port == wanted.port).count();
            let of_source = shares().filter(|(_, asked)| asked.source == wanted.source).count();
            let of_ingress = shares()
                .filter(|((port, _), asked)| (*port, asked.ingress) == (wanted.port, wanted.ingress))
                .count();
            if of_port >= self.per_port
                || of_ingress >= self.per_port / INGRESSES
                || of_source >= self.per_source
            {
                return false;
            }
        }
        self.pending
            .insert(hop, Asked { source: wanted.source, ingress: wanted.ingress, since: now, is_known });
        true
    }

    /// These are in the kernel's table.
    pub fn answered(&mut self, neighbours: impl Iterator<Item = Hop>) {
        if self.pending.is_empty() {
            return;
        }
        for hop in neighbours {
            if self.pending.remove(&hop).is_some() {
                self.remember(hop);
            }
        }
    }

    fn remember(&mut self, hop: Hop) {
        if self.known.len() >= KNOWN {
            self.known_before = std::mem::take(&mut self.known);
        }
        self.known.insert(hop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(port: u8, host: u32) -> Hop {
        (PortId(port), IpAddr::from((0x0a02_0000 + host).to_be_bytes()))
    }

    fn wanted((port, next_hop): Hop, source: u8) -> Unresolved {
        // Sources from 100 on come by another port.
        Unresolved {
            port,
            next_hop,
            source: IpAddr::from([10, 1, 0, source]),
            ingress: PortId(2 + source / 100),
        }
    }

    #[test]
    fn a_scanner_has_a_part_of_its_port_s_share_and_the_port_its_own() {
        let (mut asking, now) = (Asking::new(2), Instant::now());
        let scan = |asking: &mut Asking, port, source, now| {
            (0..500).filter(|host| asking.admit(&wanted(hop(port, *host), source), now)).count()
        };
        assert_eq!(scan(&mut asking, 0, 1, now), 16);
        assert_eq!(scan(&mut asking, 0, 1, now + PATIENCE / 2), 0);
        // Another source has its part, until the port's share is used up.
        assert_eq!((2..30).map(|source| scan(&mut asking, 0, source, now)).sum::<usize>(), 48);
        assert_eq!((100..130).map(|source| scan(&mut asking, 0, source, now)).sum::<usize>(), 64);
        assert_eq!(scan(&mut asking, 0, 201, now), 0);
        // That is no other port's trouble.
        assert_eq!(scan(&mut asking, 1, 99, now), 16);
        // What nobody has answered is over after three seconds.
        assert_eq!(scan(&mut asking, 0, 1, now + PATIENCE), 16);
        assert!(asking.pending.len() <= 32);
    }

    #[test]
    fn who_answers_takes_no_share_and_is_asked_for_again_beyond_it() {
        let (mut asking, now) = (Asking::new(2), Instant::now());
        for host in 0..1000 {
            assert!(asking.admit(&wanted(hop(0, host), 1), now));
            asking.answered([hop(0, host)].into_iter());
        }
        // With the share used up by a scan, those are asked for, and no others.
        for number in 0..1000 {
            asking.admit(&wanted(hop(0, 5000 + number), (number / 5) as u8), now);
        }
        assert!(!asking.admit(&wanted(hop(0, 9000), 77), now));
        assert!((0..1000).all(|host| asking.admit(&wanted(hop(0, host), 77), now)));
        assert!(!asking.admit(&wanted(hop(0, 0), 77), now), "once at a time");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_stay() {
        let (mut asking, now) = (Asking::new(2), Instant::now());
        for host in 0..100_000 {
            assert!(asking.admit(&wanted(hop(0, host), 1), now));
            asking.answered([hop(0, host)].into_iter());
        }
        assert!(asking.known.len() + asking.known_before.len() <= 2 * KNOWN);
        assert!(asking.known.contains(&hop(0, 99_999)));
    }
}
