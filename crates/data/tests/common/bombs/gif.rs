//! GIF: canvases, frames, codes.

use super::Add;

/// Blocks of at most 255 bytes, as in a GIF.
fn blocks(data: &[u8]) -> Vec<u8> {
    let parts = data.chunks(255).map(|part| [&[part.len() as u8][..], part].concat());
    [parts.collect::<Vec<_>>().concat(), vec![0]].concat()
}

/// A frame of pixels of one colour, written without ever growing the codes: a clear code after every second pixel.
fn gif_frame(left: u16, top: u16, width: u16, height: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let place = [left, top, width, height].map(u16::to_le_bytes).concat();
    [&[0x2c][..], &place, &[flags, 2], &blocks(data)].concat()
}

/// LZW of `pixels` zeros with codes that grow, in which every code is one pixel longer than the one before.
fn lzw(pixels: usize) -> Vec<u8> {
    let (mut out, mut bits, mut count) = (Vec::new(), 0u64, 0);
    let mut put = |code: u64, width: u32| {
        bits |= code << count;
        count += width;
        while count >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
    };
    let mut written = 0;
    while written < pixels {
        put(4, 3);
        let (mut next, mut width, mut length) = (6u64, 3, 1);
        put(0, width);
        written += 1;
        while written < pixels && next < 4096 {
            length += 1;
            put(next, width);
            written += length;
            next += 1;
            if next == 1 << width && width < 12 {
                width += 1;
            }
            if next == 4095 {
                break;
            }
        }
        // the dictionary begins anew
        while width > 3 {
            put(4, width);
            width = 3;
        }
    }
    put(5, 3);
    put(0, 8);
    out
}

pub(super) fn all(add: Add) {
    let gif = |width: u16, height: u16, frames: &[u8]| {
        let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
        let head = [
            &b"GIF89a"[..],
            &size,
            &[0x91, 0, 0],
            &[0, 0, 0, 255, 255, 255, 9, 9, 9, 8, 8, 8],
        ]
        .concat();
        [&head[..], frames, &[0x3b]].concat()
    };
    let pixel = gif_frame(0, 0, 1, 1, 0, &[0x44, 0x01]);
    add(true, "gif 65535 × 65535", gif(65_535, 65_535, &pixel));
    add(false, "gif a point of 52 million", gif(7200, 7200, &pixel));
    add(
        false,
        "gif 32 million pixels",
        gif(5700, 5700, &gif_frame(0, 0, 5700, 5700, 0, &lzw(5700 * 5700))),
    );
    add(
        false,
        "gif 32 million pixels, interlaced",
        gif(5700, 5700, &gif_frame(0, 0, 5700, 5700, 0x40, &lzw(5700 * 5700))),
    );
    add(
        false,
        "gif a frame beyond its screen",
        gif(10, 10, &gif_frame(60_000, 60_000, 5000, 5000, 0, &lzw(5000 * 5000))),
    );
    add(
        false,
        "gif a frame larger than its screen",
        gif(10, 10, &gif_frame(0, 0, 65_535, 65_535, 0, &lzw(1 << 20))),
    );
    add(false, "gif 100000 frames", gif(100, 100, &pixel.repeat(100_000)));
    add(
        false,
        "gif a comment of 16 megabytes",
        gif(
            100,
            100,
            &[&[0x21, 0xfe][..], &blocks(&vec![b'a'; 16 << 20]), &pixel].concat(),
        ),
    );
    add(
        false,
        "gif codes that are not there",
        gif(100, 100, &gif_frame(0, 0, 100, 100, 0, &[0xff; 5000])),
    );
}
