//! Promises over random requests.

use mesh_classify::{Inputs, classify};
use mesh_core::{Facts, PrivacyLevel};
use mesh_protocol::{ModelRequest, Surface};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};

const CARDS: [&str; 8] = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "5555-5555-5555-4444",
    "3782 822463 10005",
    "6011.0009.9013.9424",
    "6759649826438453",
    "2223 0031 2200 3222",
    "５５５５ ５５５５ ５５５５ ４４４４",
];

fn classified(surface: Surface, body: Map<String, Value>) -> Facts {
    let request = ModelRequest {
        surface,
        body,
        model: "auto".to_owned(),
        stream: false,
        include_usage: false,
        n: 1,
        max_tokens: None,
    };
    classify(&request, &Inputs::new(PrivacyLevel::Public, "test"))
}

fn surfaces() -> impl Strategy<Value = Surface> {
    prop_oneof![
        Just(Surface::Chat),
        Just(Surface::Completions),
        Just(Surface::Embeddings)
    ]
}

/// Text with the characters that rules care about.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z ]{0,24}",
        "[0-9 .\\-]{0,40}",
        "[ -~]{0,40}",
        "\\PC{0,20}",
        any::<String>(),
        Just("I have diabetes.".to_owned()),
        Just("password: Tr0ub4dor3".to_owned()),
        Just("{\"a\":\"\\u0034\"}".to_owned()),
        Just("data:image/png;base64,AAAA".to_owned()),
    ]
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("type".to_owned()),
        Just("content".to_owned()),
        Just("text".to_owned()),
        Just("image_url".to_owned()),
        Just("messages".to_owned()),
        Just("prompt".to_owned()),
        Just("input".to_owned()),
        Just("tools".to_owned()),
        Just("tool_choice".to_owned()),
        Just("response_format".to_owned()),
        Just("data".to_owned()),
        Just("role".to_owned()),
        texts(),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts().prop_map(Value::from),
        Just(json!("user")),
        Just(json!("image_url")),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((names(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn bodies() -> impl Strategy<Value = Map<String, Value>> {
    let parts = prop::collection::vec(
        prop_oneof![
            texts().prop_map(|text| json!({"type": "text", "text": text})),
            texts().prop_map(|text| json!({"type": "image_url", "image_url": {"url": text}})),
            values(),
        ],
        0..4,
    );
    let message = (
        prop_oneof![
            Just("user"),
            Just("system"),
            Just("assistant"),
            Just("tool")
        ],
        prop_oneof![texts().prop_map(Value::from), parts.prop_map(Value::from)],
        texts(),
    )
        .prop_map(|(role, content, name)| {
            json!({"role": role, "content": content, "name": name,
                "tool_calls": [{"id": "1", "function": {"name": name, "arguments": name}}]})
        });
    (
        prop::collection::vec(message, 0..4),
        texts(),
        prop::collection::vec((names(), values()), 0..5),
    )
        .prop_map(|(messages, text, extra)| {
            let mut body = Map::new();
            body.insert("model".to_owned(), json!("auto"));
            body.insert("messages".to_owned(), Value::from(messages));
            body.insert("prompt".to_owned(), Value::from(text.clone()));
            body.insert("input".to_owned(), json!([text]));
            for (name, value) in extra {
                body.insert(name, value);
            }
            body
        })
}

/// Visits every string of a value, names too, in order, until `visit` says stop.
fn count(value: &Value) -> usize {
    match value {
        Value::String(_) => 1,
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(|value| 1 + count(value)).sum(),
        _ => 0,
    }
}

/// The value with `insert` put into its string number `which` (names count), at a share of its length.
fn planted(value: &Value, which: &mut usize, insert: &str, at: usize) -> Value {
    let mut plant = |text: &str| {
        let here = *which == 0;
        *which = which.wrapping_sub(1);
        if !here {
            return text.to_owned();
        }
        let cut = text.floor_char_boundary(at % (text.len() + 1));
        format!("{} {insert} {}", &text[..cut], &text[cut..])
    };
    match value {
        Value::String(text) => Value::from(plant(text)),
        Value::Array(items) => items
            .iter()
            .map(|item| planted(item, which, insert, at))
            .collect(),
        Value::Object(members) => {
            let mut changed = Map::new();
            for (name, value) in members {
                let here = *which == 0;
                *which = which.wrapping_sub(1);
                let name = if here {
                    let cut = name.floor_char_boundary(at % (name.len() + 1));
                    format!("{} {insert} {}", &name[..cut], &name[cut..])
                } else {
                    name.clone()
                };
                changed.insert(name, planted(value, which, insert, at));
            }
            Value::Object(changed)
        }
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        rng_seed: RngSeed::Fixed(0x4d45_5348),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_card_number_in_any_string_of_any_request_makes_it_restricted(
        body in bodies(), surface in surfaces(), which in any::<usize>(), at in any::<usize>(), card in 0..CARDS.len(),
    ) {
        let body = Value::Object(body);
        let mut which = which % count(&body);
        let Value::Object(body) = planted(&body, &mut which, CARDS[card], at) else {
            unreachable!("an object stays one")
        };
        let shown = Value::Object(body.clone());
        let facts = classified(surface, body);
        prop_assert_eq!(facts.level, PrivacyLevel::Restricted, "{}", shown);
    }

    #[test]
    fn adding_content_never_lowers_the_level(
        body in bodies(), surface in surfaces(), extra in values(), line in texts(), name in "[a-z]{1,8}",
    ) {
        let before = classified(surface, body.clone()).level;
        let mut more = body.clone();
        more.entry(format!("added_{name}")).or_insert(extra);
        prop_assert!(classified(surface, more).level >= before);
        let mut more = body.clone();
        if let Some(Value::Array(messages)) = more.get_mut("messages") {
            messages.push(json!({"role": "user", "content": line}));
        }
        prop_assert!(classified(surface, more).level >= before);
        let mut more = body;
        if let Some(Value::String(prompt)) = more.get_mut("prompt") {
            prompt.push_str("\n\n");
            prompt.push_str(&line);
        }
        prop_assert!(classified(surface, more).level >= before);
    }

    #[test]
    fn no_body_makes_classification_panic_and_equal_bodies_get_equal_facts(body in bodies(), surface in surfaces()) {
        let first = classified(surface, body.clone());
        prop_assert_eq!(&first, &classified(surface, body));
        prop_assert!(first.complexity.value() >= 0.0 && first.complexity.value() <= 1.0);
        prop_assert_eq!(first.scan.complete, first.scan.unread.is_empty());
    }

    #[test]
    fn spans_lie_on_character_borders_of_the_part_they_name(before in texts(), after in texts(), card in 0..CARDS.len()) {
        let text = format!("{before} {} {after}", CARDS[card]);
        let facts = mesh_classify::classify_text(&text, &Inputs::default());
        let mut card_found = false;
        for finding in facts.findings.iter().filter(|finding| finding.part == "/messages/0/content") {
            let found = text.get(finding.start..finding.end);
            prop_assert!(found.is_some_and(|found| !found.is_empty()), "{:?}", finding);
            card_found |= found == Some(CARDS[card]);
        }
        prop_assert!(card_found, "{:?}", facts.findings);
    }

    #[test]
    fn no_fact_holds_a_word_of_the_request(body in bodies(), surface in surfaces()) {
        let mut body = body;
        body.insert("metadata".to_owned(), json!({"xyzzy canary": "xyzzy canary 4111 1111 1111 1111"}));
        body.insert("messages".to_owned(), json!([{"role": "user", "content": "xyzzy canary", "xyzzy canary": 1}]));
        let facts = classified(surface, body);
        let shown = serde_json::to_string(&facts).expect("json");
        prop_assert!(!shown.contains("xyzzy") && !shown.contains("4111"), "{}", shown);
    }
}
