//! The Rust side of `benches/compare/vit_b32.py`: a worker that times ViT-B/32 and answers on standard output.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use bifocal_align::losses::{Positives, infonce};
use bifocal_kernels::allocator::{self, Allocator};
use bifocal_kernels::peak;
use bifocal_models::adapter::normalize;
use bifocal_models::vision::{ImageBatch, Vit, VitConfig};
use bifocal_models::weights;
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::optim::{Gradients, Optimizer, OptimizerConfig, OptimizerKind, Rate};
use bifocal_nn::precision::{Precision, scope};
use bifocal_nn::{Tensor, checkpoint, params};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const CONFIG: OptimizerConfig = OptimizerConfig {
    kind: OptimizerKind::AdamW,
    beta1: 0.9,
    beta2: 0.98,
    eps: 1e-6,
};

fn floats(path: &Path) -> std::io::Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    allocator::keep_memory();
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("give the folder that vit_b32.py wrote")?;
    let folder = Path::new(&folder);
    let precision = match args.next().as_deref() {
        None | Some("f32") => Precision::F32,
        Some("bf16") => Precision::Bf16,
        Some(other) => return Err(format!("{other} is no precision: f32 or bf16").into()),
    };
    let dropping = args.next().as_deref() == Some("checkpoint");
    let source = weights::open(&folder.join("model.safetensors"))?;
    let stack = StackConfig::new(768, 12, 12, 3072, Gelu::Erf);
    let config = VitConfig::clip(224, 32, 512, stack);
    let mut tower = params::set_trainable(Vit::load(config, source.as_ref())?, |_| true);
    let pixels = floats(&folder.join("images.f32"))?;
    let texts = floats(&folder.join("texts.f32"))?;
    let n = texts.len() / 512;
    let batch = ImageBatch::square(pixels, n, 224).ok_or("images.f32 does not hold n pictures")?;
    let positives = Positives::diagonal(n);
    let texts: Tensor<2> = tensor(texts, [n, 512]);
    let scale: Tensor<1> = tensor(vec![1.0 / 0.07], [1]);
    let mut optimizer = Optimizer::new(CONFIG);
    // As long as nothing is trained, forward passes are of one model, like PyTorch's.
    let mut frozen = None;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let start = Instant::now();
        match line?.as_str() {
            "forward" => {
                let frozen = frozen.get_or_insert_with(|| params::set_trainable(tower.clone(), |_| false));
                let start = Instant::now();
                let y = scope(precision, || values(frozen.embed(&batch)));
                writeln!(out, "{} {}", start.elapsed().as_secs_f64(), y[0])?;
            }
            "dump" => {
                let constant = params::set_trainable(tower.clone(), |_| false);
                let y = scope(precision, || values(constant.embed(&batch)));
                let bytes: Vec<u8> = y.iter().flat_map(|v| v.to_le_bytes()).collect();
                std::fs::write(folder.join("out.f32"), bytes)?;
                writeln!(out, "0")?;
            }
            "train" => {
                frozen = None;
                let y = checkpoint::scope(dropping, || scope(precision, || tower.embed(&batch)));
                let features = normalize(y);
                let loss = infonce(features, texts.clone(), scale.clone(), &positives);
                let value = scalar(loss.clone());
                let grads = Gradients::collect(&tower, loss.backward());
                tower = optimizer.step(tower, &grads, 1.0, |_| Rate {
                    lr: 1e-4,
                    // as PyTorch's AdamW with one parameter group: everything decays
                    weight_decay: 0.2,
                });
                writeln!(out, "{} {value}", start.elapsed().as_secs_f64())?;
            }
            "peak" => writeln!(out, "{}", peak::flops())?,
            other => return Err(format!("unknown command {other}").into()),
        }
        out.flush()?;
    }
    Ok(())
}
