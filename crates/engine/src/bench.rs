//! Measures the engine through its own front door: prompts per second and tokens per second.
//!
//! Every figure is the best of several runs, since other programs can only make it worse. The text
//! does not matter: ends of text are forbidden, so that every run generates what it was asked to.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;

use crate::cache::Partition;
use crate::engine::Engine;
use crate::options::{EngineOptions, Error};
use crate::request::{Failure, GenEvent, GenerateRequest, Prompt, Refused};

/// Runs per figure.
const RUNS: u32 = 3;
/// Tokens generated per run.
const STEPS: u32 = 64;

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The engine could not start.
    #[error(transparent)]
    Engine(#[from] Error),
    /// It refused a request.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It gave up on a request.
    #[error(transparent)]
    Ended(#[from] Failure),
}

impl Failed {
    /// Stable word for logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Engine(error) => error.reason(),
            Self::Refused(error) => error.reason(),
            Self::Ended(error) => error.reason(),
        }
    }
}

/// Tokens per second of one kind of work.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Tokens per second, of all requests together.
    pub rate: f64,
    /// Time of the measured part.
    pub took: Duration,
}

/// Figures of one number of threads.
#[derive(Debug, Clone)]
pub struct Report {
    /// Threads that computed.
    pub threads: usize,
    /// Vector instructions in use.
    pub instructions: &'static str,
    /// All figures.
    pub figures: Vec<Figure>,
}

/// Measures the model at `path` with `threads` threads (absent: the engine's default): prefill of 512
/// and 1,000 tokens; decode of 1 and 4 requests at depths 0 and 1,000.
pub async fn bench(path: &Path, threads: Option<usize>) -> Result<Report, Failed> {
    let engine = Engine::load(
        path,
        EngineOptions {
            threads,
            ..EngineOptions::default()
        },
    )?;
    let mut figures = Vec::new();
    for length in [512u32, 1_000] {
        let mut best = Duration::MAX;
        for run in 0..RUNS {
            // Another text for every run and length: none may find a known prefix.
            let (first, _) = ask(&engine, length, 1, length + run).await?;
            best = best.min(first);
        }
        figures.push(figure(format!("prefill {length}"), f64::from(length), best));
    }
    for (batch, depth) in [(1, 0), (4, 0), (1, 1_000), (4, 1_000)] {
        let mut best = Duration::MAX;
        for run in 0..RUNS {
            // The same prompt again: its blocks are known, so all requests start to generate at once.
            ask(&engine, depth.max(1), 1, run).await?;
            let asked = (0..batch).map(|_| ask(&engine, depth.max(1), STEPS, run));
            for result in join_all(asked).await {
                let (first, last) = result?;
                best = best.min(last.saturating_sub(first));
            }
        }
        let tokens = f64::from(batch) * f64::from(STEPS - 1);
        figures.push(figure(
            format!("decode {batch} at depth {depth}"),
            tokens,
            best,
        ));
    }
    let info = engine.info();
    let report = Report {
        threads: info.threads,
        instructions: info.instructions,
        figures,
    };
    engine.shutdown(Duration::ZERO);
    Ok(report)
}

fn figure(name: String, tokens: f64, took: Duration) -> Figure {
    Figure {
        name,
        rate: tokens / took.as_secs_f64(),
        took,
    }
}

/// Time to the first and to the last token.
async fn ask(
    engine: &Engine,
    length: u32,
    steps: u32,
    seed: u32,
) -> Result<(Duration, Duration), Failed> {
    let vocab = u32::try_from(engine.tokenizer().vocab_len()).unwrap_or(u32::MAX);
    let tokens = (0..length)
        .map(|i| (i * 31 + seed * 7_919 + 1_000) % vocab)
        .collect();
    let mut request = GenerateRequest::new(Prompt::Tokens(tokens), Partition::new("bench", ""));
    request.max_tokens = Some(steps);
    request.logprobs = Some(0); // one event per token
    request.sampling.temperature = Some(0.8);
    request.sampling.seed = Some(u64::from(seed));
    request.sampling.logit_bias = engine
        .tokenizer()
        .end_ids()
        .iter()
        .map(|&id| (id, -100.0))
        .collect();
    let began = Instant::now();
    let mut generation = engine.generate(request)?;
    let mut first = None;
    let mut last = Duration::ZERO;
    while let Some(event) = generation.next().await {
        match event {
            GenEvent::Text { .. } => {
                last = began.elapsed();
                first = first.or(Some(last));
            }
            GenEvent::Failed(failure) => return Err(failure.into()),
            GenEvent::Finish { .. } | GenEvent::Usage { .. } => {}
        }
    }
    Ok((first.unwrap_or(last), last))
}
