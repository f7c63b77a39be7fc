//! What requests mean, in whatever order and however often they come.

use std::collections::HashMap;
use std::net::IpAddr;

use bulkhead_dataplane::topology::Mac;

use super::Client;
use super::packet::{Request, Status};
use crate::config::values;
use crate::identity::seen::{Old, Seen};

/// How far a client's clock may be from ours, seconds; so long a packet may be under way.
pub const WINDOW_S: i64 = 300;
/// How many sessions of clients are known at once, living and ended; then the ones told of the longest ago are forgotten.
const ACCOUNTS_MAX: usize = 65_536;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Somebody is behind an address now.
    Begin {
        /// The address.
        address: IpAddr,
        /// By which device.
        mac: Option<Mac>,
        /// Who.
        user: String,
    },
    /// Nobody is behind it any more who was begun by this.
    End {
        /// The address.
        address: IpAddr,
        /// The session that was begun, as [`Accounts::begun`] was told.
        id: String,
    },
}

struct Account {
    /// What was begun: address and the session's id.
    begun: Vec<(IpAddr, String)>,
    /// It was stopped: nothing begins it again.
    is_over: bool,
    told: i64,
}

/// What clients have told.
#[derive(Default)]
pub struct Accounts {
    seen: Seen,
    held: HashMap<(String, String), Account>,
    /// When each client began anew. What it tells of before that concerns nobody.
    anew: HashMap<String, i64>,
}

impl Accounts {
    /// What follows of a request; an error says why it is dropped without an answer. A repetition is answered, and nothing
    /// follows.
    ///
    /// # Errors
    ///
    /// It is of another time, or does not name its session.
    pub fn decide(&mut self, client: &Client, request: &Request, now: i64) -> Result<Vec<Act>, &'static str> {
        if (request.at - now).abs() > WINDOW_S {
            return Err(
                "its Event-Timestamp is more than five minutes from now; is the client's clock right?",
            );
        }
        let is_about_one = matches!(request.status, Status::Start | Status::Interim | Status::Stop);
        if is_about_one && request.session.is_empty() {
            return Err("it has no Acct-Session-Id");
        }
        let id = format!("{} {:02x?}", client.name, request.authenticator);
        if let Err(Old) = self.seen.first_time(&id, request.at, now - WINDOW_S) {
            return Ok(Vec::new());
        }
        let is_of_before = self.anew.get(&client.name).is_some_and(|anew| request.at <= *anew);
        match request.status {
            Status::Other => Ok(Vec::new()),
            Status::Anew => Ok(self.end_all(&client.name, request.at)),
            _ if is_of_before => Ok(Vec::new()),
            Status::Stop => Ok(self.stop(client, request)),
            Status::Start | Status::Interim => self.go_on(client, request),
        }
    }

    /// A session was begun because of [`Act::Begin`].
    pub fn begun(&mut self, client: &Client, request: &Request, address: IpAddr, id: String) {
        if let Some(account) = self.held.get_mut(&key(client, request)) {
            account.begun.push((address, id));
        }
    }

    /// All sessions that a client has begun, when it begins anew or may tell no more. They are forgotten: a client that has
    /// restarted may count its sessions from the beginning again.
    pub fn end_all(&mut self, client: &str, at: i64) -> Vec<Act> {
        let anew = self.anew.entry(client.to_owned()).or_insert(at);
        *anew = at.max(*anew);
        let mine = self.held.extract_if(|(name, _), _| name == client);
        mine.flat_map(|(_, account)| ends(account.begun)).collect()
    }

    fn stop(&mut self, client: &Client, request: &Request) -> Vec<Act> {
        self.make_room();
        let account = self.held.entry(key(client, request)).or_insert_with(|| Account::new(request.at));
        account.told = account.told.max(request.at);
        account.is_over = true;
        ends(std::mem::take(&mut account.begun))
    }

    fn go_on(&mut self, client: &Client, request: &Request) -> Result<Vec<Act>, &'static str> {
        self.make_room();
        let account = self.held.entry(key(client, request)).or_insert_with(|| Account::new(request.at));
        account.told = account.told.max(request.at);
        let Some(user) = request.user.as_ref().filter(|_| !account.is_over) else { return Ok(Vec::new()) };
        if values::identity(user, "user").is_err() {
            return Err("its User-Name is no name of a user");
        }
        let mut acts = Vec::new();
        // An address that it does not name any more is somebody else's soon; with none it says nothing of them.
        if !request.addresses.is_empty() {
            account.begun.retain(|(address, id)| {
                let stays = request.addresses.contains(address);
                if !stays {
                    acts.push(Act::End { address: *address, id: id.clone() });
                }
                stays
            });
        }
        for address in &request.addresses {
            if !account.begun.iter().any(|(begun, _)| begun == address) {
                acts.push(Act::Begin { address: *address, mac: request.mac, user: user.clone() });
            }
        }
        Ok(acts)
    }

    fn make_room(&mut self) {
        if self.held.len() < ACCOUNTS_MAX {
            return;
        }
        // Those that have ended first: a packet that could bring one back is of another time by then.
        let mut told: Vec<(bool, i64)> =
            self.held.values().map(|account| (!account.begun.is_empty(), account.told)).collect();
        told.sort_unstable();
        let limit = told[told.len() / 8];
        self.held.retain(|_, account| (!account.begun.is_empty(), account.told) > limit);
    }
}

impl Account {
    fn new(told: i64) -> Account {
        Account { begun: Vec::new(), is_over: false, told }
    }
}

fn key(client: &Client, request: &Request) -> (String, String) {
    (client.name.clone(), request.session.clone())
}

fn ends(begun: Vec<(IpAddr, String)>) -> Vec<Act> {
    begun.into_iter().map(|(address, id)| Act::End { address, id }).collect()
}
