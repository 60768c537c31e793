//! `mesh audit verify`.

use std::fs;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mesh_ledger::{Check, Fault, Proof, Report, ScanError};
use serde_json::{Value, json};

use super::{Place, Trusted, place};
use crate::args::Output;
use crate::{Answer, output};

/// `mesh audit verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    trusted: Trusted,
    /// File with a checkpoint that was kept elsewhere; may be given several times. Only by these it is found that entries were cut
    /// off at the end, or that all of it was made anew.
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// File for the newest checkpoint, to be kept elsewhere. One that is there counts as --checkpoint too, and is replaced only if all of it holds.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// File that `show --proof` wrote: whether its entry is in the log of --key. The log itself is not read.
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with_all = ["path", "cluster", "checkpoints", "save"])]
    proof: Option<PathBuf>,
}

pub(crate) async fn run(options: Verify, format: Output) -> anyhow::Result<Answer> {
    if let Some(file) = &options.proof {
        return one(&options, file, format);
    }
    let mut kept = Vec::new();
    for file in &options.checkpoints {
        let note = fs::read_to_string(file);
        kept.push(note.with_context(|| format!("{} cannot be read", file.display()))?);
    }
    if let Some(file) = &options.save {
        match fs::read_to_string(file) {
            Ok(note) => kept.push(note),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be read", file.display()));
            }
        }
    }
    let key = options.trusted.key.clone();
    let named = key.is_some();
    let found = place::read(&options.place, move |text| {
        let mut check = Check::new(key, kept);
        match check.scan(BufReader::new(text), |_, _| ()) {
            Ok(()) => Ok(check.finish()),
            Err(ScanError::Fault(fault)) => Ok(Err(fault)),
            Err(ScanError::Io(error)) => Err(error),
        }
    });
    let found = found
        .await?
        .context("the log could not be read to its end")?;
    if let (Some(file), Ok(report)) = (&options.save, &found) {
        save(file, &report.newest)
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    output::result(format, &told(&found, named), |out| show(out, &found, named))?;
    Ok(if found.is_ok() {
        Answer::Yes
    } else {
        Answer::No
    })
}

/// Whole or not at all: what was there is the only witness.
fn save(file: &Path, note: &str) -> io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let mut written = fs::File::create(&part)?;
    written.write_all(note.as_bytes())?;
    written.sync_all()?;
    fs::rename(part, file)
}

/// One entry, by its proof.
fn one(options: &Verify, file: &Path, format: Output) -> anyhow::Result<Answer> {
    let text =
        fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let key = options
        .trusted
        .key
        .as_ref()
        .context("name the key with --key")?;
    let proof: Result<Proof, _> = text.parse();
    let held = proof.and_then(|proof| proof.verify(key).map(|checkpoint| (proof, checkpoint)));
    let value = match &held {
        Ok((proof, checkpoint)) => {
            let entry: Value = serde_json::from_slice(proof.line.bytes())?;
            json!({"holds": true, "number": proof.number, "size": checkpoint.size, "entry": entry})
        }
        Err(error) => json!({"holds": false, "fault": error.to_string()}),
    };
    output::result(format, &value, |out| match &held {
        Ok((proof, checkpoint)) => {
            let entry = String::from_utf8_lossy(proof.line.bytes()).into_owned();
            writeln!(
                out,
                "entry {} of {} holds:\n{entry}",
                proof.number, checkpoint.size
            )
        }
        Err(error) => writeln!(out, "the proof does not hold: {error}"),
    })?;
    Ok(if held.is_ok() {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn told(found: &Result<Report, Fault>, named: bool) -> Value {
    match found {
        Ok(report) => json!({
            "holds": true,
            "key": report.key.to_string(),
            "keyNamed": named,
            "first": report.first,
            "size": report.size,
            "segments": report.segments,
            "checkpoints": report.checkpoints,
            "unsigned": report.unsigned,
            "torn": report.torn,
            "tooOld": report.too_old,
            "newest": report.newest,
        }),
        Err(fault) => json!({
            "holds": false,
            "line": fault.line,
            "entry": fault.entry,
            "fault": fault.what.to_string(),
        }),
    }
}

fn show(out: &mut dyn Write, found: &Result<Report, Fault>, named: bool) -> io::Result<()> {
    let report = match found {
        Ok(report) => report,
        Err(fault) => return writeln!(out, "the audit does not hold: {fault}"),
    };
    let Report {
        first, size, key, ..
    } = report;
    writeln!(out, "the audit holds: {} entries", size - first)?;
    if *first > 0 {
        writeln!(out, "those before {first} were removed, as the log says")?;
    }
    if report.unsigned > 0 || report.torn > 0 {
        let (entries, bytes) = (report.unsigned, report.torn);
        writeln!(
            out,
            "{entries} entries and {bytes} bytes at its end are not signed: it is being written, or was not ended in order"
        )?;
    }
    for size in &report.too_old {
        writeln!(
            out,
            "nothing can be said of the checkpoint of {size} entries: what it is about was removed"
        )?;
    }
    let whose = if named {
        "the one asked for"
    } else {
        "as the log says; name it with --key to be sure"
    };
    writeln!(out, "key: {key} ({whose})")?;
    writeln!(
        out,
        "newest checkpoint, to be kept elsewhere:\n{}",
        report.newest.trim_end()
    )
}
