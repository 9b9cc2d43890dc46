//! JPEG: sizes, scans, segments.

use super::Add;

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16 + 2).to_be_bytes();
    [&[0xff, marker][..], &length, body].concat()
}

/// A grey JPEG whose tables have one symbol, 0, of one bit.
pub(super) fn jpeg(frame: u8, width: u16, height: u16, before: &[u8], scans: &[u8]) -> Vec<u8> {
    let mut size = vec![8];
    size.extend([height.to_be_bytes(), width.to_be_bytes()].concat());
    size.extend([1, 1, 0x11, 0]);
    let table = |head: u8| [&[head, 1][..], &[0; 15], &[0]].concat();
    let mut file = vec![0xff, 0xd8];
    file.extend(before);
    file.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
    file.extend(segment(frame, &size));
    file.extend(segment(0xc4, &[table(0), table(0x10)].concat()));
    file.extend(scans);
    file.extend([0xff, 0xd9]);
    file
}

/// A scan of all blocks: bands from `start` to `end`, and bits.
pub(super) fn scan(start: u8, end: u8, bits: u8, bytes: usize) -> Vec<u8> {
    [segment(0xda, &[1, 1, 0, start, end, bits]), vec![0; bytes]].concat()
}

pub(super) fn all(add: Add) {
    let blocks = 5000usize.div_ceil(8).pow(2);
    let first = scan(0, 0, 0, blocks.div_ceil(8));
    let band = scan(1, 63, 0, blocks.div_ceil(8));
    add(
        true,
        "jpeg 65535 × 65535",
        jpeg(0xc0, 65_535, 65_535, &[], &scan(0, 63, 0, 100)),
    );
    add(
        true,
        "jpeg progressive, more memory than allowed",
        jpeg(0xc2, 8000, 8000, &[], &first),
    );
    add(
        true,
        "jpeg 1000 scans",
        jpeg(
            0xc2,
            5000,
            5000,
            &[],
            &[first.clone(), scan(1, 63, 0, 1).repeat(1000)].concat(),
        ),
    );
    add(
        false,
        "jpeg 60 full scans",
        jpeg(0xc2, 5000, 5000, &[], &[first.clone(), band.repeat(59)].concat()),
    );
    // refining goes through every coefficient of every block
    let refined = [first, band, scan(1, 63, 0x10, blocks.div_ceil(8)).repeat(60)].concat();
    add(false, "jpeg 60 refinements", jpeg(0xc2, 5000, 5000, &[], &refined));
    add(
        false,
        "jpeg 64 million pixels",
        jpeg(0xc0, 8000, 8000, &[], &scan(0, 63, 0, 250_000)),
    );
    let small = scan(0, 63, 0, 100);
    add(
        false,
        "jpeg 16 megabytes between markers",
        jpeg(0xc0, 100, 100, &vec![0xff; 16 << 20], &small),
    );
    add(
        false,
        "jpeg 16 megabytes of nothing",
        jpeg(0xc0, 100, 100, &vec![0; 16 << 20], &small),
    );
    add(
        false,
        "jpeg many tables",
        jpeg(
            0xc0,
            100,
            100,
            &segment(0xc4, &[&[0, 1][..], &[0; 15], &[0]].concat()).repeat(500_000),
            &small,
        ),
    );
    let profile = segment(0xe2, &[&b"ICC_PROFILE\0\x01\xff"[..], &[7; 65_000]].concat());
    add(
        false,
        "jpeg a colour profile of 16 megabytes",
        jpeg(0xc0, 100, 100, &profile.repeat(250), &small),
    );
    let mut exif = b"Exif\0\0II\x2a\0\x08\0\0\0\xff\xff".to_vec();
    // entries that point at their own directory
    exif.extend([0x69, 0x87, 4, 0, 1, 0, 0, 0, 8, 0, 0, 0].repeat(5400));
    add(
        false,
        "jpeg notes that contain themselves",
        jpeg(0xc0, 100, 100, &segment(0xe1, &exif), &small),
    );
    let restarts = [
        segment(0xdd, &[0, 1]),
        segment(0xda, &[1, 1, 0, 0, 63, 0]),
        [0, 0xff, 0xd0].repeat(390_625),
    ]
    .concat();
    add(
        false,
        "jpeg a restart after every block",
        jpeg(0xc0, 5000, 5000, &[], &restarts),
    );
    let lost = [
        segment(0xdd, &[0, 1]),
        segment(0xda, &[1, 1, 0, 0, 63, 0]),
        vec![0; 1 << 20],
    ]
    .concat();
    add(
        false,
        "jpeg restarts that never come",
        jpeg(0xc0, 8000, 8000, &[], &lost),
    );
}
