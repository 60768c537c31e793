//! Child processes: run, run and listen, find a program. Every child is waited for; none outlives its
//! caller on purpose.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// What tests said, added up over all tiers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) fn one(good: bool) -> Self {
        Self {
            passed: u64::from(good),
            failed: u64::from(!good),
            skipped: 0,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// True if nothing failed, something ran, and under CI nothing was left out.
    pub(crate) fn good(self, ci: bool) -> bool {
        self.failed == 0 && self.passed > 0 && (self.skipped == 0 || !ci)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(formatter, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// A command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let args = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned());
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
    std::iter::once(name)
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command on our streams; a failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    if !succeeds(command)? {
        bail!("`{}` failed", line(command));
    }
    Ok(())
}

/// Runs a command on our streams and says whether it went well.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    println!("$ {}", line(command));
    let status = command.stdin(Stdio::null()).status();
    Ok(status
        .with_context(|| format!("could not start `{}`", line(command)))?
        .success())
}

/// Runs a command quietly and gives its standard output; a failure is an error with what it wrote.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("could not start `{}`", line(command)))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!(
            "`{}` failed: {}",
            line(command),
            said.trim().lines().last().unwrap_or("it wrote nothing")
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a command, shows its standard output as it comes and hands every line to `listen`. Says
/// whether it went well.
pub(crate) fn listen(command: &mut Command, mut listen: impl FnMut(&str)) -> Result<bool> {
    println!("$ {}", line(command));
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("could not start `{}`", line(command)))?;
    if let Some(stdout) = child.stdout.take() {
        for text in BufReader::new(stdout).split(b'\n') {
            let text = text?;
            let text = String::from_utf8_lossy(&text);
            println!("{text}");
            listen(&text);
        }
    }
    Ok(child.wait()?.success())
}

/// The counts in `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
pub(crate) fn cargo_result(line: &str) -> Option<Tally> {
    let counts = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?
        .1;
    let count = |word: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
    };
    Some(Tally {
        passed: count(" passed")?,
        failed: count(" failed")?,
        skipped: 0,
    })
}

/// The counts in a line `3 passed, 0 failed`.
pub(crate) fn script_result(line: &str) -> Option<Tally> {
    let (passed, failed) = line.trim().split_once(" passed, ")?;
    Some(Tally {
        passed: passed.parse().ok()?,
        failed: failed.strip_suffix(" failed")?.parse().ok()?,
        skipped: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_lines_that_say_them_and_from_no_others() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s";
        assert_eq!(
            cargo_result(line),
            Some(Tally {
                passed: 12,
                failed: 3,
                skipped: 0
            })
        );
        assert_eq!(cargo_result("test results_are_good ... ok"), None);
        assert_eq!(
            script_result("17 passed, 1 failed"),
            Some(Tally {
                passed: 17,
                failed: 1,
                skipped: 0
            })
        );
        assert_eq!(script_result("all passed, none failed"), None);
    }

    #[test]
    fn nothing_run_is_not_good_and_a_skip_is_bad_under_ci_only() {
        let ran = Tally {
            passed: 1,
            failed: 0,
            skipped: 1,
        };
        assert!(ran.good(false) && !ran.good(true));
        assert!(!Tally::default().good(false));
        assert!(
            !Tally {
                passed: 9,
                failed: 1,
                skipped: 0
            }
            .good(false)
        );
    }
}
