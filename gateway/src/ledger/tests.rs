use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use bytes::Bytes;
use futures::future::join_all;
use http::{Request, StatusCode};
use jiff::Timestamp;
use mesh_identity::{Account, Authority, Member, Place, Session, Signer, Trust};
use mesh_ledger::{Check, Entry, Event, Ledger, Log, NotDurable, Receipt, log};
use mesh_runtime::{Shutdown, serve};
use mesh_testkit::accounts::{Accounts, ISSUER};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::book::{Keeper, read, written};
use super::wire::{GATEWAY, LEDGER};
use super::{Remote, Writing};

const HOUR: Duration = Duration::from_hours(1);
/// Longer than anything takes here, and no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mesh: who signs, and what is trusted.
struct Mesh {
    signer: Signer,
    trust: Arc<Trust>,
}

impl Mesh {
    fn new() -> Self {
        mesh_runtime::install_crypto_provider();
        let authority = Authority::generate(SystemTime::now(), HOUR * 24).expect("an authority");
        let trust = Trust::new();
        trust
            .set(authority.certificate(), &Accounts::new().keys, ISSUER)
            .expect("trust");
        let signer = Signer::new(Arc::clone(&trust), HashMap::new(), HOUR);
        signer.authority.store(Some(Arc::new(authority)));
        Self { signer, trust }
    }

    fn member(&self, namespace: &str, name: &str) -> Arc<Member> {
        let account = Account::new(namespace, name);
        let (chain, key) = self
            .signer
            .own(&account, &[], SystemTime::now())
            .expect("signed");
        let member = Member::new();
        member.install(&chain, &key).expect("installed");
        member
    }

    /// Serves `router` as this member at a port, until the shutdown.
    async fn serve(
        &self,
        router: Router,
        (name, at): (&str, Option<SocketAddr>),
        shutdown: &Shutdown,
    ) -> SocketAddr {
        let at = at.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = TcpListener::bind(at).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let member = self.member("mesh-system", name);
        let tls = mesh_identity::server_config(&member, Some(&self.trust)).expect("TLS");
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            serve::serve_tls(listener, tls, router, serve::Limits::default(), &ending).await;
        });
        address
    }

    fn remote(&self, address: SocketAddr, limit: Duration, shutdown: &Shutdown) -> Remote {
        let writing = Writing {
            address: address.to_string(),
            limit,
            mesh_namespace: String::from("mesh-system"),
            member: self.member("mesh-system", GATEWAY),
            trust: Arc::clone(&self.trust),
        };
        Remote::start(writing, shutdown).expect("an address")
    }
}

/// A mesh, and the log of its ledger in a folder.
struct Ground {
    mesh: Mesh,
    folder: TempDir,
    shutdown: Shutdown,
    log: Log,
}

impl Ground {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let log = Log::open(folder.path(), log::Options::default()).expect("a log");
        Self {
            mesh: Mesh::new(),
            folder,
            shutdown: Shutdown::new(),
            log,
        }
    }

    /// The same, served as the ledger until its shutdown.
    async fn served() -> (Self, SocketAddr) {
        let ground = Self::new();
        let address = ground.serve((LEDGER, None), &ground.shutdown).await;
        (ground, address)
    }

    /// Serves the log as this member at a port.
    async fn serve(&self, whom: (&str, Option<SocketAddr>), shutdown: &Shutdown) -> SocketAddr {
        let keeper = Keeper::of(self.log.clone(), self.folder.path());
        self.mesh
            .serve(written(keeper, "mesh-system"), whom, shutdown)
            .await
    }
}

fn place(address: SocketAddr) -> Place {
    Place {
        host: address.ip().to_string(),
        port: address.port(),
        account: Account::new("mesh-system", LEDGER),
    }
}

fn lost(count: u64) -> Entry {
    let since = Timestamp::UNIX_EPOCH;
    Entry::new("gateway-1", since, Event::Lost { count, since })
}

async fn until(what: &str, mut good: impl FnMut() -> bool) {
    let waiting = async {
        while !good() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

async fn append(remote: &Remote, entries: Vec<Entry>) -> Result<Receipt, NotDurable> {
    let answered = tokio::time::timeout(PATIENCE, remote.append(entries)).await;
    answered.expect("an answer")
}

/// What somebody finds who reads `text`: the numbers of `lost` entries.
fn verified(text: &[u8]) -> Vec<u64> {
    let mut counts = Vec::new();
    let mut check = Check::default();
    let scanned = check.scan(text, |_, line| {
        if let Ok(Entry {
            event: Event::Lost { count, .. },
            ..
        }) = line.entry()
        {
            counts.push(count);
        }
    });
    scanned.expect("a log that holds");
    check.finish().expect("a log that holds");
    counts
}

async fn export(log: &Log, folder: &Path) -> Vec<u8> {
    shown(Keeper::of(log.clone(), folder)).await
}

/// What whoever forwards a port of the pod reads.
async fn shown(keeper: Keeper) -> Vec<u8> {
    let request = Request::get("/v1/log")
        .body(axum::body::Body::empty())
        .expect("a request");
    let answer = tower::ServiceExt::oneshot(read(keeper), request)
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    axum::body::to_bytes(answer.into_body(), 1 << 30)
        .await
        .expect("a body")
        .to_vec()
}

#[tokio::test]
async fn what_gateways_write_is_on_disk_when_they_are_told_and_whoever_reads_can_verify_it() {
    let (ground, address) = Ground::served().await;
    let Ground {
        mesh,
        folder,
        shutdown,
        log,
    } = ground;
    let gateways = [0, 1].map(|_| mesh.remote(address, PATIENCE, &shutdown));
    until("both are there", || {
        gateways.iter().all(|remote| remote.state().durable)
    })
    .await;
    let appended = (0..200_u64).map(|number| {
        let remote = &gateways[usize::from(number % 2 == 1)];
        append(remote, vec![lost(number), lost(number)])
    });
    let told = join_all(appended).await;
    let text = export(&log, folder.path()).await;
    assert_eq!(
        text,
        std::fs::read(folder.path().join("00000000000000000000.log")).expect("a segment")
    );
    let counts = verified(&text);
    assert_eq!(counts.len(), 400);
    for (number, told) in (0..).zip(told) {
        let first = usize::try_from(told.expect("kept").first).expect("small");
        assert_eq!(counts[first..first + 2], [number, number]);
    }
    let commits = log.figures().commits;
    assert!(
        commits < 150,
        "what waits shares a request and a write: {commits}"
    );
    gateways.iter().for_each(Remote::end);
    assert!(shutdown.finish(PATIENCE).await);
}

#[tokio::test]
async fn nobody_but_a_gateway_writes_or_is_told_anything() {
    let (ground, address) = Ground::served().await;
    let Ground {
        mesh,
        folder: _folder,
        shutdown,
        log,
    } = ground;
    let place = place(address);
    let line = serde_json::to_vec(&lost(1)).expect("JSON");
    let body = Bytes::from([line.as_slice(), b"\n"].concat());
    for member in [
        Member::new(),
        mesh.member("mesh-system", "mesh-operator"),
        mesh.member("team", GATEWAY),
    ] {
        for request in [Request::post("/v1/entries"), Request::get("/v1/state")] {
            let mut session = Session::open(&place, &member, &mesh.trust)
                .await
                .expect("a connection");
            let (status, said) = session
                .ask(request, body.clone(), 1024)
                .await
                .expect("an answer");
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert!(said.starts_with(b"only gateways"), "{said:?}");
        }
    }
    let stranger = Mesh::new();
    let mut session = Session::open(
        &place,
        &stranger.member("mesh-system", GATEWAY),
        &mesh.trust,
    )
    .await;
    if let Ok(session) = &mut session {
        session
            .ask(Request::get("/v1/state"), Bytes::new(), 1024)
            .await
            .expect_err("the handshake ended");
    }
    assert_eq!(log.figures().size, 0);
    assert!(shutdown.finish(PATIENCE).await);
}

#[tokio::test]
async fn what_is_not_entries_is_refused_whole() {
    let (ground, address) = Ground::served().await;
    let Ground {
        mesh,
        folder: _folder,
        shutdown,
        log,
    } = ground;
    let place = place(address);
    let line = serde_json::to_vec(&lost(1)).expect("JSON");
    let half = [line.as_slice(), b"\n{}\n"].concat();
    let gateway = mesh.member("mesh-system", GATEWAY);
    let mut session = Session::open(&place, &gateway, &mesh.trust)
        .await
        .expect("a connection");
    for wrong in [&b""[..], b"\n", b"{}\n", &line, &half, b"{\"v\":1}\n"] {
        let asked = session.ask(
            Request::post("/v1/entries"),
            Bytes::copy_from_slice(wrong),
            1024,
        );
        assert_eq!(
            asked.await.expect("an answer").0,
            StatusCode::BAD_REQUEST,
            "{wrong:?}"
        );
    }
    assert_eq!(log.figures().size, 0);
    assert!(shutdown.finish(PATIENCE).await);
}

#[tokio::test]
async fn a_ledger_that_is_away_is_told_at_once_and_found_again_when_it_comes() {
    let (ground, first) = (Ground::new(), Shutdown::new());
    let address = ground.serve((LEDGER, None), &first).await;
    let remote = ground.mesh.remote(address, PATIENCE, &ground.shutdown);
    until("it is there", || remote.state().durable).await;
    assert_eq!(
        append(&remote, vec![lost(1)]).await,
        Ok(Receipt { first: 0, size: 1 })
    );

    assert!(first.finish(PATIENCE).await);
    until("it is missed without anybody asking", || {
        !remote.state().durable
    })
    .await;
    let refused = append(&remote, vec![lost(2)]).await;
    assert!(
        matches!(refused, Err(NotDurable::Unreachable(_))),
        "{refused:?}"
    );

    let second = Shutdown::new();
    ground.serve((LEDGER, Some(address)), &second).await;
    until("it is there again", || remote.state().durable).await;
    assert_eq!(
        append(&remote, vec![lost(3)]).await,
        Ok(Receipt { first: 1, size: 2 })
    );
    let text = export(&ground.log, ground.folder.path()).await;
    assert_eq!(verified(&text), [1, 3]);
    remote.end();
    assert!(second.finish(PATIENCE).await && ground.shutdown.finish(PATIENCE).await);
}

#[tokio::test]
async fn somebody_else_at_its_address_is_not_the_ledger() {
    let ground = Ground::new();
    let whom = ("mesh-floor", None);
    let address = ground.serve(whom, &ground.shutdown).await;
    let remote = ground.mesh.remote(address, PATIENCE, &ground.shutdown);
    until("it was tried", || {
        remote
            .state()
            .reason
            .is_some_and(|reason| reason.contains("not who was asked"))
    })
    .await;
    assert!(matches!(
        append(&remote, vec![lost(1)]).await,
        Err(NotDurable::Unreachable(_))
    ));
    assert_eq!(ground.log.figures().size, 0);
    remote.end();
    assert!(ground.shutdown.finish(PATIENCE).await);
}

#[tokio::test]
async fn an_entry_that_is_refused_does_not_take_others_with_it_and_what_waits_is_written_before_the_end()
 {
    let (ground, address) = Ground::served().await;
    let Ground {
        mesh,
        folder,
        shutdown,
        log,
    } = ground;
    let gateway = Shutdown::new();
    let remote = mesh.remote(address, PATIENCE, &gateway);
    until("it is there", || remote.state().durable).await;
    let mut forged = lost(9);
    forged.gateway = String::from("mesh-ledger");
    let told = (1..=9).map(|number| {
        let entry = if number == 5 {
            forged.clone()
        } else {
            lost(number)
        };
        remote.append(vec![entry])
    });
    let told = join_all(told.collect::<Vec<_>>()).await;
    let refused: Vec<_> = told.iter().filter(|told| told.is_err()).collect();
    assert!(
        matches!(refused[..], [Err(NotDurable::Refused(_))]),
        "{told:?}"
    );
    for number in 10..20 {
        drop(remote.append(vec![lost(number)]));
    }
    remote.end();
    assert_eq!(
        append(&remote, vec![lost(0)]).await,
        Err(NotDurable::Closed)
    );
    assert!(gateway.finish(PATIENCE).await, "it ends by itself");
    assert!(shutdown.finish(PATIENCE).await);
    assert_eq!(
        verified(&export(&log, folder.path()).await),
        [
            1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19
        ]
    );
}

#[tokio::test]
async fn a_log_that_was_damaged_keeps_nothing_and_can_be_read_until_it_is_set_aside() {
    let Ground {
        mesh,
        folder,
        shutdown,
        log,
    } = Ground::new();
    for number in 1..4 {
        log.append(vec![lost(number)]).await.expect("kept");
    }
    drop(log);
    let segment = folder.path().join("00000000000000000000.log");
    let good = std::fs::read_to_string(&segment).expect("a segment");
    let damaged = good.replace("\"count\":1", "\"count\":9");
    std::fs::write(&segment, &damaged).expect("written");
    let open =
        |aside: &str| Keeper::open(folder.path(), log::Options::default(), aside).expect("usable");
    let keeper = open("");
    let reason = keeper.state().reason.expect("a reason");
    assert!(reason.contains("is damaged"), "{reason}");
    assert_eq!(shown(keeper.clone()).await, damaged.as_bytes());
    let address = mesh
        .serve(written(keeper, "mesh-system"), (LEDGER, None), &shutdown)
        .await;
    let remote = mesh.remote(address, PATIENCE, &shutdown);
    until("it is told why", || {
        remote
            .state()
            .reason
            .is_some_and(|told| told.contains("is damaged"))
    })
    .await;
    assert!(append(&remote, vec![lost(5)]).await.is_err());
    remote.end();
    assert!(shutdown.finish(PATIENCE).await);
    assert_eq!(
        std::fs::read_to_string(&segment).expect("a segment"),
        damaged
    );

    let keeper = open("one");
    assert!(keeper.state().durable);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("aside/one/00000000000000000000.log"))
            .expect("aside"),
        damaged
    );
    // The name is used up: another damage is not moved over the first.
    drop(keeper);
    std::fs::remove_file(folder.path().join("key")).expect("removed");
    assert!(!open("one").state().durable);
}

mod slow;
