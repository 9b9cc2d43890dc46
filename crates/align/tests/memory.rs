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

/// Looks at the memory after the first tenth of a run and after its last step.
#[derive(Default)]
struct Memory {
    early: Option<u64>,
    late: Option<u64>,
}

impl Progress for Memory {
    fn step(&mut self, report: &StepReport<'_>) {
        let step = report.metrics.step;
        if step == report.total / 10 {
            self.early = resident();
        }
        if step == report.total {
            self.late = resident();
        }
    }
}

#[test]
fn ten_thousand_steps_take_no_more_than_one_thousand() {
    allocator::keep_memory();
    if resident().is_none() {
        eprintln!("skipped: the system does not tell how much memory is in use");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    for (method, steps) in [("sail", "schedule.steps=10000"), ("clip", "schedule.steps=1000")] {
        let sets = [steps, "run.checkpoint_every=500", "run.explode=0"];
        let recipe = common::recipe(method, &model, &dir.path().join("cache"), &sets);
        let options = Options {
            out: dir.path().join(method),
            resume: false,
        };
        let mut memory = Memory::default();
        run(&recipe, &options, &mut memory).unwrap();
        let (early, late) = (memory.early.unwrap(), memory.late.unwrap());
        println!("{method}: {early} KiB after a tenth of the steps, {late} KiB at the end");
        assert!(late < early + 8 * 1024, "{method}: {early} KiB became {late} KiB");
    }
}
