//! The engine as others see it: load a model, ask it, read its numbers, end it.

mod adapters;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::cache::Key;
use crate::family::Model;
use crate::gguf::Header;
use crate::kernel::TOKENS;
use crate::loader::Source;
use crate::options::{EngineOptions, Error, ModelInfo, Stats};
use crate::prompt;
use crate::request::{GenEvent, GenerateRequest, Generation, Overflow, Prompt, Refused};
use crate::scheduler::queue::{Evaluation, Job, Rejected, Shared};
use crate::scheduler::{self, Settings, blocks_needed, shared_blocks};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// Most tokens of a choice where the request does not say.
const DEFAULT_TOKENS: usize = 512;
/// Most choices of a request.
const CHOICES: u32 = 4;
/// Most alternatives per token.
const ALTERNATIVES: u8 = 20;
/// Most stop texts, and their longest length in bytes.
const STOPS: (usize, usize) = (16, 1_024);

/// A running engine. Clones are handles to the same one; the last one to go ends it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("info", &self.0.info)
            .finish_non_exhaustive()
    }
}

struct Inner {
    shared: Arc<Shared>,
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// Blocks for an ordinary request and for a sole one.
    shares: (usize, usize),
    block_bytes: usize,
    blocks: usize,
    max_batch: usize,
    context: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close(Instant::now());
    }
}

impl Engine {
    /// Loads the model and starts its thread. Blocks for as long as reading the file takes.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are made for this one call"
    )]
    pub fn load(path: impl AsRef<Path>, options: EngineOptions) -> Result<Self, Error> {
        let mut source = Source::open(path.as_ref())?;
        let tokenizer = Tokenizer::from_gguf(source.header())?;
        let template = ChatTemplate::from_gguf(source.header())?;
        let threads = options.threads.unwrap_or_else(default_threads).max(1);
        let mut model = Model::load(&mut source, options.place, threads, options.compute)?;
        let (tokens, rows) = (tokenizer.vocab_len(), model.config().vocab);
        if tokens > rows {
            return Err(Error::Vocabulary { tokens, rows });
        }
        let fingerprint = source.fingerprint(options.compute)?;
        let adapters = adapters::load(&mut model, &options, &fingerprint)?;
        let blocks = blocks(&model, &options)?;
        model.reserve(blocks as usize)?;
        let info = ModelInfo {
            name: name(source.header(), path.as_ref()),
            architecture: "llama".to_owned(),
            context_tokens: model.config().context.min(blocks as usize * TOKENS),
            vocab: rows,
            parameters: source
                .header()
                .tensors()
                .iter()
                .map(|tensor| tensor.shape().iter().product::<u64>())
                .sum(),
            fingerprint,
            threads: model.threads(),
            instructions: model.name(),
            adapters,
        };
        let engine = Self::start(model, tokenizer, template, info, (blocks, &options))?;
        engine.prove()?;
        Ok(engine)
    }

    /// Computes a few tokens, with each adapter too: damaged weights answer with what is no number, and
    /// such a model would otherwise give empty answers that look fine.
    fn prove(&self) -> Result<(), Error> {
        const FEW: usize = 4;
        let vocab = self.0.info.vocab;
        let spread = (0..FEW).map(|index| u32::try_from(index * vocab / FEW).unwrap_or(0));
        let few: Vec<u32> = spread.take(self.0.info.context_tokens).collect();
        let sound = |adapter: Option<&str>| -> Result<bool, Error> {
            let numbers = self.evaluate(&few, adapter)?;
            Ok(numbers.iter().flatten().all(|number| number.is_finite()))
        };
        if !sound(None)? {
            return Err(Error::Damaged);
        }
        for adapter in &self.0.info.adapters {
            if !sound(Some(&adapter.name))? {
                return Err(Error::DamagedAdapter(adapter.name.clone()));
            }
        }
        Ok(())
    }

    fn start(
        model: Model,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        info: ModelInfo,
        (blocks, options): (u32, &EngineOptions),
    ) -> Result<Self, Error> {
        let settings = Settings {
            blocks,
            max_batch: options.max_batch.max(1),
            protect: options.protect,
            max_wait: options.max_wait,
            defaults: (options.temperature, options.top_p),
        };
        let (shared, tokenizer) = (
            Arc::new(Shared::new(options.max_queue, info.adapters.len())),
            Arc::new(tokenizer),
        );
        let mut inner = Inner {
            shared: Arc::clone(&shared),
            info,
            tokenizer: Arc::clone(&tokenizer),
            template,
            shares: (settings.share(false), settings.share(true)),
            block_bytes: model.block_bytes(),
            blocks: blocks as usize,
            max_batch: settings.max_batch,
            context: model.config().context,
            thread: Mutex::new(None),
        };
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || scheduler::serve(&shared, model, tokenizer, settings))
            .map_err(|error| Error::Threads(Box::new(error)))?;
        inner.thread = Mutex::new(Some(thread));
        Ok(Self(Arc::new(inner)))
    }

    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// Takes a request. Encodes the prompt on the calling thread (about a millisecond per 1,000
    /// tokens), then returns at once; the answer comes as a stream.
    pub fn generate(&self, request: GenerateRequest) -> Result<Generation, Refused> {
        check(&request)?;
        let adapter = self.place(request.adapter.as_deref())?;
        let inner = &*self.0;
        if request.n as usize > inner.max_batch {
            return Err(Refused::Invalid {
                field: "n",
                bound: "at most the engine's batch size",
            });
        }
        let room = if request.sole {
            inner.shares.1
        } else {
            inner.shares.0
        };
        let window = inner.context.min(room * TOKENS);
        // A request for no token at all may fill the window.
        let limit = window + usize::from(request.max_tokens == Some(0));
        let encoded = prompt::encode(
            &request.prompt,
            &inner.tokenizer,
            &inner.template,
            limit,
            request.overflow,
        )?;
        let length = encoded.tokens.len();
        let wanted = request
            .max_tokens
            .map_or(DEFAULT_TOKENS, |tokens| tokens as usize);
        let max_tokens = fitting_tokens(length, wanted.min(window - length), request.n, room)
            .ok_or(Refused::ContextLength {
                prompt_tokens: length,
                window: window / request.n as usize,
            })?;
        let (events, receiver) = unbounded_channel();
        let job = job(request, (encoded.tokens, adapter), max_tokens, events);
        inner
            .shared
            .submit(job)
            .map_err(|rejected| match rejected {
                Rejected::Full { retry_after } => Refused::Busy { retry_after },
                Rejected::Stopped => Refused::Stopped,
            })?;
        Ok(Generation {
            prompt_tokens: u32::try_from(length).unwrap_or(u32::MAX),
            context_trimmed: encoded.trimmed,
            events: receiver,
            done: false,
        })
    }

    /// Tokens of a prompt as the model would read it, whatever its length.
    pub fn count_tokens(&self, prompt: &Prompt) -> Result<usize, Refused> {
        let inner = &*self.0;
        prompt::encode(
            prompt,
            &inner.tokenizer,
            &inner.template,
            usize::MAX,
            Overflow::Refuse,
        )
        .map(|encoded| encoded.tokens.len())
    }

    /// All logits, `[token][vocabulary]`, of a text that starts at position 0, computed by the same
    /// forward pass as any prompt, with an adapter or as the model is. Blocks; for comparison with a
    /// reference.
    pub fn evaluate(&self, tokens: &[u32], adapter: Option<&str>) -> Result<Vec<Vec<f32>>, Error> {
        let failed = || Error::Evaluate(tokens.len());
        let adapter = self.place(adapter).map_err(|_| failed())?;
        if tokens
            .iter()
            .any(|&token| token as usize >= self.0.info.vocab)
            || tokens.len() > self.0.info.context_tokens
        {
            return Err(failed());
        }
        let (reply, answer) = mpsc::channel();
        if !self.0.shared.evaluate(Evaluation {
            tokens: tokens.to_vec(),
            adapter,
            reply,
        }) {
            return Err(failed());
        }
        answer.recv().map_err(|_| failed())
    }

    /// Numbers for metrics; cheap.
    pub fn stats(&self) -> Stats {
        let gauges = &self.0.shared.gauges;
        Stats {
            running: gauges.running.load(Ordering::Relaxed),
            waiting: gauges.waiting.load(Ordering::Relaxed),
            kv_used: gauges.blocks_used.load(Ordering::Relaxed) * self.0.block_bytes,
            kv_total: self.0.blocks * self.0.block_bytes,
            prefix_hit_tokens: gauges.prefix_hit_tokens.load(Ordering::Relaxed),
            prompt_tokens: gauges.prompt_tokens.load(Ordering::Relaxed),
            generation_tokens: gauges.generation_tokens.load(Ordering::Relaxed),
        }
    }

    /// Whether requests can be answered.
    pub fn alive(&self) -> bool {
        !self.0.shared.dead()
    }

    /// Takes nothing new, lets running requests go on for at most `grace`, and waits for the end.
    pub fn shutdown(&self, grace: Duration) {
        self.0.shared.close(Instant::now() + grace);
        let thread = self
            .0
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its panics are caught and told to the callers; there is nothing left to learn here.
            let _ended = thread.join();
        }
    }

    #[cfg(test)]
    pub(crate) fn fail(&self) {
        self.0.shared.fail();
    }
}

fn job(
    request: GenerateRequest,
    (prompt, adapter): (Vec<u32>, Option<usize>),
    max_tokens: usize,
    events: UnboundedSender<GenEvent>,
) -> Job {
    let root = Key::root(&request.partition, adapter);
    let mut chain = Key::chain(root, &prompt);
    chain.truncate(shared_blocks(prompt.len()));
    Job {
        root,
        adapter,
        chain,
        prompt,
        sampling: request.sampling,
        max_tokens,
        stop: request.stop,
        choices: request.n,
        echo: request.echo,
        logprobs: request.logprobs.map(usize::from),
        latency: request.latency,
        sole: request.sole,
        arrived: Instant::now(),
        events,
    }
}

/// CPU quota and affinity (both read by the standard library on Linux) minus one for the data plane.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1).max(1))
}

fn blocks(model: &Model, options: &EngineOptions) -> Result<u32, Error> {
    let block = model.block_bytes();
    let least = if options.protect { 2 } else { 1 };
    match u32::try_from(options.kv_bytes / block).unwrap_or(u32::MAX) {
        blocks if blocks >= least => Ok(blocks),
        _ => Err(Error::Memory {
            given: options.kv_bytes,
            block,
        }),
    }
}

fn name(header: &Header, path: &Path) -> String {
    let stem = || {
        PathBuf::from(path)
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    };
    header
        .str("general.name")
        .map_or_else(|_| stem(), str::to_owned)
}

fn check(request: &GenerateRequest) -> Result<(), Refused> {
    let invalid = |field, bound| Err(Refused::Invalid { field, bound });
    let sampling = &request.sampling;
    if !(1..=CHOICES).contains(&request.n) {
        return invalid("n", "1 to 4");
    }
    if sampling
        .temperature
        .is_some_and(|value| !(0.0..=2.0).contains(&value))
    {
        return invalid("temperature", "0 to 2");
    }
    if sampling
        .top_p
        .is_some_and(|value| !(0.0..=1.0).contains(&value))
    {
        return invalid("top_p", "0 to 1");
    }
    if !(-2.0..=2.0).contains(&sampling.presence_penalty) {
        return invalid("presence_penalty", "-2 to 2");
    }
    if !(-2.0..=2.0).contains(&sampling.frequency_penalty) {
        return invalid("frequency_penalty", "-2 to 2");
    }
    if sampling.logit_bias.len() > 1_024
        || sampling
            .logit_bias
            .iter()
            .any(|(_, bias)| !(-100.0..=100.0).contains(bias))
    {
        return invalid("logit_bias", "up to 1024 tokens with -100 to 100");
    }
    if request.logprobs.is_some_and(|top| top > ALTERNATIVES) {
        return invalid("top_logprobs", "0 to 20");
    }
    if request.stop.len() > STOPS.0 || request.stop.iter().any(|stop| stop.len() > STOPS.1) {
        return invalid("stop", "up to 16 texts of up to 1024 bytes");
    }
    Ok(())
}

/// The most tokens, up to `wanted`, with which all choices together fit `room` blocks.
fn fitting_tokens(prompt: usize, wanted: usize, choices: u32, room: usize) -> Option<usize> {
    let fits = |tokens: usize| {
        let (total, others) = blocks_needed(prompt, tokens, choices);
        total + others <= room
    };
    let least = wanted.min(1);
    if !fits(least) {
        return None;
    }
    // More tokens never need fewer blocks, so the limit is found by halving.
    let (mut low, mut high) = (least, wanted);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(low)
}

#[cfg(test)]
mod tests;
