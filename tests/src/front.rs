//! TLS before a scripted upstream: certificates of any authority, for any name, also ones that are over. What is sent is passed on
//! to the upstream, which keeps it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An organization's own certificate authority.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// Without randomness.
    #[expect(clippy::expect_used, reason = "a test that has no randomness ends")]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its certificate in DER.
    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// What a server of this name shows.
    ///
    /// # Errors
    /// If the name is none.
    pub fn vouches_for(&self, name: &str) -> anyhow::Result<ServerConfig> {
        self.certified(&CertificateParams::new(vec![name.to_owned()])?)
    }

    /// The same, over for years.
    ///
    /// # Errors
    /// If the name is none.
    pub fn vouched_for(&self, name: &str) -> anyhow::Result<ServerConfig> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.certified(&params)
    }

    fn certified(&self, params: &CertificateParams) -> anyhow::Result<ServerConfig> {
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.0)?;
        let secret = PrivateKeyDer::try_from(key.serialize_der());
        let secret = secret.map_err(|error| anyhow::anyhow!("a key: {error}"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], secret)?;
        Ok(config)
    }
}

/// TLS before an upstream. Stops, and cuts its connections, when dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    before: SocketAddr,
    shown: Mutex<Arc<ServerConfig>>,
    connections: AtomicUsize,
    sessions: AtomicUsize,
}

impl Front {
    /// Starts one before what listens at `before`.
    ///
    /// # Errors
    /// If no loopback port can be had.
    pub async fn start(before: SocketAddr, shown: ServerConfig) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.context("could not open a loopback port")?;
        let front = Self {
            address: listener.local_addr()?,
            shared: Arc::new(Shared {
                before,
                shown: Mutex::new(Arc::new(shown)),
                connections: AtomicUsize::new(0),
                sessions: AtomicUsize::new(0),
            }),
            stop: CancellationToken::new(),
        };
        let (shared, stop, tasks) = (
            Arc::clone(&front.shared),
            front.stop.clone(),
            TaskTracker::new(),
        );
        let each = tasks.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                each.spawn(stop.clone().run_until_cancelled_owned(shared.pass(stream)));
            }
        }));
        Ok(front)
    }

    /// Its address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base at `localhost`, as a backend declares it.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/v1", self.address.port())
    }

    /// What it shows to whoever connects from now on.
    pub fn shows(&self, config: ServerConfig) {
        let shown = self.shared.shown.lock();
        *shown.unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Connections that were made to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Those among them whose maker trusted it.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::SeqCst)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn acceptor(&self) -> TlsAcceptor {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&shown))
    }

    async fn pass(self: Arc<Self>, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        // One who does not trust it is what some tests are about.
        let Ok(mut near) = self.acceptor().accept(stream).await else {
            return;
        };
        self.sessions.fetch_add(1, Ordering::SeqCst);
        if let Ok(mut far) = TcpStream::connect(self.before).await {
            let _whole = copy_bidirectional(&mut near, &mut far).await.is_ok();
        }
    }
}
