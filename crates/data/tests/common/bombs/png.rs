//! PNG: sizes, inflated rows, chunks.

use super::{Add, zeros};

fn crc(data: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], &body, &crc(&body).to_be_bytes()].concat()
}

/// A PNG of these chunks between head and end; `kind`: bits a sample, colour type, interlacing.
fn png(width: u32, height: u32, kind: (u8, u8, u8), chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    head.extend([kind.0, kind.1, 0, 0, kind.2]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(chunk(b"IHDR", &head));
    file.extend(chunks.concat());
    file.extend(chunk(b"IEND", &[]));
    file
}

pub(super) fn all(add: Add) {
    const RGB: (u8, u8, u8) = (8, 2, 0);
    let idat = |bytes: usize| chunk(b"IDAT", &zeros(bytes));
    let small = || idat(100 * 301);
    for (name, width, height) in [
        ("png 2³¹ × 2³¹", 0x7fff_ffff, 0x7fff_ffff),
        ("png 60000 × 60000", 60_000, 60_000),
        ("png a line", 1 << 30, 1),
        ("png a column", 1, 1 << 30),
        ("png nothing", 0, 0),
        ("png more pixels than allowed", 16_000, 16_000),
    ] {
        add(true, name, png(width, height, RGB, &[idat(1000)]));
    }
    add(
        true,
        "png more memory than allowed",
        png(8000, 8000, (16, 6, 0), &[idat(1 << 20)]),
    );
    add(
        false,
        "png 64 million pixels",
        png(8000, 8000, (8, 0, 0), &[idat(8000 * 8001)]),
    );
    add(
        false,
        "png 28 million pixels of 64 bits",
        png(5300, 5300, (16, 6, 0), &[idat(5300 * (5300 * 8 + 1))]),
    );
    add(
        false,
        "png 60 million pixels in seven passes",
        png(7700, 7700, (8, 0, 1), &[idat(7700 * 7700 + 20_000)]),
    );
    add(false, "png a gigabyte too much", png(100, 100, RGB, &[idat(1 << 30)]));
    let packed = zeros(1 << 30);
    let profile = [b"x\0\0", &packed[..]].concat();
    add(
        false,
        "png a colour profile of a gigabyte",
        png(100, 100, RGB, &[chunk(b"iCCP", &profile), small()]),
    );
    let text = [b"x\0\0", &packed[..]].concat();
    add(
        false,
        "png a text of a gigabyte",
        png(100, 100, RGB, &[chunk(b"zTXt", &text), small()]),
    );
    let text = [b"x\0\x01\0\0\0", &packed[..]].concat();
    add(
        false,
        "png an international text of a gigabyte",
        png(100, 100, RGB, &[chunk(b"iTXt", &text), small()]),
    );
    let mut texts = vec![chunk(b"tEXt", b"a\0b").repeat(300_000)];
    texts.push(small());
    add(false, "png 300000 texts", png(100, 100, RGB, &texts));
    let empty = chunk(b"IDAT", &[]).repeat(500_000);
    add(false, "png 500000 empty parts", png(100, 100, RGB, &[empty, small()]));
    add(false, "png a chunk that claims two gigabytes", {
        let mut file = png(100, 100, RGB, &[small()]);
        file[33..37].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
        file
    });
    // an animation: control of 100,000 frames, and as many of them
    let mut frames = vec![chunk(b"acTL", &[0, 1, 0x86, 0xa0, 0, 0, 0, 0]), small()];
    let control = [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0; 4], [0; 4], [0, 1, 0, 1]].concat();
    let control = chunk(b"fcTL", &[control, vec![0, 0]].concat());
    frames.push(
        [control, chunk(b"fdAT", &[[0, 0, 0, 2].to_vec(), zeros(4)].concat())]
            .concat()
            .repeat(100_000),
    );
    add(false, "png 100000 frames", png(100, 100, RGB, &frames));
    let exif = [b"MM\0\x2a\0\0\0\x08\xff\xff".to_vec(), vec![1; 12 * 0xffff]].concat();
    add(
        false,
        "png notes with 65535 entries",
        png(100, 100, RGB, &[chunk(b"eXIf", &exif), small()]),
    );
}
