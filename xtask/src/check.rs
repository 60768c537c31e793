//! `cargo xtask check`: what must hold before a single test runs. Every check runs, whatever the one
//! before found.

use std::process::Command;

use anyhow::Result;

use crate::context::Context;
use crate::process::{Tally, output, succeeds};
use crate::{chart, generate, layering, tidy};

/// Must be nowhere in what is built, direct or not.
const BANNED_BUILDS: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls", "serde_yaml"];

pub(crate) fn run(context: &Context) -> Result<bool> {
    let tally = all(context)?;
    println!("{tally}");
    Ok(tally.good(context.ci))
}

/// Runs the checks and counts them.
pub(crate) fn all(context: &Context) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut note = |name: &str, good: bool| {
        println!("check {name}: {}", if good { "ok" } else { "FAILED" });
        tally.add(Tally::one(good));
    };
    note(
        "format",
        succeeds(
            context
                .cargo()
                .args(["fmt", "--all", "--", "--check", "-l"]),
        )?,
    );
    note("layers", report(&layers(context)?));
    note("tidiness", report(&tidy::violations(context)?));
    note("chart", report(&chart::violations(&context.root)?));
    note("banned builds", report(&banned(context)?));
    let mut clippy = context.shared_cargo();
    clippy
        .args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--features",
            "xtask/gen",
            "--locked",
        ])
        .args(["--", "-D", "warnings"]);
    note("lints", succeeds(&mut clippy)?);
    note("generated files", generate::run(context, true)?);
    Ok(tally)
}

fn report(violations: &[String]) -> bool {
    for violation in violations {
        println!("  {violation}");
    }
    violations.is_empty()
}

fn layers(context: &Context) -> Result<Vec<String>> {
    let mut cargo: Command = context.cargo();
    let text = output(cargo.args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    Ok(layering::violations(&serde_json::from_str(&text)?))
}

/// Looks at what would be compiled for this machine: a lock file also lists what no feature uses.
fn banned(context: &Context) -> Result<Vec<String>> {
    let mut cargo = context.cargo();
    let tree = output(cargo.args([
        "tree",
        "--workspace",
        "--locked",
        "--edges",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    Ok(banned_in(&tree))
}

fn banned_in(tree: &str) -> Vec<String> {
    let built = |name: &&&str| {
        tree.lines()
            .any(|line| line.split(' ').next() == Some(**name))
    };
    BANNED_BUILDS
        .iter()
        .filter(built)
        .map(|name| format!("{name} is built; `cargo tree -i {name}` says for whom"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_crate_in_the_tree_is_found_and_one_that_sounds_alike_is_not() {
        assert_eq!(
            banned_in("mesh v0.1.0 (here)\nring-buffer v1.0.0\nspring v0.1.0").len(),
            0
        );
        assert_eq!(
            banned_in("mesh v0.1.0\nring v0.17.8\nring v0.17.8 (*)").len(),
            1
        );
    }
}
