//! Continuous batching on one thread.
//!
//! Every step takes one token of each choice that generates and, with what is left of a budget, a
//! piece of the prompts that are still being read: long prompts do not stop running answers, and a
//! new request starts within one step. Requests are admitted in order of rank when all cache blocks
//! they may ever need are free, so nothing running is ever thrown out.
//!
//! A row's result does not depend on its batch (see `kernel`), so neither does a text.
#![expect(clippy::cast_precision_loss, reason = "estimates of seconds")]

pub(crate) mod queue;
mod sequence;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::family::{Batch, Model};
use crate::kernel::TOKENS;
use crate::request::{Failure, FinishReason, GenEvent};
use crate::tokenizer::Tokenizer;
use queue::{Evaluation, Job, Load, Shared};
use sequence::{End, Group, Sequence};

/// What the scheduler needs to know.
pub(crate) struct Settings {
    pub blocks: u32,
    pub max_batch: usize,
    pub protect: bool,
    pub max_wait: Duration,
    /// Temperature and top-p where a request has none.
    pub defaults: (f32, f32),
}

impl Settings {
    /// Blocks that a request may use.
    pub(crate) const fn share(&self, sole: bool) -> usize {
        if self.protect && !sole {
            self.blocks as usize / 2
        } else {
            self.blocks as usize
        }
    }
}

/// Blocks that all choices of a request need together: those of the first, and those of each other
/// one beyond the full blocks of the prompt that it shares.
pub(crate) const fn blocks_needed(
    prompt: usize,
    max_tokens: usize,
    choices: u32,
) -> (usize, usize) {
    let total = (prompt + max_tokens).div_ceil(TOKENS);
    (
        total,
        (total - shared_blocks(prompt)) * (choices as usize - 1),
    )
}

/// Full blocks of a prompt that can be reused: at least its last token is computed for its logits.
pub(crate) const fn shared_blocks(prompt: usize) -> usize {
    (prompt - 1) / TOKENS
}

/// Serves until closed; whatever happens, everybody who waits is told.
pub(crate) fn serve(
    shared: &Arc<Shared>,
    model: Model,
    tokenizer: Arc<Tokenizer>,
    settings: Settings,
) {
    let mut scheduler = Scheduler::new(Arc::clone(shared), model, tokenizer, settings);
    match catch_unwind(AssertUnwindSafe(|| scheduler.run())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "the device failed; requests are refused until restart");
        }
        Err(_) => tracing::error!("engine thread failed; requests are refused until restart"),
    }
    // First no new ones, then the streams of the running ones end with the scheduler.
    shared.die();
}

struct Scheduler {
    shared: Arc<Shared>,
    model: Model,
    tokenizer: Arc<Tokenizer>,
    settings: Settings,
    cache: Cache,
    running: Vec<Sequence>,
    /// Blocks of running requests that are not `sole`.
    ordinary: usize,
    batch: Batch,
    load: Load,
}

/// What to do with the logits of one sampled row.
#[derive(Clone, Copy)]
enum Wanted {
    Score { sequence: usize, position: usize },
    Next { sequence: usize },
}

impl Scheduler {
    fn new(
        shared: Arc<Shared>,
        model: Model,
        tokenizer: Arc<Tokenizer>,
        settings: Settings,
    ) -> Self {
        let cache = Cache::new(settings.blocks);
        let load = Load::UNKNOWN;
        Self {
            shared,
            model,
            tokenizer,
            settings,
            cache,
            running: Vec::new(),
            ordinary: 0,
            batch: Batch::default(),
            load,
        }
    }

    fn run(&mut self) -> candle_core::Result<()> {
        loop {
            let orders = self.shared.orders(self.running.is_empty());
            for evaluation in orders.evaluations {
                self.evaluate(&evaluation)?;
            }
            if let Some(deadline) = orders.closing
                && (self.running.is_empty() || Instant::now() >= deadline)
            {
                self.stop();
                return Ok(());
            }
            self.leave();
            self.admit();
            self.publish();
            self.step()?;
            self.publish();
        }
    }

    fn stop(&mut self) {
        for sequence in self.running.drain(..) {
            let _gone = sequence
                .group
                .job
                .events
                .send(GenEvent::Failed(Failure::Stopped));
        }
    }

    /// Ends the work for callers who left.
    fn leave(&mut self) {
        self.end_where(|sequence| sequence.group.job.events.is_closed());
    }

    fn end_where(&mut self, ended: impl Fn(&Sequence) -> bool) {
        let Self {
            running,
            cache,
            ordinary,
            ..
        } = self;
        running.retain(|sequence| {
            let gone = ended(sequence);
            if gone {
                sequence.release(cache);
                if !sequence.group.job.sole {
                    *ordinary -= sequence.share();
                }
            }
            !gone
        });
    }

    fn admit(&mut self) {
        let Self {
            shared,
            running,
            cache,
            settings,
            ordinary,
            ..
        } = self;
        shared.admit(settings.max_wait, |job| {
            let batch = running
                .iter()
                .map(|sequence| 1 + sequence.forks as usize)
                .sum::<usize>();
            if batch + job.choices as usize > settings.max_batch {
                return Some(job);
            }
            let (total, forks) = blocks_needed(job.prompt.len(), job.max_tokens, job.choices);
            let room = settings.share(job.sole);
            if !job.sole && *ordinary + total + forks > room {
                return Some(job);
            }
            let chain = if job.scores_prompt() {
                &[][..]
            } else {
                &job.chain[..]
            };
            let Some(table) = cache.admit(chain, total, forks) else {
                return Some(job);
            };
            *ordinary += if job.sole { 0 } else { total + forks };
            running.push(start(job, table, total, forks, settings.defaults, shared));
            None
        });
    }

    /// Plans, computes and finishes one step.
    fn step(&mut self) -> candle_core::Result<()> {
        let wanted = self.plan();
        if self.batch.tokens.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let Self {
            model,
            batch,
            running,
            tokenizer,
            ..
        } = self;
        let tokenizer: &Tokenizer = tokenizer;
        model.forward(batch, &mut |i, logits| match wanted[i] {
            Wanted::Score { sequence, position } => {
                running[sequence].score_prompt(position, logits, tokenizer);
            }
            Wanted::Next { sequence } => running[sequence].choose(logits, tokenizer),
        })?;
        self.measure(began.elapsed());
        self.settle();
        Ok(())
    }

    /// Fills the batch: first who generates, then prompts in order of admission.
    fn plan(&mut self) -> Vec<Wanted> {
        let rows = self.model.step_rows();
        let Self {
            batch,
            running,
            cache,
            ..
        } = self;
        batch.clear();
        let mut wanted = Vec::new();
        let busy = running.iter().any(Sequence::generating);
        let mut budget = if busy { rows.shared } else { rows.alone };
        for (index, sequence) in running.iter_mut().enumerate() {
            let generating = sequence.generating();
            let rows = if generating {
                sequence.pending()
            } else {
                sequence.pending().min(budget)
            };
            let end = sequence.computed + rows;
            if rows == 0 || !sequence.cover(end, cache) {
                continue;
            }
            budget -= if generating { 0 } else { rows };
            let first = batch.push(
                &sequence.tokens[sequence.computed..end],
                sequence.computed,
                &sequence.table,
                sequence.group.job.adapter,
            );
            if sequence.group.job.scores_prompt() && sequence.choice == 0 {
                for position in sequence.computed + 1..sequence.prompt().min(end + 1) {
                    wanted.push(Wanted::Score {
                        sequence: index,
                        position,
                    });
                    batch.sample.push(first + position - 1 - sequence.computed);
                }
            }
            if end == sequence.tokens.len() && sequence.left() > 0 {
                wanted.push(Wanted::Next { sequence: index });
                batch.sample.push(first + rows - 1);
            }
            sequence.computed = end;
        }
        wanted
    }

    fn measure(&mut self, took: Duration) {
        let rows = self.batch.tokens.len();
        let steps = self
            .running
            .iter()
            .filter(|sequence| sequence.chosen.is_some())
            .count();
        let blend = |old: f64, new: f64| 0.9f64.mul_add(old, 0.1 * new);
        if rows > steps {
            self.load.prompt = blend(self.load.prompt, took.as_secs_f64() / rows as f64);
        } else {
            self.load.step = blend(self.load.step, took.as_secs_f64());
        }
        self.load.running = self
            .running
            .iter()
            .map(|sequence| self.load.prompt * sequence.pending() as f64)
            .sum::<f64>()
            + self.load.step * self.running.iter().map(Sequence::left).max().unwrap_or(0) as f64;
        self.shared.measured(self.load);
    }

    /// After the computation: names full blocks, starts further choices, sends text, ends choices.
    fn settle(&mut self) {
        let gauges = &self.shared.gauges;
        let mut started = Vec::new();
        let mut ended = Vec::new();
        for sequence in &mut self.running {
            sequence.publish(&mut self.cache);
            if sequence.computed == sequence.prompt() && sequence.tokens.len() == sequence.prompt()
            {
                sequence.echo(&self.tokenizer);
                started.extend(fork(sequence, &mut self.cache, self.settings.defaults));
                if sequence.left() == 0 {
                    let end = End {
                        reason: FinishReason::Length,
                        repetition: false,
                    };
                    ended.push((Arc::as_ptr(&sequence.group), sequence.choice));
                    sequence.finish(end);
                }
            }
            gauges
                .generation_tokens
                .fetch_add(u64::from(sequence.chosen.is_some()), Ordering::Relaxed);
            if let Some(end) = sequence.advance(&self.tokenizer) {
                ended.push((Arc::as_ptr(&sequence.group), sequence.choice));
                sequence.finish(end);
            }
        }
        self.end_where(|sequence| ended.contains(&(Arc::as_ptr(&sequence.group), sequence.choice)));
        self.running.append(&mut started);
    }

    fn publish(&self) {
        let gauges = &self.shared.gauges;
        gauges.running.store(self.running.len(), Ordering::Relaxed);
        for (place, running) in gauges.adapters.iter().enumerate() {
            let with = |sequence: &&Sequence| sequence.group.job.adapter == Some(place);
            running.store(self.running.iter().filter(with).count(), Ordering::Relaxed);
        }
        gauges
            .blocks_used
            .store(self.cache.used(), Ordering::Relaxed);
    }

    /// All logits of a text, computed like any other prompt. Nothing where there is no room.
    fn evaluate(&mut self, evaluation: &Evaluation) -> candle_core::Result<()> {
        let blocks = evaluation.tokens.len().div_ceil(TOKENS);
        if self.cache.admit(&[], blocks, 0).is_none() {
            return Ok(());
        }
        let rows = self.model.step_rows().alone;
        let table: Vec<u32> = (0..blocks).map_while(|_| self.cache.take()).collect();
        let mut all = Vec::with_capacity(evaluation.tokens.len());
        for (chunk, tokens) in evaluation.tokens.chunks(rows).enumerate() {
            let mut batch = Batch::default();
            batch.push(tokens, chunk * rows, &table, evaluation.adapter);
            batch.sample = (0..tokens.len()).collect();
            self.model.forward(&batch, &mut |_, logits| {
                all.push(logits.to_vec());
            })?;
        }
        for block in table {
            self.cache.release(block);
        }
        // Whoever no longer listens needs no answer.
        let _gone = evaluation.reply.send(all);
        Ok(())
    }
}

fn start(
    job: Job,
    table: Vec<u32>,
    total: usize,
    forks: usize,
    defaults: (f32, f32),
    shared: &Shared,
) -> Sequence {
    let cached = table.len() * TOKENS;
    shared
        .gauges
        .prompt_tokens
        .fetch_add(job.prompt.len() as u64, Ordering::Relaxed);
    shared
        .gauges
        .prefix_hit_tokens
        .fetch_add(cached as u64, Ordering::Relaxed);
    let others = job.choices - 1;
    let group = Arc::new(Group {
        open: AtomicU32::new(job.choices),
        completion: AtomicU32::new(0),
        scores: OnceLock::new(),
        cached: u32::try_from(cached).unwrap_or(u32::MAX),
        job,
    });
    let mut sequence = Sequence::new(group, 0, table, total, defaults);
    sequence.forks = others;
    sequence.fork_blocks = forks.checked_div(others as usize).unwrap_or(0);
    sequence
}

/// The other choices of a request whose prompt is computed; they share its full blocks.
fn fork(first: &mut Sequence, cache: &mut Cache, defaults: (f32, f32)) -> Vec<Sequence> {
    let forks = std::mem::take(&mut first.forks);
    let shared = shared_blocks(first.prompt());
    (1..=forks)
        .map(|choice| {
            let table = first.table[..shared].to_vec();
            for &block in &table {
                cache.share(block);
            }
            let mut sequence = Sequence::new(
                Arc::clone(&first.group),
                choice,
                table,
                shared + first.fork_blocks,
                defaults,
            );
            sequence.own = first.fork_blocks;
            sequence
        })
        .collect()
}
