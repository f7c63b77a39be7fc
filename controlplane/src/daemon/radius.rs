//! Listens for RADIUS accounting and does to sessions what it says.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::acts::session_changes;
use super::desk::providers::at;
use super::gateway::Gateway;
use super::log;
use super::sessions::{NotBegun, binding};
use crate::audit::{By, Kind};
use crate::identity::oidc::settings::read_secret;
use crate::identity::radius::packet::BYTES_MAX;
use crate::identity::radius::{Accounts, Act, Client, Request, Settings};
use crate::sessions::{self, Claims, New, Proof, Which};

/// How long it waits for a packet before it looks around.
const GLANCE: Duration = Duration::from_millis(200);
/// How long before a port that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// A trouble with a client is told once in so long.
const TOLD: Duration = Duration::from_secs(60);

/// The thread that listens.
pub struct Listener {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Starts; also when there is nobody to listen to yet.
    ///
    /// # Errors
    ///
    /// There is no thread for it.
    pub fn start(gateway: &Arc<Gateway>) -> io::Result<Listener> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, gateway) = (stop.clone(), gateway.clone());
        let thread = std::thread::Builder::new().name("radius".to_owned()).spawn(move || {
            let mut ear = Ear { gateway: &gateway, accounts: Accounts::default(), told: HashMap::new() };
            let mut open: Option<(UdpSocket, u16)> = None;
            let mut before: Option<Settings> = None;
            let mut again = Instant::now();
            while !stopping.load(Ordering::Acquire) {
                let settings = gateway.in_force().model.sign_in.radius.clone();
                ear.dismiss(before.as_ref(), settings.as_ref());
                let port = settings.as_ref().map(|settings| settings.port);
                if open.as_ref().map(|(_, port)| *port) != port {
                    open = None;
                }
                if let (None, Some(port)) = (&open, port)
                    && Instant::now() >= again
                {
                    match listen(port) {
                        Ok(socket) => open = Some((socket, port)),
                        Err(error) => {
                            ear.tell(
                                None,
                                &format!("nothing listens for RADIUS at UDP port {port}: {error}"),
                            );
                            again = Instant::now() + AGAIN;
                        }
                    }
                }
                match (&open, &settings) {
                    (Some((socket, _)), Some(settings)) => ear.hear(socket, settings),
                    _ => std::thread::sleep(GLANCE),
                }
                before = settings;
            }
        })?;
        Ok(Listener { stop, thread })
    }

    /// Stops.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.thread.join();
    }
}

fn listen(port: u16) -> io::Result<UdpSocket> {
    // Of both families; steering lets in only what comes by the ports that are named.
    let socket = UdpSocket::bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
        .or_else(|_| UdpSocket::bind(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port)))?;
    socket.set_read_timeout(Some(GLANCE))?;
    Ok(socket)
}

/// What hears.
struct Ear<'g> {
    gateway: &'g Gateway,
    accounts: Accounts,
    /// When a trouble of a client, or of all, was told last.
    told: HashMap<Option<IpAddr>, Instant>,
}

impl Ear<'_> {
    /// One packet, if there is one.
    fn hear(&mut self, socket: &UdpSocket, settings: &Settings) {
        let mut buffer = [0; BYTES_MAX];
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
        let address = from.ip().to_canonical();
        // Whoever is no client is not even told of: there is no limit to them.
        let Some(client) = settings.clients.iter().find(|client| client.address == address) else { return };
        let answer = self.take(client, &buffer[..length]);
        match answer {
            Ok(answer) => drop(socket.send_to(&answer, from)),
            Err(why) => {
                self.tell(Some(address), &format!("RADIUS client {} is not heard: {why}", client.name))
            }
        }
    }

    /// What a client says; its answer. Without one it will say it again.
    fn take(&mut self, client: &Client, packet: &[u8]) -> Result<Vec<u8>, String> {
        let secret = read_secret(&client.secret_file).map_err(|error| error.to_string())?;
        let request = Request::read(packet, &secret).map_err(|why| why.to_string())?;
        let acts = self.accounts.decide(client, &request, at().unix_s)?;
        for act in acts {
            match act {
                Act::End { address, id } => self.end(client, address, id)?,
                Act::Begin { address, mac, user } => match self.begin(client, address, mac, &user) {
                    Ok(Some(id)) => self.accounts.begun(client, &request, address, id),
                    Ok(None) => {}
                    Err(why) => {
                        let why = format!("{user:?} at {address}, of whom {} tells: {why}", client.name);
                        self.tell(Some(client.address), &why);
                    }
                },
            }
        }
        Ok(request.response(&secret))
    }

    /// Begins a session; nothing where somebody has shown more than a client can tell of the same user.
    fn begin(
        &self,
        client: &Client,
        address: IpAddr,
        mac: Option<[u8; 6]>,
        user: &str,
    ) -> Result<Option<String>, String> {
        let gateway = self.gateway;
        let now = gateway.engine.now();
        let before = gateway.sessions.of(address, now);
        if before.is_some_and(|before| {
            before.proof != Proof::Radius && before.claims.user.as_deref() == Some(user)
        }) {
            return Ok(None);
        }
        let topology = &gateway.engine.snapshot().topology;
        // Behind a router there is none to hold it to; on link the client says which, or the kernel knows it.
        let held = match binding(topology, address, None) {
            Ok(None) => None,
            known => mac.map_or(known, |mac| binding(topology, address, Some(mac)))?,
        };
        let ends = sessions::later(now, Duration::from_secs(client.lasts_s.into()));
        let claims =
            Claims { user: Some(user.to_owned()), groups: client.groups.clone(), ..Claims::default() };
        let new = New { address, mac: held, claims, proof: Proof::Radius, ends };
        match gateway.begin_session(new, None) {
            Ok(session) => Ok(Some(session.id.clone())),
            Err(NotBegun::Refused(_, why)) => Err(why.to_string()),
            Err(NotBegun::Locked(why) | NotBegun::Denied(why) | NotBegun::Stuck(why)) => Err(why.message),
        }
    }

    fn end(&self, client: &Client, address: IpAddr, id: String) -> Result<(), String> {
        let which = Which { id: Some(id), ..Which::at(address) };
        let by = || By::Service(client.name.clone());
        let ended = self
            .gateway
            .end_sessions_as(&which, None, |session| session_changes(Kind::SessionRevoked, session, by()));
        ended.map(drop).map_err(|why| why.message)
    }

    /// Ends what clients have begun who may tell no more, or are somebody else now.
    fn dismiss(&mut self, before: Option<&Settings>, now: Option<&Settings>) {
        let clients = before.map(|settings| settings.clients.as_slice()).unwrap_or_default();
        let stays = |client: &Client| {
            now.is_some_and(|now| {
                now.clients.iter().any(|c| (&c.name, c.address) == (&client.name, client.address))
            })
        };
        for client in clients.iter().filter(|client| !stays(client)) {
            for act in self.accounts.end_all(&client.name, at().unix_s) {
                if let Act::End { address, id } = act
                    && let Err(why) = self.end(client, address, id)
                {
                    self.tell(
                        None,
                        &format!("a session of RADIUS client {} did not end: {why}", client.name),
                    );
                }
            }
        }
    }

    fn tell(&mut self, of: Option<IpAddr>, what: &str) {
        let now = Instant::now();
        if self.told.get(&of).is_some_and(|told| now.duration_since(*told) < TOLD) {
            return log::say(what);
        }
        self.told.insert(of, now);
        self.gateway.alarm(what.to_owned());
    }
}
