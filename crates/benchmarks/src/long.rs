//! Retrieval with long captions: ShareGPT4V-1k, Urban1k, DOCCI, DCI.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::context::{Context, json, json_lines, malformed, names, reader, text};
use crate::karpathy::Rows;
use crate::languages::english_retrieval;
use crate::{BenchmarkError, Task};

/// Entries of the list that make up the benchmark.
const SHARE: usize = 1000;

#[derive(Deserialize)]
struct Share {
    image: String,
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

/// The first 1000 entries of a list that is more than a gigabyte long.
pub(crate) fn sharegpt4v(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let path = ctx.path(&["share-captioner_coco_lcs_sam_1246k_1107.json"])?;
    let mut first = Vec::new();
    let mut stream = serde_json::Deserializer::from_reader(reader(&path)?);
    let outcome = First {
        to: &mut first,
        most: SHARE,
    }
    .deserialize(&mut stream);
    if let Err(e) = outcome
        && first.len() < SHARE
    {
        return Err(malformed(&path, None, format!("is not the JSON expected: {e}")));
    }
    let row = |(at, entry): (usize, Share)| {
        let caption = entry.conversations.into_iter().nth(1).map(|turn| turn.value);
        let caption = caption.ok_or_else(|| {
            malformed(
                &path,
                Some(at + 1),
                "the entry has no second turn, which is the caption",
            )
        })?;
        Ok((entry.image, vec![caption]))
    };
    let rows = first
        .into_iter()
        .enumerate()
        .map(row)
        .collect::<Result<Rows, BenchmarkError>>()?;
    let folders = ["", "images", "data"].map(|f| ctx.root.join(f));
    let task = english_retrieval(ctx, &folders, rows, 1, SHARE)?;
    Ok((
        task,
        "The first 1,000 entries of the list, one long caption each.".to_owned(),
    ))
}

/// Reads entries up to a number and then stops with an error.
struct First<'a, T> {
    to: &'a mut Vec<T>,
    most: usize,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for First<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for First<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while self.to.len() < self.most {
            match list.next_element()? {
                Some(entry) => self.to.push(entry),
                None => return Ok(()),
            }
        }
        // the rest need not even be JSON
        list.next_element::<IgnoredAny>().map(|_| ())
    }
}

/// Pictures by number; the first line of `caption/N.txt`.
pub(crate) fn urban(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let captions = ctx.path(&["Urban1k/caption", "caption"])?;
    let pictures = ctx.path(&["Urban1k/image", "image"])?;
    let mut numbers: Vec<u64> = names(&captions)?
        .iter()
        .filter_map(|n| n.strip_suffix(".txt")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut rows = Rows::new();
    for number in numbers {
        let text = text(&captions.join(format!("{number}.txt")))?;
        rows.push((
            format!("{number}.jpg"),
            vec![text.lines().next().unwrap_or_default().to_owned()],
        ));
    }
    let task = english_retrieval(ctx, &[pictures], rows, 1, 1_000)?;
    Ok((
        task,
        "1,000 pictures, one long caption each (the first line of its file).".to_owned(),
    ))
}

#[derive(Deserialize)]
struct Docci {
    split: String,
    image_file: String,
    description: String,
}

/// The test split; newlines within descriptions stay.
pub(crate) fn docci(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let path = ctx.path(&["docci_descriptions.jsonlines"])?;
    let rows = json_lines::<Docci>(&path)?.into_iter().filter(|d| d.split == "test");
    let rows = rows.map(|d| (d.image_file, vec![d.description])).collect();
    let folders = ["images", ""].map(|f| ctx.root.join(f));
    let task = english_retrieval(ctx, &folders, rows, 1, 5_000)?;
    Ok((task, "The 5,000 test pictures, one description each.".to_owned()))
}

#[derive(Deserialize)]
struct Dci {
    image: String,
    short_caption: String,
    #[serde(default)]
    extra_caption: String,
}

/// All splits together, short and extra caption as one text.
pub(crate) fn dci(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = ctx.path(&["densely_captioned_images", "annotations"])?;
    let base = crate::lists::without(base, "annotations");
    let splits: BTreeMap<String, Vec<String>> = json(&crate::lists::file(ctx, &base, "splits.json")?)?;
    let mut rows = Rows::new();
    for name in splits.values().flatten() {
        let inside = bifocal_data::source::inside(name).map_err(|e| malformed(&base.join("splits.json"), None, e))?;
        let annotation = base.join("annotations").join(inside);
        if !annotation.is_file() {
            // counted as missing
            ctx.picture(&[base.join("annotations")], name)?;
            continue;
        }
        let dci: Dci = json(&annotation)?;
        rows.push((dci.image, vec![dci_text(&dci.short_caption, &dci.extra_caption)]));
    }
    let task = english_retrieval(ctx, &[base.join("photos")], rows, 1, 7_805)?;
    let protocol = "All 7,805 pictures of all splits; short and extra caption as one text, as FLAME joins them.";
    Ok((task, protocol.to_owned()))
}

/// The sentences of both captions, joined by ". ".
fn dci_text(short: &str, extra: &str) -> String {
    let whole = format!("{short}\n{extra}").replace("</s>", "\n");
    let parts = whole.split(['\n', '.']).map(str::trim).filter(|p| !p.is_empty());
    parts.collect::<Vec<_>>().join(". ")
}

/// For tests of the reading of large lists.
#[cfg(test)]
fn first(json: &str, most: usize) -> (Vec<u32>, bool) {
    let mut to = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(json);
    let ok = First { to: &mut to, most }.deserialize(&mut stream).is_ok();
    (to, ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entries_of_a_list_and_no_more() {
        assert_eq!(first("[1, 2, 3]", 5), (vec![1, 2, 3], true));
        assert_eq!(first("[1, 2, 3, \"no number\"", 2), (vec![1, 2], false));
        assert_eq!(first("[1, \"no number\"]", 2), (vec![1], false));
        assert!(!first("{}", 2).1);
    }

    #[test]
    fn captions_of_dci_are_sentences() {
        assert_eq!(
            dci_text("A dog. ", "It runs.</s>Fast\n\nand far."),
            "A dog. It runs. Fast. and far"
        );
    }
}
