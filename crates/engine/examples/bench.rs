//! Measures a model: `cargo run --release -p mesh-engine --example bench -- FILE [THREADS]`.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::time::{Duration, Instant};

use futures::StreamExt;
use mesh_engine::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: bench FILE [THREADS]")?;
    let threads = arguments.next().map(|count| count.parse()).transpose()?;
    let engine = Engine::load(path, EngineOptions { threads, ..EngineOptions::default() })?;
    println!("{:?}", engine.info());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for text in ["What is the capital of France?", "Write a haiku about the sea.", "Count from 1 to 20."] {
        let messages = vec![serde_json::json!({"role": "user", "content": text})];
        let mut request = GenerateRequest::new(Prompt::Messages(messages), Partition::new("bench", ""));
        request.sampling.temperature = Some(0.0);
        request.max_tokens = Some(60);
        let began = Instant::now();
        let mut generation = engine.generate(request)?;
        runtime.block_on(async {
            while let Some(event) = generation.next().await {
                match event {
                    GenEvent::Text { text, .. } => print!("{}", text.expose()),
                    other => println!("\n{other:?} {:?}", began.elapsed()),
                }
            }
        });
    }
    println!("{:?}", engine.stats());
    engine.shutdown(Duration::from_secs(1));
    Ok(())
}
