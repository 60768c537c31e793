//! Certificates that end: renewed in the process, kept for the next container, replaced when their
//! authority is no longer trusted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use mesh_identity::{AUDIENCE, Account, EndpointError, Member, RenewError, Trust};
use tokio::net::TcpListener;

use crate::world::{DAY, World, endpoint, worker};

struct Serving {
    url: String,
    task: std::pin::Pin<Box<dyn Future<Output = ()>>>,
}

async fn serving(world: &Arc<World>) -> Serving {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let hosts = [String::from("localhost")];
    let operator = world.member(&Account::new("mesh-system", "mesh-operator"), &hosts);
    Serving {
        url: format!("https://localhost:{port}"),
        task: Box::pin(endpoint(listener, Arc::clone(world), operator)),
    }
}

/// Runs `work` while the endpoint and the renewals of `member` go on.
async fn with<T>(
    serving: Serving,
    keeping: impl Future<Output = ()>,
    work: impl Future<Output = T>,
) -> T {
    tokio::select! {
        () = serving.task => unreachable!("the endpoint does not end"),
        () = keeping => unreachable!("renewals do not end"),
        done = tokio::time::timeout(Duration::from_secs(30), work) => done.expect("in time"),
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_again_and_again_before_it_ends() {
    let world = World::new(Duration::from_secs(3));
    let folder = tempfile::tempdir().expect("a folder");
    let (member, trust) = (Member::new(), Trust::new());
    let serving = serving(&world).await;
    let enrollment = world.enrollment(folder.path(), &serving.url, &worker());
    let mut changed = member.changed();
    let work = async {
        for _ in 0..3 {
            changed.changed().await.expect("a certificate");
            assert_eq!(member.account(), Some(worker()));
            assert!(member.ready(SystemTime::now()).is_ok());
        }
    };
    with(serving, enrollment.keep(&member, &trust), work).await;
    assert!(world.served.load(Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn a_container_that_starts_again_needs_no_operator() {
    let world = World::new(DAY);
    let folder = tempfile::tempdir().expect("a folder");
    let running = serving(&world).await;
    let url = running.url.clone();
    let enrollment = world.enrollment(folder.path(), &url, &worker());
    let (member, trust) = (Member::new(), Trust::new());
    let mut changed = member.changed();
    let first = async { changed.changed().await.expect("a certificate") };
    with(running, enrollment.keep(&member, &trust), first).await;
    // The endpoint is gone now, and so is the process.
    let (again, trust) = (Member::new(), Trust::new());
    let mut changed = again.changed();
    let second = async {
        changed.changed().await.expect("a certificate");
        while !trust.ready() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = enrollment.keep(&again, &trust) => unreachable!("renewals do not end"),
        done = tokio::time::timeout(Duration::from_secs(30), second) => done.expect("in time"),
    }
    assert_eq!(again.chain(), member.chain());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::metadata(folder.path().join("identity.pem")).expect("kept");
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_no_longer_trusted_is_replaced() {
    let world = World::new(DAY);
    let folder = tempfile::tempdir().expect("a folder");
    let old = serving(&world).await;
    let enrollment = world.enrollment(folder.path(), &old.url, &worker());
    let (member, trust) = (Member::new(), Trust::new());
    let mut changed = member.changed();
    let first = async { changed.changed().await.expect("a certificate") };
    with(old, enrollment.keep(&member, &trust), first).await;
    world.rotate();
    let new = serving(&world).await;
    let enrollment = world.enrollment(folder.path(), &new.url, &worker());
    let (again, trust) = (Member::new(), Trust::new());
    let mut changed = again.changed();
    let work = async {
        // What was kept, then what was signed anew.
        while again.chain() == member.chain() || again.account().is_none() {
            changed.changed().await.expect("a certificate");
        }
    };
    with(new, enrollment.keep(&again, &trust), work).await;
    let now = rustls::pki_types::UnixTime::now();
    assert!(trust.vouches_for(&again.chain(), now));
    assert!(!trust.vouches_for(&member.chain(), now));
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_was_replaced_is_replaced_while_both_are_trusted() {
    let world = World::new(DAY);
    let folder = tempfile::tempdir().expect("a folder");
    let serving = serving(&world).await;
    let enrollment = world.enrollment(folder.path(), &serving.url, &worker());
    let (member, trust) = (Member::new(), Trust::new());
    let mut changed = member.changed();
    let told = enrollment.trust.join("ca.crt");
    let work = async {
        changed.changed().await.expect("a certificate");
        let (old, first) = (world.authorities(), member.chain());
        // Newer by more than a certificate can say.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        world.rotate();
        // Trusted, and not yet who signs: nothing to do.
        std::fs::write(&told, format!("{old}{}", world.authorities())).expect("written");
        trust.read(&enrollment.trust).await.expect("read");
        let now = rustls::pki_types::UnixTime::now();
        assert!(!trust.superseded(&member.chain(), now));
        assert_eq!(member.chain(), first);
        std::fs::write(&told, format!("{}{old}", world.authorities())).expect("written");
        trust.read(&enrollment.trust).await.expect("read");
        assert!(trust.vouches_for(&first, now) && trust.superseded(&first, now));
        changed.changed().await.expect("a new certificate");
        assert_ne!(member.chain(), first);
        assert!(!trust.superseded(&member.chain(), now));
    };
    with(serving, enrollment.keep(&member, &trust), work).await;
    assert_eq!(world.served.load(Ordering::Relaxed), 2, "once each");
}

#[tokio::test]
async fn a_token_of_another_audience_gets_no_certificate_and_a_false_operator_no_token() {
    let world = World::new(DAY);
    let folder = tempfile::tempdir().expect("a folder");
    let running = serving(&world).await;
    let enrollment = world.enrollment(folder.path(), &running.url, &worker());
    let wrong = world.token(&worker(), "api");
    std::fs::write(&enrollment.token, wrong).expect("written");
    let (member, trust) = (Member::new(), world.trust());
    let idle = std::future::pending::<()>();
    let refused = with(running, idle, enrollment.renew(&member, &trust)).await;
    assert!(
        matches!(&refused, Err(RenewError::Endpoint(EndpointError::Refused { status, .. })) if status.as_u16() == 401),
        "{refused:?}"
    );

    let stranger = World::new(DAY);
    let running = serving(&stranger).await;
    let enrollment = world.enrollment(folder.path(), &running.url, &worker());
    assert!(!world.token(&worker(), AUDIENCE).is_empty());
    let idle = std::future::pending::<()>();
    let refused = with(running, idle, enrollment.renew(&member, &trust)).await;
    assert!(matches!(
        refused,
        Err(RenewError::Endpoint(EndpointError::Tls(_)))
    ));
    assert_eq!(
        stranger.served.load(Ordering::Relaxed),
        0,
        "it saw no token"
    );
    assert_eq!(member.account(), None);
}

#[tokio::test]
async fn a_folder_that_becomes_unreadable_leaves_what_was_trusted() {
    let world = World::new(DAY);
    let folder = tempfile::tempdir().expect("a folder");
    let enrollment = world.enrollment(folder.path(), "https://localhost:1", &worker());
    let trust = Trust::new();
    assert!(trust.read(&enrollment.trust).await.expect("read"));
    assert!(
        !trust.read(&enrollment.trust).await.expect("read"),
        "the same says nothing"
    );
    for (file, text) in [("ca.crt", ""), ("ca.crt", "x"), ("jwks.json", "{}")] {
        let path = enrollment.trust.join(file);
        let good = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, text).expect("written");
        assert!(trust.read(&enrollment.trust).await.is_err(), "{file}");
        assert!(trust.ready());
        std::fs::write(&path, good).expect("written");
    }
    let token = world.token(&worker(), AUDIENCE);
    assert!(trust.verify_token(token.as_bytes()).is_ok());
}
