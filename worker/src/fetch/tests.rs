//! `fetch` as a pod runs it: files appear under their paths, everything tried is told, the exit code says
//! whether it is worth looking.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mesh_models::Digest;
use mesh_runtime::Shutdown;
use serde_json::{Value, json};

use super::{DISK_FULL, Fetch, run, run_until};

fn options(folder: &Path, sources: &Value, sha256: Option<&str>) -> Fetch {
    let spec = json!({"artifacts": [{"path": "deep/m.bin", "sha256": sha256}], "sources": sources});
    Fetch {
        spec: spec.to_string(),
        into: folder.join("models"),
        builtin: folder.join("builtin"),
        link_builtin: false,
        result: Some(folder.join("result")),
        verify: false,
        parallel: NonZeroUsize::MIN,
        timeout: 5,
        retries: 0,
        progress_listen: None,
        linger: 0,
    }
}

fn builtin(folder: &Path, content: &str) {
    fs::create_dir_all(folder.join("builtin/deep")).expect("made");
    fs::write(folder.join("builtin/deep/m.bin"), content).expect("written");
}

fn result(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("result")).expect("a result")).expect("JSON")
}

fn same(one: ExitCode, other: ExitCode) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

/// A server that answers every request with these bytes, as they are.
fn serve(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // The thread ends with the test process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1)
            {
                head.push(byte[0]);
            }
            let _ = stream.write_all(&answer);
        }
    });
    address
}

fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let status = answer[9..12].parse().expect("a status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    (status, body.to_owned())
}

#[tokio::test]
async fn a_builtin_file_appears_under_its_path_and_only_if_it_is_the_right_one() {
    let folder = tempfile::tempdir().expect("a folder");
    builtin(folder.path(), "weights");
    let right = Digest::of(b"weights").to_string();
    let wanted = json!([{"builtin": {}}]);
    let code = run(options(folder.path(), &wanted, Some(&right))).await;
    assert!(same(code.expect("used right"), ExitCode::SUCCESS));
    let link = folder.path().join("models/deep/m.bin");
    assert_eq!(fs::read(&link).expect("there"), b"weights");
    let told = result(folder.path());
    assert_eq!(told["artifacts"][0]["sha256"], right.as_str());
    assert_eq!(told["artifacts"][0]["source"], "builtin");
    assert_eq!(told["failures"], json!([]));
    assert!(told.get("error").is_none());

    // A volume may be mounted anywhere.
    let moved = folder.path().join("elsewhere");
    fs::rename(folder.path().join("models"), &moved).expect("moved");
    fs::remove_dir_all(folder.path().join("builtin")).expect("gone");
    assert_eq!(
        fs::read(moved.join("deep/m.bin")).expect("there"),
        b"weights"
    );

    let other = tempfile::tempdir().expect("a folder");
    builtin(other.path(), "weights!");
    let code = run(options(other.path(), &wanted, Some(&right))).await;
    assert!(same(code.expect("used right"), ExitCode::FAILURE));
    let told = result(other.path());
    assert_eq!(told["failures"][0]["reason"], "DigestMismatch");
    assert_eq!(told["failures"][0]["quarantined"], true);
    assert!(
        told["error"]
            .as_str()
            .is_some_and(|text| text.contains("deep/m.bin"))
    );
    assert!(fs::symlink_metadata(other.path().join("models/deep/m.bin")).is_err());
}

#[tokio::test]
async fn a_builtin_file_may_be_used_where_it_lies() {
    let folder = tempfile::tempdir().expect("a folder");
    builtin(folder.path(), "weights");
    let mut options = options(folder.path(), &json!([{"builtin": {}}]), None);
    options.link_builtin = true;
    run(options).await.expect("used right");
    let link = fs::read_link(folder.path().join("models/deep/m.bin")).expect("a link");
    assert!(
        link.is_absolute() && link.ends_with("builtin/deep/m.bin"),
        "{link:?}"
    );
}

#[tokio::test]
async fn every_source_that_failed_is_told_with_its_reason_although_a_later_one_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let answer = |text: &str| serve(text.as_bytes().to_vec());
    let wrong = answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong");
    let broken = answer("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n");
    let absent = answer("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n");
    let private = answer("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n");
    let cut = answer("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nwei");
    let good = answer("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nweights");
    let mut sources: Vec<Value> = [wrong, broken, absent, private, cut]
        .iter()
        .map(|address| json!({"http": {"url": format!("http://{address}/")}}))
        .collect();
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr());
    sources.push(json!({"http": {"url": format!("http://{}/", closed.expect("a port"))}}));
    sources.push(json!({"http": {"url": "http://e.example/"}}));
    sources.push(json!({"pvc": {"folder": folder.path().join("volume")}}));
    sources.push(json!({"http": {"url": format!("http://{good}/")}}));
    let digest = Digest::of(b"weights").to_string();
    let code = run(options(folder.path(), &json!(sources), Some(&digest))).await;
    assert!(same(code.expect("used right"), ExitCode::SUCCESS));
    let told = result(folder.path());
    let reasons: Vec<&str> = told["failures"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|failure| failure["reason"].as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "DigestMismatch",
            "HttpError",
            "NotFound",
            "CredentialsRefused",
            "Truncated",
            "Unreachable",
            "Refused",
            "NotFound"
        ],
        "{told}"
    );
    assert_eq!(told["failures"][0]["quarantined"], true);
    assert_eq!(told["failures"][1]["quarantined"], false);
    assert_eq!(
        told["artifacts"][0]["source"],
        format!("http http://{good}/")
    );
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_fetched_anew_when_everything_is_proven_again() {
    let folder = tempfile::tempdir().expect("a folder");
    builtin(folder.path(), "weights");
    let digest = Digest::of(b"weights").to_string();
    let options = || options(folder.path(), &json!([{"builtin": {}}]), Some(&digest));
    run(options()).await.expect("used right");
    let stored = folder.path().join("models/.store/sha256").join(&digest);
    fs::remove_file(&stored).expect("gone");
    fs::write(&stored, "weighty").expect("written");
    let mut again = options();
    again.verify = true;
    let code = run(again).await.expect("used right");
    assert!(same(code, ExitCode::SUCCESS));
    let told = result(folder.path());
    assert_eq!(told["failures"][0]["source"], "the store");
    assert_eq!(told["failures"][0]["reason"], "DigestMismatch");
    assert_eq!(told["failures"][0]["quarantined"], true);
    assert_eq!(told["artifacts"][0]["source"], "builtin");
    assert_eq!(
        fs::read(folder.path().join("models/deep/m.bin")).expect("there"),
        b"weights"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_the_reason_and_the_artifact_does_not_appear() {
    let folder = tempfile::tempdir().expect("a folder");
    builtin(folder.path(), "weights");
    let digest = Digest::of(b"weights").to_string();
    let partial = folder.path().join("models/.store/partial");
    fs::create_dir_all(&partial).expect("made");
    // Every write to this device fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", partial.join(format!("sha256-{digest}")))
        .expect("linked");
    let code = run(options(
        folder.path(),
        &json!([{"builtin": {}}]),
        Some(&digest),
    ))
    .await;
    assert!(same(code.expect("used right"), ExitCode::from(DISK_FULL)));
    let told = result(folder.path());
    assert_eq!(told["failures"][0]["reason"], "DiskFull", "{told}");
    let said = told["failures"][0]["message"].as_str().expect("a message");
    assert!(
        said.contains("it has 7 bytes, there is room for 0"),
        "{said}"
    );
    assert!(fs::symlink_metadata(folder.path().join("models/deep/m.bin")).is_err());
    assert_eq!(fs::read_dir(partial).expect("a folder").count(), 0);
}

/// A file of the image that is larger than any disk, all of it a hole.
fn huge(folder: &Path, name: &str) {
    builtin(folder, "weights");
    let file = fs::File::create(folder.join("builtin/deep").join(name)).expect("made");
    file.set_len(1 << 43).expect("a hole");
}

#[tokio::test]
async fn a_full_disk_is_told_of_the_file_that_found_no_room_and_of_its_source() {
    let folder = tempfile::tempdir().expect("a folder");
    huge(folder.path(), "n.bin");
    let mut options = options(folder.path(), &json!([{"builtin": {}}]), None);
    options.spec =
        json!({"artifacts": [{"path": "deep/m.bin"}, {"path": "deep/n.bin"}], "sources": [{"builtin": {}}]})
            .to_string();
    let code = run(options).await.expect("used right");
    assert!(same(code, ExitCode::from(DISK_FULL)));
    let told = result(folder.path());
    let [failure] = &told["failures"].as_array().expect("a list")[..] else {
        panic!("one failure is told once: {told}");
    };
    let of = ["artifact", "source", "reason"].map(|key| failure[key].as_str().expect("words"));
    assert_eq!(of, ["deep/n.bin", "builtin", "DiskFull"]);
    let said = failure["message"].as_str().expect("a message");
    assert!(
        said.contains("(it has 8796093022208 bytes, there"),
        "{said}"
    );
}

#[tokio::test]
async fn a_source_with_too_large_a_file_is_followed_by_the_next_and_told_last_if_none_serves() {
    let answer = |text: &str| serve(text.as_bytes().to_vec());
    let good = answer("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nweights");
    let absent = answer("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n");
    let digest = Digest::of(b"weights").to_string();
    for (next, code, reasons) in [
        (good, ExitCode::SUCCESS, &["DiskFull"][..]),
        (absent, ExitCode::from(DISK_FULL), &["NotFound", "DiskFull"]),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        huge(folder.path(), "m.bin");
        let sources = json!([{"builtin": {}}, {"http": {"url": format!("http://{next}/")}}]);
        let ended = run(options(folder.path(), &sources, Some(&digest))).await;
        assert!(same(ended.expect("used right"), code));
        let told = result(folder.path());
        let failures = told["failures"].as_array().expect("a list");
        let seen: Vec<&str> = failures
            .iter()
            .filter_map(|failure| failure["reason"].as_str())
            .collect();
        assert_eq!(seen, reasons, "{told}");
        let last = failures.last().expect("one");
        assert_eq!(last["source"], "builtin", "{told}");
    }
}

#[tokio::test]
async fn progress_and_result_are_served_until_the_rest_after_success_is_over() {
    let folder = tempfile::tempdir().expect("a folder");
    builtin(folder.path(), "weights");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr());
    let address = port.expect("a port");
    let mut options = options(folder.path(), &json!([{"builtin": {}}]), None);
    options.progress_listen = Some(address);
    options.linger = 600;
    let shutdown = Shutdown::new();
    let asks = async {
        while !folder.path().join("result").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let asked = tokio::task::spawn_blocking(move || {
            ["/healthz", "/progress", "/result", "/other"].map(|path| ask(address, path))
        });
        let answers = asked.await.expect("asked");
        shutdown.token.cancel();
        answers
    };
    let (code, [health, progress, result, other]) =
        tokio::join!(run_until(options, shutdown.clone()), asks);
    assert!(same(code.expect("used right"), ExitCode::SUCCESS));
    assert_eq!((health.0, other.0), (200, 404));
    let progress: Value = serde_json::from_str(&progress.1).expect("JSON");
    assert_eq!(
        (&progress["artifact"], &progress["bytesDone"]),
        (&json!("deep/m.bin"), &json!(7))
    );
    let result: Value = serde_json::from_str(&result.1).expect("JSON");
    assert_eq!(result["artifacts"][0]["sizeBytes"], 7);
}

#[tokio::test]
async fn wrong_use_is_an_error_and_not_a_failed_fetch() {
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = json!([{"peers": {}}]);
    let refused = run(options(folder.path(), &wanted, None))
        .await
        .expect_err("refused");
    assert!(
        format!("{refused:#}").contains("not supported yet: source peers"),
        "{refused:#}"
    );
    let mut inside = options(folder.path(), &json!([{"builtin": {}}]), None);
    inside.spec = inside.spec.replace("deep/", ".store/");
    let refused = run(inside).await.expect_err("refused");
    assert!(
        format!("{refused:#}").contains("the store's own folder"),
        "{refused:#}"
    );
}
