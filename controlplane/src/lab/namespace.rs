//! A network namespace held by a descriptor.

use std::fs::{self, File};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink::{self, Link, Netlink};

/// The settings of a new namespace, below `net`; a new namespace may inherit those for IPv4 from the host's. No
/// forwarding and no source check by the kernel; IPv6 usable at once and quiet: no duplicate address detection, no
/// router solicitations, no address from a router's advertisement.
const SETTINGS: [(&str, &str); 12] = [
    ("ipv4/ip_forward", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/forwarding", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/dad_transmits", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/all/router_solicitations", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// A network namespace without a name, gone when this value and the processes inside are gone.
pub struct Namespace {
    label: String,
    fd: OwnedFd,
    netlink: Mutex<Netlink>,
}

impl Namespace {
    /// Makes one with its loopback up, no forwarding and quiet IPv6. The label is for messages only and need not be unique.
    pub fn new(label: &str) -> io::Result<Namespace> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            for (setting, value) in SETTINGS {
                write_setting(setting, value)?;
            }
            let fd = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
            Ok::<_, io::Error>((fd, Netlink::open()?))
        });
        let (fd, netlink) = joined(made.join()).map_err(|error| {
            io::Error::new(error.kind(), format!("making the network namespace {label}: {error}"))
        })?;
        let namespace = Namespace { label: label.to_owned(), fd, netlink: Mutex::new(netlink) };
        namespace.set_up("lo", true)?;
        Ok(namespace)
    }

    /// The label it was made with.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs the closure on a thread of its own inside the namespace and returns its value; a panic inside goes on
    /// outside. Sockets opened there stay in the namespace, threads and processes started there are born into it.
    /// `/sys` stays the caller's: see [`Namespace::run_with_sysfs`].
    ///
    /// # Panics
    /// Panics when the kernel refuses to enter, which needs root only.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        self.enter(false, inside)
    }

    /// As [`Namespace::run`], with a private mount namespace in which `/sys/class/net` shows this namespace's
    /// interfaces. What is mounted below `/sys` (bpffs, cgroups) is hidden there.
    ///
    /// # Panics
    /// As [`Namespace::run`], and when mounting is refused.
    pub fn run_with_sysfs<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        self.enter(true, inside)
    }

    fn enter<T: Send>(&self, sysfs: bool, inside: impl FnOnce() -> T + Send) -> T {
        let value = thread::scope(|scope| {
            let body = || {
                setns(&self.fd, CloneFlags::CLONE_NEWNET)
                    .unwrap_or_else(|error| panic!("entering the namespace {}: {error}", self.label));
                if sysfs {
                    mount_own_sysfs().unwrap_or_else(|error| panic!("mounting sysfs: {error}"));
                }
                inside()
            };
            scope.spawn(body).join()
        });
        joined(value)
    }

    /// Starts a process inside, with `/sys` as in [`Namespace::run_with_sysfs`]. It is killed when the guard is
    /// dropped; after `kill -9` of this process it lives on, unless it asks for `PR_SET_PDEATHSIG` itself.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let program = command.get_program().to_owned();
        self.run_with_sysfs(move || command.spawn()).map(Child).map_err(|error| {
            let program = program.to_string_lossy();
            io::Error::new(error.kind(), format!("starting {program} in {}: {error}", self.label))
        })
    }

    /// Reads a setting such as `net.ipv4.ip_forward`. Use `/` between the parts where an interface's name has a dot.
    pub fn sysctl(&self, name: &str) -> io::Result<String> {
        let path = sysctl_path(name);
        self.run(|| fs::read_to_string(&path))
            .map(|value| value.trim().to_owned())
            .map_err(|error| self.context(error, format!("reading {name}")))
    }

    /// Writes a setting, see [`Namespace::sysctl`].
    pub fn set_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        let path = sysctl_path(name);
        self.run(|| fs::write(&path, value))
            .map_err(|error| self.context(error, format!("setting {name} = {value}")))
    }

    /// The netlink socket inside.
    pub(super) fn netlink<T>(&self, ask: impl FnOnce(&mut Netlink) -> io::Result<T>) -> io::Result<T> {
        let mut netlink = self.netlink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ask(&mut netlink)
    }

    /// An error that says what was tried, and where.
    pub(super) fn context(&self, error: io::Error, what: impl std::fmt::Display) -> io::Error {
        io::Error::new(error.kind(), format!("{what} in {}: {error}", self.label))
    }

    /// The interfaces, loopback included.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        self.netlink(netlink::links)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A process inside a namespace; killed and waited for on drop.
pub struct Child(std::process::Child);

impl Deref for Child {
    type Target = std::process::Child;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a process that was waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The thread's value, its panic passed on.
fn joined<T>(value: thread::Result<T>) -> T {
    value.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A kernel without IPv6 has none of its files, and nothing to quieten.
fn write_setting(setting: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/{setting}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && setting.starts_with("ipv6") => Ok(()),
        other => other,
    }
}

fn sysctl_path(name: &str) -> String {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    format!("/proc/sys/{relative}")
}

/// Puts the calling thread into a mount namespace of its own with a sysfs that belongs to its network namespace.
fn mount_own_sysfs() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Without this the new sysfs would appear in every mount namespace that shares the tree.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)
}
