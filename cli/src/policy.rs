//! `mesh policy check|test`.

use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use mesh_crds::Problem;
use mesh_dataplane::source::{FileSource, Rejected, accept};
use serde::Serialize;

use crate::args::{Output, Policy};
use crate::catalog::NAMESPACE;
use crate::{Answer, output};

pub(crate) fn run(command: &Policy, format: Output) -> anyhow::Result<Answer> {
    match command {
        Policy::Check(options) => check(&options.dir, format),
        Policy::Test(options) => test(&options.dir, format),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    accepted: bool,
    problems: &'a [Problem],
}

fn check(dir: &Path, format: Output) -> anyhow::Result<Answer> {
    exists(dir)?;
    match FileSource::new(dir, NAMESPACE).load(Timestamp::now()) {
        Ok(loaded) => {
            let report = Report {
                accepted: true,
                problems: &loaded.warnings,
            };
            output::result(format, &report, |out| {
                print(out, &loaded.warnings)?;
                let (backends, policies) = (
                    loaded.snapshot.backends.len(),
                    loaded.snapshot.policies.len(),
                );
                writeln!(
                    out,
                    "accepted: {policies} policies, {backends} backends, {} models",
                    loaded.models.len()
                )
            })?;
            Ok(Answer::Yes)
        }
        Err(rejected) => refuse(&rejected, format),
    }
}

fn test(dir: &Path, format: Output) -> anyhow::Result<Answer> {
    exists(dir)?;
    let now = Timestamp::now();
    let loaded = match FileSource::new(dir, NAMESPACE).translate(now) {
        Ok((_, loaded)) => loaded,
        Err(rejected) => return refuse(&rejected, format),
    };
    let outcomes = accept::tests(&loaded.snapshot, now);
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    output::result(format, &outcomes, |out| {
        for outcome in &outcomes {
            let word = if outcome.passed { "ok  " } else { "FAIL" };
            writeln!(out, "{word} {}: {}", outcome.policy, outcome.name)?;
            if !outcome.passed {
                writeln!(out, "     {}", outcome.message)?;
            }
        }
        writeln!(out, "{} passed, {failed} failed", outcomes.len() - failed)
    })?;
    Ok(if failed == 0 { Answer::Yes } else { Answer::No })
}

fn exists(dir: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        dir.exists(),
        "{} does not exist: name a directory with YAML files",
        dir.display()
    );
    Ok(())
}

fn refuse(rejected: &Rejected, format: Output) -> anyhow::Result<Answer> {
    let report = Report {
        accepted: false,
        problems: &rejected.problems,
    };
    output::result(format, &report, |out| {
        print(out, &rejected.problems)?;
        let errors = rejected
            .problems
            .iter()
            .filter(|problem| problem.error())
            .count();
        writeln!(out, "not accepted: {errors} problems")
    })?;
    Ok(Answer::No)
}

fn print(out: &mut dyn Write, problems: &[Problem]) -> std::io::Result<()> {
    problems
        .iter()
        .try_for_each(|problem| writeln!(out, "{problem}"))
}
