//! Weights that do not change, put once into the form that the kernels read best.

use std::sync::{Arc, Mutex, PoisonError};

use bifocal_kernels::gemm::{Grid, Packed};
use bifocal_kernels::linear::pack_weight;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use crate::fused::constant;
use crate::precision::{self, Precision};

/// Rows of input from which the order of a packed weight helps.
const ROWS: usize = 5;

/// A layer's weight in the order in which the kernels read it for many rows, and in levels for a few ([`Grid`], of a weight that a file had in four or eight bits), made when a constant weight is used for the second time: a weight that learns changes with every
/// step, and a single use is not worth the memory. It belongs to one layer: a clone of the layer begins without.
#[derive(Debug, Default)]
pub(crate) struct PackedWeight(Mutex<Option<Seen>>);

#[derive(Debug)]
struct Seen {
    /// Kept, so that its memory is not another weight's while addresses are compared.
    weight: FlexTensor,
    packed: Option<Arc<Packed>>,
    /// `Some(None)`: the weight is on no grid.
    grid: Option<Option<Arc<Grid>>>,
}

/// A weight once more, in the forms that help.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    pub packed: Option<Arc<Packed>>,
    pub grid: Option<Arc<Grid>>,
}

impl Clone for PackedWeight {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PackedWeight {
    /// What there is by now that helps with `rows` rows of input.
    pub fn of(&self, weight: &Tensor<2>, rows: usize) -> Prepared {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Prepared::default();
        let Some(tensor) = constant(weight) else {
            *seen = None;
            return none;
        };
        let Some(data) = tensor.as_slice::<f32>() else {
            return none;
        };
        match &mut *seen {
            Some(seen) if seen.weight.as_slice::<f32>().map(<[f32]>::as_ptr) == Some(data.as_ptr()) => {
                let [dout, din] = weight.dims();
                let precision = precision::of_product(precision::current(), din, false);
                // eight-bit integers are read as they are packed by any number of rows
                if rows < ROWS && precision != Precision::Int8 {
                    let find = || Grid::of(data, din, dout).map(Arc::new);
                    let grid = seen.grid.get_or_insert_with(find).clone();
                    return Prepared { grid, ..none };
                }
                let packed = match seen.packed.take().filter(|packed| packed.serves(precision)) {
                    Some(packed) => packed,
                    None => Arc::new(pack_weight(data, din, dout, precision)),
                };
                let packed = Some(seen.packed.insert(packed).clone());
                Prepared { packed, ..none }
            }
            other => {
                *other = Some(Seen {
                    weight: tensor,
                    packed: None,
                    grid: None,
                });
                none
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::{tensor, values};
    use crate::init::Rng;
    use crate::layers::Linear;
    use crate::params;
    use burn::tensor::Tensor;

    /// Uses a layer often enough that its weight is packed, then gives it another one at each turn of the tests below.
    fn warm() -> (Linear, Tensor<2>, Vec<f32>) {
        let mut rng = Rng::new(1);
        let layer = params::set_trainable(Linear::new(40, 70, true, &mut rng), |_| false);
        let x = tensor((0..20 * 40).map(|i| (i % 13) as f32 - 6.0).collect(), [20, 40]);
        let first = values(layer.forward(x.clone()));
        assert!(layer.packed.of(&layer.weight.val(), 20).packed.is_some());
        (layer, x, first)
    }

    #[test]
    fn packed_or_not_the_bits_are_the_same() {
        let (layer, x, first) = warm();
        assert_eq!(values(layer.forward(x)), first);
    }

    #[test]
    fn a_new_weight_is_noticed() {
        let (layer, x, first) = warm();
        let mut layer = layer;
        layer.weight = burn::module::Param::from_tensor(layer.weight.val() * 2.0);
        layer.bias = layer
            .bias
            .map(|bias| burn::module::Param::from_tensor(bias.val() * 2.0));
        for _ in 0..3 {
            let twice: Vec<f32> = first.iter().map(|v| 2.0 * v).collect();
            assert_eq!(values(layer.forward(x.clone())), twice);
        }
    }

    #[test]
    fn a_weight_of_four_bits_is_read_in_levels_to_the_same_bits() {
        let mut rng = Rng::new(2);
        let mut layer = params::set_trainable(Linear::new(64, 9, false, &mut rng), |_| false);
        let levels = (0..9 * 64).map(|i| 0.125 * (i * 7 % 16) as f32 - 0.5).collect();
        layer.weight = burn::module::Param::from_tensor(tensor(levels, [9, 64]));
        let x = tensor((0..64).map(|i| (i % 13) as f32 - 6.0).collect(), [1, 64]);
        let first = values(layer.forward(x.clone()));
        assert_eq!(values(layer.forward(x)), first);
        let prepared = layer.packed.of(&layer.weight.val(), 1);
        assert!(prepared.grid.is_some() && prepared.packed.is_none());
        assert!(layer.packed.of(&layer.weight.val(), 20).packed.is_some());
        let (other, x, _) = warm();
        other.forward(x.slice([0..1, 0..40]));
        assert!(other.packed.of(&other.weight.val(), 1).grid.is_none());
    }

    #[test]
    fn the_weight_below_an_adapter_is_packed() {
        let (layer, x, first) = warm();
        let config = crate::lora::LoraConfig {
            rank: 2,
            alpha: 4.0,
            dropout: 0.0,
        };
        let (layer, count) = crate::lora::attach(layer, &config, |_| true, 1).expect("fine");
        let layer = params::set_trainable(layer, |name| name.contains("lora"));
        assert_eq!(count, 1);
        for _ in 0..2 {
            assert_eq!(values(layer.forward(x.clone())), first);
        }
        assert!(layer.packed.of(&layer.weight.val(), 20).packed.is_some());
    }

    #[test]
    fn a_weight_that_learns_is_not_packed() {
        let (layer, x, _) = warm();
        let layer = params::set_trainable(layer, |_| true);
        for _ in 0..3 {
            layer.forward(x.clone());
        }
        assert!(layer.packed.of(&layer.weight.val(), 20).packed.is_none());
    }
}
