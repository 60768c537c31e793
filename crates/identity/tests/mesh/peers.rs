//! Handshakes between members, and with everybody who is not the one that is expected.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::{
    AUDIENCE, Account, Admission, Authority, Member, Refusal, Signer, Trust, client_config,
    server_config,
};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::world::{DAY, World, YEAR, gateway, worker};

/// One handshake and a byte each way; gives what the server saw of the client.
async fn shake(
    server: (&Arc<Member>, &Arc<Trust>),
    client: (Option<&Arc<Member>>, &Arc<Trust>, Option<Account>),
    name: &'static str,
) -> Result<Option<CertificateDer<'static>>, String> {
    let acceptor = TlsAcceptor::from(Arc::new(
        server_config(server.0, Some(server.1)).expect("TLS"),
    ));
    let connector = TlsConnector::from(Arc::new(
        client_config(client.0, client.1, client.2).expect("TLS"),
    ));
    let (near, far) = tokio::io::duplex(1 << 16);
    let serve = async {
        let mut stream = acceptor.accept(far).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.shutdown().await?;
        let shown = stream.get_ref().1.peer_certificates();
        Ok::<_, std::io::Error>(shown.and_then(|all| all.first().cloned()))
    };
    let ask = async {
        let name = ServerName::try_from(name).expect("a name");
        let mut stream = connector.connect(name, near).await?;
        stream.write_all(b"x").await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map(drop)
    };
    let (there, asked) = tokio::join!(serve, ask);
    asked.map_err(|error| error.to_string())?;
    there.map_err(|error| error.to_string())
}

fn signed_by(authority: &Authority, account: &Account, at: SystemTime) -> Arc<Member> {
    let signer = Signer::new(Trust::new(), HashMap::new(), DAY);
    let again = Authority::load(authority.certificate(), &authority.key()).expect("loaded");
    signer.authority.store(Some(Arc::new(again)));
    let (chain, key) = signer.own(account, &[], at).expect("signed");
    let member = Member::new();
    member.install(&chain, &key).expect("installed");
    member
}

#[tokio::test]
async fn a_gateway_and_a_worker_prove_themselves_to_each_other() {
    let world = World::new(DAY);
    let (trust, server, client) = (
        world.trust(),
        world.member(&worker(), &[]),
        world.member(&gateway(), &[]),
    );
    let shown = shake(
        (&server, &trust),
        (Some(&client), &trust, Some(worker())),
        "10.0.0.7",
    )
    .await
    .expect("both are who they say");
    let shown = shown.expect("a certificate");
    assert_eq!(mesh_identity::account_of(&shown), Some(gateway()));
}

#[tokio::test]
async fn a_pod_of_another_account_namespace_authority_or_time_is_refused() {
    let world = World::new(DAY);
    let (trust, client) = (world.trust(), world.member(&gateway(), &[]));
    let foreign = Authority::generate(SystemTime::now(), YEAR).expect("an authority");
    let ours = world.signer.authority.load_full().expect("an authority");
    let long_ago = SystemTime::now() - DAY * 2;
    let pretenders = [
        (
            "another account",
            world.member(&Account::new("team", "other-worker"), &[]),
        ),
        (
            "another namespace",
            world.member(&Account::new("other", "small-worker"), &[]),
        ),
        (
            "another authority",
            signed_by(&foreign, &worker(), SystemTime::now()),
        ),
        (
            "a certificate that has ended",
            signed_by(&ours, &worker(), long_ago),
        ),
    ];
    for (what, server) in pretenders {
        let client = (Some(&client), &trust, Some(worker()));
        let refused = shake((&server, &trust), client, "10.0.0.7").await;
        let refused = refused.expect_err(what);
        assert!(refused.contains("certificate"), "{what}: {refused}");
    }
    let nobody = Member::new();
    let client = (Some(&client), &trust, Some(worker()));
    assert!(shake((&nobody, &trust), client, "10.0.0.7").await.is_err());
}

#[tokio::test]
async fn a_client_certificate_that_does_not_hold_ends_the_handshake_and_none_is_let_through() {
    let world = World::new(DAY);
    let (trust, server) = (world.trust(), world.member(&worker(), &[]));
    let foreign = Authority::generate(SystemTime::now(), YEAR).expect("an authority");
    let ours = world.signer.authority.load_full().expect("an authority");
    for client in [
        signed_by(&foreign, &gateway(), SystemTime::now()),
        signed_by(&ours, &gateway(), SystemTime::now() - DAY * 2),
    ] {
        let client = (Some(&client), &trust, Some(worker()));
        assert!(shake((&server, &trust), client, "10.0.0.7").await.is_err());
    }
    let shown = shake(
        (&server, &trust),
        (None, &trust, Some(worker())),
        "10.0.0.7",
    )
    .await;
    assert_eq!(shown.expect("let through"), None);
}

#[tokio::test]
async fn a_host_is_known_by_its_name_where_no_account_is_expected() {
    let world = World::new(DAY);
    let trust = world.trust();
    let hosts = [String::from("mesh-operator.mesh-system.svc")];
    let server = world.member(&Account::new("mesh-system", "mesh-operator"), &hosts);
    let good = shake(
        (&server, &trust),
        (None, &trust, None),
        "mesh-operator.mesh-system.svc",
    );
    assert!(good.await.is_ok());
    let other = shake(
        (&server, &trust),
        (None, &trust, None),
        "mesh-gateway.mesh-system.svc",
    );
    assert!(other.await.is_err());
}

#[test]
fn a_worker_serves_gateways_by_certificate_and_its_namespace_by_token_and_nobody_else() {
    let world = World::new(DAY);
    let team = Admission {
        trust: world.trust(),
        gateway: gateway(),
        namespace: String::from("team"),
    };
    let home = Admission {
        namespace: String::from("mesh-system"),
        ..team.clone()
    };
    let now = SystemTime::now();
    let shown = |account: &Account| world.member(account, &[]).chain().remove(0);
    let token = |namespace: &str, audience: &str| {
        world
            .token(&Account::new(namespace, "app"), audience)
            .into_bytes()
    };
    assert_eq!(
        team.admit(Some(&shown(&gateway())), None, now),
        Ok(gateway())
    );
    for (certificate, bearer, why) in [
        (None, None, Refusal::Nobody),
        (Some(shown(&worker())), None, Refusal::NotAGateway),
        (
            Some(shown(&Account::new("team", "mesh-gateway"))),
            None,
            Refusal::NotAGateway,
        ),
        (None, Some(token("team", "other")), Refusal::Token),
        (None, Some(b"nonsense".to_vec()), Refusal::Token),
        (None, Some(token("elsewhere", AUDIENCE)), Refusal::Namespace),
    ] {
        let refused = team.admit(certificate.as_ref(), bearer.as_deref(), now);
        assert_eq!(refused, Err(why));
    }
    let later = now + DAY + Duration::from_secs(1);
    let ended = team.admit(Some(&shown(&gateway())), None, later);
    assert_eq!(
        ended,
        Err(Refusal::NotAGateway),
        "a connection does not outlive its proof"
    );
    let app = |namespace: &str| Ok(Account::new(namespace, "app"));
    assert_eq!(
        team.admit(None, Some(&token("team", AUDIENCE)), now),
        app("team")
    );
    assert_eq!(
        home.admit(None, Some(&token("elsewhere", AUDIENCE)), now),
        app("elsewhere")
    );
    let sidecar = team.admit(
        Some(&shown(&Account::new("team", "app"))),
        Some(&token("team", AUDIENCE)),
        now,
    );
    assert_eq!(sidecar, app("team"));
}
