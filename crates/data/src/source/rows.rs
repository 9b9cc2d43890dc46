//! Samples from rows of any kind of table or archive.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use super::{ImageSource, Layout, Sample, Skipped};

/// Captions by group.
pub(super) type Captions = BTreeMap<String, Vec<String>>;

/// What and why, of a row that cannot be used.
pub(super) type Refusal = (String, String);

/// What has been read so far.
pub(super) struct Rows {
    pub root: PathBuf,
    pub samples: Vec<Sample>,
    pub skipped: Vec<Skipped>,
    known: HashMap<String, usize>,
}

impl Rows {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            samples: Vec::new(),
            skipped: Vec::new(),
            known: HashMap::new(),
        }
    }

    pub fn skip(&mut self, line: Option<u64>, (what, reason): Refusal) {
        self.skipped.push(Skipped { line, what, reason });
    }

    /// A row whose picture is a file below the root. A picture that comes again gets the further captions; a second, different label is
    /// refused.
    pub fn file(&mut self, image: &str, captions: Captions, label: Option<String>) -> Result<(), Refusal> {
        let key = inside(image).map_err(|reason| (image.to_owned(), reason))?;
        if !self.known.contains_key(&key) {
            let path = self.root.join(&key);
            if !path.is_file() {
                return Err((image.to_owned(), "there is no such file".into()));
            }
            return self.push(key, ImageSource::File(path), captions, label);
        }
        self.push(key, ImageSource::None, captions, label)
    }

    /// A row with a picture from anywhere, or none.
    pub fn push(
        &mut self,
        key: String,
        image: ImageSource,
        captions: Captions,
        label: Option<String>,
    ) -> Result<(), Refusal> {
        let Some(&at) = self.known.get(&key) else {
            self.known.insert(key.clone(), self.samples.len());
            self.samples.push(Sample {
                key,
                image,
                captions,
                label,
            });
            return Ok(());
        };
        let sample = &mut self.samples[at];
        match (&sample.label, label) {
            (Some(old), Some(new)) if *old != new => {
                return Err((key, format!("already labelled {old:?}, now {new:?}")));
            }
            (None, Some(new)) => sample.label = Some(new),
            _ => {}
        }
        for (group, texts) in captions {
            sample.captions.entry(group).or_default().extend(texts);
        }
        Ok(())
    }

    /// What the samples are, all together.
    pub fn layout(&self) -> Layout {
        if self.samples.iter().any(|s| !s.captions.is_empty()) {
            Layout::Captions
        } else if self.samples.iter().any(|s| s.label.is_some()) {
            Layout::Labels
        } else {
            Layout::Plain
        }
    }
}

/// Captions of a group that a further one is compared with; hostile lists are long.
const COMPARED: usize = 64;

/// Adds a caption unless it is blank or there already: archives often carry the same text twice.
pub(super) fn add_caption(captions: &mut Captions, group: &str, text: &str) {
    if text.trim().is_empty() {
        return;
    }
    let texts = captions.entry(group.to_owned()).or_default();
    if !texts.iter().take(COMPARED).any(|t| t == text) {
        texts.push(text.to_owned());
    }
}

/// The path with `/` between its parts when it stays inside the root.
pub fn inside(image: &str) -> Result<String, String> {
    let outside = || "the path leads out of the data folder; only paths below it are read".to_owned();
    let mut parts = Vec::new();
    for part in Path::new(image).components() {
        match part {
            Component::Normal(p) => parts.push(p.to_str().ok_or_else(outside)?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(outside());
            }
        }
    }
    if parts.is_empty() || image.contains('\0') {
        return Err("the path of the picture is empty or not a path".into());
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(inside("images/1.jpg"), Ok("images/1.jpg".into()));
        assert_eq!(inside("./images//1.jpg"), Ok("images/1.jpg".into()));
        assert_eq!(inside("a..b/c...jpg"), Ok("a..b/c...jpg".into()));
        for bad in [
            "../1.jpg",
            "a/../../1.jpg",
            "a/..",
            "/etc/passwd",
            "",
            ".",
            "a\0b",
            "//x",
        ] {
            assert!(inside(bad).is_err(), "{bad:?}");
        }
    }
}
