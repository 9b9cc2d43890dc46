//! ARO: relations and attributes of Visual Genome, each about a part of a picture, and the order of words.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use crate::context::{Context, json};
use crate::names::english_only;
use crate::pairs::Shared;
use crate::{BenchmarkError, Composition, Group, Item, Rule, Task};
use bifocal_data::source::ImageSource;
use bifocal_data::transform::Rect;

/// Relations that say the same, or nothing to be seen, when their sides change places; the authors' mean leaves them out.
const SYMMETRIC: &str = include_str!("../data/aro_symmetric.txt");
/// Pairs of attributes with fewer items are not part of the mean.
const FEWEST: usize = 25;

#[derive(Deserialize)]
struct Genome {
    image_path: String,
    bbox_x: u32,
    bbox_y: u32,
    bbox_w: u32,
    bbox_h: u32,
    true_caption: String,
    false_caption: String,
    relation_name: Option<String>,
    #[serde(default)]
    attributes: Vec<String>,
}

#[derive(Deserialize)]
struct Order {
    image: String,
    caption_options: Vec<String>,
}

pub(crate) fn aro(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    english_only(ctx)?;
    let folders = ["images", ""].map(|f| ctx.root.join(f));
    let mut shared = Shared::default();
    let mut images = Vec::new();
    let mut regions = BTreeMap::new();
    let mut groups = Vec::new();
    let mut read = |ctx: &mut Context, name: &str, expected: usize, groups: &mut Vec<Group>| {
        let path = ctx.path(&[&format!("{name}.json")])?;
        let mut by: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        let mut total = 0;
        for entry in json::<Vec<Genome>>(&path)? {
            let Some(whole) = shared.index(ctx, &folders, &entry.image_path)? else {
                continue;
            };
            let rect = Rect {
                x: entry.bbox_x,
                y: entry.bbox_y,
                width: entry.bbox_w,
                height: entry.bbox_h,
            };
            let image = *regions
                .entry((whole, rect.x, rect.y, rect.width, rect.height))
                .or_insert_with(|| {
                    images.push(ImageSource::region(shared.images[whole].clone(), rect));
                    images.len() - 1
                });
            let kind = entry.relation_name.unwrap_or_else(|| entry.attributes.join("_"));
            by.entry(kind).or_default().push(Item {
                images: vec![image],
                texts: vec![entry.true_caption, entry.false_caption],
            });
            total += 1;
        }
        ctx.complete(total, expected, &format!("items of {name}"))?;
        groups.extend(by.into_iter().map(|(kind, items)| Group {
            name: kind,
            part_of: Some(name.to_owned()),
            rule: Rule::Strict,
            items,
        }));
        Ok::<_, BenchmarkError>(())
    };
    read(ctx, "visual_genome_relation", 23_937, &mut groups)?;
    let symmetric: BTreeSet<&str> = SYMMETRIC.lines().collect();
    groups.retain(|g| !symmetric.contains(g.name.as_str()));
    let mut attributes = Vec::new();
    read(ctx, "visual_genome_attribution", 28_748, &mut attributes)?;
    attributes.retain(|g| g.items.len() >= FEWEST);
    groups.extend(attributes);
    for name in ["coco_order", "flickr30k_order"] {
        groups.extend(order(ctx, name, &mut images)?);
    }
    let protocol = "Relations and attributes: the mean over relations (without those that are the same both ways) and over pairs of attributes \
                    with at least 25 items, each about its part of the picture, strictly; orders: the true caption is not beaten by any of \
                    four shuffled ones, which are read from a file.";
    Ok((Task::Composition(Composition { images, groups }), protocol.to_owned()))
}

/// Captions whose words were shuffled. The authors' program draws them anew each time; its draw, written as JSON, is read here if it is there.
fn order(ctx: &mut Context, name: &str, images: &mut Vec<ImageSource>) -> Result<Option<Group>, BenchmarkError> {
    let Some(path) = ctx.optional(&[&format!("{name}.json")]) else {
        ctx.skip(
            name,
            "there is no such file; the authors' program makes the shuffled captions",
        );
        return Ok(None);
    };
    let folders: Vec<PathBuf> = ["", "images", "val2014", "flickr30k-images"]
        .map(|f| ctx.root.join(f))
        .into();
    let mut shared = Shared::default();
    let mut items = Vec::new();
    for entry in json::<Vec<Order>>(&path)? {
        if entry.caption_options.len() < 2 {
            return Err(crate::context::malformed(
                &path,
                Some(items.len() + 1),
                "expected at least two caption_options",
            ));
        }
        if let Some(image) = shared.index(ctx, &folders, &entry.image)? {
            items.push(Item {
                images: vec![images.len() + image],
                texts: entry.caption_options,
            });
        }
    }
    images.extend(shared.images);
    ctx.complete(items.len(), 0, &format!("items of {name}"))?;
    Ok(Some(Group {
        name: name.to_owned(),
        part_of: None,
        rule: Rule::FirstOfEqual,
        items,
    }))
}
