//! One scan: which blocks come in which order (ITU-T T.81, A.2 and B.2.3).

use super::super::budget::Budget;
use super::JpegError;
use super::block::{Band, ac_first, ac_refine, dc_first, sequential};
use super::frame::{Frame, Tables};
use super::huffman::{Bits, Huffman};

/// How the blocks of a scan are coded.
#[derive(Clone, Copy)]
enum Coding {
    Sequential,
    DcFirst,
    DcRefine,
    AcFirst,
    AcRefine,
}

/// A component's part in a scan.
struct Part<'t> {
    component: usize,
    dc: Option<&'t Huffman>,
    ac: Option<&'t Huffman>,
    quant: [u16; 64],
}

/// Everything that decoding the blocks of a scan needs.
struct Scan<'a, 't> {
    frame: &'a mut Frame,
    parts: Vec<Part<'t>>,
    coding: Coding,
    band: Band,
    restart: usize,
    bits: Bits<'a>,
    budget: &'t Budget,
}

/// Decodes the scan whose header is `body` and whose data begin at `at`; gives the position behind the data.
pub(super) fn decode(
    frame: &mut Frame,
    tables: &Tables,
    body: &[u8],
    bytes: &[u8],
    at: usize,
    budget: &Budget,
) -> Result<usize, JpegError> {
    const BAD: JpegError = JpegError::Damaged("a scan header is impossible");
    let [count, rest @ ..] = body else { return Err(BAD) };
    let count = usize::from(*count);
    let (list, tail) = rest.split_at_checked(count * 2).ok_or(BAD)?;
    let [start, end, precision, ..] = tail else {
        return Err(BAD);
    };
    let mut band = Band {
        start: usize::from(*start),
        end: usize::from(*end),
        high: u32::from(precision >> 4),
        low: u32::from(precision & 15),
    };
    let coding = match (frame.progressive, band.start, band.high) {
        (false, ..) => Coding::Sequential,
        (true, 0, 0) => Coding::DcFirst,
        (true, 0, _) => Coding::DcRefine,
        (true, _, 0) => Coding::AcFirst,
        (true, ..) => Coding::AcRefine,
    };
    let possible = match coding {
        Coding::Sequential => true,
        Coding::DcFirst | Coding::DcRefine => band.end == 0,
        Coding::AcFirst | Coding::AcRefine => count == 1 && band.start <= band.end && band.end < 64,
    };
    if !(1..=frame.components.len()).contains(&count) || !possible || band.low > 13 {
        return Err(BAD);
    }
    if !frame.progressive {
        // whatever the header says
        band = Band {
            start: 0,
            end: 63,
            high: 0,
            low: 0,
        };
    }

    let mut parts: Vec<Part<'_>> = Vec::with_capacity(count);
    for pair in list.chunks_exact(2) {
        let component = frame.components.iter().position(|c| c.id == pair[0]).ok_or(BAD)?;
        if parts.iter().any(|p| p.component == component) {
            return Err(BAD);
        }
        let quant = frame.components[component].latch(tables)?;
        fn table(set: &[Option<Huffman>; 4], slot: u8) -> Option<&Huffman> {
            set.get(usize::from(slot)).and_then(Option::as_ref)
        }
        let (dc, ac) = (table(&tables.dc, pair[1] >> 4), table(&tables.ac, pair[1] & 15));
        let lacking = match coding {
            Coding::Sequential => dc.is_none() || ac.is_none(),
            Coding::DcFirst => dc.is_none(),
            Coding::DcRefine => false,
            Coding::AcFirst | Coding::AcRefine => ac.is_none(),
        };
        if lacking {
            return Err(JpegError::Damaged("a Huffman table is missing"));
        }
        parts.push(Part {
            component,
            dc,
            ac,
            quant,
        });
    }
    frame.any_scan = true;
    let mut scan = Scan {
        frame,
        parts,
        coding,
        band,
        restart: tables.restart,
        bits: Bits::new(bytes, at),
        budget,
    };
    if !pulp::Arch::new().dispatch(Run(&mut scan)) {
        return Err(JpegError::Slow);
    }
    Ok(scan.bits.at)
}

/// A type of its own, so that the loops are compiled for the best instructions of the processor.
struct Run<'r, 'a, 't>(&'r mut Scan<'a, 't>);

impl pulp::WithSimd for Run<'_, '_, '_> {
    type Output = bool;
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> bool {
        self.0.run()
    }
}

impl Scan<'_, '_> {
    /// Whether it came to its end in time.
    #[inline(always)]
    fn run(&mut self) -> bool {
        let alone = self.parts.len() == 1;
        let (wide, high) = if alone {
            // a scan of one component has no padding blocks
            let c = &self.frame.components[self.parts[0].component];
            (c.width.div_ceil(c.side), c.height.div_ceil(c.side))
        } else {
            (self.frame.mcus_wide, self.frame.mcus_high)
        };
        for c in &mut self.frame.components {
            c.dc_prediction = 0;
        }
        let (mut until_restart, mut run) = (self.restart, 0);
        for y in 0..high {
            if self.budget.is_spent() {
                return false;
            }
            for x in 0..wide {
                if self.restart > 0 {
                    if until_restart == 0 {
                        self.bits.restart();
                        run = 0;
                        until_restart = self.restart;
                        for c in &mut self.frame.components {
                            c.dc_prediction = 0;
                        }
                    }
                    until_restart -= 1;
                }
                let starved = self.bits.starved();
                for p in 0..self.parts.len() {
                    let c = &self.frame.components[self.parts[p].component];
                    let (h, v) = if alone { (1, 1) } else { (c.h, c.v) };
                    for row in y * v..(y + 1) * v {
                        for column in x * h..(x + 1) * h {
                            self.block(p, row, column, &mut run, starved);
                        }
                    }
                }
            }
        }
        true
    }

    #[inline(always)]
    fn block(&mut self, part: usize, row: usize, column: usize, run: &mut u32, starved: bool) {
        let (bits, band, part) = (&mut self.bits, self.band, &self.parts[part]);
        let c = &mut self.frame.components[part.component];
        if let (Coding::Sequential, Some(dc), Some(ac)) = (self.coding, part.dc, part.ac) {
            let mut block = [0; 64];
            if !starved {
                sequential(bits, dc, ac, &mut c.dc_prediction, &mut block);
            }
            c.put(row, column, &block, &part.quant);
            return;
        }
        if starved {
            return;
        }
        let index = row * c.blocks_wide + column;
        let Some(block) = c.coefficients.as_chunks_mut::<64>().0.get_mut(index) else {
            return;
        };
        match (self.coding, part.dc, part.ac) {
            (Coding::DcFirst, Some(dc), _) => dc_first(bits, dc, &mut c.dc_prediction, band.low, block),
            (Coding::DcRefine, ..) => block[0] |= i16::from(bits.bit()) << band.low,
            (Coding::AcFirst, _, Some(ac)) => ac_first(bits, ac, run, band, block),
            (Coding::AcRefine, _, Some(ac)) => ac_refine(bits, ac, run, band, block),
            // `decode` has made sure that the tables are there
            _ => {}
        }
    }
}
