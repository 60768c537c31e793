//! OpenAI's requests read into what the engine takes, and its answers into the mesh's typed events.
//! Used where an engine stands behind the mesh in one process, and by the worker behind HTTP.
//!
//! Fields that would change the answer and that the engine cannot do are refused (`not supported:
//! …`). Fields that nobody here knows are left alone: they are the caller's business.

mod answer;
mod ask;

use std::pin::Pin;

use futures::Stream;
use futures::stream::{self, StreamExt};
use mesh_core::LatencyClass;
use mesh_protocol::{Event, ModelRequest, ParseError};

use crate::openai::answer::{Form, Total};
use crate::{Engine, Failure, Generation, Overflow, Partition, Refused};

/// What a request does not say itself.
#[derive(Debug, Clone)]
pub struct Context {
    /// Whose prefixes may be reused.
    pub partition: Partition,
    /// How soon.
    pub latency: LatencyClass,
    /// No other backend could answer.
    pub sole: bool,
    /// What happens to a conversation larger than the window.
    pub overflow: Overflow,
    /// Answer without the tools that the request offers.
    pub drop_tools: bool,
    /// Name of the adapter that answers; absent: the model as it is.
    pub adapter: Option<String>,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is wrong or not supported.
    #[error(transparent)]
    Request(#[from] ParseError),
    /// The request asks for what this engine cannot do; somebody else may.
    #[error("not supported: `{field}` on this model")]
    Unsupported {
        /// The field.
        field: String,
    },
    /// The engine refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl Error {
    /// Stable word for headers, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "InvalidRequest",
            Self::Unsupported { .. } => "UnsupportedParameter",
            Self::Refused(refused) => refused.reason(),
        }
    }
}

/// Events of an answer; after an `Err` nothing follows.
pub type Events = Pin<Box<dyn Stream<Item = Result<Event, Failure>> + Send>>;

/// A request that was taken. Dropping the events cancels the work.
pub struct Answer {
    /// Text, finishes, and the usage last.
    pub events: Events,
    /// Old turns were left out.
    pub context_trimmed: bool,
}

/// Takes a request. Encodes its prompt on the calling thread, about a millisecond per 1,000 tokens.
///
/// # Errors
/// If the request is not understood, asks for what the engine cannot do, does not fit, or the queue is
/// full.
pub fn start(engine: &Engine, request: &ModelRequest, context: &Context) -> Result<Answer, Error> {
    let asked = ask::read(request, context)?;
    let form = Form {
        surface: request.surface,
        engine: engine.clone(),
    };
    let mut running: Vec<Generation> = Vec::with_capacity(asked.len());
    for one in asked {
        running.push(engine.generate(one)?);
    }
    let context_trimmed = running.iter().any(Generation::context_trimmed);
    let total = Total::new(running.len());
    let choices = request.n;
    let parts = running.into_iter().enumerate().map(|(index, generation)| {
        // Several prompts: choice numbers go on from one to the next.
        let first = u32::try_from(index)
            .unwrap_or(u32::MAX)
            .saturating_mul(choices);
        let mut reader = form.reader(first, total.clone());
        generation.filter_map(move |event| futures::future::ready(reader.read(event)))
    });
    Ok(Answer {
        events: Box::pin(stream::select_all(parts)),
        context_trimmed,
    })
}
