//! What Prometheus expects of every process, from `/proc`; elsewhere nothing.

use super::Writer;

/// Ticks in a second and bytes in a page, as Linux tells them to programs on all processors that Bifocal is built for.
const TICKS: f64 = 100.0;
const PAGE: f64 = 4096.0;

pub(super) fn write(out: &mut Writer) {
    let Some(stat) = std::fs::read_to_string("/proc/self/stat").ok() else {
        return;
    };
    // the name in parentheses may hold anything; the third field comes after it
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return;
    };
    let fields: Vec<f64> = rest.split(' ').map(|f| f.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    let cpu = (field(14) + field(15)) / TICKS;
    out.plain("process_cpu_seconds_total", "Processor time.", "counter", cpu);
    out.plain(
        "process_resident_memory_bytes",
        "Resident memory.",
        "gauge",
        field(24) * PAGE,
    );
    out.plain("process_virtual_memory_bytes", "Virtual memory.", "gauge", field(23));
    out.plain("process_threads", "Threads.", "gauge", field(20));
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        out.plain("process_open_fds", "Open files.", "gauge", files.count() as f64);
    }
    if let Some(start) = start_time(field(22)) {
        out.plain("process_start_time_seconds", "Start since 1970.", "gauge", start);
    }
}

/// From ticks since the machine began.
fn start_time(ticks: f64) -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + ticks / TICKS)
}
