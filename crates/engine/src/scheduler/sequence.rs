//! One choice of a running request: its tokens, its cache blocks, and the way of its text out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use mesh_core::Sensitive;

use super::queue::Job;
use crate::cache::{Cache, Key};
use crate::kernel::TOKENS;
use crate::request::{Alternative, FinishReason, GenEvent, TokenLogprob};
use crate::sample::{Loops, Sampler, Scored, logprobs};
use crate::text::{Detokenizer, StopMatcher};
use crate::tokenizer::Tokenizer;

/// What the choices of one request have in common.
pub(super) struct Group {
    pub job: Job,
    pub open: AtomicU32,
    pub completion: AtomicU32,
    pub cached: u32,
    /// Scores of the prompt, once it is computed, where they were asked for.
    pub scores: OnceLock<Vec<TokenLogprob>>,
}

/// How a choice ended.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub reason: FinishReason,
    pub repetition: bool,
}

/// A choice being computed.
pub(super) struct Sequence {
    pub group: Arc<Group>,
    pub choice: u32,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// Positions that are in the cache.
    pub computed: usize,
    /// Blocks from position 0 on.
    pub table: Vec<u32>,
    /// Reserved blocks that were not taken yet.
    pub reserved: usize,
    /// Choices that start once the prompt is computed, and the blocks reserved for each.
    pub forks: u32,
    pub fork_blocks: usize,
    named: usize,
    key: Key,
    sampler: Sampler,
    loops: Loops,
    output: Output,
    /// Blocks that count for this choice alone.
    pub own: usize,
    scores: Vec<TokenLogprob>,
    pub chosen: Option<(u32, Option<TokenLogprob>)>,
}

impl Sequence {
    /// A choice that needs `total` blocks, of which it has `table` already and the rest reserved.
    pub(super) fn new(
        group: Arc<Group>,
        choice: u32,
        table: Vec<u32>,
        total: usize,
        defaults: (f32, f32),
    ) -> Self {
        let job = &group.job;
        let reserved = total - table.len();
        let named = table.len();
        let key = named
            .checked_sub(1)
            .map_or(job.root, |last| job.chain[last]);
        Self {
            choice,
            tokens: job.prompt.clone(),
            computed: named * TOKENS,
            table,
            reserved,
            forks: 0,
            fork_blocks: 0,
            own: total,
            named,
            key,
            sampler: Sampler::new(&job.sampling, choice, defaults.0, defaults.1),
            loops: Loops::default(),
            output: Output::new(&job.stop, choice),
            scores: Vec::new(),
            chosen: None,
            group,
        }
    }

    pub(super) fn prompt(&self) -> usize {
        self.group.job.prompt.len()
    }

    /// Tokens that are not in the cache yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether the prompt is computed.
    pub(super) fn generating(&self) -> bool {
        self.computed + 1 >= self.tokens.len() && self.tokens.len() > self.prompt()
    }

    /// Tokens that may still be generated.
    pub(super) fn left(&self) -> usize {
        self.prompt() + self.group.job.max_tokens - self.tokens.len()
    }

    /// Takes blocks so that positions below `end` have one. False only if the reservation was short.
    pub(super) fn cover(&mut self, end: usize, cache: &mut Cache) -> bool {
        while self.table.len() * TOKENS < end {
            let Some(block) = self.reserved.checked_sub(1).and_then(|left| {
                self.reserved = left;
                cache.take()
            }) else {
                return false;
            };
            self.table.push(block);
        }
        true
    }

    /// Names the blocks that are full now.
    pub(super) fn publish(&mut self, cache: &mut Cache) {
        while (self.named + 1) * TOKENS <= self.computed {
            let start = self.named * TOKENS;
            self.key = self.key.next(&self.tokens[start..start + TOKENS]);
            cache.publish(self.table[self.named], self.key);
            self.named += 1;
        }
    }

    /// Gives back everything.
    pub(super) fn release(&self, cache: &mut Cache) {
        for &block in &self.table {
            cache.release(block);
        }
        cache.unreserve(self.reserved + self.forks as usize * self.fork_blocks);
    }

    /// Scores prompt position `position` with the logits of the position before it.
    pub(super) fn score_prompt(&mut self, position: usize, logits: &[f32], tokenizer: &Tokenizer) {
        let (token, top) = (self.tokens[position], self.group.job.logprobs.unwrap_or(0));
        self.scores.push(scored(token, logits, top, tokenizer));
    }

    /// Chooses the next token.
    pub(super) fn choose(&mut self, logits: &[f32], tokenizer: &Tokenizer) {
        let token = self.sampler.choose(logits);
        let score = self
            .group
            .job
            .logprobs
            .map(|top| scored(token, logits, top, tokenizer));
        self.chosen = Some((token, score));
    }

    /// Blocks that count for this choice and those that will start from it.
    pub(super) const fn share(&self) -> usize {
        self.own + self.forks as usize * self.fork_blocks
    }

    /// Sends the prompt as the beginning of the answer, where that was asked for.
    pub(super) fn echo(&mut self, tokenizer: &Tokenizer) {
        if !self.group.job.echo {
            return;
        }
        let scores = std::mem::take(&mut self.scores);
        let scores = self.group.scores.get_or_init(|| scores);
        let prompt = &self.group.job.prompt;
        let mut text = Detokenizer::new();
        let mut whole: String = prompt
            .iter()
            .map(|&token| text.push(tokenizer.token_bytes(token)))
            .collect();
        whole.push_str(&text.finish());
        let mut list = Vec::new();
        if let Some(&first) = prompt.first().filter(|_| self.group.job.logprobs.is_some()) {
            let bytes = Sensitive::new(tokenizer.token_bytes(first).to_vec());
            list.push(TokenLogprob {
                token: first,
                bytes,
                logprob: None,
                top: Vec::new(),
            });
            list.extend_from_slice(scores);
        }
        let event = GenEvent::Text {
            choice: self.choice,
            text: Sensitive::new(whole),
            logprobs: list,
        };
        // Whoever no longer listens is noticed before the next step.
        let _gone = self.group.job.events.send(event);
    }

    /// Takes the chosen token into the text; says whether the choice ended.
    pub(super) fn advance(&mut self, tokenizer: &Tokenizer) -> Option<End> {
        let (token, score) = self.chosen.take()?;
        self.group.completion.fetch_add(1, Ordering::Relaxed);
        let events = &self.group.job.events;
        if tokenizer.end_ids().contains(&token) {
            self.output.flush(events);
            return Some(End {
                reason: FinishReason::Stop,
                repetition: false,
            });
        }
        self.tokens.push(token);
        let bytes = if tokenizer.is_special(token) {
            &[]
        } else {
            tokenizer.token_bytes(token)
        };
        if self.output.push(bytes, score, events) {
            return Some(End {
                reason: FinishReason::Stop,
                repetition: false,
            });
        }
        let repetition = self.loops.push(token);
        if repetition || self.left() == 0 {
            self.output.flush(events);
            return Some(End {
                reason: FinishReason::Length,
                repetition,
            });
        }
        None
    }

    /// Tells the caller that this choice is complete, and after the last one what it cost.
    pub(super) fn finish(&self, end: End) {
        let (group, choice) = (&self.group, self.choice);
        let events = &group.job.events;
        let _gone = events.send(GenEvent::Finish {
            choice,
            reason: end.reason,
            repetition: end.repetition,
        });
        if group.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            let prompt = u32::try_from(self.prompt()).unwrap_or(u32::MAX);
            let completion = group.completion.load(Ordering::Relaxed);
            let _gone = events.send(GenEvent::Usage {
                prompt,
                completion,
                cached: group.cached,
            });
        }
    }
}

fn scored(token: u32, logits: &[f32], top: usize, tokenizer: &Tokenizer) -> TokenLogprob {
    let bytes = |token| Sensitive::new(tokenizer.token_bytes(token).to_vec());
    let (logprob, top) = logprobs(logits, token, top);
    let alternative = |Scored { token, logprob }| Alternative {
        token,
        bytes: bytes(token),
        logprob,
    };
    TokenLogprob {
        token,
        bytes: bytes(token),
        logprob: Some(logprob),
        top: top.into_iter().map(alternative).collect(),
    }
}

type Events = tokio::sync::mpsc::UnboundedSender<GenEvent>;

/// Text on its way out: whole characters, nothing past a stop text, scores with the text they belong to.
struct Output {
    choice: u32,
    characters: Detokenizer,
    stops: StopMatcher,
    scores: VecDeque<TokenLogprob>,
    /// Bytes that went out and are not covered by scores that went out.
    ahead: usize,
}

impl Output {
    fn new(stops: &[String], choice: u32) -> Self {
        Self {
            choice,
            characters: Detokenizer::new(),
            stops: StopMatcher::new(stops),
            scores: VecDeque::new(),
            ahead: 0,
        }
    }

    /// Takes the bytes of a token; true once a stop text is complete.
    fn push(&mut self, bytes: &[u8], score: Option<TokenLogprob>, events: &Events) -> bool {
        self.scores.extend(score);
        let text = self.characters.push(bytes);
        let stopped = self.stops.push(&text);
        self.send(stopped.text, false, events);
        stopped.stop.is_some()
    }

    /// Sends all that was held back.
    fn flush(&mut self, events: &Events) {
        let rest = self.characters.finish();
        let stopped = self.stops.push(&rest);
        let mut text = stopped.text;
        if stopped.stop.is_none() {
            text.push_str(&self.stops.finish());
        }
        self.send(text, true, events);
    }

    fn send(&mut self, text: String, all: bool, events: &Events) {
        self.ahead += text.len();
        let mut logprobs = Vec::new();
        while let Some(first) = self.scores.front() {
            let length = first.bytes.expose().len();
            if !all && length > self.ahead {
                break;
            }
            self.ahead = self.ahead.saturating_sub(length);
            logprobs.extend(self.scores.pop_front());
        }
        if !text.is_empty() || !logprobs.is_empty() {
            // Whoever no longer listens is noticed before the next step.
            let _gone = events.send(GenEvent::Text {
                choice: self.choice,
                text: Sensitive::new(text),
                logprobs,
            });
        }
    }
}
