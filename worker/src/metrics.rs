//! A worker's numbers under vLLM's names, so that schedulers made for vLLM can read them (Gateway API
//! Inference Extension, model server protocol).

use jiff::Timestamp;
use mesh_engine::{AdapterUse, Engine};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Reads the engine at every scrape.
struct Numbers {
    engine: Engine,
    labels: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numbers")
    }
}

/// Enters the numbers of `engine`, served as `name`.
pub(crate) fn register(registry: &mut Registry, engine: &Engine, name: &str) {
    let labels = vec![("model_name", name.to_owned())];
    registry.register_collector(Box::new(Numbers {
        engine: engine.clone(),
        labels,
    }));
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.engine.stats();
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = if stats.kv_total == 0 {
            0.0
        } else {
            stats.kv_used as f64 / stats.kv_total as f64
        };
        let whole = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let mut gauge =
            |name: &str, help: &str, metric: &dyn EncodeOne| -> Result<(), std::fmt::Error> {
                metric.encode_one(&mut encoder, name, help, &self.labels)
            };
        gauge(
            "vllm:num_requests_running",
            "Choices being computed",
            &ConstGauge::new(whole(stats.running)),
        )?;
        gauge(
            "vllm:num_requests_waiting",
            "Requests in the queue",
            &ConstGauge::new(whole(stats.waiting)),
        )?;
        gauge(
            "vllm:kv_cache_usage_perc",
            "Share of key-value memory in use, 0 to 1",
            &ConstGauge::new(share),
        )?;
        gauge(
            "vllm:prompt_tokens",
            "Prompt tokens read",
            &ConstCounter::new(stats.prompt_tokens),
        )?;
        gauge(
            "vllm:generation_tokens",
            "Tokens generated",
            &ConstCounter::new(stats.generation_tokens),
        )?;
        gauge(
            "vllm:prefix_cache_hits",
            "Prompt tokens found in the cache",
            &ConstCounter::new(stats.prefix_hit_tokens),
        )?;
        adapters(&self.engine, &mut encoder)
    }
}

/// vLLM's series about adapters: the value is the time, the labels say which are in use.
fn adapters(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let all = engine.adapters_in_use();
    if all.is_empty() {
        return Ok(());
    }
    let names = |used: fn(&AdapterUse) -> usize| {
        let names = all.iter().filter(|one| used(one) > 0);
        let names: Vec<&str> = names.map(|one| one.name.as_str()).collect();
        names.join(",")
    };
    let labels = [
        ("max_lora", all.len().to_string()),
        ("running_lora_adapters", names(|one| one.running)),
        ("waiting_lora_adapters", names(|one| one.waiting)),
    ];
    ConstGauge::new(Timestamp::now().as_second()).encode_one(
        encoder,
        "vllm:lora_requests_info",
        "Adapters in use; the value is the time in seconds",
        &labels,
    )
}

/// One number with its labels.
trait EncodeOne {
    fn encode_one(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        labels: &[(&'static str, String)],
    ) -> Result<(), std::fmt::Error>;
}

impl<M: EncodeMetric> EncodeOne for M {
    fn encode_one(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        labels: &[(&'static str, String)],
    ) -> Result<(), std::fmt::Error> {
        let mut described = encoder.encode_descriptor(name, help, None, self.metric_type())?;
        self.encode(described.encode_family(&labels)?)
    }
}
