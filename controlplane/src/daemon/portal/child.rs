//! One run of a confined process, the portal's or a doorman's: started, told how to begin, and ended.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child as Process, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::log;
use super::certificate::Certificate;
use crate::model::Portal;
use crate::portal::orders::{Order, Setup, Word};
use crate::portal::wire;

/// How long the process may take until it has confined itself.
const BEGIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a message to it may wait: it always listens.
const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// What it may say on standard error in one run, bytes; what comes after is dropped.
const SAID_BYTES_MAX: usize = 4096;
/// The user of this name has this number nearly everywhere.
const NOBODY: u32 = 65_534;

/// The gateway's end of the pair.
#[derive(Clone)]
pub struct Line(Arc<OwnedFd>);

impl Line {
    /// Tells the process something.
    ///
    /// # Errors
    ///
    /// It is gone, or does not listen.
    pub fn tell(&self, order: &impl Serialize, with: Option<&OwnedFd>) -> io::Result<()> {
        wire::send(&*self.0, order, with.map(AsFd::as_fd))
    }
}

/// The running process; killed when it is dropped.
pub struct Child {
    process: Process,
    /// To it and from it.
    pub line: Line,
}

impl Child {
    /// Starts `bulkhead` with this verb, which waits for its first message.
    ///
    /// # Errors
    ///
    /// Why it did not, in words.
    pub fn spawn(verb: &'static str) -> Result<Child, String> {
        let start = || -> io::Result<Child> {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            set_socket_timeout(&ours, Timeout::Send, Some(SEND_PATIENCE))?;
            // It needs no more than its end of the pair: no argument, no environment, no file.
            let process = Command::new("/proc/self/exe")
                .arg(verb)
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::from(theirs))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            Ok(Child { process, line: Line(Arc::new(ours)) })
        };
        let mut child = start().map_err(|error| format!("starting the process: {error}"))?;
        if let Some(said) = child.process.stderr.take() {
            let relay = std::thread::Builder::new().name(format!("{verb}-said"));
            let relayed = relay.spawn(move || relay_lines(verb, said));
            relayed.map_err(|error| format!("a thread for it: {error}"))?;
        }
        Ok(child)
    }

    /// Starts the portal, and returns when it has confined itself.
    ///
    /// # Errors
    ///
    /// Why it did not, in words.
    pub fn start(portal: &Portal, certificate: &Certificate) -> Result<Child, String> {
        let (uid, gid) = user(&portal.user)?;
        let mut child = Child::spawn("portal")?;
        let setup = Setup {
            name: portal.name.clone(),
            port: portal.port,
            certificate: certificate.chain.clone(),
            key: certificate.key.clone(),
            strict: !certificate.is_own,
            uid,
            gid,
        };
        child
            .line
            .tell(&Order::Begin(Box::new(setup)), None)
            .map_err(|error| format!("telling it to begin: {error}"))?;
        match child.hear(BEGIN_PATIENCE) {
            Ok(Some((Word::Ready, None))) => Ok(child),
            Ok(Some(_)) => Err("it did not begin as it should".to_owned()),
            Ok(None) => Err(format!("it did not begin: {}", child.end())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(format!("it did not begin within {} s", BEGIN_PATIENCE.as_secs()))
            }
            Err(error) => Err(format!("it did not begin: {error}")),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it says next; `None` when it is gone.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when it says nothing for so long; [`io::ErrorKind::InvalidData`] when it is not to be
    /// believed.
    pub fn hear<W: DeserializeOwned>(&self, patience: Duration) -> io::Result<Option<(W, Option<OwnedFd>)>> {
        let timeout = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(self.line.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(timeout)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(_) => wire::receive::<W>(&*self.line.0),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends it; how it had ended by itself, in words.
    pub fn end(&mut self) -> String {
        // It has closed its end, so it is ending; whoever is slow at that is killed.
        for _ in 0..50 {
            match self.process.try_wait() {
                Ok(Some(status)) => return ending(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => return error.to_string(),
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        "it closed its end of the pair".to_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a process that was waited for already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("it was killed by {signal}"),
            Err(_) => format!("it was killed by signal {signal}"),
        },
        (None, None) => "it ended".to_owned(),
    }
}

/// The numbers of an unprivileged user, by name or number.
pub(super) fn user(name: &str) -> Result<(u32, u32), String> {
    let found = match name.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid))
            .map(|user| Some(user.map_or((uid, uid), |user| (uid, user.gid.as_raw())))),
        Err(_) => User::from_name(name).map(|user| user.map(|user| (user.uid.as_raw(), user.gid.as_raw()))),
    };
    let found = found.map_err(|error| format!("looking for user {name}: {error}"))?;
    // A machine without a list of users has a nobody all the same.
    let found = found.or((name == "nobody").then_some((NOBODY, NOBODY)));
    match found {
        None => Err(format!("there is no user {name}; make it, or name another as `user` in [portal]")),
        Some((uid, gid)) if Uid::from_raw(uid).is_root() || gid == Gid::from_raw(0).as_raw() => {
            Err(format!("user {name} is root, or in root's group: name an unprivileged one"))
        }
        Some(found) => Ok(found),
    }
}

/// Logs what the process says, as long as it is short: it may be somebody else's by now.
fn relay_lines(verb: &str, mut said: ChildStderr) {
    let (mut buffer, mut line, mut total) = ([0; 512], Vec::new(), 0);
    while let Ok(count) = said.read(&mut buffer) {
        if count == 0 {
            break;
        }
        for byte in &buffer[..count] {
            total += 1;
            if total > SAID_BYTES_MAX {
                // Read on, so that it does not wait for us.
                continue;
            }
            if *byte == b'\n' {
                log_line(verb, &line);
                line.clear();
            } else {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        log_line(verb, &line);
    }
}

fn log_line(verb: &str, line: &[u8]) {
    log::complain(&format!("{verb}: {}", String::from_utf8_lossy(line).escape_debug()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portals_user_is_found_by_name_or_number_and_is_never_root() {
        assert_eq!(user("nobody").unwrap().0, NOBODY);
        assert_eq!(user("4242424"), Ok((4_242_424, 4_242_424)));
        assert!(user("root").unwrap_err().contains("name an unprivileged one"));
        assert!(user("0").unwrap_err().contains("name an unprivileged one"));
        assert!(user("nobody-here-is-called-so").unwrap_err().contains("`user` in [portal]"));
    }
}
