//! WebP: canvases, frames, chunks.

use super::Add;

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    let body = [b"WEBP".to_vec(), chunks.concat()].concat();
    [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

fn part(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let padding = vec![0; data.len() % 2];
    [&kind[..], &(data.len() as u32).to_le_bytes(), data, &padding].concat()
}

pub(super) fn all(add: Add) {
    let canvas = |flags: u8, width: u32, height: u32| {
        let (width, height) = ((width - 1).to_le_bytes(), (height - 1).to_le_bytes());
        part(b"VP8X", &[&[flags, 0, 0, 0][..], &width[..3], &height[..3]].concat())
    };
    // size, then bits that are all the same: one colour, or a nonsense of codes
    let lossless = |width: u32, height: u32, fill: u8, bytes: usize| {
        let size = ((width - 1) | (height - 1) << 14).to_le_bytes();
        part(b"VP8L", &[&[0x2f][..], &size, &vec![fill; bytes]].concat())
    };
    // no transform, no colour cache, no codes of codes; five simple codes of one symbol, 0
    let plain = |width: u32, height: u32| {
        let size = ((width - 1) | (height - 1) << 14).to_le_bytes();
        part(b"VP8L", &[&[0x2f][..], &size, &[0x88, 0x88, 0x08, 0, 0]].concat())
    };
    let lossy = |width: u16, height: u16, fill: u8| {
        let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
        let first = [0x10, 0xff, 0x7f];
        part(
            b"VP8 ",
            &[&first[..], &[0x9d, 0x01, 0x2a], &size, &vec![fill; 1 << 20]].concat(),
        )
    };
    add(
        true,
        "webp a canvas of 16 million × 16 million",
        riff(&[canvas(0, 1 << 24, 1 << 24), plain(1, 1)]),
    );
    add(true, "webp lossless 16384 × 16384", riff(&[plain(16_384, 16_384)]));
    add(true, "webp lossy 16383 × 16383", riff(&[lossy(16_383, 16_383, 0)]));
    add(false, "webp lossless 33 million pixels", riff(&[plain(5700, 5700)]));
    add(
        false,
        "webp lossless ones",
        riff(&[lossless(5700, 5700, 0xff, 4 << 20)]),
    );
    add(
        false,
        "webp lossless pattern",
        riff(&[lossless(5700, 5700, 0x5a, 4 << 20)]),
    );
    add(false, "webp lossy 33 million pixels", riff(&[lossy(5700, 5700, 0)]));
    add(false, "webp lossy pattern", riff(&[lossy(5700, 5700, 0xa5)]));
    let frame = part(b"ANMF", &[&[0; 6][..], &[0; 6], &[1, 0, 0, 0], &plain(1, 1)].concat());
    let animation = [canvas(2, 100, 100), part(b"ANIM", &[0; 6]), frame.repeat(100_000)];
    add(false, "webp 100000 frames", riff(&animation));
    let profile = part(b"ICCP", &vec![1; 16 << 20]);
    add(
        false,
        "webp a colour profile of 16 megabytes",
        riff(&[canvas(0x20, 100, 100), profile, plain(100, 100)]),
    );
    add(false, "webp a part that claims four gigabytes", {
        let mut file = riff(&[canvas(0, 100, 100), plain(100, 100)]);
        file[34..38].copy_from_slice(&[0xff; 4]);
        file
    });
    add(
        false,
        "webp 500000 unknown parts",
        riff(&[canvas(0, 100, 100), part(b"abcd", &[]).repeat(500_000), plain(100, 100)]),
    );
}
