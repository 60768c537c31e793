//! `mesh classify`: what the classifier finds in a text. The text stays in this process and is not
//! printed.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use mesh_classify::Inputs;
use mesh_core::PrivacyLevel;

use crate::args::{Classify, Output};
use crate::{Answer, output};

pub(crate) fn run(options: &Classify, format: Output) -> anyhow::Result<Answer> {
    let text = read(options.file.as_deref())?;
    let facts = mesh_classify::classify_text(
        &text,
        // The lowest base, so that what is shown is what the detectors say.
        &Inputs::new(PrivacyLevel::Public, "nothing assumed"),
    );
    output::result(format, &facts, |out| {
        let (level, task) = (facts.level, facts.task);
        writeln!(
            out,
            "{level}  {task}  complexity {:.2}  {}",
            facts.complexity.value(),
            facts.latency
        )?;
        let mut table = output::table(["fact", "value", "detector", "evidence"]);
        for fact in &facts.entries {
            let value = fact
                .value
                .as_str()
                .map_or_else(|| fact.value.to_string(), str::to_owned);
            table.add_row([fact.name, &value, &fact.detector, &fact.evidence]);
        }
        writeln!(out, "{table}")?;
        if !facts.scan.complete {
            writeln!(
                out,
                "not everything was read: {}",
                facts.scan.unread.join(", ")
            )?;
        }
        Ok(())
    })?;
    Ok(Answer::Yes)
}

/// Reads a file, or standard input for `-` and nothing.
pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<String> {
    match file {
        Some(path) if path != Path::new("-") => std::fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display())),
        _ => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("could not read standard input")?;
            Ok(text)
        }
    }
}
