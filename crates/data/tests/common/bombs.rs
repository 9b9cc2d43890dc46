//! Small files that ask for much: pictures that nobody means well with, of every format.

use flate2::{Compress, Compression, FlushCompress};

/// A file, and whether it has to be refused; otherwise it may also be decoded, within the limits.
pub struct Bomb {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub refused: bool,
}

/// All of them.
pub fn bombs() -> Vec<Bomb> {
    let mut all = Vec::new();
    let mut add = |refused: bool, name: &'static str, bytes: Vec<u8>| all.push(Bomb { name, bytes, refused });
    pngs(&mut add);
    jpegs(&mut add);
    gifs(&mut add);
    webps(&mut add);
    tiffs(&mut add);
    bmps(&mut add);
    let whole: Vec<(&'static str, Vec<u8>)> = all
        .iter()
        .filter(|bomb| !bomb.refused && bomb.bytes.len() > 64)
        .map(|bomb| (bomb.name, bomb.bytes.clone()))
        .collect();
    for (name, bytes) in whole {
        all.push(Bomb {
            name,
            bytes: bytes[..bytes.len() / 2].to_vec(),
            refused: false,
        });
    }
    all
}

type Add<'a> = &'a mut dyn FnMut(bool, &'static str, Vec<u8>);

/// `count` zeros as zlib data: a thousandth of their size. A piece that ends with a full flush can be repeated.
fn zeros(count: usize) -> Vec<u8> {
    const PIECE: usize = 1 << 20;
    let packed = |count: usize| {
        let mut out = Vec::with_capacity(8192);
        let mut raw = Compress::new(Compression::best(), false);
        raw.compress_vec(&vec![0; count], &mut out, FlushCompress::Full)
            .expect("memory");
        out
    };
    let mut out = vec![0x78, 0xda];
    out.extend(packed(PIECE).repeat(count / PIECE));
    out.extend(packed(count % PIECE));
    // an empty last block, and Adler's sum
    out.extend([1, 0, 0, 0xff, 0xff]);
    out.extend((((count % 65_521) as u32) << 16 | 1).to_be_bytes());
    out
}

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

fn pngs(add: Add) {
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

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16 + 2).to_be_bytes();
    [&[0xff, marker][..], &length, body].concat()
}

/// A grey JPEG whose tables have one symbol, 0, of one bit.
fn jpeg(frame: u8, width: u16, height: u16, before: &[u8], scans: &[u8]) -> Vec<u8> {
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
fn scan(start: u8, end: u8, bits: u8, bytes: usize) -> Vec<u8> {
    [segment(0xda, &[1, 1, 0, start, end, bits]), vec![0; bytes]].concat()
}

fn jpegs(add: Add) {
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

fn gifs(add: Add) {
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

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    let body = [b"WEBP".to_vec(), chunks.concat()].concat();
    [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

fn part(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let padding = vec![0; data.len() % 2];
    [&kind[..], &(data.len() as u32).to_le_bytes(), data, &padding].concat()
}

fn webps(add: Add) {
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

fn tiffs(add: Add) {
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

fn bmps(add: Add) {
    let bmp = |width: i32, height: i32, bits: u16, packing: u32, colours: u32, data: &[u8]| {
        let mut file = b"BM".to_vec();
        file.extend((54 + data.len() as u32).to_le_bytes());
        file.extend([0; 4]);
        file.extend(54u32.to_le_bytes());
        file.extend(40u32.to_le_bytes());
        file.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
        file.extend([1u16.to_le_bytes(), bits.to_le_bytes()].concat());
        for field in [packing, data.len() as u32, 2835, 2835, colours, 0] {
            file.extend(field.to_le_bytes());
        }
        file.extend(data);
        file
    };
    add(true, "bmp 2³¹ × 2³¹", bmp(i32::MAX, i32::MAX, 24, 0, 0, &[0; 100]));
    add(
        true,
        "bmp of a height that cannot be negated",
        bmp(100, i32::MIN, 24, 0, 0, &[0; 100]),
    );
    add(true, "bmp of a negative width", bmp(-100, 100, 24, 0, 0, &[0; 100]));
    add(
        true,
        "bmp 64 million pixels that are not there",
        bmp(8000, 8000, 24, 0, 0, &[0; 100]),
    );
    let palette = [0; 1024];
    // runs of 255 pixels
    let runs = [&palette[..], &[0xff, 1].repeat(260_000)].concat();
    add(
        false,
        "bmp 64 million pixels in runs",
        bmp(8000, 8000, 8, 1, 256, &runs),
    );
    let leaps = [&palette[..], &[0, 2, 0xff, 0xff].repeat(500_000)].concat();
    add(false, "bmp that leaps ahead", bmp(8000, 8000, 8, 1, 256, &leaps));
    add(
        false,
        "bmp of 4 billion colours",
        bmp(100, 100, 8, 0, u32::MAX, &[0; 20_000]),
    );
}
