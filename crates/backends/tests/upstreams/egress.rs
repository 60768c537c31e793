//! What leaves, exactly: headers by list, nothing of the environment, no address outside.

use std::process::Command;
use std::time::Duration;

use mesh_backends::{AttemptError, Backends, ClientOptions, HealthEffect};
use mesh_core::{Cloud, Credential, Place, PrivacyLevel};
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};

use crate::world::{
    CANARY, admitted, admitted_within, at, backend, chat, clients, endpoint, error, key_file, send,
};

fn names(headers: &[(String, String)]) -> Vec<&str> {
    headers.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn exactly_the_listed_headers_arrive() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let (_folder, key) = key_file("key-1");
    let mut plain = endpoint(&upstream.url());
    plain.credentials = Some(key);
    let (_, failed) = send(&clients(), &admitted(backend(plain.clone())), chat()).await;
    assert_eq!(failed, None);
    let sent = &upstream.requests()[0];
    assert_eq!(
        names(&sent.headers),
        [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "user-agent"
        ]
    );
    assert_eq!(sent.header("authorization"), Some("Bearer key-1"));
    assert_eq!(sent.header("accept"), Some("text/event-stream"));
    assert_eq!(sent.header("content-type"), Some("application/json"));
    let agent = sent.header("user-agent").expect("an agent");
    assert!(agent.starts_with("inference-mesh/"), "{agent}");
    assert!(!upstream.saw("tenant-canary"), "the tenant stays here");

    plain.auth_header = Some(String::from("api-key"));
    plain.organization = Some(String::from("org-1"));
    plain.headers = vec![(String::from("X-Region"), String::from("eu"))];
    let mut declared = backend(plain);
    declared.stream_upstream = false;
    let (_, failed) = send(&clients(), &admitted(declared), chat()).await;
    assert_eq!(failed, None);
    let sent = &upstream.requests()[1];
    assert_eq!(
        names(&sent.headers),
        [
            "accept",
            "api-key",
            "content-length",
            "content-type",
            "host",
            "openai-organization",
            "user-agent",
            "x-region"
        ]
    );
    assert_eq!(sent.header("api-key"), Some("key-1"));
    assert_eq!(sent.header("accept"), Some("application/json"));
}

#[tokio::test]
async fn a_declared_header_cannot_take_over_what_the_client_sets() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    for (name, value) in [
        ("Host", "x"),
        ("transfer-encoding", "chunked"),
        ("a b", "x"),
        ("x-a", "a\nb"),
    ] {
        let mut endpoint = endpoint(&upstream.url());
        endpoint.headers = vec![(name.to_owned(), value.to_owned())];
        let error = error(&clients(), &admitted(backend(endpoint)), chat()).await;
        assert!(matches!(error, AttemptError::Unusable(_)), "{error:?}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn only_listed_response_headers_come_back() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let answer = Answer::text("a")
        .header("openai-processing-ms", "12")
        .header("x-request-id", "req-1")
        .header("set-cookie", "a=b")
        .header("openai-organization", "org-canary")
        .header("mesh-backend", "forged");
    upstream.set(answer);
    let admitted = admitted(at(&upstream));
    let started = clients().start(&admitted, chat()).await.expect("started");
    let headers: Vec<(&str, &str)> = started
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
        .collect();
    assert_eq!(
        headers,
        [
            ("openai-processing-ms", "12"),
            ("x-upstream-request-id", "req-1")
        ]
    );
}

#[tokio::test]
async fn a_rotated_key_counts_with_the_next_request_and_a_missing_one_sends_nothing() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let (folder, key) = key_file("first-canary\n");
    let path = folder.path().join("key");
    let mut endpoint = endpoint(&upstream.url());
    endpoint.credentials = Some(key);
    let (backends, admitted) = (clients(), admitted(backend(endpoint.clone())));
    let (_, failed) = send(&backends, &admitted, chat()).await;
    assert_eq!(failed, None);
    std::fs::write(&path, "second-canary").expect("written");
    let (_, failed) = send(&backends, &admitted, chat()).await;
    assert_eq!(failed, None);
    let keys: Vec<String> = upstream
        .requests()
        .iter()
        .filter_map(|request| request.header("authorization").map(str::to_owned))
        .collect();
    assert_eq!(keys, ["Bearer first-canary", "Bearer second-canary"]);
    drop(folder);
    let missing = error(&backends, &admitted, chat()).await;
    assert!(missing.to_string().contains(&path.display().to_string()));
    assert_eq!(missing.health(), HealthEffect::Marked("CredentialsMissing"));
    endpoint.credentials = Some(Credential::Env(String::from("MESH_TEST_NO_SUCH_KEY")));
    let missing = error(
        &backends,
        &crate::world::admitted(backend(endpoint)),
        chat(),
    )
    .await;
    assert!(missing.to_string().contains("MESH_TEST_NO_SUCH_KEY"));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn an_address_outside_the_owned_networks_gets_not_one_byte() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let port = upstream.address().port();
    // Declared with an address inside when the snapshot was made, resolved to another now.
    let mut named = endpoint(&format!("http://localhost:{port}/v1"));
    named.resolved = vec!["10.0.0.1".parse().expect("an address")];
    let admitted = admitted_within(backend(named), &["10.0.0.0/8"]);
    assert!(admitted.networks().is_some());
    let outside = error(&clients(), &admitted, chat()).await;
    assert_eq!(outside, AttemptError::AddressOutsideNetworks);
    assert_eq!(
        outside.health(),
        HealthEffect::Marked("AddressOutsideNetworks")
    );
    let mut literal = endpoint(&upstream.url());
    literal.resolved = vec!["10.0.0.1".parse().expect("an address")];
    let admitted = admitted_within(backend(literal), &["10.0.0.0/8"]);
    if admitted.networks().is_some() {
        let outside = error(&clients(), &admitted, chat()).await;
        assert_eq!(outside, AttemptError::AddressOutsideNetworks);
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn an_address_inside_the_owned_networks_is_connected_to() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let port = upstream.address().port();
    for host in ["localhost", "127.0.0.1"] {
        let mut endpoint = endpoint(&format!("http://{host}:{port}/v1"));
        endpoint.resolved = vec!["127.0.0.1".parse().expect("an address")];
        let admitted = admitted_within(backend(endpoint), &["127.0.0.0/8"]);
        assert!(admitted.networks().is_some(), "{host}");
        let (_, failed) = send(&clients(), &admitted, chat()).await;
        assert_eq!(failed, None, "{host}");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn an_owned_address_that_became_a_pods_gets_not_one_byte() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let port = upstream.address().port();
    let mut endpoint = endpoint(&format!("http://localhost:{port}/v1"));
    endpoint.resolved = vec!["127.0.0.1".parse().expect("an address")];
    let backends = clients();
    let owned = admitted_within(backend(endpoint.clone()), &["127.0.0.0/8", "10.0.0.0/8"]);
    let (_, failed) = send(&backends, &owned, chat()).await;
    assert_eq!(failed, None);
    // A node joined whose pods have these addresses, and the name still meant another one when the snapshot was made.
    endpoint.cluster_networks = std::sync::Arc::new(["127.0.0.0/16".parse().expect("a network")]);
    endpoint.resolved = vec!["10.0.0.1".parse().expect("an address")];
    let owned = admitted_within(backend(endpoint), &["127.0.0.0/8", "10.0.0.0/8"]);
    assert!(owned.networks().is_some());
    let outside = error(&backends, &owned, chat()).await;
    assert_eq!(outside, AttemptError::AddressOutsideNetworks);
    assert_eq!(
        upstream.count(),
        1,
        "the kept connection is not used either"
    );
}

#[tokio::test]
async fn a_connection_made_without_the_check_is_never_used_where_it_counts() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let port = upstream.address().port();
    let mut endpoint = endpoint(&format!("http://localhost:{port}/v1"));
    let backends = clients();
    let (_, failed) = send(&backends, &admitted(backend(endpoint.clone())), chat()).await;
    assert_eq!(failed, None);
    endpoint.resolved = vec!["10.0.0.1".parse().expect("an address")];
    let checked = admitted_within(backend(endpoint), &["10.0.0.0/8"]);
    let outside = error(&backends, &checked, chat()).await;
    assert_eq!(outside, AttemptError::AddressOutsideNetworks);
    assert_eq!(upstream.count(), 1);
}

/// uvicorn closes an unused connection after five seconds, a load balancer of a cloud after a minute.
#[tokio::test]
async fn an_unused_connection_to_a_model_server_is_not_used_again_for_as_long_as_one_to_a_cloud() {
    let options = ClientOptions::default();
    assert!(options.server_idle_timeout < Duration::from_secs(5));
    assert!(options.idle_timeout < Duration::from_mins(1));
    let backends = Backends::new(ClientOptions {
        server_idle_timeout: Duration::from_millis(50),
        ..options
    })
    .expect("clients");
    for (cloud, connections) in [(true, 1), (false, 2)] {
        let upstream = ScriptedUpstream::start().await.expect("an upstream");
        let mut backend = at(&upstream);
        if cloud && let Place::External(endpoint) = backend.place.clone() {
            backend.place = Place::Cloud(Cloud {
                endpoint,
                provider: String::from("example"),
                claims: None,
            });
        }
        let admitted = admitted(backend);
        for _ in 0..2 {
            let (_, failed) = send(&backends, &admitted, chat()).await;
            assert_eq!(failed, None);
            // Longer than one of the two limits; how much longer does not matter.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert_eq!(upstream.connections(), connections, "cloud: {cloud}");
    }
}

#[tokio::test]
async fn a_request_above_the_level_it_was_admitted_for_is_not_sent() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let mut outbound = chat();
    outbound.level = PrivacyLevel::Restricted;
    let error = error(&clients(), &admitted(at(&upstream)), outbound).await;
    assert_eq!(error, AttemptError::NotAdmitted);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_url_with_a_user_or_another_scheme_is_not_used() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    for url in [
        upstream.url().replace("http://", "http://user:canary@"),
        upstream.url().replace("http://", "ftp://"),
    ] {
        let error = error(&clients(), &admitted(backend(endpoint(&url))), chat()).await;
        assert!(matches!(error, AttemptError::Unusable(_)), "{error:?}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn the_base_path_and_query_of_a_url_are_kept() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let root = format!("http://{}", upstream.address());
    for (base, path, query) in [
        ("", "/chat/completions", None),
        ("/", "/chat/completions", None),
        ("/openai/v1/", "/openai/v1/chat/completions", None),
        (
            "/dep/x?api-version=1#f",
            "/dep/x/chat/completions",
            Some("api-version=1"),
        ),
    ] {
        let backend = backend(endpoint(&format!("{root}{base}")));
        let (_, failed) = send(&clients(), &admitted(backend), chat()).await;
        assert_eq!(failed, None);
        let sent = upstream.requests().pop().expect("a request");
        assert_eq!((sent.path.as_str(), sent.query.as_deref()), (path, query));
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let (backends, admitted) = (clients(), admitted(at(&upstream)));
    for _ in 0..5 {
        let (_, failed) = send(&backends, &admitted, chat()).await;
        assert_eq!(failed, None);
    }
    assert_eq!((upstream.count(), upstream.connections()), (5, 1));
}

const ROLE: &str = "MESH_TEST_CHILD_SENDS_TO";

/// Alone it does nothing; the tests below start it as a process with an environment of its own.
#[tokio::test]
async fn child_that_sends_one_request() {
    let Ok(url) = std::env::var(ROLE) else {
        return;
    };
    let admitted = admitted(backend(endpoint(&url)));
    let (_, failed) = send(&clients(), &admitted, chat()).await;
    assert_eq!(failed, None);
}

/// Sends one request to `upstream` from a process with these environment variables.
async fn send_from_child(upstream: &ScriptedUpstream, environment: &[(&str, &str)]) {
    let mut child = Command::new(std::env::current_exe().expect("this test"));
    child
        .args(["--exact", "egress::child_that_sends_one_request"])
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env(ROLE, upstream.url())
        .envs(environment.iter().copied());
    let output = tokio::task::spawn_blocking(move || child.output())
        .await
        .expect("a thread")
        .expect("a process");
    assert!(output.status.success(), "{output:?}");
    assert!(upstream.saw(CANARY), "the request arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_of_the_environment_are_ignored() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let proxy = ScriptedUpstream::start().await.expect("a recorder");
    proxy.set(Behavior::status(502));
    let address = format!("http://{}", proxy.address());
    let names = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ];
    send_from_child(&upstream, &names.map(|name| (name, address.as_str()))).await;
    assert_eq!(proxy.connections(), 0, "and the proxy heard nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_certificate_authorities_still_speaks_plain_http() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let empty = tempfile::NamedTempFile::new().expect("a file");
    let path = empty.path().to_str().expect("text");
    send_from_child(&upstream, &[("SSL_CERT_FILE", path)]).await;
}

/// The same backend, declared by a tenant.
fn tenant(endpoint: mesh_core::Endpoint) -> mesh_core::Backend {
    mesh_core::Backend {
        id: mesh_core::BackendId::foreign("team", "cloud"),
        ..backend(endpoint)
    }
}

#[tokio::test]
async fn a_tenants_backend_at_an_address_of_the_mesh_gets_not_one_byte_and_the_owners_may() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let port = upstream.address().port();
    let closed = ["127.0.0.1", "::1"].map(|address| address.parse().expect("an address"));
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let backends = clients();
        let endpoint = endpoint(&format!("http://{host}:{port}/v1"));
        backends.set_closed(closed);
        let refused = error(&backends, &admitted(tenant(endpoint.clone())), chat()).await;
        assert_eq!(refused, AttemptError::AddressClosed, "{host}");
        assert_eq!(refused.health(), HealthEffect::Marked("AddressClosed"));
        let probed = backends.probe(&tenant(endpoint.clone())).await;
        assert_eq!(probed, Err(AttemptError::AddressClosed), "{host}");
    }
    assert_eq!(upstream.connections(), 0);
    let backends = clients();
    backends.set_closed(closed);
    let own = admitted(backend(endpoint(&upstream.url())));
    assert_eq!(send(&backends, &own, chat()).await.1, None);
}

#[tokio::test]
async fn a_name_that_comes_to_mean_a_part_of_the_mesh_is_refused_from_then_on() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("a").header("connection", "close"));
    let port = upstream.address().port();
    let backends = clients();
    let endpoint = endpoint(&format!("http://localhost:{port}/v1"));
    let admitted = admitted(tenant(endpoint));
    assert_eq!(send(&backends, &admitted, chat()).await.1, None);
    // The name stays, what it leads to is now the mesh's.
    backends.set_closed(["127.0.0.1", "::1"].map(|address| address.parse().expect("an address")));
    let refused = error(&backends, &admitted, chat()).await;
    assert_eq!(refused, AttemptError::AddressClosed);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn where_many_are_served_nobodys_backend_is_this_machine_itself() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let port = upstream.address().port();
    let shared = || {
        Backends::new(ClientOptions {
            shared: true,
            ..ClientOptions::default()
        })
        .expect("clients")
    };
    for host in ["localhost", "127.0.0.1", "[::1]", "0.0.0.0"] {
        let endpoint = endpoint(&format!("http://{host}:{port}/v1"));
        for declared in [backend(endpoint.clone()), tenant(endpoint)] {
            let refused = error(&shared(), &admitted(declared), chat()).await;
            assert_eq!(refused, AttemptError::AddressClosed, "{host}");
        }
    }
    assert_eq!(upstream.connections(), 0);
}
