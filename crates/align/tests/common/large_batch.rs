//! One step of a loss over a large batch, for the test of its memory and for the example that measures it.

use bifocal_align::losses::{self, Divergence, PairCount, Penalty, Positives, TeacherRows};
use bifocal_nn::Tensor;
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::init::Rng;

/// A loss over all pairs.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    Infonce,
    Sigmoid,
    Distill,
    Structure,
}

#[allow(dead_code)] // the example uses some, the test others
impl Loss {
    pub const ALL: [Loss; 4] = [Loss::Infonce, Loss::Sigmoid, Loss::Distill, Loss::Structure];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|loss| format!("{loss:?}").to_lowercase() == name)
    }

    /// Floating-point operations of value and gradients that the formulas ask for, counting each similarity as often as it must be computed when it is not
    /// kept. Normalising over columns takes one product more; distances take three operations a number, for student, teacher and gradient, of each pair twice.
    pub fn operations(self, pairs: usize, width: usize) -> f64 {
        let product = 2.0 * (pairs * pairs * width) as f64;
        match self {
            Loss::Infonce => 4.0 * product,
            Loss::Sigmoid => 3.0 * product,
            Loss::Distill => 6.0 * product,
            Loss::Structure => 4.5 * product,
        }
    }
}

/// Unit rows that resemble `like`, if given.
fn rows(n: usize, width: usize, rng: &mut Rng, like: Option<&[f32]>) -> Vec<f32> {
    let mut rows: Vec<f32> = (0..n * width).map(|_| rng.normal()).collect();
    if let Some(like) = like {
        let length = (width as f32).sqrt();
        rows.iter_mut()
            .zip(like)
            .for_each(|(v, like)| *v += 0.3 * length * like);
    }
    for row in rows.chunks_mut(width) {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= length);
    }
    rows
}

/// Random pictures and texts, each text near its picture.
pub struct Batch {
    images: Vec<f32>,
    texts: Vec<f32>,
    width: usize,
}

impl Batch {
    pub fn new(pairs: usize, width: usize) -> Self {
        let mut rng = Rng::new(5);
        let images = rows(pairs, width, &mut rng, None);
        let texts = rows(pairs, width, &mut rng, Some(&images));
        Self { images, texts, width }
    }
}

/// Forward and backward; returns the loss. Panics when a gradient is missing or no number.
pub fn step(loss: Loss, batch: &Batch) -> f32 {
    let width = batch.width;
    let pairs = batch.images.len() / width;
    let leaf = |data: Vec<f32>| tensor(data, [pairs, width]).autodiff().require_grad();
    let one = |value: f32| tensor(vec![value], [1]).autodiff().require_grad();
    let (images, texts) = (leaf(batch.images.clone()), leaf(batch.texts.clone()));
    let positives = Positives::diagonal(pairs);
    let (x, y) = (images.clone(), texts.clone());
    let value = match loss {
        Loss::Infonce => losses::infonce(x, y, one(50.0), &positives),
        Loss::Sigmoid => losses::sigmoid(x, y, one(50.0), one(-10.0), &positives, PairCount::Images),
        Loss::Distill => {
            let teacher = TeacherRows {
                images: y.clone().inner(),
                texts: x.clone().inner(),
                scale: 30.0,
            };
            losses::similarity_distillation(x, y, one(50.0), teacher, 1.0, Divergence::CrossEntropy)
        }
        Loss::Structure => losses::structure_alignment(x, y, Penalty::SmoothL1),
    };
    let grads = value.clone().backward();
    let sum = |leaf: &Tensor<2>| values(leaf.grad(&grads).expect("the rows reach the loss").abs().sum())[0];
    assert!(
        sum(&images) > 0.0 && sum(&images).is_finite(),
        "{loss:?}: gradient of the pictures"
    );
    if !matches!(loss, Loss::Structure) {
        assert!(
            sum(&texts) > 0.0 && sum(&texts).is_finite(),
            "{loss:?}: gradient of the texts"
        );
    }
    scalar(value)
}

/// The most memory that this process ever held, in bytes; `None` where the system does not tell.
#[allow(dead_code)] // a comparison reads it from outside
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
