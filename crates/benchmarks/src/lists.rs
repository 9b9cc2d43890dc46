//! Sets whose splits are lists of file names: Food101, SUN397, DTD, Pets, Aircraft; and Caltech101, which has none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::context::{Context, folders, lines, malformed, pictures, words};
use crate::names::{english, english_only, library};
use crate::{Accuracy, BenchmarkError, Classification, Task};
use bifocal_data::source::ImageSource;

type Labelled = (Vec<ImageSource>, Vec<usize>);
/// File name and class.
type Entries = Vec<(String, usize)>;

pub(crate) fn food101(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = ctx.path(&["food-101", "food101", "meta"]).map(|p| without(p, "meta"))?;
    let classes = words(&file(ctx, &base, "meta/classes.txt")?)?;
    let read = |ctx: &Context, name: &str| {
        let list = file(ctx, &base, name)?;
        by_folder(&list, &classes, |line| (line, format!("{line}.jpg")))
    };
    let (test, train) = (read(ctx, "meta/test.txt")?, maybe(ctx, || read(ctx, "meta/train.txt"))?);
    let names = classes.iter().map(|c| c.replace('_', " ")).collect();
    finish(
        ctx,
        &[base.join("images")],
        test,
        train,
        25_250,
        english(names, "food101"),
        Accuracy::Top1,
    )
    .map(|task| (task, "The 25,250 test pictures.".to_owned()))
}

pub(crate) fn dtd(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = ctx.path(&["dtd", "labels"]).map(|p| without(p, "labels"))?;
    let lists = ["labels/test1.txt", "labels/train1.txt", "labels/val1.txt"];
    let lists = lists
        .map(|l| file(ctx, &base, l))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let mut classes = BTreeSet::new();
    for list in &lists {
        classes.extend(
            lines(list)?
                .into_iter()
                .filter_map(|(_, l)| Some(l.split_once('/')?.0.to_owned())),
        );
    }
    let classes: Vec<String> = classes.into_iter().collect();
    let read = |list: &Path| by_folder(list, &classes, |line| (line, line.to_owned()));
    let test = read(&lists[0])?;
    let train = maybe(ctx, || Ok([read(&lists[1])?, read(&lists[2])?].concat()))?;
    let names = classes.iter().map(|c| c.replace('_', " ")).collect();
    finish(
        ctx,
        &[base.join("images")],
        test,
        train,
        1_880,
        english(names, "dtd"),
        Accuracy::Top1,
    )
    .map(|task| {
        (
            task,
            "Split 1: its 1,880 test pictures; training and validation pictures train.".to_owned(),
        )
    })
}

pub(crate) fn sun397(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = ctx
        .path(&["SUN397", "ClassName.txt"])
        .map(|p| without(p, "ClassName.txt"))?;
    let classes = words(&file(ctx, &base, "ClassName.txt")?)?;
    let partition = |name: &str| {
        let places = [
            base.join(name),
            ctx.root.join(name),
            ctx.root.join("Partitions").join(name),
        ];
        places.into_iter().find(|p| p.is_file()).ok_or_else(|| ctx.absent(name))
    };
    let read = |name: &str| {
        // "/a/apartment_building/outdoor/sun_x.jpg" is of the class "/a/apartment_building/outdoor"
        by_folder(&partition(name)?, &classes, |line| {
            (line, line.trim_start_matches('/').to_owned())
        })
    };
    let (test, train) = (read("Testing_01.txt")?, maybe(ctx, || read("Training_01.txt"))?);
    let names = classes
        .iter()
        .map(|c| c.get(3..).unwrap_or(c).replace(['_', '/'], " "))
        .collect();
    finish(
        ctx,
        &[base],
        test,
        train,
        19_850,
        english(names, "sun397"),
        Accuracy::Top1,
    )
    .map(|task| (task, "Partition 1 of the ten: 50 test pictures a class.".to_owned()))
}

pub(crate) fn pets(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = ctx
        .path(&["oxford-iiit-pet", "annotations"])
        .map(|p| without(p, "annotations"))?;
    let mut breeds: Vec<String> = vec![String::new(); 37];
    let mut read = |ctx: &Context, name: &str| {
        let list = file(ctx, &base, name)?;
        let mut entries = Entries::new();
        for (number, line) in lines(&list)?.into_iter().filter(|(_, l)| !l.starts_with('#')) {
            let wrong = || {
                malformed(
                    &list,
                    Some(number),
                    "expected \"Breed_12 class species breed\" with a class from 1 to 37",
                )
            };
            let (id, class) = line.split_once(' ').ok_or_else(wrong)?;
            let class = class.split(' ').next().and_then(|c| c.parse::<usize>().ok());
            let class = class.filter(|c| (1..=37).contains(c)).ok_or_else(wrong)? - 1;
            breeds[class] = id
                .rsplit_once('_')
                .ok_or_else(wrong)?
                .0
                .split('_')
                .map(title)
                .collect::<Vec<_>>()
                .join(" ");
            entries.push((format!("{id}.jpg"), class));
        }
        Ok::<_, BenchmarkError>(entries)
    };
    let (test, train) = (
        read(ctx, "annotations/test.txt")?,
        read(ctx, "annotations/trainval.txt")?,
    );
    if breeds.iter().any(String::is_empty) {
        return Err(malformed(
            &base.join("annotations"),
            None,
            "the lists don't name all 37 breeds",
        ));
    }
    let train = ctx.options.train.then_some(train);
    finish(
        ctx,
        &[base.join("images")],
        test,
        train,
        3_669,
        english(breeds, "pets"),
        Accuracy::MeanPerClass,
    )
    .map(|task| (task, "The 3,669 test pictures; mean over 37 breeds.".to_owned()))
}

pub(crate) fn aircraft(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = ctx.path(&["fgvc-aircraft-2013b/data", "data", "images_variant_test.txt"]);
    let base = base.map(|p| without(p, "images_variant_test.txt"))?;
    let classes = words(&file(ctx, &base, "variants.txt")?)?;
    let read = |name: &str| {
        let list = file(ctx, &base, name)?;
        let mut entries = Entries::new();
        for (number, line) in lines(&list)? {
            let known = line
                .split_once(' ')
                .and_then(|(id, v)| Some((id, classes.iter().position(|c| c == v)?)));
            let (id, class) =
                known.ok_or_else(|| malformed(&list, Some(number), "expected an id and a variant of variants.txt"))?;
            entries.push((format!("{id}.jpg"), class));
        }
        Ok(entries)
    };
    let (test, train) = (
        read("images_variant_test.txt")?,
        maybe(ctx, || read("images_variant_trainval.txt"))?,
    );
    let prompts = english(classes.clone(), "aircraft");
    finish(
        ctx,
        &[base.join("images")],
        test,
        train,
        3_333,
        prompts,
        Accuracy::MeanPerClass,
    )
    .map(|task| (task, "The 3,333 test pictures; mean over 100 variants.".to_owned()))
}

/// Pictures of each class by name: the first 30 train, the others are the test.
pub(crate) fn caltech101(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    const TRAIN: usize = 30;
    english_only(ctx)?;
    let base = ctx.path(&["caltech101/101_ObjectCategories", "101_ObjectCategories"])?;
    let names = library("en", "caltech101");
    let classes = folders(&base)?;
    if classes.len() != names.len() {
        let known = format!(
            "{} has {} folders, not 102 (with BACKGROUND_Google)",
            base.display(),
            classes.len()
        );
        return Err(ctx.absent(&known));
    }
    let (mut test, mut train) = (Labelled::default(), Labelled::default());
    for (class, name) in classes.iter().enumerate() {
        for (at, image) in pictures(&base.join(name))?.into_iter().enumerate() {
            let side = if at < TRAIN { &mut train } else { &mut test };
            side.0.push(image);
            side.1.push(class);
        }
    }
    ctx.complete(test.0.len(), 6_084, "test pictures")?;
    let task = Task::Classification(Classification {
        images: test.0,
        labels: test.1,
        classes: names.len(),
        prompts: english(names, "caltech101"),
        headline: Accuracy::MeanPerClass,
        train: ctx.options.train.then_some(train),
    });
    let protocol = "There is no official split: of each of the 102 classes (with the background) the first 30 pictures by name train and \
                    the 6,084 others are the test; mean over the classes.";
    Ok((task, protocol.to_owned()))
}

/// The task from lists; the test must be whole, and so must the training pictures when they are wanted.
pub(crate) fn finish(
    ctx: &mut Context,
    folders: &[PathBuf],
    test: Entries,
    train: Option<Entries>,
    expected: usize,
    prompts: Vec<crate::Prompts>,
    headline: Accuracy,
) -> Result<Task, BenchmarkError> {
    english_only(ctx)?;
    let mut find = |entries: Entries| {
        let mut found = Labelled::default();
        for (name, class) in entries {
            if let Some(image) = ctx.picture(folders, &name)? {
                found.0.push(image);
                found.1.push(class);
            }
        }
        Ok::<_, BenchmarkError>(found)
    };
    let (images, labels) = find(test)?;
    let train = train.map(find).transpose()?;
    ctx.complete(images.len(), expected, "test pictures")?;
    Ok(Task::Classification(Classification {
        images,
        labels,
        classes: prompts[0].names.len(),
        prompts,
        headline,
        train,
    }))
}

fn maybe(
    ctx: &Context,
    read: impl FnOnce() -> Result<Entries, BenchmarkError>,
) -> Result<Option<Entries>, BenchmarkError> {
    if ctx.options.train { read().map(Some) } else { Ok(None) }
}

/// A list whose lines begin with the folder of the class.
fn by_folder(
    list: &Path,
    classes: &[String],
    path: impl Fn(&str) -> (&str, String),
) -> Result<Entries, BenchmarkError> {
    let at: std::collections::HashMap<&str, usize> = classes.iter().enumerate().map(|(i, c)| (c.as_str(), i)).collect();
    let mut entries = Entries::new();
    for (number, line) in lines(list)? {
        let (line, file) = path(&line);
        let class = line.rsplit_once('/').and_then(|(folder, _)| at.get(folder));
        let class =
            class.ok_or_else(|| malformed(list, Some(number), format!("{line:?} is in no folder of a class")))?;
        entries.push((file, *class));
    }
    Ok(entries)
}

/// A file below the set's folder.
pub(crate) fn file(ctx: &Context, base: &Path, name: &str) -> Result<PathBuf, BenchmarkError> {
    let path = base.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(ctx.absent(&path.display().to_string()))
    }
}

/// The folder itself when it was found by what is in it.
pub(crate) fn without(path: PathBuf, name: &str) -> PathBuf {
    match path.parent() {
        Some(parent) if path.file_name().is_some_and(|n| n == name) => parent.to_owned(),
        _ => path,
    }
}

/// "american" becomes "American".
fn title(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars
        .next()
        .map(|c| c.to_uppercase().collect::<String>())
        .unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}
