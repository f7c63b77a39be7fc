//! Who is held, by address, and in the order in which something is due: so that the clock costs nothing for those of whom
//! nothing is, however many there are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_dataplane::verdict::Now;

use super::Session;

/// A session that is held.
pub(super) struct Held {
    pub session: Arc<Session>,
    /// When it has to be described again.
    pub again: Option<Now>,
}

impl Held {
    /// The next moment at which something is to be done about it.
    fn next(&self) -> Now {
        self.again.map_or(self.session.ends, |again| again.min(self.session.ends))
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Roll {
    held: HashMap<IpAddr, Held>,
    /// Each once, by its next moment.
    due: BTreeSet<(Now, IpAddr)>,
    /// Where each user is.
    users: HashMap<String, HashSet<IpAddr>>,
}

impl Roll {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn get(&self, address: IpAddr) -> Option<&Held> {
        self.held.get(&address)
    }

    /// Their sessions, in no order.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.held.values().map(|held| &held.session)
    }

    /// Those of a user, in no order.
    pub fn of_user(&self, user: &str) -> impl Iterator<Item = &Arc<Session>> {
        let addresses = self.users.get(user).into_iter().flatten();
        addresses.filter_map(|address| self.held.get(address)).map(|held| &held.session)
    }

    /// Holds one in place of the one that its address has, which is returned.
    pub fn insert(&mut self, session: Arc<Session>, again: Option<Now>) -> Option<Arc<Session>> {
        let address = session.address;
        let before = self.remove(address);
        if let Some(user) = &session.claims.user {
            self.users.entry(user.clone()).or_default().insert(address);
        }
        let held = Held { session, again };
        self.due.insert((held.next(), address));
        self.held.insert(address, held);
        before
    }

    pub fn remove(&mut self, address: IpAddr) -> Option<Arc<Session>> {
        let held = self.held.remove(&address)?;
        self.due.remove(&(held.next(), address));
        if let Some(user) = &held.session.claims.user
            && let Some(addresses) = self.users.get_mut(user)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.users.remove(user);
            }
        }
        Some(held.session)
    }

    /// It has to be described again at another moment, or not any more.
    pub fn describe_again(&mut self, address: IpAddr, again: Option<Now>) {
        if let Some(session) = self.get(address).map(|held| held.session.clone()) {
            self.insert(session, again);
        }
    }

    /// Those of whom something is due, by when it was.
    pub fn due(&self, now: Now) -> Vec<IpAddr> {
        self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, address)| *address).collect()
    }

    /// Whether nothing is due.
    pub fn is_quiet(&self, now: Now) -> bool {
        self.due.first().is_none_or(|(at, _)| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::{Claims, Proof};

    fn session(address: &str, ends: u64) -> Arc<Session> {
        Arc::new(Session {
            id: address.to_owned(),
            address: address.parse().unwrap(),
            segment: "office".to_owned(),
            mac: None,
            claims: Claims::default(),
            proof: Proof::Operator,
            begun: Now(0),
            ends: Now(ends),
        })
    }

    #[test]
    fn users_are_found_where_they_are_and_nowhere_else() {
        let of = |address: &str, user: Option<&str>| {
            let mut session = Session::clone(&session(address, 30));
            session.claims.user = user.map(str::to_owned);
            Arc::new(session)
        };
        let mut roll = Roll::default();
        for (address, user) in [
            ("10.0.0.1", Some("alice")),
            ("10.0.0.2", Some("bob")),
            ("10.0.0.3", Some("alice")),
            ("10.0.0.4", None),
        ] {
            roll.insert(of(address, user), None);
        }
        let at = |roll: &Roll, user: &str| {
            let mut at: Vec<String> = roll.of_user(user).map(|session| session.id.clone()).collect();
            at.sort_unstable();
            at
        };
        assert_eq!(
            (at(&roll, "alice"), at(&roll, "carl")),
            (vec!["10.0.0.1".into(), "10.0.0.3".into()], vec![])
        );
        roll.insert(of("10.0.0.3", Some("bob")), None);
        roll.describe_again("10.0.0.2".parse().unwrap(), Some(Now(3)));
        assert_eq!(
            (at(&roll, "alice").len(), at(&roll, "bob")),
            (1, vec!["10.0.0.2".into(), "10.0.0.3".into()])
        );
        roll.insert(of("10.0.0.1", None), None);
        roll.remove("10.0.0.2".parse().unwrap());
        assert_eq!((at(&roll, "alice").len(), at(&roll, "bob").len(), roll.users.len()), (0, 1, 1));
    }

    fn due(roll: &Roll, at: u64) -> Vec<String> {
        let due: Vec<String> = roll.due(Now(at)).iter().map(IpAddr::to_string).collect();
        assert_eq!(due.is_empty(), roll.is_quiet(Now(at)));
        due
    }

    #[test]
    fn each_is_due_once_at_its_next_moment_and_what_was_replaced_or_removed_never() {
        let mut roll = Roll::default();
        assert!(roll.insert(session("10.0.0.1", 30), None).is_none());
        roll.insert(session("10.0.0.2", 20), Some(Now(10)));
        roll.insert(session("10.0.0.3", 15), None);
        assert_eq!(due(&roll, 9), [""; 0]);
        assert_eq!(due(&roll, 30), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
        roll.describe_again("10.0.0.2".parse().unwrap(), None);
        assert_eq!(due(&roll, 15), ["10.0.0.3"]);
        assert_eq!(roll.insert(session("10.0.0.3", 40), None).unwrap().ends, Now(15));
        assert_eq!(due(&roll, 30), ["10.0.0.2", "10.0.0.1"]);
        assert_eq!(roll.remove("10.0.0.2".parse().unwrap()).unwrap().ends, Now(20));
        assert_eq!((due(&roll, 39), roll.len()), (vec!["10.0.0.1".to_owned()], 2));
    }
}
