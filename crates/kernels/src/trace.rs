//! Where time goes: spans with the operations that they took, in the format that Chrome and [Perfetto](https://ui.perfetto.dev) show.
//!
//! Off unless [`begin`] was called; a span then costs one read of an atomic. Operations are those of products, attention and convolutions (multiply and add count as two); what
//! other threads do at the same time is counted too, so that shares of a peak are those of the process.
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Spans that are kept one by one (64 MiB); those after them are in the sums alone.
const KEPT: usize = 1 << 20;

static ON: AtomicBool = AtomicBool::new(false);
static OPERATIONS: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicUsize = AtomicUsize::new(1);
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
static RECORD: Mutex<Trace> = Mutex::new(Trace {
    spans: Vec::new(),
    left_out: 0,
    sums: BTreeMap::new(),
});

thread_local! {
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    /// Time of the spans within each one that is open.
    static INNER: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
}

/// What was recorded.
#[derive(Debug, Default)]
pub struct Trace {
    spans: Vec<Done>,
    /// How many spans are in the sums alone.
    pub left_out: u64,
    sums: BTreeMap<Name, Sum>,
}

/// What it is called, and in which direction it goes.
type Name = (&'static str, &'static str);

#[derive(Debug)]
struct Done {
    name: Name,
    thread: usize,
    start: Duration,
    length: Duration,
    operations: u64,
}

/// All spans of a name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// How many.
    pub calls: u64,
    /// How long they took.
    pub total: Duration,
    /// Without the spans within them.
    pub own: Duration,
    /// Operations while they were open.
    pub operations: u64,
}

/// A stretch of time, up to where it is dropped.
#[must_use]
pub struct Span(Option<Open>);

struct Open {
    name: Name,
    start: Instant,
    /// What was counted before; `None` where operations are not its own.
    operations: Option<u64>,
}

/// Begins to record, anew if something was recorded before.
pub fn begin() {
    LazyLock::force(&EPOCH);
    *RECORD.lock().unwrap_or_else(PoisonError::into_inner) = Trace::default();
    ON.store(true, Ordering::Release);
}

/// Ends it; gives what was recorded.
pub fn end() -> Trace {
    ON.store(false, Ordering::Release);
    std::mem::take(&mut RECORD.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A span by that name until the value is dropped; nothing unless [`begin`] was called.
pub fn span(name: &'static str) -> Span {
    open((name, ""), true)
}

/// As [`span`], for work on a thread beside the one that multiplies: operations are not counted.
pub fn beside(name: &'static str) -> Span {
    open((name, ""), false)
}

/// As [`span`], for the way back through an operation.
pub fn backward(name: &'static str) -> Span {
    open((name, " backward"), true)
}

fn open(name: Name, counts: bool) -> Span {
    if !ON.load(Ordering::Relaxed) {
        return Span(None);
    }
    INNER.with_borrow_mut(|inner| inner.push(Duration::ZERO));
    Span(Some(Open {
        name,
        start: Instant::now(),
        operations: counts.then(|| OPERATIONS.load(Ordering::Relaxed)),
    }))
}

/// Counts operations that a kernel does.
pub(crate) fn operations(count: impl FnOnce() -> usize) {
    if ON.load(Ordering::Relaxed) {
        OPERATIONS.fetch_add(count() as u64, Ordering::Relaxed);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let length = open.start.elapsed();
        let counted = |before| OPERATIONS.load(Ordering::Relaxed).wrapping_sub(before);
        let operations = open.operations.map_or(0, counted);
        let within = INNER.with_borrow_mut(|inner| {
            let within = inner.pop().unwrap_or_default();
            if let Some(outer) = inner.last_mut() {
                *outer += length;
            }
            within
        });
        let mut record = RECORD.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = record.sums.entry(open.name).or_default();
        sum.calls += 1;
        sum.total += length;
        sum.own += length.saturating_sub(within);
        sum.operations += operations;
        if record.spans.len() < KEPT {
            record.spans.push(Done {
                name: open.name,
                thread: THREAD.with(|thread| *thread),
                start: open.start.saturating_duration_since(*EPOCH),
                length,
                operations,
            });
        } else {
            record.left_out += 1;
        }
    }
}

impl Trace {
    /// Sums by name, those with most time of their own first.
    pub fn sums(&self) -> Vec<(String, Sum)> {
        let mut sums: Vec<_> = self
            .sums
            .iter()
            .map(|((name, way), sum)| (format!("{name}{way}"), *sum))
            .collect();
        sums.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.own));
        sums
    }

    /// Writes the spans as a JSON object of trace events. `peak` is in operations a second, as [`crate::peak::flops`] measures it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write, peak: f64) -> std::io::Result<()> {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        write!(
            out,
            "{{\"displayTimeUnit\":\"ms\",\"otherData\":{{\"peak_gflops\":{:.1},\"left_out\":{}}},\"traceEvents\":[",
            peak / 1e9,
            self.left_out
        )?;
        for (at, span) in self.spans.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // names are identifiers and words of this program: nothing in them must be escaped
            write!(
                out,
                "{comma}\n{{\"name\":\"{}{}\",\"ph\":\"X\",\"pid\":1,\"tid\":{},\"ts\":{:.3},\"dur\":{:.3}",
                span.name.0,
                span.name.1,
                span.thread,
                micros(span.start),
                micros(span.length)
            )?;
            if span.operations > 0 {
                let rate = span.operations as f64 / span.length.as_secs_f64().max(1e-9);
                let (giga, share) = (rate / 1e9, 100.0 * rate / peak.max(1.0));
                write!(
                    out,
                    ",\"args\":{{\"gflop\":{:.6},\"gflops\":{giga:.1},\"percent_of_peak\":{share:.1}}}",
                    span.operations as f64 / 1e9
                )?;
            }
            write!(out, "}}")?;
        }
        writeln!(out, "\n]}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{Mat, Precision, gemm};

    #[test]
    fn spans_have_their_time_and_their_products() {
        begin();
        {
            let _outer = span("outer");
            for _ in 0..2 {
                let _inner = backward("inner");
                gemm(
                    Mat::new(&[1.0; 6], 2, 3),
                    Mat::new(&[1.0; 12], 3, 4),
                    &mut [0.0; 8],
                    false,
                    Precision::F32,
                );
            }
        }
        let trace = end();
        drop(span("after the end"));
        let sums = BTreeMap::from_iter(trace.sums());
        let (outer, inner) = (sums["outer"], sums["inner backward"]);
        assert_eq!((outer.calls, inner.calls), (1, 2));
        // other tests multiply at the same time
        assert!(inner.operations >= 2 * 2 * 2 * 3 * 4 && outer.operations >= inner.operations);
        assert!(outer.total >= inner.total && outer.own + inner.total <= outer.total + Duration::from_nanos(1));
        let mut out = Vec::new();
        trace.write(&mut out, 1e9).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("\"ph\":\"X\"").count(), 3);
        assert!(
            text.contains("\"name\":\"inner backward\"") && text.contains("percent_of_peak") && !text.contains("after")
        );
    }
}
