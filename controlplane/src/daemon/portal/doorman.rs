//! The gateway's side of the doorman: it accepts connections at the portal's certificate port, gives each to a process of its
//! own, signs one handshake for it, and decides what the client has shown is worth.
//!
//! Processes are started at a pace and end within [`PATIENCE`]. An address that holds too many loses its oldest, and when there
//! are too many altogether, the largest holder does: whoever floods it takes it from themselves first.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SocketFlags, accept_with};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;

use super::super::desk::certificates;
use super::super::gateway::{Gateway, lock};
use super::super::log;
use super::certificate;
use super::child::{self, Child};
use super::listen::{self, Place};
use super::visitor;
use super::{GLANCE, TICK};
use crate::identity::authority;
use crate::identity::certificates::{SCHEMES, SERVER_CONTEXT, is_handshake};
use crate::model::{Portal as Settings, TrustDomain};
use crate::portal::doorman::{Order, RECOGNISED, Said, Setup, Word};
use crate::portal::limits::{Admission, Rates};
use crate::store::Stamp;

/// From the start of a process to its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// For one read or write of a process.
const SOCKET_PATIENCE: Duration = Duration::from_secs(5);
/// Processes at a time.
const PROCESSES_MAX: usize = 32;
/// Of one address.
const PROCESSES_PER_ADDRESS_MAX: usize = 4;
/// Between two starts: whatever comes, starting processes takes a small part of one processor.
const PACE: Duration = Duration::from_millis(10);

/// What came to the door since the gateway started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Clients that made a handshake.
    pub shown: AtomicU64,
    /// Of these, those who were recognised.
    pub recognised: AtomicU64,
}

/// The thread that looks after the door.
pub struct Doorman {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Doorman {
    /// Starts it; whether there is a door goes by the policy in force at any time.
    pub fn start(gateway: &Arc<Gateway>) -> io::Result<Doorman> {
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            gateway: gateway.clone(),
            stop: stop.clone(),
            guests: Arc::new(Mutex::new(Admission::new(PROCESSES_MAX, PROCESSES_PER_ADDRESS_MAX))),
        };
        let thread = std::thread::Builder::new().name("doorman".to_owned()).spawn(move || keeper.keep())?;
        Ok(Doorman { stop, thread })
    }

    /// Takes it away. Processes that serve somebody end by themselves.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        // A panic in it was told on standard error.
        let _ = self.thread.join();
    }
}

/// By setting it, the process of a connection is ended.
type Evicted = Arc<AtomicBool>;
type Guests = Arc<Mutex<Admission<Evicted>>>;

struct Keeper {
    gateway: Arc<Gateway>,
    stop: Arc<AtomicBool>,
    guests: Guests,
}

/// What a server shows.
struct Server {
    chain: String,
    key: Arc<dyn SigningKey>,
    schemes: Vec<u16>,
    /// The names of the authorities by which clients can be known, base64.
    authorities: Vec<String>,
    uid: u32,
    gid: u32,
}

/// An open door.
struct Door {
    settings: Settings,
    domains: Vec<TrustDomain>,
    /// Of the files that make up the server.
    stamp: Stamp,
    server: Arc<Server>,
    sockets: Vec<(Place, OwnedFd)>,
}

impl Keeper {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn keep(&self) {
        let (mut door, mut trouble): (Option<Door>, Option<String>) = (None, None);
        let (mut rates, mut tick) = (Rates::default(), Instant::now());
        while !self.is_stopping() {
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                let told = self.follow(&mut door).err();
                if told != trouble {
                    if let Some(told) = &told {
                        self.gateway.alarm(format!("nobody can show a certificate: {told}"));
                    }
                    trouble = told;
                }
            }
            match &door {
                Some(door) if !door.sockets.is_empty() => self.accept(door, &mut rates),
                _ => std::thread::sleep(GLANCE),
            }
        }
    }

    /// Has the door as the policy in force wants it.
    fn follow(&self, door: &mut Option<Door>) -> Result<(), String> {
        let model = self.gateway.in_force().model;
        let settings = model.portal.as_ref();
        let settings = settings.and_then(|settings| {
            let port = settings.certificate_port?;
            Some(Settings { port, redirect_port: None, ..settings.clone() })
        });
        let Some(settings) = settings else {
            *door = None;
            self.gateway.portal.tell_door(Vec::new());
            return Ok(());
        };
        let wanted = listen::places(&model, &settings, &self.gateway.engine.snapshot().topology);
        let domains = &model.sign_in.trust_domains;
        let bundles = domains.iter().map(|domain| domain.bundle.as_path());
        let authority = self.gateway.lifecycle.directory().join(authority::CERTIFICATE);
        let files = certificate::files(&settings).chain(bundles).chain([authority.as_path()]);
        let stamp = Stamp::of(files);
        let is_same =
            |door: &&mut Door| door.settings == settings && door.domains == *domains && door.stamp == stamp;
        let door = match door.as_mut().filter(is_same) {
            Some(door) => door,
            None => {
                let server = match self.server(&settings, domains, &wanted) {
                    Ok(server) => Arc::new(server),
                    // While the certificate's files are being replaced, the old ones serve.
                    Err(_) if door.as_ref().is_some_and(|door| door.settings == settings) => return Ok(()),
                    Err(why) => {
                        *door = None;
                        self.gateway.portal.tell_door(Vec::new());
                        return Err(why);
                    }
                };
                let kept = door.take().filter(|door| door.settings.port == settings.port);
                let sockets = kept.map(|door| door.sockets).unwrap_or_default();
                door.insert(Door { settings, domains: domains.clone(), stamp, server, sockets })
            }
        };
        let mut failures = Vec::new();
        door.sockets.retain(|(place, _)| wanted.contains(place));
        for place in &wanted {
            if door.sockets.iter().any(|(open, _)| open == place) {
                continue;
            }
            match listen::open(place) {
                Ok(socket) => door.sockets.push((place.clone(), socket)),
                Err(error) => failures.push(format!("{} ({}): {error}", place.address, place.interface.1)),
            }
        }
        let listening = door.sockets.iter().map(|(place, _)| format!("https://{}", place.address));
        self.gateway.portal.tell_door(listening.collect());
        if failures.is_empty() { Ok(()) } else { Err(format!("cannot listen at {}", failures.join(", "))) }
    }

    fn server(
        &self,
        settings: &Settings,
        domains: &[TrustDomain],
        places: &BTreeSet<Place>,
    ) -> Result<Server, String> {
        let (uid, gid) = child::user(&settings.user)?;
        let addresses: Vec<IpAddr> = places.iter().map(|place| place.address.ip()).collect();
        // The portal's own, whatever port it is shown at.
        let directory = self.gateway.lifecycle.directory();
        let certificate = self.gateway.portal.certificate(settings, directory, &addresses)?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key.reveal().as_bytes());
        let key = key.map_err(|_| "the certificate's key is no private key in PEM".to_owned())?;
        let key = any_supported_type(&key).map_err(|error| error.to_string())?;
        let signs = |scheme: &SignatureScheme| key.choose_scheme(&[*scheme]).is_some();
        let schemes = SCHEMES.into_iter().filter(signs).map(u16::from).collect();
        let names = certificates::authorities(&self.gateway, domains);
        let authorities = names.iter().map(|name| BASE64.encode(name)).collect();
        Ok(Server { chain: certificate.chain, key, schemes, authorities, uid, gid })
    }

    /// Takes what comes, if something comes soon.
    fn accept(&self, door: &Door, rates: &mut Rates) {
        let mut fds: Vec<PollFd<'_>> =
            door.sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let timeout = u16::try_from(GLANCE.as_millis()).unwrap_or(u16::MAX);
        if !poll(&mut fds, PollTimeout::from(timeout)).is_ok_and(|ready| ready > 0) {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        for ((place, socket), _) in door.sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
            // It may have left already.
            let Ok(connection) = accept_with(socket, SocketFlags::CLOEXEC) else { continue };
            let Some(peer) = self.peer(&connection, place) else { continue };
            if rates.count(peer.ip(), Instant::now()).is_err() {
                continue;
            }
            let begun = Instant::now();
            self.admit(door.server.clone(), connection, peer.ip());
            std::thread::sleep(PACE.saturating_sub(begun.elapsed()));
        }
    }

    fn peer(&self, connection: &OwnedFd, place: &Place) -> Option<SocketAddr> {
        let topology = self.gateway.engine.snapshot().topology.clone();
        let own = |address: IpAddr| visitor::is_own(topology.spec(), address);
        visitor::peer(connection, &BTreeSet::from([place.clone()]), own).ok()
    }

    fn admit(&self, server: Arc<Server>, connection: OwnedFd, address: IpAddr) {
        let evicted = Evicted::default();
        let number = {
            let mut guests = lock(&self.guests);
            let (number, oldest) = guests.admit(address);
            if let Some(oldest) = oldest {
                oldest.store(true, Ordering::Relaxed);
            }
            guests.enter(address, number, evicted.clone());
            number
        };
        let visit = Visit {
            gateway: self.gateway.clone(),
            server,
            address,
            evicted,
            place: (self.guests.clone(), number),
            has_signed: false,
            has_shown: false,
        };
        // Without a thread for it, it is dropped, and the client may come again.
        let _ = std::thread::Builder::new().name("guest".to_owned()).spawn(move || visit.attend(connection));
    }
}

/// A connection with its process.
struct Visit {
    gateway: Arc<Gateway>,
    server: Arc<Server>,
    address: IpAddr,
    evicted: Evicted,
    place: (Guests, u64),
    has_signed: bool,
    has_shown: bool,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let (guests, number) = &self.place;
        lock(guests).leave(self.address, *number);
    }
}

impl Visit {
    fn attend(mut self, connection: OwnedFd) {
        let child = match self.begin(connection) {
            Ok(child) => child,
            Err(why) => return log::complain(&format!("doorman: {why}")),
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !self.evicted.load(Ordering::Relaxed) {
            match child.hear::<Word>(GLANCE / 2) {
                Ok(None) => return,
                Ok(Some((word, None))) => {
                    if let Err(why) = self.take(&child, word) {
                        return self.gateway.alarm(format!(
                            "a process with the connection of {} was killed for what it did: {why}",
                            self.address
                        ));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(Some(_)) | Err(_) => {
                    return self.gateway.alarm(format!(
                        "a process with the connection of {} was killed: it said what is no message",
                        self.address
                    ));
                }
            }
        }
    }

    fn begin(&self, connection: OwnedFd) -> Result<Child, String> {
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&connection, timeout, Some(SOCKET_PATIENCE))
                .map_err(|error| error.to_string())?;
        }
        let child = Child::spawn("doorman")?;
        let setup = Setup {
            certificate: self.server.chain.clone(),
            schemes: self.server.schemes.clone(),
            authorities: self.server.authorities.clone(),
            uid: self.server.uid,
            gid: self.server.gid,
        };
        let told = child.line.tell(&Order::Begin(Box::new(setup)), Some(&connection));
        told.map_err(|error| format!("telling it to begin: {error}"))?;
        Ok(child)
    }

    fn take(&mut self, child: &Child, word: Word) -> Result<(), &'static str> {
        let order = match word {
            Word::Sign { scheme, message } if !self.has_signed => {
                self.has_signed = true;
                let message = BASE64.decode(message.as_bytes()).map_err(|_| "it wants nothing signed")?;
                let signature = self.sign(scheme, &message).ok_or("it wants signed what is no handshake")?;
                Order::Signature(BASE64.encode(&signature))
            }
            Word::Shown(evidence) if !self.has_shown => {
                self.has_shown = true;
                let said = certificates::shown(&self.gateway, self.address, evidence.as_ref());
                self.count(&said);
                Order::Say(said)
            }
            _ => return Err("it said the same again"),
        };
        // It may be gone.
        let _ = child.line.tell(&order, None);
        Ok(())
    }

    fn count(&self, said: &Said) {
        let counts = &self.gateway.portal.door;
        counts.shown.fetch_add(1, Ordering::Relaxed);
        counts.recognised.fetch_add(u64::from(said.status == RECOGNISED), Ordering::Relaxed);
    }

    /// Signs a server's part of a handshake of TLS 1.3, and nothing else.
    fn sign(&self, scheme: u16, message: &[u8]) -> Option<Vec<u8>> {
        let signer = self.server.key.choose_scheme(&[SignatureScheme::from(scheme)])?;
        is_handshake(message, SERVER_CONTEXT).then(|| signer.sign(message).ok()).flatten()
    }
}
