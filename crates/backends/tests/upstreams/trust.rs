//! The way to a backend that its author declared: by whom it proves itself, over which proxy, and what neither ever sees.

use std::path::Path;
use std::sync::Arc;

use mesh_backends::{
    AttemptError, Authorities, Backends, Certificates, ClientOptions, HealthEffect, ProxyCause,
    TlsCause,
};
use mesh_core::{Authority as Declared, Backend, BackendId, Endpoint, Kept, Proxy};
use mesh_testkit::front::{Authority, Front};
use mesh_testkit::proxy::{Says, ScriptedProxy};
use mesh_testkit::upstream::ScriptedUpstream;

use crate::world::{
    CANARY, admitted, backend, chat, clients, endpoint, error, finished, key_file, send,
};

/// A name that no resolver knows.
pub(crate) const NAME: &str = "cloud.invalid";

/// A model server behind TLS, and whoever vouches for it.
pub(crate) struct World {
    pub(crate) upstream: ScriptedUpstream,
    pub(crate) authority: Authority,
    pub(crate) front: Front,
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(name: &str) -> Self {
        let upstream = ScriptedUpstream::start().await.expect("an upstream");
        let authority = Authority::new("the company");
        let shown = authority.vouches_for(name).expect("a certificate");
        let front = Front::start(upstream.address(), shown).await;
        Self {
            upstream,
            front: front.expect("TLS"),
            authority,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// The server, proven by what is in this file now.
    pub(crate) fn proven_by(&self, pem: &str) -> Endpoint {
        let path = self.folder.path().join("ca.pem");
        std::fs::write(&path, pem).expect("written");
        trusting(endpoint(&self.front.url()), &path)
    }

    /// The server by a name that only the proxy knows.
    pub(crate) fn behind(&self, proxy: &ScriptedProxy) -> Endpoint {
        let mut endpoint = self.proven_by(&self.authority.pem());
        endpoint.url = format!("https://{NAME}/v1").parse().expect("a url");
        through(endpoint, &proxy.url())
    }
}

fn trusting(mut endpoint: Endpoint, path: &Path) -> Endpoint {
    endpoint.authority = Some(Declared::File(path.to_owned()));
    endpoint
}

pub(crate) fn through(mut endpoint: Endpoint, proxy: &str) -> Endpoint {
    endpoint.proxy = Some(Proxy {
        url: proxy.parse().expect("a url"),
        credentials: None,
    });
    endpoint
}

pub(crate) async fn works(backends: &Backends, declared: Endpoint) {
    let (events, failed) = send(backends, &admitted(backend(declared)), chat()).await;
    assert_eq!(failed, None);
    assert!(finished(&events));
}

pub(crate) async fn fails(backends: &Backends, declared: Endpoint) -> AttemptError {
    let backend = backend(declared);
    let failed = error(backends, &admitted(backend.clone()), chat()).await;
    let probed = backends.probe(&backend).await;
    assert_eq!(probed, Err(failed.clone()), "probes go the same way");
    failed
}

#[tokio::test]
async fn a_server_is_trusted_by_its_own_authority_and_by_no_other() {
    let world = World::new("localhost").await;
    let backends = clients();
    works(&backends, world.proven_by(&world.authority.pem())).await;
    let wrong = Authority::new("another").pem();
    let twin = Authority::new("the company").pem();
    for pem in [&wrong, &twin] {
        let failed = fails(&backends, world.proven_by(pem)).await;
        assert_eq!(failed, AttemptError::Tls(TlsCause::Authority));
        assert_eq!(failed.health(), HealthEffect::Failure);
    }
    let failed = fails(&backends, endpoint(&world.front.url())).await;
    assert_eq!(
        failed,
        AttemptError::Tls(TlsCause::Authority),
        "the system's"
    );
    assert_eq!(world.upstream.count(), 1);
    // Several authorities in one file, as in a rotation.
    let both = format!("# the old one\n{wrong}\n{}", world.authority.pem());
    works(&backends, world.proven_by(&both)).await;
}

#[tokio::test]
async fn the_systems_authorities_never_step_in_for_a_declared_one() {
    let world = World::new("localhost").await;
    let backends = Backends::new(ClientOptions {
        extra_roots: vec![world.authority.der()],
        ..ClientOptions::default()
    })
    .expect("clients");
    works(&backends, endpoint(&world.front.url())).await;
    let before = world.front.connections();
    let failed = fails(&backends, world.proven_by(&Authority::new("a").pem())).await;
    assert_eq!(failed, AttemptError::Tls(TlsCause::Authority));
    assert!(world.front.connections() > before, "it was asked anew");
    let (before, sessions) = (world.front.connections(), world.front.sessions());
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for pem in [
        "",
        "canary",
        broken,
        &format!("{}{broken}", world.authority.pem()),
    ] {
        let declared = world.proven_by(pem);
        let told = backends.authority(&backend(declared.clone()));
        let failed = fails(&backends, declared).await;
        assert_eq!(told, Some(Err(failed.clone())));
        assert_eq!(failed.health(), HealthEffect::Marked("AuthorityInvalid"));
        assert!(failed.to_string().contains("ca.pem"), "{failed}");
    }
    let gone = trusting(endpoint(&world.front.url()), Path::new("/no/such/file"));
    let failed = fails(&backends, gone).await;
    assert_eq!(failed.health(), HealthEffect::Marked("AuthorityMissing"));
    assert_eq!(world.front.connections(), before, "nobody was asked");
    assert_eq!(world.front.sessions(), sessions);
}

#[tokio::test]
async fn a_certificate_that_is_over_or_for_another_name_is_told_as_such() {
    let world = World::new("localhost").await;
    let backends = clients();
    let shown = world
        .authority
        .vouched_for("localhost")
        .expect("a certificate");
    world.front.shows(shown);
    let declared = world.proven_by(&world.authority.pem());
    let failed = fails(&backends, declared.clone()).await;
    assert_eq!(failed, AttemptError::Tls(TlsCause::Time));
    assert!(failed.to_string().contains("expired"), "{failed}");
    let shown = world
        .authority
        .vouches_for("other.example")
        .expect("a certificate");
    world.front.shows(shown);
    let failed = fails(&backends, declared).await;
    assert_eq!(failed, AttemptError::Tls(TlsCause::Name));
    assert_eq!(world.upstream.connections(), 0);
}

#[tokio::test]
async fn a_rotated_authority_counts_with_the_next_request_also_where_a_connection_is_open() {
    let world = World::new("localhost").await;
    let backends = clients();
    works(&backends, world.proven_by(&world.authority.pem())).await;
    let next = Authority::new("the company's next");
    // The open connection was proven by one that no longer counts.
    let failed = fails(&backends, world.proven_by(&next.pem())).await;
    assert_eq!(failed, AttemptError::Tls(TlsCause::Authority));
    world
        .front
        .shows(next.vouches_for("localhost").expect("a certificate"));
    works(&backends, world.proven_by(&next.pem())).await;
    let sessions = world.front.sessions();
    works(&backends, world.proven_by(&next.pem())).await;
    assert_eq!(
        world.front.sessions(),
        sessions,
        "connections are used again"
    );
    assert_eq!(world.upstream.count(), 3);
}

#[tokio::test]
async fn an_authority_of_the_cluster_is_the_one_that_was_read_there() {
    let world = World::new("localhost").await;
    let backends = clients();
    let entry = Declared::Entry {
        kept: Kept::ConfigMap,
        namespace: String::from("default"),
        name: String::from("ca"),
        key: String::from("ca.crt"),
    };
    let mut declared = endpoint(&world.front.url());
    declared.authority = Some(entry.clone());
    let failed = fails(&backends, declared.clone()).await;
    assert_eq!(failed.health(), HealthEffect::Marked("AuthorityMissing"));
    assert_eq!(
        backends.authority(&backend(declared.clone())),
        None,
        "nobody was asked"
    );
    let found = Certificates::entry(world.authority.pem());
    let known = Authorities::from([(entry.clone(), Some(Arc::new(found)))]);
    backends.set_authorities(known);
    let told = backends.authority(&backend(declared.clone()));
    assert_eq!(told, Some(Ok(())));
    works(&backends, declared.clone()).await;
    backends.set_authorities(Authorities::from([(entry, None)]));
    let failed = fails(&backends, declared.clone()).await;
    let told = backends.authority(&backend(declared));
    assert_eq!(told, Some(Err(failed.clone())));
    assert_eq!(failed.health(), HealthEffect::Marked("AuthorityMissing"));
    assert_eq!(world.upstream.count(), 1);
}

#[tokio::test]
async fn everything_goes_through_the_proxy_which_learns_the_name_and_nothing_else() {
    let world = World::new(NAME).await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let backends = clients();
    let declared = world.behind(&proxy);
    for _ in 0..3 {
        works(&backends, declared.clone()).await;
    }
    assert_eq!(backends.probe(&backend(declared)).await, Ok(()));
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1, "one tunnel for all of them: {heads:?}");
    assert!(
        heads[0].starts_with(&format!("CONNECT {NAME}:443 HTTP/1.1\r\n")),
        "{heads:?}"
    );
    assert!(!proxy.saw(CANARY) && !proxy.saw("big-2026"));
    assert!(proxy.passed() > 0);
    assert_eq!((world.upstream.count(), world.front.connections()), (4, 1));
    assert!(world.upstream.saw(CANARY));
    let sent = &world.upstream.requests()[0];
    assert_eq!(sent.header("host"), Some(NAME));
}

#[tokio::test]
async fn what_is_for_the_proxy_is_sent_to_it_alone_and_a_rotated_one_counts_at_once() {
    let world = World::new(NAME).await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let (folder, key) = key_file("mesh:sesame\n");
    let (_other, own) = key_file("key-1");
    let backends = clients();
    let mut declared = world.behind(&proxy);
    declared.credentials = Some(own);
    if let Some(proxy) = &mut declared.proxy {
        proxy.credentials = Some(key);
    }
    works(&backends, declared.clone()).await;
    // base64 of mesh:sesame
    let said = proxy.heads()[0].to_ascii_lowercase();
    assert!(
        said.contains("proxy-authorization: basic bwvzadpzzxnhbwu="),
        "{said}"
    );
    assert!(!proxy.saw("key-1") && !said.contains("bearer"));
    let sent = &world.upstream.requests()[0];
    assert_eq!(sent.header("proxy-authorization"), None);
    assert!(!world.upstream.saw("sesame") && !world.upstream.saw("bWVzaDpzZXNhbWU="));
    std::fs::write(folder.path().join("key"), "mesh:other").expect("written");
    works(&backends, declared.clone()).await;
    assert_eq!(proxy.heads().len(), 2, "a tunnel of its own");
    std::fs::write(folder.path().join("key"), "canary").expect("written");
    let failed = fails(&backends, declared).await;
    assert_eq!(failed.health(), HealthEffect::Marked("CredentialsMissing"));
    assert_eq!((proxy.heads().len(), world.upstream.count()), (2, 2));
}

#[tokio::test]
async fn a_proxy_that_refuses_or_is_away_is_told_and_nothing_goes_around_it() {
    let world = World::new(NAME).await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let backends = clients();
    let mut declared = world.behind(&proxy);
    // Reachable without the proxy, too: that must not help.
    declared.url = world.front.url().parse().expect("a url");
    for (says, cause, health) in [
        (
            Says::Status(403),
            ProxyCause::Refused,
            HealthEffect::Failure,
        ),
        (
            Says::Status(502),
            ProxyCause::Refused,
            HealthEffect::Failure,
        ),
        (
            Says::Status(407),
            ProxyCause::Unauthorized,
            HealthEffect::Marked("ProxyUnauthorized"),
        ),
        (
            Says::Nothing,
            ProxyCause::Unreachable,
            HealthEffect::Failure,
        ),
    ] {
        proxy.says(says);
        let failed = fails(&backends, declared.clone()).await;
        assert_eq!(failed, AttemptError::Proxy(cause), "{says:?}");
        assert_eq!((failed.outcome(), failed.health()), ("proxy", health));
    }
    let away = proxy.url();
    drop(proxy);
    for url in [away.as_str(), "http://no-such-proxy.invalid:3128"] {
        let failed = fails(&backends, through(declared.clone(), url)).await;
        assert_eq!(
            failed,
            AttemptError::Proxy(ProxyCause::Unreachable),
            "{url}"
        );
    }
    assert_eq!(world.front.connections(), 0);
}

#[tokio::test]
async fn a_proxy_is_no_man_in_the_middle_and_plain_text_does_not_pass_it() {
    let world = World::new(NAME).await;
    // It leads to somebody whom another authority vouches for.
    let shown = Authority::new("another")
        .vouches_for(NAME)
        .expect("a certificate");
    world.front.shows(shown);
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let failed = fails(&clients(), world.behind(&proxy)).await;
    assert_eq!(failed, AttemptError::Tls(TlsCause::Authority));
    let asked = proxy.heads().len();
    let plain = through(endpoint(&world.upstream.url()), &proxy.url());
    let failed = fails(&clients(), plain).await;
    assert!(matches!(failed, AttemptError::Unusable(_)), "{failed:?}");
    assert_eq!(proxy.heads().len(), asked);
    assert!(!proxy.saw(CANARY));
    assert_eq!(world.upstream.connections(), 0);
}

#[tokio::test]
async fn a_proxy_may_itself_be_spoken_to_in_tls_and_proves_itself_by_the_same_authority() {
    let world = World::new(NAME).await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let shown = world
        .authority
        .vouches_for("localhost")
        .expect("a certificate");
    let secured = Front::start(proxy.address(), shown).await.expect("TLS");
    let address = format!("https://localhost:{}", secured.address().port());
    let declared = through(world.behind(&proxy), &address);
    let backends = clients();
    works(&backends, declared.clone()).await;
    assert_eq!(proxy.heads().len(), 1);
    secured.shows(
        Authority::new("another")
            .vouches_for("localhost")
            .expect("a certificate"),
    );
    let failed = fails(&clients(), declared).await;
    assert_eq!(failed, AttemptError::Tls(TlsCause::Authority));
    assert_eq!(proxy.heads().len(), 1);
}

#[tokio::test]
async fn ways_that_differ_share_no_connection() {
    let world = World::new("localhost").await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let backends = clients();
    let direct = world.proven_by(&world.authority.pem());
    let two = format!("{}{}", world.authority.pem(), Authority::new("b").pem());
    for declared in [direct.clone(), through(direct, &proxy.url())] {
        works(&backends, declared).await;
    }
    works(&backends, world.proven_by(&two)).await;
    assert_eq!((world.upstream.count(), world.front.sessions()), (3, 3));
    assert_eq!(proxy.heads().len(), 1);
}

fn tenant(endpoint: Endpoint) -> Backend {
    Backend {
        id: BackendId::foreign("team", "cloud"),
        ..backend(endpoint)
    }
}

#[tokio::test]
async fn a_proxy_leads_no_tenant_to_a_part_of_the_mesh_and_is_none_itself() {
    let world = World::new(NAME).await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let closed = ["127.0.0.1", "::1"].map(|address| address.parse().expect("an address"));
    let port = proxy.address().port();
    let declared = world.behind(&proxy);
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let backends = clients();
        backends.set_closed(closed);
        let declared = tenant(through(declared.clone(), &format!("http://{host}:{port}")));
        let failed = error(&backends, &admitted(declared.clone()), chat()).await;
        assert_eq!(failed, AttemptError::AddressClosed, "{host}");
        assert_eq!(
            backends.probe(&declared).await,
            Err(AttemptError::AddressClosed)
        );
    }
    // What is behind the proxy is not the mesh either, as far as its author wrote an address.
    let backends = clients();
    backends.set_closed(["192.0.2.7".parse().expect("an address")]);
    let mut inside = declared.clone();
    inside.url = "https://192.0.2.7/v1".parse().expect("a url");
    let failed = error(&backends, &admitted(tenant(inside)), chat()).await;
    assert_eq!(failed, AttemptError::AddressClosed);
    assert_eq!((proxy.heads().len(), world.front.connections()), (0, 0));
    works(&backends, declared).await;
}

#[tokio::test]
async fn where_many_are_served_nobodys_proxy_is_this_machine_itself() {
    let world = World::new(NAME).await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let backends = Backends::new(ClientOptions {
        shared: true,
        ..ClientOptions::default()
    })
    .expect("clients");
    let port = proxy.address().port();
    for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"] {
        let declared = through(world.behind(&proxy), &format!("http://{host}:{port}"));
        for declared in [backend(declared.clone()), tenant(declared)] {
            let failed = error(&backends, &admitted(declared), chat()).await;
            assert_eq!(failed, AttemptError::AddressClosed, "{host}");
        }
    }
    assert_eq!(proxy.heads().len(), 0);
}
