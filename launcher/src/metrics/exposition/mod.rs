//! A [`Sample`] as OpenMetrics text (OpenMetrics 1.0): which metrics there are, and what they mean.
//!
//! Names begin with `berth_`, units are seconds and bytes, counters end in `_total`. The text that
//! explains a metric is the one in `docs/metrics.md`, which a test holds against this.

mod balloon;
mod disk;
mod machine;
mod network;
mod vsock;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Sample;

/// What every name begins with.
const PREFIX: &str = "berth";

/// The sample as text.
pub fn write(sample: Sample) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(sample));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        machine::write(self, &mut page)?;
        balloon::write(self.balloon.as_ref(), &mut page)?;
        disk::write(&self.disks, &mut page)?;
        network::write(&self.nics, self.started_at, &mut page)?;
        vsock::write(self.vsock.as_ref(), &mut page)
    }
}

/// The name and value of each label.
type Labels = Vec<(&'static str, String)>;

/// Metrics of one name.
struct Family {
    /// Without prefix, unit and what its type adds.
    name: &'static str,
    unit: Option<Unit>,
    /// A sentence, without its full stop.
    help: &'static str,
}

impl Family {
    /// Of numbers without a unit.
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, unit: None, help }
    }

    /// Of seconds.
    const fn seconds(name: &'static str, help: &'static str) -> Self {
        Self { name, unit: Some(Unit::Seconds), help }
    }

    /// Of bytes.
    const fn bytes(name: &'static str, help: &'static str) -> Self {
        Self { name, unit: Some(Unit::Bytes), help }
    }
}

/// One histogram.
struct Histogram {
    /// Upper bound of each class, the last infinite, and how many are in it.
    classes: Vec<(f64, u64)>,
    sum: f64,
}

/// What is written to. A family without a single metric is left out.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counters<V: EncodeCounterValue>(
        &mut self,
        family: &Family,
        metrics: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        self.family(family, MetricType::Counter, metrics, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn gauges<V: EncodeGaugeValue>(
        &mut self,
        family: &Family,
        metrics: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        self.family(family, MetricType::Gauge, metrics, |mut encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    fn histograms(
        &mut self,
        family: &Family,
        metrics: impl IntoIterator<Item = (Labels, Histogram)>,
    ) -> fmt::Result {
        self.family(family, MetricType::Histogram, metrics, |mut encoder, value| {
            let count =
                value.classes.iter().fold(0_u64, |sum, (_, count)| sum.wrapping_add(*count));
            encoder.encode_histogram::<NoLabelSet>(value.sum, count, &value.classes, None)
        })
    }

    /// Facts, told as labels of a metric that is 1.
    fn infos(&mut self, family: &Family, metrics: impl IntoIterator<Item = Labels>) -> fmt::Result {
        let metrics = metrics.into_iter().map(|labels| (Labels::new(), labels));
        self.family(family, MetricType::Info, metrics, |mut encoder, labels| {
            encoder.encode_info(&labels)
        })
    }

    fn family<V>(
        &mut self,
        family: &Family,
        kind: MetricType,
        metrics: impl IntoIterator<Item = (Labels, V)>,
        mut write: impl FnMut(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut metrics = metrics.into_iter().peekable();
        if metrics.peek().is_none() {
            return Ok(());
        }
        let Family { name, unit, help } = family;
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in metrics {
            if labels.is_empty() {
                // Only a family without labels: there is one.
                return write(encoder, value);
            }
            write(encoder.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

/// One metric without labels, if there is a value.
fn alone<V>(value: Option<V>) -> Option<(Labels, V)> {
    value.map(|value| (Labels::new(), value))
}
