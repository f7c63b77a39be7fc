//! What a packet path must ask of, or set on, a network device by ethtool ioctls.
//!
//! Everything acts in the calling thread's network namespace. Commands and structures are those of
//! `include/uapi/linux/ethtool.h`.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::{Error, Kind};
use crate::sys;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
/// ETH_FLAG_LRO, the one offload without a command of its own.
const ETH_FLAG_LRO: u32 = 1 << 15;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// The offloads with a get and a set command of their own.
const SIMPLE_OFFLOADS: [(&str, u32, u32); 5] = [
    ("receive checksum offload", 0x14, 0x15),
    ("transmit checksum offload", 0x16, 0x17),
    ("TCP segmentation offload", 0x1e, 0x1f),
    ("generic segmentation offload", 0x23, 0x24),
    ("generic receive offload", 0x2b, 0x2c),
];

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// An ethtool argument: plain integers that start with the command.
///
/// # Safety
/// `repr(C)`, as long as the kernel's structure for every command it is used with, and valid for any bytes.
unsafe trait Argument {}
// SAFETY: `struct ethtool_value` is two u32.
unsafe impl Argument for Value {}
// SAFETY: `struct ethtool_drvinfo` is 196 bytes: a u32, five strings of 32, 12 reserved bytes, five u32.
unsafe impl Argument for DriverInfo {}
// SAFETY: `struct ethtool_channels` is nine u32.
unsafe impl Argument for Channels {}
const _: () = assert!(size_of::<DriverInfo>() == 196);

/// Queues of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// RX queues in use.
    pub rx: u32,
    /// TX queues in use.
    pub tx: u32,
    /// RX queues the device can have.
    pub max_rx: u32,
    /// TX queues the device can have.
    pub max_tx: u32,
}

impl Queues {
    /// Queues on which a worker can both receive and send: 0 up to this number.
    pub fn usable(&self) -> u32 {
        self.rx.min(self.tx)
    }
}

/// A set of offloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// RX checksum verification.
    pub rx_checksum: bool,
    /// TX checksum insertion: left on, local packets on veth carry unfinished checksums.
    pub tx_checksum: bool,
    /// TCP segmentation by the device: left on, local TCP on veth comes as frames of up to 64 KiB.
    pub tso: bool,
    /// Segmentation by the kernel just before the device.
    pub gso: bool,
    /// Merging of received packets. On veth, GRO or an XDP program switches NAPI on, which delivery to an XDP program at the
    /// peer needs: turn it off only where neither end relies on it.
    pub gro: bool,
    /// Merging of received packets by the device.
    pub lro: bool,
    /// Removal of VLAN tags on reception: left on, an XDP program takes a tagged frame for an untagged one.
    pub rx_vlan: bool,
}

impl Offloads {
    /// Those that break packets on their way to an AF_XDP socket: TX checksum, TSO, GSO. RX offloads stay.
    pub fn sending() -> Offloads {
        Offloads { tx_checksum: true, tso: true, gso: true, ..Offloads::default() }
    }

    /// All of them.
    pub fn all() -> Offloads {
        Offloads {
            rx_checksum: true,
            tx_checksum: true,
            tso: true,
            gso: true,
            gro: true,
            lro: true,
            rx_vlan: true,
        }
    }
}

/// The interface's index.
pub fn index(interface: &str) -> Result<u32, Error> {
    sys::ifindex(interface).map_err(|errno| {
        Error::new(format!("index of {interface}"), errno)
            .meaning(Kind::NoSuchDevice, "no such interface in this network namespace: see `ip link`")
    })
}

/// The name of the driver, such as `veth` or `ixgbe`.
pub fn driver(interface: &str) -> Result<String, Error> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ask(interface, &mut info).map_err(|errno| Error::new(format!("driver of {interface}"), errno))?;
    let end = info.driver.iter().position(|&b| b == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

/// How many queues the device has. A driver that does not answer has one.
pub fn queues(interface: &str) -> Result<Queues, Error> {
    match channels(interface) {
        Ok(c) => Ok(Queues {
            rx: c.combined + c.rx,
            tx: c.combined + c.tx,
            max_rx: c.max_combined.max(c.max_rx),
            max_tx: c.max_combined.max(c.max_tx),
        }),
        Err(libc::EOPNOTSUPP) => Ok(Queues { rx: 1, tx: 1, max_rx: 1, max_tx: 1 }),
        Err(errno) => Err(Error::new(format!("queues of {interface}"), errno)),
    }
}

/// Sets the number of RX and TX queues, as combined channels where the driver has them.
pub fn set_queues(interface: &str, count: u32) -> Result<(), Error> {
    let asked = || format!("{count} queues on {interface}");
    let mut wanted = channels(interface).map_err(|errno| Error::new(asked(), errno))?;
    wanted.command = ETHTOOL_SCHANNELS;
    if wanted.max_combined > 0 {
        (wanted.combined, wanted.rx, wanted.tx) = (count, 0, 0);
    } else {
        (wanted.rx, wanted.tx) = (count, count);
    }
    ask(interface, &mut wanted).map_err(|errno| match errno {
        libc::EINVAL => Error::new(asked(), errno).meaning(
            Kind::Invalid,
            "the device has fewer queues, or sockets or programs use those to be removed",
        ),
        _ => Error::new(asked(), errno),
    })
}

/// Turns off the chosen offloads. What is off already, or unknown to the driver, is no error; what cannot be turned off is.
pub fn disable_offloads(interface: &str, which: Offloads) -> Result<(), Error> {
    let chosen = [which.rx_checksum, which.tx_checksum, which.tso, which.gso, which.gro];
    for ((what, query, set), _) in SIMPLE_OFFLOADS.into_iter().zip(chosen).filter(|(_, chosen)| *chosen) {
        let failed = |errno| Error::new(format!("turn off {what} of {interface}"), errno);
        let mut value = Value { command: query, data: 0 };
        match ask(interface, &mut value) {
            Ok(()) if value.data == 0 => continue,
            Ok(()) => {}
            Err(libc::EOPNOTSUPP) => continue,
            Err(errno) => return Err(failed(errno)),
        }
        ask(interface, &mut Value { command: set, data: 0 }).map_err(failed)?;
    }
    let flags = if which.lro { ETH_FLAG_LRO } else { 0 } | if which.rx_vlan { ETH_FLAG_RXVLAN } else { 0 };
    if flags != 0 {
        let failed =
            |errno| Error::new(format!("turn off large receive or VLAN offload of {interface}"), errno);
        let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
        match ask(interface, &mut value) {
            Ok(()) if value.data & flags != 0 => {
                value = Value { command: ETHTOOL_SFLAGS, data: value.data & !flags };
                ask(interface, &mut value).map_err(failed)?;
            }
            Ok(()) | Err(libc::EOPNOTSUPP) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// Turns merging of received packets on. A veth then runs NAPI also without an XDP program, and so takes frames that
/// an XDP program at its peer redirects to it.
pub fn enable_gro(interface: &str) -> Result<(), Error> {
    let (what, _, set) = SIMPLE_OFFLOADS[4];
    ask(interface, &mut Value { command: set, data: 1 })
        .map_err(|errno| Error::new(format!("turn on {what} of {interface}"), errno))
}

/// The offloads that are on.
pub fn offloads(interface: &str) -> Result<Offloads, Error> {
    let mut on = [false; SIMPLE_OFFLOADS.len()];
    for ((what, query, _), on) in SIMPLE_OFFLOADS.into_iter().zip(&mut on) {
        let mut value = Value { command: query, data: 0 };
        match ask(interface, &mut value) {
            Ok(()) => *on = value.data != 0,
            Err(libc::EOPNOTSUPP) => {}
            Err(errno) => return Err(Error::new(format!("{what} of {interface}"), errno)),
        }
    }
    let mut flags = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // A driver without flags has neither.
    let flags = ask(interface, &mut flags).map_or(0, |()| flags.data);
    let (lro, rx_vlan) = (flags & ETH_FLAG_LRO != 0, flags & ETH_FLAG_RXVLAN != 0);
    let [rx_checksum, tx_checksum, tso, gso, gro] = on;
    Ok(Offloads { rx_checksum, tx_checksum, tso, gso, gro, lro, rx_vlan })
}

fn channels(interface: &str) -> Result<Channels, i32> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    ask(interface, &mut channels)?;
    Ok(channels)
}

/// One ethtool ioctl.
fn ask<T: Argument>(interface: &str, argument: &mut T) -> Result<(), i32> {
    // Any socket names the namespace; this one is at hand in every kernel.
    let socket: OwnedFd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: ifreq is integers and a pointer, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.is_empty() || interface.len() >= request.ifr_name.len() || interface.contains('\0') {
        return Err(libc::ENODEV);
    }
    for (to, &from) in request.ifr_name.iter_mut().zip(interface.as_bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(argument).cast();
    // SAFETY: the request names a live argument that is as long as its command's structure (Argument).
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
    if rc < 0 { Err(sys::errno()) } else { Ok(()) }
}
