//! How pictures are prepared, from the settings of transformers (`preprocessor_config.json`) and of open_clip (`preprocess_cfg`).

use std::path::Path;

use bifocal_data::transform::CropRounding;
use bifocal_data::{Filter, Preprocess, ResizeMode};
use serde_json::Value;

use super::OpenError;
use super::settings::Settings;

/// Files that [`hugging_face`] may read.
pub(super) const FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// Settings that change no pixel, or none once those that switch them on were refused.
const HARMLESS: [&str; 11] = [
    "processor_class",
    "do_convert_rgb",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "default_to_square",
    "pad_size",
    "backend",
    "_valid_processor_keys",
];

/// What a class of image processors does when the file does not say.
#[derive(Clone, Copy)]
struct Class {
    steps: Steps,
    /// Cuts out the middle.
    crops: bool,
    /// A size that is a number is both sides, not the shorter one.
    square: bool,
    filter: Option<Filter>,
    mean: [f64; 3],
    std: [f64; 3],
}

/// What sets a class apart besides its defaults.
#[derive(Clone, Copy, PartialEq)]
enum Steps {
    Usual,
    /// One share of the picture is kept below 384 pixels, all of it, squashed, from there on.
    ConvNext,
    /// May shift values, and divides by the deviation twice.
    EfficientNet,
}

impl Class {
    fn of(s: &mut Settings, base: &Preprocess, crops: bool) -> Result<Self, OpenError> {
        let wide = |v: [f32; 3]| v.map(f64::from);
        let clip = Preprocess::clip(base.size);
        let plain = Self {
            steps: Steps::Usual,
            crops,
            square: false,
            filter: Some(base.filter),
            mean: wide(base.mean),
            std: wide(base.std),
        };
        let old: Option<String> = s.take("feature_extractor_type")?;
        let Some(name) = s.take::<String>("image_processor_type")?.or(old) else {
            return Ok(plain);
        };
        let short = ["Fast", "Pil", "ImageProcessor", "FeatureExtractor"]
            .iter()
            .fold(name.as_str(), |name, end| name.strip_suffix(end).unwrap_or(name));
        let halves = Self {
            filter: Some(Filter::Bicubic),
            mean: [0.5; 3],
            std: [0.5; 3],
            ..plain
        };
        let openai = Self {
            mean: wide(clip.mean),
            std: wide(clip.std),
            ..halves
        };
        Ok(match short {
            "CLIP" | "ChineseCLIP" | "Bit" => Self { crops: true, ..openai },
            "Blip" => Self {
                crops: false,
                square: true,
                ..openai
            },
            "Siglip" => Self {
                crops: false,
                square: true,
                ..halves
            },
            "ViT" => Self {
                crops: false,
                square: true,
                filter: Some(Filter::Bilinear),
                ..halves
            },
            "DeiT" => Self {
                crops: true,
                square: true,
                ..halves
            },
            // releases of transformers differ in these classes' default filter
            "ConvNext" => Self {
                steps: Steps::ConvNext,
                crops: false,
                filter: None,
                ..halves
            },
            "EfficientNet" => Self {
                steps: Steps::EfficientNet,
                crops: false,
                square: true,
                filter: None,
                ..halves
            },
            _ => return Err(unknown(s, "image_processor_type", &name)),
        })
    }
}

/// What a folder says about its pictures. Settings that are missing have the defaults of the class that the file names; when it names
/// none, they are as in `base`, and `crops` tells whether the middle is cut out.
pub(super) fn hugging_face(folder: &Path, base: Preprocess, crops: bool) -> Result<Preprocess, OpenError> {
    from_settings(settings(folder)?, base, crops)
}

fn from_settings(mut s: Settings, base: Preprocess, crops: bool) -> Result<Preprocess, OpenError> {
    let class = Class::of(&mut s, &base, crops)?;
    s.only("do_resize", true)?;
    let (size, resize) = geometry(&mut s, &class, base.size)?;
    let filter = match (filter(&mut s)?, class.filter) {
        (Some(filter), _) | (None, Some(filter)) => filter,
        (None, None) => s.require("resample")?,
    };
    let (mean, std) = statistics(&mut s, &class)?;
    let preprocess = Preprocess {
        size,
        resize,
        filter,
        mean,
        std,
        crop_rounding: CropRounding::Floor,
        ..base
    };
    s.refuse_rest(&HARMLESS)?;
    checked(preprocess, s.path())
}

/// Refuses pictures of another size than the tower's.
pub(super) fn fits(preprocess: Preprocess, folder: &Path, side: usize) -> Result<Preprocess, OpenError> {
    if preprocess.size as usize == side {
        return Ok(preprocess);
    }
    let problem = format!("images are cut to {}, but the tower reads {side}", preprocess.size);
    Err(OpenError::malformed(&folder.join(FILES[0]), problem))
}

fn settings(folder: &Path) -> Result<Settings, OpenError> {
    let path = folder.join(FILES[0]);
    if let Some(settings) = Settings::read(&path)? {
        return Ok(settings);
    }
    // newer releases write one file for pictures and texts
    match Settings::read(&folder.join(FILES[1]))? {
        Some(mut whole) => whole.object("image_processor"),
        None => Ok(Settings::empty(&path)),
    }
}

/// What a folder says about pictures of any proportions; `patch` is the tower's, `size` the side of a square picture.
pub(super) fn naflex(folder: &Path, patch: u32, size: u32) -> Result<Preprocess, OpenError> {
    let mut s = settings(folder)?;
    s.only("patch_size", patch)?;
    for step in ["do_resize", "do_rescale", "do_normalize"] {
        s.only(step, true)?;
    }
    s.only("rescale_factor", 1.0 / 255.0)?;
    let base = Preprocess::siglip(size);
    let preprocess = Preprocess {
        resize: ResizeMode::Patches {
            patch,
            most: s.take("max_num_patches")?.unwrap_or(256),
        },
        filter: filter(&mut s)?.unwrap_or(Filter::Bilinear),
        mean: s.take("image_mean")?.unwrap_or(base.mean),
        std: s.take("image_std")?.unwrap_or(base.std),
        ..base
    };
    checked(preprocess, s.path())
}

/// Pillow's numbers of filters.
fn filter(s: &mut Settings) -> Result<Option<Filter>, OpenError> {
    Ok(Some(match s.take::<u64>("resample")? {
        None => return Ok(None),
        Some(0) => Filter::Nearest,
        Some(1) => Filter::Lanczos,
        Some(2) => Filter::Bilinear,
        Some(3) => Filter::Bicubic,
        Some(4) => Filter::Box,
        Some(5) => Filter::Hamming,
        Some(other) => return Err(unknown(s, "resample", &other.to_string())),
    }))
}

/// A size as files give it.
enum Size {
    Square(u32),
    Shortest(u32),
}

impl Size {
    fn take(s: &mut Settings, key: &str, number_is_square: bool) -> Result<Option<Self>, OpenError> {
        let side = |value: &Value| value.as_u64().and_then(|side| u32::try_from(side).ok());
        let Some(value) = s.take::<Value>(key)? else {
            return Ok(None);
        };
        let found = match &value {
            Value::Object(map) => {
                let given: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
                match given.as_slice() {
                    [(edge, v)] if *edge == "shortest_edge" => side(v).map(Size::Shortest),
                    // names come sorted
                    [(h, a), (w, b)] if *h == "height" && *w == "width" && a == b => side(a).map(Size::Square),
                    _ => None,
                }
            }
            number if number_is_square => side(number).map(Size::Square),
            number => side(number).map(Size::Shortest),
        };
        let advice = "take a model whose pictures become squares, by their height and width or by their shortest edge";
        found
            .map(Some)
            .ok_or_else(|| OpenError::unsupported(s.path(), format!("\"{key}\": {value}"), advice))
    }
}

/// The side of the square that remains, and how a picture becomes it.
fn geometry(s: &mut Settings, class: &Class, default: u32) -> Result<(u32, ResizeMode), OpenError> {
    let crops = s.take("do_center_crop")?.unwrap_or(class.crops);
    let cropped = match Size::take(s, "crop_size", true)? {
        Some(Size::Square(side)) => side,
        Some(Size::Shortest(_)) => return Err(unknown(s, "crop_size", "shortest_edge")),
        None => default,
    };
    let size = Size::take(s, "size", class.square)?;
    let path = s.path().to_owned();
    let refused = |what: &str| {
        let advice = "take a model whose pictures become squares, or ask for this one in an issue";
        Err(OpenError::unsupported(&path, what, advice))
    };
    if class.steps == Steps::ConvNext {
        let share: f64 = s.take("crop_pct")?.unwrap_or(224.0 / 256.0);
        let edge = match size {
            Some(Size::Shortest(edge)) => edge,
            None => default,
            Some(Size::Square(_)) => return refused("a ConvNeXt without a shortest edge"),
        };
        if crops || !(share > 0.0 && share <= 1.0) {
            return refused("a ConvNeXt that crops otherwise than by a share between 0 and 1");
        }
        let resize = match (f64::from(edge) / share) as u32 {
            _ if edge >= 384 => ResizeMode::Squash,
            to if to == edge => ResizeMode::Shortest,
            resize_to => ResizeMode::ShortestThenCrop { resize_to },
        };
        return Ok((edge, resize));
    }
    Ok(match (size, crops) {
        (Some(Size::Square(side)), false) => (side, ResizeMode::Squash),
        (Some(Size::Square(side)), true) if side == cropped => (side, ResizeMode::Squash),
        (Some(Size::Square(resize_to)), true) => (cropped, ResizeMode::SquashThenCrop { resize_to }),
        (Some(Size::Shortest(edge)), true) if edge != cropped => {
            (cropped, ResizeMode::ShortestThenCrop { resize_to: edge })
        }
        (Some(Size::Shortest(_)) | None, true) => (cropped, ResizeMode::Shortest),
        (Some(Size::Shortest(_)), false) => return refused("a picture that is not cut to a square"),
        (None, false) => (default, ResizeMode::Squash),
    })
}

/// Mean and deviation for values that were divided by 255, whatever the file does to them: the reference computes
/// `((v · factor − offset) − mean) / std`, and for some EfficientNets divides by `std` once more.
fn statistics(s: &mut Settings, class: &Class) -> Result<([f32; 3], [f32; 3]), OpenError> {
    let given_mean = channels(s, "image_mean")?.unwrap_or(class.mean);
    let given_std = channels(s, "image_std")?.unwrap_or(class.std);
    let (mean, mut std) = if s.take("do_normalize")?.unwrap_or(true) {
        (given_mean, given_std)
    } else {
        ([0.0; 3], [1.0; 3])
    };
    let mut offset = 0.0;
    let factor = s.take("rescale_factor")?.unwrap_or(1.0 / 255.0);
    let rescales = s.take("do_rescale")?.unwrap_or(true);
    if class.steps == Steps::EfficientNet {
        if s.take("rescale_offset")?.unwrap_or(false) && rescales {
            offset = 1.0;
        }
        if s.take("include_top")?.unwrap_or(true) {
            std = std::array::from_fn(|c| std[c] * given_std[c]);
        }
    }
    let scale: f64 = 255.0 * if rescales { factor } else { 1.0 };
    // 1/255 is written with more or fewer digits
    let scale = if (scale - 1.0).abs() < 1e-6 { 1.0 } else { scale };
    let mean = mean.map(|m| ((m + offset) / scale) as f32);
    Ok((mean, std.map(|d| (d / scale) as f32)))
}

/// One number for each channel, or one for all.
fn channels(s: &mut Settings, key: &str) -> Result<Option<[f64; 3]>, OpenError> {
    match s.take::<Value>(key)? {
        None => Ok(None),
        Some(Value::Number(one)) => Ok(one.as_f64().map(|v| [v; 3])),
        Some(list) => match serde_json::from_value(list) {
            Ok(list) => Ok(Some(list)),
            Err(error) => Err(OpenError::malformed(s.path(), format!("\"{key}\": {error}"))),
        },
    }
}

/// open_clip's `preprocess_cfg`, for a tower that reads squares of `side`.
pub(super) fn open_clip(mut s: Settings, side: usize) -> Result<Preprocess, OpenError> {
    let base = Preprocess::clip(small(side, &s)?);
    s.only("mode", "RGB".to_owned())?;
    if let Some(Size::Square(size)) = pair(&mut s, "size")?
        && size != base.size
    {
        let problem = format!("images are cut to {size}, but the tower reads {side}");
        return Err(OpenError::malformed(s.path(), problem));
    }
    let interpolation: Option<String> = s.take("interpolation")?;
    let mode: Option<String> = s.take("resize_mode")?;
    let fill: Option<Value> = s.take("fill_color")?;
    let preprocess = Preprocess {
        resize: match mode.as_deref() {
            None | Some("shortest") => ResizeMode::Shortest,
            Some("squash") => ResizeMode::Squash,
            Some("longest") => ResizeMode::Longest {
                fill: colour(&s, fill)?,
            },
            Some(other) => return Err(unknown(&s, "resize_mode", other)),
        },
        filter: match interpolation.as_deref() {
            None | Some("bicubic" | "random") => Filter::Bicubic,
            Some("bilinear") => Filter::Bilinear,
            Some(other) => return Err(unknown(&s, "interpolation", other)),
        },
        mean: s.take("mean")?.unwrap_or(base.mean),
        std: s.take("std")?.unwrap_or(base.std),
        ..base
    };
    s.refuse_rest(&[])?;
    checked(preprocess, s.path())
}

/// A square as open_clip writes it: a number or a list of two.
fn pair(s: &mut Settings, key: &str) -> Result<Option<Size>, OpenError> {
    let value: Option<Value> = s.take(key)?;
    let side = match &value {
        None => return Ok(None),
        Some(Value::Array(list)) if list.len() == 2 && list[0] == list[1] => list[0].as_u64(),
        Some(value) => value.as_u64(),
    };
    let side = side.and_then(|side| u32::try_from(side).ok());
    let found = side.map(|side| Some(Size::Square(side)));
    found.ok_or_else(|| OpenError::malformed(s.path(), format!("\"{key}\" is not a square")))
}

fn colour(s: &Settings, value: Option<Value>) -> Result<[u8; 3], OpenError> {
    let one = |v: &Value| v.as_u64().and_then(|v| u8::try_from(v).ok());
    let found = match value {
        None => Some([0; 3]),
        Some(Value::Array(list)) => match list.as_slice() {
            [r, g, b] => one(r).zip(one(g)).zip(one(b)).map(|((r, g), b)| [r, g, b]),
            _ => None,
        },
        Some(value) => one(&value).map(|v| [v; 3]),
    };
    found.ok_or_else(|| OpenError::malformed(s.path(), "\"fill_color\" is not a colour"))
}

pub(super) fn unknown(s: &Settings, key: &str, value: &str) -> OpenError {
    OpenError::unsupported(
        s.path(),
        format!("\"{key}\": \"{value}\""),
        "take a model whose value is one of those that Bifocal knows, or ask for it in an issue",
    )
}

pub(super) fn small(side: usize, s: &Settings) -> Result<u32, OpenError> {
    u32::try_from(side).map_err(|_| OpenError::malformed(s.path(), format!("an image side of {side}")))
}

pub(super) fn checked(preprocess: Preprocess, path: &Path) -> Result<Preprocess, OpenError> {
    match preprocess.validate() {
        Ok(()) => Ok(preprocess),
        Err(error) => Err(OpenError::malformed(path, error)),
    }
}

#[cfg(test)]
#[path = "preprocess_tests.rs"]
mod tests;
