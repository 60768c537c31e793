//! Downloads that succeed, break off and go on, or have the wrong bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Request, Server, World, cache, cut, file, hang, head, noise};
use mesh_models::{Digest, Error, NoSource, Phase, SourceError, SourceSpec};
use tokio_util::sync::CancellationToken;

pub(crate) const SIZE: usize = 3 * 1024 * 1024 + 17;

pub(crate) fn none_left(error: Error) -> NoSource {
    let Error::NoSource(none) = error else {
        panic!("{error:?}")
    };
    *none
}

#[tokio::test]
async fn a_download_is_kept_under_its_digest_and_not_asked_for_again() {
    let (world, bytes) = (World::new(), noise(SIZE, 1));
    let server = Server::of(bytes.clone());
    let cache = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    let cancel = CancellationToken::new();

    let found = world
        .resolver()
        .resolve(&cache, &cancel, &world.listen())
        .await
        .unwrap();
    assert_eq!(std::fs::read(&found[0].path).unwrap(), bytes);
    assert_eq!((found[0].size, found[0].in_place), (SIZE as u64, false));
    let reports = world.take_reports();
    let last = reports.last().unwrap();
    assert_eq!(
        (last.phase, last.bytes_done, last.bytes_total),
        (Phase::Downloading, SIZE as u64, Some(SIZE as u64))
    );

    let again = world
        .resolver()
        .resolve(&cache, &cancel, &world.listen())
        .await
        .unwrap();
    assert_eq!(again, found);
    assert!(
        world.take_reports().is_empty(),
        "neither fetched nor hashed again"
    );
    assert_eq!(server.requests().len(), 1);
    assert!(world.names("partial").is_empty());
    assert!(
        std::fs::metadata(&found[0].path)
            .unwrap()
            .permissions()
            .readonly()
    );
    let listed = world.resolver().store().list();
    assert_eq!(
        (listed.len(), listed[0].names.clone()),
        (1, vec!["tiny/m.gguf".to_owned()])
    );
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_ended() {
    let (world, bytes) = (World::new(), noise(SIZE, 2));
    let content = bytes.clone();
    let server = Server::start(move |number, request, stream| match number {
        0 => cut(stream, &content, 2_000_000, None),
        _ => file(request, stream, &content, None),
    });
    let cache = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    let found = world
        .resolver()
        .resolve(&cache, &CancellationToken::new(), &world.listen())
        .await
        .unwrap();
    assert_eq!(std::fs::read(&found[0].path).unwrap(), bytes);
    let from: Vec<_> = server.requests().iter().map(Request::from).collect();
    assert_eq!(from, [None, Some(2_000_000)]);
}

#[tokio::test]
async fn a_download_goes_on_after_the_process_was_started_again() {
    let (mut world, bytes) = (World::new(), noise(SIZE, 3));
    world.settings.retries = 0;
    let content = bytes.clone();
    let server = Server::start(move |number, request, stream| match number {
        0 => cut(stream, &content, 1_500_000, None),
        _ => file(request, stream, &content, None),
    });
    let cache = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    let cancel = CancellationToken::new();
    let error = none_left(
        world
            .resolver()
            .resolve(&cache, &cancel, &world.listen())
            .await
            .unwrap_err(),
    );
    assert!(
        matches!(
            error.failures[0].error,
            SourceError::Transport { .. } | SourceError::Truncated { .. }
        ),
        "{error}"
    );
    assert!(
        world.names("sha256").is_empty(),
        "nothing unfinished under a final name"
    );
    world
        .resolver()
        .resolve(&cache, &cancel, &world.listen())
        .await
        .unwrap();
    assert_eq!(server.requests()[1].from(), Some(1_500_000));
}

#[tokio::test]
async fn a_complete_partial_file_is_not_fetched_again() {
    let (world, bytes) = (World::new(), noise(SIZE, 4));
    let server = Server::of(bytes.clone());
    let sha256 = Digest::of(&bytes);
    let resolver = world.resolver();
    std::fs::write(
        world.path("store/partial").join(format!("sha256-{sha256}")),
        &bytes,
    )
    .unwrap();
    let found = resolver
        .resolve(
            &cache(Some(sha256), vec![server.source()]),
            &CancellationToken::new(),
            &|_| {},
        )
        .await;
    assert_eq!(found.unwrap()[0].sha256, sha256);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn wrong_bytes_go_to_quarantine_and_the_next_source_is_tried() {
    let (world, bytes, wrong) = (World::new(), noise(SIZE, 5), noise(SIZE, 6));
    let (bad, good) = (Server::of(wrong.clone()), Server::of(bytes.clone()));
    let sha256 = Digest::of(&bytes);
    let cache = cache(Some(sha256), vec![bad.source(), good.source()]);
    let resolver = world.resolver();
    let found = resolver
        .resolve(&cache, &CancellationToken::new(), &|_| {})
        .await
        .unwrap();
    assert_eq!(std::fs::read(&found[0].path).unwrap(), bytes);
    let aside = resolver.store().quarantined();
    assert_eq!(
        (aside.len(), aside[0].expected, aside[0].actual),
        (1, sha256, Digest::of(&wrong))
    );
    assert_eq!(std::fs::read(&aside[0].path).unwrap(), wrong);
    assert!(
        good.requests()[0].from().is_none(),
        "nothing of the wrong bytes was built on"
    );
}

#[tokio::test]
async fn the_beginning_of_another_source_is_not_held_against_a_good_one() {
    let (mut world, bytes, wrong) = (World::new(), noise(SIZE, 7), noise(SIZE, 8));
    world.settings.retries = 0;
    let bad = Server::start(move |_, _, stream| cut(stream, &wrong, 1_000_000, None));
    let good = Server::of(bytes.clone());
    let cache = cache(Some(Digest::of(&bytes)), vec![bad.source(), good.source()]);
    let resolver = world.resolver();
    resolver
        .resolve(&cache, &CancellationToken::new(), &|_| {})
        .await
        .unwrap();
    let from: Vec<_> = good.requests().iter().map(Request::from).collect();
    assert_eq!(from, [Some(1_000_000), None]);
    assert!(resolver.store().quarantined().is_empty());
}

#[tokio::test]
async fn the_error_names_every_source_and_what_to_do() {
    let world = World::new();
    let missing = Server::start(|_, _, stream| {
        head(stream, "404 Not Found", &[("content-length", "0".into())])
    });
    let gated = Server::start(|_, _, stream| {
        head(
            stream,
            "401 Unauthorized",
            &[("content-length", "0".into())],
        )
    });
    let hub = SourceSpec::HuggingFace {
        repo: "o/n".into(),
        revision: "r".into(),
        endpoint: Some(gated.url.clone()),
        files: std::collections::BTreeMap::new(),
        access: mesh_models::Access::default(),
    };
    let plain = SourceSpec::Http {
        url: "http://example.com/m.gguf?sig=secret".into(),
        access: mesh_models::Access::default(),
    };
    let local = SourceSpec::File {
        path: "models".into(),
    };
    let sha256 = Digest::of(b"x");
    let cache = cache(Some(sha256), vec![local, missing.source(), hub, plain]);
    let error = world
        .resolver()
        .resolve(&cache, &CancellationToken::new(), &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "SourceUnavailable");
    let text = error.to_string();
    let digest = sha256.to_string();
    for part in [
        "tiny",
        "models",
        "does not exist",
        "huggingFace o/n@r",
        "401",
        "gated",
        "not https",
        &digest,
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(gated.requests()[0].path, "/o/n/resolve/r/m.gguf");
    assert_eq!(
        (missing.requests().len(), gated.requests().len()),
        (1, 1),
        "what is final is not tried again"
    );
}

#[tokio::test]
async fn a_caller_who_leaves_ends_the_download_at_once_and_keeps_what_came() {
    let (world, bytes) = (World::new(), noise(SIZE, 11));
    let content = bytes.clone();
    let server = Server::start(move |number, request, stream| match number {
        0 => cut(stream, &content, 2_000_000, None).and_then(|()| hang(stream)),
        _ => file(request, stream, &content, None),
    });
    let cache = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    let cancel = CancellationToken::new();
    let leave = cancel.clone();
    let listener = move |report: &mesh_models::Progress| {
        if report.bytes_done >= 1024 * 1024 {
            leave.cancel();
        }
    };
    let error = world
        .resolver()
        .resolve(&cache, &cancel, &listener)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    world
        .resolver()
        .resolve(&cache, &CancellationToken::new(), &|_| {})
        .await
        .unwrap();
    assert!(
        server.requests()[1]
            .from()
            .is_some_and(|from| from >= 1024 * 1024)
    );
}

#[tokio::test]
async fn two_who_want_the_same_artifact_download_it_once() {
    let (world, bytes) = (World::new(), noise(SIZE, 12));
    let server = Server::of(bytes.clone());
    let cache = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    let cancel = CancellationToken::new();
    let (one, other) = (world.resolver(), world.resolver());
    let (first, second) = tokio::join!(
        one.resolve(&cache, &cancel, &|_| {}),
        other.resolve(&cache, &cancel, &|_| {})
    );
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn without_a_digest_the_first_use_is_pinned_and_another_file_is_refused_later() {
    let (world, bytes) = (World::new(), noise(1000, 13));
    let changed = Arc::new(AtomicBool::new(false));
    let (flag, content) = (Arc::clone(&changed), bytes.clone());
    let server = Server::start(move |_, request, stream| {
        let other = flag.load(Ordering::SeqCst);
        file(
            request,
            stream,
            if other { b"something else" } else { &content },
            None,
        )
    });
    let cache = cache(None, vec![server.source()]);
    let cancel = CancellationToken::new();
    let found = world
        .resolver()
        .resolve(&cache, &cancel, &|_| {})
        .await
        .unwrap();
    assert_eq!(found[0].sha256, Digest::of(&bytes));
    changed.store(true, Ordering::SeqCst);
    assert_eq!(
        world
            .resolver()
            .resolve(&cache, &cancel, &|_| {})
            .await
            .unwrap(),
        found
    );
    std::fs::remove_file(&found[0].path).unwrap();
    let error = world
        .resolver()
        .resolve(&cache, &cancel, &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "Corrupt");
}

#[tokio::test]
async fn without_a_digest_a_download_goes_on_only_if_the_file_is_the_same() {
    let (world, old, new) = (World::new(), noise(SIZE, 14), noise(SIZE, 15));
    let (first, then) = (old, new.clone());
    let server = Server::start(move |number, request, stream| match number {
        0 => cut(stream, &first, 2_000_000, Some("\"v1\"")),
        _ => file(request, stream, &then, Some("\"v2\"")),
    });
    let found = world
        .resolver()
        .resolve(
            &cache(None, vec![server.source()]),
            &CancellationToken::new(),
            &|_| {},
        )
        .await;
    assert_eq!(found.unwrap()[0].sha256, Digest::of(&new));
    assert_eq!(server.requests()[1].header("if-range"), Some("\"v1\""));
}
