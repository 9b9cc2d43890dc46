//! Resampling and preprocessing against Pillow, torchvision and open_clip, to the bit.
//! Fixtures: scripts/fixtures/pillow_resize.py.

use bifocal_data::transform::resize;
use bifocal_data::{Filter, Preprocess, ResizeMode, RgbImage};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/pillow_resize.json")).unwrap()
}

fn fnv(data: impl IntoIterator<Item = u8>) -> String {
    let h = data.into_iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{h:016x}")
}

fn picture(width: u32, height: u32, seed: u64, hard: bool) -> RgbImage {
    let mut state = seed as u32;
    let data = (0..width * height * 3)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let v = (state >> 24) as u8;
            if hard { if v >= 128 { 255 } else { 0 } } else { v }
        })
        .collect();
    RgbImage::new(width, height, data).unwrap()
}

fn pair(v: &Value) -> (u32, u32) {
    (v[0].as_u64().unwrap() as u32, v[1].as_u64().unwrap() as u32)
}

fn triple(v: &Value) -> [f32; 3] {
    std::array::from_fn(|i| v[i].as_f64().unwrap() as f32)
}

fn filter(v: &Value) -> Filter {
    serde_json::from_value(v.clone()).unwrap()
}

#[test]
fn every_filter_equals_pillow() {
    let fixture = fixture();
    let cases = fixture["resize"].as_array().unwrap();
    assert!(cases.len() > 150);
    for case in cases {
        let ((w, h), (ow, oh)) = (pair(&case["from"]), pair(&case["to"]));
        let src = picture(w, h, case["seed"].as_u64().unwrap(), case["hard"].as_bool().unwrap());
        let out = resize(&src, ow, oh, filter(&case["filter"])).unwrap();
        if let Some(hex) = case["bytes"].as_str() {
            let ours: String = out.data().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(ours, hex, "{w}×{h} → {ow}×{oh} {}", case["filter"]);
        }
        assert_eq!(
            fnv(out.data().iter().copied()),
            case["fnv"],
            "{w}×{h} → {ow}×{oh} {}",
            case["filter"]
        );
    }
}

#[test]
fn preprocessing_equals_open_clip_and_torchvision() {
    let fixture = fixture();
    let cases = fixture["transform"].as_array().unwrap();
    assert!(cases.len() >= 50);
    for case in cases {
        let (w, h) = pair(&case["from"]);
        let mode = case["mode"].as_str().unwrap();
        let preprocess = Preprocess {
            resize: match mode {
                "shortest" => ResizeMode::Shortest,
                "squash" => ResizeMode::Squash,
                "longest" => ResizeMode::Longest { fill: [0; 3] },
                "shortest-then-crop-40" => ResizeMode::ShortestThenCrop { resize_to: 40 },
                other => panic!("{other}"),
            },
            filter: filter(&case["filter"]),
            mean: triple(&case["mean"]),
            std: triple(&case["std"]),
            ..Preprocess::clip(32)
        };
        let out = preprocess
            .apply(&picture(w, h, case["seed"].as_u64().unwrap(), false))
            .unwrap();
        for (ours, theirs) in out.iter().zip(case["first"].as_array().unwrap()) {
            assert_eq!(*ours, theirs.as_f64().unwrap() as f32, "{w}×{h} {mode}");
        }
        assert_eq!(
            fnv(out.iter().flat_map(|v| v.to_le_bytes())),
            case["fnv"],
            "{w}×{h} {mode}"
        );
    }
}
