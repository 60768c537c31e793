//! Models of this process stand behind the same door.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, stream};
use mesh_backends::{AttemptError, HealthEffect, LocalModel, Outbound, Started};
use mesh_core::{Backend, BackendId, Place};
use mesh_protocol::Event;

use crate::world::{admitted, backend, chat, clients, endpoint, error, send, text};

/// Says back which tenant asked.
struct Echo {
    ready: bool,
}

impl LocalModel for Echo {
    fn ready(&self) -> Result<(), String> {
        self.ready
            .then_some(())
            .ok_or_else(|| String::from("still loading"))
    }

    fn start(&self, outbound: Outbound) -> BoxFuture<'_, Result<Started, AttemptError>> {
        let said = Event::Text {
            choice: 0,
            text: outbound.tenant,
            logprobs: None,
        };
        async move {
            Ok(Started {
                events: Box::pin(stream::iter([Ok(said)])),
                context_trimmed: true,
                system_fingerprint: Some(String::from("fp")),
                headers: Vec::new(),
            })
        }
        .boxed()
    }
}

fn floor() -> Backend {
    Backend {
        place: Place::InProcess {
            model_cache: String::from("smollm2"),
            kv_bytes: None,
            context_tokens: None,
        },
        ..backend(endpoint("http://127.0.0.1:9/v1"))
    }
}

fn with(ready: bool) -> HashMap<BackendId, Arc<dyn LocalModel>> {
    HashMap::from([(floor().id, Arc::new(Echo { ready }) as Arc<dyn LocalModel>)])
}

#[tokio::test]
async fn a_local_model_answers_once_it_is_there_and_says_why_it_is_not() {
    let (backends, admitted) = (clients(), admitted(floor()));
    let absent = error(&backends, &admitted, chat()).await;
    assert!(matches!(absent, AttemptError::NotReady(_)));
    assert_eq!(absent.health(), HealthEffect::None);
    assert!(backends.local_ready(&floor().id).is_err());

    backends.set_local(with(false));
    assert_eq!(
        backends.local_ready(&floor().id),
        Err(String::from("still loading"))
    );
    assert_eq!(
        backends.probe(&floor()).await,
        Err(AttemptError::NotReady(String::from("still loading")))
    );

    backends.set_local(with(true));
    assert_eq!(backends.probe(&floor()).await, Ok(()));
    let (events, failed) = send(&backends, &admitted, chat()).await;
    assert_eq!((text(&events).as_str(), failed), ("tenant-canary", None));
}
