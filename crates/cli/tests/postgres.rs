//! `--store postgres://…`: the commands end to end on the server that `BIFOCAL_POSTGRES` names, and builds without it.

mod common;

use common::fails;

#[cfg(not(feature = "postgres"))]
#[test]
fn a_build_without_postgres_says_how_to_get_one() {
    let told = fails(2, &["search", "--store", "postgres://me:secret@host/db", "a dog"]);
    assert!(
        told.contains("--features postgres") && told.contains("postgres://me@host/db") && !told.contains("secret"),
        "{told}"
    );
}

#[cfg(feature = "postgres")]
#[test]
fn indexes_and_searches_in_postgres_as_in_a_folder() {
    use common::{samples, succeeds, text, tiny};
    use serde_json::Value;

    let refused = fails(
        1,
        &["search", "--store", "postgres://me:secret@127.0.0.1:1/db", "a dog"],
    );
    assert!(
        refused.contains("postgres://me@127.0.0.1:1/db") && !refused.contains("secret"),
        "{refused}"
    );
    let Ok(server) = std::env::var("BIFOCAL_POSTGRES") else {
        println!("skipped: BIFOCAL_POSTGRES=postgres://… names no server (scripts/check-postgres.sh)");
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let model = text(&model);
    let photos = samples("photos").canonicalize().expect("samples");
    let sign = if server.contains('?') { '&' } else { '?' };
    // It stays there: a server of the test's own goes as a whole.
    let far = format!("{server}{sign}store=test_cli_{}", std::process::id());
    let near = dir.path().join("store");
    let both = |args: &[&str]| -> [Value; 2] {
        [text(&near), &far].map(|store| {
            let printed = succeeds(&[&args[..1], &["--store", store, "--json"], &args[1..]].concat());
            serde_json::from_str(&printed).unwrap_or_else(|_| printed.into())
        })
    };
    let equal = |args: &[&str]| {
        let [mut near, mut far] = both(args);
        // Summed up in another order.
        for found in [&mut near, &mut far] {
            found.as_object_mut().map(|found| found.remove("scores"));
        }
        assert_eq!(near, far, "{args:?}");
        far
    };
    assert_eq!(equal(&["index", "--model", model, text(&photos)])["added"], 50);
    // Again: all of it is known.
    assert_eq!(equal(&["index", "--model", model, text(&photos)])["unchanged"], 50);
    let key = equal(&["search", "a dog"])["hits"][0]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    equal(&["search", "a dog - red cat", "-k", "99"]);
    equal(&["search", "--like", &key]);
    equal(&[
        "search",
        "a dog",
        "--where",
        "ext = jpg and width > height and captions.en like '%man%'",
    ]);
    equal(&["search", "--duplicates", "--min-score", "0.5"]);
    equal(&["classify", "--labels", "dog,cat,plane", "--write", "label"]);
    equal(&["search", "a dog", "--where", "label = dog"]);
    // Another model.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    for file in std::fs::read_dir(model).expect("a model") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), other.join(file.file_name())).expect("a copy");
    }
    let weights = other.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&0.125f32.to_le_bytes());
    std::fs::write(&weights, bytes).expect("weights");
    let other = text(&other);
    let mismatch = fails(1, &["index", "--model", other, "--store", &far, text(&photos)]);
    assert!(mismatch.contains("--rebuild"), "{mismatch}");
    // Killed at some moment, it leaves the old store or the new one.
    for wait in [40, 150, 300, 600] {
        let time = std::time::Duration::from_millis(wait);
        common::killed_after(&["index", "--rebuild", "--model", other, "--store", &far], time);
        assert_eq!(
            both(&["search", "a dog", "-k", "99"])[1]["hits"]
                .as_array()
                .map(Vec::len),
            Some(50)
        );
    }
    assert_eq!(equal(&["index", "--rebuild", "--model", other])["items"], 50);
    equal(&["search", "a dog", "-k", "99"]);
    equal(&["search", "a dog", "--where", "label = dog"]);
}
