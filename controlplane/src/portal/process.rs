//! The portal's process, from its first message to its last connection.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::SocketType;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use super::ask::Gateway;
use super::http::{self, Connection};
use super::limits::{Admission, HANDSHAKE_PATIENCE, Rates};
use super::orders::{Order, Word};
use super::wire::Secret;
use super::{sandbox, wire};

/// For the first message.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed for want of something, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// All that connections share.
pub struct Shared {
    /// Who decides.
    pub gateway: Rc<Gateway>,
    /// The portal's DNS name.
    pub name: String,
    /// The TCP port on which TLS is spoken.
    pub port: u16,
    /// See [`Setup::strict`](super::orders::Setup::strict).
    pub strict: bool,
    /// How often each address asks.
    pub rates: RefCell<Rates>,
    /// Each ends a connection by being dropped.
    admission: RefCell<Admission<oneshot::Sender<()>>>,
}

/// Runs the process that the gateway has started, until the gateway goes.
///
/// # Errors
///
/// It was not started by the gateway, or could not confine itself.
pub fn run() -> Result<()> {
    let pair = io::stdin().as_fd().try_clone_to_owned()?;
    if rustix::net::sockopt::socket_type(&pair).ok() != Some(SocketType::SEQPACKET) {
        bail!("`bulkhead portal` is started by the gateway: see [portal] in its configuration");
    }
    let timeout = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&pair, timeout, Some(FIRST_PATIENCE))?;
    let Some((Order::Begin(setup), None)) = wire::receive::<Order>(&pair)? else {
        bail!("the gateway's first message is not the portal's setup");
    };
    rustix::io::ioctl_fionbio(&pair, true)?;
    let tls = TlsAcceptor::from(Arc::new(tls(&setup.certificate, &setup.key)?));
    // Before the sandbox, for it makes descriptors of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let _inside = runtime.enter();
    let gateway = Gateway::new(pair)?;
    sandbox::confine(setup.uid, setup.gid)?;
    let shared = Rc::new(Shared {
        gateway,
        name: setup.name.clone(),
        port: setup.port,
        strict: setup.strict,
        rates: RefCell::default(),
        admission: RefCell::default(),
    });
    drop(setup);
    LocalSet::new().block_on(&runtime, obey(shared, tls))
}

/// TLS 1.2 and 1.3, nothing but HTTP/1.1 inside, no early data, no renegotiation; of the suites that both know, the first of
/// ours. Chain and key are PEM.
///
/// # Errors
///
/// They cannot be read, or do not fit.
pub fn tls(chain: &str, key: &Secret) -> Result<ServerConfig> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .context("reading the certificate chain")?;
    let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes())
        .map_err(|_| anyhow::anyhow!("the certificate's key is no private key in PEM"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and its key")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    Ok(config)
}

/// Does what the gateway says until it is gone.
async fn obey(shared: Rc<Shared>, tls: TlsAcceptor) -> Result<()> {
    shared.gateway.say(&Word::Ready, None).await?;
    loop {
        match shared.gateway.hear().await? {
            None => return Ok(()),
            Some((Order::Answer(answered), None)) => shared.gateway.answered(answered.id, answered.answer),
            Some((Order::Listen { secure }, Some(socket))) => {
                let tls = secure.then(|| tls.clone());
                let listener = listener(socket).context("taking a listening socket")?;
                tokio::task::spawn_local(accept(shared.clone(), listener, tls));
            }
            Some(_) => bail!("the gateway said what it never says"),
        }
    }
}

/// The gateway has made it non-blocking.
fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    TcpListener::from_std(std::net::TcpListener::from(socket))
}

async fn accept(shared: Rc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // The client has left already, or there is no descriptor for it: then some will soon be free.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let address = peer.ip();
        let (number, evicted) = shared.admission.borrow_mut().admit(address);
        drop(evicted);
        let (end, ended) = oneshot::channel();
        shared.admission.borrow_mut().enter(address, number, end);
        let (shared, tls) = (shared.clone(), tls.clone());
        tokio::task::spawn_local(async move {
            let served = serve(&shared, stream, peer, tls);
            // Whoever is evicted learns it by a closed connection.
            tokio::select! {
                () = served => {}
                _ = ended => {}
            }
            shared.admission.borrow_mut().leave(address, number);
        });
    }
}

/// One connection, from its first byte to its last.
async fn serve(shared: &Rc<Shared>, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
    let Ok(local) = stream.local_addr() else { return };
    let Some(tls) = tls else {
        return http::redirect(shared, stream, local.ip()).await;
    };
    // Answers are written at once, so there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_PATIENCE, tls.accept(stream));
    let Ok(Ok(stream)) = handshake.await else { return };
    // The gateway is shown this very connection, while the server below holds the other handle.
    let Ok(handle) = stream.get_ref().0.as_fd().try_clone_to_owned() else { return };
    let connection = Rc::new(Connection { handle, peer: peer.ip().to_canonical() });
    http::serve(shared, stream, connection).await;
}
