//! One story in order on one world that is dear to start: each chapter is counted as a test, in the words
//! that cargo's own tests use. Refuses to go on quietly where the world cannot be had: that is a skip with
//! the reason, and with `CI=true` a failure.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// A sentence that is true when the function ends.
pub type Chapter<W> = (&'static str, fn(&W));

fn tell(text: &str) {
    // Nothing can be done if standard output is closed.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Starts a world and tells the chapters that the command line asks for. `start` gives an error for what
/// this machine lacks.
pub fn run<W>(
    start: impl FnOnce() -> Result<W>,
    chapters: &[Chapter<W>],
    diagnosis: impl Fn(&W) -> String,
) -> ExitCode {
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let begun = Instant::now();
    let world = match start() {
        Ok(world) => world,
        Err(error) if std::env::var_os("CI").is_none() => {
            tell(&format!("skipped: {error:#}"));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            tell(&format!("the world could not be started: {error:#}"));
            tell("test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
            return ExitCode::FAILURE;
        }
    };
    tell(&format!(
        "\nrunning {} chapters (world up after {:.1} s)",
        chapters.len(),
        begun.elapsed().as_secs_f32()
    ));
    let (mut passed, mut failed, mut filtered) = (0, 0, 0);
    for (name, chapter) in chapters {
        if filter.as_ref().is_some_and(|part| !name.contains(part)) {
            filtered += 1;
            continue;
        }
        let since = Instant::now();
        let good = catch_unwind(AssertUnwindSafe(|| chapter(&world))).is_ok();
        let verdict = if good { "ok" } else { "FAILED" };
        let seconds = since.elapsed().as_secs_f32();
        tell(&format!("test {name} ... {verdict} ({seconds:.1} s)"));
        if good {
            passed += 1;
        } else {
            failed += 1;
            tell(&diagnosis(&world));
        }
    }
    drop(world);
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    tell(&format!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out; finished in {:.2}s",
        begun.elapsed().as_secs_f32()
    ));
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
