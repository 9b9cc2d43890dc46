//! Frame header and tables (ITU-T T.81, B.2).

use super::JpegError;
use super::huffman::Huffman;
use super::idct;

/// Natural position of the k-th coefficient of the zigzag order.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// What markers outside the frame say.
#[derive(Default)]
pub(super) struct Tables {
    /// By destination, in natural order.
    pub quant: [Option<[u16; 64]>; 4],
    pub dc: [Option<Huffman>; 4],
    pub ac: [Option<Huffman>; 4],
    /// MCUs between restart markers; 0 for none.
    pub restart: usize,
    pub jfif: bool,
    /// Transform of Adobe's marker.
    pub adobe: Option<u8>,
}

impl Tables {
    pub fn quantisation(&mut self, mut body: &[u8]) -> Result<(), JpegError> {
        const BAD: JpegError = JpegError::Damaged("a quantisation table is cut off");
        while let [head, rest @ ..] = body {
            let wide = head >> 4 != 0;
            let slot = self.quant.get_mut(usize::from(head & 15)).ok_or(BAD)?;
            let len = if wide { 128 } else { 64 };
            let values = rest.get(..len).ok_or(BAD)?;
            let mut table = [0; 64];
            for k in 0..64 {
                table[usize::from(ZIGZAG[k])] = if wide {
                    u16::from_be_bytes([values[2 * k], values[2 * k + 1]])
                } else {
                    u16::from(values[k])
                };
            }
            *slot = Some(table);
            body = &rest[len..];
        }
        Ok(())
    }

    pub fn huffman(&mut self, mut body: &[u8]) -> Result<(), JpegError> {
        const BAD: JpegError = JpegError::Damaged("a Huffman table is impossible");
        while let [head, rest @ ..] = body {
            let class = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let slot = class.get_mut(usize::from(head & 15)).ok_or(BAD)?;
            let counts = rest.first_chunk::<16>().ok_or(BAD)?;
            let total = counts.iter().map(|&c| usize::from(c)).sum::<usize>();
            let symbols = rest.get(16..16 + total).ok_or(BAD)?;
            *slot = Some(Huffman::new(counts, symbols).ok_or(BAD)?);
            body = &rest[16 + total..];
        }
        Ok(())
    }

    pub fn restart_interval(&mut self, body: &[u8]) -> Result<(), JpegError> {
        let [high, low, ..] = body else {
            return Err(JpegError::Damaged("the restart interval is cut off"));
        };
        self.restart = usize::from(u16::from_be_bytes([*high, *low]));
        Ok(())
    }
}

/// One colour component.
pub(super) struct Component {
    pub id: u8,
    /// Sampling factors.
    pub h: usize,
    pub v: usize,
    quant_slot: usize,
    /// The table that held when the first scan of this component began.
    quant: Option<[u16; 64]>,
    /// Samples on the side of a block: 8, or fewer when the picture is reduced and the component is not smaller anyway.
    pub side: usize,
    /// Size in samples without padding.
    pub width: usize,
    pub height: usize,
    /// Width in blocks, padded to whole MCUs.
    pub blocks_wide: usize,
    /// Samples, `[blocks high · side, blocks_wide · side]`, padded likewise.
    pub plane: Vec<u8>,
    /// Coefficients of a progressive frame in natural order, `[blocks high, blocks_wide, 64]`.
    pub coefficients: Vec<i16>,
    pub dc_prediction: i32,
}

impl Component {
    /// Fixes the quantisation table at the first scan.
    pub fn latch(&mut self, tables: &Tables) -> Result<[u16; 64], JpegError> {
        if self.quant.is_none() {
            self.quant = tables.quant[self.quant_slot];
        }
        self.quant.ok_or(JpegError::Damaged("a quantisation table is missing"))
    }

    /// Transforms a block into the plane.
    #[inline(always)]
    pub fn put(&mut self, row: usize, column: usize, coefficients: &[i16; 64], quant: &[u16; 64]) {
        let stride = self.blocks_wide * self.side;
        let out = &mut self.plane[row * self.side * stride + column * self.side..];
        match self.side {
            8 => idct::inverse(coefficients, quant, out, stride),
            4 => idct::reduced::<4>(coefficients, quant, out, stride),
            2 => idct::reduced::<2>(coefficients, quant, out, stride),
            _ => idct::reduced::<1>(coefficients, quant, out, stride),
        }
    }
}

/// The picture as its header describes it.
pub(super) struct Frame {
    pub progressive: bool,
    /// Size of the result.
    pub width: u32,
    pub height: u32,
    pub h_max: usize,
    pub v_max: usize,
    /// Samples on the side of a block of a component of full resolution.
    pub side: usize,
    pub mcus_wide: usize,
    pub mcus_high: usize,
    pub components: Vec<Component>,
    pub any_scan: bool,
}

impl Frame {
    pub fn parse(marker: u8, body: &[u8], size: (u32, u32), by: u32) -> Result<Self, JpegError> {
        const BAD: JpegError = JpegError::Damaged("its frame header is impossible");
        let [precision, h1, h0, w1, w0, count, rest @ ..] = body else {
            return Err(BAD);
        };
        let (width, height) = (u16::from_be_bytes([*w1, *w0]), u16::from_be_bytes([*h1, *h0]));
        if *precision != 8 {
            return Err(JpegError::Unsupported("with other than 8 bits a sample"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(JpegError::Unsupported("with other than 1, 3 or 4 components"));
        }
        // the limits were checked for that size, and what follows allocates
        if (u32::from(width), u32::from(height)) != size {
            return Err(JpegError::Damaged("it states two sizes"));
        }
        let rest = rest.get(..usize::from(*count) * 3).ok_or(BAD)?;
        let factors = || {
            rest.chunks_exact(3)
                .map(|c| (usize::from(c[1] >> 4), usize::from(c[1] & 15)))
        };
        let (h_max, v_max) = factors().fold((1, 1), |(h, v), f| (f.0.max(h), f.1.max(v)));
        let whole = |(h, v)| (1..=4).contains(&h) && (1..=4).contains(&v) && h_max % h == 0 && v_max % v == 0;
        if width == 0
            || height == 0
            || !rest.chunks_exact(3).all(|c| c[2] < 4)
            || !factors().all(|f| (1..=4).contains(&f.0) && (1..=4).contains(&f.1))
        {
            return Err(BAD);
        }
        if !factors().all(whole) {
            return Err(JpegError::Unsupported("whose components' sizes are no whole multiples"));
        }
        let (w, h) = (usize::from(width), usize::from(height));
        let side = 8 / by as usize;
        let (mcus_wide, mcus_high) = (w.div_ceil(8 * h_max), h.div_ceil(8 * v_max));
        let progressive = marker == 0xc2;
        let components = rest
            .chunks_exact(3)
            .zip(factors())
            .map(|(c, (ch, cv))| {
                let (blocks_wide, blocks_high) = (mcus_wide * ch, mcus_high * cv);
                let blocks = blocks_wide * blocks_high;
                // as libjpeg: colours at half resolution are not halved once more
                let whole =
                    |own: usize| (h_max * side).is_multiple_of(ch * own) && (v_max * side).is_multiple_of(cv * own);
                let own = [8, 4, 2]
                    .into_iter()
                    .find(|&own| own > side && whole(own))
                    .unwrap_or(side);
                Component {
                    id: c[0],
                    h: ch,
                    v: cv,
                    quant_slot: usize::from(c[2]),
                    quant: None,
                    side: own,
                    width: (w * ch * own).div_ceil(h_max * 8),
                    height: (h * cv * own).div_ceil(v_max * 8),
                    blocks_wide,
                    plane: vec![0; blocks * own * own],
                    coefficients: vec![0; if progressive { blocks * 64 } else { 0 }],
                    dc_prediction: 0,
                }
            })
            .collect();
        let (width, height) = (size.0.div_ceil(by), size.1.div_ceil(by));
        Ok(Self {
            progressive,
            width,
            height,
            h_max,
            v_max,
            side,
            mcus_wide,
            mcus_high,
            components,
            any_scan: false,
        })
    }

    /// Transforms the collected coefficients of a progressive frame.
    pub fn finish(&mut self, tables: &Tables) -> Result<(), JpegError> {
        if !self.progressive {
            return Ok(());
        }
        for c in &mut self.components {
            let quant = c.latch(tables)?;
            let coefficients = std::mem::take(&mut c.coefficients);
            for (i, block) in coefficients.as_chunks::<64>().0.iter().enumerate() {
                c.put(i / c.blocks_wide, i % c.blocks_wide, block, &quant);
            }
        }
        Ok(())
    }
}
