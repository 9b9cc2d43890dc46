//! ObjectNet: the classes that ImageNet has too.

use std::collections::BTreeMap;

use crate::context::{Context, json, pictures};
use crate::lists::file;
use crate::names::{english, english_only};
use crate::{Accuracy, BenchmarkError, Classification, Task};

/// Folders that map to ImageNet, with ObjectNet's own labels in lower case as names.
pub(crate) fn objectnet(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    english_only(ctx)?;
    let base = ctx.path(&["objectnet-1.0/images", "images"])?;
    let mappings = ctx.path(&["objectnet-1.0/mappings", "mappings", ""])?;
    let label_of: BTreeMap<String, String> = json(&file(ctx, &mappings, "folder_to_objectnet_label.json")?)?;
    let shared: BTreeMap<String, String> = json(&file(ctx, &mappings, "objectnet_to_imagenet_1k.json")?)?;
    let (mut images, mut labels, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for (folder, label) in label_of.iter().filter(|(_, label)| shared.contains_key(*label)) {
        let folder =
            base.join(bifocal_data::source::inside(folder).map_err(|e| crate::context::malformed(&mappings, None, e))?);
        let more = if folder.is_dir() {
            pictures(&folder)?
        } else {
            Vec::new()
        };
        labels.resize(labels.len() + more.len(), names.len());
        images.extend(more);
        names.push(label.to_lowercase());
    }
    ctx.complete(
        images.len(),
        18_574,
        "pictures of the 113 classes that ImageNet has too",
    )?;
    let protocol = format!(
        "The {} classes that ImageNet has too, under ObjectNet's own names in lower case; the red border stays, as in CLIP_benchmark.",
        names.len()
    );
    let task = Task::Classification(Classification {
        images,
        labels,
        classes: names.len(),
        prompts: english(names, "imagenet"),
        headline: Accuracy::Top1,
        train: None,
    });
    Ok((task, protocol))
}
