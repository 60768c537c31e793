//! Semantics section 9: vectors never mix, and nothing stands in.

use mesh_core::PrivacyLevel::{Public, Restricted};
use mesh_core::{Backend, Constraint, EmbeddingSpec, Facts, Feature, TaskType, Verdict};
use mesh_routing::AssumedHealth;

use crate::world::{World, cloud, embedding, external, facts, floor, in_process, planned, refused};

fn vectors(mut backend: Backend, spec: EmbeddingSpec) -> Backend {
    let model = &mut backend.models[0];
    model.name = String::from("minilm");
    model.capabilities.tasks.clear();
    model.capabilities.features = vec![Feature::Embeddings];
    model.capabilities.embedding = Some(spec);
    backend
}

fn embed() -> Facts {
    let mut facts = facts(Public);
    facts.task = TaskType::Embed;
    facts.needs.embeddings = true;
    facts
}

#[test]
fn only_backends_with_the_same_name_and_declaration_are_candidates() {
    let world = World::of([
        vectors(cloud("a", 0.5), embedding("1", 384)),
        vectors(cloud("b", 0.5), embedding("1", 384)),
        vectors(cloud("c", 0.9), embedding("2", 384)),
        floor(),
    ]);
    let decided = world.decide("minilm", &embed());
    assert_eq!(planned(&decided), ["a", "b"], "no floor");
    assert_eq!(refused(&decided.decision, "c"), Some(Constraint::Embedding));
}

#[test]
fn a_name_keeps_its_vectors_whoever_is_down_and_whatever_the_level() {
    let world = World::of([
        vectors(cloud("a", 0.5), embedding("1", 384)),
        vectors(in_process("b", "minilm"), embedding("2", 384)),
        floor(),
    ]);
    let down = AssumedHealth::without(["a"]);
    let decided = world.decide_with("minilm", &embed(), &down);
    assert!(planned(&decided).is_empty());
    assert!(matches!(
        decided.decision.verdict,
        Verdict::NoBackend { .. }
    ));
    let mut restricted = embed();
    restricted.level = Restricted;
    let decided = world.decide("minilm", &restricted);
    assert!(planned(&decided).is_empty());
    assert_eq!(refused(&decided.decision, "b"), Some(Constraint::Embedding));
}

#[test]
fn asked_dimensions_must_be_declared() {
    let world = World::of([
        vectors(cloud("a", 0.5), embedding("1", 384)),
        vectors(cloud("b", 0.5), embedding("1", 768)),
    ]);
    let mut facts = embed();
    facts.needs.dimensions = Some(768);
    assert_eq!(planned(&world.decide("minilm", &facts)), ["b"]);
    facts.needs.dimensions = Some(5);
    let none = world.decide("minilm", &facts);
    assert!(
        matches!(&none.decision.verdict, Verdict::NoBackend { message } if message.contains('5'))
    );
}

#[test]
fn a_chat_model_makes_no_vectors_and_a_model_of_vectors_does_not_chat() {
    let world = World::of([vectors(cloud("a", 0.5), embedding("1", 384)), floor()]);
    let chat = world.ask("auto", Public);
    assert_eq!(planned(&chat), ["floor"]);
    assert_eq!(refused(&chat.decision, "a"), Some(Constraint::Feature));
    let vectors = world.decide("smollm2", &embed());
    assert!(planned(&vectors).is_empty());
    assert_eq!(
        refused(&vectors.decision, "floor"),
        Some(Constraint::Embedding)
    );
    assert!(matches!(
        vectors.decision.verdict,
        Verdict::NoBackend { .. }
    ));
}

#[test]
fn auto_and_local_stay_with_one_name() {
    let mut other = vectors(external("z", &["192.168.20.7"]), embedding("1", 384));
    other.models[0].name = String::from("other");
    let world = World::of([vectors(cloud("a", 0.5), embedding("1", 384)), other]);
    assert_eq!(planned(&world.decide("auto", &embed())), ["a"]);
    assert_eq!(planned(&world.decide("local", &embed())), ["z"]);
}
