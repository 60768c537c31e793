//! Which kind of work a request asks for. A few dozen weak signs vote; each vote has a rule and a
//! place. A header or the surface decides alone. Work of a declared specialty (`domain`) is only
//! ever said by the header: the rules do not guess it.

use mesh_core::{Fact, TaskType};
use mesh_protocol::{ModelRequest, Surface};
use serde_json::Value;

use crate::corpus::{Corpus, Segment, Voice};
use crate::detect::lexicon::{Hit, Sense};
use crate::walk::Walk;
use crate::{Inputs, fact};

/// Weight of a word at the begin of the last user message or of a sentence in it.
const ASKED: f64 = 3.0;
/// Weight of a word elsewhere in the last user message.
const SAID: f64 = 1.0;
/// Weight of a word in a system message.
const INSTRUCTED: f64 = 1.5;
/// What a request without any sign is.
const CHAT: f64 = 1.4;
/// Words of one kind that count, in one voice.
const COUNTED: u32 = 3;
/// Bytes of the last user message, at each end, in which words count fully: the middle is material.
const ENDS: usize = 400;

/// Order in which kinds with equal votes win: the more special first.
const KINDS: [TaskType; 7] = [
    TaskType::Translate,
    TaskType::Summarize,
    TaskType::Classify,
    TaskType::Extract,
    TaskType::Code,
    TaskType::Reasoning,
    TaskType::Chat,
];

struct Vote {
    task: TaskType,
    weight: f64,
    rule: &'static str,
    place: String,
}

/// Decides the kind of work.
pub(crate) fn task(
    request: &ModelRequest,
    inputs: &Inputs<'_>,
    walk: &Walk,
    hits: &[Hit],
) -> (TaskType, Fact) {
    if request.surface == Surface::Embeddings {
        let fact = fact("task", TaskType::Embed.as_str(), "surface", "embeddings");
        return (TaskType::Embed, fact);
    }
    if let Some(task) = inputs.header_task {
        return (task, fact("task", task.as_str(), "header", "mesh-task"));
    }
    let mut votes = Vec::new();
    words(walk, hits, &mut votes);
    shape(request, walk, &mut votes);
    let (task, _) = KINDS.iter().map(|kind| (*kind, total(&votes, *kind))).fold(
        (TaskType::Chat, 0.0),
        |best, next| {
            if next.1 > best.1 { next } else { best }
        },
    );
    let evidence = votes
        .iter()
        .filter(|vote| vote.task == task)
        .take(4)
        .map(|vote| format!("{} {:+.1} at {}", vote.rule, vote.weight, vote.place))
        .collect::<Vec<_>>()
        .join("; ");
    let evidence = if evidence.is_empty() {
        "no sign of anything else".to_owned()
    } else {
        evidence
    };
    let detector = if task == TaskType::Chat {
        "default"
    } else {
        "rules/task"
    };
    (task, fact("task", task.as_str(), detector, evidence))
}

fn total(votes: &[Vote], task: TaskType) -> f64 {
    let start = if task == TaskType::Chat { CHAT } else { 0.0 };
    votes
        .iter()
        .filter(|vote| vote.task == task)
        .fold(start, |sum, vote| sum + vote.weight)
}

/// Votes of words.
fn words(walk: &Walk, hits: &[Hit], votes: &mut Vec<Vote>) {
    let corpus = &walk.corpus;
    let mut counts = [[0_u32; 3]; 9];
    let mut marks = 0_u32;
    for hit in hits {
        let task = match hit.sense() {
            Sense::Cue(task) => task,
            Sense::CodeMark => TaskType::Code,
            _ => continue,
        };
        let Some(segment) = corpus
            .segment_at(hit.start)
            .filter(|segment| !segment.joined())
        else {
            continue;
        };
        let last = segment.voice == Voice::User && segment.message == walk.last_user;
        if hit.sense() == Sense::CodeMark {
            marks += u32::from(last && marks < COUNTED);
            if last && marks > 0 && marks < COUNTED {
                votes.push(vote(corpus, segment, task, 0.7, "task/code-mark"));
            }
            continue;
        }
        let (weight, rule, row) = match segment.voice {
            Voice::User if last => asked(corpus, segment, hit),
            Voice::System => (INSTRUCTED, "task/instructed", 2),
            _ => continue,
        };
        let count = counts
            .get_mut(task as usize)
            .and_then(|counts| counts.get_mut(row));
        if let Some(count) = count {
            *count += 1;
            if *count <= COUNTED {
                let worth = weight / f64::from(1_u32 << (*count - 1));
                votes.push(vote(corpus, segment, task, worth, rule));
            }
        }
    }
}

fn vote(
    corpus: &Corpus,
    segment: &Segment,
    task: TaskType,
    weight: f64,
    rule: &'static str,
) -> Vote {
    Vote {
        task,
        weight,
        rule,
        place: corpus.place(segment).to_owned(),
    }
}

/// Words at the ends of a message ask; words in the middle are mostly material.
fn asked(corpus: &Corpus, segment: &Segment, hit: &Hit) -> (f64, &'static str, usize) {
    let near = hit.start - segment.start < ENDS || segment.end - hit.end < ENDS;
    if !near {
        return (0.2, "task/mentioned", 1);
    }
    let text = corpus.text().as_bytes();
    let lead = text
        .get(hit.start.saturating_sub(24).max(segment.start)..hit.start)
        .unwrap_or_default();
    if begins(lead) {
        (ASKED, "task/asked", 0)
    } else {
        (SAID, "task/said", 1)
    }
}

/// True if only words of courtesy stand between the begin of the sentence and the word.
fn begins(lead: &[u8]) -> bool {
    const COURTESY: &[&str] = &[
        "please", "can", "could", "you", "now", "then", "and", "help", "me", "to", "i", "want",
        "need", "bitte", "kannst", "können", "sie", "du", "mir", "und", "nun", "jetzt", "write",
        "a", "an", "give", "the", "schreibe", "schreib", "eine", "ein", "einen", "gib", "create",
        "make", "erstelle", "s'il", "te", "vous", "plaît", "por", "favor", "us", "fix", "this",
        "that", "diese", "diesen", "dieses", "der", "die", "das", "in",
    ];
    let sentence = lead
        .rsplit(|byte| matches!(byte, b'.' | b'!' | b'?' | b'\n' | b':' | b','))
        .next()
        .unwrap_or_default();
    let Ok(sentence) = std::str::from_utf8(sentence) else {
        return false;
    };
    sentence.split_whitespace().all(|word| {
        COURTESY
            .iter()
            .any(|courtesy| word.to_lowercase() == **courtesy)
    })
}

/// Votes of the request's fields.
fn shape(request: &ModelRequest, walk: &Walk, votes: &mut Vec<Vote>) {
    let mut vote = |task, weight, rule, place: &str| {
        votes.push(Vote {
            task,
            weight,
            rule,
            place: place.to_owned(),
        });
    };
    if request.body.get("suffix").is_some_and(Value::is_string) {
        vote(TaskType::Code, 2.0, "task/fill-in", "/suffix");
    }
    let format = request.body.get("response_format");
    let kind = format
        .and_then(|format| format.get("type"))
        .and_then(Value::as_str);
    match kind {
        Some("json_schema") => {
            let schema = format.and_then(|format| format.pointer("/json_schema/schema"));
            if schema.is_some_and(one_choice) {
                vote(
                    TaskType::Classify,
                    3.0,
                    "task/choice-schema",
                    "/response_format",
                );
            } else {
                vote(TaskType::Extract, 1.6, "task/schema", "/response_format");
            }
        }
        Some("json_object") => vote(TaskType::Extract, 0.8, "task/json", "/response_format"),
        _ => {}
    }
    let effort = request.body.get("reasoning_effort").and_then(Value::as_str);
    if matches!(effort, Some("high" | "xhigh")) {
        vote(TaskType::Reasoning, 1.0, "task/effort", "/reasoning_effort");
    }
    if mathematics(walk) {
        vote(TaskType::Reasoning, 1.6, "task/mathematics", "/messages");
    }
}

/// A schema with one property that is an enumeration asks for a label.
fn one_choice(schema: &Value) -> bool {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return false;
    };
    properties.len() == 1
        && properties
            .values()
            .all(|property| property.get("enum").is_some_and(Value::is_array))
}

/// An equation or LaTeX in the last user message.
fn mathematics(walk: &Walk) -> bool {
    walk.corpus
        .originals()
        .filter(|segment| segment.voice == Voice::User && segment.message == walk.last_user)
        .any(|segment| formula(walk.corpus.read(segment)))
}

/// Signs of a formula in the first kilobytes of a text: LaTeX, or an operator between two operands
/// with an equals sign near.
pub(crate) fn formula(text: &str) -> bool {
    const LOOKED_AT: usize = 4096;
    let text = &text[..text.floor_char_boundary(LOOKED_AT)];
    let latex = [
        "\\frac", "\\int", "\\sum", "\\sqrt", "$$", "∫", "√", "∑", "^2", "²",
    ];
    if latex.iter().any(|sign| text.contains(sign)) {
        return true;
    }
    let bytes = text.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| {
        let window = bytes.get(at.saturating_sub(8)..at).unwrap_or_default();
        let behind = bytes.get(at + 1..).unwrap_or_default();
        *byte == b'='
            && !behind.starts_with(b"=")
            && window.iter().any(u8::is_ascii_digit)
            && window
                .iter()
                .any(|byte| matches!(byte, b'+' | b'-' | b'*' | b'/' | b'^'))
            && behind
                .iter()
                .take(4)
                .any(|byte| byte.is_ascii_digit() || *byte == b'?')
    })
}
