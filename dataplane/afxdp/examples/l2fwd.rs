//! The bare forwarder between two interfaces.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use afxdp::l2fwd::{self, Options};
use afxdp::redirect::{Otherwise, Redirect};
use afxdp::{BusyPoll, Error, Socket, SocketConfig, Umem, UmemConfig};

const USAGE: &str = "\
usage: l2fwd IFACE_A IFACE_B [--queue N] [--busy-poll] [--rewrite-dst MAC_A MAC_B] [--seconds N]

Forwards every packet of the queue from A to B and from B to A; packets of other queues go to the kernel.
  --queue N                 queue of both interfaces (0)
  --busy-poll               run the drivers' NAPI from the forwarding loop
  --rewrite-dst MAC_A MAC_B new destination address of what leaves by A and by B
  --seconds N               stop by itself; otherwise at SIGINT or SIGTERM";

struct Arguments {
    interfaces: [String; 2],
    queue: u32,
    seconds: Option<u64>,
    options: Options,
}

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("l2fwd: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    stop_at_signals();
    match forward(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("l2fwd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = arguments;
    let mut interfaces = Vec::new();
    let (mut queue, mut seconds, mut options) = (0, None, Options::default());
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--queue" => queue = value()?.parse().map_err(|_| "--queue needs a number")?,
            "--seconds" => seconds = Some(value()?.parse().map_err(|_| "--seconds needs a number")?),
            "--busy-poll" => options.busy_poll = true,
            "--rewrite-dst" => options.rewrite_destination = Some([mac(&value()?)?, mac(&value()?)?]),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ => interfaces.push(argument),
        }
    }
    let interfaces = interfaces.try_into().map_err(|_| "two interfaces are needed")?;
    Ok(Arguments { interfaces, queue, seconds, options })
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect();
    bytes
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(format!("{text} is no MAC address such as 02:00:00:00:00:01"))
}

fn stop_at_signals() {
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the function only stores to an atomic, which a signal may do.
        unsafe { libc::signal(signal, stop as *const () as libc::sighandler_t) };
    }
}

fn forward(arguments: &Arguments) -> Result<(), Error> {
    let umem = Umem::new(&UmemConfig::default())?;
    println!("memory: {} frames, huge pages: {}", umem.frames(), umem.huge_pages());
    let open = |interface: &String| -> Result<(Redirect, Socket<'_>), Error> {
        let redirect = Redirect::attach(interface.as_str(), Otherwise::Pass)?;
        let busy_poll = arguments.options.busy_poll.then(BusyPoll::default);
        let config = SocketConfig { busy_poll, ..SocketConfig::new(interface.as_str(), arguments.queue) };
        let socket = Socket::open(&umem, &config)?;
        redirect.add(&socket)?;
        println!("{interface}: queue {}, {:?}", socket.queue(), socket.mode());
        for refusal in socket.refused() {
            println!("{interface}: without this option: {refusal}");
        }
        Ok((redirect, socket))
    };
    let (_keep_a, mut a) = open(&arguments.interfaces[0])?;
    let (_keep_b, mut b) = open(&arguments.interfaces[1])?;
    if let Some(seconds) = arguments.seconds {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(seconds));
            STOP.store(true, Ordering::Relaxed);
        });
    }
    let start = Instant::now();
    let counts = l2fwd::run(&mut a, &mut b, arguments.options, &STOP)?;
    let elapsed = start.elapsed().as_secs_f64();
    for (direction, count) in ["A to B", "B to A"].into_iter().zip(counts) {
        let rate = count.forwarded as f64 / elapsed / 1e6;
        println!(
            "{direction}: received {}, forwarded {} ({rate:.3} Mpps), dropped {}",
            count.received, count.forwarded, count.dropped
        );
    }
    for (interface, socket) in arguments.interfaces.iter().zip([&a, &b]) {
        if arguments.options.busy_poll && !socket.busy_polls() {
            println!(
                "{interface}: not tied to a NAPI instance: the loop span, but interrupts did the polling"
            );
        }
        println!("{interface}: {:?}", socket.statistics()?);
    }
    Ok(())
}
