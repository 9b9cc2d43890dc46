//! The same samples from archives and tables as from a folder. Fixtures: scripts/fixtures/shards.py.

use std::fs;
use std::path::{Path, PathBuf};

use bifocal_data::source::Layout;
use bifocal_data::{Dataset, DecodeError, ImageSource, ItemKey, Limits, Preprocess, Sample, SourceError, load_images};

fn samples(name: &str) -> Dataset {
    Dataset::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples").join(name)).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/shards")
        .join(name)
}

fn key(sample: &Sample) -> ItemKey {
    sample.image.key(&Limits::default()).unwrap()
}

fn member(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
}

/// Photos and their captions in shards of five, names of members beyond what a header holds.
fn pack(folder: &Path, photos: &[Sample]) {
    for (i, shard) in photos.chunks(5).enumerate() {
        let mut tar = tar::Builder::new(Vec::new());
        for sample in shard {
            let base = format!("{}/{}", "deep/".repeat(30), &sample.key[7..sample.key.len() - 4]);
            member(
                &mut tar,
                &format!("{base}.jpg"),
                &sample.image.read(&Limits::default()).unwrap(),
            );
            member(&mut tar, &format!("{base}.txt"), sample.captions["en"][0].as_bytes());
            let json = serde_json::json!({ "captions": &sample.captions, "url": "x", "width": 3, "image": 7 });
            member(&mut tar, &format!("{base}.json"), json.to_string().as_bytes());
            member(&mut tar, &format!("{base}.cls"), b"3\n");
            member(&mut tar, &format!("{base}.npy"), b"not used");
        }
        fs::write(folder.join(format!("photos-{i:03}.tar")), tar.into_inner().unwrap()).unwrap();
    }
}

#[test]
fn tar_shards_hold_what_the_folder_holds() {
    let photos = samples("photos").samples[..12].to_vec();
    let dir = tempfile::tempdir().unwrap();
    pack(dir.path(), &photos);
    let packed = Dataset::open(&dir.path().join("photos-{000..002}.tar")).unwrap();
    assert_eq!(
        (packed.layout, packed.samples.len(), packed.skipped.len()),
        (Layout::Captions, 12, 0)
    );
    for (a, b) in packed.samples.iter().zip(&photos) {
        assert_eq!(a.captions["en"], b.captions["en"]);
        assert_eq!(a.captions["caption"], b.captions["en"][..1]);
        assert_eq!(a.label.as_deref(), Some("3"));
        assert_eq!(
            a.image.read(&Limits::default()).unwrap(),
            b.image.read(&Limits::default()).unwrap()
        );
        assert_eq!(key(a), key(b));
    }
    assert!(packed.samples[5].key.starts_with("photos-001.tar/deep/"));
    assert!(packed.samples[5].image.to_string().contains("photos-001.tar: deep/"));
    assert!(packed.samples[5].image.file().is_none());
    // the same by folder; one shard by name
    assert_eq!(Dataset::open(dir.path()).unwrap().samples, packed.samples);
    let one = Dataset::open(&dir.path().join("photos-001.tar")).unwrap();
    assert_eq!(one.samples, packed.samples[5..10]);
    // the same pixels
    let of = |samples: &[Sample]| {
        let images: Vec<&ImageSource> = samples.iter().map(|s| &s.image).collect();
        load_images(&images, &Preprocess::clip(32), &Limits::default()).unwrap()
    };
    assert_eq!(of(&packed.samples), of(&photos));
    // limits hold before anything is read
    let small = Limits {
        bytes: 1000,
        ..Limits::default()
    };
    assert!(matches!(
        packed.samples[0].image.read(&small),
        Err(DecodeError::TooLarge { .. })
    ));
    // a missing shard is counted; all of them missing is an error; archives among pictures are named
    fs::remove_file(dir.path().join("photos-000.tar")).unwrap();
    let rest = Dataset::open(&dir.path().join("photos-{000..002}.tar")).unwrap();
    assert_eq!((rest.samples.len(), rest.skipped.len()), (7, 1));
    assert!(matches!(
        Dataset::open(&dir.path().join("absent-{0..3}.tar")),
        Err(SourceError::Io { .. })
    ));
    fs::write(dir.path().join("1.jpg"), "x").unwrap();
    let folder = Dataset::open(dir.path()).unwrap();
    assert_eq!((folder.samples.len(), folder.skipped.len()), (1, 2));
}

#[test]
fn shards_without_pictures_and_odd_members() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let mut tar = tar::Builder::new(Vec::new());
    member(&mut tar, "1.txt", b"one");
    member(&mut tar, "2.txt", b"\xff");
    member(&mut tar, "3.json", b"{\"text\": [\"three\", \"drei\"]}");
    member(&mut tar, "4.json", b"{");
    member(&mut tar, ".hidden.txt", b"x");
    member(&mut tar, "README", b"x");
    let texts = tar.into_inner().unwrap();
    fs::write(&path, &texts).unwrap();
    let data = Dataset::open(&path).unwrap();
    let keys: Vec<_> = data.samples.iter().map(|s| s.key.as_str()).collect();
    assert_eq!(keys, ["a.tar/1", "a.tar/3"]);
    assert!(data.samples.iter().all(|s| s.image.is_none()));
    assert_eq!(data.samples[1].captions["caption"], ["three", "drei"]);
    assert_eq!(
        data.samples[0].image.read(&Limits::default()),
        Err(DecodeError::NoPicture)
    );
    // two damaged texts, and the two samples that they leave empty
    assert_eq!(data.skipped.len(), 4);

    let mut tar = tar::Builder::new(Vec::new());
    member(&mut tar, "1.jpg", b"one");
    member(&mut tar, "1.png", b"again");
    member(&mut tar, "2.txt", b"alone");
    member(&mut tar, "3.jpg", b"three");
    let whole = tar.into_inner().unwrap();
    fs::write(&path, &whole).unwrap();
    let data = Dataset::open(&path).unwrap();
    assert_eq!(
        (data.layout, data.samples.len(), data.skipped.len()),
        (Layout::Plain, 2, 2)
    );
    // cut off inside the last member: the first is still there
    fs::write(&path, &whole[..7 * 512 + 2]).unwrap();
    let data = Dataset::open(&path).unwrap();
    assert_eq!(
        (
            data.samples.len(),
            data.samples[0].image.read(&Limits::default()).unwrap()
        ),
        (1, b"one".to_vec())
    );
    assert!(
        data.skipped.iter().any(|s| s.reason.contains("ends before")),
        "{:?}",
        data.skipped
    );
    // a header that lies about its size, with a correct checksum
    let mut lying = whole.clone();
    lying[2 * 512 + 124..2 * 512 + 136].copy_from_slice(b"77777777777\0");
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&lying[2 * 512..3 * 512]);
    header.set_cksum();
    lying[2 * 512..3 * 512].copy_from_slice(header.as_bytes());
    fs::write(&path, &lying).unwrap();
    assert_eq!(Dataset::open(&path).unwrap().samples.len(), 1);
    // nothing at all
    fs::write(&path, vec![0; 1024]).unwrap();
    assert!(matches!(Dataset::open(&path), Err(SourceError::NoRows { .. })));
    fs::write(&path, vec![b'x'; 5000]).unwrap();
    let message = Dataset::open(&path).unwrap_err().to_string();
    assert!(message.contains("damaged"), "{message}");
}

#[test]
fn pax_headers_as_python_writes_them() {
    let emoji = samples("emoji").samples;
    let data = Dataset::open(&fixture("pax.tar")).unwrap();
    assert!(data.skipped.is_empty(), "{:?}", data.skipped);
    let keys: Vec<_> = data.samples.iter().map(|s| s.key.clone()).collect();
    let long = format!("pax.tar/ü/{}", "long".repeat(40));
    assert_eq!(keys, ["pax.tar/000", &long, "pax.tar/b/002"]);
    for (i, (a, b)) in data.samples.iter().zip(&emoji).enumerate() {
        assert_eq!(key(a), key(b));
        assert_eq!(a.captions["caption"], b.captions["en"][..1]);
        assert_eq!(a.captions["long_caption"], ["more"]);
        assert_eq!(a.label, Some(i.to_string()));
    }
}

#[cfg(feature = "parquet")]
mod parquet {
    use super::*;

    #[test]
    fn hugging_face() {
        let emoji = samples("emoji").samples;
        let data = Dataset::open(&fixture("hf.parquet")).unwrap();
        assert!(data.skipped.is_empty(), "{:?}", data.skipped);
        assert_eq!((data.layout, data.samples.len()), (Layout::Captions, 7));
        for (i, (a, b)) in data.samples.iter().zip(&emoji).enumerate() {
            assert_eq!(a.key, format!("hf.parquet/{}", i + 1));
            assert_eq!(a.captions["caption"], b.captions["en"]);
            assert_eq!(a.label.as_deref(), Some(["zero", "one", "two"][i % 3]));
            assert_eq!(key(a), key(b));
        }
        // in any order, from many threads
        let images: Vec<&ImageSource> = (0..70).map(|i| &data.samples[i * 3 % 7].image).collect();
        let keys = ItemKey::of_images(&images, &Limits::default());
        for (i, found) in keys.into_iter().enumerate() {
            assert_eq!(found.unwrap(), key(&emoji[i * 3 % 7]));
        }
        let small = Limits {
            bytes: 100,
            ..Limits::default()
        };
        assert!(matches!(
            data.samples[6].image.read(&small),
            Err(DecodeError::TooLarge { .. })
        ));
        assert!(data.samples[6].image.to_string().ends_with("hf.parquet: row 7"));
    }

    #[test]
    fn columns_of_captions() {
        let emoji = samples("emoji").samples;
        let data = Dataset::open(&fixture("flat.parquet")).unwrap();
        assert!(data.skipped.is_empty(), "{:?}", data.skipped);
        for (i, (a, b)) in data.samples.iter().zip(&emoji).enumerate() {
            assert_eq!(a.captions["raw_caption"], b.captions["en"][..1]);
            let short = (i != 2).then(|| vec![format!("short {}", i % 2)]);
            assert_eq!(a.captions.get("shortSV_captions"), short.as_ref());
            assert_eq!(a.captions.contains_key("longSV_captions"), i % 2 == 0);
            assert_eq!(key(a), key(b));
        }
        let texts = Dataset::open(&fixture("texts.parquet")).unwrap();
        for (a, b) in texts.samples.iter().zip(&emoji) {
            assert!(a.image.is_none());
            assert_eq!(
                (&a.captions["en"], &a.captions["de"]),
                (&b.captions["en"], &b.captions["de"])
            );
        }
    }

    #[test]
    fn pictures_by_their_files_and_what_cannot_be_read() {
        let emoji = samples("emoji").samples;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.parquet");
        fs::copy(fixture("paths.parquet"), &file).unwrap();
        fs::create_dir(dir.path().join("images")).unwrap();
        for sample in &emoji[..6] {
            fs::copy(sample.image.file().unwrap(), dir.path().join(&sample.key)).unwrap();
        }
        let data = Dataset::open(&file).unwrap();
        assert_eq!(
            (data.samples.len(), data.skipped.len(), data.skipped[0].line),
            (6, 1, Some(7))
        );
        assert_eq!(
            (data.samples[3].key.as_str(), key(&data.samples[3])),
            (emoji[3].key.as_str(), key(&emoji[3]))
        );
        if cfg!(not(feature = "parquet-zstd")) {
            let message = Dataset::open(&fixture("zstd.parquet")).unwrap_err().to_string();
            assert!(message.contains("parquet-zstd"), "{message}");
        }
        fs::write(&file, "not parquet").unwrap();
        let message = Dataset::open(&file).unwrap_err().to_string();
        assert!(message.contains("does not end"), "{message}");
        // a description longer than the file
        fs::write(&file, b"PAR1\xff\xff\xff\x02PAR1").unwrap();
        assert!(matches!(Dataset::open(&file), Err(SourceError::Unsupported { .. })));
    }
}
