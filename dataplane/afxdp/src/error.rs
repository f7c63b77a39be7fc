//! One error type: what was asked, what the kernel answered, what helps.

use std::fmt;

/// What sort of refusal an [`Error`] is, for callers that react and do not only print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A capability is missing (EPERM, EACCES).
    Permission,
    /// The queue, or the place for a program, is taken (EBUSY, EEXIST).
    Taken,
    /// There is no such interface or queue.
    NoSuchDevice,
    /// The device vanished while it was in use (ENXIO, ENODEV, or ENETDOWN as the socket's pending error), or is not
    /// up when a socket is opened (ENETDOWN).
    DeviceGone,
    /// Kernel or driver do not know what was asked.
    Unsupported,
    /// No memory, or the memory-lock limit is reached.
    Memory,
    /// The arguments were refused.
    Invalid,
    /// Anything else; the errno says what.
    Other,
}

/// A refusal: what was asked, the kernel's errno and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    asked: String,
    errno: i32,
    kind: Kind,
    help: &'static str,
}

impl Error {
    /// From an errno; the hint follows from it.
    pub(crate) fn new(asked: impl Into<String>, errno: i32) -> Error {
        let (kind, help) = classify(errno);
        Error { asked: asked.into(), errno, kind, help }
    }

    /// The same refusal, where the place knows better than the errno what it means.
    pub(crate) fn meaning(mut self, kind: Kind, help: &'static str) -> Error {
        self.kind = kind;
        self.help = help;
        self
    }

    /// What sort of refusal this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The kernel's errno; 0 where this package itself refused.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// What was asked of the kernel, in words.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// What helps; may be empty.
    pub fn help(&self) -> &str {
        self.help
    }

    /// True when the device vanished: the socket is of no use until it is opened again.
    pub fn is_gone(&self) -> bool {
        self.kind == Kind::DeviceGone
    }
}

fn classify(errno: i32) -> (Kind, &'static str) {
    match errno {
        libc::EPERM | libc::EACCES => (
            Kind::Permission,
            "needs CAP_NET_RAW and CAP_NET_ADMIN (and CAP_BPF for programs and maps): run as root or grant them",
        ),
        libc::EBUSY | libc::EEXIST => {
            (Kind::Taken, "another socket or program holds it: stop that one, or choose another queue")
        }
        libc::ENODEV => (Kind::NoSuchDevice, "no such interface in this network namespace: see `ip link`"),
        libc::ENETDOWN | libc::ENXIO => {
            (Kind::DeviceGone, "the interface is down or was removed: set it up and open the socket again")
        }
        libc::EOPNOTSUPP | libc::ENOPROTOOPT | libc::ENOSYS | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => (
            Kind::Unsupported,
            "kernel or driver lack this: Linux 5.10 or newer with CONFIG_XDP_SOCKETS is needed",
        ),
        libc::ENOMEM | libc::ENOBUFS => (
            Kind::Memory,
            "out of memory or over RLIMIT_MEMLOCK: fewer frames, a higher limit, or CAP_IPC_LOCK",
        ),
        libc::EINVAL => (
            Kind::Invalid,
            "the kernel refused an argument: sizes must be powers of two, the queue must exist",
        ),
        _ => (Kind::Other, ""),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.asked)?;
        if self.errno != 0 {
            write!(f, ": {}", std::io::Error::from_raw_os_error(self.errno))?;
        }
        if !self.help.is_empty() {
            write!(f, " ({})", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_was_asked_and_what_helps() {
        let text = Error::new("bind to eth9 queue 3", libc::EPERM).to_string();
        assert!(text.contains("eth9 queue 3") && text.contains("CAP_NET_RAW") && text.contains("os error 1"));
    }

    #[test]
    fn a_vanished_device_is_recognised_by_each_of_its_errnos() {
        for errno in [libc::ENETDOWN, libc::ENXIO] {
            assert!(Error::new("send", errno).is_gone());
        }
        assert!(!Error::new("send", libc::EBUSY).is_gone());
    }
}
