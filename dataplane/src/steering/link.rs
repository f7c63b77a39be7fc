//! The attachment of a program to an interface, by netlink (IFLA_XDP): it belongs to the interface, not to a process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::Refusal;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel makes an skb of the frame.
    Driver,
    /// In the network stack, on an skb (also called SKB mode): works everywhere, slower.
    Generic,
}

impl AttachMode {
    /// From the kernel's uapi, linux/if_link.h: XDP_FLAGS_DRV_MODE and XDP_FLAGS_SKB_MODE.
    fn flags(self) -> u32 {
        match self {
            AttachMode::Driver => 1 << 2,
            AttachMode::Generic => 1 << 1,
        }
    }
}

/// linux/if_link.h: change only if the program of `LinkXdp::ExpectedFd` is the attached one. Linux 5.7.
const XDP_FLAGS_REPLACE: u32 = 1 << 4;
/// IFLA_XDP_FD of a request to detach.
const NO_PROGRAM: i32 = -1;
/// linux/netlink.h: the text in an extended acknowledgement.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// linux/netlink.h: sizeof(struct nlmsghdr). A capped acknowledgement quotes the request's header, then attributes.
const HEADER_BYTES: usize = 16;

/// The program attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub id: u32,
    pub mode: AttachMode,
}

/// A netlink socket. It speaks to the network namespace in which it was opened, whichever thread uses it later.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without these two (Linux 4.3 and 4.12) only the kernel's explanations would be missing.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        Ok(Netlink { socket, sequence: 0 })
    }

    /// The program now attached. A program offloaded to hardware is not looked at: it can stand beside ours.
    pub fn attached(&mut self, ifindex: u32) -> Result<Option<Attached>, Refusal> {
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        let answer = self.request(RouteNetlinkMessage::GetLink(link), NLM_F_REQUEST)?;
        let Some(RouteNetlinkMessage::NewLink(link)) = answer else {
            return Err(io::Error::other("the kernel answered something other than the interface").into());
        };
        let xdp = link.attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        });
        Ok(xdp.flatten().find_map(|xdp| match *xdp {
            LinkXdp::DrvProgId(id) => Some(Attached { id, mode: AttachMode::Driver }),
            LinkXdp::SkbProgId(id) => Some(Attached { id, mode: AttachMode::Generic }),
            _ => None,
        }))
    }

    /// Attaches the program, in place of the one attached in this mode, if any.
    pub fn attach(&mut self, ifindex: u32, program: BorrowedFd<'_>, mode: AttachMode) -> Result<(), Refusal> {
        self.set(ifindex, vec![LinkXdp::Fd(program.as_raw_fd()), LinkXdp::Flags(mode.flags())])
    }

    /// Detaches the program if it is still this one.
    pub fn detach(
        &mut self,
        ifindex: u32,
        expected: BorrowedFd<'_>,
        mode: AttachMode,
    ) -> Result<(), Refusal> {
        // The kernel reads the descriptor as a signed number; the library calls it unsigned. Descriptors are positive.
        let expected = expected.as_raw_fd().unsigned_abs();
        self.set(
            ifindex,
            vec![
                LinkXdp::Fd(NO_PROGRAM),
                LinkXdp::Flags(mode.flags() | XDP_FLAGS_REPLACE),
                LinkXdp::ExpectedFd(expected),
            ],
        )
    }

    fn set(&mut self, ifindex: u32, xdp: Vec<LinkXdp>) -> Result<(), Refusal> {
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        link.attributes = vec![LinkAttribute::Xdp(xdp)];
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Sends a request and waits for its answer: a message, or `None` for a plain acknowledgement.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
                .map_err(|error| io::Error::other(error.to_string()))?;
            // The answer to an earlier request, whose reading was interrupted.
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                NetlinkPayload::Error(error) if error.code.is_none() => Ok(None),
                NetlinkPayload::Error(error) => {
                    Err(Refusal { why: error.to_io(), told: explanation(&error.header) })
                }
                _ => Err(io::Error::other("the kernel answered with an unexpected kind of message").into()),
            };
        }
    }
}

/// The text in a negative acknowledgement, after the quoted header of the request.
fn explanation(acknowledgement: &[u8]) -> Option<String> {
    let attributes = NlasIterator::new(acknowledgement.get(HEADER_BYTES..)?);
    let text = attributes.filter_map(Result::ok).find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text.value());
    Some(text.trim_end_matches('\0').to_owned())
}
