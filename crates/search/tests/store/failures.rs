//! What every store has to remember of files that could not be indexed: a case of the contract.

use bifocal_search::Failure;

use crate::contract::Open;
use crate::made::{DIM, entry};

/// Until they are solved, also by a store that is built again.
pub fn remembered(open: Open) {
    let failure = |key: &str, cause: &str| Failure {
        key: key.to_owned(),
        size: 17,
        modified_ns: -5,
        cause: cause.to_owned(),
        reason: format!("it is {cause}"),
        at: 1_700_000_000,
    };
    let store = open();
    assert_eq!(store.failures().unwrap(), []);
    store.upsert(&[entry("good", &[1.0; DIM])]).unwrap();
    let generation = store.stats().unwrap().generation;
    let impossible = failure("", "empty");
    let noted = [
        failure("b", "text"),
        failure("a", "empty"),
        impossible,
        failure("b", "damaged"),
    ];
    store.note_failures(&noted, &[]).unwrap();
    let expected = [failure("a", "empty"), failure("b", "damaged")];
    assert_eq!(store.failures().unwrap(), expected);
    // Items are not touched, and nobody who searches has to look again.
    assert_eq!(
        (store.count().unwrap(), store.stats().unwrap().generation),
        (1, generation)
    );
    drop(store);
    let store = open();
    assert_eq!(store.failures().unwrap(), expected);
    let mut long = failure("a", "long");
    long.reason = "ä\0".repeat(5000);
    store.note_failures(&[long], &["b", "unknown"]).unwrap();
    let kept = store.failures().unwrap();
    assert_eq!((kept.len(), kept[0].reason.chars().count()), (1, 1000));
    // A store that is built again knows what it knew, and what was learnt meanwhile counts.
    store.note_failures(&[failure("d", "text")], &[]).unwrap();
    let beside = store.open_beside(store.model()).unwrap();
    beside.upsert(&[entry("good", &[0.5; DIM])]).unwrap();
    beside
        .note_failures(&[failure("a", "damaged"), failure("c", "empty")], &[])
        .unwrap();
    drop(beside);
    store.replace_with_beside().unwrap();
    let expected = [failure("a", "damaged"), failure("c", "empty"), failure("d", "text")];
    assert_eq!(store.failures().unwrap(), expected);
}
