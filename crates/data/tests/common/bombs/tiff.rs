//! TIFF: directories, strips, tiles.

use super::jpeg::{jpeg, scan};
use super::{Add, zeros};

/// A little-endian TIFF with one directory of (tag, kind, count, value), which begins at 8, and data behind it.
fn tiff(entries: &[(u16, u16, u32, u32)], next: u32, data: &[u8]) -> Vec<u8> {
    let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
    file.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        file.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        file.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    file.extend(next.to_le_bytes());
    file.extend(data);
    file
}

pub(super) fn all(add: Add) {
    // grey of 8 bits in one strip; the data begin behind nine entries
    const DATA: u32 = 8 + 2 + 9 * 12 + 4;
    let grey = |width: u32, height: u32, packing: u32, data: &[u8]| {
        let strip = [(273, 4, 1, DATA), (278, 4, 1, height), (279, 4, 1, data.len() as u32)];
        let head = [
            (256, 4, 1, width),
            (257, 4, 1, height),
            (258, 3, 1, 8),
            (259, 3, 1, packing),
            (262, 3, 1, 1),
        ];
        tiff(
            &[&head[..], &strip[..1], &[(277, 3, 1, 1)], &strip[1..]].concat(),
            0,
            data,
        )
    };
    add(
        true,
        "tiff 4 billion × 4 billion",
        grey(u32::MAX, u32::MAX, 1, &[0; 100]),
    );
    add(true, "tiff 60000 × 60000", grey(60_000, 60_000, 8, &zeros(1000)));
    add(
        false,
        "tiff 64 million pixels, deflated",
        grey(8000, 8000, 8, &zeros(64_000_000)),
    );
    add(false, "tiff a gigabyte too much", grey(100, 100, 8, &zeros(1 << 30)));
    add(
        false,
        "tiff packed bits",
        grey(8000, 8000, 32_773, &[0x81, 0].repeat(500_000)),
    );
    add(false, "tiff LZW of nothing", grey(8000, 8000, 5, &[0x80; 1 << 20]));
    add(false, "tiff LZW of ones", grey(8000, 8000, 5, &[0xff; 1 << 20]));
    add(false, "tiff fax", grey(8000, 8000, 4, &[0x55; 1 << 20]));
    add(
        false,
        "tiff JPEG",
        grey(8000, 8000, 7, &jpeg(0xc0, 8000, 8000, &[], &scan(0, 63, 0, 250_000))),
    );
    add(true, "tiff more values than the file", {
        let mut file = grey(100, 100, 1, &[0; 10_000]);
        // the count of strip offsets
        file[10 + 5 * 12 + 4..10 + 5 * 12 + 8].fill(0xff);
        file
    });
    add(false, "tiff a directory that follows itself", {
        let mut file = grey(100, 100, 1, &[0; 10_000]);
        file[DATA as usize - 4..DATA as usize].copy_from_slice(&8u32.to_le_bytes());
        file
    });
    let nested = |count: u32| {
        let head = [
            (256, 4, 1, 100),
            (257, 4, 1, 100),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
        ];
        let strip = [
            (273, 4, 1, 200),
            (277, 3, 1, 1),
            (278, 4, 1, 100),
            (279, 4, 1, 10_000),
            (330, 4, count, 8),
        ];
        tiff(&[&head[..], &strip].concat(), 0, &[8; 10_400])
    };
    add(false, "tiff a directory inside of itself", nested(1));
    add(false, "tiff 2500 directories inside", nested(2500));
    let many: Vec<(u16, u16, u32, u32)> = (0..60_000u16).map(|tag| (tag, 4, 1, 100)).collect();
    add(false, "tiff 60000 entries", tiff(&many, 0, &[]));
    // tiles of 16 × 16, all of them the same deflated data
    let side = 7680u32;
    let tiles = (side / 16).pow(2);
    let data = zeros(256);
    let at = |n: u32| 8 + 2 + 10 * 12 + 4 + n;
    let mut lists = vec![at(0).to_le_bytes(); tiles as usize].concat();
    let begin = lists.len() as u32 * 2;
    lists = vec![at(begin).to_le_bytes(); tiles as usize].concat();
    lists.extend(vec![(data.len() as u32).to_le_bytes(); tiles as usize].concat());
    lists.extend(&data);
    let head = [
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
    ];
    let rest = [
        (322, 4, 1, 16),
        (323, 4, 1, 16),
        (324, 4, tiles, at(0)),
        (325, 4, tiles, at(begin / 2)),
    ];
    add(
        false,
        "tiff 230400 tiles",
        tiff(&[&head[..], &rest].concat(), 0, &lists),
    );
}
