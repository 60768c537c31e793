//! Large files over several connections, and files of mounted folders.

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use crate::download::{SIZE, none_left};
use crate::remote::{KEY, answer, resolve};
use crate::support::{Request, Server, World, head, noise};
use mesh_models::{Digest, SourceError, SourceSpec};

/// Pieces as a server with strong validators gives them.
fn piece(
    request: &Request,
    stream: &mut TcpStream,
    bytes: &[u8],
    etag: &str,
) -> std::io::Result<()> {
    let range = request.header("range").and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        let to = to.parse().map_or(bytes.len(), |to: usize| to + 1);
        Some((from.parse().ok()?, to))
    });
    let same = request
        .header("if-range")
        .is_none_or(|wanted| wanted == etag);
    let (from, to) = range.filter(|_| same).unwrap_or((0, bytes.len()));
    let mut headers = vec![
        ("content-length", (to - from).to_string()),
        ("etag", etag.to_owned()),
        ("accept-ranges", "bytes".to_owned()),
    ];
    let whole = to - from == bytes.len();
    if !whole {
        headers.push((
            "content-range",
            format!("bytes {from}-{}/{}", to - 1, bytes.len()),
        ));
    }
    head(
        stream,
        if whole {
            "200 OK"
        } else {
            "206 Partial Content"
        },
        &headers,
    )?;
    stream.write_all(&bytes[from..to])
}

fn parallel() -> World {
    let mut world = World::new();
    world.settings.parallel_from = 1_000_000;
    world.settings.piece = 500_000;
    world.settings.connections = 3;
    world
}

#[tokio::test]
async fn a_large_file_comes_over_several_connections_and_is_the_same() {
    let (world, bytes) = (parallel(), noise(SIZE, 8));
    let content = bytes.clone();
    let server = Server::start(move |_, request, stream| piece(request, stream, &content, "\"v\""));
    let found = resolve(&world, Some(Digest::of(&bytes)), vec![server.source()])
        .await
        .unwrap();
    assert_eq!(fs::read(&found.path).unwrap(), bytes);
    let seen = server.requests();
    assert_eq!(seen.len(), SIZE.div_ceil(500_000));
    assert_eq!(seen[0].header("range"), None);
    let mut ranges: Vec<_> = seen[1..]
        .iter()
        .map(|request| request.header("range").unwrap().to_owned())
        .collect();
    ranges.sort();
    assert_eq!(ranges[0], "bytes=1000000-1499999");
    assert!(
        seen[1..]
            .iter()
            .all(|request| request.header("if-range") == Some("\"v\""))
    );
}

#[tokio::test]
async fn a_piece_that_breaks_is_gone_on_from_and_what_came_before_is_kept() {
    let (world, bytes) = (parallel(), noise(SIZE, 9));
    let content = bytes.clone();
    let broken = std::sync::atomic::AtomicBool::new(false);
    let server = Server::start(move |_, request, stream| {
        let third = request.header("range") == Some("bytes=1500000-1999999");
        if third && !broken.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return answer(stream, "503 Busy", "");
        }
        piece(request, stream, &content, "\"v\"")
    });
    let found = resolve(&world, Some(Digest::of(&bytes)), vec![server.source()])
        .await
        .unwrap();
    assert_eq!(fs::read(&found.path).unwrap(), bytes);
    let again = server
        .requests()
        .into_iter()
        .filter_map(|request| request.from())
        .collect::<Vec<_>>();
    assert_eq!(again, [1_500_000], "the beginning was there already");
}

#[tokio::test]
async fn pieces_of_two_versions_are_never_mixed() {
    let (world, old, new) = (parallel(), noise(SIZE, 10), noise(SIZE, 11));
    let (first, then) = (old, new.clone());
    let server = Server::start(move |number, request, stream| match number {
        0 => piece(request, stream, &first, "\"v1\""),
        _ => piece(request, stream, &then, "\"v2\""),
    });
    let found = resolve(&world, None, vec![server.source()]).await.unwrap();
    assert_eq!(found.sha256, Digest::of(&new));
    assert_eq!(fs::read(&found.path).unwrap(), new);
}

#[tokio::test]
async fn without_a_strong_validator_one_connection_is_all() {
    for etag in ["W/\"v\"", "v"] {
        let (world, bytes) = (parallel(), noise(SIZE, 12));
        let content = bytes.clone();
        let server =
            Server::start(move |_, request, stream| piece(request, stream, &content, etag));
        resolve(&world, Some(Digest::of(&bytes)), vec![server.source()])
            .await
            .unwrap();
        assert_eq!(server.requests().len(), 1, "{etag}");
    }
}

#[tokio::test]
async fn a_mounted_folder_is_copied_and_no_link_leads_out_of_it() {
    let (world, bytes) = (World::new(), noise(SIZE, 13));
    fs::create_dir_all(world.path("volume/deep")).unwrap();
    fs::write(world.path("volume/blob"), &bytes).unwrap();
    fs::write(world.path("key"), KEY).unwrap();
    let link = |to: &str| {
        let path = world.path("volume/deep/m.gguf");
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(to, path).unwrap();
    };
    let mounted = || SourceSpec::Mounted {
        name: "pvc models".into(),
        path: world.path("volume/deep"),
        copy_from: Some(world.path("volume")),
    };
    link("../../key");
    let error = none_left(resolve(&world, None, vec![mounted()]).await.unwrap_err());
    assert!(
        matches!(error.failures[0].error, SourceError::Refused { .. }),
        "{error}"
    );
    assert!(world.names("sha256").is_empty() && world.names("partial").is_empty());

    link("../blob");
    let found = resolve(&world, Some(Digest::of(&bytes)), vec![mounted()])
        .await
        .unwrap();
    assert!(!found.in_place && found.source == "pvc models");
    fs::remove_dir_all(world.path("volume")).unwrap();
    assert_eq!(fs::read(&found.path).unwrap(), bytes);
}
