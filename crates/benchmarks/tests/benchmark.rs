//! Traps of the benchmarks' layouts, at the size that they have.

#[path = "../../data/tests/common/mutate.rs"]
mod mutate;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bifocal_benchmarks::{self as benchmark, BenchmarkError, Composition, Options, Rule, Task, open};
use bifocal_data::{Conventions, ImageSource, Limits};
use mutate::{Random, mutate};

fn put(root: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn partial() -> Options {
    Options {
        partial: true,
        ..Options::default()
    }
}

fn composition(name: &str, root: &Path) -> Result<Composition, BenchmarkError> {
    match open(name, root, &Options::default())?.task {
        Task::Composition(task) => Ok(task),
        other => panic!("{other:?}"),
    }
}

/// The official numbers of items: swap_obj has 245, although the paper prints 246.
fn sugarcrepe(root: &Path, swap_obj: usize) {
    put(root, "val2017/1.jpg", "");
    for (name, items) in [
        ("add_att", 692),
        ("add_obj", 2062),
        ("replace_att", 788),
        ("replace_obj", 1652),
        ("replace_rel", 1406),
        ("swap_att", 666),
        ("swap_obj", swap_obj),
    ] {
        let mut json = String::from("{");
        for i in 0..items {
            let comma = if i == 0 { "" } else { "," };
            // numbers have gaps, and sort otherwise as texts
            let key = 2 * i;
            write!(
                json,
                r#"{comma}"{key}": {{"filename": "1.jpg", "caption": "c{i}", "negative_caption": "n{i}"}}"#
            )
            .unwrap();
        }
        put(root, &format!("{name}.json"), json + "}");
    }
}

#[test]
fn sugarcrepe_has_245_items_in_swap_obj() {
    let dir = tempfile::tempdir().unwrap();
    sugarcrepe(dir.path(), 245);
    let task = composition("sugarcrepe", dir.path()).unwrap();
    let swap = task.groups.iter().find(|g| g.name == "swap_obj").unwrap();
    assert_eq!(
        (swap.items.len(), swap.part_of.as_deref(), swap.rule),
        (245, Some("swap"), Rule::Strict)
    );
    assert_eq!(swap.items[10].texts, ["c10", "n10"]);
    assert_eq!(task.groups.iter().map(|g| g.items.len()).sum::<usize>(), 7511);
    assert_eq!(task.images.len(), 1);
    sugarcrepe(dir.path(), 246);
    let error = composition("sugarcrepe", dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("swap_obj.json") && error.contains("246") && error.contains("245"),
        "{error}"
    );
}

fn mmvp(root: &Path, pairs: usize) {
    let mut table = String::from("Question ID,Type,Statement\r\n");
    for id in 1..=2 * pairs {
        writeln!(table, "{id},Kind {},\"a thing, number {id}\"\r", id % 7).unwrap();
        put(root, &format!("MLLM_VLM Images/Kind {}/{id}.jpg", id % 7), "");
    }
    put(root, "Questions.csv", table);
}

#[test]
fn mmvp_has_135_pairs_and_the_pattern_is_the_place() {
    let dir = tempfile::tempdir().unwrap();
    mmvp(dir.path(), 135);
    let task = composition("mmvp-vlm", dir.path()).unwrap();
    assert_eq!(task.groups.iter().map(|g| g.items.len()).collect::<Vec<_>>(), [15; 9]);
    let last = task.groups[8].items.last().unwrap();
    assert_eq!(
        last.texts,
        ["a photo of a thing, number 269", "a photo of a thing, number 270"]
    );
    assert_eq!(
        task.images[last.images[0]].file().unwrap().file_name().unwrap(),
        "269.jpg"
    );
    // the paper speaks of 150 samples
    mmvp(dir.path(), 150);
    assert!(
        composition("mmvp-vlm", dir.path())
            .unwrap_err()
            .to_string()
            .contains("270")
    );
    put(dir.path(), "Questions.csv", "2,Kind 2,one\n3,Kind 3,other\n");
    let error = open("mmvp-vlm", dir.path(), &partial()).unwrap_err().to_string();
    assert!(error.contains("odd"), "{error}");
}

#[test]
fn folder_10_of_imagenet_v2_is_class_10() {
    let dir = tempfile::tempdir().unwrap();
    for class in [0, 1, 10, 100, 2, 999] {
        put(
            dir.path(),
            &format!("imagenetv2-matched-frequency-format-val/{class}/x.jpeg"),
            "",
        );
    }
    let Task::Classification(task) = open("imagenet-v2", dir.path(), &partial()).unwrap().task else {
        panic!("no classification");
    };
    for (image, label) in task.images.iter().zip(&task.labels) {
        let folder = image.file().unwrap().parent().unwrap().file_name().unwrap();
        assert_eq!(folder.to_str().unwrap(), label.to_string());
    }
    assert_eq!(task.prompts[0].names[10], "brambling");
    put(dir.path(), "imagenetv2-matched-frequency-format-val/1000/x.jpeg", "");
    assert!(
        open("imagenet-v2", dir.path(), &partial())
            .unwrap_err()
            .to_string()
            .contains("0 to 999")
    );
}

#[test]
fn names_of_imagenet_in_five_languages() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "imagenet-a/n01498041/x.jpg", "");
    let ask = |languages: &[&str]| {
        let languages = languages.iter().map(|l| (*l).to_owned()).collect();
        open("imagenet-a", dir.path(), &Options { languages, ..partial() })
    };
    let Task::Classification(task) = ask(&["en", "cn", "it", "jp", "ar"]).unwrap().task else {
        panic!("no classification");
    };
    let languages: Vec<&str> = task.prompts.iter().map(|p| p.language.as_str()).collect();
    assert_eq!(languages, ["en", "zh", "it", "ja", "ar"]);
    assert_eq!(task.prompts[0].names, ["stingray"]);
    assert_eq!(task.prompts[2].names.len(), 1);
    assert_eq!(task.labels, [0]);
    let error = ask(&["tlh"]).unwrap_err().to_string();
    assert!(error.contains("tlh") && error.contains("zh"), "{error}");
}

#[test]
fn flat_validation_pictures_have_their_labels_in_a_list() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "val/ILSVRC2012_val_00000001.JPEG", "");
    put(dir.path(), "val/ILSVRC2012_val_00000002.JPEG", "");
    let names = "ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 970\n";
    put(dir.path(), "val.txt", names);
    let labels = |options: &Options| match open("imagenet", dir.path(), options).map(|b| b.task) {
        Ok(Task::Classification(task)) => Ok(task.labels),
        Ok(other) => panic!("{other:?}"),
        Err(e) => Err(e),
    };
    assert_eq!(labels(&partial()).unwrap(), [65, 970]);
    assert!(matches!(
        labels(&Options::default()),
        Err(BenchmarkError::Incomplete { .. })
    ));
    put(dir.path(), "val.txt", format!("{names}../../etc/passwd 3\n"));
    assert!(labels(&partial()).unwrap_err().to_string().contains("leads out"));
    put(dir.path(), "val.txt", "ILSVRC2012_val_00000001.JPEG 1000\n");
    assert!(labels(&partial()).unwrap_err().to_string().contains("line 1"));
}

#[test]
fn half_extracted_sets_are_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |name: &str, options: &Options| open(name, dir.path(), options).unwrap_err().to_string();
    let flickr = fails("flickr30k", &Options::default());
    assert!(
        flickr.contains("flickr30k_test.json is missing") && flickr.contains("nothing in it"),
        "{flickr}"
    );
    assert!(flickr.contains("flickr30k-images/"), "the layout is shown: {flickr}");
    let rows = r#"[{"image": "flickr30k-images/1.jpg", "caption": ["a"]}, {"image": "flickr30k-images/2.jpg", "caption": ["b"]}]"#;
    put(dir.path(), "flickr30k_test.json", rows);
    put(dir.path(), "flickr30k-images/1.jpg", "");
    let flickr = fails("flickr30k", &Options::default());
    assert!(
        flickr.contains("1 of 1000 pictures") && flickr.contains("2.jpg"),
        "{flickr}"
    );
    fs::remove_file(dir.path().join("flickr30k-images/1.jpg")).unwrap();
    assert!(
        fails("flickr30k", &partial()).contains("0 of 1000"),
        "nothing is not a part"
    );
    assert!(fails("flickr8k", &partial()).contains("no suite"));
    let nowhere = open("coco", &dir.path().join("absent"), &partial())
        .unwrap_err()
        .to_string();
    assert!(nowhere.contains("no such folder"), "{nowhere}");
}

#[test]
fn the_first_five_captions_of_a_picture_count() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "val2014/1.jpg", "");
    put(dir.path(), "val2014/2.jpg", "");
    put(
        dir.path(),
        "coco_karpathy_test.json",
        r#"[{"image": "val2014/1.jpg", "caption": ["a", "b", "c", "d", "e", "f"]}, {"image": "val2014/2.jpg", "caption": ["g", "h", "i", "j", "k"]}]"#,
    );
    let captions = |captions| match open("coco", dir.path(), &Options { captions, ..partial() })
        .unwrap()
        .task
    {
        Task::Retrieval(task) => task.languages[0].captions.clone(),
        other => panic!("{other:?}"),
    };
    let five = captions(None);
    assert_eq!(five.len(), 10);
    // with a sixth caption of the first picture, all captions of the second would belong to a wrong one
    assert_eq!(five[5], ("g".to_owned(), 1));
    assert_eq!(captions(Some(1)), [("a".to_owned(), 0), ("g".to_owned(), 1)]);
    assert_eq!(captions(Some(usize::MAX)).len(), 11);
}

#[test]
fn cifar_is_read_as_planes_and_pickles_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "cifar-10-batches-py/test_batch", "pickle");
    let error = open("cifar10", dir.path(), &partial()).unwrap_err().to_string();
    assert!(
        error.contains("binary version") && error.contains("cifar-10-batches-py"),
        "{error}"
    );
    let planes: Vec<u8> = [10, 20, 30].iter().flat_map(|&c| vec![c; 1024]).collect();
    put(dir.path(), "cifar-10-batches-bin/batches.meta.txt", "plane\ncar\n\n");
    put(
        dir.path(),
        "cifar-10-batches-bin/test_batch.bin",
        [&[1], &planes[..]].concat(),
    );
    let open = || open("cifar10", dir.path(), &partial());
    let Task::Classification(task) = open().unwrap().task else {
        panic!("no classification");
    };
    assert_eq!((task.labels.as_slice(), task.classes), (&[1][..], 2));
    let image = task.images[0].open(&Limits::default(), Conventions::default()).unwrap();
    assert_eq!(
        (image.width(), image.height(), &image.data()[..3]),
        (32, 32, &[10, 20, 30][..])
    );
    assert!(matches!(task.images[0], ImageSource::Planes(_)));
    put(
        dir.path(),
        "cifar-10-batches-bin/test_batch.bin",
        [&[2], &planes[..]].concat(),
    );
    assert!(open().unwrap_err().to_string().contains("label 2"));
    put(dir.path(), "cifar-10-batches-bin/test_batch.bin", &planes[..3000]);
    assert!(open().unwrap_err().to_string().contains("within a record"));
}

#[test]
fn a_webdataset_serves_any_suite_and_says_what_it_misses() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "test/nshards.txt", "2\n");
    let fails = || open("pets", dir.path(), &Options::default()).unwrap_err().to_string();
    assert!(fails().contains("test/0.tar"));
    put(dir.path(), "test/nshards.txt", "many");
    assert!(fails().contains("number of shards"));
    put(dir.path(), "dataset_type.txt", "captioning");
    put(dir.path(), "test/nshards.txt", "99999999999");
    assert!(fails().contains("number of shards"));
}

#[test]
fn the_list_is_in_order() {
    let names: Vec<&str> = benchmark::list().iter().map(|s| s.name).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
    for suite in benchmark::list() {
        assert!(suite.layout.lines().all(|l| l.starts_with("  ")), "{}", suite.name);
        assert!(benchmark::suite(suite.name).is_some());
    }
    assert!(benchmark::suite("imagenet-1k").is_none());
    let page = include_str!("../../../docs/benchmarks.md");
    let absent = benchmark::list().iter().find(|s| {
        !page.contains(&format!("| [`{}`]({})", s.name, s.url)) && !page.contains(&format!("| `{}` |", s.name))
    });
    assert!(
        absent.is_none(),
        "docs/benchmarks.md does not tell of {:?}",
        absent.map(|s| s.name)
    );
}

fn files(folder: &Path, to: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        match path.is_dir() {
            true => files(&path, to),
            false => to.push(path),
        }
    }
}

/// Every list, table and archive of every miniature, damaged: an error or a benchmark, whose indices are all in range, but no panic.
#[test]
fn damaged_files_never_end_the_process() {
    const TIMES: usize = 12;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/tests/fixtures/benchmarks");
    let places: serde_json::Value = serde_json::from_slice(&fs::read(fixtures.join("pictures.json")).unwrap()).unwrap();
    let mut random = Random::new(7);
    let mut opened = 0;
    for suite in benchmark::list() {
        let dir = tempfile::tempdir().unwrap();
        for path in places[suite.name]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(path, _)| path)
        {
            put(dir.path(), path, "");
        }
        let layout = fixtures.join("layouts").join(suite.name);
        let mut originals = Vec::new();
        // some layouts are pictures alone
        if layout.is_dir() {
            files(&layout, &mut originals);
        }
        originals.sort();
        let original = |path: &Path| {
            (
                path.strip_prefix(&layout).unwrap().to_str().unwrap().to_owned(),
                fs::read(path).unwrap(),
            )
        };
        let originals: Vec<(String, Vec<u8>)> = originals.iter().map(|p| original(p)).collect();
        originals.iter().for_each(|(name, bytes)| put(dir.path(), name, bytes));
        for (name, bytes) in &originals {
            for _ in 0..TIMES {
                let other = &originals[random.below(originals.len())].1;
                put(dir.path(), name, mutate(&mut random, bytes, other));
                if let Ok(benchmark) = open(
                    suite.name,
                    dir.path(),
                    &Options {
                        train: true,
                        ..partial()
                    },
                ) {
                    in_range(&benchmark.task);
                    opened += 1;
                }
            }
            put(dir.path(), name, bytes);
        }
    }
    assert!(opened > 50, "the mutations leave something to open: {opened}");
}

fn in_range(task: &Task) {
    match task {
        Task::Classification(task) => {
            assert_eq!(task.images.len(), task.labels.len());
            assert!(task.labels.iter().all(|&l| l < task.classes));
            for prompts in &task.prompts {
                assert_eq!(prompts.classes.len(), prompts.names.len());
                assert!(prompts.classes.iter().all(|&c| c < task.classes));
            }
            if let Some((images, labels)) = &task.train {
                assert_eq!(images.len(), labels.len());
                assert!(labels.iter().all(|&l| l < task.classes));
            }
        }
        Task::Retrieval(task) => {
            let images = task.languages.iter().flat_map(|l| &l.captions).map(|(_, image)| *image);
            assert!(images.max().is_none_or(|most| most < task.images.len()));
        }
        Task::Composition(task) => {
            for item in task.groups.iter().flat_map(|g| &g.items) {
                assert!(item.texts.len() > 1 && item.images.iter().all(|&i| i < task.images.len()));
            }
        }
        Task::Texts(_) => {}
    }
}
