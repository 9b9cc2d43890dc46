//! SugarCrepe, Winoground, MMVP-VLM.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::context::{Context, json, json_lines, malformed};
use crate::names::english_only;
use crate::{BenchmarkError, Composition, Group, Item, Rule, Task};
use bifocal_data::source::{ImageSource, Record, Records};

/// Pictures that several items share, by name.
#[derive(Default)]
pub(crate) struct Shared {
    pub images: Vec<ImageSource>,
    known: HashMap<String, Option<usize>>,
}

impl Shared {
    /// The index of a picture; nothing when it is not there, which is counted once.
    pub fn index(
        &mut self,
        ctx: &mut Context,
        folders: &[PathBuf],
        name: &str,
    ) -> Result<Option<usize>, BenchmarkError> {
        if let Some(at) = self.known.get(name) {
            return Ok(*at);
        }
        let found = ctx.picture(folders, name)?;
        let at = found.is_some().then_some(self.images.len());
        self.images.extend(found);
        self.known.insert(name.to_owned(), at);
        Ok(at)
    }
}

#[derive(Deserialize)]
struct Crepe {
    filename: String,
    caption: String,
    negative_caption: String,
}

/// SugarCrepe's files and their numbers of items. The paper prints 246 for swap_obj; the file has 245.
const CREPE: [(&str, usize); 7] = [
    ("add_att", 692),
    ("add_obj", 2_062),
    ("replace_att", 788),
    ("replace_obj", 1_652),
    ("replace_rel", 1_406),
    ("swap_att", 666),
    ("swap_obj", 245),
];

pub(crate) fn sugarcrepe(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    english_only(ctx)?;
    let folders = ["val2017", "images", "coco/images", ""].map(|f| ctx.root.join(f));
    let mut shared = Shared::default();
    let mut groups = Vec::new();
    let mut total = 0;
    for (name, expected) in CREPE {
        let path = ctx.path(&[
            &format!("{name}.json"),
            &format!("data/{name}.json"),
            &format!("dataset/{name}.json"),
        ])?;
        let entries: BTreeMap<String, Crepe> = json(&path)?;
        if entries.len() != expected && !ctx.options.partial {
            let reason = format!(
                "has {} items, the official file has {expected}; fetch it again",
                entries.len()
            );
            return Err(malformed(&path, None, reason));
        }
        // the keys are numbers with gaps
        let mut entries: Vec<(u64, Crepe)> = entries
            .into_iter()
            .map(|(k, e)| (k.parse().unwrap_or(u64::MAX), e))
            .collect();
        entries.sort_by_key(|(key, _)| *key);
        let mut items = Vec::new();
        for (_, entry) in entries {
            if let Some(image) = shared.index(ctx, &folders, &entry.filename)? {
                items.push(Item {
                    images: vec![image],
                    texts: vec![entry.caption, entry.negative_caption],
                });
            }
        }
        total += items.len();
        if !items.is_empty() {
            groups.push(Group {
                name: name.to_owned(),
                part_of: name.split_once('_').map(|(kind, _)| kind.to_owned()),
                rule: Rule::Strict,
                items,
            });
        }
    }
    ctx.complete(total, 7_511, "items")?;
    let protocol = "The caption must score strictly higher than its hard negative; scores of add, replace and swap are means of their files.";
    let images = shared.images;
    Ok((Task::Composition(Composition { images, groups }), protocol.to_owned()))
}

#[derive(Deserialize)]
struct Wino {
    image_0: String,
    image_1: String,
    caption_0: String,
    caption_1: String,
    #[serde(default)]
    collapsed_tag: String,
}

/// Winoground as on the hub: `examples.jsonl` and the unpacked pictures.
pub(crate) fn winoground(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    english_only(ctx)?;
    let path = ctx.path(&["data/examples.jsonl", "examples.jsonl"])?;
    let folders = ["data/images", "images", "data", ""].map(|f| ctx.root.join(f));
    let mut shared = Shared::default();
    let mut tags: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    let mut total = 0;
    for wino in json_lines::<Wino>(&path)? {
        let mut index = |name: &str| {
            // the names have no ending
            let name = if name.contains('.') {
                name.to_owned()
            } else {
                format!("{name}.png")
            };
            shared.index(ctx, &folders, &name)
        };
        if let (Some(first), Some(second)) = (index(&wino.image_0)?, index(&wino.image_1)?) {
            let tag = if wino.collapsed_tag.is_empty() {
                "all".to_owned()
            } else {
                wino.collapsed_tag
            };
            let texts = vec![wino.caption_0, wino.caption_1];
            tags.entry(tag).or_default().push(Item {
                images: vec![first, second],
                texts,
            });
            total += 1;
        }
    }
    ctx.complete(total, 400, "examples")?;
    let group = |(name, items)| Group {
        name,
        part_of: Some("all".to_owned()),
        rule: Rule::Winoground,
        items,
    };
    let groups = tags.into_iter().map(group).collect();
    let protocol =
        "400 examples of two pictures and two captions; text, picture and group score over all examples, all strictly.";
    let images = shared.images;
    Ok((Task::Composition(Composition { images, groups }), protocol.to_owned()))
}

/// MMVP's nine patterns, in the order of the file, 15 pairs each.
const PATTERNS: [&str; 9] = [
    "orientation and direction",
    "presence of specific features",
    "state and condition",
    "quantity and count",
    "positional and relational context",
    "colour and appearance",
    "structural characteristics",
    "texts",
    "viewpoint and perspective",
];

/// 135 pairs; the pattern is the place of a pair, while the column Type only names the folder of its pictures.
pub(crate) fn mmvp(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    english_only(ctx)?;
    let path = ctx.path(&["Questions.csv"])?;
    let base = ctx.path(&["MLLM_VLM Images", "MMVP_VLM_Images", "images"])?;
    let rows = statements(&path)?;
    if rows.len() != 270 && (!ctx.options.partial || rows.len() % 2 != 0) {
        let reason = format!(
            "has {} statements; the official file has 270, two for each of 135 pairs",
            rows.len()
        );
        return Err(malformed(&path, None, reason));
    }
    let mut shared = Shared::default();
    let mut groups: Vec<Group> = Vec::new();
    let mut total = 0;
    for (at, pair) in rows.chunks_exact(2).enumerate() {
        let mut images = Vec::new();
        for row in pair {
            images.extend(shared.index(ctx, &[base.join(&row.kind), base.clone()], &format!("{}.jpg", row.id))?);
        }
        // the first of a pair has the odd number, and belongs to the first picture
        if pair[0].id % 2 != 1 || pair[1].id != pair[0].id + 1 {
            return Err(malformed(
                &path,
                Some(2 * at + 2),
                "a pair is an odd number and the one after it",
            ));
        }
        if images.len() < 2 {
            continue;
        }
        total += 1;
        let name = PATTERNS[(at / 15).min(PATTERNS.len() - 1)];
        if groups.last().is_none_or(|g| g.name != name) {
            groups.push(Group {
                name: name.to_owned(),
                part_of: Some("all".to_owned()),
                rule: Rule::Mmvp,
                items: Vec::new(),
            });
        }
        let texts = pair.iter().map(|row| format!("a photo of {}", row.statement)).collect();
        if let Some(group) = groups.last_mut() {
            group.items.push(Item { images, texts });
        }
    }
    ctx.complete(total, 135, "pairs")?;
    let protocol = "135 pairs, each statement after \"a photo of \" and choosing among the two pictures; both must be right; the score is the \
                    mean of nine patterns of 15 pairs.";
    let images = shared.images;
    Ok((Task::Composition(Composition { images, groups }), protocol.to_owned()))
}

struct Statement {
    id: u64,
    kind: String,
    statement: String,
}

fn statements(path: &Path) -> Result<Vec<Statement>, BenchmarkError> {
    let io = |e: std::io::Error| malformed(path, None, format!("cannot be read: {e}"));
    let mut records = Records::new(File::open(path).map_err(io)?).map_err(io)?;
    let mut rows = Vec::new();
    while let Some((line, record)) = records.read().map_err(io)? {
        let wrong = || malformed(path, Some(line as usize), "expected a number, a type, and a statement");
        let Record::Fields(fields) = record else {
            return Err(wrong());
        };
        let fields: Vec<&str> = fields.iter().filter_map(|f| std::str::from_utf8(f).ok()).collect();
        let [id, kind, statement] = fields[..] else {
            return Err(wrong());
        };
        match id.trim().parse() {
            Ok(id) => rows.push(Statement {
                id,
                kind: bifocal_data::source::inside(kind.trim()).map_err(|_| wrong())?,
                statement: statement.trim().to_owned(),
            }),
            // the headings
            Err(_) if rows.is_empty() && line <= 1 => {}
            Err(_) => return Err(wrong()),
        }
    }
    Ok(rows)
}
