//! Batches of pictures, good and bad.

use std::path::Path;

use bifocal_data::{ImageSource, Limits, Preprocess, load_images, open};

#[test]
fn order_is_kept_and_bad_ones_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let bmp = |v: u8| {
        // 2×2, 24 bits
        let mut b = b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\x18\0".to_vec();
        b.resize(54, 0);
        b.extend([v, v, v, v, v, v, 0, 0, v, v, v, v, v, v, 0, 0]);
        b
    };
    let mut paths: Vec<ImageSource> = Vec::new();
    for i in 0..20u8 {
        let path = dir.path().join(format!("{i}.bmp"));
        match i % 5 {
            3 => std::fs::write(&path, "not a picture").unwrap(),
            4 => {}
            _ => std::fs::write(&path, bmp(i * 10)).unwrap(),
        }
        paths.push(path.into());
    }
    let p = Preprocess {
        mean: [0.0; 3],
        std: [1.0; 3],
        ..Preprocess::clip(4)
    };
    let loaded = load_images(&paths, &p, &Limits::default()).unwrap();
    assert_eq!(loaded.good, [0, 1, 2, 5, 6, 7, 10, 11, 12, 15, 16, 17]);
    assert_eq!(
        loaded.bad.iter().map(|b| b.index).collect::<Vec<_>>(),
        [3, 4, 8, 9, 13, 14, 18, 19]
    );
    assert_eq!(loaded.bad[0].error.cause(), "text");
    assert_eq!(loaded.bad[1].error.cause(), "unreadable");
    assert_eq!(loaded.pixels.len(), 12 * 48);
    for (row, &i) in loaded.pixels.chunks(48).zip(&loaded.good) {
        assert!(row.iter().all(|&v| v == (i * 10) as f32 / 255.0), "row of {i}");
    }
    assert!(load_images(&paths, &Preprocess { size: 0, ..p }, &Limits::default()).is_err());
}

/// How far decoding and preprocessing together go; prints the speed, which is no condition.
#[test]
fn real_photos() {
    let Some(data) = std::env::var_os("BIFOCAL_DATA") else {
        eprintln!("skipped: set BIFOCAL_DATA to the folder with coco/");
        return;
    };
    let mut paths: Vec<_> = std::fs::read_dir(Path::new(&data).join("coco/images"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    let images: Vec<ImageSource> = paths.iter().map(|p| p.as_path().into()).collect();
    let start = std::time::Instant::now();
    let loaded = load_images(&images, &Preprocess::clip(224), &Limits::default()).unwrap();
    let all = start.elapsed();
    assert_eq!((loaded.good.len(), loaded.bad.len()), (paths.len(), 0));
    let (mut decoding, mut transforming) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    for path in &paths {
        let t = std::time::Instant::now();
        let image = open(path, &Limits::default()).unwrap();
        decoding += t.elapsed();
        let t = std::time::Instant::now();
        let row = Preprocess::clip(224).apply(&image).unwrap();
        transforming += t.elapsed();
        assert!(row.iter().all(|v| v.is_finite()));
    }
    let each = |d: std::time::Duration| d.as_secs_f64() * 1e3 / paths.len() as f64;
    eprintln!(
        "one thread: decode {:.2} ms, transform {:.2} ms; all threads: {:.2} ms a photo",
        each(decoding),
        each(transforming),
        each(all)
    );
}
