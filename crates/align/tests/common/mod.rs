//! A CLIP of a few thousand random weights on the disk, in the layout of transformers, and recipes that train on it.
#![allow(dead_code)] // each test uses its part

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bifocal_align::Recipe;
use bifocal_align::train::{Options, Progress, Silent, StepReport, run};
use bifocal_models::text::{ClipText, ClipTextConfig};
use bifocal_models::vision::{Vit, VitConfig};
use bifocal_models::vq::{Codec, Latents, Tiny, VqConfig, VqModel};
use bifocal_models::weights::{HostTensor, TensorSource, WeightsError};
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::init::Rng;
use safetensors::tensor::{Dtype, TensorView};

/// Side of its pictures.
pub const SIDE: usize = 32;
/// Ids that its tokenizer knows.
pub const VOCABULARY: usize = 64;

/// The transformers of both towers.
pub fn stack() -> StackConfig {
    StackConfig::new(16, 2, 2, 32, Gelu::Quick)
}

/// The vision tower.
pub fn vision_config() -> VitConfig {
    VitConfig::clip(SIDE, 16, 12, stack())
}

/// The text tower.
pub fn text_config() -> ClipTextConfig {
    ClipTextConfig::clip(VOCABULARY, 24, 12, stack())
}

/// Makes up whatever tensor is asked for, and remembers it.
pub struct MadeUp {
    rng: Mutex<Rng>,
    made: Mutex<BTreeMap<String, HostTensor>>,
}

impl MadeUp {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Mutex::new(Rng::new(seed)),
            made: Mutex::default(),
        }
    }
}

impl TensorSource for MadeUp {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        // transformers' names are asked for in this way
        (name == "text_model.embeddings.token_embedding.weight").then(Vec::new)
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        unreachable!("{name} is loaded without its shape")
    }

    fn load_shaped(&self, name: &str, expected: &[usize]) -> Result<HostTensor, WeightsError> {
        let n = expected.iter().product();
        let mut rng = self.rng.lock().unwrap();
        let center = if name.contains("norm") && name.ends_with("weight") {
            1.0
        } else {
            0.0
        };
        let data = (0..n).map(|_| center + 0.2 * rng.normal()).collect();
        let tensor = HostTensor {
            shape: expected.to_vec(),
            data,
        };
        self.made.lock().unwrap().insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    fn path(&self) -> &Path {
        Path::new("(made up)")
    }
}

/// Writes the model and gives its folder.
pub fn write_clip(dir: &Path) -> PathBuf {
    write_clip_of_width(dir, 16)
}

/// As [`write_clip`], with wider transformers.
pub fn write_clip_of_width(dir: &Path, width: usize) -> PathBuf {
    let folder = dir.join("tiny-clip");
    std::fs::create_dir_all(&folder).unwrap();
    let source = MadeUp::new(11);
    let stack = StackConfig::new(width, 2, 2, 2 * width, Gelu::Quick);
    Vit::load(VitConfig::clip(SIDE, 16, 12, stack.clone()), &source).unwrap();
    ClipText::load(ClipTextConfig::clip(VOCABULARY, 24, 12, stack), &source).unwrap();
    let made = source.made.into_inner().unwrap();
    let bytes: Vec<Vec<u8>> = made
        .values()
        .map(|t| t.data.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = made.iter().zip(&bytes).map(|((name, t), bytes)| {
        (
            name.clone(),
            TensorView::new(Dtype::F32, t.shape.clone(), bytes).unwrap(),
        )
    });
    std::fs::write(
        folder.join("model.safetensors"),
        safetensors::serialize(views, None).unwrap(),
    )
    .unwrap();
    let tower = serde_json::json!({
        "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * width,
        "image_size": SIDE, "patch_size": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 24,
    });
    let config = serde_json::json!({
        "model_type": "clip", "projection_dim": 12, "vision_config": tower, "text_config": tower,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let words = "a the an of in on and with is to his her at up man woman dog cat train bus street table people two three \
                 red green blue white black sitting standing riding holding next front water plate food";
    let vocabulary: BTreeMap<&str, usize> = ["<unk>", "<end>"]
        .into_iter()
        .chain(words.split_whitespace())
        .zip(0..)
        .collect();
    assert!(vocabulary.len() <= VOCABULARY);
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(
        folder.join("tokenizer_config.json"),
        r#"{"eos_token": "<end>", "unk_token": "<unk>"}"#,
    )
    .unwrap();
    folder
}

/// The project's own fifty photos.
pub fn photos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/photos")
}

/// Stops, as a kill would, after a step.
struct Killed(u64);

impl Progress for Killed {
    fn step(&mut self, report: &StepReport<'_>) {
        assert!(report.metrics.step != self.0, "killed");
    }
}

/// Trains a recipe, and again for each of these steps: killed after it and resumed, the run ends with the same bytes in bundle, last checkpoint and metrics.
pub fn killed_runs_end_alike(recipe: &Recipe, dir: &Path, steps: &[u64]) {
    let options = |name: &str, resume| Options {
        out: dir.join(name),
        resume,
    };
    let kept = |name: &str| -> BTreeMap<PathBuf, Vec<u8>> {
        let out = dir.join(name);
        let entries = std::fs::read_dir(out.join("checkpoints")).unwrap();
        let checkpoints = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let last = checkpoints.max().expect("a checkpoint");
        let metrics = out.join("metrics.jsonl");
        let mut all = files(&out.join("model"));
        assert!(!all.is_empty());
        all.extend(files(&last));
        all.insert(metrics.clone(), std::fs::read(&metrics).unwrap());
        let below = |(path, bytes): (PathBuf, _)| (path.strip_prefix(&out).unwrap().to_owned(), bytes);
        all.into_iter().map(below).collect()
    };
    run(recipe, &options("whole", false), &mut Silent).unwrap();
    let whole = kept("whole");
    for step in steps {
        let name = step.to_string();
        let killed = AssertUnwindSafe(|| run(recipe, &options(&name, false), &mut Killed(*step)));
        assert!(catch_unwind(killed).is_err());
        run(recipe, &options(&name, true), &mut Silent).unwrap();
        let resumed = kept(&name);
        assert_eq!(resumed.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
        for (path, bytes) in &whole {
            assert!(
                resumed[path] == *bytes,
                "killed after {step}: {} differs",
                path.display()
            );
        }
    }
}

/// The first of those photos in a folder `data` with captions; the names of the photos come along.
pub fn captioned(dir: &Path, captions: &[&str]) -> (PathBuf, Vec<String>) {
    let folder = dir.join("data");
    std::fs::create_dir_all(&folder).unwrap();
    let entries = std::fs::read_dir(photos().join("images")).unwrap();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    let (mut lines, mut names) = (String::new(), Vec::new());
    for (photo, caption) in all.iter().zip(captions) {
        let name = photo.file_name().unwrap().to_str().unwrap();
        std::fs::copy(photo, folder.join(name)).unwrap();
        let row = serde_json::json!({"image": name, "captions": {"en": [caption]}});
        lines.push_str(&format!("{row}\n"));
        names.push(name.to_owned());
    }
    std::fs::write(folder.join("captions.jsonl"), lines).unwrap();
    (folder, names)
}

/// A short run of a method on the tiny model.
pub fn recipe(method: &str, model: &Path, cache: &Path, sets: &[&str]) -> Recipe {
    let text = format!(
        r#"
        method = "{method}"
        embed_dim = 12
        vision = {{ model = {model:?} }}
        text = {{ model = {model:?} }}
        image_head = {{ dropout = 0.1, input_dropout = 0.1 }}
        text_head = {{ blocks = 2, ratio = 2, noise = 0.05 }}
        loss = {{ captions = 2 }}
        optimizer = {{ lr = 1e-3 }}
        schedule = {{ steps = 7, warmup = 2 }}
        run = {{ checkpoint_every = 2, cache = {cache:?} }}
        {stages}
        [data]
        batch = 6
        [[data.sources]]
        path = {photos:?}
        holdout = 10
        weight = 0.7
        "#,
        photos = photos(),
        stages = match method {
            "llm2clip" => {
                "stage.caption = { skip = false, schedule = { steps = 3, warmup = 1 }, data = { batch = 5 }, lora = { rank = 2, dropout = 0.1 } }"
            }
            "proclip" => "stage.inherit = { schedule = { steps = 3 }, data = { batch = 9 } }",
            _ => "",
        },
    );
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse(&text, Path::new("test.toml"), None, &sets).unwrap()
}

/// What a short run of EWC leaves for the runs after it.
pub fn importance(model: &Path, dir: &Path) -> PathBuf {
    let sets = ["schedule.steps=3", "optimizer.lr=0.01", "elastic.batches=3"];
    let recipe = recipe("ewc", model, &dir.join("cache"), &sets);
    let options = Options {
        out: dir.join("former"),
        resume: false,
    };
    run(&recipe, &options, &mut Silent).unwrap();
    options.out.join("importance.safetensors")
}

/// All files below a folder with their contents.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

/// Writes the folder of an autoencoder with 24 codes and random weights, a code for 16 pixels, and gives it.
pub fn write_codec(dir: &Path) -> PathBuf {
    let folder = dir.join("codec");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/vq");
    let files = ["encoder", "decoder"].map(|part| fixtures.join(format!("pooled_{part}.safetensors")));
    let channels = Tiny::open(&files).unwrap().channels();
    let config = VqConfig {
        channels,
        widths: vec![32, 32],
        blocks: 1,
        attention: false,
        z_channels: 8,
        codes: 24,
        code_dim: 4,
    };
    let vq = VqModel::new(config, &mut Rng::new(8)).unwrap();
    let latents = Latents {
        shift: vec![0.1; channels],
        scale: vec![1.5; channels],
    };
    Codec::save(&folder, &vq, &latents, 48, &files).unwrap();
    folder
}

/// What makes a recipe of the tiny model one for a TokLIP of pictures of 48 pixels, which begins with initial values.
pub fn on_codes(codec: &Path) -> Vec<String> {
    let new = "vision.new={ family = \"siglip\", size = 48, patch = 16, width = 16, layers = 2, heads = 2 }";
    vec![
        "vision.model=".to_owned(),
        new.to_owned(),
        format!("vision.codes={{ model = {codec:?} }}"),
        "image_head.kind=linear".to_owned(),
    ]
}
