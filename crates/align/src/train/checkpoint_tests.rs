use std::cell::Cell;
use std::io;

use super::*;

fn snapshot(step: u64) -> Snapshot {
    let data: Vec<f32> = (0..6).map(|i| (step as f32 + i as f32).sin()).collect();
    let shape = vec![2, 3];
    Snapshot {
        state: State {
            format: FORMAT,
            stage: 0,
            step,
            stage_step: step,
            optimizer_step: step,
            samples: step * 8,
            losses: {
                let mut losses = Losses::default();
                (1..60).for_each(|i| losses.push(1.0 / i as f32));
                losses
            },
            fingerprint: "f".to_owned(),
        },
        moments: BTreeMap::from([(
            "head.weight".to_owned(),
            Moments {
                m: data.iter().map(|v| v * 0.1).collect(),
                v: data.iter().map(|v| v * v).collect(),
            },
        )]),
        weights: BTreeMap::from([("head.weight".to_owned(), HostTensor { shape, data })]),
    }
}

#[test]
fn what_is_saved_comes_back_to_the_bit_and_old_ones_go() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let all = Checkpoints::open(dir.path(), 2).expect("open");
    for step in [3, 6, 9] {
        all.save(&snapshot(step)).expect("save");
    }
    let (newest, skipped) = all.load_newest().expect("load");
    assert_eq!((newest, skipped), (Some(snapshot(9)), vec![]));
    let steps: Vec<u64> = all.list().expect("list").into_iter().map(|c| c.0).collect();
    assert_eq!(steps, [9, 6]);
    let latest = fs::read_to_string(dir.path().join(LATEST)).expect("LATEST");
    assert_eq!(latest, "step-000000000009\n");
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_taken() {
    for file in [WEIGHTS, OPTIMIZER, STATE, MANIFEST] {
        for damage in ["flip", "cut", "gone", "empty"] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let all = Checkpoints::open(dir.path(), 3).expect("open");
            all.save(&snapshot(1)).expect("save");
            let path = all.save(&snapshot(2)).expect("save").join(file);
            let mut bytes = fs::read(&path).expect("read");
            let middle = bytes.len() / 2;
            match damage {
                "flip" => bytes[middle] ^= 1,
                "cut" => bytes.truncate(middle),
                _ => bytes.clear(),
            }
            fs::write(&path, bytes).expect("write");
            if damage == "gone" {
                fs::remove_file(&path).expect("remove");
            }
            let (newest, skipped) = all.load_newest().expect("load");
            assert_eq!(newest, Some(snapshot(1)), "{file} {damage}");
            assert_eq!(skipped.len(), 1, "{file} {damage}");
            assert!(skipped[0].path.ends_with("step-000000000002"));
            // going on from step 1, the damaged one is replaced
            all.save(&snapshot(2)).expect("save again");
            let (newest, skipped) = all.load_newest().expect("load again");
            assert_eq!((newest, skipped), (Some(snapshot(2)), vec![]));
        }
    }
}

/// Fails at the n-th call, and can leave half a file behind.
struct FailingDisk {
    left: Cell<usize>,
    short: bool,
}

impl FailingDisk {
    fn pass(&self) -> io::Result<()> {
        match self.left.get() {
            0 => Err(io::Error::other("no space left on the device")),
            n => {
                self.left.set(n - 1);
                Ok(())
            }
        }
    }
}

impl Disk for FailingDisk {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.pass() {
            if self.short {
                fs::write(path, &bytes[..bytes.len() / 2])?;
            }
            return Err(error);
        }
        SystemDisk.write(path, bytes)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.pass()?;
        SystemDisk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass()?;
        SystemDisk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass()?;
        SystemDisk.link(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.pass()?;
        SystemDisk.sync_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.pass()?;
        SystemDisk.remove_dir(path)
    }
}

#[test]
fn a_disk_that_fails_anywhere_costs_no_earlier_checkpoint() {
    for short in [false, true] {
        let mut failures = 0;
        for n in 0.. {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let good = Checkpoints::open(dir.path(), 1).expect("open");
            good.save(&snapshot(1)).expect("save");
            let failing = Checkpoints {
                dir: dir.path().to_owned(),
                keep: 1,
                disk: FailingDisk {
                    left: Cell::new(n),
                    short,
                },
            };
            let outcome = failing.save(&snapshot(2));
            let (newest, skipped) = good.load_newest().expect("load");
            let step = newest.expect("a checkpoint is left").state.step;
            assert_eq!(skipped, vec![], "call {n}");
            if outcome.is_ok() {
                assert_eq!(step, 2);
                break;
            }
            failures += 1;
            assert!(step == 1 || step == 2, "call {n}: {step}");
            // and the next one succeeds over what was left lying about
            good.save(&snapshot(3)).expect("save after a failure");
            let (newest, _) = good.load_newest().expect("load");
            assert_eq!(newest, Some(snapshot(3)));
        }
        // create, four files, sync, rename, sync, LATEST and its rename, sync, remove
        assert_eq!(failures, 12);
    }
}
