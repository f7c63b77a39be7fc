//! Ordinary sockets of the zones' hosts.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::PATIENCE;
use crate::frames::Family;
use crate::scene::Scene;

/// Sends bytes over a new TCP connection between the hosts of two zones and has them sent back.
///
/// # Panics
/// Panics when they do not come back the same, or not in time.
pub fn echo(scene: &Scene, [from, to]: [&str; 2], family: Family, port: u16, bytes: usize) -> SocketAddr {
    let address = SocketAddr::new(scene.host_address(to, family), port);
    let listener = scene.host(to).namespace.run(|| TcpListener::bind(address)).expect("it listens");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client comes");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit is set");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("it receives");
        stream.write_all(&received).expect("it answers");
    });
    let sent: Vec<u8> = (0..bytes).map(|index| (index / 7) as u8).collect();
    let connected = scene.host(from).namespace.run(|| TcpStream::connect_timeout(&address, PATIENCE));
    let mut client = connected.expect("it connects");
    client.set_read_timeout(Some(PATIENCE)).expect("a limit is set");
    client.write_all(&sent).expect("it sends");
    client.shutdown(Shutdown::Write).expect("it closes");
    let mut echoed = Vec::new();
    client.read_to_end(&mut echoed).expect("it receives");
    server.join().expect("the server is done");
    assert!(echoed == sent, "{} bytes came back of {bytes}", echoed.len());
    address
}
