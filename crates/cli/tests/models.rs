//! A CLIP as it was published, without training: searched, told of, converted.

mod common;

use common::{fails, samples, succeeds, text, tiny};

#[test]
fn a_clip_folder_indexes_searches_and_classifies() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| text(&dir.path().join(name)).to_owned();
    let model = tiny::write_clip(dir.path());
    let photos = samples("photos");
    let index = [
        "index",
        "--model",
        text(&model),
        "--store",
        &at("store"),
        text(&photos),
        "--json",
    ];
    let summary: serde_json::Value = serde_json::from_str(&succeeds(&index)).expect("JSON");
    assert_eq!(summary["added"], 50);
    let photo = photos.join("images/000000012280.jpg");
    let search = |query: &[&str]| {
        let store = at("store");
        let args = [&["search", "--store", &store, "-k", "1", "--json"], query].concat();
        serde_json::from_str::<serde_json::Value>(&succeeds(&args)).expect("JSON")
    };
    let found = search(&["--image", text(&photo)]);
    assert!(
        found["hits"][0]["key"]
            .as_str()
            .is_some_and(|key| key.ends_with("000000012280.jpg")),
        "{found}"
    );
    assert_eq!(
        search(&["a dog on the street"])["hits"].as_array().map(Vec::len),
        Some(1)
    );
    let labels = succeeds(&["classify", "--model", text(&model), "--labels", "cat,dog", text(&photo)]);
    assert!(labels.contains("cat") && labels.contains("dog"), "{labels}");
}

#[test]
fn a_model_is_told_of_and_converted() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| text(&dir.path().join(name)).to_owned();
    let model = tiny::write_clip(dir.path());
    let info = |model: &str| {
        let json = succeeds(&["info", "--json", model]);
        serde_json::from_str::<serde_json::Value>(&json).expect("JSON")
    };
    let told = info(text(&model));
    assert_eq!(told["vision_tower"]["image_size"], tiny::SIDE);
    assert_eq!(told["text_tower"]["longest_text_in_tokens"], 24);
    assert_eq!(told["weights"][0]["stored_as"]["F32"], told["weights"][0]["parameters"]);
    assert!(succeeds(&["info", text(&model)]).contains("longest text in tokens: 24"));
    succeeds(&["convert", text(&model), &at("open-clip"), "--layout", "open-clip"]);
    succeeds(&["convert", &at("open-clip"), &at("bundle")]);
    let bundle = info(&at("bundle"));
    assert_eq!(
        (&bundle["kind"], &bundle["embedding_width"]),
        (&"bundle".into(), &12.into())
    );
    assert!(bundle["fingerprint"].is_string());
    // the embeddings are the same wherever the model has been
    let rows = |model: &str, out: &str| {
        let texts = ["a dog", "two people riding a bus"];
        succeeds(&[
            "embed",
            "--model",
            model,
            "--out",
            &at(out),
            "--text",
            texts[0],
            texts[1],
        ]);
        std::fs::read(at(out)).expect("rows")
    };
    assert_eq!(rows(text(&model), "a.npy"), rows(&at("bundle"), "b.npy"));
    let again = fails(1, &["convert", text(&model), &at("bundle")]);
    assert!(again.contains("is there already"), "{again}");
}

#[test]
fn the_doctor_tells_with_its_exit_code() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let told = succeeds(&["doctor", text(&model)]);
    assert!(
        told.contains("no preprocessor_config.json") && !told.contains("PROBLEM"),
        "{told}"
    );
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&weights, bytes).expect("write");
    let message = fails(1, &["doctor", "--json", text(&model)]);
    assert!(message.contains("problems"), "{message}");
}
