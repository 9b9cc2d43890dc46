//! Writing safetensors.

use std::collections::{BTreeMap, HashMap};

use bifocal_kernels::elements::Element;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use super::HostTensor;

/// A safetensors file with all tensors stored as `element`: F16, BF16, or else F32. `format` is what transformers asks for in the
/// metadata ("pt").
pub(crate) fn bytes(
    tensors: &BTreeMap<String, HostTensor>,
    element: Element,
    format: Option<&str>,
) -> Result<Vec<u8>, SafeTensorError> {
    let dtype = match element {
        Element::F16 => Dtype::F16,
        Element::Bf16 => Dtype::BF16,
        _ => Dtype::F32,
    };
    let stored: Vec<Vec<u8>> = tensors.values().map(|t| element.encode(&t.data)).collect();
    let mut views = Vec::with_capacity(stored.len());
    for ((name, tensor), bytes) in tensors.iter().zip(&stored) {
        views.push((name.as_str(), TensorView::new(dtype, tensor.shape.clone(), bytes)?));
    }
    let metadata = format.map(|format| HashMap::from([("format".to_owned(), format.to_owned())]));
    safetensors::serialize(views, metadata)
}
