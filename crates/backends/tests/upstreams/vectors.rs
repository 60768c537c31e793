//! Embeddings: as declared, or not at all.

use mesh_backends::{AttemptError, HealthEffect};
use mesh_core::{Backend, EmbeddingSpec};
use mesh_protocol::{Event, Surface};
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use serde_json::json;

use crate::world::{CANARY, admitted, at, clients, error, outbound, send};

fn declared(upstream: &ScriptedUpstream, dimensions: u32) -> Backend {
    let mut backend = at(upstream);
    backend.models[0].capabilities.embedding = Some(EmbeddingSpec {
        model: String::from("minilm"),
        revision: String::from("1"),
        dimensions,
    });
    backend
}

fn request() -> mesh_backends::Outbound {
    outbound(
        Surface::Embeddings,
        json!({"model": "big", "input": [CANARY, "b", "c"]}),
    )
}

#[tokio::test]
async fn vectors_come_in_the_order_of_their_inputs_with_the_usage() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let (events, error) = send(&clients(), &admitted(declared(&upstream, 4)), request()).await;
    assert_eq!(error, None);
    let [Event::Embeddings(vectors), Event::Usage(usage)] = &events[..] else {
        panic!("{events:?}");
    };
    let firsts: Vec<f32> = vectors
        .iter()
        .map(|embedding| embedding.vector[0])
        .collect();
    assert_eq!(firsts, [0.0, 1.0, 2.0]);
    assert_eq!(usage.prompt_tokens, 5);
    assert_eq!(upstream.requests()[0].path, "/v1/embeddings");
}

#[tokio::test]
async fn vectors_of_another_length_or_number_than_declared_are_a_failed_attempt() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let admitted = admitted(declared(&upstream, 4));
    upstream.set(Answer::text("").dimensions(3));
    let wrong = error(&clients(), &admitted, request()).await;
    assert_eq!(
        wrong,
        AttemptError::Dimensions {
            declared: 4,
            answered: 3
        }
    );
    assert_eq!(wrong.health(), HealthEffect::Failure);
    upstream.set(Behavior::error(
        200,
        &json!({"data": [{"index": 0, "embedding": [1, 2, 3, 4]}]}),
    ));
    let wrong = error(&clients(), &admitted, request()).await;
    assert_eq!(
        wrong,
        AttemptError::InvalidBody {
            what: "another number of vectors than inputs"
        }
    );
}

#[tokio::test]
async fn one_list_of_tokens_is_one_input() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let request = outbound(
        Surface::Embeddings,
        json!({"model": "big", "input": [1, 2, 3]}),
    );
    let (events, error) = send(&clients(), &admitted(declared(&upstream, 4)), request).await;
    assert_eq!(error, None);
    assert!(matches!(&events[0], Event::Embeddings(vectors) if vectors.len() == 1));
}
