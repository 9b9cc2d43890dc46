//! `bifocal chat` through the binary: a tiny LLaVA of random weights, a bundle, and the real SmolLM2.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{bifocal, fails, samples, succeeds, text};
use serde_json::Value;

fn llava() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/llava")
}

fn photo() -> PathBuf {
    let all = std::fs::read_dir(samples("photos/images")).expect("samples");
    all.map(|entry| entry.expect("entry").path()).min().expect("a photo")
}

fn answers(printed: &str) -> Vec<Value> {
    printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Gives the binary questions, a line each.
fn talks(args: &[&str], questions: &str) -> String {
    let mut child = bifocal(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(questions.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn it_talks_about_a_picture() {
    let (model, photo) = (llava(), photo());
    let (model, photo) = (text(&model), text(&photo));
    let base = [
        "chat",
        "--model",
        model,
        "--image",
        photo,
        "--system",
        "w3",
        "--max-tokens",
        "6",
    ];
    let one = succeeds(&[&base[..], &["--prompt", "w5 w6", "--json"]].concat());
    let [answer] = answers(&one).try_into().expect("one answer");
    assert_eq!(answer["image"], photo);
    // w3 <unk>, nine patches, w5 w6 <unk>
    assert_eq!(answer["tokens"]["read"], 14);
    let said = answer["answer"].as_str().expect("a text").to_owned();
    let streamed = succeeds(&[&base[..], &["--prompt", "w5 w6"]].concat());
    assert_eq!(streamed.trim(), said, "the same, as it is written");
    // a dialogue goes on where it was
    let two = answers(&talks(&[&base[..], &["--json"]].concat(), "w5 w6\n\nw7\n"));
    assert_eq!(two.len(), 2);
    assert_eq!(two[0]["answer"], said);
    assert!(
        two[1]["tokens"]["read"].as_u64() < Some(9),
        "the picture is not read again: {two:?}"
    );
    // several pictures, one by one; seeds repeat
    let photos = [
        "--image",
        photo,
        "--image",
        photo,
        "--prompt",
        "w5",
        "--json",
        "--temperature",
        "1.5",
        "--seed",
        "3",
    ];
    let drawn = answers(&succeeds(
        &[&["chat", "--model", model, "--max-tokens", "8"], &photos[..]].concat(),
    ));
    assert_eq!(drawn.len(), 2);
    assert_eq!(drawn[0]["answer"], drawn[1]["answer"]);
    let beams = succeeds(
        &[
            &base[..],
            &["--prompt", "w5", "--beams", "3", "--no-repeat", "2", "--json"],
        ]
        .concat(),
    );
    assert_eq!(answers(&beams).len(), 1);
}

/// The whole way: a recipe, pictures held out, a bundle, an answer.
#[test]
fn what_training_leaves_talks() {
    let dir = tempfile::tempdir().expect("a folder");
    let clip = common::tiny::write_clip(dir.path());
    let llm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/tiny-qwen3.gguf");
    let (photos, cache, path) = (
        samples("photos"),
        dir.path().join("cache"),
        dir.path().join("recipe.toml"),
    );
    let recipe = format!(
        r#"
method = "llava"
embed_dim = 24
vision = {{ model = {clip:?} }}
text = {{ model = {llm:?} }}
image_head = {{ kind = "linear", ratio = 1 }}
chat = {{ max_tokens = 64 }}
schedule = {{ steps = 2 }}
data = {{ batch = 4, sources = [{{ path = {photos:?}, holdout = 40 }}] }}
run = {{ cache = {cache:?} }}
"#
    );
    std::fs::write(&path, recipe).expect("write");
    let out = dir.path().join("run");
    let told = succeeds(&["train", text(&path), "--out", text(&out)]);
    assert!(told.contains("bifocal chat --model"), "{told}");
    let (model, photo) = (out.join("model"), photo());
    let said = succeeds(&[
        "chat",
        "--model",
        text(&model),
        "--image",
        text(&photo),
        "--max-tokens",
        "4",
        "--json",
    ]);
    assert_eq!(answers(&said)[0]["tokens"]["read"], 4, "four patches");
    let embeds = fails(
        1,
        &[
            "embed",
            "--model",
            text(&model),
            "--text",
            "a",
            "--out",
            text(&dir.path().join("a.npy")),
        ],
    );
    assert!(embeds.contains("bifocal chat"), "{embeds}");
}

/// A tower of codes, a model that reads and draws them, a picture.
#[test]
fn what_training_leaves_draws() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, recipe: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, recipe).expect("write");
        path
    };
    let clip = common::tiny::write_clip(dir.path());
    let codec = common::tiny::write_codec(dir.path());
    let llm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/tiny-qwen3.gguf");
    let (photos, cache) = (samples("photos"), dir.path().join("cache"));
    let rest = format!(
        r#"
schedule = {{ steps = 2 }}
data = {{ batch = 4, sources = [{{ path = {photos:?}, languages = ["en"], holdout = 40 }}] }}
run = {{ cache = {cache:?} }}
"#
    );
    let tower = write(
        "tower.toml",
        format!(
            r#"
method = "clip"
embed_dim = 12
text = {{ model = {clip:?} }}
freeze = [{{ pattern = "text.*", frozen = true }}]
[vision]
codes = {{ model = {codec:?} }}
new = {{ family = "siglip", size = 48, patch = 16, width = 16, layers = 2, heads = 2 }}
"#
        )
        .replacen("embed_dim = 12", &format!("embed_dim = 12{rest}"), 1),
    );
    let toklip = dir.path().join("toklip");
    succeeds(&["train", text(&tower), "--out", text(&toklip)]);
    let toklip = toklip.join("model");
    let path = write(
        "unified.toml",
        format!(
            r#"
method = "unified"
embed_dim = 24
vision = {{ model = {toklip:?} }}
text = {{ model = {llm:?} }}
lora = {{ rank = 2 }}
chat = {{ max_tokens = 64 }}
{rest}"#
        ),
    );
    let out = dir.path().join("run");
    let told = succeeds(&["train", text(&path), "--out", text(&out)]);
    assert!(told.contains("bifocal chat --model"), "{told}");
    let (model, photo) = (out.join("model"), photo());
    let model = text(&model);
    let said = succeeds(&[
        "chat",
        "--model",
        model,
        "--image",
        text(&photo),
        "--max-tokens",
        "4",
        "--json",
    ]);
    assert_eq!(answers(&said)[0]["tokens"]["read"], 11, "nine codes and two marks");
    let picture = dir.path().join("a.png");
    let base = ["chat", "--model", model, "--draw", text(&picture), "--prompt", "a dog"];
    let line = succeeds(&base);
    assert!(
        line.contains("48 × 48 pixels of 9 codes") && line.contains("tokens/s"),
        "{line}"
    );
    let first = std::fs::read(&picture).expect("a picture");
    assert_eq!(first[..8], *b"\x89PNG\r\n\x1a\n");
    let with = |more: &[&str]| {
        let json = succeeds(&[&base[..], &["--json"], more].concat());
        answers(&json).remove(0)["codes"].clone()
    };
    // seeds repeat, guidance asks for something else
    assert_eq!(with(&["--seed", "7"]), with(&["--seed", "7"]));
    assert_ne!(with(&["--seed", "7"]), with(&["--seed", "8"]));
    assert_eq!(with(&["--guidance", "3"]).as_array().map(Vec::len), Some(9));
    // told, and nothing of it a panic
    assert!(fails(2, &["chat", "--model", model]).contains("--draw"));
    assert!(fails(2, &[&base[..], &["--guidance", "1000"]].concat()).contains("guidance"));
    let jpg = ["chat", "--model", model, "--draw", "a.jpg", "--prompt", "a dog"];
    assert!(fails(2, &jpg).contains("PNG"));
    let blind = llava();
    let blind = [
        "chat",
        "--model",
        text(&blind),
        "--draw",
        text(&picture),
        "--prompt",
        "w3",
    ];
    assert!(fails(1, &blind).contains("recipes/unified.toml"));
    let checked = succeeds(&["doctor", model]);
    assert!(checked.contains("draws"), "{checked}");
    let embeds = ["embed", "--model", model, "--text", "a", "--out", "a.npy"];
    assert!(fails(1, &embeds).contains("bifocal chat"));
}

#[test]
fn wrong_use_is_told() {
    let (model, photo) = (llava(), photo());
    let (model, photo) = (text(&model), text(&photo));
    let wrong = |code, args: &[&str]| fails(code, &[&["chat", "--model", model], args].concat());
    assert!(wrong(2, &["--image", photo, "--image", photo]).contains("--prompt"));
    assert!(wrong(2, &["--prompt", "w3", "--top-p", "0"]).contains("top_p"));
    assert!(wrong(2, &["--prompt", "w3", "--beams", "2", "--temperature", "1"]).contains("--temperature"));
    assert!(wrong(2, &["--prompt", "w3", "--max-tokens", "0"]).contains("--max-tokens"));
    assert!(wrong(1, &["--prompt", "w3", "--image", "nowhere.jpg"]).contains("nowhere.jpg"));
    let long = "w3 ".repeat(80);
    assert!(wrong(1, &["--prompt", &long]).contains("64"));
    let clip = tempfile::tempdir().expect("a folder");
    let clip = common::tiny::write_clip(clip.path());
    assert!(fails(1, &["chat", "--model", text(&clip), "--prompt", "a"]).contains("writes none"));
    assert!(fails(1, &["chat", "--model", "nowhere", "--prompt", "a"]).contains("nowhere"));
}

#[test]
fn a_language_model_talks_without_a_picture() {
    let Some(models) = std::env::var_os("BIFOCAL_MODELS").map(PathBuf::from) else {
        println!("skipped: set BIFOCAL_MODELS (see CONTRIBUTING.md) to talk with SmolLM2");
        return;
    };
    let model = models.join("smollm2");
    let model = text(&model);
    let said = succeeds(&[
        "chat",
        "--model",
        model,
        "--prompt",
        "What is the capital of France?",
        "--max-tokens",
        "30",
    ]);
    assert!(said.contains("Paris"), "{said}");
    let photo = photo();
    let blind = fails(
        2,
        &[
            "chat",
            "--model",
            model,
            "--image",
            text(&photo),
            "--prompt",
            "What is this?",
        ],
    );
    assert!(blind.contains("sees no pictures"), "{blind}");
}
