//! Views joined, statuses written, and gateways that are none.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use mesh_crds::inference_backend::{HealthState, HealthStatus};
use mesh_identity::{Account, Authority, Member, Signer, Trust, server_config};
use mesh_runtime::Shutdown;
use mesh_runtime::serve::{Limits, PeerCertificate, serve_tls};
use mesh_testkit::accounts::{Accounts, ISSUER};
use serde_json::{Value, json};

use super::{Asker, View, Word, agreed, gateways, is_word, join, status, unasked};

const DAY: Duration = Duration::from_hours(24);

fn word(state: HealthState, reason: &str) -> Word {
    Word {
        state,
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        authority: None,
    }
}

#[test]
fn one_gateway_that_cannot_read_an_authority_speaks_for_all_and_who_knows_of_none_has_no_say() {
    use mesh_crds::AuthorityState::{Invalid, Missing, Readable};
    let read = |authority| Word {
        authority,
        ..word(HealthState::Unknown, "")
    };
    for (all, joined) in [
        (vec![None, Some(Readable)], Some(Readable)),
        (vec![Some(Readable), Some(Missing)], Some(Missing)),
        (vec![Some(Invalid), Some(Missing), None], Some(Invalid)),
        (vec![None, None], None),
    ] {
        let words: Vec<Word> = all.into_iter().map(read).collect();
        let words: Vec<&Word> = words.iter().collect();
        assert_eq!(agreed(&words).authority, joined, "{words:?}");
    }
    let newer: mesh_crds::AuthorityState =
        serde_json::from_value(json!("Revoked")).expect("a word of a newer gateway");
    assert_eq!(newer, Invalid);
}

#[test]
fn gateways_agree_or_the_backend_is_degraded_and_who_does_not_know_has_no_say() {
    let well = word(HealthState::Healthy, "");
    let down = word(HealthState::Unhealthy, "Failures");
    let rated = word(HealthState::Unhealthy, "RateLimited");
    let some = word(HealthState::Degraded, "Failures");
    let nobody = word(HealthState::Unknown, "");
    let degraded = word(HealthState::Degraded, "Failures");
    for (words, joined) in [
        (vec![&well, &well], &well),
        (vec![&well, &nobody], &well),
        (vec![&down, &nobody], &down),
        (vec![&down, &rated], &down),
        (vec![&rated, &down], &down),
        (vec![&well, &down], &degraded),
        (vec![&some], &degraded),
        (vec![&nobody, &nobody], &nobody),
    ] {
        assert_eq!(&agreed(&words), joined, "{words:?}");
    }
    let id = |name: &str| (String::from("a"), name.to_owned());
    let one: View = BTreeMap::from([(id("x"), well), (id("y"), down.clone())]);
    let other: View = BTreeMap::from([(id("x"), down)]);
    let joined = join(&[one, other]);
    assert_eq!(joined[&id("x")], degraded);
    assert_eq!(
        joined[&id("y")].state,
        HealthState::Unhealthy,
        "as it knows it"
    );
}

#[test]
fn the_time_of_a_state_changes_with_it_and_nobody_s_silence_changes_anything() {
    let now = Timestamp::UNIX_EPOCH;
    let old = |state: HealthState| HealthStatus {
        state,
        since: String::from("2020-01-01T00:00:00Z"),
        reason: None,
    };
    let well = old(HealthState::Healthy);
    let down = word(HealthState::Unhealthy, "Failures");
    let nobody = word(HealthState::Unknown, "");
    assert_eq!(status(None, None, now), None);
    assert_eq!(status(None, Some(&nobody), now), None);
    assert_eq!(status(Some(&well), None, now), Some(well.clone()));
    assert_eq!(status(Some(&well), Some(&nobody), now), Some(well.clone()));
    let fell = status(Some(&well), Some(&down), now).expect("a status");
    assert_eq!(fell.since, "1970-01-01T00:00:00Z");
    assert_eq!(fell.reason.as_deref(), Some("Failures"));
    let other = word(HealthState::Unhealthy, "RateLimited");
    let still = status(Some(&fell), Some(&other), Timestamp::now()).expect("a status");
    assert_eq!(
        (still.since, still.reason),
        (fell.since.clone(), other.reason)
    );
    let unknown = status(Some(&fell), Some(&nobody), now).expect("a status");
    assert_eq!(
        unknown.state,
        HealthState::Unknown,
        "what was bad is not believed for ever"
    );
}

#[test]
fn only_running_pods_of_the_mesh_namespace_are_asked() {
    let pod = |namespace: &str, phase: &str, ip: Value, deleted: bool| {
        let mut metadata = json!({"namespace": namespace, "name": "x"});
        if deleted {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let pod = json!({"metadata": metadata, "status": {"phase": phase, "podIP": ip}});
        Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
    };
    let found = gateways(
        &[
            pod("mesh-system", "Running", json!("10.0.0.2"), false),
            pod("mesh-system", "Running", json!("fd00::1"), false),
            pod("mesh-system", "Running", json!("10.0.0.3"), true),
            pod("mesh-system", "Pending", json!("10.0.0.4"), false),
            pod("mesh-system", "Running", Value::Null, false),
            pod("team", "Running", json!("10.0.0.5"), false),
        ],
        "mesh-system",
    );
    let expected: Vec<SocketAddr> = ["10.0.0.2:8443", "[fd00::1]:8443"]
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_reason_is_one_word() {
    assert!(is_word("Failures") && is_word("NotReady2"));
    for wrong in ["", "failures", "Two Words", "<b>", "F\n", &"F".repeat(65)] {
        assert!(!is_word(wrong), "{wrong}");
    }
}

/// A mesh of members in this process.
struct Mesh {
    signer: Signer,
}

impl Mesh {
    fn new() -> Self {
        mesh_runtime::install_crypto_provider();
        let authority = Authority::generate(SystemTime::now(), DAY * 365).expect("an authority");
        let trust = Trust::new();
        trust
            .set(authority.certificate(), &Accounts::new().keys, ISSUER)
            .expect("trust");
        let signer = Signer::new(trust, HashMap::new(), DAY);
        signer.authority.store(Some(Arc::new(authority)));
        Self { signer }
    }

    fn member(&self, name: &str) -> Arc<Member> {
        let account = Account::new("mesh-system", name);
        let (chain, key) = self
            .signer
            .own(&account, &[], SystemTime::now())
            .expect("signed");
        let member = Member::new();
        member.install(&chain, &key).expect("installed");
        member
    }

    fn asker(&self) -> Asker {
        Asker {
            member: self.member("mesh-operator"),
            trust: Arc::clone(&self.signer.trust),
            mesh_namespace: String::from("mesh-system"),
            interval: Duration::from_secs(1),
        }
    }

    /// Asks a server that is this member and answers this.
    async fn ask(&self, server: &str, answer: Value) -> Result<View, super::Error> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let tls = server_config(&self.member(server), Some(&self.signer.trust)).expect("TLS");
        let answer = async |shown: axum::Extension<PeerCertificate>| {
            let account = mesh_identity::account_of(&shown.0.0);
            assert_eq!(account.expect("an account").name, "mesh-operator");
            Json(answer)
        };
        let router = Router::new().route("/mesh/v1/backends", get(answer));
        let shutdown = Shutdown::new();
        let serve = serve_tls(listener, tls, router, Limits::default(), &shutdown);
        let asker = self.asker();
        let ask = async {
            let told = asker.ask(address).await;
            shutdown.token.cancel();
            told
        };
        tokio::join!(serve, ask).1
    }
}

#[tokio::test]
async fn a_gateway_is_believed_by_its_certificate_and_nobody_else_is() {
    let mesh = Mesh::new();
    let answer = json!({"backends": [
        {"namespace": "a", "name": "x", "state": "Unhealthy", "reason": "Failures"},
        {"namespace": "a", "name": "y", "state": "Healthy", "reason": "not a word"},
    ]});
    let told = mesh
        .ask("mesh-gateway", answer.clone())
        .await
        .expect("told");
    let id = |name: &str| (String::from("a"), name.to_owned());
    assert_eq!(told[&id("x")], word(HealthState::Unhealthy, "Failures"));
    assert_eq!(told[&id("y")], word(HealthState::Healthy, ""));
    assert!(mesh.ask("floor-worker", answer.clone()).await.is_err());
    assert!(
        mesh.ask("mesh-gateway", json!({"error": {}}))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn who_cannot_be_reached_says_nothing() {
    let mesh = Mesh::new();
    let asker = mesh.asker();
    let views = asker.round(vec![SocketAddr::from(([127, 0, 0, 1], 1))]);
    assert!(views.await.is_empty());
}

#[test]
fn of_another_mesh_nobody_knows_and_that_is_told_once() {
    let (then, now) = (Timestamp::UNIX_EPOCH, Timestamp::now());
    let first = unasked(None, then);
    assert_eq!(first.state, HealthState::Unknown);
    assert_eq!(first.reason.as_deref(), Some("PeerTrafficNotServed"));
    assert_eq!(unasked(Some(&first), now), first, "nothing to write");
    // What it was before it became a peer is nobody's word any more.
    let well = HealthStatus {
        state: HealthState::Healthy,
        since: String::from("2020-01-01T00:00:00Z"),
        reason: None,
    };
    assert_eq!(unasked(Some(&well), then), first);
    // And once it is something else, the gateways' word counts again.
    let healthy = word(HealthState::Healthy, "");
    let after = status(Some(&first), Some(&healthy), now).expect("a status");
    assert_eq!((after.state, after.reason), (HealthState::Healthy, None));
}
