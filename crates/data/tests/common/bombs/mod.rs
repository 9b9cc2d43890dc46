//! Small files that ask for much: pictures that nobody means well with, of every format.

mod bmp;
mod gif;
mod jpeg;
mod png;
mod tiff;
mod webp;

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
    png::all(&mut add);
    jpeg::all(&mut add);
    gif::all(&mut add);
    webp::all(&mut add);
    tiff::all(&mut add);
    bmp::all(&mut add);
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
