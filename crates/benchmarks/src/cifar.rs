//! CIFAR-10 and CIFAR-100 in the binary version: records of one or two label bytes and 32×32×3 bytes in planes. The Python version is pickles,
//! which are programs, and is not read.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use crate::context::{Context, malformed, words};
use crate::lists::{file, without};
use crate::names::{english, english_only};
use crate::{Accuracy, BenchmarkError, Classification, Task};
use bifocal_data::source::{Archive, ImageSource, Planes};

const SIDE: u16 = 32;
const PIXELS: usize = 3 * 32 * 32;

type Labelled = (Vec<ImageSource>, Vec<usize>);

pub(crate) fn cifar10(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = ctx.path(&["cifar-10-batches-bin", "test_batch.bin"])?;
    let base = without(base, "test_batch.bin");
    let train = ["1", "2", "3", "4", "5"].map(|n| format!("data_batch_{n}.bin"));
    cifar(ctx, &base, "batches.meta.txt", "test_batch.bin", &train, 0)
}

/// The label is the second byte; the first is one of 20 superclasses.
pub(crate) fn cifar100(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = ctx.path(&["cifar-100-binary", "fine_label_names.txt"])?;
    let base = without(base, "fine_label_names.txt");
    cifar(
        ctx,
        &base,
        "fine_label_names.txt",
        "test.bin",
        &["train.bin".to_owned()],
        1,
    )
}

fn cifar(
    ctx: &mut Context,
    base: &Path,
    names: &str,
    test: &str,
    train: &[String],
    label_at: usize,
) -> Result<(Task, String), BenchmarkError> {
    english_only(ctx)?;
    let names = words(&file(ctx, base, names)?)?;
    let mut test_set = Labelled::default();
    records(&file(ctx, base, test)?, label_at, names.len(), &mut test_set)?;
    let mut train_set = Labelled::default();
    for name in train.iter().filter(|_| ctx.options.train) {
        records(&file(ctx, base, name)?, label_at, names.len(), &mut train_set)?;
    }
    ctx.complete(test_set.0.len(), 10_000, "test pictures")?;
    let task = Task::Classification(Classification {
        images: test_set.0,
        labels: test_set.1,
        classes: names.len(),
        prompts: english(names, "cifar"),
        headline: Accuracy::Top1,
        train: ctx.options.train.then_some(train_set),
    });
    Ok((
        task,
        "The 10,000 test pictures, the names of the set as they are.".to_owned(),
    ))
}

fn records(path: &Path, label_at: usize, classes: usize, to: &mut Labelled) -> Result<(), BenchmarkError> {
    let io = |e: std::io::Error| malformed(path, None, format!("cannot be read: {e}"));
    let record = label_at + 1 + PIXELS;
    let mut input = BufReader::new(File::open(path).map_err(io)?);
    let archive = Arc::new(Archive::new(path));
    let mut bytes = vec![0; record];
    for number in 0.. {
        let mut read = 0;
        while read < record {
            match input.read(&mut bytes[read..]).map_err(io)? {
                0 if read == 0 => return Ok(()),
                0 => {
                    return Err(malformed(
                        path,
                        Some(number + 1),
                        format!("the file ends within a record of {record} bytes; fetch it again"),
                    ));
                }
                more => read += more,
            }
        }
        let label = usize::from(bytes[label_at]);
        if label >= classes {
            return Err(malformed(
                path,
                Some(number + 1),
                format!("label {label}, but there are {classes} names"),
            ));
        }
        let offset = (number * record + label_at + 1) as u64;
        to.0.push(ImageSource::Planes(Planes::new(
            &archive,
            &format!("record {}", number + 1),
            offset,
            SIDE,
        )));
        to.1.push(label);
    }
    Ok(())
}
