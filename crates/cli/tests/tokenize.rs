//! `bifocal train` with an autoencoder's recipe, then `bifocal tokenize` there and back.

mod common;

use std::path::{Path, PathBuf};

use common::{fails, samples, succeeds};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/tests/fixtures/vq")
        .join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn pngs(folder: &Path) -> Vec<(u32, u32)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let image = bifocal_data::ImageSource::File(path);
            let image = image
                .open(&bifocal_data::Limits::default(), Default::default())
                .unwrap();
            (image.width(), image.height())
        })
        .collect()
}

#[test]
fn a_codebook_is_trained_and_takes_pictures_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("tiny")).unwrap();
    for name in ["pooled_encoder.safetensors", "pooled_decoder.safetensors"] {
        std::fs::copy(fixture(name), at("tiny").join(name)).unwrap();
    }
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/vq.toml");
    let sets = [
        format!("autoencoder.model={:?}", at("tiny")),
        format!("data.sources=[{{ path = {:?}, holdout = 3 }}]", samples("photos")),
        format!("run.cache={:?}", at("cache")),
    ];
    let (recipe, run) = (text(&recipe).to_owned(), at("run"));
    let mut train = vec!["train", &recipe, "--profile", "smoke", "--out", text(&run)];
    sets.iter().for_each(|set| train.extend(["--set", set]));
    let mut explain = train.clone();
    explain.push("--explain");
    let told = succeeds(&explain);
    assert!(
        told.contains("47 pictures, 3 held out, 6 steps") && told.contains("16 × 16 pixels"),
        "{told}"
    );
    assert!(!run.exists());
    let told = succeeds(&train);
    assert!(
        told.contains("held-out pictures") && told.contains("bifocal tokenize"),
        "{told}"
    );
    fails(1, &train);
    train.push("--resume");
    succeeds(&train);
    let wrong = fails(2, &["cache", &recipe]);
    assert!(wrong.contains("bifocal train"), "{wrong}");

    let (model, holdout) = (run.join("model"), run.join("holdout.json"));
    let (model, holdout) = (text(&model), text(&holdout));
    let (npy, jsonl, pairs) = (at("codes.npy"), at("codes.jsonl"), at("pairs"));
    let told = succeeds(&[
        "tokenize",
        "--model",
        model,
        "--holdout",
        holdout,
        "--out",
        text(&npy),
        "--pairs",
        text(&pairs),
        "--json",
    ]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["pictures"], &told["size"], &told["of"]),
        (&3.into(), &64.into(), &64.into())
    );
    let psnr = |way: &str| told[way]["psnr"].as_f64().unwrap();
    assert!(psnr("codes") > 0.0 && psnr("without_codes") > 0.0);
    assert!((0.0..=1.0).contains(&told["codes"]["ssim"].as_f64().unwrap().abs()));
    let used = told["used"].as_u64().unwrap();
    assert!((1..=48).contains(&used) && told["perplexity"].as_f64().unwrap() <= used as f64 + 1e-9);
    // before, without codes, with codes, and two gaps
    assert_eq!(pngs(&pairs), [(3 * 64 + 4, 64); 3]);
    succeeds(&[
        "tokenize",
        "--model",
        model,
        "--holdout",
        holdout,
        "--out",
        text(&jsonl),
    ]);
    let mut decoded = Vec::new();
    for (codes, out) in [(&npy, at("a")), (&jsonl, at("b"))] {
        succeeds(&[
            "tokenize",
            "--model",
            model,
            "--decode",
            text(codes),
            "--out",
            text(&out),
        ]);
        assert_eq!(pngs(&out), [(64, 64); 3]);
        decoded.push(std::fs::read(out.join("000001.png")).unwrap());
    }
    assert!(decoded[0] == decoded[1]);

    let photos = samples("photos");
    let photos = text(&photos);
    let told = succeeds(&["tokenize", "--model", text(&at("tiny")), "--size", "64", photos]);
    assert!(told.contains("without codes  PSNR") && !told.contains("used"), "{told}");
    let no_codes = fails(
        2,
        &["tokenize", "--model", text(&at("tiny")), photos, "--out", text(&npy)],
    );
    assert!(no_codes.contains("no codes"), "{no_codes}");
    fails(2, &["tokenize", "--model", model]);
    fails(2, &["tokenize", "--model", model, photos, "--size", "40"]);
    fails(2, &["tokenize", "--model", model, photos, "--out", "codes.txt"]);
    fails(2, &["tokenize", "--model", "nowhere", photos]);
    std::fs::write(&jsonl, "{\"image\": \"a\", \"codes\": [[64]]}\n").unwrap();
    let unknown = fails(
        1,
        &[
            "tokenize",
            "--model",
            model,
            "--decode",
            text(&jsonl),
            "--out",
            text(&at("c")),
        ],
    );
    assert!(unknown.contains("no code 64"), "{unknown}");
}

#[test]
fn a_file_of_llamagens_tokenizes() {
    let dir = tempfile::tempdir().unwrap();
    let codes = dir.path().join("codes.jsonl");
    let photos = samples("photos/images");
    let mut all: Vec<PathBuf> = std::fs::read_dir(&photos).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    let model = fixture("llamagen.pt");
    let told = succeeds(&[
        "tokenize",
        "--model",
        text(&model),
        "--size",
        "32",
        text(&all[0]),
        text(&all[1]),
        "--out",
        text(&codes),
    ]);
    assert!(
        told.contains("2 pictures of 32 × 32 pixels") && told.contains("16 × 16 codes"),
        "{told}"
    );
    assert!(told.contains("of 50 codes used"), "{told}");
    let lines = std::fs::read_to_string(&codes).unwrap();
    assert_eq!(lines.lines().count(), 2);
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["codes"].as_array().map(Vec::len), Some(16));
}
