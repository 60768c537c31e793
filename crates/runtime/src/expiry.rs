//! Gauge `certificate_expiry_seconds{name}`: how long a certificate still lives, read at every scrape.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Tells the time left; none while there is no certificate.
pub type Left = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

struct Expiry {
    certificates: Vec<(&'static str, Left)>,
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Expiry")
    }
}

/// Enters the gauge for certificates by their names.
pub fn register(registry: &mut Registry, certificates: Vec<(&'static str, Left)>) {
    registry.register_collector(Box::new(Expiry { certificates }));
}

impl Collector for Expiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Seconds until a certificate ends";
        let mut all = encoder.encode_descriptor(
            "certificate_expiry_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        for (name, left) in &self.certificates {
            let Some(left) = left() else { continue };
            let gauge = ConstGauge::new(left.as_secs_f64());
            gauge.encode(all.encode_family(&[("name", *name)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use prometheus_client::registry::Registry;

    #[test]
    fn a_certificate_is_counted_down_and_one_that_is_not_there_is_not_shown() {
        let mut registry = Registry::default();
        let (there, absent): (super::Left, super::Left) = (
            Arc::new(|| Some(Duration::from_secs(90))),
            Arc::new(|| None),
        );
        super::register(&mut registry, vec![("there", there), ("absent", absent)]);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        assert!(
            text.contains("certificate_expiry_seconds{name=\"there\"} 90"),
            "{text}"
        );
        assert!(!text.contains("absent"), "{text}");
    }
}
