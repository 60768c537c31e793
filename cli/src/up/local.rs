//! An engine of this process as a backend of the data plane.

use futures::future::BoxFuture;
use futures::stream::StreamExt;
use mesh_backends::{AttemptError, LocalModel, Outbound, Started};
use mesh_core::Sensitive;
use mesh_core::policy::Overflow as Declared;
use mesh_engine::openai::{self, Answer, Context};
use mesh_engine::{Engine, Failure, Overflow, Partition, Refused};
use mesh_protocol::openai::error::ErrorBody;

/// From this size on encoding a prompt takes more than 500 microseconds and leaves the threads that
/// serve connections.
const LARGE_PROMPT: usize = 2 * 1024;

/// A loaded engine.
pub(crate) struct Floor {
    engine: Engine,
}

impl Floor {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl LocalModel for Floor {
    fn ready(&self) -> Result<(), String> {
        if self.engine.alive() {
            Ok(())
        } else {
            Err(String::from("its engine has stopped: restart the mesh"))
        }
    }

    fn family(&self) -> Option<String> {
        Some(self.engine.info().architecture.clone())
    }

    fn start(&self, outbound: Outbound) -> BoxFuture<'_, Result<Started, AttemptError>> {
        Box::pin(async move {
            let answer = if size(&outbound) < LARGE_PROMPT {
                take(&self.engine, &outbound)
            } else {
                let engine = self.engine.clone();
                let taken = tokio::task::spawn_blocking(move || take(&engine, &outbound)).await;
                taken
                    .unwrap_or_else(|_| Err(AttemptError::Local(String::from("its engine failed"))))
            }?;
            let fingerprint = Some(self.engine.info().fingerprint.clone());
            Ok(Started {
                events: Box::pin(
                    answer
                        .events
                        .map(|event| event.map_err(|failure| failed(&failure))),
                ),
                context_trimmed: answer.context_trimmed,
                system_fingerprint: fingerprint,
                headers: Vec::new(),
            })
        })
    }
}

/// Roughly the bytes to encode, without writing them out.
fn size(outbound: &Outbound) -> usize {
    let content = |message: &serde_json::Value| match message.get("content") {
        Some(serde_json::Value::String(text)) => text.len(),
        Some(serde_json::Value::Array(_)) => LARGE_PROMPT,
        _ => 0,
    };
    let prompt = match outbound.request.body.get("prompt") {
        Some(serde_json::Value::String(text)) => text.len(),
        Some(_) => LARGE_PROMPT,
        None => 0,
    };
    prompt
        + outbound
            .request
            .messages()
            .iter()
            .map(content)
            .sum::<usize>()
}

fn take(engine: &Engine, outbound: &Outbound) -> Result<Answer, AttemptError> {
    let context = Context {
        partition: Partition::new(outbound.tenant.clone(), outbound.level.as_str()),
        latency: outbound.latency,
        sole: outbound.sole,
        overflow: match outbound.overflow {
            Declared::TrimHistory => Overflow::TrimHistory,
            Declared::Refuse => Overflow::Refuse,
        },
        drop_tools: outbound.drop_tools,
        adapter: None,
    };
    openai::start(engine, &outbound.request, &context)
        .map_err(|error| refused(error, outbound.sole))
}

/// `sole`: nobody else could do it, so the caller is told what is wrong with the request.
fn refused(error: openai::Error, sole: bool) -> AttemptError {
    let fault = |message: String, param: Option<String>| {
        let body = ErrorBody::new(message, "invalid_request_error", param, "invalid_request");
        AttemptError::CallerFault {
            status: 400,
            body: Sensitive::new(Box::new(body)),
        }
    };
    match error {
        openai::Error::Request(error) => fault(error.message, error.param),
        openai::Error::Unsupported { ref field } if sole => {
            fault(error.to_string(), Some(field.clone()))
        }
        openai::Error::Unsupported { .. } => AttemptError::Unsupported {
            code: "unsupported_parameter",
        },
        openai::Error::Refused(refused) => match refused {
            Refused::ContextLength {
                prompt_tokens,
                window,
            } => AttemptError::ContextLength {
                tokens: u32::try_from(prompt_tokens).unwrap_or(u32::MAX),
                window: u32::try_from(window).unwrap_or(u32::MAX),
            },
            Refused::Busy { retry_after } => AttemptError::Busy { retry_after },
            Refused::Invalid { field, .. } => fault(refused.to_string(), Some(field.to_owned())),
            Refused::Messages(_) | Refused::Template(_) => {
                fault(refused.to_string(), Some(String::from("messages")))
            }
            Refused::Stopped => AttemptError::Local(refused.to_string()),
        },
    }
}

fn failed(failure: &Failure) -> AttemptError {
    match failure {
        Failure::Busy { retry_after } => AttemptError::Busy {
            retry_after: *retry_after,
        },
        Failure::Stopped => AttemptError::Local(failure.to_string()),
    }
}
