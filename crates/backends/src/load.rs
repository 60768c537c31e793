//! What a worker says of its own load, by the metric names of vLLM and llama.cpp. Advice only: a worker
//! that does not say, or says nonsense, is judged by what this process sends to it.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use reqwest::Client;

/// Longest time to ask one worker.
const LIMIT: Duration = Duration::from_secs(1);
/// Most of an answer that is read, in bytes.
const LARGEST: usize = 256 << 10;

/// One look at a worker.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Report {
    /// Requests that it works on, and that wait there.
    pub(crate) requests: usize,
    /// How full its cache is, 0 to 1.
    pub(crate) cache: f64,
}

/// Asks a worker; `None` if it does not say.
pub(crate) async fn ask(client: &Client, admin: SocketAddr) -> Option<Report> {
    let asked = async {
        let url = format!("http://{admin}/metrics");
        let response = client.get(url).send().await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let mut body = response.bytes_stream();
        let mut text = Vec::new();
        while let Some(part) = body.next().await {
            text.extend_from_slice(&part.ok()?);
            if text.len() > LARGEST {
                return None;
            }
        }
        read(std::str::from_utf8(&text).ok()?)
    };
    tokio::time::timeout(LIMIT, asked).await.ok()?
}

/// Reads the text format of Prometheus as far as it is about load.
fn read(text: &str) -> Option<Report> {
    let mut report = Report::default();
    let mut said = false;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = sample(line) else {
            continue;
        };
        match name {
            "vllm:num_requests_running"
            | "vllm:num_requests_waiting"
            | "llamacpp:requests_processing"
            | "llamacpp:requests_deferred" => {
                report.requests = report.requests.saturating_add(count(value));
                said = true;
            }
            "vllm:kv_cache_usage_perc"
            | "vllm:gpu_cache_usage_perc"
            | "llamacpp:kv_cache_usage_ratio" => report.cache = report.cache.max(value.min(1.0)),
            _ => {}
        }
    }
    said.then_some(report)
}

/// Name and value of `name{labels} value [timestamp]`. Labels may hold spaces, names and values cannot.
fn sample(line: &str) -> Option<(&str, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let rest = match rest.strip_prefix('{') {
        Some(labels) => labels.rsplit_once('}')?.1,
        None => rest,
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((name, value))
}

/// A gauge of requests as a number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded just before, and never negative"
)]
fn count(value: f64) -> usize {
    value.min(1e6) as usize
}

#[cfg(test)]
mod tests {
    use super::{Report, read};

    #[test]
    fn the_load_of_a_worker_is_read_whatever_engine_it_runs() {
        let ours = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"a b}\"} 2\nvllm:num_requests_waiting{model_name=\"m\"} 3 1700000000\nvllm:kv_cache_usage_perc{model_name=\"m\"} 0.5\n";
        assert_eq!(
            read(ours),
            Some(Report {
                requests: 5,
                cache: 0.5
            })
        );
        let other = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 4\nllamacpp:kv_cache_usage_ratio 0.25\n";
        assert_eq!(
            read(other),
            Some(Report {
                requests: 5,
                cache: 0.25
            })
        );
    }

    #[test]
    fn what_is_no_load_says_nothing_and_what_is_nonsense_is_left_out() {
        for text in [
            "",
            "up 1\n",
            "vllm:num_requests_running",
            "<html>busy</html>",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let odd = "vllm:num_requests_running NaN\nvllm:num_requests_waiting -3\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 7\n";
        assert_eq!(
            read(odd),
            Some(Report {
                requests: 1,
                cache: 1.0
            })
        );
        let huge = "vllm:num_requests_running 1e300\nvllm:num_requests_waiting +Inf\n";
        assert_eq!(read(huge).map(|report| report.requests), Some(1_000_000));
    }
}
