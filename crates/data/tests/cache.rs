//! The feature cache: kills, several writers, damage, and what may not be stored.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bifocal_data::cache::{CacheError, Computed, Dtype, FillError, FillOptions, FillReport, fill};
use bifocal_data::{FeatureSpec, FeatureStore, ImageSource, ItemKey, Limits};

const DIM: usize = 7;

fn spec() -> FeatureSpec {
    FeatureSpec::new().with("tower", "abc").with("pooling", "mean")
}

fn open(root: &Path) -> FeatureStore {
    FeatureStore::open(root, &spec(), DIM, Dtype::F32).unwrap()
}

fn keys(range: std::ops::Range<usize>) -> Vec<ItemKey> {
    range.map(|i| ItemKey::of_text(&format!("text {i}"))).collect()
}

fn feature(i: usize) -> Vec<f32> {
    (0..DIM).map(|j| (i * 31 + j) as f32 * 0.37 - 3.0).collect()
}

fn features(indices: impl IntoIterator<Item = usize>) -> Vec<f32> {
    indices.into_iter().flat_map(feature).collect()
}

fn quick(batch: usize) -> FillOptions {
    FillOptions {
        shard_bytes: 1,
        ..FillOptions::batch(batch)
    }
}

fn fill_all(store: &mut FeatureStore, n: usize, options: &FillOptions) -> FillReport {
    fill(
        store,
        &keys(0..n),
        options,
        |b| Ok::<_, Infallible>(features(b.iter().copied())),
        |_, _| {},
    )
    .unwrap()
}

fn shards(store: &FeatureStore) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(store.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    all.sort();
    all
}

#[test]
fn what_was_stored_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    assert!(store.is_empty());
    store.append(&keys(0..5), &features(0..5)).unwrap();
    store.append(&keys(5..9), &features(5..9)).unwrap();
    let mut store = open(dir.path());
    assert_eq!(store.len(), 9);
    let items = keys(0..12);
    assert_eq!(store.missing(&items), [9, 10, 11]);
    let order = [8, 0, 3, 3, 5];
    let asked: Vec<_> = order.iter().map(|&i| items[i]).collect();
    assert_eq!(store.gather(&asked).unwrap(), features(order));
    assert!(matches!(
        store.gather(&items),
        Err(CacheError::Missing { missing: 3, of: 12, .. })
    ));
    let report = store.verify().unwrap();
    assert_eq!((report.shards, report.items, report.damaged.len()), (2, 9, 0));
    let json = fs::read_to_string(store.path().join("spec.json")).unwrap();
    assert!(json.contains("\"pooling\": \"mean\""), "{json}");
}

#[test]
fn every_fact_makes_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let paths: std::collections::BTreeSet<_> = [
        (spec(), 7, Dtype::F32),
        (spec(), 7, Dtype::F16),
        (spec(), 8, Dtype::F32),
        (spec().with("pooling", "last"), 7, Dtype::F32),
        (spec().with("normalize", "true"), 7, Dtype::F32),
        // the same characters, divided differently
        (
            FeatureSpec::new().with("toweR", "abc").with("pooling", "mean"),
            7,
            Dtype::F32,
        ),
        (
            FeatureSpec::new().with("poolingmean", "").with("tower", "abc"),
            7,
            Dtype::F32,
        ),
    ]
    .iter()
    .map(|(spec, dim, dtype)| {
        FeatureStore::open(dir.path(), spec, *dim, *dtype)
            .unwrap()
            .path()
            .to_owned()
    })
    .collect();
    assert_eq!(paths.len(), 7);
    // facts are a set: their order does not count
    let turned = FeatureSpec::new().with("pooling", "mean").with("tower", "abc");
    assert_eq!(
        FeatureStore::open(dir.path(), &turned, 7, Dtype::F32).unwrap().path(),
        open(dir.path()).path()
    );
    fs::write(open(dir.path()).path().join("spec.json"), "{}").unwrap();
    let e = FeatureStore::open(dir.path(), &spec(), DIM, Dtype::F32).unwrap_err();
    assert!(matches!(e, CacheError::Foreign { .. }), "{e}");
    assert!(FeatureStore::open(dir.path(), &spec(), 0, Dtype::F32).is_err());
}

#[test]
fn halves_are_rounded_once_and_never_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = FeatureStore::open(dir.path(), &spec(), 3, Dtype::F16).unwrap();
    let key = keys(0..1);
    store.append(&key, &[0.1, -65504.0, 1e-8]).unwrap();
    let out = FeatureStore::open(dir.path(), &spec(), 3, Dtype::F16)
        .unwrap()
        .gather(&key)
        .unwrap();
    assert_eq!(out, [0.1, -65504.0, 1e-8].map(|v| half::f16::from_f32(v).to_f32()));
    let e = store.append(&key, &[0.0, 70_000.0, 0.0]).unwrap_err();
    assert!(matches!(e, CacheError::Unstorable { item: 0, column: 1, .. }), "{e}");
    let mut store = open(dir.path());
    for bad in [f32::NAN, f32::INFINITY] {
        let mut rows = features(0..2);
        rows[DIM + 2] = bad;
        let e = store.append(&keys(0..2), &rows).unwrap_err();
        assert!(matches!(e, CacheError::Unstorable { item: 1, column: 2, .. }), "{e}");
    }
    assert!(matches!(
        store.append(&keys(0..2), &[0.0; 3]),
        Err(CacheError::Length {
            expected: 14,
            got: 3,
            ..
        })
    ));
    assert!(shards(&store).is_empty());
}

#[test]
fn equal_items_are_computed_once_and_failures_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let texts = ["a", "b", "a", "c", "b", "d"];
    let items: Vec<_> = texts.iter().map(|t| ItemKey::of_text(t)).collect();
    let (mut asked, mut seen) = (Vec::new(), Vec::new());
    let report = fill(
        &mut store,
        &items,
        &FillOptions::batch(3),
        |batch| {
            asked.extend_from_slice(batch);
            // c cannot be computed
            let failed: Vec<usize> = (0..batch.len()).filter(|&p| texts[batch[p]] == "c").collect();
            let rows = features(batch.iter().copied().filter(|&i| texts[i] != "c"));
            Ok::<_, Infallible>(Computed { rows, failed })
        },
        |done, of| seen.push((done, of)),
    )
    .unwrap();
    assert_eq!(asked, [0, 1, 3, 5]);
    assert_eq!(seen, [(0, 4), (3, 4), (4, 4)]);
    assert_eq!((report.reused, report.computed, report.failed), (0, 3, vec![3]));
    assert_eq!(store.missing(&items), [3]);
    assert_eq!(
        store.gather(&[items[2], items[4], items[5]]).unwrap(),
        features([0, 1, 5])
    );
}

#[test]
fn an_error_keeps_what_was_computed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let compute = |batch: &[usize]| {
        if batch[0] >= 6 {
            Err(std::io::Error::other("out of memory"))
        } else {
            Ok(features(batch.iter().copied()))
        }
    };
    let e = fill(&mut store, &keys(0..10), &FillOptions::batch(2), compute, |_, _| {}).unwrap_err();
    assert!(
        matches!(e, FillError::Compute(_)) && e.to_string().contains("out of memory"),
        "{e}"
    );
    assert_eq!(open(dir.path()).len(), 6);
    let e = fill(
        &mut store,
        &keys(0..10),
        &FillOptions::batch(2),
        |_| Ok::<_, Infallible>(vec![0.0; 3]),
        |_, _| {},
    );
    assert!(matches!(
        e,
        Err(FillError::Cache(CacheError::Length {
            expected: 14,
            got: 3,
            ..
        }))
    ));
}

#[test]
fn damaged_shards_are_set_aside_and_computed_anew() {
    let truth = features(0..40);
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("a flipped bit in a feature", |p| {
            let mut b = fs::read(p).unwrap();
            let rows: Vec<Vec<u8>> = (0..40)
                .map(|i| feature(i).iter().flat_map(|v| v.to_le_bytes()).collect())
                .collect();
            let at = b.windows(DIM * 4).position(|w| rows.iter().any(|r| r == w)).unwrap();
            b[at] ^= 4;
            fs::write(p, b).unwrap();
        }),
        ("a flipped bit in a key", |p| {
            let mut b = fs::read(p).unwrap();
            let at = b
                .windows(32)
                .position(|w| keys(0..40).iter().any(|k| k.as_bytes() == w))
                .unwrap();
            b[at] ^= 1;
            fs::write(p, b).unwrap();
        }),
        ("cut off", |p| {
            let b = fs::read(p).unwrap();
            fs::write(p, &b[..b.len() / 2]).unwrap();
        }),
        ("empty", |p| fs::write(p, "").unwrap()),
        ("garbage", |p| fs::write(p, [0xff; 5000]).unwrap()),
        ("longer", |p| {
            let mut b = fs::read(p).unwrap();
            b.push(0);
            fs::write(p, b).unwrap();
        }),
    ];
    for (what, harm) in harms {
        for reopen in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut store = open(dir.path());
            fill_all(&mut store, 40, &quick(10));
            let all = shards(&store);
            assert_eq!(all.len(), 4);
            harm(&all[1]);
            if reopen {
                store = open(dir.path());
            }
            // a reader learns of it and gets nothing wrong
            match store.gather(&keys(0..40)) {
                Err(CacheError::Missing {
                    missing: 1..=10,
                    damaged,
                    ..
                }) => {
                    // a bit in a key is found missing before the shard is read
                    assert!(damaged == 1 || what.contains("key"), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
            let report = fill_all(&mut store, 40, &quick(10));
            assert_eq!(report.computed, 10, "{what}");
            assert_eq!(store.damaged().len(), 1, "{what}: {:?}", store.damaged());
            assert!(store.damaged()[0].path.to_string_lossy().ends_with(".damaged"));
            assert_eq!(store.gather(&keys(0..40)).unwrap(), truth, "{what}");
            let report = open(dir.path()).verify().unwrap();
            assert_eq!(
                (report.shards, report.items, report.damaged.len()),
                (4, 40, 0),
                "{what}"
            );
        }
    }
}

#[test]
fn verify_finds_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    fill_all(&mut store, 40, &quick(10));
    let shard = &shards(&store)[2];
    let mut bytes = fs::read(shard).unwrap();
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    fs::write(shard, bytes).unwrap();
    let report = open(dir.path()).verify().unwrap();
    assert_eq!((report.shards, report.items, report.damaged.len()), (3, 30, 1));
    assert_eq!(report.damaged[0].items, 10);
    assert!(report.damaged[0].reason.contains("checksum"));
}

const CHILD: &str = "BIFOCAL_TEST_CACHE_CHILD";

/// Starts this test binary again with only the test `name`, which then plays the child's part.
fn child(name: &str, dir: &Path, part: usize) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, format!("{part}:{}", dir.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The part and the folder when this process is such a child.
fn role() -> Option<(usize, PathBuf)> {
    let role = std::env::var(CHILD).ok()?;
    let (part, dir) = role.split_once(':')?;
    Some((part.parse().ok()?, dir.into()))
}

#[test]
fn a_killed_writer_loses_little_and_nothing_is_wrong() {
    const N: usize = 3000;
    if let Some((_, dir)) = role() {
        let compute = |b: &[usize]| {
            std::thread::sleep(Duration::from_millis(1));
            Ok::<_, Infallible>(features(b.iter().copied()))
        };
        fill(&mut open(&dir), &keys(0..N), &quick(5), compute, |_, _| {}).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..5 {
        let mut process = child("a_killed_writer_loses_little_and_nothing_is_wrong", dir.path(), 0);
        // let it get somewhere, then kill it in the middle of whatever it does
        let start = Instant::now();
        while open(dir.path()).len() < before + 20 && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(3 + round));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let report = open(dir.path()).verify().unwrap();
        assert!(report.damaged.is_empty(), "{:?}", report.damaged);
        assert!(report.items >= before + 20, "{} after {before}", report.items);
        before = report.items;
    }
    assert!(before < N, "the children were too fast to be killed");
    // a temporary file of a killed writer is no shard
    let mut store = open(dir.path());
    fs::write(store.path().join(".0123.safetensors.99.0.tmp"), "half a shard").unwrap();
    let report = fill_all(&mut store, N, &FillOptions::batch(100));
    assert_eq!((report.reused, report.computed), (before, N - before));
    assert_eq!(open(dir.path()).gather(&keys(0..N)).unwrap(), features(0..N));
}

#[test]
fn several_processes_write_at_once() {
    const EACH: usize = 200;
    // parts overlap by half, so that some items are computed twice
    let range = |part: usize| part * EACH / 2..part * EACH / 2 + EACH;
    let work = |dir: &Path, part: usize| {
        let items = keys(range(part));
        let compute = |b: &[usize]| Ok::<_, Infallible>(features(b.iter().map(|i| range(part).start + i)));
        fill(&mut open(dir), &items, &quick(8), compute, |_, _| {}).unwrap();
    };
    if let Some((part, dir)) = role() {
        return work(&dir, part);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut children: Vec<_> = (0..3)
        .map(|part| child("several_processes_write_at_once", dir.path(), part))
        .collect();
    work(dir.path(), 3);
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let mut store = open(dir.path());
    let n = range(3).end;
    assert_eq!(store.len(), n);
    assert_eq!(store.gather(&keys(0..n)).unwrap(), features(0..n));
    assert!(store.verify().unwrap().damaged.is_empty());
}

#[test]
fn a_store_sees_what_others_wrote_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (open(dir.path()), open(dir.path()));
    a.append(&keys(0..3), &features(0..3)).unwrap();
    assert_eq!(b.len(), 0);
    b.refresh().unwrap();
    assert_eq!(b.gather(&keys(0..3)).unwrap(), features(0..3));
    fs::remove_file(&shards(&a)[0]).unwrap();
    a.refresh().unwrap();
    assert!(a.is_empty());
    // b has not looked since: it finds out when it reads
    assert!(matches!(
        b.gather(&keys(0..3)),
        Err(CacheError::Missing {
            missing: 3,
            damaged: 0,
            ..
        })
    ));
    a.append(&keys(0..3), &features(0..3)).unwrap();
    assert_eq!(a.gather(&keys(0..3)).unwrap(), features(0..3));
    b.refresh().unwrap();
    assert_eq!(b.gather(&keys(0..3)).unwrap(), features(0..3));
}

#[test]
fn files_have_the_key_of_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&a, "same").unwrap();
    fs::write(&b, "same").unwrap();
    let images: Vec<ImageSource> = [a, b, dir.path().join("absent")].map(ImageSource::from).into();
    let keys = ItemKey::of_images(&images, &Limits::default());
    assert_eq!(keys[0].as_ref().unwrap(), keys[1].as_ref().unwrap());
    assert_eq!(*keys[0].as_ref().unwrap(), ItemKey::of_text("same"));
    assert!(keys[2].is_err());
    assert_eq!(ItemKey::of_text("same").to_string().len(), 64);
}
