//! ImageNet and the sets that share its classes.

use std::path::{Path, PathBuf};

use crate::context::{Context, folders, lines, malformed, pictures};
use crate::names::{self, WNIDS};
use crate::{Accuracy, BenchmarkError, Classification, Task};
use bifocal_data::source::ImageSource;

type Labelled = (Vec<ImageSource>, Vec<usize>);

/// The validation set, in folders by wnid, or flat beside `val.txt` with lines "name label".
pub(crate) fn imagenet(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let (images, labels) = validation(ctx)?;
    let prompts = names::imagenet_prompts(ctx, &(0..names::IMAGENET).collect::<Vec<_>>())?;
    let train = match ctx.optional(&["train", "ILSVRC2012_img_train"]) {
        Some(train) if ctx.options.train => Some(by_wnid(&train)?),
        _ => None,
    };
    let task = classification(images, labels, names::IMAGENET, prompts, train);
    Ok((task, "50,000 validation pictures, 1000 classes.".to_owned()))
}

/// ImageNet's pictures with the names of Babel-ImageNet: a language has names for some of the classes, and only these count.
pub(crate) fn babel(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let prompts = names::babel_prompts(ctx)?;
    let (images, labels) = validation(ctx)?;
    let protocol = "ImageNet's validation pictures; each language with those classes that Babel-ImageNet names in it, and NLLB's templates.";
    let task = classification(images, labels, names::IMAGENET, prompts, None);
    Ok((task, protocol.to_owned()))
}

/// ImageNet-V2: the folder's NAME is the class, so that "10" is class 10 although it sorts before "2".
pub(crate) fn v2(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let root = ctx.root.to_owned();
    let places = [
        "imagenetv2-matched-frequency-format-val",
        "ImageNetV2-matched-frequency",
        "",
    ];
    let folder = with_folders(&root, &places, |n| n.parse::<usize>().is_ok())
        .ok_or_else(|| ctx.absent("imagenetv2-matched-frequency-format-val/0 … 999"))?;
    let (mut images, mut labels) = Labelled::default();
    let mut classes = folders(&folder)?
        .into_iter()
        .map(|name| match name.parse::<usize>() {
            Ok(class) if class < names::IMAGENET => Ok((class, name)),
            _ => Err(malformed(
                &folder.join(&name),
                None,
                "is not a class: folders are called 0 to 999",
            )),
        })
        .collect::<Result<Vec<_>, _>>()?;
    classes.sort_unstable();
    for (class, name) in classes {
        push(&mut images, &mut labels, pictures(&folder.join(name))?, class);
    }
    ctx.complete(images.len(), 10_000, "pictures")?;
    let prompts = names::imagenet_prompts(ctx, &(0..names::IMAGENET).collect::<Vec<_>>())?;
    let task = classification(images, labels, names::IMAGENET, prompts, None);
    Ok((task, "Matched-frequency pictures, 1000 classes.".to_owned()))
}

/// ImageNet-A, the choice is among its 200 classes alone.
pub(crate) fn a(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    subset(ctx, "imagenet-a", 7_500)
}

/// ImageNet-R, likewise.
pub(crate) fn r(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    subset(ctx, "imagenet-r", 30_000)
}

/// ImageNet-O, likewise: plain accuracy over its 200 classes, not the out-of-distribution score of its authors.
pub(crate) fn o(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    subset(ctx, "imagenet-o", 2_000)
}

/// ImageNet-Sketch, 1000 classes.
pub(crate) fn sketch(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let folder = wnid_folder(ctx, &["sketch", "imagenet-sketch", ""])?;
    let (images, labels) = by_wnid(&folder)?;
    ctx.complete(images.len(), 50_889, "pictures")?;
    let prompts = names::imagenet_prompts(ctx, &(0..names::IMAGENET).collect::<Vec<_>>())?;
    let task = classification(images, labels, names::IMAGENET, prompts, None);
    Ok((task, "Sketches, 1000 classes.".to_owned()))
}

fn subset(ctx: &mut Context, name: &str, expected: usize) -> Result<(Task, String), BenchmarkError> {
    let folder = wnid_folder(ctx, &[name, ""])?;
    let (images, labels) = by_wnid(&folder)?;
    ctx.complete(images.len(), expected, "pictures")?;
    let mut classes = labels.clone();
    classes.dedup();
    if classes.len() != 200 {
        ctx.complete(classes.len(), 200, "classes")?;
    }
    let labels = labels.iter().filter_map(|l| classes.binary_search(l).ok()).collect();
    let prompts = names::imagenet_prompts(ctx, &classes)?;
    let protocol = format!("The choice is among the names of its {} classes alone.", classes.len());
    Ok((classification(images, labels, classes.len(), prompts, None), protocol))
}

fn classification(
    images: Vec<ImageSource>,
    labels: Vec<usize>,
    classes: usize,
    prompts: Vec<crate::Prompts>,
    train: Option<Labelled>,
) -> Task {
    Task::Classification(Classification {
        images,
        labels,
        classes,
        prompts,
        headline: Accuracy::Top1,
        train,
    })
}

fn validation(ctx: &mut Context) -> Result<Labelled, BenchmarkError> {
    let root = ctx.root.to_owned();
    let labelled = match with_folders(&root, &["val", "ILSVRC2012_img_val", ""], is_wnid) {
        Some(folder) => by_wnid(&folder)?,
        None => flat(ctx)?,
    };
    ctx.complete(labelled.0.len(), 50_000, "pictures")?;
    Ok(labelled)
}

/// Pictures in one folder, as in the official archive, with lines "name label" in a file: there the labels are 0 to 999 by sorted wnid.
fn flat(ctx: &mut Context) -> Result<Labelled, BenchmarkError> {
    let list = ctx
        .optional(&["val.txt", "val/val.txt"])
        .ok_or_else(|| ctx.absent("val/n01440764 … (a folder for each class) or val.txt"))?;
    let folders = ["val", "ILSVRC2012_img_val", ""].map(|f| ctx.root.join(f));
    let (mut images, mut labels) = Labelled::default();
    for (number, line) in lines(&list)? {
        let wrong = || {
            malformed(
                &list,
                Some(number),
                "expected \"name label\" with a label from 0 to 999",
            )
        };
        let (name, label) = line.rsplit_once(char::is_whitespace).ok_or_else(wrong)?;
        let label = label.parse().ok().filter(|&l| l < names::IMAGENET).ok_or_else(wrong)?;
        if let Some(image) = ctx.picture(&folders, name.trim())? {
            images.push(image);
            labels.push(label);
        }
    }
    Ok((images, labels))
}

fn wnid_folder(ctx: &Context, places: &[&str]) -> Result<PathBuf, BenchmarkError> {
    with_folders(ctx.root, places, is_wnid)
        .ok_or_else(|| ctx.absent(&format!("{}/n01498041 … (a folder for each class)", places[0])))
}

/// The first of the places that has a folder with such a name.
fn with_folders(root: &Path, places: &[&str], is: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let places = places.iter().map(|p| root.join(p));
    places
        .filter(|p| p.is_dir())
        .find(|p| folders(p).is_ok_and(|names| names.iter().any(|n| is(n))))
}

fn is_wnid(name: &str) -> bool {
    name.len() == 9 && name.starts_with('n') && name[1..].bytes().all(|b| b.is_ascii_digit())
}

/// Pictures of all wnid folders with their classes of the 1000.
fn by_wnid(folder: &Path) -> Result<Labelled, BenchmarkError> {
    let wnids: Vec<&str> = WNIDS.lines().collect();
    let (mut images, mut labels) = Labelled::default();
    for name in folders(folder)? {
        let class = wnids.binary_search(&name.as_str());
        let class = class.map_err(|_| malformed(&folder.join(&name), None, "is not one of ImageNet's 1000 classes"))?;
        push(&mut images, &mut labels, pictures(&folder.join(&name))?, class);
    }
    Ok((images, labels))
}

fn push(images: &mut Vec<ImageSource>, labels: &mut Vec<usize>, more: Vec<ImageSource>, class: usize) {
    labels.resize(labels.len() + more.len(), class);
    images.extend(more);
}
