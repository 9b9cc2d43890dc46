//! Retrieval in many languages: XM3600, Multi30k, XTD10, Flickr8k-CN, tux-stamps.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::context::{Context, json_lines, lines, malformed, names};
use crate::karpathy::{Rows, caption_lines, tokens};
use crate::names::unknown;
use crate::{BenchmarkError, Captions, Retrieval, Task};

/// XM3600's languages.
const XM3600: [&str; 36] = [
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it", "ja",
    "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
];

impl Captions {
    pub(crate) fn new(language: &str) -> Self {
        Self {
            language: language.to_owned(),
            captions: Vec::new(),
        }
    }
}

/// The languages that were asked for, or all.
pub(crate) fn all_or_asked(ctx: &Context, known: &[String]) -> Result<Vec<String>, BenchmarkError> {
    let asked = &ctx.options.languages;
    match asked.iter().find(|l| !known.contains(l)) {
        Some(other) => Err(unknown(ctx, other, &known.join(", "))),
        None if asked.is_empty() => Ok(known.to_vec()),
        None => Ok(asked.clone()),
    }
}

/// For protocols: "the first 5 captions".
pub(crate) fn first_captions(limit: usize) -> String {
    match limit {
        usize::MAX => "all captions".to_owned(),
        1 => "only the first caption".to_owned(),
        n => format!("at most the first {n} captions"),
    }
}

/// English retrieval from rows; pictures that are not there are counted, and captions beyond `most` are left out.
pub(crate) fn english_retrieval(
    ctx: &mut Context,
    folders: &[PathBuf],
    rows: Rows,
    most: usize,
    expected: usize,
) -> Result<Task, BenchmarkError> {
    crate::names::english_only(ctx)?;
    let mut images = Vec::new();
    let mut english = Captions::new("en");
    for (name, captions) in rows {
        let Some(image) = ctx.picture(folders, &name)? else {
            continue;
        };
        if captions.is_empty() {
            return Err(malformed(&folders[0].join(name), None, "the picture has no caption"));
        }
        english
            .captions
            .extend(captions.into_iter().take(most).map(|c| (c, images.len())));
        images.push(image);
    }
    ctx.complete(images.len(), expected, "pictures")?;
    let languages = vec![english];
    Ok(Task::Retrieval(Retrieval { images, languages }))
}

/// The first caption of each language.
pub(crate) fn xm3600(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let path = ctx.path(&["captions.jsonl", "xm3600/captions.jsonl"])?;
    let folders = ["images", "xm3600/images", ""].map(|f| ctx.root.join(f));
    let languages = all_or_asked(ctx, &XM3600.map(str::to_owned))?;
    let most = ctx.options.captions.unwrap_or(1);
    let mut images = Vec::new();
    let mut captions: Vec<Captions> = languages.iter().map(|l| Captions::new(l)).collect();
    for (at, row) in json_lines::<Map<String, Value>>(&path)?.into_iter().enumerate() {
        let wrong = |what: &str| malformed(&path, Some(at + 1), format!("expected {what}"));
        let key = row
            .get("image/key")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong("image/key"))?;
        let Some(image) = ctx.picture(&folders, &format!("{key}.jpg"))? else {
            continue;
        };
        for (language, to) in languages.iter().zip(&mut captions) {
            let texts = row.get(language).and_then(|l| l.get("caption")?.as_array());
            let texts: Vec<&str> = texts
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .take(most)
                .collect();
            if texts.is_empty() {
                return Err(wrong(&format!("a list of captions in {language:?}")));
            }
            to.captions
                .extend(texts.into_iter().map(|t| (t.to_owned(), images.len())));
        }
        images.push(image);
    }
    ctx.complete(images.len(), 3_600, "pictures")?;
    let protocol = format!(
        "3,600 pictures, {} of each language; the score is the mean over the languages.",
        first_captions(most)
    );
    Ok((
        Task::Retrieval(Retrieval {
            images,
            languages: captions,
        }),
        protocol,
    ))
}

/// The test of 2016: line k of each language describes picture k.
pub(crate) fn multi30k(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let folder = ctx.path(&["data/task1/raw", "raw", ""])?;
    let list = ctx.path(&[
        "data/task1/image_splits/test_2016_flickr.txt",
        "image_splits/test_2016_flickr.txt",
        "test_2016_flickr.txt",
    ])?;
    let stem = "test_2016_flickr.";
    let known: Vec<String> = names(&folder)?
        .iter()
        .filter_map(|n| n.strip_prefix(stem))
        .filter(|l| l.len() == 2)
        .map(str::to_owned)
        .collect();
    if known.is_empty() {
        return Err(ctx.absent(&format!("data/task1/raw/{stem}en (unpacked from .gz)")));
    }
    let languages = all_or_asked(ctx, &known)?;
    let files = languages
        .iter()
        .map(|l| (l.clone(), folder.join(format!("{stem}{l}"))))
        .collect();
    let folders = ["flickr30k-images", "flickr30k_images", "images", ""].map(|f| ctx.root.join(f));
    let task = parallel(ctx, &list, files, &folders)?;
    Ok((
        task,
        "The 1,000 pictures of test_2016_flickr, one caption in each language.".to_owned(),
    ))
}

/// 1,000 pictures of COCO; line k of each language describes picture k.
pub(crate) fn xtd10(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    const LANGUAGES: [(&str, &str); 11] = [
        ("en", "XTD10/test_1kcaptions_en.txt"),
        ("de", "MIC/test_1kcaptions_de.txt"),
        ("es", "XTD10/test_1kcaptions_es.txt"),
        ("fr", "MIC/test_1kcaptions_fr.txt"),
        ("it", "XTD10/test_1kcaptions_it.txt"),
        ("ja", "STAIR/test_1kcaptions_jp.txt"),
        ("ko", "XTD10/test_1kcaptions_ko.txt"),
        ("pl", "XTD10/test_1kcaptions_pl.txt"),
        ("ru", "XTD10/test_1kcaptions_ru.txt"),
        ("tr", "XTD10/test_1kcaptions_tr.txt"),
        ("zh", "XTD10/test_1kcaptions_zh.txt"),
    ];
    let list = ctx.path(&["XTD10/test_image_names.txt"])?;
    let languages = all_or_asked(ctx, &LANGUAGES.map(|(l, _)| l.to_owned()))?;
    let mut files = Vec::new();
    for (language, file) in LANGUAGES.iter().filter(|(l, _)| languages.iter().any(|a| a == l)) {
        files.push(((*language).to_owned(), ctx.path(&[file])?));
    }
    let folders = ["images", "train2014", "val2014", ""].map(|f| ctx.root.join(f));
    let task = parallel(ctx, &list, files, &folders)?;
    Ok((task, "1,000 pictures, one caption in each of the languages.".to_owned()))
}

/// Files whose line k belongs to line k of the list of pictures.
fn parallel(
    ctx: &mut Context,
    list: &Path,
    files: Vec<(String, PathBuf)>,
    folders: &[PathBuf],
) -> Result<Task, BenchmarkError> {
    let pictures = lines(list)?;
    let mut images = Vec::new();
    let mut rows = Vec::new();
    for (row, (_, name)) in pictures.iter().enumerate() {
        // some lists have a caption's number behind the name
        let name = name.split('#').next().unwrap_or_default();
        if let Some(image) = ctx.picture(folders, name)? {
            rows.push(row);
            images.push(image);
        }
    }
    ctx.complete(images.len(), 1_000, "pictures")?;
    let mut languages = Vec::new();
    for (language, path) in files {
        let texts = lines(&path)?;
        if texts.len() != pictures.len() {
            let reason = format!(
                "has {} lines, but {} names {} pictures",
                texts.len(),
                list.display(),
                pictures.len()
            );
            return Err(malformed(&path, None, reason));
        }
        let captions = rows
            .iter()
            .enumerate()
            .map(|(image, &row)| (texts[row].1.clone(), image))
            .collect();
        languages.push(Captions { language, captions });
    }
    Ok(Task::Retrieval(Retrieval { images, languages }))
}

/// Chinese captions of Flickr8k's test pictures, beside the English ones if these are there.
pub(crate) fn flickr8k_cn(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let mut known: Vec<(String, Rows)> = Vec::new();
    let read = |ctx: &Context, clip: &str, original: &str| {
        if let Some(path) = ctx.optional(&[clip]) {
            return caption_lines(&path).map(Some);
        }
        let (Some(path), Some(test)) = (ctx.optional(&[original]), ctx.optional(&["Flickr_8k.testImages.txt"])) else {
            return Ok(None);
        };
        let wanted: HashSet<String> = lines(&test)?
            .into_iter()
            .map(|(_, l)| l.trim_end_matches(".jpg").to_owned())
            .collect();
        tokens(&path, &wanted).map(Some)
    };
    for (language, clip, original) in [
        ("zh", "flickr8k_test_zh.txt", "flickr8kzhc.caption.txt"),
        ("en", "flickr8k_test_karpathy.txt", "Flickr8k.token.txt"),
    ] {
        known.extend(read(ctx, clip, original)?.map(|rows| (language.to_owned(), rows)));
    }
    if known.first().is_none_or(|(language, _)| language != "zh") {
        return Err(ctx.absent("flickr8k_test_zh.txt, or flickr8kzhc.caption.txt with Flickr_8k.testImages.txt"));
    }
    let asked = all_or_asked(ctx, &known.iter().map(|(l, _)| l.clone()).collect::<Vec<_>>())?;
    let most = ctx.options.captions.unwrap_or(5);
    let folders = ["", "Images", "images", "Flicker8k_Dataset"].map(|f| ctx.root.join(f));
    let mut images = Vec::new();
    let mut index: BTreeMap<String, Option<usize>> = BTreeMap::new();
    let mut languages = Vec::new();
    for (language, rows) in known.into_iter().filter(|(l, _)| asked.contains(l)) {
        let mut captions = Vec::new();
        for (name, texts) in rows {
            let at = match index.get(&name) {
                Some(at) => *at,
                None => {
                    let found = ctx.picture(&folders, &name)?;
                    let at = found.is_some().then_some(images.len());
                    images.extend(found);
                    index.insert(name, at);
                    at
                }
            };
            if let Some(at) = at {
                captions.extend(texts.into_iter().take(most).map(|t| (t, at)));
            }
        }
        languages.push(Captions { language, captions });
    }
    ctx.complete(images.len(), 1_000, "pictures")?;
    Ok((
        Task::Retrieval(Retrieval { images, languages }),
        format!("The 1,000 test pictures, {}.", first_captions(most)),
    ))
}
