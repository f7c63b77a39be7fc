//! What can go wrong with the steering, and what helps.

use std::error::Error as StdError;
use std::{fmt, io};

use nix::errno::Errno;

/// A failure to load, attach, read or change a port's steering.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request.
    Refused {
        /// What was asked of it.
        asked: String,
        /// Its answer.
        why: io::Error,
        /// Its own explanation, where it gave one.
        told: Option<String>,
        /// What helps.
        help: &'static str,
    },
    /// The interface does not exist (any more) in this network namespace.
    InterfaceGone {
        /// Its index.
        ifindex: u32,
    },
    /// The program on the interface is held there by a bpf_link, which netlink can neither replace nor remove.
    HeldByLink {
        /// The interface's index.
        ifindex: u32,
    },
    /// The program on the interface is not ours, so it is not removed.
    Foreign {
        /// The interface's index.
        ifindex: u32,
        /// The program's id.
        id: u32,
        /// The program's name, where it has one.
        name: Option<String>,
    },
    /// More entries than the program's map is made for. Nothing was changed.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        given: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The port was loaded with fewer queues.
    NoSuchQueue {
        /// The queue asked for.
        queue: u32,
        /// How many there are.
        queues: u32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused { asked, why, told, help } => {
                write!(f, "the kernel refused to {asked}: {why}")?;
                if let Some(told) = told {
                    write!(f, " ({told})")?;
                }
                write!(f, ". {help}")
            }
            Error::InterfaceGone { ifindex } => {
                write!(f, "there is no interface {ifindex} in this network namespace. See `ip link`")
            }
            Error::HeldByLink { ifindex } => write!(
                f,
                "the XDP program on interface {ifindex} is held by a bpf_link of another process. Stop that process, \
                 or see `bpftool link`"
            ),
            Error::Foreign { ifindex, id, name } => write!(
                f,
                "the XDP program on interface {ifindex} (id {id}, name {}) is not ours, so it stays. \
                 `ip link set DEV xdp off` removes it",
                name.as_deref().unwrap_or("unknown")
            ),
            Error::TooMany { what, given, limit } => {
                write!(f, "{given} {what}; a port takes {limit} at most")
            }
            Error::NoSuchQueue { queue, queues } => {
                write!(f, "queue {queue} of a port with {queues} queues (they count from 0)")
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Refused { why, .. } => Some(why),
            _ => None,
        }
    }
}

impl Error {
    /// A refused BPF system call. `error` is whatever the library made of it.
    pub(super) fn bpf(asked: impl Into<String>, error: &(dyn StdError + 'static)) -> Error {
        let why = os_error(error).unwrap_or_else(|| io::Error::other(chain(error)));
        let help = match errno(&why) {
            Some(Errno::EPERM | Errno::EACCES) => {
                "It takes CAP_BPF and CAP_NET_ADMIN (and CAP_SYS_ADMIN to look at other programs): run as root, or \
                 look whether a security module forbids BPF"
            }
            Some(Errno::ENOMEM) => {
                "Memory, or the limit of locked memory (`ulimit -l`) on kernels before 5.11, is short"
            }
            Some(Errno::ENOSYS) => "The kernel is built without CONFIG_BPF_SYSCALL",
            _ => {
                "The kernel may be too old or built without CONFIG_XDP_SOCKETS: Linux 5.9 or newer is needed"
            }
        };
        Error::Refused { asked: asked.into(), why, told: None, help }
    }

    /// A refused netlink request about an interface.
    pub(super) fn netlink(asked: &str, ifindex: u32, refusal: Refusal) -> Error {
        let help = match errno(&refusal.why) {
            Some(Errno::ENODEV) => return Error::InterfaceGone { ifindex },
            Some(Errno::EBUSY) => return Error::HeldByLink { ifindex },
            Some(Errno::EPERM) => {
                "It takes CAP_NET_ADMIN in the network namespace's user namespace: run as root"
            }
            Some(Errno::ERANGE | Errno::EINVAL) => {
                "Most often the MTU is too large for XDP, of the interface or of its veth peer: about 3,500 bytes is the \
                 most on veth with 4 KiB pages. Large receive offload and too few queues are refused like this as well"
            }
            Some(Errno::EOPNOTSUPP) => {
                "Neither the driver nor the kernel offers XDP for this kind of interface"
            }
            Some(Errno::EEXIST) => {
                "Another program came or went in the same moment: who else manages XDP here?"
            }
            _ => "See `ip -details link show` and the kernel's log",
        };
        let asked = format!("{asked} interface {ifindex}");
        Error::Refused { asked, why: refusal.why, told: refusal.told, help }
    }
}

/// The kernel's negative answer to a netlink request.
#[derive(Debug)]
pub(super) struct Refusal {
    pub why: io::Error,
    /// The text of its extended acknowledgement.
    pub told: Option<String>,
}

impl From<io::Error> for Refusal {
    fn from(why: io::Error) -> Refusal {
        Refusal { why, told: None }
    }
}

pub(super) fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

/// The operating system's error at the root of a library's error.
fn os_error(error: &(dyn StdError + 'static)) -> Option<io::Error> {
    std::iter::successors(Some(error), |error: &&(dyn StdError + 'static)| (*error).source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error)
        .map(io::Error::from_raw_os_error)
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let parts: Vec<String> =
        std::iter::successors(Some(error), |error: &&(dyn StdError + 'static)| (*error).source())
            .map(ToString::to_string)
            .collect();
    parts.join(": ")
}
