//! How the portal's process gives up whatever it does not need, before anybody can talk to it.
//!
//! Afterwards it can use the sockets it has and is given, and accept connections at them. It cannot make a socket or
//! connect one, open a file, start a process, map memory to execute, look at other processes or signal them, or become
//! anybody else. Everything is asked for twice where the kernel has two ways to refuse it: capabilities and user,
//! Landlock, and the list of system calls.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::limits::DESCRIPTORS_MAX;

/// The most memory that the process may write to, bytes: twice what its connections take at their limits.
const DATA_BYTES_MAX: u64 = 512 << 20;
/// How much later than others it is served when the processors are busy (nice, 0 to 19): packets go first.
const NICENESS: i32 = 10;
/// What a forbidden system call returns.
const EPERM: u32 = libc::EPERM as u32;

/// Confines this process, which must be root and have one thread, for ever.
///
/// # Errors
///
/// Some part could not be done: then nobody must be served.
pub fn confine(uid: u32, gid: u32) -> Result<()> {
    if uid == 0 || gid == 0 {
        bail!("the portal does not run as root");
    }
    limit_resources().context("limiting the portal's resources")?;
    give_up_root(uid, gid).context("giving up root")?;
    prctl::set_dumpable(false).context("hiding memory from other processes")?;
    // The gateway may be killed, and a portal that was taken over would not go by itself.
    prctl::set_pdeathsig(Signal::SIGKILL).context("tying the portal's life to the gateway's")?;
    prctl::set_no_new_privs().context("giving up new privileges")?;
    close_files().context("closing the files with Landlock (Linux 5.13 with CONFIG_SECURITY_LANDLOCK)")?;
    let filter = system_calls().context("making the list of system calls")?;
    apply_filter(&filter).context("putting the list of system calls in force (seccomp)")?;
    verify()
}

fn limit_resources() -> Result<()> {
    rustix::process::nice(NICENESS)?;
    // Strangers have no claim to the short slices of the gateway's threads, which go first.
    afxdp::prefer_time_slice(Duration::ZERO);
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX),
        (Resource::RLIMIT_DATA, DATA_BYTES_MAX),
    ] {
        setrlimit(resource, limit, limit).with_context(|| format!("{resource:?}"))?;
    }
    Ok(())
}

fn give_up_root(uid: u32, gid: u32) -> Result<()> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).context(format!("capability {capability:?}")),
        }
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).context("leaving all groups")?;
    setresgid(gid, gid, gid).context("changing the group")?;
    setresuid(uid, uid, uid).context("changing the user")?;
    clear_ambient_capability_set()?;
    let left = capabilities(None)?;
    if !(left.effective | left.permitted | left.inheritable).is_empty() {
        bail!("capabilities are left: {left:?}");
    }
    Ok(())
}

/// No file at all, no TCP port to bind or connect to, and no signal to others, as far as the kernel can refuse it.
fn close_files() -> Result<()> {
    let ruleset = Ruleset::default()
        // What Linux 5.13 has must be there; what came later is refused by the list of system calls too.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V5))?
        .scope(Scope::from_all(ABI::V6))?;
    let status = ruleset.create()?.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        bail!("this kernel does not have it");
    }
    Ok(())
}

/// A condition on an argument.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    let length = SeccompCmpArgLen::Dword;
    Ok(SeccompCondition::new(index, length, operator, value)?)
}

/// All of these conditions.
fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule> {
    Ok(SeccompRule::new(conditions)?)
}

/// The system calls that are allowed; all others fail.
fn system_calls() -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = plain().iter().map(|call| (*call, Vec::new())).collect();
    let is = |index: u8, value: i32| argument(index, SeccompCmpOp::Eq, value as u32 as u64);
    let lacks = |index: u8, bits: i32| argument(index, SeccompCmpOp::MaskedEq(bits as u32 as u64), 0);
    // No memory that can be executed, or a fault could be turned into code.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(vec![lacks(2, libc::PROT_EXEC)?])?]);
    }
    // Not as a way to connect (MSG_FASTOPEN), nor to another address than the connection's.
    let address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_sendto, vec![rule(vec![lacks(3, libc::MSG_FASTOPEN)?, address])?]);
    rules.insert(libc::SYS_sendmsg, vec![rule(vec![lacks(2, libc::MSG_FASTOPEN)?])?]);
    let commands = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    let commands = commands.into_iter().map(|command| rule(vec![is(1, command)?]));
    rules.insert(libc::SYS_fcntl, commands.collect::<Result<_>>()?);
    rules.insert(libc::SYS_ioctl, vec![rule(vec![is(1, libc::FIONBIO as i32)?])?]);
    let options = [(libc::IPPROTO_TCP, libc::TCP_NODELAY)];
    let option = |(level, name): &(i32, i32)| rule(vec![is(1, *level)?, is(2, *name)?]);
    rules.insert(libc::SYS_setsockopt, options.iter().map(option).collect::<Result<_>>()?);
    let options = [(libc::SOL_SOCKET, libc::SO_ERROR), (libc::IPPROTO_TCP, libc::TCP_NODELAY)];
    rules.insert(libc::SYS_getsockopt, options.iter().map(option).collect::<Result<_>>()?);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Errno(EPERM), SeccompAction::Allow, architecture)?;
    Ok(filter.try_into()?)
}

/// Those that are allowed with any arguments.
fn plain() -> Vec<i64> {
    let mut calls = vec![
        // The sockets it has.
        libc::SYS_accept4,
        libc::SYS_close,
        libc::SYS_getpeername,
        libc::SYS_getsockname,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_shutdown,
        libc::SYS_write,
        libc::SYS_writev,
        // Waiting.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_futex,
        libc::SYS_nanosleep,
        libc::SYS_ppoll,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        // Memory and chance.
        libc::SYS_brk,
        libc::SYS_getrandom,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        // Ending, and what the runtime does in between.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time]);
    calls.sort_unstable();
    calls
}

/// Tries what must not go any more.
fn verify() -> Result<()> {
    if File::open("/").is_ok() {
        bail!("files can still be opened");
    }
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        bail!("it can still become root");
    }
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    if socket.is_ok() {
        bail!("sockets can still be made");
    }
    Ok(())
}
