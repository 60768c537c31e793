//! How long classification takes: `cargo run --release --example speed -p mesh-classify`.
//! One thread, made-up prompts of prose, code and JSON with one identifier per kilobyte.
#![expect(clippy::print_stdout, reason = "an example reports to a person")]

use std::hint::black_box;
use std::time::Instant;

use mesh_classify::{Inputs, classify, text_request, warm_up};
use mesh_core::PrivacyLevel;

const PROSE: &str = "The committee met on Tuesday to discuss the new timetable, and after a long \
debate the members agreed that the trains should run every twenty minutes in the evening. ";
const CODE: &str = "fn total(items: &[Item]) -> u64 {\n    items.iter().map(|item| item.count * item.price).sum()\n}\n";
const DATA: &str = "{\"id\": 10482, \"name\": \"lamp\", \"tags\": [\"home\", \"light\"], \"weight\": 1.25, \"stock\": 310}\n";
const GERMAN: &str = "Die Züge fahren künftig alle zwanzig Minuten, und die Fahrgäste müssen nicht mehr \
so lange auf ihren Anschluss warten – das wünschen sich viele schon länger. ";
const PLANTED: [&str; 4] = [
    "write to anna.keller@example.org ",
    "pay with 4111 1111 1111 1111 ",
    "account DE89 3704 0044 0532 0130 00 ",
    "call +49 30 1234567 ",
];

fn prompt(bytes: usize, base: &[&str], planted: bool) -> String {
    let mut text = String::new();
    let (mut index, mut next) = (0, 1024);
    while text.len() < bytes {
        text.push_str(base[index % base.len()]);
        index += 1;
        if planted && text.len() > next {
            text.push_str(PLANTED[(next / 1024) % PLANTED.len()]);
            next += 1024;
        }
    }
    text.truncate(text.floor_char_boundary(bytes));
    text
}

fn measure(name: &str, text: &str, rounds: usize) {
    let request = text_request(text);
    let inputs = Inputs::new(PrivacyLevel::Public, "speed");
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        black_box(classify(black_box(&request), &inputs));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[(rounds * share / 100).min(rounds - 1)];
    println!(
        "{name:<36} {:>8} bytes   best {:>10.1?}   p50 {:>10.1?}   p90 {:>10.1?}   p99 {:>10.1?}",
        text.len(),
        at(0),
        at(50),
        at(90),
        at(99)
    );
}

fn main() {
    let start = Instant::now();
    warm_up();
    println!("start-up {:.1?}", start.elapsed());
    let mixed = [PROSE, CODE, DATA, PROSE];
    for (bytes, rounds) in [
        (1 << 10, 5000),
        (4 << 10, 5000),
        (16 << 10, 2000),
        (64 << 10, 1000),
        (1 << 20, 50),
    ] {
        measure(
            "mixed, one identifier per kB",
            &prompt(bytes, &mixed, true),
            rounds,
        );
    }
    measure(
        "prose, nothing planted",
        &prompt(65536, &[PROSE], false),
        1000,
    );
    measure(
        "german prose with dashes",
        &prompt(65536, &[GERMAN], false),
        1000,
    );
    println!("hostile:");
    let hostile = [
        ("digits", "4111111111111111 ".repeat(3855)),
        ("one long number", "7".repeat(65536)),
        ("single digits", "4 1 ".repeat(16384)),
        ("zero-width", "4\u{200b}".repeat(16384)),
        ("names of secrets", "pwd=".repeat(16384)),
        ("my hiv", "my hiv ".repeat(9362)),
        ("my essay hiv", "my essay hiv ".repeat(5041)),
        ("salary", "salary 1 ".repeat(7281)),
        ("at signs", "a@".repeat(32768)),
        ("web tokens", "eyJ.".repeat(16384)),
        ("private keys", "-----BEGIN PRIVATE KEY".repeat(2978)),
        ("addresses", "a://b:c".repeat(9362)),
        ("escapes", "\\u0034".repeat(10922)),
    ];
    for (name, text) in &hostile {
        measure(name, text, 100);
    }
}
