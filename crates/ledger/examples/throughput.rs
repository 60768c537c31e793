//! How long an entry takes until it is on disk, alone and among others that share its write, and how fast a log is
//! verified. Prints and judges nothing. Usage: `throughput FOLDER REQUESTS`; the folder says which disk.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on ends"
)]

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use jiff::Timestamp;
use mesh_core::{DecisionId, PrivacyLevel, SovereigntyClass};
use mesh_ledger::log::{Log, Options, Segments, segments};
use mesh_ledger::{Check, Entry, Event, Ledger, Sending, Who};

fn main() {
    let mut args = std::env::args_os().skip(1);
    let folder = PathBuf::from(args.next().expect("a folder"));
    let requests = args.next().and_then(|text| text.to_str()?.parse().ok());
    let requests: usize = requests.expect("a number of requests");
    std::fs::create_dir_all(&folder).expect("a folder");
    for writers in [1, 16, 256] {
        let place = tempfile::tempdir_in(&folder).expect("a folder");
        measure(place.path(), writers, requests.max(writers));
    }
}

/// What one request writes before it is sent: 1.4 KiB of decision, and where it goes.
fn entries(number: usize) -> Vec<Entry> {
    let id = format!("01M8H96P0KQ7ZPGP2VC7{number:06}");
    let fact = serde_json::json!({"name": "privacy", "value": "restricted", "detector": "rules/card", "evidence": "card/luhn found 1 times at /messages/0/content"});
    let decision = serde_json::json!({"version": 1, "decision": id, "facts": vec![fact; 10]});
    let caller = Who {
        namespace: String::from("team"),
        subject: String::from("serviceaccount:team:app"),
    };
    let decided = Event::Decided {
        decision,
        caller,
        surface: String::from("chat"),
        bytes: 4096,
    };
    let sending = Event::Sending(Sending {
        decision: DecisionId(id),
        attempt: 1,
        backend: String::from("big"),
        model: String::from("big"),
        class: SovereigntyClass::RentedHardware,
        bytes: 4096,
        level: PrivacyLevel::Confidential,
    });
    let entry = |event| Entry::new("mesh-gateway-0", Timestamp::now(), event);
    vec![entry(decided), entry(sending)]
}

fn measure(folder: &Path, writers: usize, requests: usize) {
    let log = Log::open(folder, Options::default()).expect("a log");
    let begun = Instant::now();
    let each = requests / writers;
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|_| {
                scope.spawn(|| {
                    (0..each)
                        .map(|number| one(&log, number))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let done = threads.into_iter().map(ScopedJoinHandle::join);
        done.flat_map(|took| took.expect("written")).collect()
    });
    let all = begun.elapsed();
    took.sort_unstable();
    let commits = log.figures().commits;
    log.close();
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    let seconds = all.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let rate = (took.len() * 2) as f64 / seconds;
    println!(
        "{writers:4} at once: {rate:8.0} entries/s, {:?} median, {:?} of 99 in 100, {commits} writes for {} requests",
        at(50),
        at(99),
        took.len()
    );
    let begun = Instant::now();
    let files = segments(folder).expect("segments");
    let bytes: u64 = files
        .iter()
        .map(|file| file.metadata().expect("a file").len())
        .sum();
    let mut check = Check::default();
    check
        .scan(BufReader::new(Segments::new(files)), |_, _| ())
        .expect("holds");
    let report = check.finish().expect("holds");
    println!(
        "     verified {} entries, {} checkpoints, {} KiB in {:?}",
        report.size,
        report.checkpoints,
        bytes >> 10,
        begun.elapsed()
    );
}

fn one(log: &Log, number: usize) -> Duration {
    let entries = entries(number);
    let begun = Instant::now();
    block_on(log.append(entries)).expect("kept");
    begun.elapsed()
}
