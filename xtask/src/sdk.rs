//! The official OpenAI SDKs against the built binary. Their installations live in the cache, keyed by
//! the files that pin them. A machine without Python or Node skips with the reason.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use mesh_e2e::mesh::{Mesh, copy_folder};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::model::{self, hex, python};
use crate::process::{Tally, listen, output, script_result};

const SAMPLES: &str = "deploy/samples/standalone";
const MODEL: &str = "smollm2";
const KEY: &str = "e2e-key-that-guards-nothing";

/// A folder of its own that goes away with this value.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(context: &Context, name: &str) -> Result<Self> {
        let path = context
            .cache
            .join("scratch")
            .join(format!("{name}-{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)
            .with_context(|| format!("could not create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays is found by its name and harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Two meshes, one of which wants keys.
struct World {
    open: Mesh,
    keyed: Mesh,
    scratch: Scratch,
}

/// Runs both SDKs; an SDK that cannot be installed counts as skipped.
pub(crate) fn run(context: &Context, binary: &Path) -> Result<Tally> {
    let mut tally = Tally::default();
    if let Err(error) = model::obtain(context) {
        println!("skipped: the official SDKs, since there is no model to answer: {error:#}");
        return Ok(Tally {
            skipped: 2,
            ..tally
        });
    }
    let world = World::start(context, binary)?;
    for (name, prepared) in [
        ("Python", install_python(context)),
        ("Node", install_node(context, &world.scratch)),
    ] {
        match prepared {
            Ok(mut command) => tally.add(world.scenarios(name, &mut command)?),
            Err(error) => {
                println!("skipped: the OpenAI SDK for {name}: {error:#}");
                tally.skipped += 1;
            }
        }
    }
    if tally.failed > 0 {
        println!(
            "--- what the mesh wrote ---\n{}{}",
            world.open.written(),
            world.keyed.written()
        );
    }
    Ok(tally)
}

impl World {
    fn start(context: &Context, binary: &Path) -> Result<Self> {
        let scratch = Scratch::new(context, "sdk")?;
        let samples = scratch.path().join("samples");
        copy_folder(&context.root.join(SAMPLES), &samples)?;
        let keys = scratch.path().join("keys");
        fs::write(&keys, format!("e2e {}\n", hex(&Sha256::digest(KEY))))?;
        let store = scratch.path().join("store");
        let store = ["--models-dir".as_ref(), store.as_os_str()];
        let keys = ["--api-keys".as_ref(), keys.as_os_str()];
        let open = Mesh::start(binary, &samples, &store)?;
        let keyed = Mesh::start(binary, &samples, &[store, keys].concat())?;
        println!("mesh at {} and, with keys, at {}", open.api, keyed.api);
        Ok(Self {
            open,
            keyed,
            scratch,
        })
    }

    fn scenarios(&self, name: &str, command: &mut Command) -> Result<Tally> {
        println!("--- OpenAI SDK for {name} ---");
        command
            .env("MESH_E2E_URL", &self.open.api)
            .env("MESH_E2E_KEYED_URL", &self.keyed.api)
            .env("MESH_E2E_KEY", KEY)
            .env("MESH_E2E_MODEL", MODEL)
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("no_proxy", "127.0.0.1,localhost");
        let mut said = None;
        let good = listen(command, |line| said = script_result(line).or(said))?;
        let mut tally = said.unwrap_or_default();
        if good != (tally.failed == 0 && tally.passed > 0) {
            println!("the scenarios for {name} did not end as they should");
            tally.failed += 1;
        }
        Ok(tally)
    }
}

/// A folder in the cache for what these files pin; the flag says that it is complete.
fn installation(context: &Context, name: &str, pins: &[PathBuf]) -> Result<(PathBuf, bool)> {
    let mut hasher = DefaultHasher::new();
    for pin in pins {
        fs::read(pin)
            .with_context(|| format!("could not read {}", pin.display()))?
            .hash(&mut hasher);
    }
    let folder = context
        .cache
        .join("sdk")
        .join(format!("{name}-{:016x}", hasher.finish()));
    let complete = folder.join(".complete").is_file();
    if !complete && folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok((folder, complete))
}

fn complete(folder: &Path) -> Result<()> {
    Ok(fs::write(folder.join(".complete"), "")?)
}

fn install_python(context: &Context) -> Result<Command> {
    let scripts = context.root.join("e2e/sdk/python");
    let mut command = Command::new(python_with_sdk(context)?);
    command
        .arg(scripts.join("scenarios.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// An interpreter that has the OpenAI SDK, installed into the cache if it is not there yet.
pub(crate) fn python_with_sdk(context: &Context) -> Result<PathBuf> {
    let scripts = context.root.join("e2e/sdk/python");
    let pins = scripts.join("requirements.txt");
    let interpreter = python()?;
    let version = output(Command::new(&interpreter).arg("--version"))?;
    let name = version.trim().replace(' ', "-").to_lowercase();
    let (folder, done) = installation(context, &name, std::slice::from_ref(&pins))?;
    let inside = folder.join("bin/python");
    if !done {
        println!(
            "installing the OpenAI SDK for Python into {}",
            folder.display()
        );
        output(Command::new(&interpreter).args(["-m", "venv"]).arg(&folder))?;
        let mut pip = Command::new(&inside);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "--requirement",
        ]);
        output(pip.arg(&pins))?;
        complete(&folder)?;
    }
    Ok(inside)
}

/// The folder with the SDK for Node, installed if it is not there yet.
pub(crate) fn node_with_sdk(context: &Context) -> Result<PathBuf> {
    let scripts = context.root.join("e2e/sdk/node");
    let pins = ["package.json", "package-lock.json"].map(|name| scripts.join(name));
    let version = output(Command::new("node").arg("--version")).context("no Node was found")?;
    let (folder, done) = installation(context, &format!("node-{}", version.trim()), &pins)?;
    if !done {
        println!(
            "installing the OpenAI SDK for Node into {}",
            folder.display()
        );
        copy_folder(&scripts, &folder)?;
        let mut npm = Command::new("npm");
        npm.args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--silent",
        ]);
        output(npm.current_dir(&folder))?;
        complete(&folder)?;
    }
    Ok(folder)
}

fn install_node(context: &Context, scratch: &Scratch) -> Result<Command> {
    let scripts = context.root.join("e2e/sdk/node");
    let folder = node_with_sdk(context)?;
    // Node looks for modules beside a script, so the script stands beside them, by a link of its own
    // for every run: two checkouts may share the installation.
    let run = scratch.path().join("node");
    copy_folder(&scripts, &run)?;
    std::os::unix::fs::symlink(folder.join("node_modules"), run.join("node_modules"))?;
    let mut command = Command::new("node");
    command.arg(run.join("scenarios.mjs"));
    Ok(command)
}
