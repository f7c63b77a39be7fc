//! Real packets over veth in namespaces of the tests' own.

mod common;

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use afxdp::device::{self, Offloads};
use afxdp::redirect::{Otherwise, Redirect};
use afxdp::{Frame, Kind, Mode, Socket, SocketConfig, Umem, UmemConfig, ZeroCopy};
use common::{Wire, delete, in_namespace, number, packet, veth};

const ENTRIES: u32 = 512;

fn memory() -> Umem {
    Umem::new(&UmemConfig { frames: 4096, ..UmemConfig::default() }).expect("packet memory")
}

fn config(interface: &str) -> SocketConfig {
    SocketConfig { rx_entries: ENTRIES, tx_entries: ENTRIES, ..SocketConfig::new(interface, 0) }
}

fn open<'u>(umem: &'u Umem, interface: &str) -> Socket<'u> {
    Socket::open(umem, &config(interface)).unwrap_or_else(|error| panic!("{error}"))
}

/// Receives until `count` packets are there or five seconds have passed.
fn collect<'u>(socket: &mut Socket<'u>, count: usize) -> Vec<Frame<'u>> {
    let mut frames = Vec::new();
    until(|| {
        socket.receive(&mut frames, 64);
        frames.len() >= count
    });
    frames
}

/// Tries again until it is so; false after five seconds.
fn until(mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        if so() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn numbered(umem: &Umem, number: u32) -> Frame<'_> {
    let bytes = packet(number);
    let mut frame = umem.allocate().expect("a free frame");
    assert!(frame.set_len(bytes.len()));
    frame.copy_from_slice(&bytes);
    frame
}

/// Flushes until nothing is pending.
fn drain(socket: &mut Socket<'_>) {
    assert!(
        until(|| {
            socket.flush().expect("the device is there");
            socket.pending() == 0
        }),
        "{} packets stay queued",
        socket.pending()
    );
}

#[test]
fn packets_from_the_wire_arrive_byte_for_byte_and_in_order() {
    in_namespace("reception", || {
        veth("w0", "x0");
        let umem = memory();
        let mut socket = open(&umem, "x0");
        assert_eq!(socket.mode(), Mode::Copy, "veth has no zero-copy");
        let redirect = Redirect::attach("x0", Otherwise::Drop).expect("attach");
        redirect.add(&socket).expect("enter the socket");
        let wire = Wire::open("w0");
        let mut next = 0;
        // More than the rings hold, so that every slot and frame is used again.
        for _ in 0..20 {
            for i in next..next + 100 {
                wire.send(&packet(i));
            }
            for frame in collect(&mut socket, 100) {
                assert_eq!(&*frame, packet(next));
                next += 1;
            }
        }
        assert_eq!(next, 2000);
        let statistics = socket.statistics().expect("statistics");
        assert_eq!((statistics.rx_dropped, statistics.rx_ring_full, statistics.bad_descriptors), (0, 0, 0));
        assert_eq!(umem.free_frames(), 4096 - ENTRIES, "all but the fill ring is in the pool");
        drop(socket);
        assert_eq!((umem.free_frames(), umem.lost_frames()), (4096, 0));
    });
}

#[test]
fn the_tail_of_a_long_burst_is_delivered() {
    in_namespace("tail of a burst", || {
        veth("w0", "x0");
        let wire = Wire::open("w0");
        // The kernel's own budget of 32 descriptors a call, the smallest one, and the default.
        for tx_budget in [None, Some(1), SocketConfig::new("x0", 0).tx_budget] {
            let umem = memory();
            let config = SocketConfig { tx_entries: 2048, tx_budget, ..config("x0") };
            let mut socket = Socket::open(&umem, &config).expect("open");
            for count in [1, 33, 65, 1025, 2000] {
                for i in 0..count {
                    socket.send(numbered(&umem, i)).expect("room in the TX ring");
                }
                drain(&mut socket);
                assert_eq!(wire.numbers(), (0..count).collect::<Vec<_>>(), "budget {tx_budget:?}");
            }
            assert!(until(|| {
                socket.reap();
                umem.free_frames() == 4096 - ENTRIES
            }));
        }
    });
}

#[test]
fn one_flush_takes_a_thousand_packets_past_the_kernels_budget() {
    in_namespace("one flush", || {
        veth("w0", "x0");
        let wire = Wire::open("w0");
        let umem = memory();
        let config = SocketConfig { tx_entries: 2048, tx_budget: None, ..config("x0") };
        let mut socket = Socket::open(&umem, &config).expect("open");
        for i in 0..1000 {
            socket.send(numbered(&umem, i)).expect("room");
        }
        assert_eq!(socket.pending(), 1000);
        socket.flush().expect("flush");
        assert_eq!((socket.pending(), wire.numbers().len()), (0, 1000));
    });
}

#[test]
fn a_frame_received_on_one_device_is_sent_on_another_without_a_copy() {
    in_namespace("forwarding", || {
        veth("w0", "x0");
        veth("w1", "x1");
        let umem = memory();
        let (mut a, mut b) = (open(&umem, "x0"), open(&umem, "x1"));
        let redirect = Redirect::attach("x0", Otherwise::Drop).expect("attach");
        redirect.add(&a).expect("enter the socket");
        assert_eq!(redirect.add(&b).expect_err("another device").kind(), Kind::Invalid);
        let (source, sink) = (Wire::open("w0"), Wire::open("w1"));
        for round in 0..10 {
            for i in 0..200 {
                source.send(&packet(round * 200 + i));
            }
            for mut frame in collect(&mut a, 200) {
                let n = number(&frame) + 1_000_000;
                frame[14..18].copy_from_slice(&n.to_be_bytes());
                b.send(frame).expect("room");
            }
            drain(&mut b);
        }
        assert_eq!(sink.numbers(), (1_000_000..1_002_000).collect::<Vec<_>>());
        assert!(
            until(|| {
                b.reap();
                umem.free_frames() == 4096 - 2 * ENTRIES
            }),
            "the pool has {} frames",
            umem.free_frames()
        );
        drop((a, b));
        assert_eq!((umem.free_frames(), umem.lost_frames()), (4096, 0));
    });
}

#[test]
fn a_full_tx_ring_and_a_foreign_frame_are_refused_and_given_back() {
    in_namespace("refusal", || {
        veth("w0", "x0");
        let (umem, other) = (memory(), memory());
        let mut socket = open(&umem, "x0");
        let foreign = socket.send(numbered(&other, 7)).expect_err("a frame of another memory");
        assert_eq!(number(&foreign), 7);
        drop(foreign);
        assert_eq!(other.free_frames(), 4096);
        assert!(socket.send(umem.allocate().expect("a frame")).is_err(), "an empty packet");
        for i in 0..ENTRIES {
            socket.send(numbered(&umem, i)).expect("room");
        }
        assert_eq!(number(&socket.send(numbered(&umem, 9)).expect_err("full")), 9);
        // Nothing was flushed: closing recovers what the kernel never saw.
        drop(socket);
        assert_eq!((umem.free_frames(), umem.lost_frames()), (4096, 0));
    });
}

#[test]
fn a_taken_queue_an_unknown_interface_and_an_unknown_queue_are_explained() {
    in_namespace("errors", || {
        veth("w0", "x0");
        let (umem, other) = (memory(), memory());
        let socket = open(&umem, "x0");
        for memory in [&umem, &other] {
            let error = Socket::open(memory, &config("x0")).err().expect("taken");
            assert_eq!((error.kind(), error.errno()), (Kind::Taken, libc::EBUSY), "{error}");
            assert!(error.to_string().contains("x0 queue 0"), "{error}");
        }
        let error = Socket::open(&umem, &config("nowhere")).err().expect("no such interface");
        assert_eq!(error.kind(), Kind::NoSuchDevice);
        assert!(error.to_string().contains("nowhere"), "{error}");
        let error =
            Socket::open(&umem, &SocketConfig { queue: 99, ..config("w0") }).err().expect("no such queue");
        assert_eq!(error.kind(), Kind::NoSuchDevice, "{error}");
        let error = Socket::open(&umem, &SocketConfig { zero_copy: ZeroCopy::Require, ..config("w0") });
        let error = error.err().expect("veth has no zero-copy");
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        let error =
            Socket::open(&umem, &SocketConfig { rx_entries: 500, ..config("w0") }).err().expect("not 2^n");
        assert_eq!(error.kind(), Kind::Invalid);
        let _held = Redirect::attach("x0", Otherwise::Pass).expect("attach");
        let error = Redirect::attach("x0", Otherwise::Pass).expect_err("taken");
        assert_eq!(error.kind(), Kind::Taken, "{error}");
        drop(socket);
        drop(open(&other, "x0"));
        assert_eq!(umem.free_frames(), 4096, "failed openings lose nothing");
    });
}

#[test]
fn a_device_that_vanishes_is_an_error_and_its_memory_serves_on() {
    in_namespace("vanishing device", || {
        veth("w0", "x0");
        veth("w1", "x1");
        let umem = memory();
        let (mut gone, mut stays) = (open(&umem, "x0"), open(&umem, "x1"));
        gone.check().expect("still there");
        gone.send(numbered(&umem, 1)).expect("room");
        delete("x0");
        assert!(until(|| gone.check().is_err()));
        for error in [gone.check(), gone.kick_rx(), gone.flush()].map(|r| r.expect_err("the device is gone"))
        {
            assert!(error.is_gone(), "{error}");
        }
        assert_eq!(gone.receive(&mut Vec::new(), 64), 0);
        drop(gone);
        assert_eq!((umem.free_frames(), umem.lost_frames()), (4096 - ENTRIES, 0));
        // The first socket had registered the memory; the second and a new one work without it.
        veth("w0", "x0");
        let mut again = open(&umem, "x0");
        for (socket, wire) in [(&mut stays, Wire::open("w1")), (&mut again, Wire::open("w0"))] {
            socket.send(numbered(&umem, 5)).expect("room");
            drain(socket);
            assert_eq!(wire.numbers(), [5]);
        }
    });
}

#[test]
fn busy_polling_and_budgets_are_set_or_reported() {
    in_namespace("options", || {
        veth("w0", "x0");
        let umem = memory();
        let config = SocketConfig { busy_poll: Some(afxdp::BusyPoll::default()), ..config("x0") };
        let mut socket = Socket::open(&umem, &config).expect("open");
        let redirect = Redirect::attach("x0", Otherwise::Drop).expect("attach");
        redirect.add(&socket).expect("enter the socket");
        assert!(!open(&umem, "w0").busy_polls(), "not asked for");
        for refusal in socket.refused() {
            assert!(refusal.asked().contains("x0 queue 0") && refusal.errno() != 0, "{refusal}");
        }
        assert!(socket.as_fd().try_clone_to_owned().is_ok());
        let wire = Wire::open("w0");
        for i in 0..100 {
            wire.send(&packet(i));
        }
        let mut frames = Vec::new();
        assert!(until(|| {
            socket.kick_rx().expect("kick");
            socket.receive(&mut frames, 64);
            frames.len() == 100
        }));
    });
}

#[test]
fn a_device_tells_its_driver_and_queues_and_turns_offloads_off() {
    in_namespace("device", || {
        veth("w0", "x0");
        assert_eq!(device::driver("x0").expect("driver"), "veth");
        let queues = device::queues("x0").expect("queues");
        assert!(queues.usable() >= 1 && queues.max_rx >= queues.rx, "{queues:?}");
        let before = device::offloads("x0").expect("offloads");
        assert!(before.tx_checksum && before.tso, "{before:?}");
        device::disable_offloads("x0", Offloads::sending()).expect("off");
        let after = device::offloads("x0").expect("offloads");
        assert!(!after.tx_checksum && !after.tso && !after.gso, "{after:?}");
        assert_eq!((after.rx_checksum, after.gro), (before.rx_checksum, before.gro), "only the chosen ones");
        device::disable_offloads("x0", Offloads::sending()).expect("off already");
        assert!(after.rx_vlan, "only what was chosen is turned off");
        device::disable_offloads("x0", Offloads { rx_vlan: true, ..Offloads::default() }).expect("off");
        assert!(!device::offloads("x0").expect("offloads").rx_vlan);
        assert_eq!(
            device::disable_offloads("nowhere", Offloads::all()).expect_err("unknown").kind(),
            Kind::NoSuchDevice
        );
        device::set_queues("x0", queues.rx).expect("the present number");
        assert!(device::set_queues("x0", 100_000).is_err());
    });
}

#[test]
fn two_queues_of_one_device_share_the_memory() {
    in_namespace("two queues", || {
        veth("w0", "x0");
        if device::queues("x0").expect("queues").max_tx < 2 {
            // A veth device has as many queues as the machine has CPUs.
            let _ = writeln!(std::io::stderr(), "SKIP two queues: this machine has one CPU");
            return;
        }
        device::set_queues("x0", 2).expect("two queues");
        assert_eq!(device::queues("x0").expect("queues").usable(), 2);
        let umem = memory();
        let wire = Wire::open("w0");
        let queue = |queue| Socket::open(&umem, &SocketConfig { queue, ..config("x0") });
        let mut sockets = [queue(0).expect("queue 0"), queue(1).expect("queue 1")];
        assert_eq!(queue(2).err().expect("only two queues").kind(), Kind::NoSuchDevice);
        let redirect = Redirect::attach("x0", Otherwise::Drop).expect("attach");
        for socket in &mut sockets {
            redirect.add(socket).expect("enter the socket");
            for i in 0..100 {
                socket.send(numbered(&umem, i)).expect("room");
            }
            drain(socket);
            assert_eq!(wire.numbers(), (0..100).collect::<Vec<_>>());
        }
        // w0 has one TX queue, so its packets come in by queue 0 and never by queue 1.
        wire.send(&packet(7));
        assert_eq!(collect(&mut sockets[0], 1).len(), 1);
        assert_eq!(sockets[1].receive(&mut Vec::new(), 64), 0);
        drop(sockets);
        assert_eq!((umem.free_frames(), umem.lost_frames()), (4096, 0));
    });
}
