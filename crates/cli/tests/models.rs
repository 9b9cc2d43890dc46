//! A CLIP as it was published, without training: searched, told of, converted.

mod common;

use common::{fails, run, samples, succeeds, text, tiny};

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
fn a_trace_tells_where_time_goes() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| text(&dir.path().join(name)).to_owned();
    let model = tiny::write_clip(dir.path());
    let (rows, trace) = (at("rows.npy"), at("trace.json"));
    let embed = ["embed", "--model", text(&model), "--text", "a dog", "--out", &rows];
    let output = run(&[&embed[..], &["--trace", &trace]].concat());
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("Attention") && told.contains("perfetto"), "{told}");
    let read =
        |path: &str| serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).expect("a file")).expect("JSON");
    let trace = read(&trace);
    let events = trace["traceEvents"].as_array().expect("events");
    let of = |name: &str| events.iter().filter(|event| event["name"] == name).collect::<Vec<_>>();
    assert_eq!((of("text tower").len(), of("vision tower").len()), (1, 0));
    let end =
        |event: &serde_json::Value| event["ts"].as_f64().expect("a number") + event["dur"].as_f64().expect("a number");
    // layers are within their tower, products within their layer
    let (tower, blocks) = (of("text tower")[0], of("Block"));
    assert!(!blocks.is_empty() && blocks.iter().all(|block| end(block) <= end(tower) + 1e-3));
    assert!(tower["args"]["gflop"].as_f64().expect("a number") > 0.0);
    // a place where nothing can be written is an error of its own, and the rows are there
    let lost = fails(1, &[&embed[..], &["--trace", &at("not/there.json")]].concat());
    assert!(lost.contains("cannot write the trace"), "{lost}");
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
