//! The promises of the engine, on a tiny model with random weights.

use std::time::Duration;

use candle_core::quantized::GgmlDType;
use futures::StreamExt;
use futures::executor::block_on;
use serde_json::json;

use super::*;
use crate::testing::Tiny;
use crate::{Compute, Failure, FinishReason, GenEvent, Partition, Place, Sampling, TokenLogprob};

mod adapters;
mod tensors;

/// Blocks of 32 tokens that a cache of this many bytes has, for the tiny model in f16.
fn cache(blocks: usize) -> usize {
    // Two layers, two heads, keys and values, 16 wide, 32 positions, 2 bytes.
    blocks * 2 * 2 * 2 * 16 * 32 * 2
}

fn options() -> EngineOptions {
    EngineOptions {
        threads: Some(1),
        kv_bytes: cache(64),
        temperature: 0.0,
        top_p: 1.0,
        ..EngineOptions::default()
    }
}

fn engine(options: EngineOptions) -> Engine {
    Engine::load(Tiny::default().write().path, options).unwrap()
}

/// An engine with a window that no test fills in time.
fn patient(max_batch: usize, max_queue: usize) -> Engine {
    let tiny = Tiny {
        context: 1 << 15,
        ..Tiny::default()
    };
    Engine::load(
        tiny.write().path,
        EngineOptions {
            kv_bytes: cache(1_000),
            max_batch,
            max_queue,
            ..options()
        },
    )
    .unwrap()
}

/// A request that runs until it is stopped: 30,000 tokens, too random to repeat themselves.
fn long() -> GenerateRequest {
    let mut request = request(tokens(100, 1), 30_000);
    (request.sampling.temperature, request.sampling.seed) = (Some(2.0), Some(1));
    request
}

/// A prompt of `count` tokens, none of them a control token.
fn tokens(count: u32, seed: u32) -> Prompt {
    Prompt::Tokens(
        (0..count)
            .map(|i| 2 + (i * 17 + seed * 5 + i * i) % 256)
            .collect(),
    )
}

fn partition(name: &str) -> Partition {
    Partition::new(name, "internal")
}

/// A request that goes on until its most tokens.
fn request(prompt: Prompt, max_tokens: u32) -> GenerateRequest {
    let mut request = GenerateRequest::new(prompt, partition("a"));
    request.max_tokens = Some(max_tokens);
    request.sampling.logit_bias = vec![(1, -100.0)];
    request
}

#[derive(Debug, Default, PartialEq)]
struct Answer {
    texts: Vec<String>,
    scores: Vec<Vec<TokenLogprob>>,
    finish: Vec<Option<(FinishReason, bool)>>,
    usage: Option<(u32, u32, u32)>,
    failed: Option<Failure>,
}

async fn answer(mut generation: Generation) -> Answer {
    let mut answer = Answer {
        texts: vec![String::new(); 4],
        scores: vec![vec![]; 4],
        finish: vec![None; 4],
        ..Answer::default()
    };
    while let Some(event) = generation.next().await {
        assert!(
            answer.usage.is_none() && answer.failed.is_none(),
            "nothing follows the end"
        );
        match event {
            GenEvent::Text {
                choice,
                text,
                logprobs,
            } => {
                answer.texts[choice as usize].push_str(text.expose());
                answer.scores[choice as usize].extend(logprobs);
            }
            GenEvent::Finish {
                choice,
                reason,
                repetition,
            } => answer.finish[choice as usize] = Some((reason, repetition)),
            GenEvent::Usage {
                prompt,
                completion,
                cached,
            } => answer.usage = Some((prompt, completion, cached)),
            GenEvent::Failed(failure) => answer.failed = Some(failure),
        }
    }
    answer
}

fn ask(engine: &Engine, request: GenerateRequest) -> Answer {
    block_on(answer(engine.generate(request).unwrap()))
}

/// The first event, so that the request is known to run.
fn running(engine: &Engine, mut request: GenerateRequest) -> Generation {
    request.logprobs = Some(0);
    let mut generation = engine.generate(request).unwrap();
    assert!(matches!(
        block_on(generation.next()),
        Some(GenEvent::Text { .. })
    ));
    generation
}

#[test]
fn texts_are_the_same_alone_and_in_a_batch_and_with_any_threads() {
    let requests: Vec<GenerateRequest> = (0..6)
        .map(|i| {
            let mut request = request(tokens(1 + i * 37, i), 40);
            request.logprobs = Some(3);
            request.partition = partition(&i.to_string());
            request
        })
        .collect();
    let alone: Vec<Answer> = requests
        .iter()
        .map(|request| ask(&engine(options()), request.clone()))
        .collect();
    for threads in [1, 3] {
        let engine = engine(EngineOptions {
            threads: Some(threads),
            ..options()
        });
        let all = requests
            .iter()
            .map(|request| answer(engine.generate(request.clone()).unwrap()));
        let together = block_on(futures::future::join_all(all.collect::<Vec<_>>()));
        assert_eq!(together, alone);
    }
    assert!(alone.iter().all(|answer| {
        answer
            .usage
            .is_some_and(|(_, completion, _)| completion == 40)
    }));
}

#[test]
fn a_known_prefix_gives_the_same_answer_and_is_counted() {
    let engine = engine(options());
    let mut request = request(tokens(100, 1), 20);
    request.logprobs = Some(5);
    let (first, second) = (ask(&engine, request.clone()), ask(&engine, request));
    assert_eq!(
        (first.usage, second.usage),
        (Some((100, 20, 0)), Some((100, 20, 96)))
    );
    assert_eq!((first.texts, first.scores), (second.texts, second.scores));
    assert_eq!(engine.stats().prefix_hit_tokens, 96);
}

#[test]
fn another_tenant_or_label_never_meets_a_known_prefix() {
    let engine = engine(options());
    for partition in [
        Partition::new("a", "internal"),
        Partition::new("b", "internal"),
        Partition::new("a", "public"),
    ] {
        let answer = ask(
            &engine,
            GenerateRequest {
                partition,
                ..request(tokens(100, 1), 4)
            },
        );
        assert_eq!(answer.usage, Some((100, 4, 0)));
    }
}

#[test]
fn leaving_frees_the_memory_and_the_next_request_runs() {
    let engine = patient(16, 64);
    let generation = running(&engine, long());
    assert_eq!(engine.stats().kv_used, cache(941));
    drop(generation);
    // It needs as many blocks, so it can only run after those of the first are free.
    let mut next = long();
    next.sampling.logit_bias = vec![(1, 100.0)];
    assert_eq!(ask(&engine, next).usage, Some((100, 1, 96)));
    engine.shutdown(Duration::from_secs(10));
    assert_eq!(engine.stats().kv_used, 0);
}

#[test]
fn a_full_queue_is_busy_and_says_when_to_come_back() {
    let engine = patient(16, 1);
    let _running = running(&engine, long());
    let _waiting = engine.generate(long()).unwrap();
    let refused = engine.generate(request(tokens(10, 3), 5));
    assert!(
        matches!(refused, Err(Refused::Busy { retry_after }) if (1..=120).contains(&retry_after.as_secs()))
    );
}

#[test]
fn who_waits_too_long_is_told_busy() {
    let engine = engine(EngineOptions {
        kv_bytes: cache(16),
        max_wait: Duration::ZERO,
        ..options()
    });
    let answer = ask(&engine, request(tokens(10, 2), 5));
    assert!(matches!(answer.failed, Some(Failure::Busy { .. })));
    assert_eq!(answer.texts[0], "");
}

#[test]
fn protect_keeps_half_of_the_memory_for_requests_without_an_alternative() {
    let engine = engine(EngineOptions {
        kv_bytes: cache(16),
        protect: true,
        ..options()
    });
    // 8 blocks are 256 tokens.
    assert!(matches!(
        engine.generate(request(tokens(256, 1), 1)),
        Err(Refused::ContextLength { window: 256, .. })
    ));
    let ordinary = running(&engine, request(tokens(10, 1), 200));
    let waiting = engine.generate(request(tokens(10, 2), 200)).unwrap();
    let sole = GenerateRequest {
        sole: true,
        ..request(tokens(10, 3), 200)
    };
    assert_eq!(ask(&engine, sole).usage, Some((10, 200, 0)));
    drop(ordinary);
    assert_eq!(block_on(answer(waiting)).usage, Some((10, 200, 0)));
}

#[test]
fn a_seed_gives_the_same_choices_every_time_and_choices_differ() {
    let engine = engine(options());
    let mut request = request(tokens(40, 1), 24);
    request.sampling = Sampling {
        temperature: Some(1.5),
        seed: Some(7),
        ..request.sampling
    };
    request.n = 4;
    let (first, second) = (ask(&engine, request.clone()), ask(&engine, request.clone()));
    assert_eq!(first.texts, second.texts);
    assert_eq!(first.usage, Some((40, 96, 0)));
    assert!((1..4).all(|i| first.texts[i] != first.texts[0]));
    request.n = 1;
    assert_eq!(ask(&engine, request).texts[0], first.texts[0]);
}

#[test]
fn a_text_that_repeats_itself_ends() {
    let engine = engine(options());
    let mut request = request(tokens(20, 1), 300);
    request.sampling.logit_bias = vec![(60, 100.0), (1, -100.0)];
    let answer = ask(&engine, request);
    assert_eq!(answer.finish[0], Some((FinishReason::Length, true)));
    assert_eq!(answer.usage.map(|(_, completion, _)| completion), Some(96));
}

#[test]
fn an_end_token_and_a_stop_text_end_a_choice_and_are_not_shown() {
    let engine = engine(options());
    let mut ended = request(tokens(20, 1), 50);
    ended.sampling.logit_bias = vec![(1, 100.0)];
    let answer = ask(&engine, ended);
    assert_eq!(
        (answer.finish[0], answer.texts[0].as_str()),
        (Some((FinishReason::Stop, false)), "")
    );
    let mut whole = request(Prompt::Text("count".into()), 40);
    whole
        .sampling
        .logit_bias
        .extend((2..68).chain(100..258).map(|id| (id, -100.0)));
    let text = ask(&engine, whole.clone()).texts[0].clone();
    whole.stop = vec![text[10..13].to_owned()];
    let cut = text.find(&whole.stop[0]).unwrap();
    let answer = ask(&engine, whole);
    assert_eq!(
        (answer.finish[0], &answer.texts[0]),
        (Some((FinishReason::Stop, false)), &text[..cut].to_owned())
    );
}

#[test]
fn an_echoed_prompt_is_scored_like_an_evaluated_one() {
    let engine = engine(options());
    let text = "The quick brown fox jumps over the lazy dog.";
    let mut request = request(Prompt::Text(text.into()), 0);
    (request.echo, request.logprobs, request.n) = (true, Some(2), 2);
    let answer = ask(&engine, request);
    let ids = engine.tokenizer().encode(text, false);
    let logits = engine.evaluate(&ids, None).unwrap();
    assert_eq!([&answer.texts[0], &answer.texts[1]], [text, text]);
    assert_eq!(answer.scores[0], answer.scores[1]);
    assert_eq!(
        answer.scores[0]
            .iter()
            .map(|score| score.token)
            .collect::<Vec<_>>(),
        ids
    );
    assert_eq!(answer.scores[0][0].logprob, None);
    for (score, logits) in answer.scores[0][1..].iter().zip(&logits) {
        let (expected, _) = crate::sample::logprobs(logits, score.token, 0);
        assert_eq!(score.logprob, Some(expected));
        assert_eq!(score.top.len(), 2);
    }
    assert_eq!(
        answer.usage,
        Some((u32::try_from(ids.len()).unwrap(), 0, 0))
    );
}

fn said(role: &str, length: usize) -> serde_json::Value {
    json!({"role": role, "content": "x".repeat(length)})
}

#[test]
fn old_turns_are_dropped_where_that_is_allowed_and_it_is_said() {
    let engine = engine(options());
    let messages = vec![
        said("system", 20),
        said("user", 300),
        said("assistant", 100),
        said("user", 100),
    ];
    let mut request = request(Prompt::Messages(messages.clone()), 4);
    let generation = engine.generate(request.clone()).unwrap();
    assert!(generation.context_trimmed());
    assert!((120..300).contains(&generation.prompt_tokens()));
    request.overflow = Overflow::Refuse;
    assert!(
        matches!(engine.generate(request.clone()), Err(Refused::ContextLength { window: 512, prompt_tokens }) if prompt_tokens > 512)
    );
    request.prompt = Prompt::Messages(vec![said("user", 600)]);
    request.overflow = Overflow::TrimHistory;
    assert!(matches!(
        engine.generate(request),
        Err(Refused::ContextLength { .. })
    ));
    assert!(engine.count_tokens(&Prompt::Messages(messages)).unwrap() > 512);
}

type Change = fn(&mut GenerateRequest);

#[test]
fn fields_out_of_range_are_refused_by_name() {
    let engine = engine(options());
    let change: [(&str, Change); 7] = [
        ("n", |r| r.n = 5),
        ("n", |r| r.n = 0),
        ("temperature", |r| r.sampling.temperature = Some(f32::NAN)),
        ("top_p", |r| r.sampling.top_p = Some(1.1)),
        ("top_logprobs", |r| r.logprobs = Some(21)),
        ("logit_bias", |r| r.sampling.logit_bias = vec![(0, 101.0)]),
        ("prompt", |r| r.prompt = Prompt::Tokens(vec![9_999])),
    ];
    for (name, change) in change {
        let mut request = request(tokens(3, 1), 3);
        change(&mut request);
        assert!(
            matches!(engine.generate(request), Err(Refused::Invalid { field, .. }) if field == name),
            "{name}"
        );
    }
    assert_eq!(
        engine.stats(),
        Stats {
            kv_total: cache(64),
            ..Stats::default()
        }
    );
}

#[test]
fn a_failing_engine_tells_everybody_and_hangs_nobody() {
    let engine = patient(16, 64);
    let open = running(&engine, long());
    let waiting = engine.generate(long()).unwrap();
    engine.fail();
    assert_eq!(block_on(answer(open)).failed, Some(Failure::Stopped));
    assert_eq!(block_on(answer(waiting)).failed, Some(Failure::Stopped));
    engine.shutdown(Duration::ZERO);
    assert!(!engine.alive());
    assert!(matches!(
        engine.generate(request(tokens(1, 1), 1)),
        Err(Refused::Stopped)
    ));
    assert!(engine.evaluate(&[2, 3], None).is_err());
    assert_eq!(engine.stats().running, 0);
}

#[test]
fn shutdown_lets_running_requests_end_and_refuses_waiting_ones() {
    let engine = patient(1, 64);
    let open = running(
        &engine,
        GenerateRequest {
            max_tokens: Some(3_000),
            ..long()
        },
    );
    let waiting = engine.generate(request(tokens(10, 2), 100)).unwrap();
    engine.shutdown(Duration::from_mins(1));
    assert_eq!(block_on(answer(open)).usage, Some((100, 3_000, 0)));
    assert_eq!(block_on(answer(waiting)).failed, Some(Failure::Stopped));
}

#[test]
fn served_and_f32_logits_agree() {
    let file = Tiny {
        kind: GgmlDType::Q8_0,
        ..Tiny::default()
    }
    .write();
    let load = |compute| {
        Engine::load(
            &file.path,
            EngineOptions {
                compute,
                kv_bytes: cache(128),
                ..options()
            },
        )
        .unwrap()
    };
    let ids: Vec<u32> = (0..150).map(|i| 2 + i * 7 % 250).collect();
    let (served, exact) = (
        load(Compute::Served).evaluate(&ids, None).unwrap(),
        load(Compute::F32).evaluate(&ids, None).unwrap(),
    );
    for (a, b) in served.iter().zip(&exact) {
        let worst = a
            .iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 0.02, "{worst}");
    }
}

#[test]
fn debug_output_holds_no_text() {
    let engine = engine(options());
    let generation = engine
        .generate(request(Prompt::Text("canary".into()), 2))
        .unwrap();
    let printed = format!("{engine:?} {generation:?}");
    let events: Vec<GenEvent> = block_on(generation.collect());
    assert!(!printed.contains("canary"));
    assert!(
        matches!(&events[0], GenEvent::Text { text, .. } if format!("{events:?}").contains("[redacted]") && !text.expose().is_empty())
    );
}
