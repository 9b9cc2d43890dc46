//! BMP: sizes, runs, palettes.

use super::Add;

pub(super) fn all(add: Add) {
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
