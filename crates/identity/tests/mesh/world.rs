//! An API server's keys, an authority and an endpoint that signs, without Kubernetes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_identity::{
    AUDIENCE, Account, Authority, Enrollment, Member, SIGN_PATH, Signer, Trust, server_config,
};
use mesh_testkit::accounts::{Accounts, ISSUER};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) const YEAR: Duration = Duration::from_hours(24 * 365);
pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) struct World {
    accounts: Accounts,
    /// Of the endpoint.
    pub(crate) signer: Signer,
    /// Of those that the test does not watch ending.
    steady: Signer,
    pub(crate) served: AtomicUsize,
}

pub(crate) fn gateway() -> Account {
    Account::new("mesh-system", "mesh-gateway")
}

pub(crate) fn worker() -> Account {
    Account::new("team", "small-worker")
}

impl World {
    pub(crate) fn new(lifetime: Duration) -> Arc<Self> {
        let hosts = HashMap::from([(
            gateway(),
            vec![String::from("mesh-gateway.mesh-system.svc")],
        )]);
        let world = Self {
            accounts: Accounts::new(),
            signer: Signer::new(Trust::new(), hosts, lifetime),
            steady: Signer::new(Trust::new(), HashMap::new(), DAY),
            served: AtomicUsize::new(0),
        };
        world.rotate();
        Arc::new(world)
    }

    /// A new authority, and nobody trusts the old one any more.
    pub(crate) fn rotate(&self) {
        let authority = Authority::generate(SystemTime::now(), YEAR).expect("an authority");
        self.signer
            .trust
            .set(authority.certificate(), &self.accounts.keys, ISSUER)
            .expect("trust");
        let authority = Arc::new(authority);
        self.signer.authority.store(Some(Arc::clone(&authority)));
        self.steady.authority.store(Some(authority));
    }

    pub(crate) fn authorities(&self) -> String {
        let authority = self.signer.authority.load_full().expect("an authority");
        authority.certificate().to_owned()
    }

    pub(crate) fn trust(&self) -> Arc<Trust> {
        let trust = Trust::new();
        trust
            .set(&self.authorities(), &self.accounts.keys, ISSUER)
            .expect("trust");
        trust
    }

    pub(crate) fn token(&self, account: &Account, audience: &str) -> String {
        self.accounts
            .token(&account.namespace, &account.name, audience)
    }

    /// A member with a certificate of this world's authority.
    pub(crate) fn member(&self, account: &Account, hosts: &[String]) -> Arc<Member> {
        let (chain, key) = self
            .steady
            .own(account, hosts, SystemTime::now())
            .expect("signed");
        let member = Member::new();
        member.install(&chain, &key).expect("installed");
        member
    }

    /// The folder of a pod with what Kubernetes puts there.
    pub(crate) fn enrollment(&self, folder: &Path, url: &str, account: &Account) -> Enrollment {
        let trust = folder.join("trust");
        std::fs::create_dir_all(&trust).expect("a folder");
        for (file, text) in [
            ("ca.crt", self.authorities().as_str()),
            ("jwks.json", &self.accounts.keys),
            ("issuer", ISSUER),
        ] {
            std::fs::write(trust.join(file), text).expect("written");
        }
        let token = folder.join("token");
        std::fs::write(&token, self.token(account, AUDIENCE)).expect("written");
        Enrollment {
            url: url.to_owned(),
            trust,
            token,
            folder: folder.to_path_buf(),
        }
    }
}

/// The endpoint, as the operator serves it, at `https://localhost:<port>`.
pub(crate) async fn endpoint(listener: TcpListener, world: Arc<World>, member: Arc<Member>) {
    let config = server_config(&member, None).expect("TLS");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let Ok(stream) = acceptor.accept(stream).await else {
            continue;
        };
        let world = Arc::clone(&world);
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let world = Arc::clone(&world);
            async move {
                assert_eq!(request.uri().path(), SIGN_PATH);
                let bearer = request.headers()["authorization"].clone();
                let bearer = bearer
                    .as_bytes()
                    .strip_prefix(b"Bearer ")
                    .map(<[u8]>::to_vec);
                let csr = request.into_body().collect().await?.to_bytes();
                let csr = String::from_utf8_lossy(&csr).into_owned();
                let signed = world
                    .signer
                    .sign(bearer.as_deref(), &csr, SystemTime::now());
                world.served.fetch_add(1, Ordering::Relaxed);
                let (status, text) = match signed {
                    Ok((_, pem)) => (200, pem),
                    Err(error) => (error.status().as_u16(), error.to_string()),
                };
                let answer = http::Response::builder().status(status);
                Ok::<_, hyper::Error>(
                    answer
                        .body(Full::<bytes::Bytes>::from(text))
                        .expect("an answer"),
                )
            }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        drop(
            connection
                .serve_connection(TokioIo::new(stream), service)
                .await,
        );
    }
}
