//! Ordinary servers in a zone: TCP that echoes a line or sends a file, UDP that echoes.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lab::Namespace;

/// How often a server looks whether it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// A file is sent in pieces of this many bytes …
const PIECE: usize = 16 * 1024;
/// … with this pause between them: 16 MB a second, which no machine is too slow for.
const PAUSE: Duration = Duration::from_millis(1);

/// The running servers of one zone.
pub struct Servers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Listens on these ports, IPv4 and IPv6, until dropped.
    pub fn start(namespace: &Namespace, tcp: &[u16], udp: &[u16]) -> io::Result<Servers> {
        let (listeners, sockets) = namespace.run(|| -> io::Result<_> {
            // The unspecified IPv6 address takes IPv4 as well.
            let at = |port| (Ipv6Addr::UNSPECIFIED, port);
            let listeners: Vec<_> =
                tcp.iter().map(|&port| TcpListener::bind(at(port))).collect::<Result<_, _>>()?;
            let sockets: Vec<_> =
                udp.iter().map(|&port| UdpSocket::bind(at(port))).collect::<Result<_, _>>()?;
            listeners.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
            sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
            Ok((listeners, sockets))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::Builder::new()
            .name(namespace.label().to_owned())
            .spawn(move || serve(&listeners, &sockets, &stopping))?;
        Ok(Servers { stop, thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listeners: &[TcpListener], sockets: &[UdpSocket], stop: &Arc<AtomicBool>) {
    let fds = listeners.iter().map(AsFd::as_fd).chain(sockets.iter().map(AsFd::as_fd));
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(STOP_CHECK).unwrap_or(PollTimeout::MAX);
    let mut datagram = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let _ = poll(&mut fds, timeout);
        for listener in listeners {
            while let Ok((stream, _)) = listener.accept() {
                let stop = stop.clone();
                // Where no thread can be had the client is cut off, and its row says so.
                let _ = std::thread::Builder::new().spawn(move || attend(stream, &stop));
            }
        }
        for socket in sockets {
            while let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(&datagram[..length], from);
            }
        }
    }
}

/// One client: "say TEXT" is answered with TEXT, "get N" with a file of N bytes. Ends with the client or the server.
fn attend(stream: TcpStream, stop: &AtomicBool) {
    let limits = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_nodelay(true))
        .and_then(|()| stream.set_read_timeout(Some(STOP_CHECK)))
        .and_then(|()| stream.set_write_timeout(Some(STOP_CHECK)));
    if limits.is_err() {
        return;
    }
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    while !stop.load(Ordering::Relaxed) {
        match reader.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_timeout(&error) => continue,
            Err(_) => return,
        }
        let sent = match line.trim_end().split_once(' ') {
            Some(("say", _)) => send(&stream, &line.as_bytes()[4..], stop),
            Some(("get", length)) => send_file(&stream, length.parse().unwrap_or(0), stop),
            _ => return,
        };
        if sent.is_err() {
            return;
        }
        line.clear();
    }
}

fn send_file(stream: &TcpStream, length: usize, stop: &AtomicBool) -> io::Result<()> {
    let mut piece = [0; PIECE];
    for start in (0..length).step_by(PIECE) {
        let piece = &mut piece[..PIECE.min(length - start)];
        piece.iter_mut().zip(start..).for_each(|(byte, at)| *byte = file_byte(at));
        send(stream, piece, stop)?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// The byte at this place of every file. 251 is prime, so that a lost or doubled piece shows.
pub fn file_byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// `write_all` that gives up when the server stops.
fn send(mut stream: &TcpStream, mut bytes: &[u8], stop: &AtomicBool) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if is_timeout(&error) && !stop.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
