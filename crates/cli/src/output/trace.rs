//! `--trace`: a command that tells where its time goes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bifocal_data::atomic::write_atomic;
use bifocal_kernels::peak;
use bifocal_kernels::trace::{self, Sum};

/// Lines that are printed; the file has all.
const LINES: usize = 15;

/// Runs a command and, if a file is named, writes what took how long there, also when the command fails.
///
/// # Errors
/// Those of the command, and of writing the file.
pub fn traced(file: Option<&Path>, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let Some(file) = file else { return run() };
    trace::begin();
    let start = Instant::now();
    let result = run();
    let took = start.elapsed();
    let trace = trace::end();
    let peak = peak::flops();
    let written = write_atomic(file, |out| trace.write(out, peak)).with_context(|| {
        format!(
            "cannot write the trace to {}; name a file that can be written",
            file.display()
        )
    });
    let left_out = match trace.left_out {
        0 => String::new(),
        n => format!(" ({n} more spans are in these sums alone)"),
    };
    eprint!("{}", table(&trace.sums(), took, peak));
    if written.is_ok() {
        eprintln!("{}: open it at https://ui.perfetto.dev{left_out}", file.display());
    }
    result.and(written)
}

/// Time by what it was spent on, most first.
fn table(sums: &[(String, Sum)], took: Duration, peak: f64) -> String {
    let mut text = format!(
        "\n{:<28}{:>9}{:>10}{:>10}{:>7}{:>10}{:>9}   of {:.1} s; peak {:.0} GFLOP/s in f32\n",
        "",
        "calls",
        "total s",
        "own s",
        "own %",
        "GFLOP/s",
        "of peak",
        took.as_secs_f64(),
        peak / 1e9
    );
    for (name, sum) in sums.iter().take(LINES) {
        let own = sum.own.as_secs_f64();
        let rate = sum.operations as f64 / sum.total.as_secs_f64().max(1e-9);
        let (giga, share) = match sum.operations {
            0 => (String::new(), String::new()),
            _ => (format!("{:.1}", rate / 1e9), format!("{:.0} %", 100.0 * rate / peak)),
        };
        let percent = 100.0 * own / took.as_secs_f64().max(1e-9);
        let total = sum.total.as_secs_f64();
        text.push_str(&format!(
            "{name:<28}{:>9}{total:>10.3}{own:>10.3}{percent:>7.1}{giga:>10}{share:>9}\n",
            sum.calls
        ));
    }
    text
}
