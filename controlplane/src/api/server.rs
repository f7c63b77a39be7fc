//! The gateway's side of the control socket: who may come in, how many, how long, how much.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, geteuid};

use super::REQUEST_BYTES_MAX;
use super::types::{API, Envelope, Line, Refusal, Reply, Request};

/// The most clients at once.
const CLIENTS_MAX: usize = 32;
/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long a client may leave an answer unread before it is left.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// How often the listener looks whether it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// The place of the control socket, held by this process alone.
///
/// A lock beside the socket says whether its gateway lives: the kernel drops it with the process, whatever the way of
/// dying. So a socket file without a locked lock was left by a dead gateway, and is replaced.
pub struct Place {
    listener: UnixListener,
    socket: PathBuf,
    _lock: Flock<File>,
}

impl Place {
    /// Takes the place and listens; answers only when [`serve`] is called.
    ///
    /// # Errors
    ///
    /// Another gateway is running there, or something that is not a socket has its name.
    pub fn claim(socket: &Path) -> Result<Place> {
        if let Some(directory) = socket.parent().filter(|d| !d.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.with_context(|| format!("making {}", directory.display()))?;
        }
        let lock = lock(&lock_path(socket)).map_err(|error| match error {
            Locked::Busy(why) => anyhow::anyhow!(why),
            Locked::Broken(error) => error,
        })?;
        match fs::symlink_metadata(socket) {
            Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(socket)?,
            Ok(_) => bail!(
                "{} is there and is not a socket; remove it or change `control` in [gateway]",
                socket.display()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("looking at {}", socket.display())),
        }
        let listener =
            UnixListener::bind(socket).with_context(|| format!("listening at {}", socket.display()))?;
        // Whoever came in before this line is refused by his credentials.
        fs::set_permissions(socket, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Place { listener, socket: socket.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The lock file stays: removing it would let two gateways each hold a lock of their own.
        let _ = fs::remove_file(&self.socket);
    }
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Why a lock cannot be had.
pub(crate) enum Locked {
    /// Another gateway holds it.
    Busy(String),
    /// Something went wrong.
    Broken(anyhow::Error),
}

/// Locks a file for this process alone, and writes its number there for whoever comes next.
pub(crate) fn lock(path: &Path) -> Result<Flock<File>, Locked> {
    try_lock(path).map_err(Locked::Broken)?.map_err(Locked::Busy)
}

fn try_lock(path: &Path) -> Result<Result<Flock<File>, String>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // What somebody else's link leads to must not lose its contents to our process number.
    options.custom_flags(nix::libc::O_NOFOLLOW);
    let file = options.open(path).with_context(|| format!("opening {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            lock.set_len(0)?;
            writeln!(&*lock, "{}", std::process::id())?;
            Ok(Ok(lock))
        }
        Err((file, nix::Error::EWOULDBLOCK)) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.take(16).read_to_string(&mut pid);
            let (pid, path) = (pid.trim(), path.display());
            Ok(Err(format!("a gateway is already running, pid {pid} (it holds {path})")))
        }
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// A stream that its client's thread and the registry of clients share.
struct Stream(Arc<UnixStream>);

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client with its answer in the making.
pub struct Client {
    stream: BufWriter<Stream>,
    uid: u32,
    stop: Arc<AtomicBool>,
}

impl Client {
    /// Who asks, as the kernel says.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Adds a line to the answer.
    ///
    /// # Errors
    ///
    /// The client left, or does not read.
    pub fn say(&mut self, reply: Reply) -> io::Result<()> {
        serde_json::to_writer(&mut self.stream, &Line { api: API, reply })?;
        self.stream.write_all(b"\n")
    }

    /// Ends the answer.
    ///
    /// # Errors
    ///
    /// As [`Client::say`].
    pub fn end(&mut self, result: Result<(), Refusal>) -> io::Result<()> {
        self.say(match result {
            Ok(()) => Reply::Done {},
            Err(refusal) => Reply::Refused(refusal),
        })?;
        self.stream.flush()
    }

    /// Sends what was said so far.
    ///
    /// # Errors
    ///
    /// As [`Client::say`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }

    /// Whether the client has gone, or the gateway is stopping, so that an endless answer must end.
    pub fn is_over(&self) -> bool {
        use nix::sys::socket::{MsgFlags, recv};
        use std::os::fd::AsRawFd;
        let mut byte = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let read = recv(self.stream.get_ref().0.as_raw_fd(), &mut byte, flags);
        self.stop.load(Ordering::Relaxed) || !matches!(read, Ok(1) | Err(nix::Error::EAGAIN))
    }
}

/// What answers requests. It takes the client, so that an answer may outlive the call.
pub type Answerer = dyn Fn(Request, Client) + Send + Sync;

/// The running server.
pub struct Server {
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<Place>>,
    clients: Arc<Clients>,
}

/// Answers clients until [`Server::stop`].
pub fn serve(place: Place, answer: Arc<Answerer>) -> io::Result<Server> {
    let stop = Arc::new(AtomicBool::new(false));
    let clients = Arc::new(Clients::default());
    let (stopping, count) = (stop.clone(), clients.clone());
    let listener = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            match place.listener.accept() {
                Ok((stream, _)) => admit(stream, &answer, &stopping, &count),
                Err(_) => wait(&place.listener),
            }
        }
        place
    })?;
    Ok(Server { stop, listener: Some(listener), clients })
}

impl Server {
    /// Takes no more clients, has endless answers end, waits for the others until `patience` runs out, and then hangs
    /// up on them. Returns the place: the gateway lives until it is dropped.
    pub fn stop(mut self, patience: Duration) -> Option<Place> {
        self.stop.store(true, Ordering::Relaxed);
        let place = self.listener.take().and_then(|listener| listener.join().ok());
        let deadline = Instant::now() + patience;
        while !self.clients.lock().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        for stream in self.clients.lock().iter() {
            // Whoever hung up first does not mind.
            let _ = stream.shutdown(Shutdown::Both);
        }
        place
    }
}

/// Sleeps until somebody knocks.
fn wait(listener: &UnixListener) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(STOP_CHECK).unwrap_or(PollTimeout::MAX);
    if poll(&mut fds, timeout).is_err() || fds[0].revents().is_some_and(|e| e.contains(PollFlags::POLLERR)) {
        std::thread::sleep(STOP_CHECK);
    } else if fds[0].any() == Some(true) {
        // Out of descriptors, the client stays in the queue and would have us turn here without end.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The streams of the clients that are being answered.
#[derive(Default)]
struct Clients(Mutex<Vec<Arc<UnixStream>>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<UnixStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place among the clients, given back on drop.
struct Seat {
    clients: Arc<Clients>,
    stream: Arc<UnixStream>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.lock().retain(|stream| !Arc::ptr_eq(stream, &self.stream));
    }
}

fn admit(stream: UnixStream, answer: &Arc<Answerer>, stop: &Arc<AtomicBool>, clients: &Arc<Clients>) {
    // An accepted socket does not inherit non-blocking mode; with both limits nothing below blocks for long.
    if stream.set_write_timeout(Some(WRITE_TIME)).is_err()
        || stream.set_read_timeout(Some(REQUEST_TIME)).is_err()
    {
        return;
    }
    let stream = Arc::new(stream);
    let taken = {
        let mut clients = clients.lock();
        clients.push(stream.clone());
        clients.len() - 1
    };
    let seat = Seat { clients: clients.clone(), stream: stream.clone() };
    let mut client =
        Client { stream: BufWriter::new(Stream(stream.clone())), uid: u32::MAX, stop: stop.clone() };
    match may_enter(&stream, taken) {
        Ok(uid) => client.uid = uid.as_raw(),
        Err(refusal) => {
            let _ = client.end(Err(refusal));
            return;
        }
    }
    let answer = answer.clone();
    let spawned = std::thread::Builder::new().name("client".to_owned()).spawn(move || {
        let _seat = seat;
        match read_request(&stream) {
            Ok(request) => answer(request, client),
            // A client that left does not mind.
            Err(refusal) => drop(client.end(Err(refusal))),
        }
    });
    // Without a thread the client is hung up on; the gateway goes on.
    drop(spawned);
}

/// Who comes in.
fn may_enter(stream: &UnixStream, taken: usize) -> Result<Uid, Refusal> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)
        .map_err(|error| Refusal::error(format!("cannot see who is asking: {error}")))?;
    let uid = Uid::from_raw(peer.uid());
    if !uid.is_root() && uid != geteuid() {
        return Err(Refusal::error(format!("only root may talk to the gateway, and you are uid {uid}")));
    }
    if taken >= CLIENTS_MAX {
        return Err(Refusal::error(format!("{CLIENTS_MAX} clients are being answered already; try again")));
    }
    Ok(uid)
}

/// Reads one line, within the limits of size and time.
fn read_request(stream: &UnixStream) -> Result<Request, Refusal> {
    let deadline = Instant::now() + REQUEST_TIME;
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    let line = loop {
        if let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            break &text[..end];
        }
        if text.len() > REQUEST_BYTES_MAX {
            return Err(Refusal::error(format!("a request may have {REQUEST_BYTES_MAX} bytes")));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return Err(Refusal::error(format!("no request came within {REQUEST_TIME:?}")));
        }
        match (&*stream).read(&mut chunk) {
            Ok(0) => return Err(Refusal::error("the request ended before its end of line")),
            Ok(count) => text.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Refusal::error(format!("no request came within {REQUEST_TIME:?}"))),
        }
    };
    parse(line)
}

fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let value: serde_json::Value = serde_json::from_slice(line)
        .map_err(|error| Refusal::error(format!("the request is not JSON: {error}")))?;
    match value.get("api").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(API) => {}
        Some(version) => {
            let message = format!("this gateway speaks version {API} of the control protocol, not {version}");
            return Err(Refusal::error(message));
        }
        None => return Err(Refusal::error("the request has no `api` version")),
    }
    serde_json::from_value::<Envelope>(value)
        .map(|envelope| envelope.request)
        .map_err(|error| Refusal::error(format!("the request cannot be understood: {error}")))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
