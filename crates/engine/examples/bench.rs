//! Measures a model: `cargo run --release -p mesh-engine --example bench -- FILE [THREADS...]`.
//!
//! Without a number of threads it measures with two and with the engine's default.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::path::PathBuf;

use mesh_engine::bench::bench;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("usage: bench FILE [THREADS...]")?);
    let mut threads: Vec<Option<usize>> = arguments
        .map(|count| count.parse().map(Some))
        .collect::<Result<_, _>>()?;
    if threads.is_empty() {
        threads = vec![Some(2), None];
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for count in threads {
        let report = runtime.block_on(bench(&path, count))?;
        let default = if count.is_none() { " (default)" } else { "" };
        println!(
            "engine, {} threads{default}, {}",
            report.threads, report.instructions
        );
        for figure in report.figures {
            println!(
                "  {:<24} {:>8.1} tokens/s  {:>8.3} s",
                figure.name,
                figure.rate,
                figure.took.as_secs_f64()
            );
        }
    }
    Ok(())
}
