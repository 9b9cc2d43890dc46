//! A writer that is killed at any point: everything acknowledged is there, everything else is there as whole calls or not.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::made::{Random, entry, limit, model};
use bifocal_search::{Entry, LocalStore, SearchOptions, Store, StoreError};

/// In the child's environment: the store's folder.
const FOLDER: &str = "BIFOCAL_CRASH_FOLDER";
/// In the child's environment: number of the first call.
const FIRST: &str = "BIFOCAL_CRASH_FIRST";
/// Kills; another number may be set in the environment (`scripts/kill-store.sh`).
const KILLS: u64 = 20;
const KILLS_VARIABLE: &str = "BIFOCAL_KILLS";
/// A call changes so many of as many keys as there are, so that replacing and deleting happens all the time.
const BATCH: u64 = 7;
const KEYS: u64 = 60;

/// What call number `call` does: keys with vectors to store, and keys to delete. Both processes compute it.
fn call(call: u64) -> (Vec<Entry>, Vec<String>) {
    let mut random = Random(call.wrapping_mul(0x5851_f42d_4c95_7f2d));
    if call % 4 == 3 {
        return (
            Vec::new(),
            (0..BATCH).map(|_| format!("k{}", random.below(KEYS))).collect(),
        );
    }
    let one = |random: &mut Random| {
        let mut entry = entry(&format!("k{}", random.below(KEYS)), &random.vector());
        entry.item.metadata.insert("call".to_owned(), call.into());
        entry.item.thumbnail = Some(vec![call as u8; 3000]);
        entry
    };
    ((0..BATCH).map(|_| one(&mut random)).collect(), Vec::new())
}

fn apply(state: &mut BTreeMap<String, Entry>, number: u64) {
    let (upserts, deletes) = call(number);
    state.extend(upserts.into_iter().map(|e| (e.item.file.key.clone(), e)));
    deletes.iter().for_each(|k| drop(state.remove(k)));
}

/// How a test opens its store, and how many calls lie between two merges.
type Opened = fn(LocalStore) -> LocalStore;

/// Writes until it is killed, and says after each call that it was acknowledged.
fn write(folder: &Path, first: u64, opened: Opened, merge: u64) -> Result<(), StoreError> {
    let store = opened(LocalStore::open_writer(folder, &model())?);
    println!("\nopen");
    for number in first.. {
        let (upserts, deletes) = call(number);
        if deletes.is_empty() {
            store.upsert(&upserts)?;
        } else {
            store.delete(&deletes.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        println!("\ndone {number}");
        if number % merge == merge - 1 {
            store.flush()?;
        }
    }
    Ok(())
}

/// Runs a writer from call `first` on and kills it, `after` it has acknowledged so many calls; returns the number of the first call that was
/// not acknowledged.
fn run_and_kill(test: &str, folder: &Path, first: u64, calls: u64, after: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // A line that was cut off is not an acknowledgement.
    let mut acknowledged = lines
        .map_while(Result::ok)
        .filter_map(|l| l.strip_prefix("done ")?.parse::<u64>().ok());
    let mut last = None;
    for _ in 0..calls {
        last = acknowledged.next();
    }
    // Nobody reads meanwhile: what the writer says fits into the pipe.
    std::thread::sleep(after);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "the writer ended by itself: {status}");
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "the writer failed before it was killed"
    );
    acknowledged.last().or(last).map_or(first, |last| last + 1)
}

/// In what the store differs from exactly these items.
fn difference(store: &LocalStore, state: &BTreeMap<String, Entry>) -> Option<String> {
    // Lengths from 0.999 to 1.001 are not changed by the store: such a vector's score with itself is as far from 1 as its square.
    let near = SearchOptions {
        min_score: Some(0.99),
        ..limit(1)
    };
    let keys: Vec<String> = store.files().unwrap().into_iter().map(|f| f.key).collect();
    if !keys.iter().eq(state.keys()) {
        return Some(format!("it holds {keys:?} and not {:?}", state.keys()));
    }
    state.iter().find_map(|(key, entry)| {
        let found = store.get(key).unwrap().unwrap();
        let hits = store.search(&entry.vectors[0], &near).unwrap().hits;
        if found.item != entry.item {
            return Some(format!(
                "{key} is {:?} and not {:?}",
                found.item.metadata, entry.item.metadata
            ));
        }
        let is_found = hits.first().is_some_and(|hit| hit.key == *key);
        (!is_found).then(|| format!("a search for {key} finds {hits:?}"))
    })
}

#[test]
fn acknowledged_calls_survive_a_killed_writer() {
    survives("crash::acknowledged_calls_survive_a_killed_writer", |store| store, 50);
}

#[cfg(feature = "hnsw")]
#[test]
fn acknowledged_calls_survive_a_writer_killed_with_its_graph() {
    let opened = |store: LocalStore| store.with_graph(crate::graph::ALWAYS);
    survives(
        "crash::acknowledged_calls_survive_a_writer_killed_with_its_graph",
        opened,
        3,
    );
}

fn survives(test: &str, opened: Opened, merge: u64) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let first = std::env::var(FIRST).unwrap().parse().unwrap();
        panic!("{}", write(Path::new(&folder), first, opened, merge).unwrap_err());
    }
    let dir = tempfile::tempdir().unwrap();
    let mut state = BTreeMap::new();
    let mut next = 0;
    let mut random = Random(9);
    let kills = std::env::var(KILLS_VARIABLE).map_or(KILLS, |k| k.parse().unwrap());
    for kill in 0..kills {
        // The first ones fall into starting and creating, the others into writing, merging and deleting.
        let (calls, after) = if kill < 3 {
            (0, 2 + random.below(15))
        } else {
            (random.below(60), random.below(20))
        };
        let first_open = run_and_kill(test, dir.path(), next, calls, Duration::from_millis(after));
        (next..first_open).for_each(|number| apply(&mut state, number));
        next = first_open;
        let store = match LocalStore::open_reader(dir.path(), Some(&model())) {
            Ok(store) => opened(store),
            // Killed before the store existed: then nothing was acknowledged either.
            Err(StoreError::Missing { .. }) if next == 0 => continue,
            Err(e) => panic!("after kill {kill}: {e}"),
        };
        store.verify().unwrap();
        if let Some(before) = difference(&store, &state) {
            // The call that was under way when the process died counts as a whole.
            apply(&mut state, next);
            if let Some(after) = difference(&store, &state) {
                panic!("after kill {kill}, without call {next}: {before}; with it: {after}");
            }
            next += 1;
        }
    }
    assert!(
        next >= kills.saturating_sub(3),
        "the writers were killed too early to have done much: {next} calls"
    );
    // The lock died with its holder, and writing goes on.
    let store = LocalStore::open_writer(dir.path(), &model()).unwrap();
    store.upsert(&call(0).0).unwrap();
}
