//! Indexing a folder again: content that is known is never embedded again.

use std::convert::Infallible;
use std::path::Path;

use crate::made::{DIM, entry, model};
use bifocal_search::incremental::{Listed, Plan, apply_reuse, plan};
use bifocal_search::{ContentHash, Entry, LocalStore, Store};

type Files<'a> = &'a [(&'a str, i64, &'a str)];

/// "Embeds" content: a vector that its hash determines.
fn embed(content: &str) -> Vec<f32> {
    ContentHash::of_bytes(content.as_bytes()).0[..DIM]
        .iter()
        .map(|&b| f32::from(b) + 1.0)
        .collect()
}

/// Indexes the files and returns how many were embedded.
fn index(dir: &Path, files: Files) -> (usize, Plan<Infallible>) {
    let store = LocalStore::open_writer(dir, &model()).unwrap();
    let content = |key: &str| files.iter().find(|f| f.0 == key).unwrap().2;
    let listed: Vec<Listed> = files
        .iter()
        .map(|&(key, modified_ns, content)| Listed {
            key: key.to_owned(),
            size: content.len() as u64,
            modified_ns,
        })
        .collect();
    let plan = plan(
        &listed,
        &store.files().unwrap(),
        |_| true,
        |l| Ok(ContentHash::of_bytes(content(&l.key).as_bytes())),
    );
    let swapped = apply_reuse(&store, &plan.reused).unwrap();
    let embedded: Vec<Entry> = plan
        .new
        .iter()
        .chain(&plan.changed)
        .chain(&swapped)
        .map(|file| {
            let mut entry = entry(&file.key, &embed(content(&file.key)));
            entry.item.file = file.clone();
            entry
                .item
                .metadata
                .insert("embedded as".to_owned(), file.key.clone().into());
            entry
        })
        .collect();
    store.upsert(&embedded).unwrap();
    store
        .delete(&plan.gone.iter().map(String::as_str).collect::<Vec<_>>())
        .unwrap();
    // Whatever happened: every file is there, with its facts and the vector of its content.
    let stored = store.files().unwrap();
    assert_eq!(stored.len(), files.len());
    for &(key, modified_ns, content) in files {
        let found = store.get(key).unwrap().unwrap();
        assert_eq!(
            (found.item.file.modified_ns, found.item.file.size),
            (modified_ns, content.len() as u64)
        );
        let cosine: f32 = {
            let v = embed(content);
            let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            v.iter().zip(&found.vectors[0]).map(|(a, b)| a * b).sum::<f32>() / length
        };
        assert!(cosine > 0.999, "{key} has the vector of something else: {cosine}");
    }
    (embedded.len(), plan)
}

#[test]
fn a_folder_that_changes_is_followed_with_as_little_embedding_as_possible() {
    let dir = tempfile::tempdir().unwrap();
    let run = |files: Files| index(dir.path(), files);
    assert_eq!(run(&[("a", 1, "one"), ("b", 1, "two"), ("c", 1, "three")]).0, 3);
    let (embedded, plan) = run(&[("a", 1, "one"), ("b", 1, "two"), ("c", 1, "three")]);
    assert!(embedded == 0 && plan.is_empty());
    // Moved, touched, copied.
    let (embedded, plan) = run(&[
        ("new/a", 1, "one"),
        ("b", 5, "two"),
        ("c", 1, "three"),
        ("d", 9, "three"),
    ]);
    assert_eq!((embedded, plan.moved(), plan.deleted()), (0, 1, 0));
    let store = LocalStore::open_reader(dir.path(), None).unwrap();
    assert_eq!(store.get("new/a").unwrap().unwrap().item.metadata["embedded as"], "a");
    drop(store);
    // Changed and deleted.
    let (embedded, plan) = run(&[("new/a", 1, "one"), ("b", 6, "TWO"), ("c", 1, "three")]);
    assert_eq!((embedded, plan.changed.len(), plan.deleted()), (1, 1, 1));
}

#[test]
fn files_that_swap_names_do_not_swap_vectors() {
    let dir = tempfile::tempdir().unwrap();
    index(dir.path(), &[("a", 1, "one!"), ("b", 1, "two"), ("c", 1, "three")]);
    index(dir.path(), &[("a", 2, "two"), ("b", 2, "three"), ("c", 2, "one!")]);
    index(
        dir.path(),
        &[("a", 3, "one!"), ("b", 3, "two"), ("d", 3, "three"), ("c", 4, "four")],
    );
}
