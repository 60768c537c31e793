//! `mesh audit show`.

mod row;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use mesh_ledger::{Check, Leaves, Line, Proof, ScanError};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Place, Trusted, place};
use crate::args::Output;
use crate::{Answer, output};
use row::Row;

/// `mesh audit show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    trusted: Trusted,
    /// Only what is about this decision: what the header `mesh-decision` said.
    #[arg(long, value_name = "ID")]
    decision: Option<String>,
    /// Only what happened since: an instant (2027-01-31T12:00:00Z), or how long ago (1h, 2d).
    #[arg(long, value_parser = instant)]
    since: Option<Timestamp>,
    /// Only the newest of these; 0: all.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// The log itself, as it is written, for a file that is kept elsewhere.
    #[arg(long, conflicts_with_all = ["decision", "since", "limit", "proof", "key"])]
    raw: bool,
    /// Only the entry of this number.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["decision", "since"])]
    entry: Option<u64>,
    /// File for the proof that this entry is in the log.
    #[arg(long, value_name = "FILE", requires = "entry")]
    proof: Option<PathBuf>,
}

/// What was read.
struct Found {
    lines: VecDeque<(u64, Line)>,
    /// Of the whole log: what is wrong with it, or its newest checkpoint.
    judged: Result<String, String>,
    path: Option<Proof>,
}

pub(crate) async fn run(options: Show, format: Output) -> anyhow::Result<Answer> {
    if options.raw {
        return raw(&options.place).await;
    }
    let wanted = Wanted::of(&options);
    let (key, proving) = (options.trusted.key.clone(), options.proof.is_some());
    let found = place::read(&options.place, move |text| {
        scan(text, Check::new(key, Vec::new()), &wanted, proving)
    })
    .await?;
    let found = found.context("the log could not be read to its end")?;
    if let Some(file) = &options.proof {
        let proof = found.path.as_ref();
        let proof = proof
            .context("no proof can be made: the entry is not there, or the log does not hold")?;
        fs::write(file, proof.to_string())
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    match format {
        Output::Json => output::result(format, &whole(&found), |_| Ok(()))?,
        Output::Table => table(&mut io::stdout().lock(), &found)?,
    }
    Ok(if found.judged.is_ok() {
        Answer::Yes
    } else {
        Answer::No
    })
}

/// The log as it is written.
async fn raw(place: &Place) -> anyhow::Result<Answer> {
    let copied = place::read(place, |mut text| {
        io::copy(&mut text, &mut io::stdout().lock())
    });
    copied.await??;
    Ok(Answer::Yes)
}

/// What is looked for.
struct Wanted {
    decision: Option<String>,
    since: Option<Timestamp>,
    entry: Option<u64>,
    limit: usize,
}

impl Wanted {
    fn of(options: &Show) -> Self {
        Self {
            decision: options.decision.clone(),
            since: options.since,
            entry: options.entry,
            limit: if options.limit == 0 {
                usize::MAX
            } else {
                options.limit
            },
        }
    }

    fn is(&self, number: u64, line: &Line) -> bool {
        if self.entry.is_some_and(|entry| entry != number) {
            return false;
        }
        if self.decision.is_none() && self.since.is_none() {
            return true;
        }
        // One of a later release is not known to be about something else.
        let Ok(entry) = line.entry() else {
            return true;
        };
        let about = self
            .decision
            .as_deref()
            .is_none_or(|wanted| entry.decision() == Some(wanted));
        about && self.since.is_none_or(|since| entry.time >= since)
    }
}

fn scan(text: place::Text, mut check: Check, wanted: &Wanted, proving: bool) -> io::Result<Found> {
    let (mut lines, mut leaves) = (VecDeque::new(), Vec::new());
    let scanned = check.scan(BufReader::new(text), |number, line| {
        if proving {
            leaves.push(line.leaf());
        }
        if wanted.is(number, line) {
            if lines.len() >= wanted.limit {
                lines.pop_front();
            }
            lines.push_back((number, line.clone()));
        }
    });
    let before = check.before().clone();
    let judged = match scanned {
        Ok(()) => check.finish(),
        Err(ScanError::Fault(fault)) => Err(fault),
        Err(ScanError::Io(error)) => return Err(error),
    };
    let mut path = None;
    if let (true, Ok(report), Some((number, line))) = (proving, &judged, lines.front()) {
        let mut tree = Leaves::new(before);
        for leaf in leaves {
            tree.push(leaf);
        }
        path = tree
            .proof(*number, report.size - report.unsigned)
            .map(|path| Proof {
                line: line.clone(),
                number: *number,
                path,
                checkpoint: report.newest.clone(),
            });
    }
    Ok(Found {
        lines,
        judged: judged
            .map(|report| report.newest)
            .map_err(|fault| fault.to_string()),
        path,
    })
}

fn whole(found: &Found) -> Value {
    let lines = found.lines.iter();
    let entries: Vec<Value> = lines.map(|(number, line)| shown(*number, line)).collect();
    json!({
        "holds": found.judged.is_ok(),
        "fault": found.judged.as_ref().err(),
        "entries": entries,
    })
}

fn shown(number: u64, line: &Line) -> Value {
    let entry: Result<&RawValue, _> = serde_json::from_slice(line.bytes());
    let entry = entry
        .ok()
        .and_then(|raw| serde_json::from_str(raw.get()).ok());
    json!({"number": number, "entry": entry.unwrap_or(Value::Null)})
}

fn table(out: &mut dyn Write, found: &Found) -> io::Result<()> {
    let mut table = output::table(["number", "time", "by", "event", "decision", "what"]);
    for (number, line) in &found.lines {
        let Row {
            time,
            by,
            event,
            decision,
            what,
        } = Row::of(line);
        table.add_row([number.to_string(), time, by, event, decision, what]);
    }
    writeln!(out, "{table}")?;
    match &found.judged {
        Ok(_) => Ok(()),
        Err(fault) => writeln!(out, "\nthe audit does not hold: {fault}"),
    }
}

fn instant(text: &str) -> Result<Timestamp, String> {
    if let Ok(instant) = text.parse() {
        return Ok(instant);
    }
    let ago =
        ago(text).map_err(|_| String::from("expected for example 2027-01-31T12:00:00Z or 1h"))?;
    Timestamp::now()
        .checked_sub(ago)
        .map_err(|error| error.to_string())
}

fn ago(text: &str) -> anyhow::Result<SignedDuration> {
    // Days are no part of what the library reads.
    let ago = match text.strip_suffix('d') {
        Some(days) => {
            let Some(hours) = days.parse::<i64>()?.checked_mul(24) else {
                bail!("too long ago");
            };
            SignedDuration::try_from_hours(hours).context("too long ago")?
        }
        None => text.parse()?,
    };
    ensure!(!ago.is_negative(), "that is to come");
    Ok(ago)
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::{ago, instant};

    #[test]
    fn an_instant_is_a_time_or_how_long_ago() {
        let named: Timestamp = "2027-01-31T12:00:00Z".parse().expect("a time");
        assert_eq!(instant("2027-01-31T12:00:00Z"), Ok(named));
        assert_eq!(ago("2d").expect("a time"), SignedDuration::from_hours(48));
        assert_eq!(ago("90s").expect("a time"), SignedDuration::from_secs(90));
        assert!(instant("1h").expect("a time") < Timestamp::now());
        for wrong in ["", "soon", "-1h", "-1d", "9999999999999999999d", "3"] {
            assert!(instant(wrong).is_err(), "{wrong}");
        }
    }
}
