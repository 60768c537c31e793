//! `mesh models list|pull|verify`.

use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mesh_models::{CacheSpec, Outcome, Phase, Progress, Resolver};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::Answer;
use crate::args::{Models, ModelsDir, Output};
use crate::{catalog, output};

pub(crate) async fn run(command: Models, format: Output) -> anyhow::Result<Answer> {
    let cancel = CancellationToken::new();
    let work = async {
        match command {
            Models::List(dir) => list(&dir, format, &cancel).await,
            Models::Pull(dir) => pull(&dir, format, &cancel).await,
            Models::Verify(dir) => verify(&dir, format, &cancel).await,
        }
    };
    tokio::select! {
        answer = work => answer,
        _ = tokio::signal::ctrl_c() => {
            cancel.cancel();
            anyhow::bail!("interrupted; what was fetched is kept, the next pull goes on from there")
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    cache: String,
    artifact: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Row {
    fn of(cache: &CacheSpec, artifact: &str, state: &'static str) -> Self {
        Self {
            cache: cache.name.clone(),
            artifact: artifact.to_owned(),
            state,
            size_bytes: None,
            sha256: None,
            path: None,
            source: None,
            problem: None,
        }
    }

    fn here(cache: &CacheSpec, found: &mesh_models::Resolved, state: &'static str) -> Self {
        Self {
            size_bytes: Some(found.size),
            sha256: Some(found.sha256.to_string()),
            path: Some(found.path.display().to_string()),
            source: Some(found.source.clone()),
            ..Self::of(cache, &found.artifact, state)
        }
    }
}

async fn list(
    dir: &ModelsDir,
    format: Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Answer> {
    let (caches, resolver) = open(dir)?;
    let mut rows = Vec::new();
    for cache in &caches {
        match resolver.locate(cache, cancel, &|_| ()).await {
            Ok(found) => rows.extend(found.iter().map(|found| Row::here(cache, found, "present"))),
            Err(mesh_models::Error::NoSource(_)) => rows.extend(
                cache
                    .artifacts
                    .iter()
                    .map(|artifact| Row::of(cache, artifact.path.as_str(), "missing")),
            ),
            Err(error) => return Err(error.into()),
        }
    }
    print(&rows, format)?;
    Ok(Answer::Yes)
}

async fn pull(
    dir: &ModelsDir,
    format: Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Answer> {
    let (caches, resolver) = open(dir)?;
    let bars = Bars::new();
    let (mut rows, mut answer) = (Vec::new(), Answer::Yes);
    for cache in &caches {
        match resolver
            .resolve(cache, cancel, &|progress| bars.show(progress))
            .await
        {
            Ok(found) => rows.extend(found.iter().map(|found| Row::here(cache, found, "present"))),
            Err(error) => {
                answer = Answer::No;
                let name = cache
                    .artifacts
                    .first()
                    .map_or("", |artifact| artifact.path.as_str());
                rows.push(Row {
                    problem: Some(error.to_string()),
                    ..Row::of(cache, name, "failed")
                });
            }
        }
    }
    bars.clear();
    print(&rows, format)?;
    Ok(answer)
}

async fn verify(
    dir: &ModelsDir,
    format: Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Answer> {
    let (caches, resolver) = open(dir)?;
    let bars = Bars::new();
    let (mut rows, mut answer) = (Vec::new(), Answer::Yes);
    for cache in &caches {
        for found in resolver
            .verify(cache, cancel, &|progress| bars.show(progress))
            .await?
        {
            rows.push(match found.outcome {
                Outcome::Intact(file) => Row::here(cache, &file, "intact"),
                Outcome::Missing => {
                    answer = Answer::No;
                    let hint = String::from("run `mesh models pull`");
                    Row {
                        problem: Some(hint),
                        ..Row::of(cache, &found.artifact, "missing")
                    }
                }
                Outcome::Damaged(error) => {
                    answer = Answer::No;
                    Row {
                        problem: Some(error.to_string()),
                        ..Row::of(cache, &found.artifact, "damaged")
                    }
                }
            });
        }
    }
    bars.clear();
    print(&rows, format)?;
    Ok(answer)
}

fn open(dir: &ModelsDir) -> anyhow::Result<(Vec<CacheSpec>, Resolver)> {
    let mut caches = catalog::caches(&dir.dir)?;
    if let Some(name) = &dir.name {
        caches.retain(|cache| cache.name == *name);
        anyhow::ensure!(
            !caches.is_empty(),
            "no ModelCache named {name} in {}",
            dir.dir.display()
        );
    }
    Ok((caches, catalog::resolver(&dir.store, &dir.dir)?))
}

fn print(rows: &[Row], format: Output) -> std::io::Result<()> {
    output::result(format, &rows, |out| {
        if rows.is_empty() {
            return writeln!(out, "no ModelCache is declared");
        }
        let mut table = output::table(["cache", "artifact", "state", "size", "where"]);
        for row in rows {
            let size = row.size_bytes.map(output::bytes).unwrap_or_default();
            let place = row
                .path
                .clone()
                .or_else(|| row.problem.clone())
                .unwrap_or_default();
            table.add_row([row.cache.as_str(), &row.artifact, row.state, &size, &place]);
        }
        writeln!(out, "{table}")
    })
}

/// Progress bars on standard error, one per file; nothing where it is not a terminal.
pub(crate) struct Bars {
    all: MultiProgress,
    current: Mutex<Option<(String, ProgressBar)>>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            current: Mutex::new(None),
        }
    }

    pub(crate) fn show(&self, progress: &Progress) {
        let verb = match progress.phase {
            Phase::Downloading => "fetching",
            Phase::Verifying => "verifying",
        };
        let label = format!("{verb} {} ({})", progress.artifact, progress.source);
        let Ok(mut current) = self.current.lock() else {
            return;
        };
        if current.as_ref().is_none_or(|(shown, _)| *shown != label) {
            if let Some((_, done)) = current.take() {
                done.finish_and_clear();
            }
            let bar = self
                .all
                .add(ProgressBar::new(progress.bytes_total.unwrap_or(0)));
            if let Ok(style) = ProgressStyle::with_template(
                "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            ) {
                bar.set_style(style);
            }
            bar.set_message(label.clone());
            *current = Some((label, bar));
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_length(progress.bytes_total.unwrap_or(progress.bytes_done));
            bar.set_position(progress.bytes_done);
        }
    }

    pub(crate) fn clear(&self) {
        if let Ok(mut current) = self.current.lock()
            && let Some((_, bar)) = current.take()
        {
            bar.finish_and_clear();
        }
    }
}
