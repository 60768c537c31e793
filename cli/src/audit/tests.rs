use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use futures::executor::block_on as wait;
use jiff::Timestamp;
use mesh_core::DecisionId;
use mesh_ledger::{Ended, Entry, Event, Ledger, Log, log};
use tempfile::TempDir;

use crate::Answer;
use crate::args::{Cli, Command};

fn ended(number: u64) -> Entry {
    let ended = Ended {
        decision: DecisionId(format!("decision-{number}")),
        attempt: 1,
        backend: String::from("big"),
        outcome: String::from("ok"),
        tokens: None,
        milliseconds: number,
    };
    Entry::new("mesh", Timestamp::UNIX_EPOCH, Event::Ended(ended))
}

/// A log of a machine with `count` entries, and its public key.
fn written(folder: &Path, count: u64) -> String {
    let log = Log::open(folder, log::Options::default()).expect("a log");
    for number in 0..count {
        wait(log.append(vec![ended(number)])).expect("kept");
    }
    log.key().to_string()
}

/// What the exit says.
async fn audit(args: &[&str]) -> anyhow::Result<Answer> {
    let all = [&["mesh", "--output", "json", "audit"], args].concat();
    let cli = Cli::try_parse_from(all)?;
    let Command::Audit(audit) = cli.command else {
        panic!("another command");
    };
    super::run(audit, cli.output).await
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn segment(folder: &Path) -> PathBuf {
    folder.join("00000000000000000000.log")
}

#[tokio::test]
async fn a_log_as_it_was_written_holds_and_a_changed_one_does_not() {
    let (home, folder) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let key = written(folder.path(), 5);
    let kept = home.path().join("checkpoint");
    let place = text(folder.path());
    let held = audit(&["verify", place, "--key", &key, "--save", text(&kept)]).await;
    assert_eq!(held.expect("read"), Answer::Yes);
    assert!(
        fs::read_to_string(&kept)
            .expect("a checkpoint")
            .starts_with("inferencemesh.dev/ledger/")
    );
    let with_kept = ["verify", place, "--checkpoint", text(&kept)];
    assert_eq!(audit(&with_kept).await.expect("read"), Answer::Yes);
    assert_eq!(audit(&["show", place]).await.expect("read"), Answer::Yes);

    let good = fs::read_to_string(segment(folder.path())).expect("a segment");
    let cut: Vec<&str> = good.lines().take(8).collect();
    for (changed, found_by_itself) in [
        (good.replace("decision-2", "decision-9"), true),
        (good.replacen("\"ok\"", "\"failed\"", 1), true),
        (cut.join("\n") + "\n", false),
    ] {
        fs::write(segment(folder.path()), &changed).expect("written");
        let answer = audit(&["verify", place]).await.expect("read");
        assert_eq!(answer == Answer::No, found_by_itself, "{changed}");
        assert_eq!(audit(&with_kept).await.expect("read"), Answer::No);
        let witness = fs::read_to_string(&kept).expect("a checkpoint");
        let again = audit(&["verify", place, "--save", text(&kept)]).await;
        assert_eq!(
            again.expect("read"),
            Answer::No,
            "what is to be replaced is compared first"
        );
        assert_eq!(fs::read_to_string(&kept).expect("a checkpoint"), witness);
        let answer = audit(&["show", place]).await.expect("read");
        assert_eq!(answer == Answer::No, found_by_itself, "{changed}");
    }
    // Made anew, with another key.
    fs::remove_file(segment(folder.path())).expect("removed");
    fs::remove_file(folder.path().join("key")).expect("removed");
    written(folder.path(), 5);
    assert_eq!(audit(&["verify", place]).await.expect("read"), Answer::Yes);
    assert_eq!(
        audit(&["verify", place, "--key", &key])
            .await
            .expect("read"),
        Answer::No
    );
    assert_eq!(audit(&with_kept).await.expect("read"), Answer::No);
}

#[tokio::test]
async fn one_entry_is_proven_without_the_log() {
    let (home, folder) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let key = written(folder.path(), 9);
    let file = home.path().join("one.tlog-proof");
    let made = audit(&[
        "show",
        text(folder.path()),
        "--entry",
        "3",
        "--proof",
        text(&file),
    ])
    .await;
    assert_eq!(made.expect("made"), Answer::Yes);
    let checked = ["verify", "--proof", text(&file), "--key", &key];
    assert_eq!(audit(&checked).await.expect("read"), Answer::Yes);
    let proof = fs::read_to_string(&file).expect("a proof");
    fs::write(&file, proof.replace("index 3", "index 4")).expect("written");
    assert_eq!(audit(&checked).await.expect("read"), Answer::No);
    let missing = audit(&[
        "show",
        text(folder.path()),
        "--entry",
        "9",
        "--proof",
        text(&file),
    ])
    .await;
    assert!(
        missing
            .expect_err("refused")
            .to_string()
            .contains("no proof can be made")
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_no_answer() {
    let folder = TempDir::new().expect("a folder");
    for args in [
        &["verify", text(folder.path())][..],
        &["verify", "/nowhere"],
        &["show", "/nowhere"],
        &["verify", text(folder.path()), "--checkpoint", "/nowhere"],
        &["verify", text(folder.path()), "--key", "nonsense"],
        &["verify", "--proof", "/nowhere"],
        &["verify", text(folder.path()), "--cluster"],
        &["show", text(folder.path()), "--since", "tomorrow"],
    ] {
        assert!(audit(args).await.is_err(), "{args:?}");
    }
}
