//! The bare forwarder on veth.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use afxdp::l2fwd::{self, Counts, Options};
use afxdp::redirect::{Otherwise, Redirect};
use afxdp::{BusyPoll, Socket, SocketConfig, Umem, UmemConfig};
use common::{Wire, delete, in_namespace, number, packet, veth};

/// Runs the forwarder between x0 and x1 on this thread while `traffic` runs on another, and stops it afterwards.
fn while_forwarding(options: Options, traffic: impl FnOnce() + Send) -> Result<[Counts; 2], afxdp::Error> {
    let umem = Umem::new(&UmemConfig::default()).expect("packet memory");
    let attached = ["x0", "x1"].map(|interface| {
        let busy_poll = options.busy_poll.then(BusyPoll::default);
        let config = SocketConfig { busy_poll, ..SocketConfig::new(interface, 0) };
        let socket = Socket::open(&umem, &config).unwrap_or_else(|error| panic!("{error}"));
        let redirect = Redirect::attach(interface, Otherwise::Drop).expect("attach");
        redirect.add(&socket).expect("enter the socket");
        (socket, redirect)
    });
    let [(mut first, _keep_first), (mut second, _keep_second)] = attached;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Also when the traffic panics, or the forwarder would never end.
            struct Stop<'a>(&'a AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _stop = Stop(&stop);
            traffic();
        });
        l2fwd::run(&mut first, &mut second, options, &stop)
    })
}

#[test]
fn both_directions_are_forwarded_with_rewritten_destinations_and_counted_exactly() {
    for busy_poll in [false, true] {
        in_namespace("l2fwd", || {
            veth("w0", "x0");
            veth("w1", "x1");
            let (left, right) = (Wire::open("w0"), Wire::open("w1"));
            let addresses = [[2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]];
            let options = Options { busy_poll, rewrite_destination: Some(addresses) };
            let counts = while_forwarding(options, || {
                for burst in 0..30 {
                    for i in burst * 50..burst * 50 + 50 {
                        left.send(&packet(i));
                        right.send(&packet(i));
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                for (wire, address) in [(&left, addresses[0]), (&right, addresses[1])] {
                    for i in 0..1500 {
                        let got = wire.wait().unwrap_or_else(|| panic!("packet {i} is missing"));
                        assert_eq!((number(&got), &got[..6]), (i, &address[..]));
                        assert_eq!(got[6..], packet(i)[6..]);
                    }
                }
            });
            let one = Counts { received: 1500, forwarded: 1500, dropped: 0 };
            assert_eq!(counts.expect("no device vanished"), [one; 2]);
        });
    }
}

#[test]
fn a_device_that_vanishes_under_the_forwarder_ends_it_with_an_error() {
    for busy_poll in [false, true] {
        in_namespace("l2fwd, vanishing device", || {
            veth("w0", "x0");
            veth("w1", "x1");
            let wire = Wire::open("w0");
            let options = Options { busy_poll, ..Options::default() };
            let end = while_forwarding(options, || {
                for i in 0..100 {
                    wire.send(&packet(i));
                }
                delete("x1");
                std::thread::sleep(Duration::from_millis(500));
            });
            let error = end.expect_err("x1 is gone");
            assert!(error.is_gone(), "{error}");
        });
    }
}
