//! Tar archives in webdataset layout: members that share a name up to its first dot are one sample. The headers are read once; pictures are
//! read by position when they are needed.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tar::{Entry, EntryType, PaxExtensions};

use super::archive::Archive;
use super::columns::{Role, UNNAMED, role};
use super::folder::ENDINGS;
use super::jsonl::Fields;
use super::picture::Member;
use super::rows::{Captions, Rows, add_caption};
use super::{ImageSource, Skipped, SourceError};

/// Largest text that is read beside a picture, and largest header with a long name, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// What an archive holds.
pub(super) struct Shard {
    samples: Vec<Part>,
    skipped: Vec<Skipped>,
}

/// The members of one name.
struct Part {
    key: String,
    image: Option<Member>,
    captions: Captions,
    label: Option<String>,
}

impl Shard {
    /// Reads all headers, and the texts. What is damaged is counted, and nothing after it can be found.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        let io = |e: std::io::Error| SourceError::io(path, &e);
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let archive = Arc::new(Archive::new(path));
        let mut shard = Self {
            samples: Vec::new(),
            skipped: Vec::new(),
        };
        let mut known = HashMap::new();
        let mut tar = tar::Archive::new(file);
        // raw: the library would read long names of any length into memory
        let entries = tar.entries_with_seek().map_err(io)?.raw(true);
        let (mut long_name, mut end) = (None, 0);
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    shard.skip(format!("from byte {end} on"), format!("the archive is damaged: {e}"));
                    break;
                }
            };
            let (offset, length) = (entry.raw_file_position(), entry.size());
            let inside = offset.checked_add(length).filter(|&end| end <= size);
            let name = match long_name.take() {
                Some(name) if !is_extension(entry.header().entry_type()) => name,
                name => {
                    long_name = name;
                    entry.path_bytes().into_owned()
                }
            };
            let Some(inside) = inside else {
                let what = String::from_utf8_lossy(&name).into_owned();
                shard.skip(
                    what,
                    "the archive ends before this member does; fetch it again".to_owned(),
                );
                break;
            };
            end = inside;
            match entry.header().entry_type() {
                EntryType::GNULongName => long_name = read_text(entry).map(|name| until_zero(&name).to_vec()),
                EntryType::XHeader => {
                    let header = read_text(entry).unwrap_or_default();
                    if let Some(name) = pax(&header, b"path") {
                        long_name = Some(name.to_vec());
                    }
                    // what a member of more than 8 GB holds would be read as headers
                    if pax(&header, b"size").is_some() {
                        shard.skip(format!("from byte {end} on"), "a member is larger than 8 GB".to_owned());
                        break;
                    }
                }
                EntryType::Regular | EntryType::Continuous => shard.member(entry, &name, &archive, &mut known),
                EntryType::GNUSparse => {
                    let what = String::from_utf8_lossy(&name).into_owned();
                    shard.skip(what, "sparse members are not read".to_owned());
                }
                _ => {}
            }
        }
        Ok(shard)
    }

    fn skip(&mut self, what: String, reason: String) {
        self.skipped.push(Skipped {
            line: None,
            what,
            reason,
        });
    }

    fn member(
        &mut self,
        entry: Entry<'_, impl Read>,
        name: &[u8],
        archive: &Arc<Archive>,
        known: &mut HashMap<String, usize>,
    ) {
        let Some(name) = std::str::from_utf8(name).ok().filter(|n| !n.contains('\0')) else {
            self.skip(
                String::from_utf8_lossy(name).into_owned(),
                "the name is not UTF-8".to_owned(),
            );
            return;
        };
        let base = name.rfind('/').map_or(0, |at| at + 1);
        let Some(dot) = name[base..].find('.').filter(|&dot| dot > 0) else {
            return;
        };
        let (key, ending) = (&name[..base + dot], name[base + dot + 1..].to_ascii_lowercase());
        let picture = ENDINGS.contains(&ending.as_str());
        if !picture && !["txt", "json", "cls"].contains(&ending.as_str()) {
            return;
        }
        let at = *known.entry(key.to_owned()).or_insert_with(|| {
            self.samples.push(Part {
                key: key.trim_start_matches("./").to_owned(),
                image: None,
                captions: Captions::new(),
                label: None,
            });
            self.samples.len() - 1
        });
        let outcome = if picture {
            let member = Member {
                archive: archive.clone(),
                name: name.into(),
                offset: entry.raw_file_position(),
                length: entry.size(),
            };
            match &self.samples[at].image {
                Some(first) => Err(format!("{} is the sample's picture already", first.name)),
                None => {
                    self.samples[at].image = Some(member);
                    Ok(())
                }
            }
        } else {
            match read_text(entry) {
                Some(text) => self.samples[at].add(&ending, &text),
                None => Err(format!("longer than {MAX_TEXT} bytes")),
            }
        };
        if let Err(reason) = outcome {
            self.skip(name.to_owned(), reason);
        }
    }

    /// Moves the samples over; their keys begin with `prefix`.
    pub fn into_rows(self, prefix: &str, rows: &mut Rows) {
        for Skipped { what, reason, .. } in self.skipped {
            rows.skip(None, (format!("{prefix}: {what}"), reason));
        }
        let pictures = self.samples.iter().any(|part| part.image.is_some());
        for part in self.samples {
            let key = format!("{prefix}/{}", part.key);
            let outcome = match part.image {
                Some(member) => rows.push(key, ImageSource::Member(member), part.captions, part.label),
                None if pictures => Err((key, "no picture of this name".to_owned())),
                None if part.captions.is_empty() => Err((key, "neither a picture nor a caption".to_owned())),
                None => rows.push(key, ImageSource::None, part.captions, part.label),
            };
            if let Err(refusal) = outcome {
                rows.skip(None, refusal);
            }
        }
    }
}

impl Part {
    fn add(&mut self, ending: &str, text: &[u8]) -> Result<(), String> {
        if ending == "json" {
            let mut object: Map<String, Value> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
            // the picture is beside it, whatever the object says about files
            object.retain(|name, _| !matches!(role(name), Role::Image(_)));
            let fields = Fields::of(&object)?;
            for (group, texts) in fields.captions {
                texts.iter().for_each(|t| add_caption(&mut self.captions, &group, t));
            }
            self.label = self.label.take().or(fields.label);
            return Ok(());
        }
        let text = std::str::from_utf8(text)
            .map_err(|_| "the text is not UTF-8".to_owned())?
            .trim();
        if ending == "cls" {
            self.label = Some(text.to_owned());
        } else {
            add_caption(&mut self.captions, UNNAMED, text);
        }
        Ok(())
    }
}

/// Headers that speak of the member after them.
fn is_extension(kind: EntryType) -> bool {
    use EntryType::{GNULongLink, GNULongName, XGlobalHeader, XHeader};
    matches!(kind, GNULongName | GNULongLink | XHeader | XGlobalHeader)
}

/// All of a small member; `None` for one beyond the limit or beyond reach.
fn read_text(entry: Entry<'_, impl Read>) -> Option<Vec<u8>> {
    let length = entry.size();
    let mut text = Vec::new();
    let whole = length <= MAX_TEXT && entry.take(MAX_TEXT).read_to_end(&mut text).is_ok();
    (whole && text.len() as u64 == length).then_some(text)
}

fn until_zero(name: &[u8]) -> &[u8] {
    name.split(|&b| b == 0).next().unwrap_or_default()
}

/// The last value of a name in a pax header.
fn pax<'a>(header: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let records = PaxExtensions::new(header).filter_map(Result::ok);
    records
        .filter(|r| r.key_bytes() == name)
        .last()
        .map(|r| r.value_bytes())
}
