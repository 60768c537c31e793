//! Every place of a request is read, places hold no text, media makes a scan incomplete.

use mesh_core::PrivacyLevel;
use mesh_protocol::{ModelRequest, Surface};
use serde_json::{Value, json};

use crate::{Inputs, classify};

const CARD: &str = "4111 1111 1111 1111";

fn request(surface: Surface, body: Value) -> ModelRequest {
    let Value::Object(body) = body else {
        panic!("an object")
    };
    ModelRequest::from_body(surface, body).expect("a request")
}

fn facts(surface: Surface, body: Value) -> mesh_core::Facts {
    classify(
        &request(surface, body),
        &Inputs::new(PrivacyLevel::Public, "test"),
    )
}

/// Puts the extra fields beside a harmless message.
fn beside(extra: &Value) -> mesh_core::Facts {
    let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in extra.as_object().expect("an object") {
        body[name] = value.clone();
    }
    facts(Surface::Chat, body)
}

#[track_caller]
fn card_at(facts: &mesh_core::Facts, place: &str) {
    let places: Vec<_> = facts
        .findings
        .iter()
        .filter(|finding| finding.rule == "card/luhn")
        .map(|finding| finding.part.as_str())
        .collect();
    assert!(places.contains(&place), "{place} in {places:?}");
    assert_eq!(facts.level, PrivacyLevel::Restricted);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of places")]
fn every_part_of_every_message_is_read() {
    for (message, place) in [
        (
            json!({"role": "system", "content": CARD}),
            "/messages/0/content",
        ),
        (
            json!({"role": "developer", "content": CARD}),
            "/messages/0/content",
        ),
        (
            json!({"role": "user", "content": CARD, "name": "x"}),
            "/messages/0/content",
        ),
        (
            json!({"role": "user", "content": "x", "name": CARD}),
            "/messages/0/name",
        ),
        (
            json!({"role": "assistant", "content": CARD}),
            "/messages/0/content",
        ),
        (
            json!({"role": "assistant", "refusal": CARD}),
            "/messages/0/refusal",
        ),
        (
            json!({"role": "assistant", "reasoning_content": CARD}),
            "/messages/0/reasoning_content",
        ),
        (
            json!({"role": "tool", "tool_call_id": "a", "content": CARD}),
            "/messages/0/content",
        ),
        (
            json!({"role": "tool", "tool_call_id": CARD, "content": "x"}),
            "/messages/0/tool_call_id",
        ),
        (
            json!({"role": "user", "content": [{"type": "text", "text": CARD}]}),
            "/messages/0/content/0/text",
        ),
        (
            json!({"role": "user", "content": [{"type": "input_text", "text": CARD}]}),
            "/messages/0/content/0/text",
        ),
        (
            json!({"role": "assistant", "content": [{"type": "refusal", "refusal": CARD}]}),
            "/messages/0/content/0/refusal",
        ),
        (
            json!({"role": "user", "content": [{"type": "text", "text": "x", "extra": CARD}]}),
            "/messages/0/content/0/#2",
        ),
        (
            json!({"role": "user", "content": [{"type": "new", "blob": {"deep": [CARD]}}]}),
            "/messages/0/content/0/#1/#0/0",
        ),
        (
            json!({"role": "user", "content": "x", "odd": {CARD: 1}}),
            "/messages/0/#2/#0~name",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": CARD, "arguments": "{}"}}]}),
            "/messages/0/tool_calls/0/function/name",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"n\":\"4111 1111 1111 1111\"}"}}]}),
            "/messages/0/tool_calls/0/function/arguments",
        ),
        (
            json!({"role": "assistant", "function_call": {"name": "f", "arguments": "{\"n\":4111111111111111}"}}),
            "/messages/0/function_call/arguments",
        ),
        (
            json!({"role": "user", "content": [{"type": "file", "file": {"filename": CARD, "file_id": "f"}}]}),
            "/messages/0/content/0/file/filename",
        ),
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/?c=4111111111111111"}}]}),
            "/messages/0/content/0/image_url/url",
        ),
    ] {
        card_at(
            &facts(
                Surface::Chat,
                json!({"model": "auto", "messages": [message]}),
            ),
            place,
        );
    }
}

#[test]
fn every_field_beside_the_messages_is_read() {
    for (extra, place) in [
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "description": CARD}}]}),
            "/tools/0/function/description",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"default": 4_111_111_111_111_111_u64}}}}}]}),
            "/tools/0/function/parameters/properties/#0/default",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {CARD: {}}}}}]}),
            "/tools/0/function/parameters/properties/#0~name",
        ),
        (
            json!({"functions": [{"name": "f", "description": CARD}]}),
            "/functions/0/description",
        ),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": CARD}}}),
            "/tool_choice/function/name",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [CARD]}}}}),
            "/response_format/json_schema/schema/enum/0",
        ),
        (json!({"metadata": {"card": CARD}}), "/metadata/#0"),
        (json!({"metadata": {CARD: "x"}}), "/metadata/#0~name"),
        (json!({"user": CARD}), "/user"),
        (json!({"safety_identifier": CARD}), "/safety_identifier"),
        (json!({"prompt_cache_key": CARD}), "/prompt_cache_key"),
        (json!({"stop": ["a", CARD]}), "/stop/1"),
        (json!({"logit_bias": {CARD: 1}}), "/logit_bias/#0~name"),
        (
            json!({"prediction": {"type": "content", "content": CARD}}),
            "/prediction/content",
        ),
        (
            json!({"prediction": {"type": "content", "content": [{"type": "text", "text": CARD}]}}),
            "/prediction/content/0/text",
        ),
        (
            json!({"web_search_options": {"user_location": {"approximate": {"city": CARD}}}}),
            "/web_search_options/user_location/approximate/city",
        ),
        (json!({"seed": 4_111_111_111_111_111_u64}), "/seed"),
        (json!({"novelty": {"a": [[CARD]]}}), "/#2/#0/0/0"),
        (json!({"novelty": 4_111_111_111_111_111.0}), "/#2"),
        (json!({"novelty": -4_111_111_111_111_111_i64}), "/#2"),
        (json!({CARD: true}), "/#2~name"),
        (json!({"model": CARD}), "/model"),
    ] {
        card_at(&beside(&extra), place);
    }
}

#[test]
fn prompts_and_embedding_inputs_are_read() {
    for (surface, body, place) in [
        (
            Surface::Completions,
            json!({"model": "m", "prompt": CARD}),
            "/prompt",
        ),
        (
            Surface::Completions,
            json!({"model": "m", "prompt": ["a", CARD]}),
            "/prompt/1",
        ),
        (
            Surface::Completions,
            json!({"model": "m", "prompt": "a", "suffix": CARD}),
            "/suffix",
        ),
        (
            Surface::Embeddings,
            json!({"model": "m", "input": CARD}),
            "/input",
        ),
        (
            Surface::Embeddings,
            json!({"model": "m", "input": ["a", CARD]}),
            "/input/1",
        ),
        (
            Surface::Embeddings,
            json!({"model": "m", "input": "a", "user": CARD}),
            "/user",
        ),
    ] {
        card_at(&facts(surface, body), place);
    }
}

#[test]
fn escapes_inside_strings_are_decoded_and_read() {
    let arguments = r#"{"n":"\u0034111 1111 1111 1111"}"#;
    let body = json!({"tool_calls": [{"function": {"name": "f", "arguments": arguments}}], "role": "assistant"});
    let facts_of = |body: Value| facts(Surface::Chat, json!({"model": "m", "messages": [body]}));
    card_at(
        &facts_of(body),
        "/messages/0/tool_calls/0/function/arguments~json/n",
    );

    let twice = serde_json::to_string(arguments).expect("json");
    let found = facts_of(json!({"role": "user", "content": twice}));
    card_at(&found, "/messages/0/content~json~json/n");

    let broken = r#"{"n":"\u0034111 1111 1111 1111"#;
    card_at(
        &facts_of(json!({"role": "user", "content": broken})),
        "/messages/0/content~json",
    );

    let mut deep = format!("{CARD}\"");
    for _ in 0..8 {
        deep = serde_json::to_string(&deep).expect("json");
    }
    let found = facts_of(json!({"role": "user", "content": deep}));
    assert!(!found.scan.complete && found.level == PrivacyLevel::Restricted);
}

#[test]
fn a_value_split_over_the_parts_of_a_message_is_found_where_it_begins() {
    let parts = |texts: &[&str]| {
        let parts: Vec<_> = texts
            .iter()
            .map(|text| json!({"type": "text", "text": text}))
            .collect();
        facts(
            Surface::Chat,
            json!({"model": "m", "messages": [{"role": "user", "content": parts}]}),
        )
    };
    let found = parts(&["pay 4111 1111", " 1111 1111 now"]);
    assert!(found.scan.complete);
    let card: Vec<_> = found
        .findings
        .iter()
        .filter(|finding| finding.rule == "card/luhn")
        .collect();
    assert_eq!(card.len(), 1);
    assert_eq!(
        (card[0].part.as_str(), card[0].start, card[0].end),
        ("/messages/0/content/0/text", 4, 13)
    );

    card_at(
        &parts(&[
            "4", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1",
        ]),
        "/messages/0/content/0/text",
    );
    let long = format!("{} 4111 11", "word ".repeat(400));
    card_at(
        &parts(&[&long, "11 1111 1111", &"word ".repeat(400)]),
        "/messages/0/content/0/text",
    );
    card_at(
        &parts(&["4111 \u{200b}11", "11 1111\u{200b} 1111"]),
        "/messages/0/content/0/text",
    );
    let whole = parts(&["4111111111111111", "and more"]);
    let count = whole
        .findings
        .iter()
        .filter(|finding| finding.rule == "card/luhn")
        .count();
    assert_eq!(count, 1, "not once more from the joined text");
}

#[test]
fn the_name_of_a_member_is_context_for_its_value() {
    let ssn = beside(&json!({"metadata": {"ssn": "536221234"}}));
    assert!(
        ssn.findings
            .iter()
            .any(|finding| finding.rule == "ssn/form")
    );
    let password = beside(&json!({"metadata": {"password": "Tr0ub4dor3"}}));
    assert!(
        password
            .findings
            .iter()
            .any(|finding| finding.rule == "secret/assigned")
    );
    let last = facts(
        Surface::Chat,
        json!({"messages": [{"role": "user", "content": "What is a token"}], "model": "model-4o-mini-2024-07-18"}),
    );
    assert!(last.findings.is_empty(), "{:?}", last.findings);
}

#[test]
fn media_and_remote_addresses_and_token_numbers_make_the_scan_incomplete() {
    let part = |part: Value| {
        facts(
            Surface::Chat,
            json!({"model": "m", "messages": [{"role": "user", "content": [part]}]}),
        )
    };
    let image =
        part(json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}));
    assert!(image.needs.vision && !image.needs.remote_urls && !image.scan.complete);
    assert_eq!(image.level, PrivacyLevel::Restricted);
    let remote =
        part(json!({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}));
    assert!(remote.needs.vision && remote.needs.remote_urls && !remote.scan.complete);
    let plain = part(json!({"type": "image_url", "image_url": "https://example.org/a.png"}));
    assert!(plain.needs.remote_urls);
    let audio =
        part(json!({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}));
    assert!(audio.needs.other_media && !audio.needs.vision && !audio.scan.complete);
    let file =
        part(json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,AA"}}));
    assert!(file.needs.other_media && !file.scan.complete);
    let unknown = part(json!({"type": "hologram", "x": 1}));
    assert!(!unknown.scan.complete);
    for (surface, body) in [
        (
            Surface::Completions,
            json!({"model": "m", "prompt": [1, 2, 3]}),
        ),
        (
            Surface::Embeddings,
            json!({"model": "m", "input": [[1, 2], [3]]}),
        ),
    ] {
        let tokens = facts(surface, body);
        assert!(!tokens.scan.complete && tokens.level == PrivacyLevel::Restricted);
        assert!(tokens.needs.prompt_tokens >= 3);
    }
    let text = part(
        json!({"type": "text", "text": "see https://example.org and data:image/png;base64,AAAA"}),
    );
    assert!(text.scan.complete && !text.needs.remote_urls);
}

#[test]
fn a_long_base64_text_does_not_make_the_scan_incomplete() {
    let blob = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo".repeat(40);
    let facts = beside(&json!({"user": blob}));
    assert!(facts.scan.complete);
    assert_eq!(facts.level, PrivacyLevel::Public);
}

#[test]
fn what_is_beyond_the_limit_is_said_to_be_unread() {
    let inputs = Inputs {
        scan_limit: 1000,
        ..Inputs::new(PrivacyLevel::Public, "test")
    };
    let text = format!("{}{CARD}", "ü".repeat(600));
    let request = crate::text_request(&text);
    let facts = classify(&request, &inputs);
    assert!(!facts.scan.complete && facts.scan.bytes <= 1000);
    assert_eq!(facts.level, PrivacyLevel::Restricted);
    assert!(
        facts.scan.unread[0].contains("1000 bytes"),
        "{:?}",
        facts.scan.unread
    );
    assert!(
        classify(&crate::text_request("short"), &inputs)
            .scan
            .complete
    );
}

#[test]
fn values_nested_beyond_all_measure_are_said_to_be_unread() {
    let mut value = json!(CARD);
    for _ in 0..200 {
        value = json!([value]);
    }
    let mut request = crate::text_request("hi");
    request.body.insert("novelty".to_owned(), value);
    let facts = classify(&request, &Inputs::new(PrivacyLevel::Public, "test"));
    assert!(!facts.scan.complete);
}

#[test]
fn a_value_split_over_two_messages_is_found_where_it_begins() {
    let far = "x ".repeat(500);
    for (first, second) in [
        ("card 4111 1111".to_owned(), "1111 1111 ok".to_owned()),
        (format!("{far}4111 1111"), format!("1111 1111 {far}")),
    ] {
        let body = json!({"model": "auto", "messages": [
            {"role": "user", "content": first},
            {"role": "user", "content": [{"type": "text", "text": second}]},
        ]});
        card_at(&facts(Surface::Chat, body), "/messages/0/content");
    }
}

#[test]
fn a_number_with_an_exponent_in_the_arguments_of_a_tool_is_read() {
    for depth in [0, 10, 40] {
        let arguments = format!(
            "{}4.111111111111111e15{}",
            "[".repeat(depth),
            "]".repeat(depth)
        );
        let arguments = format!("{{\"n\": {arguments}}}");
        let body = json!({"model": "auto", "messages": [{"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "pay", "arguments": arguments}},
        ]}]});
        assert_eq!(
            facts(Surface::Chat, body).level,
            PrivacyLevel::Restricted,
            "{depth}"
        );
    }
}
