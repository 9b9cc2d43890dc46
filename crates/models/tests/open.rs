//! Settings that change what a model computes are either followed or refused, never ignored.

mod common;

use std::fs;
use std::path::Path;

use bifocal_data::{Filter, ResizeMode};
use bifocal_models::open::{OpenError, TextOptions, VisionEncoder, open_text, open_vision};
use common::fixture;
use serde_json::{Value, json};

/// A copy of a fixture's folder with one setting replaced; `pointer` as in RFC 6901.
fn edited(folder: &str, file: &str, pointer: &str, value: Value) -> tempfile::TempDir {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    common::edited(folder, file, |settings| {
        settings.pointer_mut(parent).unwrap()[key] = value
    })
}

fn vision(folder: &str, file: &str, pointer: &str, value: Value) -> Result<VisionEncoder, OpenError> {
    open_vision(edited(folder, file, pointer, value).path())
}

#[test]
fn settings_that_are_not_implemented_are_refused() {
    for (folder, file, pointer, value) in [
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/timm_model_name",
            json!("vit"),
        ),
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/global_average_pool",
            json!(true),
        ),
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/pool_type",
            json!("avg"),
        ),
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/no_ln_pre",
            json!(true),
        ),
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/layers",
            json!([3, 4, 6, 3]),
        ),
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/head_width",
            json!(0),
        ),
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/mlp_ratio",
            json!(1e300),
        ),
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/preprocess_cfg/resize_mode",
            json!("stretch"),
        ),
        (
            "clip-open-clip-erf",
            "open_clip_config.json",
            "/preprocess_cfg/std",
            json!([0, 0, 0]),
        ),
        (
            "clip-hugging-face",
            "config.json",
            "/vision_config/hidden_act",
            json!("relu"),
        ),
        (
            "clip-hugging-face",
            "config.json",
            "/vision_config/layer_norm_eps",
            json!(0),
        ),
        (
            "clip-hugging-face",
            "config.json",
            "/vision_config/image_size",
            json!(-1),
        ),
        ("clip-hugging-face", "config.json", "/model_type", json!("siglip")),
        (
            "clip-hugging-face",
            "preprocessor_config.json",
            "/crop_size/height",
            json!(24),
        ),
        (
            "clip-hugging-face",
            "preprocessor_config.json",
            "/do_resize",
            json!(false),
        ),
        ("clip-hugging-face", "preprocessor_config.json", "/resample", json!(6)),
        ("siglip", "config.json", "/vision_config/vision_use_head", json!(false)),
        ("siglip", "config.json", "/vision_config/hidden_act", json!("silu")),
        ("siglip", "config.json", "/vision_config/num_channels", json!(4)),
        ("siglip", "config.json", "/vision_config/image_size", json!(40)),
        (
            "siglip",
            "preprocessor_config.json",
            "/size",
            json!({"height": 22, "width": 20}),
        ),
        (
            "siglip",
            "preprocessor_config.json",
            "/size",
            json!({"height": 44, "width": 44}),
        ),
        ("siglip2", "config.json", "/vision_config/num_patches", json!(15)),
        ("siglip2", "config.json", "/vision_config/patch_size", json!(5)),
        ("siglip2", "preprocessor_config.json", "/max_num_patches", json!(0)),
        ("siglip2", "preprocessor_config.json", "/patch_size", json!(16)),
        ("dinov2", "config.json", "/qkv_bias", json!(false)),
        ("dinov2", "config.json", "/hidden_act", json!("relu")),
        ("dinov2", "config.json", "/use_swiglu_ffn", json!(true)),
        ("dinov2", "config.json", "/mlp_ratio", json!(1e300)),
        ("dinov2", "preprocessor_config.json", "/crop_size", json!(4)),
        (
            "dinov2-registers",
            "config.json",
            "/num_register_tokens",
            json!(u64::MAX),
        ),
        ("dinov2-registers", "config.json", "/num_register_tokens", json!(0)),
        (
            "resnet-open-clip",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/layers",
            json!([1, 2]),
        ),
        (
            "resnet-open-clip",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/layers",
            json!([1, 2, 1, 0]),
        ),
        (
            "resnet-open-clip",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/width",
            json!(u64::MAX),
        ),
        (
            "resnet-open-clip",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/image_size",
            json!(65),
        ),
        (
            "resnet-open-clip",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/head_width",
            json!(7),
        ),
    ] {
        let error = vision(folder, file, pointer, value).expect_err(pointer);
        println!("{error}");
    }
}

/// The fixture's own tower is too small for any name, so that only the message tells what is refused.
#[test]
fn towers_of_timm_that_are_not_known_are_refused_by_name() {
    for (pointer, value, told) in [
        ("timm_pool", json!("avg"), "avg"),
        ("timm_proj", json!("linear"), "linear"),
        (
            "timm_model_name",
            json!("eva02_enormous_patch14_clip_224"),
            "eva02_enormous",
        ),
        ("timm_drop", json!(0.5), "timm_drop"),
        ("timm_model_name", json!("vit_base_patch16_siglip_224"), "the width 768"),
    ] {
        let pointer = format!("/model_cfg/vision_cfg/{pointer}");
        let error = vision("siglip-open-clip", "open_clip_config.json", &pointer, value).unwrap_err();
        assert!(error.to_string().contains(told), "{pointer}: {error}");
    }
}

#[test]
fn text_settings_that_are_not_implemented_are_refused() {
    for (folder, pointer, value) in [
        ("siglip", "/text_config/projection_size", json!(23)),
        ("siglip", "/text_config/max_position_embeddings", json!(8)),
        ("siglip-open-clip", "/model_cfg/text_cfg/pool_type", json!("argmax")),
        ("siglip-open-clip", "/model_cfg/text_cfg/proj_bias", json!(false)),
        (
            "siglip-open-clip",
            "/model_cfg/text_cfg/act_kwargs/approximate",
            json!("sigmoid"),
        ),
        ("siglip-open-clip", "/model_cfg/text_cfg/norm_kwargs/eps", json!(0)),
        (
            "siglip-open-clip",
            "/model_cfg/text_cfg/tokenizer_kwargs/clean",
            json!("whitespace"),
        ),
    ] {
        let open_clip = folder.ends_with("open-clip");
        let file = if open_clip {
            "open_clip_config.json"
        } else {
            "config.json"
        };
        let dir = edited(folder, file, pointer, value);
        let error = open_text(dir.path(), &TextOptions::default())
            .map(|_| ())
            .expect_err(pointer);
        println!("{error}");
    }
}

/// Newer releases of transformers write one file for pictures and texts.
#[test]
fn preprocessing_is_found_in_the_processors_file() {
    let dir = edited("siglip", "config.json", "/model_type", json!("siglip"));
    let old = dir.path().join("preprocessor_config.json");
    let settings: Value = serde_json::from_slice(&fs::read(&old).unwrap()).unwrap();
    fs::remove_file(&old).unwrap();
    fs::write(
        dir.path().join("processor_config.json"),
        json!({"image_processor": settings}).to_string(),
    )
    .unwrap();
    let encoder = open_vision(dir.path()).unwrap();
    assert_eq!(encoder.preprocess.filter, Filter::Bilinear);
    assert_eq!(encoder.preprocess.mean, [0.5, 0.4, 0.3]);
}

#[test]
fn preprocessing_follows_its_settings() {
    let plain = open_vision(&fixture("clip-open-clip-erf")).unwrap();
    assert_eq!(
        (plain.preprocess.resize, plain.preprocess.filter),
        (ResizeMode::Shortest, Filter::Bicubic)
    );
    let file = "open_clip_config.json";
    let squash = vision(
        "clip-open-clip-erf",
        file,
        "/preprocess_cfg/resize_mode",
        json!("squash"),
    )
    .unwrap();
    assert_eq!(squash.preprocess.resize, ResizeMode::Squash);
    assert_ne!(
        squash.fingerprint, plain.fingerprint,
        "settings are part of what a model is"
    );
    let longest = vision(
        "clip-open-clip-erf",
        file,
        "/preprocess_cfg/resize_mode",
        json!("longest"),
    )
    .unwrap();
    assert_eq!(longest.preprocess.resize, ResizeMode::Longest { fill: [0; 3] });
    let file = "preprocessor_config.json";
    let resized = vision("clip-hugging-face", file, "/size/shortest_edge", json!(24)).unwrap();
    assert_eq!(
        resized.preprocess.resize,
        ResizeMode::ShortestThenCrop { resize_to: 24 }
    );
    let bilinear = vision("clip-hugging-face", file, "/resample", json!(2)).unwrap();
    assert_eq!(bilinear.preprocess.filter, Filter::Bilinear);
}

#[test]
fn sentence_encoders_with_more_than_pooling_are_refused() {
    let refused = |edit: &dyn Fn(&Path)| {
        let dir = edited("tiny-bert", "config.json", "/model_type", json!("bert"));
        edit(dir.path());
        open_text(dir.path(), &TextOptions::default())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let recurrent =
        json!([{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.LSTM"}]);
    assert!(refused(&|dir| fs::write(dir.join("modules.json"), recurrent.to_string()).unwrap()).contains("LSTM"));
    let pooling = |dir: &Path, settings: Value| {
        fs::create_dir(dir.join("1_Pooling")).unwrap();
        fs::write(dir.join("1_Pooling/config.json"), settings.to_string()).unwrap();
    };
    let both = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
    assert!(refused(&|dir| pooling(dir, both.clone())).contains("more than one pooling"));
    let weighted = json!({"pooling_mode_weightedmean_tokens": true});
    assert!(refused(&|dir| pooling(dir, weighted.clone())).contains("pooling_mode_weightedmean_tokens"));
    // nothing is wrong but that the fixture has no tokenizer
    assert!(refused(&|_| ()).contains("tokenizer.json"));
}

#[test]
fn damaged_settings_are_refused() {
    let dir = edited("clip-hugging-face", "config.json", "/model_type", json!("clip"));
    for text in [
        "",
        "[]",
        "{\"model_type\": 3}",
        "{}",
        "{\"model_type\": \"clip\", \"vision_config\": 7}",
    ] {
        fs::write(dir.path().join("config.json"), text).unwrap();
        let error = open_vision(dir.path()).map(|_| ()).expect_err(text);
        println!("{text:?}: {error}");
    }
}
