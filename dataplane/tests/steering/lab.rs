//! A network namespace with one veth pair: the gateway's port `port`, and `wire`, at which the test plays everybody
//! else. Only frames that the test sends arrive at the port: `wire` has no addresses, and the kernel says nothing on
//! its own there. The namespace is a thread's, so it is gone with the test, also after a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};

use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily as Family, MsgFlags, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{bind, recv, send, socket};

use super::frames::Ends;

/// The gateway's port and its one neighbour, as frames name them.
pub const ENDS: Ends = Ends {
    source_mac: [2, 0, 0, 0, 0, 9],
    mac: [2, 0, 0, 0, 0, 1],
    source_v4: Ipv4Addr::new(10, 1, 0, 9),
    v4: Ipv4Addr::new(10, 1, 0, 1),
    source_v6: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 9),
    v6: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1),
};

/// linux/if_link.h.
pub const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
pub const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// How long a frame that must come may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the test in a namespace of its own, or says visibly that it does not.
pub fn in_namespace(test: impl FnOnce(Lab) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces and XDP take root");
        return;
    }
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test(Lab::new());
    };
    if let Err(payload) = thread::spawn(inside).join() {
        panic::resume_unwind(payload);
    }
}

pub struct Lab {
    /// Index of the gateway's port.
    pub ifindex: u32,
    wire: OwnedFd,
}

impl Lab {
    fn new() -> Lab {
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let end = |name: &str, mac: [u8; 6]| {
            let mut link = LinkMessage::default();
            link.attributes =
                vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(mac.to_vec())];
            link
        };
        let mut link = end("port", ENDS.mac);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end("wire", ENDS.source_mac)))),
        ]));
        request(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL);
        for name in ["port", "wire"] {
            change_link(name, |link| {
                link.header.flags = LinkFlags::Up;
                link.header.change_mask = LinkFlags::Up;
            });
        }
        fs::write("/proc/sys/net/ipv6/conf/port/disable_ipv6", "0").unwrap();
        add_address(ENDS.v4.into(), 24);
        add_address(ENDS.v6.into(), 64);
        Lab { ifindex: if_nametoindex("port").unwrap(), wire: packet_socket("wire") }
    }

    /// Sends a frame to the port.
    pub fn send(&self, frame: &[u8]) {
        send(self.wire.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }

    /// Waits for a frame from the port's kernel.
    pub fn expect(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.receive() {
                Some(frame) if wanted(&frame) => return,
                Some(_) => {}
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("no {what} came");
    }

    /// Whether such a frame is among those that came from the port until now.
    pub fn came(&self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        std::iter::from_fn(|| self.receive()).any(|frame| wanted(&frame))
    }

    /// The next frame that either end of the pair handed over; `None` when there is none now.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2048];
        let bytes = recv(self.wire.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT).ok()?;
        frame.truncate(bytes);
        Some(frame)
    }

    /// A socket of the gateway's own kernel, at all addresses of the family.
    pub fn listen(&self, any: IpAddr, port: u16) -> Listener {
        let socket = UdpSocket::bind(SocketAddr::new(any, port)).unwrap();
        Listener(socket)
    }

    pub fn set_mtu(&self, mtu: u32) {
        for name in ["port", "wire"] {
            change_link(name, |link| link.attributes.push(LinkAttribute::Mtu(mtu)));
        }
    }

    pub fn delete(&self) {
        let mut link = LinkMessage::default();
        link.header.index = self.ifindex;
        request(RouteNetlinkMessage::DelLink(link), 0);
    }

    /// Attaches somebody's program by netlink, or with `None` detaches whatever is there.
    pub fn set_program(&self, program: Option<&ProgramFd>, mode: u32) {
        let fd = program.map_or(-1, |program| program.as_fd().as_raw_fd());
        change_link("port", |link| {
            link.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(fd), LinkXdp::Flags(mode)]));
        });
    }
}

pub struct Listener(UdpSocket);

impl Listener {
    /// Datagrams that have arrived until now.
    pub fn datagrams(&self) -> usize {
        self.0.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        std::iter::from_fn(|| self.0.recv(&mut buffer).ok()).count()
    }

    /// Waits for one datagram. What was sent earlier has arrived, or never will: a veth of one queue keeps the order.
    pub fn expect(&self) {
        self.0.set_nonblocking(false).unwrap();
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        self.0.recv(&mut [0; 64]).expect("a datagram that should pass");
    }
}

/// A program that is not ours: the same object under another name.
pub fn somebody_elses() -> Ebpf {
    let mut object = include_bytes!("../../bpf/steering.o").to_vec();
    let (ours, theirs) = (b"bulkhead_steer", b"somebody_elses");
    let at = object.windows(ours.len()).position(|window| window == ours).unwrap();
    object[at..at + ours.len()].copy_from_slice(theirs);
    let mut ebpf = EbpfLoader::new().btf(None).load(&object).unwrap();
    somebody_elses_program(&mut ebpf).load().unwrap();
    ebpf
}

pub fn somebody_elses_program(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut("somebody_elses").unwrap().try_into().unwrap()
}

fn add_address(address: IpAddr, prefix_len: u8) {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix_len;
    message.header.index = if_nametoindex("port").unwrap();
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL);
}

fn change_link(name: &str, change: impl FnOnce(&mut LinkMessage)) {
    let mut link = LinkMessage::default();
    link.header.index = if_nametoindex(name).unwrap();
    change(&mut link);
    request(RouteNetlinkMessage::SetLink(link), 0);
}

/// One netlink request of this thread's namespace, which must succeed.
fn request(message: RouteNetlinkMessage, flags: u16) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.send(&bytes, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).unwrap().payload {
        NetlinkPayload::Error(error) if error.code.is_none() => {}
        answer => panic!("{message:?} was answered with {answer:?}"),
    }
}

/// A packet socket at an interface. The interface's address for `bind` is had without unsafe code from getifaddrs.
fn packet_socket(name: &str) -> OwnedFd {
    let socket = socket(Family::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    let address = getifaddrs()
        .unwrap()
        .filter(|interface| interface.interface_name == name)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .unwrap();
    bind(socket.as_raw_fd(), &address).unwrap();
    socket
}
