//! Ordinary servers in a zone: TCP that echoes a line or sends a file for as long as it is wanted, UDP that echoes.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lab::Namespace;

/// How often a server looks whether it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// A file is sent in pieces of this many bytes …
const PIECE: usize = 16 * 1024;
/// … with this pause between them: 16 MB a second, which no machine is too slow for.
const PAUSE: Duration = Duration::from_millis(1);
/// No file is sent for longer than this, whatever its client wants.
const FILE_LASTS: Duration = Duration::from_secs(120);
/// What a client says who has enough of a file.
pub const ENOUGH: &str = "enough";

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

/// One client: "say TEXT" is answered with TEXT, "get" with a file that goes on until the client says "enough", which ends
/// the conversation. Ends with the client or the server.
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
            None if line.trim_end() == "get" => {
                let _ = send_file(&stream, &mut reader, stop);
                return;
            }
            _ => return,
        };
        if sent.is_err() {
            return;
        }
        line.clear();
    }
}

/// Sends a file until its reader has enough. A client that sees its end has all of it: TCP tells the end last.
fn send_file(stream: &TcpStream, reader: &mut BufReader<&TcpStream>, stop: &AtomicBool) -> io::Result<()> {
    let begun = Instant::now();
    let (mut piece, mut start) = ([0; PIECE], 0);
    while begun.elapsed() < FILE_LASTS && !has_enough(stream, reader)? {
        piece.iter_mut().zip(start..).for_each(|(byte, at)| *byte = file_byte(at));
        send(stream, &piece, stop)?;
        start += PIECE;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether the client has said so, without waiting for it.
fn has_enough(stream: &TcpStream, reader: &mut BufReader<&TcpStream>) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    if reader.buffer().is_empty() && poll(&mut fds, PollTimeout::ZERO)? == 0 {
        return Ok(false);
    }
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end() == ENOUGH),
    }
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
