//! The contract of `classify`: the formula of the level, needs, latency, and what facts never hold.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail loudly"
)]

use mesh_classify::{Inputs, classify, classify_text, text_request};
use mesh_core::{Facts, LatencyClass, PrivacyLevel, TaskType, ToolNeed};
use mesh_protocol::{ModelRequest, Surface};
use serde_json::{Value, json};

fn facts(body: Value, inputs: &Inputs<'_>) -> Facts {
    let Value::Object(body) = body else {
        panic!("an object")
    };
    let request = ModelRequest::from_body(Surface::Chat, body).expect("a request");
    classify(&request, inputs)
}

fn chat(extra: &Value) -> Facts {
    let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in extra.as_object().expect("an object") {
        body[name] = value.clone();
    }
    facts(body, &Inputs::new(PrivacyLevel::Public, "policy default"))
}

#[test]
fn the_level_is_the_highest_of_base_header_detectors_and_incomplete_scan() {
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]);
    let contents = [
        (json!("hi"), None),
        (json!("anna@example.org"), Some(PrivacyLevel::Internal)),
        (json!("4111 1111 1111 1111"), Some(PrivacyLevel::Restricted)),
        (image, None),
    ];
    for base in PrivacyLevel::ALL {
        for header in [
            None,
            Some(PrivacyLevel::Public),
            Some(PrivacyLevel::Internal),
            Some(PrivacyLevel::Restricted),
        ] {
            for incomplete in PrivacyLevel::ALL {
                for (content, detected) in &contents {
                    let inputs = Inputs {
                        header_privacy: header,
                        incomplete_level: incomplete,
                        ..Inputs::new(base, "policy default")
                    };
                    let body =
                        json!({"model": "m", "messages": [{"role": "user", "content": content}]});
                    let facts = facts(body, &inputs);
                    let unread = (!facts.scan.complete).then_some(incomplete);
                    assert_eq!(facts.scan.complete, !content.is_array());
                    let expected = [Some(base), header, *detected, unread]
                        .into_iter()
                        .flatten()
                        .max();
                    assert_eq!(
                        Some(facts.level),
                        expected,
                        "{base} {header:?} {incomplete} {content}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_voice_in_the_level_has_a_line_that_names_rule_and_place() {
    let inputs = Inputs {
        header_privacy: Some(PrivacyLevel::Internal),
        ..Inputs::new(PrivacyLevel::Public, "policy default")
    };
    let facts = classify_text("card 4111 1111 1111 1111", &inputs);
    let lines: Vec<_> = facts
        .entries
        .iter()
        .filter(|fact| fact.name == "privacy")
        .map(|fact| (fact.detector.as_str(), fact.value.as_str().unwrap_or("")))
        .collect();
    assert_eq!(
        lines,
        [
            ("level", "restricted"),
            ("policy default", "public"),
            ("header", "internal"),
            ("rules/card", "restricted")
        ]
    );
    let rule = facts
        .entries
        .iter()
        .find(|fact| fact.detector == "rules/card")
        .expect("a line");
    assert!(rule.evidence.contains("card/luhn") && rule.evidence.contains("/messages/0/content"));
    for name in ["task", "complexity", "latency", "prompt_tokens"] {
        assert!(facts.entries.iter().any(|fact| fact.name == name), "{name}");
    }
}

#[test]
fn facts_hold_no_text_of_the_request() {
    let canary = "zanzibar-canary";
    let text = format!(
        "I have diabetes {canary} {canary}@example.org 4111111111111111 password: {canary}7X!"
    );
    let body = json!({
        "model": "auto",
        "messages": [
            {"role": "user", "name": canary, "content": [{"type": "text", "text": text}, {"type": canary, canary: text}]},
            {"role": "assistant", "tool_calls": [{"id": canary, "type": "function", "function": {"name": canary, "arguments": text}}]}
        ],
        "metadata": {(format!("{canary} 4111111111111111")): text, "4111111111111111": "x"},
        (format!("field {canary} is odd")): text,
        "4111111111111111": 1,
        "tools": [{"type": format!("{canary} tool"), "x": text}],
        "user": text,
    });
    let facts = facts(body, &Inputs::default());
    let shown = format!("{}{facts:?}", serde_json::to_string(&facts).expect("json"));
    assert!(facts.findings.len() > 8, "{}", facts.findings.len());
    for secret in [canary, "4111", "diabetes", "example.org"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert_eq!(facts.needs.unknown_fields, ["#3", "#4"]);
    assert_eq!(facts.needs.hosted_tools, ["unnamed"]);
}

#[test]
fn needs_are_read_from_the_fields() {
    let plain = chat(&json!({}));
    assert_eq!(plain.needs.tools, ToolNeed::None);
    assert!(!plain.needs.json && !plain.needs.stream && plain.needs.unknown_fields.is_empty());
    let function = json!([{"type": "function", "function": {"name": "f"}}]);
    for (extra, need) in [
        (json!({"tools": function}), ToolNeed::Soft),
        (json!({"tools": []}), ToolNeed::None),
        (json!({"functions": [{"name": "f"}]}), ToolNeed::Soft),
        (
            json!({"tools": function, "tool_choice": "auto"}),
            ToolNeed::Soft,
        ),
        (
            json!({"tools": function, "tool_choice": "none"}),
            ToolNeed::Soft,
        ),
        (
            json!({"tools": function, "tool_choice": "required"}),
            ToolNeed::Hard,
        ),
        (
            json!({"tools": function, "tool_choice": {"type": "function", "function": {"name": "f"}}}),
            ToolNeed::Hard,
        ),
        (
            json!({"tools": function, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}}),
            ToolNeed::Soft,
        ),
        (
            json!({"functions": [{"name": "f"}], "function_call": {"name": "f"}}),
            ToolNeed::Hard,
        ),
    ] {
        assert_eq!(chat(&extra).needs.tools, need, "{extra}");
    }
    let rich = chat(&json!({
        "stream": true, "max_tokens": 70, "response_format": {"type": "json_object"}, "modalities": ["text", "audio"],
        "tools": [{"type": "mcp", "server_url": "x"}, {"type": "custom", "custom": {}}], "web_search_options": {}, "top_k": 5
    }));
    assert!(rich.needs.stream && rich.needs.json && rich.needs.other_media && !rich.needs.vision);
    assert_eq!(rich.needs.max_output_tokens, Some(70));
    assert_eq!(rich.needs.hosted_tools, ["mcp", "web_search"]);
    assert_eq!(rich.needs.unknown_fields, ["top_k"]);
}

#[test]
fn embeddings_are_their_own_task_with_dimensions() {
    let body = json!({"model": "m", "input": vec!["text"; 64], "dimensions": 256});
    let Value::Object(body) = body else {
        panic!("an object")
    };
    let request = ModelRequest::from_body(Surface::Embeddings, body).expect("a request");
    let inputs = Inputs {
        header_task: Some(TaskType::Code),
        ..Inputs::default()
    };
    let facts = classify(&request, &inputs);
    assert_eq!(facts.task, TaskType::Embed);
    assert!(facts.needs.embeddings && facts.needs.dimensions == Some(256));
    assert_eq!(facts.latency, LatencyClass::Batch);
}

#[test]
fn headers_decide_task_and_latency() {
    let inputs = Inputs {
        header_task: Some(TaskType::Domain),
        header_latency: Some(LatencyClass::Batch),
        ..Inputs::default()
    };
    let facts = classify_text("Translate into German: hello", &inputs);
    assert_eq!(
        (facts.task, facts.latency),
        (TaskType::Domain, LatencyClass::Batch)
    );
    let plain = classify_text("What is a nightly batch job?", &Inputs::default());
    assert_eq!(plain.latency, LatencyClass::Interactive);
    assert_eq!(
        chat(&json!({"service_tier": "flex"})).latency,
        LatencyClass::Batch
    );
}

#[test]
fn the_answer_schema_tells_labels_from_fields() {
    let schema = |properties: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": properties}}}});
    assert_eq!(
        chat(&schema(json!({"label": {"enum": ["a", "b"]}}))).task,
        TaskType::Classify
    );
    assert_eq!(
        chat(&schema(json!({"a": {}, "b": {}}))).task,
        TaskType::Extract
    );
}

#[test]
fn a_system_message_sets_the_task_of_plain_material() {
    let body = json!({"model": "m", "messages": [
        {"role": "system", "content": "You translate every message into German."},
        {"role": "user", "content": "The weather is lovely."}
    ]});
    assert_eq!(facts(body, &Inputs::default()).task, TaskType::Translate);
}

#[test]
fn the_token_estimate_is_near_and_not_below_common_ratios() {
    let inputs = Inputs::default();
    let tokens = |text: &str| f64::from(classify_text(text, &inputs).needs.prompt_tokens);
    let prose = "the trains should run every twenty minutes in the evening ".repeat(50);
    let words = 10.0 * 50.0;
    assert!(
        tokens(&prose) > words && tokens(&prose) < words * 1.7,
        "{}",
        tokens(&prose)
    );
    assert!(tokens("") <= 20.0);
    assert!(tokens(&"7".repeat(300)) >= 100.0);
    assert!(tokens(&"東京".repeat(50)) >= 100.0);
}

#[test]
fn a_header_below_the_base_changes_nothing() {
    let inputs = Inputs {
        header_privacy: Some(PrivacyLevel::Public),
        ..Inputs::new(PrivacyLevel::Confidential, "policy default")
    };
    assert_eq!(
        classify(&text_request("hi"), &inputs).level,
        PrivacyLevel::Confidential
    );
}
