//! Autoencoders with and without codes against the code of their authors (scripts/fixtures/vq.py).

mod common;

use std::collections::BTreeMap;

use bifocal_models::vq::{Codec, CodecError, Latents, Tiny, VqConfig, VqModel, nearest};
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_models::weights::{HostTensor, TensorSource, WeightsError};
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Pictures;
use bifocal_nn::optim::Gradients;
use bifocal_nn::params;
use common::{Numbers, assert_close, fixture, unreached};

fn pictures(values: Vec<f32>, n: usize, size: [usize; 2]) -> Pictures {
    let rows = n * size[0] * size[1];
    let c = values.len() / rows;
    Pictures {
        x: tensor(values, [rows, c]),
        n,
        size,
    }
}

fn llamagen() -> (VqModel, Numbers, Pictures) {
    let model = VqModel::open(&fixture("vq/llamagen.pt")).expect("the averaged weights");
    let numbers = Numbers::open("vq/llamagen.safetensors");
    let images = pictures(numbers.get("images"), 2, [12, 16]);
    (model, numbers, images)
}

#[test]
fn llamagen_encodes_and_decodes_as_its_authors_code_does() {
    let (model, numbers, images) = llamagen();
    let expected = VqConfig {
        channels: 3,
        widths: vec![32, 64],
        blocks: 1,
        attention: true,
        z_channels: 10,
        codes: 50,
        code_dim: 6,
    };
    assert_eq!(*model.config(), expected);
    let latents = model.encode(&images);
    assert_eq!(latents.size, [6, 8]);
    assert_close(&values(latents.x.clone()), &numbers.get("latents"), 2e-4, "latents");
    let (z, quantized) = model.quantized(&images);
    let codes: Vec<f32> = quantized.codes.iter().map(|&code| code as f32).collect();
    assert_eq!(codes, numbers.get("codes"));
    assert_close(&values(z.x.clone()), &numbers.get("quantized"), 2e-4, "quantized");
    for (name, loss) in [("codebook", quantized.codebook), ("commitment", quantized.commitment)] {
        assert_close(&[scalar(loss)], &numbers.get(name), 1e-5, name);
    }
    let decoded = model.decode(&z);
    assert_eq!(decoded.size, [12, 16]);
    assert_close(&values(decoded.x), &numbers.get("decoded"), 2e-4, "decoded");
    let from_codes = model.decode(&z.with(model.quantize.lookup(&quantized.codes)));
    assert_close(
        &values(from_codes.x),
        &numbers.get("decoded_codes"),
        2e-4,
        "decoded codes",
    );
}

/// Through the decoder, the straight-through codes and the encoder; β = 0.25.
#[test]
fn the_gradient_is_that_of_the_authors_code() {
    let (model, numbers, images) = llamagen();
    let model = params::set_trainable(model, |_| true);
    let (z, quantized) = model.quantized(&images);
    let decoded = model.decode(&z).x.powi_scalar(2).mean();
    let loss = decoded + quantized.codebook + quantized.commitment * 0.25;
    let grads = Gradients::collect(&model, loss.backward());
    for (name, parameter) in [
        ("codebook_gradient", "quantize.embedding.weight"),
        ("first_gradient", "encoder.conv_in.weight"),
    ] {
        let found = grads.get(parameter).expect("it learns");
        assert_close(&found, &numbers.get(name), 2e-5, name);
    }
    let none: Vec<String> = params::list(&model)
        .into_iter()
        .map(|info| info.name)
        .filter(|name| grads.get(name).is_none())
        .collect();
    assert!(none.is_empty(), "no gradient: {none:?}");
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    let (model, _, _) = llamagen();
    let saved = model.tensors();
    let names: Vec<&String> = saved.keys().collect();
    assert!(
        saved.contains_key("encoder.conv_blocks.0.downsample.conv.weight"),
        "{names:?}"
    );
    assert_eq!(saved["decoder.mid.1.q.weight"].shape, [64, 64, 1, 1]);
    let again = VqModel::load(&saved).expect("its own names");
    assert_eq!(again.tensors(), saved);
    let mut broken = saved.clone();
    broken.remove("decoder.norm_out.bias");
    broken.insert("decoder.surplus".into(), saved["quant_conv.bias"].clone());
    let Err(WeightsError::Mismatch { misfit, .. }) = VqModel::load(&broken) else {
        panic!("a tensor is missing");
    };
    assert_eq!(misfit.missing, ["decoder.norm_out.bias"]);
    let empty: BTreeMap<String, HostTensor> = BTreeMap::new();
    assert!(VqModel::load(&empty).is_err());
    // a width that no group norm takes
    let mut odd = saved;
    if let Some(conv) = odd.get_mut("encoder.conv_blocks.0.res.0.conv1.weight") {
        conv.shape[0] = 31;
        conv.data.truncate(31 * 32 * 9);
    }
    let error = VqModel::load(&odd).expect_err("31 is not a multiple of 32");
    assert!(error.to_string().contains("multiple of 32"), "{error}");
}

/// Without attention there are no parameters of it, and pictures may have any size.
#[test]
fn a_small_one_learns_with_all_its_parameters() {
    let config = VqConfig {
        channels: 5,
        widths: vec![32, 32],
        blocks: 1,
        attention: false,
        z_channels: 8,
        codes: 7,
        code_dim: 4,
    };
    let model = VqModel::new(config.clone(), &mut Rng::new(1)).expect("sizes that work");
    let saved = model.tensors();
    assert_eq!(VqModel::load(&saved).expect("its own names").tensors(), saved);
    assert_eq!(VqModel::load(&saved).expect("its own names").config(), &config);
    let mut rng = Rng::new(2);
    let x = pictures((0..8 * 6 * 5).map(|_| rng.normal()).collect(), 1, [8, 6]);
    let model = params::set_trainable(model, |_| true);
    let (z, quantized) = model.quantized(&x);
    let y = model.decode(&z).x;
    // codes that were not chosen, and learn nothing, are in the same tensor
    let y = y + (quantized.codebook + quantized.commitment).reshape([1, 1]);
    assert_eq!(unreached(&model, y), Vec::<String>::new());
    for wrong in [
        VqConfig {
            widths: vec![],
            ..config.clone()
        },
        VqConfig {
            widths: vec![33],
            ..config.clone()
        },
        VqConfig { codes: 0, ..config },
    ] {
        assert!(VqModel::new(wrong, &mut Rng::new(1)).is_err());
    }
}

#[test]
fn the_nearest_code_is_the_nearest() {
    let mut rng = Rng::new(4);
    let (rows, codes, dim) = (1100, 37, 5);
    let mut some = |n: usize| (0..n * dim).map(|_| rng.normal()).collect::<Vec<f32>>();
    let (z, table) = (some(rows), some(codes));
    let naive: Vec<u32> = z
        .chunks(dim)
        .map(|z| {
            let distance = |e: &[f32]| z.iter().zip(e).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let all: Vec<f64> = table.chunks(dim).map(distance).collect();
            (0..codes).min_by(|&a, &b| all[a].total_cmp(&all[b])).expect("codes") as u32
        })
        .collect();
    let found = nearest(&tensor(z, [rows, dim]), &tensor(table, [codes, dim]));
    assert_eq!(&*found, naive.as_slice());
    // of equal ones the first
    let same = nearest(
        &tensor(vec![1.0, 0.0], [1, 2]),
        &tensor(vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [3, 2]),
    );
    assert_eq!(&*same, [1]);
}

#[test]
fn tiny_autoencoders_equal_their_authors_code() {
    for name in ["plain", "pooled"] {
        let files = ["encoder", "decoder"].map(|part| fixture(&format!("vq/{name}_{part}.safetensors")));
        let tiny = Tiny::open(&files).expect("both files");
        let numbers = Numbers::open(&format!("vq/{name}.safetensors"));
        let z = tiny.encode(&pictures(numbers.get("images"), 2, [16, 24]));
        assert_eq!((z.size, z.x.dims()[1]), ([2, 3], tiny.channels()));
        assert_close(&values(z.x.clone()), &numbers.get("latents"), 2e-4, name);
        let decoded = tiny.decode(&z.with(z.x.clone() * 3.0));
        assert_close(&values(decoded.x), &numbers.get("decoded"), 2e-4, name);
        // the other's file in its place
        let swapped = Tiny::open(&[files[1].clone(), files[0].clone()]);
        assert!(swapped.is_err());
    }
}

fn on_tiny(folder: &std::path::Path) -> Latents {
    let files = ["encoder", "decoder"].map(|part| fixture(&format!("vq/pooled_{part}.safetensors")));
    let config = VqConfig {
        channels: 5,
        widths: vec![32, 32],
        blocks: 1,
        attention: false,
        z_channels: 8,
        codes: 19,
        code_dim: 4,
    };
    let vq = VqModel::new(config, &mut Rng::new(3)).expect("sizes that work");
    let latents = Latents {
        shift: vec![0.1, 0.2, -0.3, 0.0, 1.0],
        scale: vec![0.1, 0.2, 0.05, 0.1, 0.25],
    };
    Codec::save(folder, &vq, &latents, 32, &files).expect("saved");
    latents
}

#[test]
fn a_codec_takes_pictures_to_codes_and_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    on_tiny(dir.path());
    let codec = Codec::open(dir.path()).expect("its own folder");
    assert_eq!((codec.size(), codec.factor(), codec.codes()), (32, 16, Some(19)));
    let mut rng = Rng::new(5);
    let picture: Vec<f32> = (0..32 * 48 * 3).map(|_| rng.unit()).collect();
    let codes = codec.encode(&picture, [32, 48]).expect("codes");
    assert_eq!(codes.len(), 2 * 3);
    assert!(codes.iter().all(|&code| code < 19));
    let decoded = codec.decode(&codes, [2, 3]).expect("a picture");
    assert_eq!(decoded.len(), picture.len());
    assert!(decoded.iter().all(|v| (0.0..=1.0).contains(v)));
    assert!(codec.ceiling(&picture, [32, 48]).expect("a picture").is_some());
    // other codes are other pictures
    let changed: Vec<u32> = codes.iter().map(|code| (code + 1) % 19).collect();
    assert_ne!(codec.decode(&changed, [2, 3]).expect("a picture"), decoded);
    let unfit = |error: CodecError| assert!(matches!(error, CodecError::Unfit(_)), "{error}");
    unfit(codec.encode(&picture, [48, 31]).expect_err("sides"));
    unfit(codec.encode(&picture[3..], [32, 48]).expect_err("values"));
    unfit(codec.decode(&codes, [3, 3]).expect_err("grid"));
    unfit(codec.decode(&[19], [1, 1]).expect_err("no such code"));
    unfit(codec.decode(&[], [0, 7]).expect_err("nothing"));
    unfit(codec.decode(&codes, [usize::MAX, 2]).expect_err("overflow"));
    let llamagen = Codec::open(&fixture("vq/llamagen.pt")).expect("a file");
    assert_eq!((llamagen.factor(), llamagen.codes()), (2, Some(50)));
    let codes = llamagen.encode(&picture, [32, 48]).expect("codes");
    let x = Pictures {
        x: tensor(picture.iter().map(|v| 2.0 * v - 1.0).collect(), [32 * 48, 3]),
        n: 1,
        size: [32, 48],
    };
    // other pictures have other codes
    let other: Vec<f32> = picture.iter().map(|v| 1.0 - v).collect();
    assert_ne!(llamagen.encode(&other, [32, 48]).expect("codes"), codes);
    let Codec::Pixels(vq) = &llamagen else {
        panic!("on pixels")
    };
    assert_eq!(codes, vq.quantized(&x).1.codes.to_vec());
}

#[test]
fn a_damaged_folder_is_told_of() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let latents = on_tiny(dir.path());
    let path = dir.path().join("vq.json");
    let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    let written: Latents = serde_json::from_value(whole["latents"].clone()).expect("latents");
    assert_eq!(written, latents);
    let changes: [(&str, serde_json::Value); 3] = [
        ("format", 2.into()),
        ("latents", serde_json::json!({"shift": [0.0], "scale": [1.0]})),
        ("unknown", true.into()),
    ];
    for (key, value) in changes {
        let mut changed = whole.clone();
        changed[key] = value;
        std::fs::write(&path, changed.to_string()).expect("write");
        let error = Codec::open(dir.path()).expect_err(key).to_string();
        assert!(error.contains("vq.json"), "{error}");
    }
    std::fs::write(&path, whole.to_string()).expect("write");
    std::fs::remove_file(dir.path().join("frozen_decoder.safetensors")).expect("remove");
    assert!(Codec::open(dir.path()).is_err());
}

#[test]
fn latents_are_measured_channel_by_channel() {
    let rows: [&[f32]; 2] = [&[1.0, 10.0, 3.0, 10.0], &[5.0, 10.0]];
    let latents = Latents::of(rows.iter().copied(), 2);
    assert_close(&latents.shift, &[3.0, 10.0], 1e-6, "mean");
    // a channel that never changes is not divided by 0
    assert_close(&latents.scale, &[(8.0f32 / 3.0).sqrt(), 1e-6], 1e-6, "deviation");
    let z = pictures(vec![1.0, 2.0, 3.0, 4.0], 1, [2, 1]);
    let twice = latents.leave(&latents.enter(&z));
    assert_close(&values(twice.x), &[1.0, 2.0, 3.0, 4.0], 1e-5, "there and back");
}

/// The names of the release, with the published sizes.
#[test]
fn the_released_sizes_are_seventy_two_million() {
    let config = VqConfig::ds16();
    assert_eq!(config.factor(), 16);
    let model = VqModel::new(config, &mut Rng::new(0)).expect("sizes that work");
    let parameters: usize = params::list(&model)
        .iter()
        .map(|p| p.shape.iter().product::<usize>())
        .sum();
    println!("{parameters} parameters");
    assert_eq!(parameters / 1_000_000, 71);
}

/// The real TAEF2: what a photo loses on its way through it.
#[test]
fn taef2_gives_photos_back() {
    let Some(data) = common::folder("BIFOCAL_DATA", "TAEF2") else {
        return;
    };
    let codec = Codec::open(&data.join("taef2")).expect("TAEF2");
    let Codec::Tiny(tiny) = &codec else { panic!("no codes") };
    assert_eq!(tiny.channels(), 32);
    let source = SafeTensors::open(&data.join("taef2/taef2_encoder.safetensors")).expect("a file");
    assert!(source.names().len() > 60);
    let photo = std::fs::read_dir(data.join("coco/images"))
        .expect("photos")
        .map(|entry| entry.expect("a file").path())
        .min()
        .expect("a photo");
    let preprocess = bifocal_data::Preprocess {
        mean: [0.0; 3],
        std: [1.0; 3],
        ..bifocal_data::Preprocess::clip(128)
    };
    let image = bifocal_data::ImageSource::File(photo);
    let limits = bifocal_data::Limits::default();
    let pixels = bifocal_data::load_images(&[image], &preprocess, &limits)
        .expect("settings")
        .pixels;
    let back = codec.ceiling(&pixels, [128, 128]).expect("fits").expect("a picture");
    let error = pixels
        .iter()
        .zip(&back)
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum::<f64>()
        / pixels.len() as f64;
    let psnr = -10.0 * error.log10();
    println!("{psnr:.2} dB");
    assert!(psnr > 22.0, "{psnr}");
    assert!(codec.encode(&pixels, [128, 128]).is_err());
}
