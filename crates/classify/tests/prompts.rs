//! Labeled prompts: what each asks for and how sensitive it is, exactly.

use mesh_classify::{Inputs, classify_text};
use mesh_core::PrivacyLevel;
use serde_json::Value;

const PROMPTS: &str = include_str!("prompts.jsonl");

#[test]
fn every_labeled_prompt_gets_its_task_and_level() {
    let inputs = Inputs::new(PrivacyLevel::Public, "test");
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in PROMPTS.lines() {
        let label: Value = serde_json::from_str(line).expect("a label");
        let text = label["text"].as_str().expect("text");
        let facts = classify_text(text, &inputs);
        let found = (facts.task.as_str(), facts.level.as_str());
        let expected = (
            label["task"].as_str().expect("task"),
            label["level"].as_str().expect("level"),
        );
        if found != expected {
            wrong.push(format!(
                "{text}: expected {expected:?}, found {found:?}, {:?}",
                facts.findings
            ));
        }
        count += 1;
    }
    assert!(count >= 60, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_longer_and_stricter_request_is_more_complex() {
    let inputs = Inputs::default();
    let complexity = |text: &str| classify_text(text, &inputs).complexity.value();
    let easy = complexity("Hi!");
    let middle =
        complexity("Write a Python function that reverses a list. It must not use slices.");
    let hard = complexity(
        "Prove step by step that the function terminates. You must state at least two invariants, \
         avoid induction, and ensure exactly one lemma. What is the bound? Why? Is it tight? How?\n\
         ```\nfn f(x: u64) -> u64 { return x; }\n```",
    );
    assert!(easy < 0.05, "{easy}");
    assert!(easy < middle && middle < hard, "{easy} {middle} {hard}");
    assert!(hard <= 1.0);
}
