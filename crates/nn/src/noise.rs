//! Random numbers of dropout that do not depend on how a batch is cut up.
//!
//! A mask, or a choice of parts ([`choices`]), belongs to a *site* (the how-manieth use of dropout in a forward pass) and has one row for each row of what it is laid on. The numbers of a row depend on
//! the seed, the site and the row's number in the whole batch, and on nothing else: a batch that is run in parts, each with the number of rows before it,
//! gets the masks of the whole batch, whatever the parts and the number of threads.
//!
//! Layers whose forward has no source of randomness (adapters inside of towers) find it in a scope of the thread:
//!
//! ```
//! # use bifocal_nn::noise::{self, Noise};
//! # let (seed, step, tokens_before, items_before) = (1, 2, 3, 4);
//! # let forward = || ();
//! let noise = Noise::new(seed ^ step).after(tokens_before, items_before);
//! let y = noise::scope(noise, || forward());
//! ```
//!
//! Outside of a scope nothing is dropped: that is how evaluation runs. Sites are counted from 0 in each scope, so that two scopes with the same seed draw the same
//! masks: towers, and steps, need a seed each. Gradients need the scope no more once the forward pass is over.

use std::cell::RefCell;

use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use crate::engine::tensor;
use crate::fused;
use crate::init::unit;

/// Where masks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    seed: u64,
    tokens: usize,
    items: usize,
}

/// What the rows of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Tokens of texts, patches of images, packed.
    Tokens,
    /// Texts or images, as after pooling.
    Items,
    /// The same for all of a batch, as a learnt query.
    Shared,
}

impl Noise {
    /// Masks of a whole batch.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            tokens: 0,
            items: 0,
        }
    }

    /// The same masks for a part of the batch that has so many tokens and items (texts, images) before it.
    #[must_use]
    pub fn after(self, tokens: usize, items: usize) -> Self {
        Self { tokens, items, ..self }
    }

    /// The number in the whole batch of a part's first row.
    fn first(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Items => self.items,
            Rows::Shared => 0,
        }
    }

    /// A mask of inverted dropout (Srivastava et al. 2014): 0 with probability `p`, else 1 / (1 − p). Row i depends on the seed, the site and
    /// `first_row + i`, not on what the noise is [`Noise::after`].
    ///
    /// # Shapes
    /// → `[rows, width]`.
    pub fn mask(&self, site: u64, first_row: usize, rows: usize, width: usize, p: f32) -> Tensor<2> {
        let mask = Mask {
            seed: self.seed,
            site,
            first_row,
            p,
        };
        let mut values = vec![1.0; rows * width];
        mask.apply(&mut values, width);
        tensor(values, [rows, width])
    }
}

/// A mask that is made where it is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mask {
    seed: u64,
    site: u64,
    first_row: usize,
    p: f32,
}

/// Numbers in one block of the generator, at whose borders rows begin.
const BLOCK: usize = 16;
/// Numbers that a parallel task has at least.
const TASK: usize = 16 * 1024;

impl Mask {
    /// Multiplies rows by the mask, in place.
    pub fn apply(&self, x: &mut [f32], width: usize) {
        if width == 0 || self.p <= 0.0 {
            return;
        }
        let keep = 1.0 / (1.0 - self.p);
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(self.site);
        let rows = (TASK / width).max(1);
        x.par_chunks_mut(rows * width).enumerate().for_each(|(task, x)| {
            let mut generator = generator.clone();
            for (i, row) in x.chunks_exact_mut(width).enumerate() {
                go_to_row(&mut generator, self.first_row + task * rows + i, width);
                for x in row {
                    *x *= if unit(generator.next_u32()) < self.p { 0.0 } else { keep };
                }
            }
        });
    }
}

/// Goes to where the numbers of a row of some width begin.
fn go_to_row(generator: &mut ChaCha8Rng, row: usize, width: usize) {
    let blocks = width.div_ceil(BLOCK) as u128;
    generator.set_word_pos(row as u128 * blocks * BLOCK as u128);
}

#[derive(Clone, Copy, Debug)]
struct Active {
    noise: Noise,
    rows: Rows,
    site: u64,
}

thread_local! {
    static ACTIVE: RefCell<Option<Active>> = const { RefCell::new(None) };
}

/// Gives back what was there before, even when what is between panics.
struct Restore<F: FnMut()>(F);

impl<F: FnMut()> Drop for Restore<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs a forward pass with dropout.
pub fn scope<T>(noise: Noise, run: impl FnOnce() -> T) -> T {
    let mut former = ACTIVE.replace(Some(Active {
        noise,
        rows: Rows::Tokens,
        site: 0,
    }));
    let _restore = Restore(|| ACTIVE.set(former.take()));
    run()
}

/// Says what rows are inside of `run`; they are tokens otherwise. Towers call it around what follows pooling.
pub fn rows<T>(rows: Rows, run: impl FnOnce() -> T) -> T {
    let set = |rows: Rows| {
        ACTIVE.with_borrow_mut(|active| active.as_mut().map(|active| std::mem::replace(&mut active.rows, rows)))
    };
    let former = set(rows);
    let _restore = Restore(|| {
        if let Some(former) = former {
            set(former);
        }
    });
    run()
}

/// Where the masks of a scope have come to, for what will be computed again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(Option<Active>);

/// The place of the scope that is active, if there is one.
pub(crate) fn place() -> Place {
    Place(ACTIVE.with_borrow(|active| *active))
}

/// Runs `run` with the masks that came after a place.
pub(crate) fn again<T>(place: Place, run: impl FnOnce() -> T) -> T {
    let mut former = ACTIVE.replace(place.0);
    let _restore = Restore(|| ACTIVE.set(former.take()));
    run()
}

/// The active scope at its next site, which is used up.
fn next_site() -> Option<Active> {
    ACTIVE.with_borrow_mut(|active| {
        let active = active.as_mut()?;
        active.site += 1;
        Some(Active {
            site: active.site - 1,
            ..*active
        })
    })
}

/// Inverted dropout with the scope's next mask; x itself outside of a scope.
///
/// # Shapes
/// `[t, c]` → `[t, c]`.
pub fn dropout(x: Tensor<2>, p: f32) -> Tensor<2> {
    if p <= 0.0 {
        return x;
    }
    match next_site() {
        None => x,
        Some(Active { noise, rows, site }) => {
            let mask = Mask {
                seed: noise.seed,
                site,
                first_row: noise.first(rows),
                p,
            };
            fused::dropout(x, mask)
        }
    }
}

/// Which `keep` of its `of` parts each of some items keeps, drawn by the scope's next site: every choice is as likely as any other. What an item keeps depends on
/// the seed, the site and the item's number in the whole batch. `None` outside of a scope, where nothing is left out.
///
/// # Shapes
/// → `[items·keep]`: numbers below `of`, of each item in ascending order; all of them if there are no more.
pub fn choices(items: usize, of: usize, keep: usize) -> Option<Vec<u32>> {
    let Active { noise, site, .. } = next_site()?;
    let mut generator = ChaCha8Rng::seed_from_u64(noise.seed);
    generator.set_stream(site);
    let keep = keep.min(of);
    let mut chosen = Vec::with_capacity(items * keep);
    let mut drawn: Vec<(u32, u32)> = Vec::with_capacity(of);
    for item in 0..items {
        go_to_row(&mut generator, noise.items + item, of);
        drawn.clear();
        // a part's number decides where two have drawn the same
        drawn.extend((0u32..).take(of).map(|part| (generator.next_u32(), part)));
        drawn.sort_unstable();
        let begin = chosen.len();
        chosen.extend(drawn[..keep].iter().map(|(_, part)| part));
        chosen[begin..].sort_unstable();
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::values;

    #[test]
    fn rows_do_not_depend_on_how_a_batch_is_cut() {
        for width in [1, 16, 37, 700] {
            let noise = Noise::new(5);
            let whole = values(noise.mask(3, 0, 60, width, 0.3));
            for cut in [1, 17, 59] {
                let mut parts = values(noise.mask(3, 0, cut, width, 0.3));
                parts.extend(values(noise.mask(3, cut, 60 - cut, width, 0.3)));
                assert_eq!(parts, whole, "width {width} cut at {cut}");
            }
        }
    }

    #[test]
    fn sites_seeds_and_rows_differ_and_the_share_is_right() {
        let mask = |seed, site, first| values(Noise::new(seed).mask(site, first, 100, 200, 0.25));
        let all = [mask(1, 0, 0), mask(1, 1, 0), mask(2, 0, 0), mask(1, 0, 100)];
        for (i, a) in all.iter().enumerate() {
            let dropped = a.iter().filter(|&&m| m == 0.0).count();
            // 20,000 draws: five standard deviations are 306
            assert!((4694..5306).contains(&dropped), "{dropped}");
            assert!(a.iter().all(|&m| m == 0.0 || m == 1.0 / 0.75));
            for b in &all[..i] {
                let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
                assert!((12_000..13_000).contains(&same), "{same} of 20000, 12500 by chance");
            }
        }
        let first: Vec<f32> = all[0].chunks(200).map(|row| row[0]).collect();
        assert!(first.contains(&0.0) && first.iter().any(|&m| m > 0.0));
    }

    #[test]
    fn choices_do_not_depend_on_how_a_batch_is_cut_and_are_all_alike() {
        let drawn = |seed, before, items, of, keep| {
            // how many tokens came before does not count
            let noise = Noise::new(seed).after(7 * before, before);
            scope(noise, || choices(items, of, keep)).unwrap()
        };
        for (of, keep) in [(1, 1), (4, 2), (16, 15), (49, 24), (196, 98)] {
            let whole = drawn(3, 0, 30, of, keep);
            assert_eq!(whole.len(), 30 * keep);
            for item in whole.chunks(keep) {
                assert!(item.is_sorted_by(|a, b| a < b) && item.iter().all(|&part| (part as usize) < of));
            }
            for cut in [1, 13, 29] {
                let parts = [drawn(3, 0, cut, of, keep), drawn(3, cut, 30 - cut, of, keep)].concat();
                assert_eq!(parts, whole, "{keep} of {of} cut at {cut}");
            }
            assert!(of == 1 || drawn(4, 0, 30, of, keep) != whole);
        }
        assert_eq!(drawn(1, 0, 2, 3, 9), [0, 1, 2, 0, 1, 2]);
        assert_eq!(choices(2, 4, 2), None);
        let both = scope(Noise::new(1), || [choices(30, 9, 4), choices(30, 9, 4)]);
        assert_ne!(both[0], both[1], "each use is a site of its own");
        // two of four: each of the six pairs a sixth of 6000 times, and five standard deviations are 144
        let mut pairs = std::collections::BTreeMap::new();
        for pair in drawn(2, 0, 6000, 4, 2).chunks(2) {
            *pairs.entry(pair.to_vec()).or_insert(0) += 1;
        }
        assert!(
            pairs.len() == 6 && pairs.values().all(|n| (856..1144).contains(n)),
            "{pairs:?}"
        );
    }

    #[test]
    fn a_scope_counts_sites_and_ends() {
        let x = || tensor(vec![1.0; 40 * 30], [40, 30]);
        let noise = Noise::new(9);
        let site = |site, first| values(noise.mask(site, first, 40, 30, 0.5));
        assert_eq!(values(dropout(x(), 0.5)), values(x()));
        scope(noise.after(7, 2), || {
            assert_eq!(values(dropout(x(), 0.5)), site(0, 7));
            assert_eq!(values(dropout(x(), 0.0)), values(x()));
            rows(Rows::Items, || assert_eq!(values(dropout(x(), 0.5)), site(1, 2)));
            rows(Rows::Shared, || assert_eq!(values(dropout(x(), 0.5)), site(2, 0)));
            scope(noise, || assert_eq!(values(dropout(x(), 0.5)), site(0, 0)));
            assert_eq!(values(dropout(x(), 0.5)), site(3, 7));
        });
        let _ = std::panic::catch_unwind(|| scope(noise, || panic!("inside")));
        assert_eq!(values(dropout(x(), 0.5)), values(x()));
    }
}
