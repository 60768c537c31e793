//! One story in order on one world that is dear to start: each chapter is counted as a test, in the words
//! that cargo's own tests use. Refuses to go on quietly where the world cannot be had: that is a skip with
//! the reason, and with `CI=true` a failure.

use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// A sentence that is true when the function ends.
pub type Chapter<W> = (&'static str, fn(&W));

fn tell(text: &str) {
    // Nothing can be done if standard output is closed.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Why a chapter could not be told.
struct Skipped(String);

/// Ends a chapter that this world cannot have, with the reason: it is counted as ignored, and with `CI=true` as failed.
pub fn skip(reason: &str) -> ! {
    resume_unwind(Box::new(Skipped(reason.to_owned())))
}

/// How a chapter ended.
enum End {
    Good,
    Bad,
    Skipped(String),
}

fn told<W>(chapter: fn(&W), world: &W) -> End {
    let ended = catch_unwind(AssertUnwindSafe(|| chapter(world)));
    match ended.map_err(<Box<dyn Any + Send>>::downcast::<Skipped>) {
        Ok(()) => End::Good,
        Err(Ok(skipped)) if std::env::var_os("CI").is_none() => End::Skipped(skipped.0),
        Err(_) => End::Bad,
    }
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
    let (mut passed, mut failed, mut ignored, mut filtered) = (0, 0, 0, 0);
    for (name, chapter) in chapters {
        if filter.as_ref().is_some_and(|part| !name.contains(part)) {
            filtered += 1;
            continue;
        }
        let since = Instant::now();
        let end = told(*chapter, &world);
        let seconds = since.elapsed().as_secs_f32();
        match end {
            End::Good => {
                passed += 1;
                tell(&format!("test {name} ... ok ({seconds:.1} s)"));
            }
            End::Bad => {
                failed += 1;
                tell(&format!("test {name} ... FAILED ({seconds:.1} s)"));
                tell(&diagnosis(&world));
            }
            End::Skipped(reason) => {
                ignored += 1;
                tell(&format!("test {name} ... ignored: {reason}"));
            }
        }
    }
    drop(world);
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    tell(&format!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s",
        begun.elapsed().as_secs_f32()
    ));
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
