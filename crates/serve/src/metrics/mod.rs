//! What the service measures of itself, in Prometheus' text format: seconds and other base units, no ids in labels.

mod process;
mod text;

use std::sync::Mutex;
use std::time::Duration;

use crate::queue::{Cost, Tower};
use text::{Counters, Histogram, Histograms};

pub(crate) use text::Writer;

/// Seconds: from an answer out of memory to a request at its deadline.
const SECONDS: &[f64] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Inputs of a batch.
const ITEMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Tokens of a batch.
const TOKENS: &[f64] = &[16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0];
/// Pixels of a batch.
const PIXELS: &[f64] = &[50e3, 100e3, 200e3, 400e3, 800e3, 1.6e6, 6.4e6, 25.6e6];

/// All measures.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Mutex<Histograms<2>>,
    rejected: Mutex<Counters<1>>,
    preprocess: Mutex<Histograms<1>>,
    inference: Mutex<Histograms<1>>,
    batch: Mutex<Histograms<1>>,
    search: Mutex<Histograms<1>>,
    pub(crate) queue_seconds: Histogram,
    batch_tokens: Histogram,
    batch_pixels: Histogram,
}

/// What is only known when it is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Now {
    /// Inputs that wait.
    pub(crate) depth: usize,
    /// What is taken of the queue's room, by requests that are prepared, wait or are embedded.
    pub(crate) room: Cost,
    pub(crate) vectors: Option<u64>,
    pub(crate) loaded: bool,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            requests: Histograms::locked(SECONDS),
            rejected: Mutex::default(),
            preprocess: Histograms::locked(SECONDS),
            inference: Histograms::locked(SECONDS),
            batch: Histograms::locked(ITEMS),
            search: Histograms::locked(SECONDS),
            queue_seconds: Histogram::new(SECONDS),
            batch_tokens: Histogram::new(TOKENS),
            batch_pixels: Histogram::new(PIXELS),
        }
    }

    pub(crate) fn request(&self, route: &str, code: u16, time: Duration) {
        Histograms::observe(&self.requests, [route, &code.to_string()], time.as_secs_f64());
    }

    pub(crate) fn reject(&self, reason: &str) {
        Counters::add(&self.rejected, [reason]);
    }

    pub(crate) fn preprocess(&self, kind: &str, time: Duration) {
        Histograms::observe(&self.preprocess, [kind], time.as_secs_f64());
    }

    pub(crate) fn search(&self, store: &str, time: Duration) {
        Histograms::observe(&self.search, [store], time.as_secs_f64());
    }

    /// A batch of `items` inputs with so many tokens or pixels.
    pub(crate) fn batch(&self, tower: Tower, items: usize, size: usize, time: Duration) {
        Histograms::observe(&self.inference, [tower.name()], time.as_secs_f64());
        Histograms::observe(&self.batch, [tower.name()], items as f64);
        match tower {
            Tower::Text => self.batch_tokens.observe(size as f64),
            Tower::Vision => self.batch_pixels.observe(size as f64),
        }
    }

    /// Prometheus' text format, version 0.0.4.
    pub(crate) fn render(&self, now: &Now) -> String {
        let mut out = Writer::default();
        let requests = "Time from the head of a request to its answer.";
        out.histograms("request_duration_seconds", requests, ["route", "code"], &self.requests);
        out.histogram(
            "queue_seconds",
            "Time an input waited for its batch.",
            &self.queue_seconds,
        );
        let preprocess = "Time to make tokens of the texts of a request, or pixels of a picture.";
        out.histograms("preprocess_seconds", preprocess, ["kind"], &self.preprocess);
        out.histograms(
            "inference_seconds",
            "Time of a batch in a tower.",
            ["tower"],
            &self.inference,
        );
        out.histograms("batch_size", "Inputs of a batch.", ["tower"], &self.batch);
        out.histogram("batch_tokens", "Tokens of a batch of texts.", &self.batch_tokens);
        out.histogram("batch_pixels", "Pixels of a batch of pictures.", &self.batch_pixels);
        out.histograms(
            "search_seconds",
            "Time of a search in the store.",
            ["store"],
            &self.search,
        );
        out.counters(
            "rejected_total",
            "Requests that were refused.",
            ["reason"],
            &self.rejected,
        );
        out.gauge("queue_depth", "Inputs that wait for a batch.", now.depth as f64);
        let parts = [
            ("items", now.room.items),
            ("tokens", now.room.tokens),
            ("pixels", now.room.pixels),
        ];
        for (part, taken) in parts {
            let help = format!("What requests that were let in take of the limit of {part}.");
            out.gauge(&format!("admitted_{part}"), &help, taken as f64);
        }
        if let Some(vectors) = now.vectors {
            out.gauge("index_vectors", "Vectors in the store.", vectors as f64);
        }
        let loaded = if now.loaded { 1.0 } else { 0.0 };
        out.gauge("model_loaded", "Whether the model answers.", loaded);
        process::write(&mut out);
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_into_all_buckets_above() {
        let metrics = Metrics::new();
        for seconds in [0.001, 0.003, 0.3, 99.0] {
            metrics.request("/v1/search", 200, Duration::from_secs_f64(seconds));
        }
        metrics.reject("queue \"items\"\n");
        let text = metrics.render(&Now::default());
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        let bucket = |le: &str| {
            format!("bifocal_request_duration_seconds_bucket{{route=\"/v1/search\",code=\"200\",le=\"{le}\"}}")
        };
        has(&format!("{} 1", bucket("0.001")));
        has(&format!("{} 2", bucket("0.005")));
        has(&format!("{} 3", bucket("0.5")));
        has(&format!("{} 3", bucket("30")));
        has(&format!("{} 4", bucket("+Inf")));
        has("bifocal_request_duration_seconds_count{route=\"/v1/search\",code=\"200\"} 4");
        has("bifocal_rejected_total{reason=\"queue \\\"items\\\"\\n\"} 1");
        has("# TYPE bifocal_request_duration_seconds histogram");
        has("bifocal_model_loaded 0");
    }

    #[test]
    fn every_family_is_described_once_and_samples_follow_it() {
        let metrics = Metrics::new();
        metrics.batch(Tower::Text, 3, 40, Duration::from_millis(2));
        metrics.batch(Tower::Vision, 1, 50_176, Duration::from_millis(2));
        let text = metrics.render(&Now {
            depth: 2,
            vectors: Some(7),
            loaded: true,
            ..Now::default()
        });
        let mut family = String::new();
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap().to_owned();
                assert!(seen.insert(family.clone()), "{family} twice");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(&family), "{line} is not of {family}");
                let value = line.rsplit(' ').next().unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(seen.len() > 10);
        #[cfg(target_os = "linux")]
        assert!(seen.contains("process_resident_memory_bytes"));
    }
}
