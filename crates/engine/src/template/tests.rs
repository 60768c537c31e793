//! Templates behave as in the reference, refuse in words, and cannot be made to eat the machine.

use serde_json::json;

use super::{ChatTemplate, Error, Guard, NormalizeError, Role, Turn, normalize};

fn guard() -> Guard {
    Guard::new(["<|im_start|>", "<|im_end|>"].into_iter()).unwrap()
}

fn render(source: &str, turns: &[Turn]) -> Result<String, Error> {
    let rendered = ChatTemplate::new(source, "<s>", "</s>")?.render(turns, &guard(), true)?;
    Ok(rendered.unguarded(rendered.text()).into_owned())
}

fn hello() -> Vec<Turn> {
    vec![
        Turn::new(Role::System, "be kind"),
        Turn::new(Role::User, "hello"),
    ]
}

#[test]
fn a_model_without_a_template_speaks_chatml() {
    assert_eq!(
        render(super::CHATML, &hello()).unwrap(),
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn blocks_are_trimmed_as_in_the_reference() {
    let source = "{{ bos_token }}\n  {% for m in messages %}\n    {% if true %}\n{{ m.role }};\n    {% endif %}\n{% endfor %}\n";
    assert_eq!(render(source, &hello()).unwrap(), "<s>\nsystem;\nuser;\n");
}

#[test]
fn pythons_methods_and_loop_controls_work() {
    let source = "{%- for m in messages -%}{%- if loop.index > 1 -%}{%- break -%}{%- endif -%}\
        {{ m['content'].strip().upper() }}{{ m.get('name', '-') }}{%- endfor -%}\
        {{ 'kind' in messages[0].content }} {{ messages[-1]['content'].startswith('he') }} {{ 'a,b'.split(',')[1] }}";
    assert_eq!(render(source, &hello()).unwrap(), "BE KIND-True True b");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let source =
        r#"{{ {"a": [1, "<ü'>", none], "b": true} | tojson }}{{ [1] | tojson(indent=2) }}"#;
    assert_eq!(
        render(source, &hello()).unwrap(),
        "{\"a\": [1, \"<ü'>\", null], \"b\": true}[\n  1\n]"
    );
}

#[test]
fn dates_are_given_and_nonsense_formats_are_errors() {
    let year = render("{{ strftime_now('%Y') }}", &hello()).unwrap();
    assert!(
        year.len() == 4 && year.parse::<u32>().unwrap() > 2000,
        "{year}"
    );
    assert!(matches!(
        render("{{ strftime_now('%Ö') }}", &hello()),
        Err(Error::Render { .. })
    ));
}

#[test]
fn a_template_that_refuses_is_quoted_and_one_that_fails_is_not() {
    let refused = render("{{ raise_exception('roles must alternate') }}", &hello()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "chat template of the model refuses this conversation: roles must alternate"
    );
    assert_eq!(refused.reason(), "TemplateRefused");
    let secret = [Turn::new(Role::User, "canary")];
    for source in [
        "{{ messages[0].content.nonsense() }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // (messages | int) }}",
    ] {
        let failed = render(source, &secret).unwrap_err();
        assert!(matches!(failed, Error::Render { line: 1, .. }), "{failed}");
        assert!(!format!("{failed} {failed:?}").contains("canary"));
    }
}

#[test]
fn templates_that_do_not_parse_or_are_too_long_are_named() {
    let error = render("\n{% for %}", &hello()).unwrap_err();
    assert!(matches!(error, Error::Parse { line: 2, .. }), "{error}");
    assert_eq!(error.reason(), "TemplateInvalid");
    assert!(matches!(
        render(&"x".repeat(1 << 19), &hello()),
        Err(Error::TooLong { .. })
    ));
    assert!(render("{% include 'other' %}", &hello()).is_err());
}

#[test]
fn bombs_end_without_time_or_memory() {
    let bombs = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='x' * 9000000) %}{{ n.s.replace('', n.s) }}",
        "{% set n = namespace(s='x' * 9000000) %}{{ n.s | replace('x', n.s) }}",
        "{% set n = namespace(s='x' * 9000000) %}{{ n.s.join(n.s) }}",
        "{{ ('x\n' * 4000000) | indent(4000000) }}",
        "{{ '%0999999999d' | format(1) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ 'x' | center(9999999999) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(99999) %}{{ ('x' * 60000).split('') }}{% endfor %}",
        "{{ [1] * 99999999999 }}",
    ];
    for bomb in bombs {
        assert!(render(bomb, &hello()).is_err(), "{bomb}");
    }
}

#[test]
fn a_long_honest_conversation_stays_within_the_allowance() {
    let turns: Vec<Turn> = (0..400)
        .map(|_| Turn::new(Role::User, "word ".repeat(400)))
        .collect();
    assert!(render(super::CHATML, &turns).unwrap().len() > 800_000);
}

#[test]
fn conversations_are_reduced_to_three_roles_and_text() {
    let messages = json!([
        {"role": "developer", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "user", "content": "weather?", "name": "ann"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Graz\"}"}},
            {"id": "2", "type": "function", "function": {"name": "odd", "arguments": "not json"}},
        ]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "function", "name": "odd", "content": null},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "refusal": null},
        {"role": "assistant", "content": "text first", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "refusal": "I cannot"},
    ]);
    let turns = normalize(messages.as_array().unwrap()).unwrap();
    let expected = [
        (Role::System, "one\ntwo"),
        (Role::User, "weather?"),
        (
            Role::Assistant,
            "{\"name\":\"weather\",\"arguments\":{\"city\":\"Graz\"}}\n{\"name\":\"odd\",\"arguments\":\"not json\"}",
        ),
        (Role::User, "Tool result:\nsunny"),
        (Role::User, "Tool result (odd):\n"),
        (Role::Assistant, "no"),
        (
            Role::Assistant,
            "text first\n{\"name\":\"f\",\"arguments\":{}}",
        ),
        (Role::Assistant, "I cannot"),
    ];
    assert_eq!(turns.len(), expected.len());
    for (turn, (role, content)) in turns.iter().zip(expected) {
        assert_eq!((turn.role, turn.content.expose().as_str()), (role, content));
    }
    assert!(!format!("{turns:?}").contains("sunny"));
}

#[test]
fn what_the_floor_cannot_read_is_refused_with_its_place() {
    let refused = |message: serde_json::Value| {
        normalize(&[json!({"role": "user", "content": "a"}), message]).unwrap_err()
    };
    let image = refused(
        json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}),
    );
    assert_eq!(
        image.to_string(),
        "not supported: image input on the floor (messages[1])"
    );
    assert_eq!(image.reason(), "UnsupportedInput");
    let audio =
        refused(json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}));
    assert_eq!(
        audio,
        NormalizeError::Media {
            index: 1,
            kind: "audio"
        }
    );
    assert_eq!(
        refused(json!("hi")),
        NormalizeError::NotAnObject { index: 1 }
    );
    assert_eq!(
        refused(json!({"role": "root", "content": "x"})),
        NormalizeError::Role { index: 1 }
    );
    assert_eq!(
        refused(json!({"content": "x"})),
        NormalizeError::Role { index: 1 }
    );
    for content in [
        json!(7),
        json!({}),
        json!([{"text": "x"}]),
        json!([{"type": "text"}]),
    ] {
        assert_eq!(
            refused(json!({"role": "user", "content": content})),
            NormalizeError::Content { index: 1 }
        );
    }
    let calls = json!({"role": "assistant", "tool_calls": [{"function": {}}]});
    assert_eq!(refused(calls), NormalizeError::ToolCalls { index: 1 });
    assert_eq!(normalize(&[]).unwrap_err(), NormalizeError::Empty);
}
