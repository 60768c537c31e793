//! Files of the user's, the store's memory, and verification.

use std::fs;
use std::path::Path;

use crate::support::{Server, World, cache, noise};
use mesh_models::{ArtifactPath, ArtifactSpec, Digest, Error, Outcome, SourceError, SourceSpec};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

fn local(path: impl AsRef<Path>) -> SourceSpec {
    SourceSpec::File {
        path: path.as_ref().to_path_buf(),
    }
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// Opens a read-only file for the damage that bit rot would do.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_users_file_is_used_where_it_lies_and_hashed_once() {
    let (world, bytes) = (World::new(), noise(5000, 1));
    fs::create_dir(world.path("models")).unwrap();
    fs::write(world.path("models/m.gguf"), &bytes).unwrap();
    let cache = cache(Some(Digest::of(&bytes)), vec![local("models")]);

    let found = world
        .resolver()
        .resolve(&cache, &never(), &world.listen())
        .await
        .unwrap();
    assert_eq!(
        found[0].path,
        world.path("models/m.gguf").canonicalize().unwrap()
    );
    assert!(found[0].in_place && world.names("sha256").is_empty());
    assert!(!world.take_reports().is_empty());

    assert_eq!(
        world
            .resolver()
            .resolve(&cache, &never(), &world.listen())
            .await
            .unwrap(),
        found
    );
    assert!(
        world.take_reports().is_empty(),
        "the second start does not hash"
    );

    damage(&world.path("models/m.gguf"));
    let error = world
        .resolver()
        .resolve(&cache, &never(), &world.listen())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "Corrupt");
    assert!(
        world.path("models/m.gguf").exists(),
        "a user's file is never moved"
    );
    assert!(error.to_string().contains("left where it is"), "{error}");
}

#[tokio::test]
async fn a_file_source_may_be_a_folder_a_file_or_below_home() {
    let (world, bytes) = (World::new(), noise(100, 2));
    fs::create_dir_all(world.path("home/deep")).unwrap();
    fs::write(world.path("home/deep/m.gguf"), &bytes).unwrap();
    fs::write(world.path("other-name.bin"), &bytes).unwrap();
    let absolute = world.path("home/deep");
    for path in [
        Path::new("~/deep"),
        Path::new("other-name.bin"),
        Path::new("home/deep/m.gguf"),
        &absolute,
    ] {
        let found = world
            .resolver()
            .resolve(
                &cache(Some(Digest::of(&bytes)), vec![local(path)]),
                &never(),
                &|_| {},
            )
            .await;
        assert_eq!(found.unwrap()[0].size, 100, "{}", path.display());
    }
}

#[tokio::test]
async fn a_device_or_folder_is_not_read_as_a_file() {
    let world = World::new();
    fs::create_dir_all(world.path("models/m.gguf")).unwrap();
    let asked = cache(
        Some(Digest::of(b"")),
        vec![local("/dev/zero"), local("models"), local("absent")],
    );
    let error = world
        .resolver()
        .resolve(&asked, &never(), &|_| {})
        .await
        .unwrap_err();
    let Error::NoSource(none) = error else {
        panic!("{error:?}")
    };
    let reasons: Vec<_> = none
        .failures
        .iter()
        .map(|failure| failure.error.reason())
        .collect();
    assert_eq!(reasons, ["Refused", "Refused", "NotFound"]);
}

#[tokio::test]
async fn locating_never_touches_the_network() {
    let (world, bytes) = (World::new(), noise(100, 3));
    let server = Server::of(bytes.clone());
    let cache = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    let error = world
        .resolver()
        .locate(&cache, &never(), &|_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("only local files"), "{error}");
    assert!(server.requests().is_empty());
    world
        .resolver()
        .resolve(&cache, &never(), &|_| {})
        .await
        .unwrap();
    assert_eq!(
        world
            .resolver()
            .locate(&cache, &never(), &|_| {})
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn verifying_hashes_again_and_puts_a_damaged_stored_file_aside() {
    let (world, bytes) = (World::new(), noise(5000, 4));
    let server = Server::of(bytes.clone());
    let cache = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    let resolver = world.resolver();
    let outcome = resolver
        .verify(&cache, &never(), &|_| {})
        .await
        .unwrap()
        .remove(0)
        .outcome;
    assert!(matches!(outcome, Outcome::Missing), "{outcome:?}");

    let path = resolver
        .resolve(&cache, &never(), &|_| {})
        .await
        .unwrap()
        .remove(0)
        .path;
    let intact = resolver
        .verify(&cache, &never(), &world.listen())
        .await
        .unwrap()
        .remove(0)
        .outcome;
    assert!(matches!(intact, Outcome::Intact(_)), "{intact:?}");
    assert!(
        !world.take_reports().is_empty(),
        "it was hashed although it was remembered"
    );

    damage(&path);
    let damaged = resolver
        .verify(&cache, &never(), &|_| {})
        .await
        .unwrap()
        .remove(0)
        .outcome;
    assert!(
        matches!(
            damaged,
            Outcome::Damaged(SourceError::WrongDigest {
                quarantined: Some(_),
                ..
            })
        ),
        "{damaged:?}"
    );
    assert!(!path.exists() && resolver.store().list().is_empty());
    resolver.resolve(&cache, &never(), &|_| {}).await.unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_stored_file_that_changed_is_noticed_without_verify() {
    let (world, bytes) = (World::new(), noise(5000, 5));
    let server = Server::of(bytes.clone());
    let cache = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    let path = world
        .resolver()
        .resolve(&cache, &never(), &|_| {})
        .await
        .unwrap()
        .remove(0)
        .path;
    damage(&path);
    let again = world
        .resolver()
        .resolve(&cache, &never(), &|_| {})
        .await
        .unwrap()
        .remove(0);
    assert_eq!(fs::read(again.path).unwrap(), bytes);
    assert_eq!(world.resolver().store().quarantined().len(), 1);
}

#[tokio::test]
async fn verifying_a_users_file_leaves_it_where_it_is() {
    let (world, bytes) = (World::new(), noise(100, 6));
    fs::write(world.path("m.gguf"), &bytes).unwrap();
    let cache = cache(Some(Digest::of(&bytes)), vec![local("m.gguf")]);
    let resolver = world.resolver();
    resolver.resolve(&cache, &never(), &|_| {}).await.unwrap();
    damage(&world.path("m.gguf"));
    let damaged = resolver
        .verify(&cache, &never(), &|_| {})
        .await
        .unwrap()
        .remove(0)
        .outcome;
    assert!(
        matches!(
            damaged,
            Outcome::Damaged(SourceError::WrongDigest {
                quarantined: None,
                ..
            })
        ),
        "{damaged:?}"
    );
    assert!(world.path("m.gguf").exists() && resolver.store().list().is_empty());
}

#[tokio::test]
async fn a_damaged_index_is_rebuilt_and_damaged_pins_are_an_error() {
    let (world, bytes) = (World::new(), noise(100, 7));
    fs::write(world.path("m.gguf"), &bytes).unwrap();
    let cache = cache(None, vec![local("m.gguf")]);
    world
        .resolver()
        .resolve(&cache, &never(), &|_| {})
        .await
        .unwrap();

    fs::write(world.path("store/index.json"), "{\"files\": {").unwrap();
    world
        .resolver()
        .resolve(&cache, &never(), &world.listen())
        .await
        .unwrap();
    assert!(!world.take_reports().is_empty(), "hashed anew");

    fs::write(world.path("store/pins.json"), "{}}").unwrap();
    let error = world
        .resolver()
        .resolve(&cache, &never(), &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "PinsDamaged");
    assert!(error.to_string().contains("pins.json"), "{error}");
}

#[tokio::test]
async fn a_contradictory_cache_is_refused_before_anything_is_tried() {
    let world = World::new();
    let artifact = |path: &str| ArtifactSpec {
        path: path.parse().unwrap(),
        sha256: None,
    };
    let server = Server::of(noise(10, 8));
    let one_file = SourceSpec::Http {
        url: format!("{}/one.gguf", server.url),
        access: mesh_models::Access::default(),
    };
    for artifacts in [
        vec![],
        vec![artifact("a"), artifact("a")],
        vec![artifact("a"), artifact("b")],
    ] {
        let mut cache = cache(None, vec![one_file.clone()]);
        cache.artifacts = artifacts;
        let error = world
            .resolver()
            .resolve(&cache, &never(), &|_| {})
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "InvalidSpec", "{error}");
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_store_that_cannot_be_made_says_where() {
    let world = World::new();
    fs::write(world.path("taken"), "").unwrap();
    let error = mesh_models::Store::open(world.path("taken")).unwrap_err();
    assert_eq!(error.reason(), "StoreUnusable");
    assert!(error.to_string().contains("taken"), "{error}");
}

proptest! {
    #[test]
    fn an_accepted_artifact_path_never_leaves_the_folder(text in r"[a./\\:~\x00 -]{1,24}") {
        if let Ok(path) = text.parse::<ArtifactPath>() {
            let joined = Path::new("/folder").join(path.as_str());
            let plain = |part: std::path::Component<'_>| !matches!(part, std::path::Component::ParentDir | std::path::Component::CurDir);
            prop_assert!(joined.starts_with("/folder") && joined.components().all(plain));
        }
    }
}
