//! Sources that want keys: bearer tokens, buckets, registries; private authorities and proxies; and that no
//! key goes where it does not belong.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use crate::download::{SIZE, none_left};
use crate::secure;
use crate::support::{Request, Server, World, cache, file, head, noise};
use mesh_models::{Access, Credentials, Digest, Error, Resolved, SourceError, SourceSpec};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) const KEY: &str = "hunter2";

/// A source's way with a key in a file.
fn keyed(world: &World, key: &str) -> Access {
    fs::write(world.path("key"), format!("{key}\n")).unwrap();
    Access {
        credentials: Some(Credentials::File("key".into())),
        ..Access::default()
    }
}

pub(crate) async fn resolve(
    world: &World,
    sha256: Option<Digest>,
    sources: Vec<SourceSpec>,
) -> Result<Resolved, Error> {
    let found = world
        .resolver()
        .resolve(&cache(sha256, sources), &CancellationToken::new(), &|_| {})
        .await?;
    Ok(found[0].clone())
}

pub(crate) fn answer(stream: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    head(
        stream,
        status,
        &[("content-length", body.len().to_string())],
    )?;
    stream.write_all(body.as_bytes())
}

#[tokio::test]
async fn a_bearer_token_goes_to_its_server_and_is_not_carried_along_a_redirect() {
    let (world, bytes) = (World::new(), noise(1000, 1));
    let elsewhere = Server::of(bytes.clone());
    let target = format!("{}/signed?sig=1", elsewhere.url);
    let server = Server::start(move |_, request, stream| {
        if request.header("authorization") != Some("Bearer hunter2") {
            return answer(stream, "401 Unauthorized", "");
        }
        let location = if request.path == "/o/n/resolve/v1/other/name.gguf" {
            "/again".to_owned()
        } else {
            target.clone()
        };
        let headers = [("location", location), ("content-length", "0".into())];
        head(stream, "302 Found", &headers)
    });
    let hub = |access| SourceSpec::HuggingFace {
        repo: "o/n".into(),
        revision: "v1".into(),
        endpoint: Some(server.url.clone()),
        files: BTreeMap::from([("m.gguf".to_owned(), "other/name.gguf".to_owned())]),
        access,
    };
    let sha256 = Some(Digest::of(&bytes));
    let error = resolve(&world, sha256, vec![hub(Access::default())]).await;
    let error = none_left(error.unwrap_err());
    assert!(matches!(
        error.failures[0].error,
        SourceError::Denied { .. }
    ));
    assert!(elsewhere.requests().is_empty());

    resolve(&world, sha256, vec![hub(keyed(&world, KEY))])
        .await
        .unwrap();
    let seen = server.requests();
    assert_eq!(
        seen[2].header("authorization"),
        Some("Bearer hunter2"),
        "the same origin"
    );
    let left = elsewhere.requests();
    assert_eq!((left.len(), left[0].path.as_str()), (1, "/signed?sig=1"));
    assert_eq!(left[0].header("authorization"), None);
}

#[tokio::test]
async fn a_key_that_is_absent_or_refused_is_said_without_it_and_the_next_source_serves() {
    let (world, bytes) = (World::new(), noise(100, 2));
    let private = Server::start(|_, _, stream| answer(stream, "403 Forbidden", KEY));
    let good = Server::of(bytes.clone());
    let absent = SourceSpec::Http {
        url: format!("{}/", private.url),
        access: Access {
            credentials: Some(Credentials::Env("MESH_TEST_NO_SUCH_KEY".into())),
            ..Access::default()
        },
    };
    let refused = SourceSpec::Http {
        url: format!("{}/", private.url),
        access: keyed(&world, KEY),
    };
    let told = std::sync::Mutex::new(Vec::new());
    let found = world
        .resolver()
        .resolve_reporting(
            &cache(None, vec![absent, refused, good.source()]),
            &CancellationToken::new(),
            &|_| {},
            &|failed| {
                let text = format!("{} {:?}", failed.error, failed.error);
                told.lock()
                    .unwrap()
                    .push((failed.error.status_reason(), text));
            },
        )
        .await
        .unwrap();
    assert_eq!(found[0].sha256, Digest::of(&bytes));
    let told = told.into_inner().unwrap();
    assert_eq!(
        told.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(),
        ["CredentialsRefused"; 2]
    );
    assert!(told.iter().all(|(_, text)| !text.contains(KEY)), "{told:?}");
    assert_eq!(
        private.requests().len(),
        1,
        "without its key it is not asked at all"
    );
}

#[tokio::test]
async fn an_object_of_a_bucket_is_asked_for_with_a_signature_of_its_own_for_every_try() {
    let (world, bytes) = (World::new(), noise(SIZE, 3));
    let content = bytes.clone();
    let store = Server::start(move |number, request, stream| match number {
        0 => crate::support::cut(stream, &content, 1_000_000, None),
        _ => file(request, stream, &content, None),
    });
    let bucket = |access| SourceSpec::S3 {
        endpoint: store.url.clone(),
        bucket: "models".into(),
        prefix: Some("llama/".into()),
        region: Some("eu-central-1".into()),
        access,
    };
    let key = keyed(&world, "AKIDEXAMPLE:hunter2");
    let found = resolve(&world, Some(Digest::of(&bytes)), vec![bucket(key)])
        .await
        .unwrap();
    assert_eq!(found.source, format!("s3 models/llama/ at {}/", store.url));
    let seen = store.requests();
    assert_eq!(seen.len(), 2);
    assert_eq!(
        seen[1].from(),
        Some(1_000_000),
        "a signed request may be for a part"
    );
    for request in &seen {
        let (path, query) = request.path.split_once('?').unwrap();
        assert_eq!(path, "/models/llama/m.gguf");
        for part in [
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "AKIDEXAMPLE%2F",
            "eu-central-1",
            "X-Amz-Signature=",
        ] {
            assert!(query.contains(part), "{query}");
        }
        assert!(!query.contains(KEY) && request.header("authorization").is_none());
    }

    let other = World::new();
    resolve(&other, None, vec![bucket(Access::default())])
        .await
        .unwrap();
    let last = store.requests().pop().unwrap();
    assert_eq!(last.path, "/models/llama/m.gguf", "anonymous without a key");
    let wrong = none_left(
        resolve(&World::new(), None, vec![bucket(keyed(&other, "nocolon"))])
            .await
            .unwrap_err(),
    );
    assert!(
        matches!(wrong.failures[0].error, SourceError::Credentials { .. }),
        "{wrong}"
    );
}

/// A registry with one artifact of two layers; it demands a token that its own token server gives.
struct Registry {
    server: Server,
    manifest: Arc<Vec<u8>>,
}

impl Registry {
    fn start(bytes: Vec<u8>, demands: &'static str) -> Self {
        let layer = |bytes: &[u8], title: &str| {
            json!({"mediaType": "application/octet-stream", "digest": format!("sha256:{}", Digest::of(bytes)),
                "size": bytes.len(), "annotations": {"org.opencontainers.image.title": title}})
        };
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": format!("sha256:{}", Digest::of(b"{}")), "size": 2},
            "layers": [layer(b"readme", "README.md"), layer(&bytes, "m.gguf")]});
        let manifest = Arc::new(manifest.to_string().into_bytes());
        let given = Arc::clone(&manifest);
        let blob = format!("/v2/team/model/blobs/sha256:{}", Digest::of(&bytes));
        let server = Server::start(move |_, request, stream| {
            let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
            if path == "/token" {
                return token(request, stream);
            }
            let wanted = match demands {
                "bearer" => Some("Bearer given"),
                "basic" => Some("Basic cm9ib3Q6aHVudGVyMg=="),
                _ => None,
            };
            if wanted.is_some() && request.header("authorization") != wanted {
                let host = request.header("host").unwrap();
                let challenge = match demands {
                    "bearer" => format!(
                        "Bearer realm=\"http://{host}/token\",service=\"registry\",scope=\"repository:team/model:pull,push\""
                    ),
                    _ => "Basic realm=\"registry\"".to_owned(),
                };
                return head(
                    stream,
                    "401 Unauthorized",
                    &[
                        ("www-authenticate", challenge),
                        ("content-length", "0".into()),
                    ],
                );
            }
            if path == blob {
                return file(request, stream, &bytes, None);
            }
            if path.starts_with("/v2/team/model/manifests/") {
                return file(request, stream, &given, None);
            }
            answer(stream, "404 Not Found", "")
        });
        Self { server, manifest }
    }

    fn source(&self, tail: &str, access: Access) -> SourceSpec {
        let host = self.server.url.strip_prefix("http://").unwrap();
        SourceSpec::Oci {
            reference: format!("{host}/team/model{tail}"),
            access,
        }
    }

    fn paths(&self) -> Vec<String> {
        let path = |request: Request| request.path.rsplit('/').next().unwrap().to_owned();
        self.server.requests().into_iter().map(path).collect()
    }
}

/// Gives a token for pulling, to robot and to nobody.
fn token(request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
    let known = matches!(
        request.header("authorization"),
        None | Some("Basic cm9ib3Q6aHVudGVyMg==")
    );
    assert!(
        request
            .path
            .contains("scope=repository%3Ateam%2Fmodel%3Apull")
            && !request.path.contains("push")
    );
    assert!(request.path.contains("service=registry"));
    if known {
        answer(
            stream,
            "200 OK",
            &json!({"token": "given", "expires_in": 60}).to_string(),
        )
    } else {
        answer(stream, "401 Unauthorized", "")
    }
}

#[tokio::test]
async fn an_artifact_of_a_registry_is_found_by_its_title_with_a_token_for_pulling() {
    let bytes = noise(SIZE, 4);
    for (demands, key, tokens) in [
        ("bearer", None, 2),
        ("bearer", Some("robot:hunter2"), 2),
        ("basic", Some("robot:hunter2"), 0),
        ("nothing", Some("robot:hunter2"), 0),
    ] {
        let world = World::new();
        let registry = Registry::start(bytes.clone(), demands);
        let access = key.map_or_else(Access::default, |key| keyed(&world, key));
        let found = resolve(&world, None, vec![registry.source(":1", access)])
            .await
            .unwrap();
        assert_eq!(found.sha256, Digest::of(&bytes), "{demands}");
        let seen = registry.server.requests();
        let asked = seen
            .iter()
            .filter(|request| request.path.starts_with("/token"))
            .count();
        assert_eq!(
            asked, tokens,
            "{demands}: one for the manifest, one for the blob"
        );
        if demands == "nothing" {
            let silent = seen
                .iter()
                .all(|request| request.header("authorization").is_none());
            assert!(silent, "a password is not shown to who does not ask");
        }
    }
}

#[tokio::test]
async fn a_registry_that_is_entered_in_vain_is_not_asked_for_ever() {
    let world = World::new();
    let registry = Registry::start(noise(10, 5), "basic");
    let sources = vec![
        registry.source(":1", Access::default()),
        registry.source(":1", keyed(&world, "robot:wrong")),
    ];
    let error = none_left(resolve(&world, None, sources).await.unwrap_err());
    for failure in &error.failures {
        assert_eq!(
            failure.error.status_reason(),
            "CredentialsRefused",
            "{failure}"
        );
    }
    assert_eq!(
        registry.paths(),
        ["1", "1", "1"],
        "once, and twice with a password"
    );
    assert!(!error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn a_manifest_must_have_the_digest_of_its_reference_and_name_that_of_the_artifact() {
    let bytes = noise(1000, 6);
    let registry = Registry::start(bytes.clone(), "nothing");
    let right = format!("@sha256:{}", Digest::of(&registry.manifest));
    let pinned = registry.source(&right, Access::default());
    resolve(
        &World::new(),
        Some(Digest::of(&bytes)),
        vec![pinned.clone()],
    )
    .await
    .unwrap();
    let asked = registry.paths().len();

    let wrong = format!(":1@sha256:{}", Digest::of(b"another"));
    let sources = vec![registry.source(&wrong, Access::default()), pinned];
    let error = resolve(&World::new(), Some(Digest::of(b"other bytes")), sources).await;
    let error = none_left(error.unwrap_err());
    assert_eq!(error.reason(), "Corrupt");
    let both = error
        .failures
        .iter()
        .all(|failure| matches!(failure.error, SourceError::OtherDigest { .. }));
    assert!(both, "{error}");
    let blobs = registry.paths()[asked..]
        .iter()
        .filter(|path| path.len() > 64 && **path != right[1..])
        .count();
    assert_eq!(
        blobs, 1,
        "the manifest of the wrong digest; no blob is fetched that cannot be right"
    );
}

#[tokio::test]
async fn a_hostile_registry_is_refused() {
    let registry = |body: Value| {
        let body = body.to_string();
        Server::start(move |_, _, stream| answer(stream, "200 OK", &body))
    };
    let endless = Server::start(|_, _, stream| {
        head(stream, "200 OK", &[("transfer-encoding", "chunked".into())])?;
        loop {
            stream.write_all(b"400\r\n")?;
            stream.write_all(&[b' '; 0x400])?;
            stream.write_all(b"\r\n")?;
        }
    });
    let away = Server::start(|_, _, stream| {
        let challenge = "Bearer realm=\"http://e.example/token\"".to_owned();
        head(
            stream,
            "401 Unauthorized",
            &[
                ("www-authenticate", challenge),
                ("content-length", "0".into()),
            ],
        )
    });
    let index = json!({"schemaVersion": 2, "manifests": [{"digest": format!("sha256:{}", Digest::of(b"x")), "size": 1}]});
    for (server, reason) in [
        (registry(json!({"schemaVersion": 1})), "Refused"),
        (
            registry(json!({"schemaVersion": 2, "layers": []})),
            "NotFound",
        ),
        (registry(index), "DigestMismatch"),
        (endless, "TooLarge"),
        (away, "Refused"),
    ] {
        let reference = format!("{}/a/b:1", server.url.strip_prefix("http://").unwrap());
        let source = SourceSpec::Oci {
            reference,
            access: keyed(&World::new(), "robot:hunter2"),
        };
        let world = World::new();
        keyed(&world, "robot:hunter2");
        let error = none_left(resolve(&world, None, vec![source]).await.unwrap_err());
        assert_eq!(error.failures[0].error.status_reason(), reason, "{error}");
        assert!(!error.to_string().contains(KEY), "{error}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_for_its_source_alone_and_a_proxy_only_sees_the_name() {
    let (world, bytes) = (World::new(), noise(1000, 7));
    let front = secure::Front::start(bytes.clone());
    fs::write(world.path("ca.pem"), &front.authority).unwrap();
    let proxy = secure::proxy();
    let source = |ca: Option<&str>, proxy: Option<&str>| SourceSpec::Http {
        url: format!("https://localhost:{}/", front.port),
        access: Access {
            ca_file: ca.map(Into::into),
            proxy: proxy.map(str::to_owned),
            ..Access::default()
        },
    };
    // The system's roots do not know it; where there are none, there is no client at all.
    assert!(
        resolve(&world, None, vec![source(None, None)])
            .await
            .is_err()
    );
    let key = fs::write(world.path("no.pem"), "not a certificate");
    key.unwrap();
    for bad in ["no.pem", "none.pem"] {
        let error = none_left(
            resolve(&world, None, vec![source(Some(bad), None)])
                .await
                .unwrap_err(),
        );
        assert_eq!(
            error.failures[0].error.status_reason(),
            "Refused",
            "{error}"
        );
    }
    resolve(&World::new(), None, vec![source(Some("ca.pem"), None)])
        .await
        .unwrap_err();
    let found = resolve(
        &world,
        Some(Digest::of(&bytes)),
        vec![source(Some("ca.pem"), None)],
    )
    .await;
    assert_eq!(found.unwrap().sha256, Digest::of(&bytes));
    assert!(proxy.seen().is_empty());

    let through = World::new();
    fs::write(through.path("ca.pem"), &front.authority).unwrap();
    let sources = vec![source(Some("ca.pem"), Some(&proxy.url))];
    resolve(&through, Some(Digest::of(&bytes)), sources)
        .await
        .unwrap();
    assert_eq!(
        proxy.seen(),
        [format!("CONNECT localhost:{} HTTP/1.1", front.port)]
    );
}
