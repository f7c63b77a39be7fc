//! Confines itself as the portal does, then tries what a portal that was taken over would try, and prints what came of
//! it: one line for each, a name and `ok` or the kernel's refusal.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode};

use bulkhead::portal::sandbox;
use rustix::net::{AddressFamily, SendFlags, SocketType};

const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("it listens");
    let here = listener.local_addr().expect("it has an address");
    // A connection that waits to be accepted.
    let client = TcpStream::connect(here).expect("it connects");
    let idle =
        rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket of before");
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket of before");
    if let Err(error) = sandbox::confine(NOBODY, NOBODY) {
        println!("confine {error:#}");
        return ExitCode::FAILURE;
    }
    allowed(&listener, &client);
    files();
    sockets(&idle, &datagrams, here);
    processes();
    ExitCode::SUCCESS
}

fn tell<T, E: Into<io::Error>>(name: &str, result: Result<T, E>) {
    match result.map_err(Into::into) {
        Ok(_) => println!("{name} ok"),
        Err(error) => println!("{name} {:?}", error.kind()),
    }
}

/// What it goes on needing.
fn allowed(listener: &TcpListener, client: &TcpStream) {
    use std::io::{Read, Write};
    let mut byte = [0];
    let mut talk = || {
        let (mut accepted, _) = listener.accept()?;
        accepted.write_all(b"x")?;
        let mut client = client;
        client.read_exact(&mut byte)?;
        accepted.set_nonblocking(true)?;
        accepted.set_nodelay(true)?;
        accepted.peer_addr()
    };
    tell("may-accept-and-talk", talk());
    tell("may-allocate", io::Result::Ok(vec![1_u8; 64 << 20].len()));
}

fn files() {
    tell("open-passwd", fs::File::open("/etc/passwd"));
    tell("open-itself", fs::File::open("/proc/self/exe"));
    tell("open-memory", fs::File::open("/proc/self/mem"));
    tell("list-root", fs::read_dir("/"));
    tell("write", fs::write("/tmp/bulkhead-probe", b"x"));
    tell("remove", fs::remove_file("/tmp/bulkhead-probe"));
    tell("look", fs::metadata("/etc/passwd"));
    tell("change-directory", std::env::set_current_dir("/"));
}

fn sockets(idle: &impl std::os::fd::AsFd, datagrams: &UdpSocket, here: SocketAddr) {
    use rustix::net::{bind, connect, listen, sendto, socket, socketpair, sockopt};
    for (name, family, kind) in [
        ("socket-tcp", AddressFamily::INET, SocketType::STREAM),
        ("socket-tcp6", AddressFamily::INET6, SocketType::STREAM),
        ("socket-udp", AddressFamily::INET, SocketType::DGRAM),
        ("socket-unix", AddressFamily::UNIX, SocketType::STREAM),
        ("socket-netlink", AddressFamily::NETLINK, SocketType::RAW),
        ("socket-packet", AddressFamily::PACKET, SocketType::RAW),
        ("socket-xdp", AddressFamily::from_raw(44), SocketType::RAW),
    ] {
        tell(name, socket(family, kind, None));
    }
    let flags = rustix::net::SocketFlags::empty();
    tell("socketpair", socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None));
    tell("connect", connect(idle, &here));
    tell("bind", bind(idle, &here));
    tell("listen", listen(idle, 1));
    tell("fast-open", sendto(idle, b"x", SendFlags::from_bits_retain(0x2000_0000), &here));
    tell("send-elsewhere", datagrams.send_to(b"x", here));
    tell("option", sockopt::set_socket_reuseaddr(idle, true));
}

fn processes() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresuid};
    tell("execute", Command::new("/bin/true").status());
    tell("thread", std::thread::Builder::new().spawn(|| ()));
    tell("signal-the-gateway", kill(getppid(), None::<Signal>));
    tell("signal-everybody", kill(Pid::from_raw(-1), None::<Signal>));
    let root = Uid::from_raw(0);
    tell("become-root", setresuid(root, root, root));
    tell("join-groups", setgroups(&[Gid::from_raw(0)]));
    tell("new-namespace", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER));
    let mut byte = [0];
    let remote = nix::sys::uio::RemoteIoVec { base: 0x1000, len: 1 };
    let local = &mut [io::IoSliceMut::new(&mut byte)];
    tell("read-the-gateways-memory", nix::sys::uio::process_vm_readv(getppid(), local, &[remote]));
    tell("raise-a-limit", {
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NOFILE, 1 << 20, 1 << 20)
    });
    tell("be-seen", nix::sys::prctl::set_dumpable(true));
}
