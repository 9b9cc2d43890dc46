//! All suites: what they ask, how their folders look, where they come from.

use std::path::Path;

use crate::context::Context;
use crate::{Benchmark, BenchmarkError, Options, Task};
use crate::{aro, cifar, imagenet, karpathy, languages, lists, long, matlab, objectnet, own, pairs, texts};

/// What a suite asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Zero-shot classification.
    Classification,
    /// Retrieval in one language.
    Retrieval,
    /// Retrieval in many languages.
    Languages,
    /// Composition.
    Composition,
    /// Texts alone.
    Texts,
}

/// A benchmark that can be read.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it asks.
    pub kind: Kind,
    /// One line about it.
    pub what: &'static str,
    /// How its folder looks; shown when something is missing.
    pub layout: &'static str,
    /// Where it comes from.
    pub url: &'static str,
    /// Licence, or the terms that the pictures come with.
    pub licence: &'static str,
    read: fn(&mut Context) -> Result<(Task, String), BenchmarkError>,
}

impl Suite {
    pub(crate) fn open(&'static self, root: &Path, options: &Options) -> Result<Benchmark, BenchmarkError> {
        let mut ctx = Context::new(self, root, options);
        if !root.is_dir() {
            return Err(ctx.absent("the folder itself"));
        }
        // any set may come as CLIP_benchmark's webdataset
        let webdataset = root.join("test/nshards.txt").is_file();
        let read = if webdataset { own::webdataset } else { self.read };
        let (task, mut protocol) = read(&mut ctx)?;
        if let Some(part) = &ctx.part {
            protocol = format!("{protocol} {part}");
        }
        Ok(Benchmark {
            name: self.name.to_owned(),
            protocol,
            task,
            skipped: ctx.skipped,
        })
    }
}

macro_rules! suites {
    ($($name:literal $kind:ident $read:path, $what:literal, $layout:literal, $url:literal, $licence:literal;)*) => {
        /// All suites, by kind.
        static SUITES: &[Suite] = &[$(Suite {
            name: $name,
            kind: Kind::$kind,
            what: $what,
            layout: $layout,
            url: $url,
            licence: $licence,
            read: $read,
        }),*];
    };
}

suites! {
    "zero-shot" Classification own::zero_shot,
        "any labelled pictures",
        "  labels.jsonl     rows {image, name}; or labels.csv\n  or one folder for each class; or train/ and test/ with either",
        "your own", "your own";
    "webdataset" Classification own::webdataset,
        "any set in CLIP_benchmark's webdataset layout",
        "  test/nshards.txt  the number of archives\n  test/0.tar …      pictures with .cls, or with .txt for retrieval\n  classnames.txt\n  zeroshot_classification_templates.txt\n  dataset_type.txt  \"retrieval\" for captions",
        "https://huggingface.co/clip-benchmark", "as the set";
    "imagenet" Classification imagenet::imagenet,
        "ImageNet-1k, 50,000 validation pictures, 1000 classes, five languages",
        "  val/n01440764/ILSVRC2012_val_00000293.JPEG …  (a folder for each of 1000 classes)\n  or val/ILSVRC2012_val_00000001.JPEG … with val.txt (lines \"name label\", 0 to 999)\n  train/n01440764/…                             (for linear probes)",
        "https://image-net.org", "ImageNet terms, research";
    "imagenet-v2" Classification imagenet::v2,
        "ImageNet-V2 matched-frequency, 10,000 pictures",
        "  imagenetv2-matched-frequency-format-val/0/…jpeg … 999/  (the folder's name is the class)",
        "https://imagenetv2.org", "MIT; pictures ImageNet terms";
    "imagenet-a" Classification imagenet::a,
        "ImageNet-A, 7,500 pictures of 200 classes",
        "  imagenet-a/n01498041/…jpg …  (200 folders)",
        "https://github.com/hendrycks/natural-adv-examples", "MIT; pictures of iNaturalist and Flickr";
    "imagenet-r" Classification imagenet::r,
        "ImageNet-R, 30,000 renditions of 200 classes",
        "  imagenet-r/n01443537/…jpg …  (200 folders)",
        "https://github.com/hendrycks/imagenet-r", "MIT; pictures of Flickr";
    "imagenet-o" Classification imagenet::o,
        "ImageNet-O, 2,000 pictures of 200 classes, as plain accuracy",
        "  imagenet-o/n01443537/…JPEG …  (200 folders)",
        "https://github.com/hendrycks/natural-adv-examples", "MIT; ImageNet terms";
    "imagenet-sketch" Classification imagenet::sketch,
        "ImageNet-Sketch, 50,889 sketches",
        "  sketch/n01440764/…JPEG …  (1000 folders)",
        "https://github.com/HaohanWang/ImageNet-Sketch", "MIT; pictures of the web";
    "objectnet" Classification objectnet::objectnet,
        "ObjectNet, the 113 classes that ImageNet has too",
        "  objectnet-1.0/images/<folder>/…png\n  objectnet-1.0/mappings/folder_to_objectnet_label.json\n  objectnet-1.0/mappings/objectnet_to_imagenet_1k.json",
        "https://objectnet.dev", "CC BY 4.0, for tests only";
    "babel-imagenet" Classification imagenet::babel,
        "ImageNet with names in 93 languages",
        "  val/n01440764/…  as imagenet\n  babel_imagenet.json and nllb_dist13b_prompts.json of CLIP_benchmark's package, here or in the folder of class names",
        "https://github.com/gregor-ge/Babel-ImageNet", "MIT; pictures ImageNet terms";
    "food101" Classification lists::food101,
        "Food-101, 25,250 test pictures",
        "  food-101/images/apple_pie/…jpg\n  food-101/meta/classes.txt, test.txt, train.txt",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101", "Foodspotting terms, research";
    "cifar10" Classification cifar::cifar10,
        "CIFAR-10, 10,000 test pictures",
        "  cifar-10-batches-bin/test_batch.bin, data_batch_1.bin … 5, batches.meta.txt  (the binary version, not the Python one)",
        "https://www.cs.toronto.edu/~kriz/cifar.html", "none stated, research";
    "cifar100" Classification cifar::cifar100,
        "CIFAR-100, 10,000 test pictures",
        "  cifar-100-binary/test.bin, train.bin, fine_label_names.txt  (the binary version, not the Python one)",
        "https://www.cs.toronto.edu/~kriz/cifar.html", "none stated, research";
    "sun397" Classification lists::sun397,
        "SUN397, 19,850 test pictures of partition 1",
        "  SUN397/a/abbey/sun_…jpg …\n  SUN397/ClassName.txt\n  Testing_01.txt, Training_01.txt  (of Partitions.zip)",
        "https://vision.princeton.edu/projects/2010/SUN", "research";
    "cars" Classification matlab::cars,
        "Stanford Cars, 8,041 test pictures",
        "  stanford_cars/cars_test/…jpg, cars_train/…jpg\n  stanford_cars/devkit/cars_meta.mat, cars_train_annos.mat\n  stanford_cars/cars_test_annos_withlabels.mat",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html", "ImageNet terms, research";
    "aircraft" Classification lists::aircraft,
        "FGVC-Aircraft, 3,333 test pictures, mean over 100 variants",
        "  fgvc-aircraft-2013b/data/images/0034309.jpg …\n  fgvc-aircraft-2013b/data/images_variant_test.txt, images_variant_trainval.txt, variants.txt",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft", "research, non-commercial";
    "dtd" Classification lists::dtd,
        "Describable Textures, 1,880 test pictures of split 1",
        "  dtd/images/banded/banded_0002.jpg …\n  dtd/labels/test1.txt, train1.txt, val1.txt",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd", "research";
    "pets" Classification lists::pets,
        "Oxford-IIIT Pets, 3,669 test pictures, mean over 37 breeds",
        "  oxford-iiit-pet/images/Abyssinian_201.jpg …\n  oxford-iiit-pet/annotations/test.txt, trainval.txt",
        "https://www.robots.ox.ac.uk/~vgg/data/pets", "CC BY-SA 4.0";
    "caltech101" Classification lists::caltech101,
        "Caltech-101, mean over 102 classes",
        "  caltech101/101_ObjectCategories/accordion/image_0001.jpg …  (102 folders with BACKGROUND_Google)",
        "https://data.caltech.edu/records/mzrjq-6wc02", "CC BY 4.0";
    "flowers102" Classification matlab::flowers,
        "Flowers-102, 6,149 test pictures, mean over 102 classes",
        "  flowers-102/jpg/image_00001.jpg …\n  flowers-102/imagelabels.mat, setid.mat",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102", "research";
    "retrieval" Retrieval own::retrieval,
        "any captioned pictures, in all their languages",
        "  captions.jsonl   rows {image, captions: {lang: [text, …]}}\n  images/",
        "your own", "your own";
    "flickr30k" Retrieval karpathy::flickr30k,
        "Flickr30k, Karpathy's 1,000 test pictures with five captions",
        "  flickr30k-images/…jpg\n  flickr30k_test.json (BLIP's), or flickr30k_test_karpathy.txt (CLIP_benchmark's), or dataset_flickr30k.json (Karpathy's),\n  or results_20130124.token with test.txt (one name a line)",
        "https://shannon.cs.illinois.edu/DenotationGraph", "research, non-commercial";
    "coco" Retrieval karpathy::coco,
        "COCO, Karpathy's 5,000 test pictures with five captions",
        "  val2014/COCO_val2014_000000391895.jpg …\n  coco_karpathy_test.json (BLIP's), or coco_test_karpathy.json (CLIP_benchmark's), or dataset_coco.json (Karpathy's)",
        "https://cocodataset.org", "captions CC BY 4.0, pictures of Flickr";
    "coco-2017" Retrieval karpathy::coco_2017,
        "COCO, the 5,000 validation pictures of 2017",
        "  val2017/000000000139.jpg …\n  annotations/captions_val2017.json",
        "https://cocodataset.org", "captions CC BY 4.0, pictures of Flickr";
    "sharegpt4v-1k" Retrieval long::sharegpt4v,
        "the first 1,000 long captions of ShareGPT4V",
        "  share-captioner_coco_lcs_sam_1246k_1107.json\n  sam/images/sa_….jpg …  (as the list names them)",
        "https://huggingface.co/datasets/Lin-Chen/ShareGPT4V", "CC BY-NC 4.0; pictures SA-1B terms";
    "urban1k" Retrieval long::urban,
        "Urban1k, 1,000 long captions",
        "  Urban1k/image/1.jpg … 1000.jpg\n  Urban1k/caption/1.txt … 1000.txt",
        "https://huggingface.co/datasets/BeichenZhang/Urban1k", "none stated, research";
    "docci" Retrieval long::docci,
        "DOCCI, 5,000 test pictures with long descriptions",
        "  docci_descriptions.jsonlines\n  images/test_00000.jpg …",
        "https://google.github.io/docci", "CC BY 4.0";
    "dci" Retrieval long::dci,
        "Densely Captioned Images, 7,805 pictures",
        "  densely_captioned_images/splits.json\n  densely_captioned_images/annotations/…json\n  densely_captioned_images/photos/…jpg",
        "https://github.com/facebookresearch/DCI", "CC BY-NC 4.0; pictures SA-1B terms";
    "xm3600" Languages languages::xm3600,
        "Crossmodal-3600, 36 languages",
        "  captions.jsonl\n  images/<key>.jpg",
        "https://google.github.io/crossmodal-3600", "CC BY 4.0; pictures one by one";
    "multi30k" Languages languages::multi30k,
        "Multi30k, test of 2016: English, German, French, Czech",
        "  data/task1/raw/test_2016_flickr.en, .de, .fr, .cs  (unpacked)\n  data/task1/image_splits/test_2016_flickr.txt\n  flickr30k-images/…jpg",
        "https://github.com/multi30k/dataset", "research; pictures of Flickr30k";
    "xtd10" Languages languages::xtd10,
        "XTD10, 1,000 pictures of COCO in 11 languages",
        "  XTD10/test_image_names.txt, XTD10/test_1kcaptions_es.txt … (en, es, it, ko, pl, ru, tr, zh)\n  MIC/test_1kcaptions_de.txt, MIC/test_1kcaptions_fr.txt\n  STAIR/test_1kcaptions_jp.txt\n  images/COCO_val2014_….jpg …",
        "https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10", "CC BY-NC 4.0; pictures of COCO";
    "flickr8k-cn" Languages languages::flickr8k_cn,
        "Flickr8k-CN, 1,000 test pictures in Chinese and English",
        "  flickr8k_test_zh.txt and flickr8k_test_karpathy.txt (CLIP_benchmark's)\n  or flickr8kzhc.caption.txt and Flickr8k.token.txt with Flickr_8k.testImages.txt\n  Images/…jpg",
        "https://github.com/li-xirong/cross-lingual-cap", "research, non-commercial";
    "tux-stamps" Languages own::retrieval,
        "pictures of things, named in up to 78 languages",
        "  captions.jsonl   rows {image, captions: {lang: [text]}}\n  images/",
        "https://tuxpaint.org/stamps", "GPL-2+";
    "sugarcrepe" Composition pairs::sugarcrepe,
        "SugarCrepe, 7,511 captions against hard negatives",
        "  add_obj.json, add_att.json, replace_obj.json, replace_att.json, replace_rel.json, swap_obj.json, swap_att.json\n  val2017/000000000139.jpg …",
        "https://github.com/RAIVNLab/sugar-crepe", "MIT; pictures of COCO";
    "winoground" Composition pairs::winoground,
        "Winoground, 400 pairs of pictures and captions with the same words",
        "  data/examples.jsonl\n  data/images/ex_0_img_0.png …  (unpacked)",
        "https://huggingface.co/datasets/facebook/winoground", "Meta Images research licence";
    "aro" Composition aro::aro,
        "ARO: attribution, relation, order",
        "  visual_genome_relation.json, visual_genome_attribution.json\n  images/…jpg\n  coco_order.json, flickr30k_order.json  (rows {image, caption_options: [true, shuffled, …]}; may be absent)",
        "https://github.com/mertyg/vision-language-models-are-bows", "MIT; pictures of Visual Genome CC BY 4.0";
    "mmvp-vlm" Composition pairs::mmvp,
        "MMVP-VLM, 135 pairs that CLIP confuses",
        "  Questions.csv\n  MLLM_VLM Images/<Type>/1.jpg … 270.jpg",
        "https://huggingface.co/datasets/MMVP/MMVP_VLM", "MIT; pictures of ImageNet and LAION";
    "caption-pairs" Texts texts::caption_pairs,
        "captions of the same picture, or translations, find each other",
        "  captions.jsonl, or coco_karpathy_test.json, or flickr30k_test.json, or multi30k.jsonl (rows {en, de, …})",
        "your own", "your own";
    "stsb" Texts texts::sts,
        "STS benchmark, 1,379 pairs of sentences",
        "  stsbenchmark/sts-test.csv, or test.tsv with headings, or test.jsonl with sentence1, sentence2, score",
        "https://ixa2.si.ehu.eus/stswiki", "CC BY-SA 4.0 and as its sources";
}

/// All suites, by kind.
#[must_use]
pub fn list() -> &'static [Suite] {
    SUITES
}

/// The suite of that name.
#[must_use]
pub fn suite(name: &str) -> Option<&'static Suite> {
    SUITES.iter().find(|s| s.name == name)
}
