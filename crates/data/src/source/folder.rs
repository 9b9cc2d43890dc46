//! Pictures found by walking a folder.

use std::fs;
use std::io::Read;
use std::path::Path;

use super::{Layout, Sample, Skipped, SourceError};
use crate::decode::is_image;

/// Endings that name a picture; files with another ending are asked by their first bytes.
const ENDINGS: [&str; 10] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];
/// Deeper folders are not pictures' homes but a loop or an attack.
const MAX_DEPTH: usize = 64;

/// All pictures below `root`, sorted by path. Hidden files and folders, and links to folders, are left out.
pub(super) fn walk(root: &Path, skipped: &mut Vec<Skipped>) -> Result<Vec<Sample>, SourceError> {
    let mut samples = Vec::new();
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
    Ok(samples)
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

fn looks_like_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    if ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) {
        return true;
    }
    let mut head = Vec::new();
    fs::File::open(path)
        .and_then(|f| f.take(32).read_to_end(&mut head))
        .is_ok()
        && is_image(&head)
}
