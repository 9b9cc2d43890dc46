//! PatchGAN (Isola et al. 2017, arXiv 1611.07004), as LlamaGen judges its reconstructions by (`tokenizer_image/discriminator_patchgan.py`): convolutions of
//! 4 × 4 with batch norm and leaky ReLU, and one number for each patch that says how real it looks.

use bifocal_nn::fused::{self, Activation};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{Conv, Pictures, ones, zeros};
use bifocal_nn::{Module, Param, Tensor};

/// Width after the first convolution; twice that after each other, up to eight times.
const WIDTH: usize = 64;
/// Convolutions with a step of 2.
const HALVINGS: usize = 3;
const KERNEL: usize = 4;
/// Deviation of the weights at the start.
const STD: f32 = 0.02;
const EPS: f32 = 1e-5;
/// What is left of values below 0.
const LEAK: f32 = 0.2;

/// Normalisation of each channel over all positions of the batch at hand. It never sees anything but training, so it keeps no running statistics.
#[derive(Module, Debug)]
struct BatchNorm {
    /// `[c]`.
    weight: Param<Tensor<1>>,
    /// `[c]`.
    bias: Param<Tensor<1>>,
}

impl BatchNorm {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(0);
        let variance = centred.clone().powi_scalar(2).mean_dim(0);
        let row = |p: &Param<Tensor<1>>| p.val().unsqueeze::<2>();
        centred / (variance + EPS).sqrt() * row(&self.weight) + row(&self.bias)
    }
}

/// What tells real pictures from made ones.
#[derive(Module, Debug)]
pub(super) struct Discriminator {
    /// The last one gives one number.
    conv: Vec<Conv>,
    /// After each convolution but the first and the last one.
    norm: Vec<BatchNorm>,
}

/// `max(x, LEAK·x)`.
fn leaky(x: Tensor<2>) -> Tensor<2> {
    fused::activation(x.clone(), Activation::Relu) * (1.0 - LEAK) + x * LEAK
}

impl Discriminator {
    /// With LlamaGen's initial weights, for pictures of three channels.
    pub fn new(rng: &mut Rng) -> Self {
        Self::of_width(WIDTH, rng)
    }

    fn of_width(width: usize, rng: &mut Rng) -> Self {
        let mut widths = vec![3];
        widths.extend((0..=HALVINGS).map(|i| width << i));
        widths.push(1);
        let (last, mut conv, mut norm) = (widths.len() - 2, Vec::new(), Vec::new());
        for (i, pair) in widths.windows(2).enumerate() {
            // norms have a bias of their own
            let normed = i > 0 && i < last;
            let mut layer = Conv::new(KERNEL, pair[0], pair[1], !normed, rng);
            let shape = [pair[1], KERNEL * KERNEL * pair[0]];
            layer.weight = Param::from_tensor(Init::Normal(STD).tensor(shape, rng));
            conv.push(layer);
            if normed {
                let around_one: Tensor<1> = Init::Normal(STD).tensor([pair[1]], rng);
                norm.push(BatchNorm {
                    weight: Param::from_tensor(ones([pair[1]]).val() + around_one),
                    bias: zeros([pair[1]]),
                });
            }
        }
        Self { conv, norm }
    }

    /// Pictures in −1…1 to one number for each patch; sides are at least 32 pixels.
    ///
    /// # Shapes
    /// `[n·h·w, 3]` → `[n·patches, 1]`.
    pub fn forward(&self, x: &Pictures) -> Tensor<2> {
        let last = self.conv.len() - 1;
        let mut x = x.clone();
        for (i, conv) in self.conv.iter().enumerate() {
            let stride = if i < HALVINGS { 2 } else { 1 };
            x = conv.padded(&x, stride, [1; 4], Activation::Identity);
            if i == last {
                break;
            }
            if let Some(norm) = i.checked_sub(1).and_then(|i| self.norm.get(i)) {
                let normed = norm.forward(x.x.clone());
                x = x.with(normed);
            }
            let active = leaky(x.x.clone());
            x = x.with(active);
        }
        x.x
    }
}

/// What the discriminator minimises: half of the hinge on real patches and half of that on made ones.
///
/// # Shapes
/// `[patches, 1]` each → `[1]`.
pub(super) fn hinge(real: Tensor<2>, made: Tensor<2>) -> Tensor<1> {
    let above = |x: Tensor<2>| fused::activation(x, Activation::Relu).mean();
    (above(-real + 1.0) + above(made + 1.0)) * 0.5
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bifocal_nn::engine::{scalar, tensor, values};
    use bifocal_nn::optim::Gradients;
    use bifocal_nn::params;

    use super::*;

    /// LlamaGen's discriminator with random weights, and what it made of some pictures (`scripts/fixtures/vq_loss.py`).
    #[derive(serde::Deserialize)]
    struct Fixture {
        weights: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
        size: usize,
        real: Vec<f32>,
        made: Vec<f32>,
        logits: Vec<f32>,
        hinge: f32,
        asks: f32,
        gradient_of_made: Vec<f32>,
        norms: BTreeMap<String, f32>,
    }

    /// `[out, in, k, k]` → `[out, k, k, in]`.
    fn rows(shape: &[usize], w: &[f32]) -> Vec<f32> {
        let [o, i, k] = [shape[0], shape[1], shape[2] * shape[3]];
        let at = |j: usize| w[j / (k * i) * i * k + j % i * k + j / i % k];
        (0..o * i * k).map(at).collect()
    }

    /// The name in a checkpoint of LlamaGen's: a list of convolutions, norms and activations.
    fn name(ours: &str) -> String {
        let (place, part) = ours.rsplit_once('.').expect("a part");
        let (kind, i) = place.split_once('.').expect("a place");
        let i: usize = i.parse().expect("a number");
        let at = match (kind, i) {
            ("conv", 0) => 0,
            ("conv", i) => 3 * i - 1,
            (_, i) => 3 * i + 3,
        };
        format!("main.{at}.{part}")
    }

    #[test]
    fn equals_its_authors_discriminator() {
        let text = include_str!("../../tests/fixtures/discriminator.json");
        let fixture: Fixture = serde_json::from_str(text).expect("the fixture");
        let net = Discriminator::of_width(4, &mut Rng::new(1));
        let net = params::load(net, |ours, _| {
            let (shape, data) = &fixture.weights[&name(ours)];
            Ok::<_, std::convert::Infallible>(Some(if shape.len() == 4 {
                rows(shape, data)
            } else {
                data.clone()
            }))
        });
        let net = params::set_trainable(net.expect("it fits"), |_| true);
        let batch = |x: &Vec<f32>| Pictures {
            x: tensor(x.clone(), [x.len() / 3, 3]),
            n: x.len() / 3 / fixture.size / fixture.size,
            size: [fixture.size; 2],
        };
        let (real, made) = (batch(&fixture.real), batch(&fixture.made));
        let close = |a: f32, b: f32| (a - b).abs() <= 2e-4 * b.abs().max(0.05);
        let logits = values(net.forward(&real));
        assert_eq!(logits.len(), fixture.logits.len());
        for (a, b) in logits.iter().zip(&fixture.logits) {
            assert!(close(*a, *b), "{a} {b}");
        }
        let loss = hinge(net.forward(&real), net.forward(&made));
        assert!(close(scalar(loss.clone()), fixture.hinge));
        let grads = Gradients::collect(&net, loss.backward());
        for info in params::list(&net) {
            let grad = grads.get(&info.name).expect("it learns");
            let norm = grad.iter().map(|v| v * v).sum::<f32>().sqrt();
            let expected = fixture.norms[&name(&info.name)];
            assert!(close(norm, expected), "{}: {norm} {expected}", info.name);
        }
        let still = params::set_trainable(net, |_| false);
        let pixels = tensor(fixture.made.clone(), [fixture.made.len() / 3, 3])
            .autodiff()
            .require_grad();
        let asks = -still.forward(&made.with(pixels.clone())).mean();
        assert!(close(scalar(asks.clone()), fixture.asks));
        let gradient = pixels.grad(&asks.backward()).expect("pixels matter");
        for (a, b) in values(gradient).iter().zip(&fixture.gradient_of_made) {
            assert!((a - b).abs() <= 1e-3 * b.abs() + 1e-6, "{a} {b}");
        }
    }
}
