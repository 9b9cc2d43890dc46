//! Layers after a norm or an activation, whose results are made again for a backward pass in place of being kept.

use burn::tensor::Tensor;

use super::{LayerNorm, Linear, RmsNorm};
use crate::fused::{self, Activate, Activation, Gated, Source, on_cpu};

/// What makes of `x` what a layer reads.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // named as what they are
pub enum Before<'a> {
    LayerNorm(&'a LayerNorm),
    RmsNorm(&'a RmsNorm),
    Activation(Activation),
    /// `act(gate) · up` of a packed row `gate | up`.
    Gated(Activation),
}

impl Before<'_> {
    fn of(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::LayerNorm(norm) => norm.forward(x),
            Self::RmsNorm(norm) => norm.forward(x),
            Self::Activation(act) => fused::activation(x, act),
            Self::Gated(act) => fused::gated(x, act),
        }
    }

    /// The operation for rows of a width, with its weight and its bias.
    fn source(self, width: usize) -> (Source, [Option<Tensor<1>>; 2]) {
        match self {
            Self::LayerNorm(norm) => {
                let op = fused::LayerNorm { eps: norm.eps(), width };
                let own = [Some(norm.weight.val()), Some(norm.bias.val())];
                (Source::LayerNorm(op), own)
            }
            Self::RmsNorm(norm) => {
                let op = fused::RmsNorm { eps: norm.eps(), width };
                (Source::RmsNorm(op), [Some(norm.weight.val()), None])
            }
            Self::Activation(act) => (Source::Activation(Activate { act, width }), [None, None]),
            Self::Gated(act) => {
                let width = width / 2;
                (Source::Gated(Gated { act, width }), [None, None])
            }
        }
    }
}

impl Linear {
    /// `before(x) wᵀ + b + residual`. A backward pass that the layer's weight or `x` takes part in makes `before(x)` again; layers with adapters keep it, since these read it too.
    ///
    /// # Shapes
    /// `[t, c]` → `[t, out]`.
    pub fn after(&self, before: Before<'_>, x: Tensor<2>, residual: Option<Tensor<2>>) -> Tensor<2> {
        if !self.lora.is_empty() || !on_cpu(&x) || !self.is_recorded(&x) {
            return self.fused(before.of(x), Activation::Identity, residual);
        }
        let [t, width] = x.dims();
        let (source, own) = before.source(width);
        let weight = self.weight.val();
        let prepared = self.packed.of(&weight, t);
        fused::linear_after(
            source,
            x,
            own,
            weight,
            prepared,
            self.bias.as_ref().map(|bias| bias.val()),
            residual,
        )
    }

    fn is_recorded(&self, x: &Tensor<2>) -> bool {
        x.is_tracked() || self.weight.val().is_tracked() || !self.lora.is_empty()
    }
}

/// `last(act(first(norm(x)))) + residual`: a transformer's feed-forward part. Of what lies between, a backward pass keeps the numbers before the activation.
///
/// # Shapes
/// `x` `[t, c]`, `residual` and the result `[t, out]`.
pub fn feed_forward(
    norm: Option<&LayerNorm>,
    first: &Linear,
    act: Activation,
    last: &Linear,
    x: Tensor<2>,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    if !first.is_recorded(&x) {
        // the activation is applied while the product is in cache
        let x = norm.map_or(x.clone(), |norm| norm.forward(x));
        return last.fused(first.fused(x, act, None), Activation::Identity, residual);
    }
    let pre = match norm {
        Some(norm) => first.after(Before::LayerNorm(norm), x, None),
        None => first.forward(x),
    };
    last.after(Before::Activation(act), pre, residual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{tensor, values};
    use crate::init::Rng;
    use crate::optim::Gradients;
    use crate::{Module, params};

    #[derive(Module, Debug)]
    struct Part {
        norm: LayerNorm,
        rms: RmsNorm,
        first: Linear,
        last: Linear,
        gate: Linear,
        down: Linear,
    }

    fn part() -> (Part, Tensor<2>) {
        let mut rng = Rng::new(7);
        let part = Part {
            norm: LayerNorm::new(6, 1e-5),
            rms: RmsNorm::new(6, 1e-6),
            first: Linear::new(6, 9, true, &mut rng),
            last: Linear::new(9, 6, true, &mut rng),
            gate: Linear::new(6, 10, false, &mut rng),
            down: Linear::new(5, 6, false, &mut rng),
        };
        let x = tensor((0..5 * 6).map(|i| ((i * 7) % 11) as f32 * 0.3 - 1.5).collect(), [5, 6]);
        (part, x)
    }

    /// With what is made again, and with each operation by itself.
    fn both(part: &Part, x: &Tensor<2>) -> [Tensor<2>; 2] {
        let (act, none) = (Activation::GeluErf, Activation::Identity);
        let x1 = feed_forward(
            Some(&part.norm),
            &part.first,
            act,
            &part.last,
            x.clone(),
            Some(x.clone()),
        );
        let pre = part.gate.after(Before::RmsNorm(&part.rms), x1.clone(), None);
        let again = part.down.after(Before::Gated(Activation::Silu), pre, Some(x1));
        let h = part.first.fused(part.norm.forward(x.clone()), act, None);
        let x1 = part.last.fused(h, none, Some(x.clone()));
        let h = fused::gated(part.gate.forward(part.rms.forward(x1.clone())), Activation::Silu);
        [again, part.down.fused(h, none, Some(x1))]
    }

    #[test]
    fn values_are_the_same_and_gradients_too_but_for_the_order_of_a_sum() {
        let (part, x) = part();
        let all: [fn(&str) -> bool; 4] = [
            |_| true,
            |name| name.contains("norm"),
            |name| name.contains("last"),
            |_| false,
        ];
        for learns in all {
            let part = params::set_trainable(part.clone(), learns);
            for tracked in [false, true] {
                let input = if tracked {
                    x.clone().autodiff().require_grad()
                } else {
                    x.clone()
                };
                let [again, kept] = both(&part, &input);
                assert_eq!(values(again.clone()), values(kept.clone()));
                assert_eq!(again.is_tracked(), kept.is_tracked());
                if !again.is_tracked() {
                    continue;
                }
                let [again, kept] = [again, kept].map(|y| {
                    let weights = tensor((0..30).map(|i| (i % 7) as f32 - 3.0).collect(), [5, 6]);
                    let grads = (y * weights).sum().backward();
                    let of_input = input.grad(&grads).map_or_else(Vec::new, values);
                    assert_eq!(of_input.is_empty(), !tracked);
                    (Gradients::collect(&part, grads).flat(), of_input)
                });
                assert_eq!(again.1, kept.1);
                assert_eq!(again.0.len(), kept.0.len());
                // the bias of a layer before an activation is summed together with the activation's gradient, or after it
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
                assert!(again.0.iter().zip(&kept.0).all(close), "{again:?}\n{kept:?}");
            }
        }
    }
}
