//! `cargo xtask images`: static programs, stripped, one layer each, as OCI archives. Needs Debian's buildah
//! and no daemon. Refuses an image that is larger than promised.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mesh_cluster::{Image, build_image};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::model::{self, hex};
use crate::process::{output, run};

pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
const REGISTRY: &str = "inferencemesh.local";
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Programs that become images of the same name.
pub(crate) const PROGRAMS: [(&str, &str); 5] = [
    ("operator", "mesh-operator"),
    ("gateway", "mesh-gateway"),
    ("sidecar", "mesh-sidecar"),
    ("worker", "mesh-worker"),
    ("mesh", "mesh"),
];
/// Largest compressed image without a model, in bytes.
const LARGEST: u64 = 20 << 20;
/// The same of the one that every pod pulls.
const LARGEST_SIDECAR: u64 = 8_000_000;
/// Certificate authorities of the machine that builds, for clouds.
pub(crate) const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds all images into `out`.
pub(crate) fn build(context: &Context, out: &Path) -> Result<()> {
    let model = model::obtain(context)?;
    mesh_cluster::tool::packages_for_images()?;
    let programs = programs(context)?;
    fs::create_dir_all(out)?;
    for (name, program) in PROGRAMS {
        let file = stripped(&programs.join(program), out)?;
        image(name, &file, program, None, out)?;
        if name == "worker" {
            image("worker-floor", &file, program, Some(&model), out)?;
        }
    }
    Ok(())
}

/// Static programs: an image has nothing else.
pub(crate) fn programs(context: &Context) -> Result<PathBuf> {
    let mut cargo = static_cargo(context, "build");
    for (_, program) in PROGRAMS {
        cargo.args(["--package", program]);
    }
    run(&mut cargo)?;
    Ok(target(context).join(TARGET).join("image"))
}

fn target(context: &Context) -> PathBuf {
    context.cache.join("target-static")
}

/// cargo as the programs of images are built with.
pub(crate) fn static_cargo(context: &Context, verb: &str) -> Command {
    let mut cargo = context.cargo();
    cargo
        .args([verb, "--profile", "image", "--locked", "--target", TARGET])
        .env("CARGO_TARGET_DIR", target(context))
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo
}

/// The program without what only debuggers read; that stays beside it.
fn stripped(program: &Path, out: &Path) -> Result<PathBuf> {
    let folder = out.join("programs");
    fs::create_dir_all(&folder)?;
    let name = program.file_name().context("a program has a name")?;
    let (target, debug) = (folder.join(name), folder.join(name).with_extension("debug"));
    output(
        Command::new("objcopy")
            .arg("--only-keep-debug")
            .arg(program)
            .arg(&debug),
    )?;
    output(
        Command::new("objcopy")
            .arg("--strip-all")
            .arg(program)
            .arg(&target),
    )?;
    Ok(target)
}

fn image(name: &str, file: &Path, program: &str, model: Option<&Path>, out: &Path) -> Result<()> {
    let archive = out.join(format!("{name}.tar"));
    let mark = out.join(format!("{name}.inputs"));
    let mut hasher = Sha256::new();
    hasher.update(fs::read(file)?);
    hasher.update(fs::read(AUTHORITIES).unwrap_or_default());
    hasher.update(
        model
            .map(|model| model.display().to_string())
            .unwrap_or_default(),
    );
    let inputs = hex(&hasher.finalize());
    let full = format!("{REGISTRY}/{name}:{VERSION}");
    if archive.is_file() && fs::read_to_string(&mark).is_ok_and(|mark| mark == inputs) {
        println!("{full} is up to date");
        return Ok(());
    }
    let files = contents(file, program, model)?;
    let label =
        |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
    build_image(
        &Image {
            name: full.clone(),
            files,
            entrypoint: format!("/{program}"),
            labels: vec![
                label("title", name),
                label("version", VERSION),
                label("licenses", "Apache-2.0"),
            ],
        },
        &archive,
    )?;
    let size = fs::metadata(&archive)?.len();
    println!("{full}: {:.1} MB compressed", to_megabytes(size));
    let largest = largest(name, model.is_some());
    ensure!(
        size <= largest,
        "{full} has {:.1} MB, more than {:.1}",
        to_megabytes(size),
        to_megabytes(largest)
    );
    Ok(fs::write(mark, inputs)?)
}

/// Largest archive of an image, in bytes. A model is as large as it is.
fn largest(name: &str, with_model: bool) -> u64 {
    match name {
        _ if with_model => u64::MAX,
        "sidecar" => LARGEST_SIDECAR,
        _ => LARGEST,
    }
}

/// Files of an image, where they go, and their modes.
fn contents(
    file: &Path,
    program: &str,
    model: Option<&Path>,
) -> Result<Vec<(PathBuf, String, String)>> {
    let mut files = vec![(
        file.to_path_buf(),
        format!("/{program}"),
        String::from("0555"),
    )];
    if Path::new(AUTHORITIES).is_file() {
        files.push((
            PathBuf::from(AUTHORITIES),
            AUTHORITIES.to_owned(),
            String::from("0444"),
        ));
    }
    if let Some(model) = model {
        let file = model
            .file_name()
            .context("a model has a name")?
            .to_string_lossy();
        files.push((
            model.to_path_buf(),
            format!("/builtin/{file}"),
            String::from("0444"),
        ));
    }
    Ok(files)
}

#[expect(clippy::cast_precision_loss, reason = "for a person")]
fn to_megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::{LARGEST, largest};

    #[test]
    fn what_every_pod_pulls_may_be_smaller_than_the_others_only() {
        assert_eq!(largest("sidecar", false), 8_000_000);
        assert_eq!(largest("gateway", false), LARGEST);
        assert_eq!(largest("worker-floor", true), u64::MAX);
    }
}
