//! Packets out of capture files: pcap (micro- and nanoseconds, either byte order) and pcapng, of Ethernet.
//!
//! A file is read in pieces of bounded size and is not believed: what is broken ends the reading with the offset at
//! which it was found, and everything before it counts.

use std::fmt;
use std::io::Read;

use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, Linktype, OptionCode, PcapBlockOwned, PcapError, create_reader};

/// Bytes of the file in memory at first.
const BUFFER: usize = 256 << 10;
/// The largest block that is read, bytes. Packets have 64 KiB at most; what else may be that large is of no use here.
const BLOCK_MAX: usize = 16 << 20;
/// The most interfaces of one section.
const INTERFACES_MAX: usize = 4096;
/// The link type of Ethernet.
const ETHERNET: i32 = 1;
const SECOND_NS: u64 = 1_000_000_000;

/// One packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it was captured, nanoseconds since 1970.
    pub at_ns: u64,
    /// The name of the interface, where the capture tells.
    pub interface: Option<String>,
    /// Whether the capture says that it was sent there, not received.
    pub is_outbound: bool,
    /// What was kept of the frame.
    pub bytes: Vec<u8>,
    /// The frame's length on the wire, bytes; at least what was kept.
    pub length: usize,
}

/// Where and why a capture cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.problem)
    }
}

/// An interface of a pcapng section.
struct Interface {
    name: Option<String>,
    is_ethernet: bool,
    snaplen: u32,
    ticks_per_second: u64,
    offset_s: i64,
}

/// A capture that is being read.
pub struct Capture {
    reader: Box<dyn PcapReaderIterator + Send>,
    interfaces: Vec<Interface>,
    /// Nanoseconds of one unit of a pcap's fraction.
    fraction_ns: u64,
    /// Packets of interfaces that are not Ethernet.
    foreign: u64,
}

/// What a block was.
enum Taken {
    Packet(Packet),
    Nothing,
}

impl Capture {
    /// Begins to read.
    ///
    /// # Errors
    ///
    /// It is neither pcap nor pcapng.
    pub fn new(file: impl Read + Send + 'static) -> Result<Capture, Broken> {
        let reader = create_reader(BUFFER, file).map_err(|error| {
            let problem = match error {
                PcapError::ReadError => "it cannot be read",
                PcapError::Incomplete(_) | PcapError::Eof | PcapError::UnexpectedEof => {
                    "it ends before its header does"
                }
                _ => "neither pcap nor pcapng",
            };
            Broken { offset: 0, problem: problem.to_owned() }
        })?;
        Ok(Capture { reader, interfaces: Vec::new(), fraction_ns: 1000, foreign: 0 })
    }

    /// How many packets were left out because their interface is not Ethernet.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// The next packet; `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// Where the file is broken; nothing can be read any more then.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, Broken> {
        let mut capacity = BUFFER;
        loop {
            let offset = self.reader.consumed() as u64;
            let broken = |problem: &str| Err(Broken { offset, problem: problem.to_owned() });
            match self.reader.next() {
                Ok((size, block)) => {
                    let read =
                        read_block(block, &mut self.interfaces, &mut self.fraction_ns, &mut self.foreign);
                    let read = read.map_err(|problem| Broken { offset, problem })?;
                    self.reader.consume(size);
                    if let Taken::Packet(packet) = read {
                        return Ok(Some(packet));
                    }
                }
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) => {
                    if self.reader.refill().is_err() {
                        return broken("it cannot be read any further");
                    }
                }
                Err(PcapError::BufferTooSmall) => {
                    capacity *= 2;
                    if capacity > BLOCK_MAX || !self.reader.grow(capacity) {
                        return broken("a block larger than 16 MiB, or with a broken length");
                    }
                    if self.reader.refill().is_err() {
                        return broken("it cannot be read any further");
                    }
                }
                Err(PcapError::UnexpectedEof) => {
                    // What is left may be nothing but zeros' worth: then it simply ended.
                    return if self.reader.data().is_empty() {
                        Ok(None)
                    } else {
                        broken("the file ends in the middle of a block")
                    };
                }
                Err(PcapError::ReadError) => return broken("it cannot be read any further"),
                Err(_) => return broken("a block that is not what the format says"),
            }
        }
    }
}

fn read_block(
    block: PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
    fraction_ns: &mut u64,
    foreign: &mut u64,
) -> Result<Taken, String> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            *fraction_ns = if header.is_nanosecond_precision() { 1 } else { 1000 };
            // The upper half says how long frame check sequences are.
            let link = Linktype(header.network.0 & 0xffff);
            if link.0 != ETHERNET {
                return Err(format!(
                    "its packets are not Ethernet frames, but of link type {link}; {CAPTURE_HINT}"
                ));
            }
        }
        PcapBlockOwned::Legacy(packet) => {
            let at_ns = u64::from(packet.ts_sec) * SECOND_NS + u64::from(packet.ts_usec) * *fraction_ns;
            return Ok(Taken::Packet(Packet {
                at_ns,
                interface: None,
                is_outbound: false,
                bytes: packet.data.to_vec(),
                length: packet.data.len().max(packet.origlen as usize),
            }));
        }
        PcapBlockOwned::NG(block) => return read_ng(&block, interfaces, foreign),
    }
    Ok(Taken::Nothing)
}

/// A block of a pcapng.
fn read_ng(block: &Block<'_>, interfaces: &mut Vec<Interface>, foreign: &mut u64) -> Result<Taken, String> {
    match block {
        Block::SectionHeader(_) => interfaces.clear(),
        Block::InterfaceDescription(described) => {
            if interfaces.len() == INTERFACES_MAX {
                return Err(format!("more than {INTERFACES_MAX} interfaces"));
            }
            let ticks_per_second = ticks(described.if_tsresol).ok_or_else(|| {
                format!("a resolution of time that nobody has ({:#x})", described.if_tsresol)
            })?;
            // The parser takes it for little-endian whatever the section is.
            let is_swapped = described.block_type != pcap_parser::IDB_MAGIC;
            let offset_s = described.if_tsoffset;
            let name = described.if_name().and_then(Result::ok);
            interfaces.push(Interface {
                name: name.map(|name| name.trim_end_matches('\0').to_owned()),
                is_ethernet: described.linktype.0 == ETHERNET,
                snaplen: described.snaplen,
                ticks_per_second,
                offset_s: if is_swapped { offset_s.swap_bytes() } else { offset_s },
            });
        }
        Block::EnhancedPacket(packet) => {
            let interface = interfaces
                .get(packet.if_id as usize)
                .ok_or_else(|| format!("a packet of interface {}, which was not described", packet.if_id))?;
            if !interface.is_ethernet {
                *foreign += 1;
                return Ok(Taken::Nothing);
            }
            let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let kept = packet.data.get(..packet.caplen as usize).unwrap_or(packet.data);
            // Bits 0 and 1 of epb_flags: 1 inbound, 2 outbound. The low byte stands first or last.
            let flags = packet.options.iter().find(|option| option.code == OptionCode(2));
            let is_little = packet.block_type == pcap_parser::EPB_MAGIC;
            let low = flags.and_then(|f| f.value.get(if is_little { 0 } else { 3 })).copied();
            return Ok(Taken::Packet(Packet {
                at_ns: time_ns(ticks, interface),
                interface: interface.name.clone(),
                is_outbound: low.is_some_and(|low| low & 3 == 2),
                bytes: kept.to_vec(),
                length: kept.len().max(packet.origlen as usize),
            }));
        }
        Block::SimplePacket(packet) => {
            let interface = interfaces.first().ok_or("a packet before any interface was described")?;
            if !interface.is_ethernet {
                *foreign += 1;
                return Ok(Taken::Nothing);
            }
            let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
            let kept = packet.data.get(..packet.origlen.min(limit) as usize).unwrap_or(packet.data);
            return Ok(Taken::Packet(Packet {
                at_ns: 0,
                interface: interface.name.clone(),
                is_outbound: false,
                bytes: kept.to_vec(),
                length: kept.len().max(packet.origlen as usize),
            }));
        }
        _ => {}
    }
    Ok(Taken::Nothing)
}

/// What helps against a capture that is not of Ethernet.
const CAPTURE_HINT: &str = "capture on an interface of the gateway (`tcpdump -i eth1 -w FILE`), not on `any`";

/// Units per second of `if_tsresol`: a power of ten, or with the highest bit of two.
fn ticks(resolution: u8) -> Option<u64> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10u64.checked_pow(exponent) } else { 1u64.checked_shl(exponent) }
}

fn time_ns(ticks: u64, interface: &Interface) -> u64 {
    let of = u128::from(ticks) * u128::from(SECOND_NS) / u128::from(interface.ticks_per_second);
    let offset = i128::from(interface.offset_s) * i128::from(SECOND_NS);
    let sum = i128::try_from(of).unwrap_or(i128::MAX).saturating_add(offset);
    u64::try_from(sum.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Cursor;

    /// How numbers are written.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) enum Order {
        Little,
        Big,
    }

    impl Order {
        pub fn u16(self, n: u16) -> [u8; 2] {
            if self == Order::Little { n.to_le_bytes() } else { n.to_be_bytes() }
        }
        pub fn u32(self, n: u32) -> [u8; 4] {
            if self == Order::Little { n.to_le_bytes() } else { n.to_be_bytes() }
        }
        pub fn u64(self, n: u64) -> [u8; 8] {
            if self == Order::Little { n.to_le_bytes() } else { n.to_be_bytes() }
        }
    }

    /// A pcap of packets (nanoseconds, kept bytes, length).
    pub(crate) fn pcap(order: Order, nanoseconds: bool, link: u32, packets: &[(u64, &[u8], u32)]) -> Vec<u8> {
        let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let mut file = order.u32(magic).to_vec();
        file.extend(order.u16(2));
        file.extend(order.u16(4));
        for word in [0, 0, 65_535, link] {
            file.extend(order.u32(word));
        }
        for (at_ns, bytes, length) in packets {
            let fraction = at_ns % SECOND_NS / if nanoseconds { 1 } else { 1000 };
            for word in [(at_ns / SECOND_NS) as u32, fraction as u32, bytes.len() as u32, *length] {
                file.extend(order.u32(word));
            }
            file.extend(*bytes);
        }
        file
    }

    fn padded(bytes: &[u8]) -> Vec<u8> {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4), 0);
        padded
    }

    pub(crate) fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
        let length = order.u32(body.len() as u32 + 12);
        [&order.u32(kind)[..], &length, body, &length].concat()
    }

    pub(crate) fn option(order: Order, code: u16, value: &[u8]) -> Vec<u8> {
        [&order.u16(code)[..], &order.u16(value.len() as u16), &padded(value)].concat()
    }

    pub(crate) fn section(order: Order) -> Vec<u8> {
        let body = [&order.u32(0x1a2b_3c4d)[..], &order.u16(1), &order.u16(0), &order.u64(u64::MAX)].concat();
        block(order, 0x0a0d_0d0a, &body)
    }

    pub(crate) fn interface(order: Order, link: u16, name: &str, options: &[u8]) -> Vec<u8> {
        let fixed = [&order.u16(link)[..], &order.u16(0), &order.u32(0)].concat();
        let end = [0; 4];
        block(order, 1, &[&fixed[..], &option(order, 2, name.as_bytes()), options, &end].concat())
    }

    pub(crate) fn enhanced(
        order: Order,
        interface: u32,
        ticks: u64,
        bytes: &[u8],
        options: &[u8],
    ) -> Vec<u8> {
        let mut body = Vec::new();
        for word in [interface, (ticks >> 32) as u32, ticks as u32, bytes.len() as u32, bytes.len() as u32] {
            body.extend(order.u32(word));
        }
        body.extend(padded(bytes));
        body.extend(options);
        block(order, 6, &body)
    }

    pub(crate) fn all(file: Vec<u8>) -> (Vec<Packet>, Option<Broken>) {
        let mut packets = Vec::new();
        let mut capture = match Capture::new(Cursor::new(file)) {
            Ok(capture) => capture,
            Err(broken) => return (packets, Some(broken)),
        };
        loop {
            match capture.next_packet() {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => return (packets, None),
                Err(broken) => return (packets, Some(broken)),
            }
        }
    }

    const AT: u64 = 1_700_000_000_123_456_000;

    #[test]
    fn a_pcap_is_read_in_either_order_and_resolution() {
        for order in [Order::Little, Order::Big] {
            for nanoseconds in [false, true] {
                let file = pcap(order, nanoseconds, 1, &[(AT, b"first", 5), (AT + 7000, b"cut", 99)]);
                let (packets, broken) = all(file);
                assert_eq!(broken, None);
                let told: Vec<_> = packets.iter().map(|p| (p.at_ns, &p.bytes[..], p.length)).collect();
                assert_eq!(
                    told,
                    [(AT, &b"first"[..], 5), (AT + 7000, b"cut", 99)],
                    "{order:?} {nanoseconds}"
                );
            }
        }
    }

    #[test]
    fn a_pcapng_names_interfaces_directions_and_its_own_resolution() {
        for order in [Order::Little, Order::Big] {
            let nanoseconds = option(order, 9, &[9]);
            let binary = [option(order, 9, &[0x80 | 10]), option(order, 14, &order.u64(1000))].concat();
            let file = [
                section(order),
                interface(order, 1, "eth1", &nanoseconds),
                interface(order, 1, "eth2", &binary),
                interface(order, 113, "any", &[]),
                enhanced(order, 0, AT, b"one", &[]),
                enhanced(order, 1, 512, b"three", &option(order, 2, &order.u32(2))),
                enhanced(order, 2, 512, b"cooked", &[]),
                enhanced(order, 0, AT + 1, b"in", &option(order, 2, &order.u32(1))),
            ];
            let (packets, broken) = all(file.concat());
            assert_eq!(broken, None);
            let told: Vec<_> = packets
                .iter()
                .map(|p| (p.at_ns, p.interface.as_deref().unwrap(), p.is_outbound, &p.bytes[..]))
                .collect();
            let half = 1000 * SECOND_NS + SECOND_NS / 2;
            let expected = [
                (AT, "eth1", false, &b"one"[..]),
                (half, "eth2", true, b"three"),
                (AT + 1, "eth1", false, b"in"),
            ];
            assert_eq!(told, expected, "{order:?}");
        }
    }

    #[test]
    fn a_capture_that_is_cut_anywhere_tells_where_and_keeps_what_came_before() {
        let order = Order::Little;
        let whole_pcap = pcap(order, false, 1, &[(AT, &[7; 60], 60), (AT, &[8; 61], 61)]);
        let whole_ng = [
            section(order),
            interface(order, 1, "eth1", &[]),
            enhanced(order, 0, AT / 1000, &[7; 60], &[]),
            enhanced(order, 0, AT / 1000, &[8; 61], &[]),
        ]
        .concat();
        for whole in [whole_pcap, whole_ng] {
            let (all_packets, _) = all(whole.clone());
            assert_eq!(all_packets.len(), 2);
            let mut counts = [0; 3];
            for cut in 0..whole.len() {
                let (packets, broken) = all(whole[..cut].to_vec());
                assert_eq!(packets[..], all_packets[..packets.len()]);
                counts[packets.len()] += 1;
                if let Some(broken) = broken {
                    assert!(broken.offset <= cut as u64, "{broken} of {cut}");
                }
            }
            assert!(counts[0] > 0 && counts[1] > 60 && counts[2] == 0, "{counts:?}");
        }
    }

    #[test]
    fn what_is_no_capture_of_ethernet_says_so() {
        let (_, broken) = all(b"{\"kind\":\"opened\"}\n".to_vec());
        assert_eq!(broken.unwrap().to_string(), "at byte 0: neither pcap nor pcapng");
        let (_, broken) = all(pcap(Order::Little, false, 276, &[(AT, b"x", 1)]));
        let problem = broken.unwrap().problem;
        assert!(problem.contains("not Ethernet") && problem.contains("not on `any`"), "{problem}");
        let undescribed = [section(Order::Big), enhanced(Order::Big, 3, 0, b"x", &[])].concat();
        let (_, broken) = all(undescribed);
        let broken = broken.unwrap();
        assert!(broken.offset == 28 && broken.problem.contains("interface 3"), "{broken}");
    }

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        let mut file = pcap(Order::Little, false, 1, &[(AT, &[7; 60], 60)]);
        let lie = file.len();
        file.extend([0; 8]);
        file.extend(u32::MAX.to_le_bytes());
        file.extend(u32::MAX.to_le_bytes());
        file.extend([0; 100]);
        let (packets, broken) = all(file);
        assert_eq!((packets.len(), broken.unwrap().offset), (1, lie as u64));
    }

    proptest::proptest! {
        #[test]
        fn damaged_captures_never_panic(
            which: bool, place in 0usize..400, value: u8, tail in proptest::collection::vec(0u8.., 0..80),
        ) {
            let mut file = if which {
                pcap(Order::Big, true, 1, &[(AT, &[1; 70], 70), (AT, &[2; 80], 80)])
            } else {
                let order = Order::Little;
                let named = interface(order, 1, "eth1", &option(order, 9, &[9]));
                [section(order), named, enhanced(order, 0, AT, &[1; 70], &option(order, 2, &[1, 0, 0, 0]))].concat()
            };
            let place = place % file.len();
            file[place] = value;
            file.extend(tail);
            all(file);
        }
    }
}
