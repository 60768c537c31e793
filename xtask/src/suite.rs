//! `cargo xtask test`: every tier this machine can carry, and one closing line that counts them all.

use std::time::Instant;

use anyhow::Result;
use mesh_e2e::{mesh, operator, part};

use crate::context::Context;
use crate::process::{Tally, cargo_result, listen};
use crate::{check, images, model, sdk};

pub(crate) fn run(context: &Context) -> bool {
    let begun = Instant::now();
    if let Err(error) = context.trim_shared_target() {
        println!("the build cache could not be trimmed: {error:#}");
    }
    let mut tally = Tally::default();
    let mut tier = |name: &str, run: &mut dyn FnMut() -> Result<Tally>| {
        println!("\n=== {name} ===");
        let since = Instant::now();
        let found = run().unwrap_or_else(|error| {
            println!("{error:#}");
            Tally::one(false)
        });
        println!("=== {name}: {found} in {} s ===", since.elapsed().as_secs());
        tally.add(found);
    };
    tier("model", &mut || obtain(context));
    tier("tools", &mut || {
        possible(context, mesh_cluster::tool::build_all)
    });
    tier("checks", &mut || check::all(context));
    let mut binary = None;
    tier("release build", &mut || {
        binary = Some(context.release_binary()?);
        Ok(Tally::one(true))
    });
    tier("crates", &mut || crates(context, binary.as_deref()));
    let mut images = None;
    tier("images", &mut || {
        possible(context, || {
            let folder = context.root.join("target/images");
            images::build(context, &folder)?;
            images = Some(folder);
            Ok(())
        })
    });
    if let Some(images) = &images {
        tier("a real cluster", &mut || cluster(context, images));
    }
    if let Some(binary) = &binary {
        tier("official SDKs", &mut || sdk::run(context, binary));
    }
    println!("\nall tiers took {} s", begun.elapsed().as_secs());
    println!("{tally}");
    tally.good(context.ci)
}

/// What a user's machine may lack is a skip there, with the reason, and a failure under CI.
fn possible(context: &Context, work: impl FnOnce() -> Result<()>) -> Result<Tally> {
    match work() {
        Ok(()) => Ok(Tally::one(true)),
        Err(error) if context.ci => Err(error),
        Err(error) => {
            println!("skipped: {error:#}");
            Ok(Tally {
                skipped: 1,
                ..Tally::default()
            })
        }
    }
}

/// The release on a Kubernetes of its own.
fn cluster(context: &Context, images: &std::path::Path) -> Result<Tally> {
    let python = sdk::python_with_sdk(context)?;
    let mut cargo = context.shared_cargo();
    cargo
        .args([
            "test",
            "--package",
            "mesh-e2e",
            "--test",
            "cluster",
            "--locked",
        ])
        .env("MESH_IMAGES", images)
        .env("MESH_SDK_PYTHON", python)
        .env("MESH_SDK_NODE", sdk::node_with_sdk(context)?);
    tested(&mut cargo)
}

fn obtain(context: &Context) -> Result<Tally> {
    match model::obtain(context) {
        Ok(path) => println!("{}", path.display()),
        Err(error) if context.ci => return Err(error),
        Err(error) => {
            println!("skipped: {error:#}");
            return Ok(Tally {
                skipped: 1,
                ..Tally::default()
            });
        }
    }
    Ok(Tally::one(true))
}

/// All tests that cargo knows. Those of the built binaries find them by the variables.
fn crates(context: &Context, binary: Option<&std::path::Path>) -> Result<Tally> {
    let mut cargo = context.shared_cargo();
    cargo.args([
        "test",
        "--workspace",
        "--features",
        "xtask/gen",
        "--locked",
        "--no-fail-fast",
    ]);
    if let Some(binary) = binary {
        cargo.env(mesh::BINARY, binary);
    }
    cargo.env(operator::BINARY, context.tested_binary("mesh-operator"));
    for (variable, name) in [part::GATEWAY, part::WORKER] {
        cargo.env(variable, context.tested_binary(name));
    }
    tested(&mut cargo)
}

/// Runs cargo's tests and counts them.
fn tested(cargo: &mut std::process::Command) -> Result<Tally> {
    let mut tally = Tally::default();
    let good = listen(cargo, |line| {
        if let Some(found) = cargo_result(line) {
            tally.add(found);
        }
    })?;
    if !good && tally.failed == 0 {
        println!("cargo test failed without a failing test: something did not build or crashed");
        tally.failed += 1;
    }
    Ok(tally)
}
