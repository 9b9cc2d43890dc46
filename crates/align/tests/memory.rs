//! Long runs do not take more and more memory. The test is alone in its process, and has the allocator that the binary has.

mod common;

use std::fs;

use bifocal_align::train::{Options, Progress, StepReport, run};
use bifocal_kernels::allocator::{self, Allocator};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Memory of this process that is in use, in KiB.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Looks at the memory after each tenth of a run.
#[derive(Default)]
struct Memory {
    tenths: Vec<u64>,
}

impl Progress for Memory {
    fn step(&mut self, report: &StepReport<'_>) {
        if report.metrics.step.is_multiple_of(report.total / 10) {
            self.tenths.extend(resident());
        }
    }
}

#[test]
fn long_runs_take_no_more_memory_than_short_ones() {
    allocator::keep_memory();
    if resident().is_none() {
        eprintln!("skipped: the system does not tell how much memory is in use");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    // in the second one pictures are decoded, and each thread's heap has taken its share only after some hundred steps: what a step leaks shows in the second half too
    for (method, steps, warm) in [("sail", 10_000, 1), ("clip", 2000, 5)] {
        let steps = format!("schedule.steps={steps}");
        let sets = [steps.as_str(), "run.checkpoint_every=500", "run.explode=0"];
        let recipe = common::recipe(method, &model, &dir.path().join("cache"), &sets);
        let options = Options {
            out: dir.path().join(method),
            resume: false,
        };
        let mut memory = Memory::default();
        run(&recipe, &options, &mut memory).unwrap();
        let tenths = memory.tenths;
        println!("{method}: KiB in use after each tenth of the steps: {tenths:?}");
        assert!(tenths[9] < tenths[warm - 1] + 8 * 1024, "{method}: {tenths:?}");
    }
}
