//! Servers that redirect, hang, trickle, send too much or what cannot be judged; and a full disk.

use std::io::Write;
use std::time::Duration;

use mesh_models::{Digest, Error, SourceError, SourceSpec};
use tokio_util::sync::CancellationToken;

use crate::download::{SIZE, none_left};
use crate::support::{Request, Server, World, cache, cut, file, hang, head, noise};

#[tokio::test]
async fn redirects_are_followed_a_few_times_and_never_to_plaintext() {
    let (world, bytes) = (World::new(), noise(1000, 9));
    let content = bytes.clone();
    let to = |target: &str| {
        [
            ("location", target.to_owned()),
            ("content-length", "0".into()),
        ]
    };
    let server = Server::start(move |_, request, stream| match request.path.as_str() {
        "/once" => head(stream, "302 Found", &to("/file?sig=secret")),
        "/loop" => head(stream, "307 Temporary Redirect", &to("/loop")),
        "/out" => head(stream, "301 Moved Permanently", &to("http://example.com/m")),
        "/nowhere" => head(stream, "302 Found", &[("content-length", "0".into())]),
        _ => file(request, stream, &content, None),
    });
    let ask = async |path: &str| {
        let source = SourceSpec::Http {
            url: format!("{}{path}", server.url),
            access: mesh_models::Access::default(),
        };
        world
            .resolver()
            .resolve(
                &cache(Some(Digest::of(&bytes)), vec![source]),
                &CancellationToken::new(),
                &|_| {},
            )
            .await
    };
    for path in ["/loop", "/out", "/nowhere"] {
        let error = none_left(ask(path).await.unwrap_err());
        assert!(
            matches!(error.failures[0].error, SourceError::Refused { .. }),
            "{path}: {error}"
        );
    }
    assert_eq!(
        server
            .requests()
            .iter()
            .filter(|request| request.path == "/loop")
            .count(),
        6
    );
    assert_eq!(ask("/once").await.unwrap()[0].size, 1000);
}

#[tokio::test]
async fn a_server_that_hangs_is_left_after_the_silence_limit() {
    let (mut world, bytes) = (World::new(), noise(SIZE, 10));
    world.settings.read_timeout = Duration::from_millis(400);
    let content = bytes.clone();
    let silent = Server::start(|_, _, stream| hang(stream));
    let stalled = Server::start(move |_, _, stream| {
        cut(stream, &content, 10, None).and_then(|()| hang(stream))
    });
    let good = Server::of(bytes.clone());
    let cache = cache(
        Some(Digest::of(&bytes)),
        vec![silent.source(), stalled.source(), good.source()],
    );
    world
        .resolver()
        .resolve(&cache, &CancellationToken::new(), &|_| {})
        .await
        .unwrap();
    assert_eq!(
        (silent.requests().len(), stalled.requests().len()),
        (2, 2),
        "each was tried twice"
    );
    assert_eq!(good.requests()[0].from(), Some(10));
}

#[tokio::test]
async fn a_server_that_trickles_is_given_up() {
    let mut world = World::new();
    world.settings.read_timeout = Duration::from_secs(1);
    world.settings.min_bytes_per_second = 100_000;
    world.settings.retries = 0;
    let slow = Server::start(|_, _, stream| {
        head(stream, "200 OK", &[("content-length", "1000000".into())])?;
        loop {
            stream.write_all(b"x")?;
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let asked = cache(Some(Digest::of(b"")), vec![slow.source()]);
    let error = none_left(
        world
            .resolver()
            .resolve(&asked, &CancellationToken::new(), &|_| {})
            .await
            .unwrap_err(),
    );
    assert!(
        error.to_string().contains("slower than 100000 bytes/s"),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_judged_or_is_too_large_is_refused() {
    let mut world = World::new();
    world.settings.max_bytes = 1000;
    let announced =
        Server::start(|_, _, stream| head(stream, "200 OK", &[("content-length", "1001".into())]));
    let chunked = Server::start(|_, _, stream| {
        head(stream, "200 OK", &[("transfer-encoding", "chunked".into())])?;
        loop {
            stream.write_all(b"400\r\n")?;
            stream.write_all(&[7; 0x400])?;
            stream.write_all(b"\r\n")?;
        }
    });
    let encoded = Server::start(|_, _, stream| {
        head(
            stream,
            "200 OK",
            &[
                ("content-length", "4".into()),
                ("content-encoding", "gzip".into()),
            ],
        )?;
        stream.write_all(b"abcd")
    });
    let endless = Server::start(|_, _, stream| {
        head(stream, "200 OK", &[]).and_then(|()| stream.write_all(b"abcd"))
    });
    let sources = [&announced, &chunked, &encoded, &endless]
        .map(Server::source)
        .to_vec();
    let asked = cache(None, sources);
    let error = none_left(
        world
            .resolver()
            .resolve(&asked, &CancellationToken::new(), &|_| {})
            .await
            .unwrap_err(),
    );
    let reasons: Vec<_> = error
        .failures
        .iter()
        .map(|failure| failure.error.reason())
        .collect();
    assert_eq!(
        reasons,
        ["TooLarge", "TooLarge", "Refused", "Refused"],
        "{error}"
    );
    assert!(world.names("sha256").is_empty() && world.names("partial").is_empty());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_said_and_leaves_no_partial_file() {
    let (world, bytes) = (World::new(), noise(SIZE, 16));
    let server = Server::of(bytes.clone());
    let sha256 = Digest::of(&bytes);
    let resolver = world.resolver();
    // Every write to this device fails as on a full disk.
    std::os::unix::fs::symlink(
        "/dev/full",
        world.path("store/partial").join(format!("sha256-{sha256}")),
    )
    .unwrap();
    let asked = cache(Some(sha256), vec![server.source(), server.source()]);
    let error = resolver
        .resolve(&asked, &CancellationToken::new(), &|_| {})
        .await
        .unwrap_err();
    let Error::DiskFull { tried, .. } = &error else {
        panic!("{error}");
    };
    let tried = tried
        .as_deref()
        .map(|tried| (tried.artifact.as_str(), tried.source.clone()));
    assert_eq!(tried, Some(("m.gguf", server.source().to_string())));
    let words = format!("(it has {SIZE} bytes, there is room for 0)");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(error.to_string().contains(&words), "{error}");
    assert!(world.names("partial").is_empty() && world.names("sha256").is_empty());
    assert_eq!(
        server.requests().len(),
        1,
        "another source would not fit either"
    );
}

/// More than any disk has.
#[cfg(unix)]
const LARGE: u64 = 1 << 62;

/// A server that says that the file is so large, and no more.
#[cfg(unix)]
fn announces(bytes: u64) -> Server {
    Server::start(move |_, _, stream| {
        head(stream, "200 OK", &[("content-length", bytes.to_string())])?;
        hang(stream)
    })
}

#[cfg(unix)]
#[tokio::test]
async fn what_every_source_announces_larger_than_what_is_free_is_not_begun() {
    let mut world = World::new();
    world.settings.max_bytes = u64::MAX;
    let (larger, large) = (announces(LARGE + 1), announces(LARGE));
    let absent = Server::start(|_, _, stream| head(stream, "404 Not Found", &[]));
    let sha256 = Digest::of(b"");
    let servers = [&larger, &large, &absent];
    let asked = cache(Some(sha256), servers.map(Server::source).to_vec());
    let resolver = world.resolver();
    // What came of it before goes as well: it fills the disk, too.
    let before = world.path("store/partial").join(format!("sha256-{sha256}"));
    std::fs::write(before, b"ten bytes.").unwrap();
    let heard = std::sync::Mutex::new(Vec::new());
    let hear = |failed: &mesh_models::Failed<'_>| {
        let reason = (failed.error.reason(), failed.error.status_reason());
        heard.lock().unwrap().push(reason);
    };
    let error = resolver
        .resolve_reporting(&asked, &CancellationToken::new(), &|_| {}, &hear)
        .await
        .unwrap_err();
    let Error::DiskFull { room, tried, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(room.needed, Some(LARGE), "with so much it would have come");
    assert!(room.there > Some(0) && room.there < room.needed, "{error}");
    let from = tried.as_deref().map(|tried| tried.source.clone());
    assert_eq!(from, Some(large.source().to_string()));
    assert!(world.names("partial").is_empty() && world.names("sha256").is_empty());
    assert!(servers.iter().all(|server| server.requests().len() == 1));
    let full = ("DiskFull", "DiskFull");
    assert_eq!(
        heard.into_inner().unwrap(),
        [full, full, ("NotFound", "NotFound")]
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_source_that_announces_too_much_is_left_for_the_next_one() {
    let (mut world, bytes) = (World::new(), noise(1000, 18));
    world.settings.max_bytes = u64::MAX;
    let (large, good) = (announces(LARGE), Server::of(bytes.clone()));
    let sha256 = Digest::of(&bytes);
    let asked = cache(Some(sha256), vec![large.source(), good.source()]);
    let resolver = world.resolver();
    let before = world.path("store/partial").join(format!("sha256-{sha256}"));
    std::fs::write(before, &bytes[..10]).unwrap();
    let found = resolver
        .resolve(&asked, &CancellationToken::new(), &|_| {})
        .await
        .unwrap();
    assert_eq!(found[0].source, good.source().to_string());
    assert_eq!(large.requests().len(), 1, "it would say the same again");
    assert_eq!(good.requests()[0].from(), Some(10), "what was there stays");
    assert!(world.names("partial").is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn a_partial_file_that_is_begun_anew_makes_room_for_the_file() {
    // Half of the partial file is far more than others write meanwhile, and as it is one hole it takes no room itself.
    const PRESENT: u64 = 1 << 38;
    let mut world = World::new();
    world.settings.max_bytes = u64::MAX;
    world.settings.retries = 0;
    let resolver = world.resolver();
    let folder = world.path("store/partial");
    let found = rustix::fs::statvfs(&folder).unwrap();
    let total = found.f_bavail * found.f_frsize + PRESENT / 2;
    let server = Server::start(move |_, _, stream| {
        head(stream, "200 OK", &[("content-length", total.to_string())])?;
        stream.write_all(b"some bytes")
    });
    let sha256 = Digest::of(b"");
    for (key, sha256) in [
        (format!("sha256-{sha256}"), Some(sha256)),
        (format!("first-{}", Digest::of(b"tiny/m.gguf")), None),
    ] {
        let partial = std::fs::File::create(folder.join(&key)).unwrap();
        partial.set_len(PRESENT).unwrap();
        let asked = cache(sha256, vec![server.source()]);
        let error = resolver
            .resolve(&asked, &CancellationToken::new(), &|_| {})
            .await
            .unwrap_err();
        let reason = none_left(error).failures[0].error.reason();
        assert!(
            ["Transport", "Truncated"].contains(&reason),
            "{key}: {reason}"
        );
        let begun = std::fs::read(folder.join(&key)).unwrap();
        assert_eq!(begun, b"some bytes", "{key}");
    }
}

#[tokio::test]
async fn quarantine_keeps_the_newest_three() {
    let world = World::new();
    let resolver = world.resolver();
    for seed in 0..5 {
        let server = Server::of(noise(100, seed));
        let asked = cache(Some(Digest::of(b"")), vec![server.source()]);
        resolver
            .resolve(&asked, &CancellationToken::new(), &|_| {})
            .await
            .unwrap_err();
    }
    let kept: Vec<_> = resolver
        .store()
        .quarantined()
        .iter()
        .map(|entry| entry.actual)
        .collect();
    assert_eq!(kept, [4, 3, 2].map(|seed| Digest::of(&noise(100, seed))));
    assert_eq!(world.names("quarantine").len(), 6);
}

#[tokio::test]
async fn a_server_that_answers_another_range_is_not_built_upon() {
    let (mut world, bytes) = (World::new(), noise(SIZE, 17));
    world.settings.retries = 2;
    let content = bytes.clone();
    let server = Server::start(move |number, request, stream| match number {
        0 => cut(stream, &content, 2_000_000, None),
        1 => {
            let range = format!("bytes 5-9/{SIZE}");
            head(
                stream,
                "206 Partial Content",
                &[("content-length", "5".into()), ("content-range", range)],
            )?;
            stream.write_all(&content[5..10])
        }
        _ => file(request, stream, &content, None),
    });
    let asked = cache(Some(Digest::of(&bytes)), vec![server.source()]);
    world
        .resolver()
        .resolve(&asked, &CancellationToken::new(), &|_| {})
        .await
        .unwrap();
    let from: Vec<_> = server.requests().iter().map(Request::from).collect();
    assert_eq!(from, [None, Some(2_000_000), None]);
}

#[tokio::test]
async fn who_waits_for_anothers_download_may_leave() {
    let world = World::new();
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let leave = second.clone();
    let server = Server::start(move |_, _, stream| {
        leave.cancel();
        hang(stream)
    });
    let asked = cache(Some(Digest::of(b"x")), vec![server.source()]);
    let (one, other) = (world.resolver(), world.resolver());
    let waits = async {
        let left = other.resolve(&asked, &second, &|_| {}).await;
        first.cancel();
        left
    };
    let (fetched, left) = tokio::join!(one.resolve(&asked, &first, &|_| {}), waits);
    assert!(matches!(
        (fetched, left),
        (Err(Error::Cancelled), Err(Error::Cancelled))
    ));
    assert_eq!(server.requests().len(), 1);
}
