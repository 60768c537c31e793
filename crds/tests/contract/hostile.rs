//! Texts made to hurt: they are answered quickly, with words, and never with a panic.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_crds::{Parsed, ProblemKind, decode, parse};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Far above what any of these takes, far below a hang.
const PATIENCE: Duration = Duration::from_secs(20);

fn answered(text: &str) -> Parsed {
    let begun = Instant::now();
    let parsed = parse("hostile.yaml", text);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    parsed
}

fn refused(text: &str, words: &str) {
    let parsed = answered(text);
    assert!(parsed.documents.is_empty());
    let said: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|line| line.contains(words)), "{said:?}");
    assert!(
        said.iter()
            .all(|line| line.len() < 400 && !line.contains('\n')),
        "{said:?}"
    );
}

#[test]
fn aliases_cannot_multiply_without_bound() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        let _ = writeln!(bomb, "a{level}: &a{level} [{}]", vec![below; 10].join(", "));
    }
    refused(&bomb, "aliases expanded");
    let long = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(100_000),
        vec!["*a"; 10_000].join(", ")
    );
    refused(&long, "aliases expanded");
}

#[test]
fn an_alias_of_itself_is_refused() {
    refused("a: &a [*a]\n", "not complete yet");
    refused("a: *nobody\n", "");
}

#[test]
fn merge_keys_and_tags_are_refused() {
    refused("a: &a {b: 1}\nc: {<<: *a}\n", "merge keys");
    refused("a: !!binary aGk=\n", "tags are not understood");
    refused("? [a]\n: b\n", "a key must be a word");
}

#[test]
fn deep_nesting_is_refused_whatever_its_style() {
    refused(&"[".repeat(100_000), "nested more than");
    refused(&"{a: ".repeat(100_000), "nested more than");
    refused(&"- ".repeat(100_000), "nested more than");
    let mut blocks = String::new();
    for depth in 0..500 {
        let _ = writeln!(blocks, "{}a:", " ".repeat(depth));
    }
    refused(&blocks, "nested more than");
}

#[test]
fn size_is_bounded() {
    refused(&"a: b\n".repeat(2_000_000), "larger than 1024 KiB");
    let mut wide = String::new();
    for number in 0..40_000 {
        let _ = writeln!(wide, "k{number}: 1");
    }
    refused(&wide, "keys in one mapping");
    refused(&"- a\n".repeat(100_000), "values in one file");
    answered(&"? ".repeat(400_000));
    answered(&"a".repeat(1 << 20));
    answered(&"\"".repeat(1 << 19));
    answered(&": ".repeat(1 << 19));
    answered(&"---\n".repeat(200_000));
    answered(&"&a ".repeat(300_000));
    answered(&"#".repeat(1 << 20));
}

#[test]
fn characters_that_no_file_may_hold_are_refused_with_their_place() {
    for (text, place) in [
        ("a: b\nc: \0d\n", "2:4"),
        ("a\u{7}: b\n", "1:2"),
        ("a: b\n\u{feff}\n", "2:1"),
        ("\u{9b}", "1:1"),
    ] {
        let parsed = answered(text);
        assert_eq!(parsed.problems.len(), 1);
        assert!(
            parsed.problems[0]
                .to_string()
                .starts_with(&format!("hostile.yaml:{place}: ")),
            "{}",
            parsed.problems[0]
        );
    }
}

#[test]
fn a_file_that_says_nothing_is_no_problem() {
    for text in [
        "",
        "\n\n",
        "# only\n# comments\n",
        "---\n",
        "---\n...\n",
        "\u{feff}",
        "\u{feff}# x\n",
        "---\n---\n# a\n---\n",
        "~\n",
    ] {
        let parsed = answered(text);
        assert!(
            parsed.documents.is_empty() && parsed.problems.is_empty(),
            "{text:?}: {:?}",
            parsed.problems
        );
    }
}

fn sample(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/standalone");
    fs::read_to_string(folder.join(name)).expect("a sample")
}

#[test]
fn byte_order_marks_and_other_line_ends_change_nothing() {
    for name in ["floor.yaml", "policy.yaml", "cloud.yaml.example"] {
        let plain = sample(name);
        let expected = answered(&plain);
        let windows = format!("\u{feff}{}", plain.replace('\n', "\r\n"));
        let parsed = answered(&windows);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let objects = |parsed: Parsed| {
            parsed
                .documents
                .into_iter()
                .map(|document| document.object)
                .collect::<Vec<_>>()
        };
        assert_eq!(objects(parsed), objects(expected));
    }
}

#[test]
fn positions_are_right_after_windows_line_ends_and_wide_characters() {
    let text = "# ü\r\napiVersion: inferencemesh.dev/v1alpha1\r\nkind: ModelCache\r\nmetadata: {name: m, labels: {a: \"ü\"}, bad: 1}\r\nspec: {artifacts: [{path: m}], sources: [{file: {path: m}}]}\r\n";
    let parsed = answered(text);
    assert_eq!(parsed.problems.len(), 1);
    assert_eq!(
        (parsed.problems[0].at.line, parsed.problems[0].at.column),
        (4, 39)
    );
    assert_eq!(parsed.problems[0].kind, ProblemKind::UnknownKey);
}

#[test]
fn no_mutation_of_the_samples_panics_or_hangs() {
    const ROUNDS: u32 = 400;
    let mut random = SmallRng::seed_from_u64(0x5eed);
    let samples = ["floor.yaml", "policy.yaml", "cloud.yaml.example"].map(sample);
    let begun = Instant::now();
    let mut held_back = 0_u32;
    for round in 0..ROUNDS {
        let mut bytes = samples[(round % 3) as usize].clone().into_bytes();
        for _ in 0..random.random_range(1..6) {
            mutate(&mut bytes, &mut random);
        }
        let Ok(text) = decode("mutant.yaml", &bytes) else {
            continue;
        };
        let parsed = parse("mutant.yaml", text);
        held_back += u32::from(!parsed.usable());
        for problem in &parsed.problems {
            assert!(problem.at.line >= 1 && problem.at.column >= 1 && !problem.message.is_empty());
        }
    }
    assert!(begun.elapsed() < PATIENCE * 3, "{:?}", begun.elapsed());
    assert!(
        held_back > ROUNDS / 4,
        "mutations that nobody notices: {held_back} of {ROUNDS} were refused"
    );
}

/// Changes, removes, repeats or inserts something small.
fn mutate(bytes: &mut Vec<u8>, random: &mut SmallRng) {
    const SPICE: &[u8] = b"{}[]&*!|>%@`'\"#,:-?\n\t \0~<\xff0eE.";
    let place = random.random_range(0..bytes.len());
    let end = (place + random.random_range(0..40_usize)).min(bytes.len());
    match random.random_range(0..4) {
        0 => bytes[place] = SPICE[random.random_range(0..SPICE.len())],
        1 => bytes.insert(place, SPICE[random.random_range(0..SPICE.len())]),
        2 if end - place + 1 < bytes.len() => drop(bytes.drain(place..end)),
        _ => {
            let copy = bytes[place..end].to_vec();
            bytes.splice(place..place, copy);
        }
    }
}
