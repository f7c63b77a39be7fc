//! Parsing a frame, and the steps around it, beside etherparse's `SlicedPacket` in the same run.

use std::hint::black_box;

use bulkhead_dataplane::answer::{IcmpError, RateLimiter, icmp_error, tcp_reset};
use bulkhead_dataplane::headers::{parse, verify_transport_checksum};
use bulkhead_dataplane::packet::MemoryFrame;
use bulkhead_dataplane::rewrite;
use bulkhead_dataplane::topology::Hop;
use bulkhead_dataplane::verdict::{Now, PortId};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::{PacketBuilder, SlicedPacket};

const HOP: Hop =
    Hop { port: PortId(1), destination: [2, 9, 9, 9, 9, 9], source: [2, 8, 8, 8, 8, 8], mtu: 1500 };

/// Different packets of one kind, so that the branch predictor does not learn a single one by heart.
const PACKETS: usize = 256;

fn tcp4(number: usize, payload: usize) -> Vec<u8> {
    use etherparse::TcpOptionElement::{Noop, Timestamp};
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 1, 0, number as u8], [10, 2, 0, 7], 64)
        .tcp(40_000 + number as u16, 443, number as u32, 500)
        .ack(1)
        .options(&[Noop, Noop, Timestamp(1, number as u32)])
        .unwrap()
        .write(&mut frame, &vec![7; payload])
        .unwrap();
    frame
}

fn tcp6(number: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let (mut source, destination) = ([0xfd; 16], [0xfc; 16]);
    source[15] = number as u8;
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv6(source, destination, 64)
        .tcp(40_000 + number as u16, 443, number as u32, 500)
        .ack(1)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn udp4(number: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 1, 0, number as u8], [10, 2, 0, 7], 64)
        .udp(40_000 + number as u16, 53)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

/// Bursts of frames, as the pipeline has them; the throughput line is packets.
fn bursts(c: &mut Criterion, name: &str, frames: &[Vec<u8>], step: impl Fn(&[u8])) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(PACKETS as u64));
    group.bench_function(format!("{PACKETS}_packets"), |b| {
        b.iter(|| black_box(frames).iter().for_each(|frame| step(frame)));
    });
    group.finish();
}

fn parsing(c: &mut Criterion) {
    let tcp4 = |number| tcp4(number, 7);
    let kinds: [(&str, Vec<Vec<u8>>); 3] = [
        ("tcp4", (0..PACKETS).map(tcp4).collect()),
        ("tcp6", (0..PACKETS).map(tcp6).collect()),
        ("udp4", (0..PACKETS).map(udp4).collect()),
    ];
    for (kind, frames) in kinds {
        bursts(c, &format!("parse/{kind}/bulkhead"), &frames, |frame| {
            black_box(&parse(frame).unwrap());
        });
        bursts(c, &format!("parse/{kind}/etherparse"), &frames, |frame| {
            black_box(&SlicedPacket::from_ethernet(frame).unwrap());
        });
    }
}

fn checksums(c: &mut Criterion) {
    for payload in [7, 1400] {
        let frame = tcp4(1, payload);
        let headers = parse(&frame).unwrap();
        c.bench_function(&format!("verify_checksum/tcp4/{payload}_bytes"), |b| {
            b.iter(|| verify_transport_checksum(black_box(&frame), black_box(&headers)).unwrap());
        });
    }
}

fn rewriting(c: &mut Criterion) {
    let frame = tcp4(1, 7);
    let headers = parse(&frame).unwrap();
    c.bench_function("rewrite/tcp4", |b| {
        let mut frame = frame.clone();
        b.iter(|| rewrite::forward(black_box(&mut frame), black_box(&headers), &HOP));
    });
    // Both include copying the packet into the frame.
    c.bench_function("answer/tcp_reset", |b| {
        let mut out = MemoryFrame::new(&[]);
        b.iter(|| {
            out.fill(&frame);
            assert!(tcp_reset(black_box(&mut out), &headers));
        });
    });
    c.bench_function("answer/icmp_error", |b| {
        let mut out = MemoryFrame::new(&[]);
        let own = "10.1.0.1".parse().unwrap();
        b.iter(|| {
            out.fill(&frame);
            assert!(icmp_error(black_box(&mut out), &headers, IcmpError::TimeExceeded, own, 1280));
        });
    });
    c.bench_function("answer/limit", |b| {
        let mut limiter = RateLimiter::default();
        let source = headers.addresses.source();
        let mut now = 0;
        b.iter(|| {
            now += 1_000;
            black_box(limiter.allow(Now(now), source, 60, 56))
        });
    });
}

criterion_group!(benches, parsing, checksums, rewriting);
criterion_main!(benches);
