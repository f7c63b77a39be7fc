//! Steering: the XDP program that decides who gets a frame (`bpf/steering.c` describes how), its loading and its
//! attachment.
//!
//! The object is loaded once per port, so each port has maps of its own. The order of a start is: [`PortSteering::load`],
//! [`set_own_addresses`](PortSteering::set_own_addresses), [`set_sources`](PortSteering::set_sources),
//! [`set_local`](PortSteering::set_local),
//! [`register`](PortSteering::register) for every queue, [`attach`](PortSteering::attach). A socket may also be
//! registered after `attach`; until then its queue's frames are dropped and counted.
//!
//! # Attachment
//!
//! The program is attached by netlink, neither pinned nor held by a bpf_link, so it outlives the process and its
//! mount namespace: after `kill -9` it drops everything that is not the kernel's. The next start replaces it in one
//! step. Only [`detach`] removes it.
//!
//! An interface has either a driver-mode program or a generic one, and the kernel refuses to go from one to the other
//! while one is attached. So `attach` stays in the mode already in use, whoever attached that program: there is no
//! moment without a program. Where none is attached it tries driver mode, then generic mode. Going from generic to
//! driver mode (after a driver update, say) therefore takes a [`detach`] first, as `bulkhead stop --unload` does.
//!
//! The network namespace is that of the thread that calls `load`, `attached_program` or `detach`.

mod error;
mod layout;
mod link;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{ProgramError, ProgramFd, Xdp, loaded_programs};
use aya::{Ebpf, EbpfLoader, Pod};
use ipnet::IpNet;
use nix::errno::Errno;

pub use error::Error;
pub use layout::{LOCAL_SERVICES_MAX, LocalService, OWN_ADDRESSES_MAX, SOURCES_MAX};
pub use link::AttachMode;

use error::{Refusal, errno};
use layout::{ServiceKey, V4Key, V6Key};
use link::Netlink;

/// The compiled `bpf/steering.c`. CI proves that it is what the source compiles to (`bpf/build.sh --check`).
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/steering.o");

/// How often an attachment is tried when another program comes or goes in the same moment.
const ATTACH_ATTEMPTS: usize = 4;

/// What became of the frames that arrived at a port since its program was loaded, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteeringCounters {
    /// Given to the kernel.
    pub to_host: u64,
    /// Handed to a worker's socket. Those that found its ring full are in the socket's own statistics.
    pub redirected: u64,
    /// Dropped, because the queue had no socket.
    pub no_worker: u64,
}

impl SteeringCounters {
    /// All that arrived. Exact: every frame is counted under one outcome, and this is their sum.
    pub fn received(&self) -> u64 {
        self.to_host + self.redirected + self.no_worker
    }
}

/// The XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number for it.
    pub id: u32,
    /// How it is attached.
    pub mode: AttachMode,
    /// Its name, at most 15 bytes; `None` if it has none.
    pub name: Option<String>,
    /// Whether it is a steering program, of whichever start or version.
    pub ours: bool,
}

/// One port's steering program and its maps. Dropping it leaves the program attached.
pub struct PortSteering {
    ifindex: u32,
    queues: u32,
    id: u32,
    driver_refusal: Option<String>,
    netlink: Netlink,
    own_v4: HashMap<MapData, V4Key, u8>,
    own_v6: HashMap<MapData, V6Key, u8>,
    sources_v4: Sources<V4Key>,
    sources_v6: Sources<V6Key>,
    services: HashMap<MapData, ServiceKey, u8>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    /// Holds the program's descriptor.
    ebpf: Ebpf,
}

impl PortSteering {
    /// Loads the program for an interface with this many receive queues. It is not attached yet.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] without CAP_BPF and CAP_NET_ADMIN, or where the kernel knows no AF_XDP.
    pub fn load(ifindex: u32, queues: u32) -> Result<PortSteering, Error> {
        let refused = |error: aya::EbpfError| Error::bpf("load the steering program's maps", &error);
        let netlink = Netlink::open().map_err(|why| Error::netlink("speak of", ifindex, why.into()))?;
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries(layout::SOCKETS, queues)
            .load(OBJECT)
            .map_err(refused)?;
        let program = program(&mut ebpf)?;
        let refused = |error| Error::bpf("load the steering program", &error);
        program.load().map_err(refused)?;
        let id = program.info().map_err(refused)?.id();
        Ok(PortSteering {
            ifindex,
            queues,
            id,
            driver_refusal: None,
            netlink,
            own_v4: take(&mut ebpf, layout::OWN_V4)?,
            own_v6: take(&mut ebpf, layout::OWN_V6)?,
            sources_v4: Sources::new(take(&mut ebpf, layout::SOURCES_V4)?, layout::SOURCES_V4),
            sources_v6: Sources::new(take(&mut ebpf, layout::SOURCES_V6)?, layout::SOURCES_V6),
            services: take(&mut ebpf, layout::LOCAL_SERVICES)?,
            sockets: take(&mut ebpf, layout::SOCKETS)?,
            counters: take(&mut ebpf, layout::COUNTERS)?,
            ebpf,
        })
    }

    /// The kernel's number for this program.
    pub fn program_id(&self) -> u32 {
        self.id
    }

    /// Puts the program on the interface, in place of whatever program is there, without a moment between the two.
    /// Calling it again undoes a foreign replacement or removal.
    ///
    /// # Errors
    ///
    /// [`Error::HeldByLink`] where another process holds the interface, [`Error::InterfaceGone`], [`Error::Refused`].
    pub fn attach(&mut self) -> Result<AttachMode, Error> {
        let mut attempts = 1;
        loop {
            match self.try_attach() {
                // A program in the other mode appeared since we looked.
                Err(refusal) if errno(&refusal.why) == Some(Errno::EEXIST) && attempts < ATTACH_ATTEMPTS => {
                    attempts += 1;
                }
                Err(refusal) => {
                    return Err(Error::netlink("attach the steering program to", self.ifindex, refusal));
                }
                Ok(mode) => return Ok(mode),
            }
        }
    }

    fn try_attach(&mut self) -> Result<AttachMode, Refusal> {
        let program = descriptor(&self.ebpf).map_err(|error| io::Error::other(error.to_string()))?;
        if let Some(there) = self.netlink.attached(self.ifindex)? {
            self.netlink.attach(self.ifindex, program, there.mode)?;
            return Ok(there.mode);
        }
        let Err(refusal) = self.netlink.attach(self.ifindex, program, AttachMode::Driver) else {
            self.driver_refusal = None;
            return Ok(AttachMode::Driver);
        };
        if matches!(errno(&refusal.why), Some(Errno::EPERM | Errno::ENODEV | Errno::EBUSY | Errno::EEXIST)) {
            return Err(refusal);
        }
        self.netlink.attach(self.ifindex, program, AttachMode::Generic)?;
        self.driver_refusal =
            Some(Error::netlink("attach in driver mode to", self.ifindex, refusal).to_string());
        Ok(AttachMode::Generic)
    }

    /// Why the last attachment is generic although nothing else was attached: what the driver said, and what helps.
    pub fn driver_refusal(&self) -> Option<&str> {
        self.driver_refusal.as_deref()
    }

    /// Whether the program on the interface is this one. False after a foreign removal or replacement;
    /// [`attach`](PortSteering::attach) undoes it.
    ///
    /// # Errors
    ///
    /// [`Error::InterfaceGone`], [`Error::Refused`].
    pub fn is_attached(&mut self) -> Result<bool, Error> {
        let there = self.netlink.attached(self.ifindex);
        let there = there.map_err(|refusal| Error::netlink("look at", self.ifindex, refusal))?;
        Ok(there.is_some_and(|there| there.id == self.id))
    }

    /// Gives a queue's frames to this AF_XDP socket, which must be bound to the same queue of the same interface: the
    /// kernel drops what it would have to redirect elsewhere. Closing the socket unregisters it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchQueue`]; [`Error::Refused`] for a descriptor that is no AF_XDP socket.
    pub fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        if queue >= self.queues {
            return Err(Error::NoSuchQueue { queue, queues: self.queues });
        }
        self.sockets.set(queue, socket.as_raw_fd(), 0).map_err(|error| map_error(layout::SOCKETS, &error))
    }

    /// Makes these the gateway's own addresses, on all of its interfaces. What is new is added before what is old is
    /// removed, so that an address which stays is never missing.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`] over [`OWN_ADDRESSES_MAX`] of one family, before anything is changed.
    pub fn set_own_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for address in addresses {
            match *address {
                IpAddr::V4(address) => drop(v4.insert(layout::v4_key(address))),
                IpAddr::V6(address) => drop(v6.insert(layout::v6_key(address))),
            }
        }
        within("own IPv4 addresses", v4.len(), OWN_ADDRESSES_MAX)?;
        within("own IPv6 addresses", v6.len(), OWN_ADDRESSES_MAX)?;
        replace(&mut self.own_v4, layout::OWN_V4, &v4)?;
        replace(&mut self.own_v6, layout::OWN_V6, &v6)
    }

    /// Makes these the networks whose sources the kernel may answer on this port (`true`: behind this port) and those
    /// inside them whose it may not (`false`: elsewhere). The longest match decides, and what none holds is not
    /// answered. What is new is added or overwritten before what is old is removed.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`] over [`SOURCES_MAX`] of one family, before anything is changed.
    pub fn set_sources(&mut self, sources: &[(IpNet, bool)]) -> Result<(), Error> {
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        for (network, is_here) in sources {
            let value = u8::from(*is_here);
            match network {
                IpNet::V4(net) => drop(v4.insert((net.prefix_len(), layout::v4_key(net.network())), value)),
                IpNet::V6(net) => drop(v6.insert((net.prefix_len(), layout::v6_key(net.network())), value)),
            }
        }
        within("IPv4 networks of sources", v4.len(), SOURCES_MAX)?;
        within("IPv6 networks of sources", v6.len(), SOURCES_MAX)?;
        self.sources_v4.replace(&v4)?;
        self.sources_v6.replace(&v6)
    }

    /// Makes these the services that the kernel answers on this port, at any of the own addresses, to the
    /// [sources](PortSteering::set_sources) that lie behind it.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`] over [`LOCAL_SERVICES_MAX`], before anything is changed.
    pub fn set_local(&mut self, services: &[LocalService]) -> Result<(), Error> {
        let services: BTreeSet<ServiceKey> = services.iter().map(|service| service.key()).collect();
        within("local services", services.len(), LOCAL_SERVICES_MAX)?;
        replace(&mut self.services, layout::LOCAL_SERVICES, &services)
    }

    /// What became of the frames so far, over all CPUs.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn counters(&self) -> Result<SteeringCounters, Error> {
        let frames = |outcome: u32| {
            let per_cpu =
                self.counters.get(&outcome, 0).map_err(|error| map_error(layout::COUNTERS, &error))?;
            Ok(per_cpu.iter().sum())
        };
        Ok(SteeringCounters {
            to_host: frames(layout::TO_HOST)?,
            redirected: frames(layout::REDIRECTED)?,
            no_worker: frames(layout::NO_WORKER)?,
        })
    }
}

/// The program now on an interface, whoever put it there.
///
/// # Errors
///
/// [`Error::InterfaceGone`]; [`Error::Refused`] also without CAP_SYS_ADMIN, which the kernel asks of those who look at
/// another's program.
pub fn attached_program(ifindex: u32) -> Result<Option<AttachedProgram>, Error> {
    let mut netlink = Netlink::open().map_err(|why| Error::netlink("speak of", ifindex, why.into()))?;
    Ok(find(&mut netlink, ifindex)?.map(|(program, _)| program))
}

/// Removes our program from an interface, also one that an earlier process left there. Traffic then reaches the
/// kernel as if there were no gateway.
///
/// Returns whether there was one.
///
/// # Errors
///
/// [`Error::Foreign`] if the program there is not ours: it stays. [`Error::Refused`] also if the program was replaced
/// in the same moment.
pub fn detach(ifindex: u32) -> Result<bool, Error> {
    let mut netlink = Netlink::open().map_err(|why| Error::netlink("speak of", ifindex, why.into()))?;
    let Some((program, descriptor)) = find(&mut netlink, ifindex)? else { return Ok(false) };
    if !program.ours {
        return Err(Error::Foreign { ifindex, id: program.id, name: program.name });
    }
    netlink
        .detach(ifindex, descriptor.as_fd(), program.mode)
        .map_err(|refusal| Error::netlink("detach the steering program from", ifindex, refusal))?;
    Ok(true)
}

/// The attached program and a descriptor of it.
fn find(netlink: &mut Netlink, ifindex: u32) -> Result<Option<(AttachedProgram, ProgramFd)>, Error> {
    let there = netlink.attached(ifindex).map_err(|refusal| Error::netlink("look at", ifindex, refusal))?;
    let Some(there) = there else { return Ok(None) };
    let asked = || format!("look at program {} on interface {ifindex}", there.id);
    // Programs of others come and go while we walk through them; only a walk that misses ours is an error.
    let mut missed = None;
    for info in loaded_programs() {
        match info {
            Ok(info) if info.id() == there.id => {
                let name = info.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned);
                let ours = name.as_deref() == Some(layout::PROGRAM);
                let descriptor = info.fd().map_err(|error| Error::bpf(asked(), &error))?;
                return Ok(Some((
                    AttachedProgram { id: there.id, mode: there.mode, name, ours },
                    descriptor,
                )));
            }
            Ok(_) => {}
            Err(error) => missed = Some(error),
        }
    }
    let error = missed.unwrap_or_else(|| io::Error::from_raw_os_error(Errno::ENOENT as i32).into());
    Err(Error::bpf(asked(), &error))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let program = ebpf.program_mut(layout::PROGRAM).ok_or(ProgramError::NotLoaded);
    let program = program.and_then(<&mut Xdp>::try_from);
    program.map_err(|error| Error::bpf("find the steering program in its object", &error))
}

fn descriptor(ebpf: &Ebpf) -> Result<BorrowedFd<'_>, ProgramError> {
    let program = ebpf.program(layout::PROGRAM).ok_or(ProgramError::NotLoaded)?;
    Ok(program.fd()?.as_fd())
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(MapError::InvalidName { name: name.to_owned() });
    map.and_then(M::try_from).map_err(|error| map_error(name, &error))
}

fn map_error(name: &str, error: &MapError) -> Error {
    Error::bpf(format!("use the steering program's map {name}"), error)
}

fn within(what: &'static str, given: usize, limit: usize) -> Result<(), Error> {
    if given > limit { Err(Error::TooMany { what, given, limit }) } else { Ok(()) }
}

/// Makes `wanted` the map's keys, adding before removing.
fn replace<K: Pod + Ord>(
    map: &mut HashMap<MapData, K, u8>,
    name: &str,
    wanted: &BTreeSet<K>,
) -> Result<(), Error> {
    let refused = |error| map_error(name, &error);
    let present = map.keys().collect::<Result<BTreeSet<K>, _>>().map_err(refused)?;
    for key in wanted.difference(&present) {
        map.insert(key, 1, 0).map_err(refused)?;
    }
    for key in present.difference(wanted) {
        map.remove(key).map_err(refused)?;
    }
    Ok(())
}

/// One family's trie of sources. The program only reads it, so what we put there is what is there.
struct Sources<A: Pod> {
    trie: LpmTrie<MapData, A, u8>,
    name: &'static str,
    /// By prefix length and address.
    present: BTreeMap<(u8, A), u8>,
}

impl<A: Pod + Ord> Sources<A> {
    fn new(trie: LpmTrie<MapData, A, u8>, name: &'static str) -> Sources<A> {
        Sources { trie, name, present: BTreeMap::new() }
    }

    fn replace(&mut self, wanted: &BTreeMap<(u8, A), u8>) -> Result<(), Error> {
        let refused = |error| map_error(self.name, &error);
        let key = |(bits, address): (u8, A)| Key::new(u32::from(bits), address);
        for (network, value) in wanted {
            if self.present.get(network) != Some(value) {
                self.trie.insert(&key(*network), value, 0).map_err(refused)?;
                self.present.insert(*network, *value);
            }
        }
        let old: Vec<_> =
            self.present.keys().filter(|network| !wanted.contains_key(network)).copied().collect();
        for network in old {
            self.trie.remove(&key(network)).map_err(refused)?;
            self.present.remove(&network);
        }
        Ok(())
    }
}
