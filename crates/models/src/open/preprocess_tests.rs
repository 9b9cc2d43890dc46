//! Settings against the processors of transformers. Fixture: scripts/fixtures/image_processors.py.

use bifocal_data::RgbImage;
use serde_json::json;

use super::*;

/// The same generator as in the script.
fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    let mut state = seed;
    let data = (0..width * height * 3)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    RgbImage::new(width, height, data).unwrap()
}

fn read(settings: &Value) -> Result<Preprocess, OpenError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILES[0]), settings.to_string()).unwrap();
    // the base has nothing that the fixture's settings would agree with by chance
    let base = Preprocess {
        filter: Filter::Hamming,
        mean: [0.1, 0.2, 0.3],
        std: [3.0; 3],
        ..Preprocess::siglip(48)
    };
    hugging_face(dir.path(), base, true)
}

fn cases() -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/image_processors.json")).unwrap();
    all["cases"].as_array().unwrap().clone()
}

#[test]
fn every_processor_gives_the_pixels_of_transformers() {
    let cases = cases();
    assert!(cases.len() >= 16);
    let mut worst = 0.0f64;
    for case in &cases {
        let preprocess = read(&case["settings"]).unwrap_or_else(|e| panic!("{}: {e}", case["name"]));
        let pictures = case["pictures"].as_array().unwrap();
        for (p, result) in pictures.iter().zip(case["results"].as_array().unwrap()) {
            let [w, h, seed] = [0, 1, 2].map(|i| p[i].as_u64().unwrap() as u32);
            let ours = preprocess.apply(&picture(w, h, seed)).unwrap();
            assert_eq!(ours.len() as u64, result["count"].as_u64().unwrap(), "{}", case["name"]);
            let step = result["step"].as_u64().unwrap() as usize;
            for (a, b) in ours.iter().step_by(step).zip(result["values"].as_array().unwrap()) {
                let b = b.as_f64().unwrap();
                let off = (f64::from(*a) - b).abs() / (1.0 + b.abs());
                assert!(off <= 1e-6, "{}, {w}×{h}: {a} for {b}", case["name"]);
                worst = worst.max(off);
            }
        }
    }
    println!("largest difference {worst:e}");
}

#[test]
fn classes_have_their_own_defaults() {
    let bare = |name: &str| read(&json!({ "image_processor_type": name }));
    let cut = |side| (side, ResizeMode::Shortest);
    let clip = bare("CLIPImageProcessorFast").unwrap();
    assert_eq!(
        (clip.size, clip.resize, clip.filter),
        (48, ResizeMode::Shortest, Filter::Bicubic)
    );
    assert_eq!(clip.mean, Preprocess::clip(48).mean);
    let vit = bare("ViTFeatureExtractor").unwrap();
    assert_eq!(
        (vit.resize, vit.filter, vit.mean),
        (ResizeMode::Squash, Filter::Bilinear, [0.5; 3])
    );
    // a number is both sides for one class, the shorter one for another
    let number = |name: &str| {
        read(&json!({ "image_processor_type": name, "size": 32, "crop_size": 32, "do_center_crop": true }))
    };
    assert_eq!(
        number("CLIPImageProcessor").map(|p| (p.size, p.resize)).unwrap(),
        cut(32)
    );
    assert_eq!(number("DeiTImageProcessor").unwrap().resize, ResizeMode::Squash);
    // nothing named: what the caller says
    let unnamed = read(&json!({})).unwrap();
    assert_eq!((unnamed.filter, unnamed.std), (Filter::Hamming, [3.0; 3]));
    // one file for pictures and texts
    let dir = tempfile::tempdir().unwrap();
    let nested = json!({ "image_processor": { "image_processor_type": "SiglipImageProcessor", "size": { "height": 30, "width": 30 } } });
    std::fs::write(dir.path().join(FILES[1]), nested.to_string()).unwrap();
    assert_eq!(hugging_face(dir.path(), Preprocess::clip(8), true).unwrap().size, 30);
}

#[test]
fn what_would_change_pixels_unseen_is_refused() {
    for (key, value) in [
        ("image_processor_type", json!("Siglip2ImageProcessor")),
        ("image_processor_type", json!("DINOv3ViTImageProcessorFast")),
        ("do_resize", json!(false)),
        ("do_pad", json!(true)),
        ("do_flip_channel_order", json!(true)),
        ("size_divisor", json!(32)),
        ("size", json!({ "shortest_edge": 32, "longest_edge": 64 })),
        ("size", json!({ "height": 32, "width": 64 })),
        ("size", json!({ "max_height": 32, "max_width": 32 })),
        ("size", json!(-3)),
        ("size", json!({ "shortest_edge": 1e30 })),
        ("crop_size", json!({ "height": 40, "width": 40 })),
        ("crop_size", json!({ "height": 0, "width": 0 })),
        ("do_center_crop", json!(false)),
        ("do_center_crop", json!("yes")),
        ("resample", json!(6)),
        ("image_std", json!([1, 2])),
        ("image_std", json!(0.0)),
        ("image_mean", json!("half")),
        ("rescale_factor", json!(0.0)),
        ("a_setting_of_tomorrow", json!(7)),
    ] {
        let mut settings = cases()[0]["settings"].clone();
        assert!(read(&settings).is_ok());
        settings[key] = value;
        let error = read(&settings).expect_err(&settings.to_string()).to_string();
        assert!(error.contains(FILES[0]), "{error}");
    }
    let no_filter = json!({ "image_processor_type": "EfficientNetImageProcessor" });
    assert!(read(&no_filter).unwrap_err().to_string().contains("resample"));
}

#[test]
fn open_clip_s_settings() {
    let read = |settings: Value| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("open_clip_config.json");
        std::fs::write(&path, settings.to_string()).unwrap();
        open_clip(Settings::read(&path).unwrap().unwrap(), 32)
    };
    let full = json!({
        "size": [32, 32], "mode": "RGB", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear",
        "resize_mode": "longest", "fill_color": [1, 2, 3]
    });
    let p = read(full.clone()).unwrap();
    assert_eq!(p.resize, ResizeMode::Longest { fill: [1, 2, 3] });
    assert_eq!((p.filter, p.mean, p.size), (Filter::Bilinear, [0.5, 0.4, 0.3], 32));
    assert_eq!(read(json!({})).unwrap(), Preprocess::clip(32));
    for (key, value) in [
        ("size", json!(31)),
        ("size", json!([32, 31])),
        ("mode", json!("L")),
        ("interpolation", json!("nearest")),
        ("resize_mode", json!("stretch")),
        ("fill_color", json!(300)),
        ("std", json!([1, 1])),
        ("sharpen", json!(1)),
    ] {
        let mut settings = full.clone();
        settings[key] = value;
        assert!(read(settings.clone()).is_err(), "{settings}");
    }
}
