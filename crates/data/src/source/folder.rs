//! Pictures found by walking a folder, with the captions of text files beside them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::columns::UNNAMED;
use super::rows::add_caption;
use super::{Layout, Sample, Skipped, SourceError};
use crate::decode::is_image;

/// Endings that name a picture; files with another ending are asked by their first bytes.
pub(super) const ENDINGS: [&str; 10] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];
/// Deeper folders are not pictures' homes but a loop or an attack.
const MAX_DEPTH: usize = 64;
/// Longest caption file that is read, in bytes.
const MAX_CAPTION: u64 = 1 << 20;

/// What lies in a folder.
#[derive(Default)]
pub(super) struct Found {
    /// Pictures, sorted by path.
    pub samples: Vec<Sample>,
    /// Archives and tables that hold pictures, sorted.
    pub shards: Vec<PathBuf>,
}

/// All pictures below `root`, sorted by path, and all archives. Hidden files and folders, and links to folders, are left out. A picture
/// `X.jpg` with an `X.txt` beside it has a caption.
pub(super) fn walk(root: &Path, skipped: &mut Vec<Skipped>) -> Result<Found, SourceError> {
    let mut found = Found::default();
    let samples = &mut found.samples;
    let mut texts = BTreeSet::new();
    let mut todo = vec![(root.to_owned(), String::new(), 0)];
    while let Some((dir, prefix, depth)) = todo.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if depth == 0 => return Err(SourceError::io(&dir, &e)),
            Err(e) => {
                skipped.push(Skipped {
                    line: None,
                    what: prefix,
                    reason: e.to_string(),
                });
                continue;
            }
        };
        for entry in entries {
            let entry = entry.map_err(|e| SourceError::io(&dir, &e))?;
            let path = entry.path();
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                let what = path.to_string_lossy().into_owned();
                skipped.push(Skipped {
                    line: None,
                    what,
                    reason: "the name is not UTF-8; rename it".into(),
                });
                continue;
            };
            if name.starts_with('.') || name == "__MACOSX" {
                continue;
            }
            let key = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            match entry.file_type() {
                Ok(t) if t.is_dir() && depth < MAX_DEPTH => todo.push((path, key, depth + 1)),
                Ok(t) if t.is_dir() => {
                    let reason = format!("deeper than {MAX_DEPTH} folders");
                    skipped.push(Skipped {
                        line: None,
                        what: key,
                        reason,
                    });
                }
                Ok(_) if has_ending(&path, &["tar", "parquet"]) => found.shards.push(path),
                Ok(_) if has_ending(&path, &["txt"]) => {
                    texts.insert(path);
                }
                Ok(_) if path.is_file() && looks_like_image(&path) => samples.push(Sample::bare(key, path)),
                Ok(_) => {}
                Err(e) => skipped.push(Skipped {
                    line: None,
                    what: key,
                    reason: e.to_string(),
                }),
            }
        }
    }
    samples.sort_by(|a, b| a.key.cmp(&b.key));
    found.shards.sort();
    for sample in samples {
        let text = sample.image.file().map(|path| path.with_extension("txt"));
        let Some(text) = text.filter(|text| texts.contains(text)) else {
            continue;
        };
        match caption(&text) {
            Ok(text) => add_caption(&mut sample.captions, UNNAMED, text.trim()),
            Err(reason) => skipped.push(Skipped {
                line: None,
                what: text.display().to_string(),
                reason,
            }),
        }
    }
    Ok(found)
}

fn caption(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|f| f.take(MAX_CAPTION + 1).read_to_end(&mut bytes))
        .map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_CAPTION {
        return Err(format!("longer than {MAX_CAPTION} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "the text is not UTF-8".to_owned())
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|e| e.to_str());
    ending.is_some_and(|e| endings.iter().any(|k| e.eq_ignore_ascii_case(k)))
}

/// One folder for each class: every picture lies in a folder directly below the root, and there are at least two.
/// Gives the samples their labels when that is so.
pub(super) fn label_by_folder(samples: &mut [Sample]) -> Layout {
    let classes: Vec<Option<String>> = samples
        .iter()
        .map(|s| {
            s.key
                .split_once('/')
                .filter(|(_, rest)| !rest.contains('/'))
                .map(|(class, _)| class.to_owned())
        })
        .collect();
    let several = classes.windows(2).any(|w| w[0] != w[1]);
    if !several || classes.iter().any(Option::is_none) {
        return Layout::Plain;
    }
    for (sample, class) in samples.iter_mut().zip(classes) {
        sample.label = class;
    }
    Layout::ClassFolders
}

/// Whether the file is called like a picture.
pub fn has_image_ending(path: &Path) -> bool {
    has_ending(path, &ENDINGS)
}

fn looks_like_image(path: &Path) -> bool {
    if has_image_ending(path) {
        return true;
    }
    let mut head = Vec::new();
    fs::File::open(path)
        .and_then(|f| f.take(32).read_to_end(&mut head))
        .is_ok()
        && is_image(&head)
}
