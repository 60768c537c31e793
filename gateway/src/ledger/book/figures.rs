//! The numbers of the log, read at every scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::keeper::Keeper;

struct Figures(Keeper);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

/// Enters all of them.
pub(crate) fn register(registry: &mut Registry, keeper: Keeper) {
    registry.register_collector(Box::new(Figures(keeper)));
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.0.state();
        let (figures, segments) = match self.0.log() {
            Some(log) => (log.figures(), log.segments()),
            None => Default::default(),
        };
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let gauges = [
            (
                "durable",
                "1 if the last write is on disk",
                u64::from(state.durable),
            ),
            ("entries", "Entries since the log began", figures.size),
            ("segments", "Segments that are there", segments.len() as u64),
            ("bytes", "Bytes of all segments", bytes),
        ];
        let volume = figures.volume.map(|volume| {
            let total = ("volume_bytes", "Size of the volume", volume.total);
            let free = (
                "volume_free_bytes",
                "What can still be written",
                volume.free,
            );
            [total, free]
        });
        let gauges = gauges.into_iter().chain(volume.into_iter().flatten());
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let counters = [
            (
                "entries_written",
                "Entries that this process has written",
                figures.written,
            ),
            ("commits", "Writes that are on disk", figures.commits),
            ("commit_failures", "Writes that failed", figures.failures),
            (
                "segments_removed",
                "Old segments that this process has removed",
                figures.removed,
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        let time = ConstCounter::new(figures.commit_time.as_secs_f64());
        let help = "Time that the writes took together";
        let kind = time.metric_type();
        time.encode(encoder.encode_descriptor("commit", help, Some(&Unit::Seconds), kind)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_ledger::{Log, log};
    use prometheus_client::registry::Registry;
    use tempfile::TempDir;

    #[test]
    fn what_is_served_is_what_the_page_promises() {
        let folder = TempDir::new().expect("a folder");
        let log = Log::open(folder.path(), log::Options::default()).expect("a log");
        let mut registry = Registry::with_prefix("mesh_ledger");
        super::register(&mut registry, super::Keeper::of(log, folder.path()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let served: BTreeSet<&str> = samples
            .filter_map(|line| line.strip_prefix("mesh_ledger_")?.split(' ').next())
            .collect();
        let page = include_str!("../../../../docs/reference/metrics-ledger.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let told: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        assert_eq!(served, told, "{text}");
        assert!(text.contains("mesh_ledger_durable 1"), "{text}");
    }
}
