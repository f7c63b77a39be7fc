//! What the portal gives to everybody together and to one address, and who goes when that is not enough.
//!
//! Whoever floods the portal takes it from themselves first: an address that holds many connections loses its oldest to
//! a new one, its own or another's. Addresses are told apart by what the gateway has checked: who sends from an address
//! of a segment is in that segment.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 1024;
/// Connections of one address at a time: browsers open six.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 32;
/// Descriptors of the process: two for a connection, and its listening sockets.
pub const DESCRIPTORS_MAX: u64 = 2 * CONNECTIONS_MAX as u64 + 256;
/// From the first byte to the end of the TLS handshake.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);
/// For the head of a request, and between two requests.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// For the body of a request.
pub const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// For the gateway's answer.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// For a whole connection, whatever happens on it.
pub const CONNECTION_PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines of a request.
pub const HEADERS_MAX: usize = 64;
/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Questions that wait for the gateway.
pub const QUESTIONS_MAX: usize = 256;
/// Requests that an address may make at once, after a while of silence.
pub const REQUESTS_BURST: u32 = 60;
/// Requests a second that an address may make for ever.
pub const REQUESTS_PER_SECOND: u32 = 10;
/// Addresses whose requests are counted.
const COUNTED_MAX: usize = 4096;

/// Who holds which connections; `T` ends one.
pub struct Admission<T> {
    held: HashMap<IpAddr, VecDeque<(u64, T)>>,
    count: usize,
    next: u64,
    max: usize,
    per_address_max: usize,
}

impl<T> Default for Admission<T> {
    fn default() -> Self {
        Admission::new(CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX)
    }
}

impl<T> Admission<T> {
    /// For so many connections, of which so many of one address.
    pub fn new(max: usize, per_address_max: usize) -> Admission<T> {
        Admission { held: HashMap::new(), count: 0, next: 0, max, per_address_max }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Makes room for a connection from this address: what has to end for it, if anything. Its number is for
    /// [`Admission::enter`].
    pub fn admit(&mut self, peer: IpAddr) -> (u64, Option<T>) {
        self.next += 1;
        let own = self.held.get(&peer).map_or(0, VecDeque::len);
        let from = if own >= self.per_address_max {
            Some(peer)
        } else if self.count >= self.max {
            // The largest holder; of equal ones who has held longest.
            let oldest = |list: &VecDeque<(u64, T)>| list.front().map_or(u64::MAX, |(number, _)| *number);
            self.held
                .iter()
                .max_by_key(|(_, list)| (list.len(), std::cmp::Reverse(oldest(list))))
                .map(|(address, _)| *address)
        } else {
            None
        };
        let evicted = from.and_then(|address| {
            let (_, connection) = self.held.get_mut(&address)?.pop_front()?;
            self.left(address);
            Some(connection)
        });
        (self.next, evicted)
    }

    /// Holds an admitted connection.
    pub fn enter(&mut self, peer: IpAddr, number: u64, connection: T) {
        self.held.entry(peer).or_default().push_back((number, connection));
        self.count += 1;
    }

    /// A connection has ended by itself.
    pub fn leave(&mut self, peer: IpAddr, number: u64) {
        let Some(list) = self.held.get_mut(&peer) else { return };
        if let Some(index) = list.iter().position(|(held, _)| *held == number) {
            list.remove(index);
            self.left(peer);
        }
    }

    fn left(&mut self, peer: IpAddr) {
        self.count -= 1;
        if self.held.get(&peer).is_some_and(VecDeque::is_empty) {
            self.held.remove(&peer);
        }
    }
}

/// How often each address asks: a bucket of [`REQUESTS_BURST`] that fills by [`REQUESTS_PER_SECOND`].
#[derive(Default)]
pub struct Rates {
    /// When each bucket is full again.
    full: HashMap<IpAddr, Instant>,
}

impl Rates {
    /// Counts a request. `Err` says after how many seconds there is room for one.
    pub fn count(&mut self, peer: IpAddr, now: Instant) -> Result<(), u32> {
        let one = Duration::from_secs(1) / REQUESTS_PER_SECOND;
        let burst = one * REQUESTS_BURST;
        if self.full.len() >= COUNTED_MAX && !self.full.contains_key(&peer) {
            self.full.retain(|_, full| *full > now);
            if self.full.len() >= COUNTED_MAX {
                // Whoever comes with thousands of addresses meets the limit of connections instead.
                return Ok(());
            }
        }
        let full = self.full.entry(peer).or_insert(now);
        let next = (*full).max(now) + one;
        if next > now + burst {
            return Err(1);
        }
        *full = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4((0x0a01_0000 + number).into())
    }

    /// Admits a connection that is named by its number; what went for it.
    fn enter(admission: &mut Admission<u64>, from: u32) -> Option<u64> {
        let (number, evicted) = admission.admit(address(from));
        admission.enter(address(from), number, number);
        evicted
    }

    #[test]
    fn an_address_beyond_its_share_loses_its_own_oldest_and_nobody_elses() {
        let mut admission = Admission::new(100, 3);
        assert_eq!(enter(&mut admission, 9), None);
        let numbers: Vec<_> = (0..5).map(|_| enter(&mut admission, 1)).collect();
        assert_eq!(numbers, [None, None, None, Some(2), Some(3)]);
        assert_eq!(admission.len(), 4);
    }

    #[test]
    fn at_the_limit_a_new_address_takes_the_place_of_the_largest_holders_oldest() {
        let mut admission = Admission::new(10, 8);
        (0..8).for_each(|_| assert_eq!(enter(&mut admission, 1), None));
        assert_eq!(enter(&mut admission, 2), None);
        assert_eq!(enter(&mut admission, 3), None);
        assert_eq!(enter(&mut admission, 4), Some(1), "of the address that holds eight");
        assert_eq!(enter(&mut admission, 5), Some(2));
        assert_eq!(admission.len(), 10);
    }

    #[test]
    fn many_addresses_with_one_connection_each_push_out_the_oldest_and_the_number_stays() {
        let mut admission = Admission::new(50, 8);
        for number in 1..=100_000 {
            let evicted = enter(&mut admission, number);
            assert_eq!(evicted, (number > 50).then(|| u64::from(number) - 50));
        }
        assert_eq!((admission.len(), admission.held.len()), (50, 50));
    }

    #[test]
    fn who_leaves_makes_room_and_leaving_twice_changes_nothing() {
        let mut admission = Admission::new(2, 2);
        enter(&mut admission, 1);
        enter(&mut admission, 2);
        admission.leave(address(1), 1);
        admission.leave(address(1), 1);
        admission.leave(address(2), 77);
        assert_eq!(admission.len(), 1);
        assert_eq!(enter(&mut admission, 3), None);
    }

    #[test]
    fn an_address_may_ask_in_bursts_and_then_so_often_a_second_and_others_are_not_concerned() {
        let (mut rates, begin) = (Rates::default(), Instant::now());
        for _ in 0..REQUESTS_BURST {
            assert_eq!(rates.count(address(1), begin), Ok(()));
        }
        assert_eq!(rates.count(address(1), begin), Err(1));
        assert_eq!(rates.count(address(2), begin), Ok(()));
        let later = begin + Duration::from_secs(1);
        let taken = (0..100).filter(|_| rates.count(address(1), later).is_ok()).count();
        assert_eq!(taken, REQUESTS_PER_SECOND as usize);
    }

    #[test]
    fn counting_addresses_takes_bounded_memory() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        (0..20_000).for_each(|number| assert_eq!(rates.count(address(number), now), Ok(())));
        assert!(rates.full.len() <= COUNTED_MAX);
        // Buckets that are full again are forgotten.
        let later = now + Duration::from_secs(60);
        assert_eq!(rates.count(address(30_000), later), Ok(()));
        assert!(rates.full.len() <= 1, "{}", rates.full.len());
    }
}
