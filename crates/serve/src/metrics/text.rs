//! Counters and histograms, and how they are written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How often a value was at most each of some bounds.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: values beyond the last.
    counts: Vec<AtomicU64>,
    /// The bits of an f64.
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0f64.to_bits()),
        }
    }

    pub(crate) fn observe(&self, value: f64) {
        let at = self.bounds.iter().take_while(|&&bound| value > bound).count();
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // the closure always gives a value
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

/// Histograms with labels.
#[derive(Debug)]
pub(crate) struct Histograms<const N: usize> {
    bounds: &'static [f64],
    all: BTreeMap<[String; N], Histogram>,
}

impl<const N: usize> Histograms<N> {
    pub(crate) fn locked(bounds: &'static [f64]) -> Mutex<Self> {
        let all = BTreeMap::new();
        Mutex::new(Self { bounds, all })
    }

    pub(crate) fn observe(all: &Mutex<Self>, labels: [&str; N], value: f64) {
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        let bounds = all.bounds;
        let one = all.all.entry(labels.map(str::to_owned));
        one.or_insert_with(|| Histogram::new(bounds)).observe(value);
    }
}

/// Counters with labels.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize>(BTreeMap<[String; N], u64>);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<const N: usize> Counters<N> {
    pub(crate) fn add(all: &Mutex<Self>, labels: [&str; N]) {
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        *all.0.entry(labels.map(str::to_owned)).or_default() += 1;
    }
}

/// Writes families one after the other. Names get the prefix `bifocal_`.
#[derive(Debug, Default)]
pub(crate) struct Writer(String);

impl Writer {
    pub(crate) fn finish(self) -> String {
        self.0
    }

    /// Writing to a string cannot fail.
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(text);
        self.0.push('\n');
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// A gauge of ours.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.plain(&format!("bifocal_{name}"), help, "gauge", value);
    }

    /// One value under its full name.
    pub(crate) fn plain(&mut self, name: &str, help: &str, kind: &str, value: f64) {
        self.head(name, help, kind);
        self.line(format_args!("{name} {value}"));
    }

    pub(crate) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let name = format!("bifocal_{name}");
        self.head(&name, help, "histogram");
        self.samples(&name, "", histogram);
    }

    pub(crate) fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        all: &Mutex<Histograms<N>>,
    ) {
        let name = format!("bifocal_{name}");
        self.head(&name, help, "histogram");
        let all = all.lock().unwrap_or_else(PoisonError::into_inner);
        for (values, histogram) in &all.all {
            self.samples(&name, &pairs(labels, values), histogram);
        }
    }

    pub(crate) fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        all: &Mutex<Counters<N>>,
    ) {
        let name = format!("bifocal_{name}");
        self.head(&name, help, "counter");
        let all = all.lock().unwrap_or_else(PoisonError::into_inner);
        for (values, count) in &all.0 {
            self.line(format_args!("{name}{{{}}} {count}", pairs(labels, values)));
        }
    }

    fn samples(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            match histogram.bounds.get(at) {
                Some(bound) => self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}")),
                None => self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}")),
            }
        }
        let sum = f64::from_bits(histogram.sum.load(Ordering::Relaxed));
        let braces = |labels: &str| match labels {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        self.line(format_args!("{name}_sum{} {sum}", braces(labels)));
        self.line(format_args!("{name}_count{} {total}", braces(labels)));
    }
}

/// `a="x",b="y"`.
fn pairs<const N: usize>(names: [&str; N], values: &[String; N]) -> String {
    let pair = |(name, value): (&str, &String)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    names.into_iter().zip(values).map(pair).collect::<Vec<_>>().join(",")
}
