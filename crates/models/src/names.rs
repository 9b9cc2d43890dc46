//! How checkpoints call the parts of a transformer block.

/// Where queries, keys and values are.
pub(crate) enum Qkv {
    /// One tensor of weights and one of biases.
    Packed { weight: &'static str, bias: &'static str },
    /// A layer each.
    Apart([&'static str; 3]),
    /// A layer each, keys without bias.
    WithoutKeyBias([&'static str; 3]),
}

/// Names of a block's parts. Those that a checkpoint's blocks do not have are empty.
pub(crate) struct Names {
    pub ln_1: &'static str,
    pub qkv: Qkv,
    pub ln_out: &'static str,
    pub out: &'static str,
    pub scale_1: &'static str,
    pub ln_2: &'static str,
    pub fc: &'static str,
    pub proj: &'static str,
    /// Gate and what it gates, packed or a layer each.
    pub swiglu: &'static [&'static str],
    pub swiglu_proj: &'static str,
    pub ln_proj: &'static str,
    pub scale_2: &'static str,
}

/// OpenAI's and open_clip's.
pub(crate) const OPEN_AI: Names = Names {
    ln_1: "ln_1",
    qkv: Qkv::Packed {
        weight: "attn.in_proj_weight",
        bias: "attn.in_proj_bias",
    },
    ln_out: "",
    out: "attn.out_proj",
    scale_1: "",
    ln_2: "ln_2",
    fc: "mlp.c_fc",
    proj: "mlp.c_proj",
    swiglu: &[],
    swiglu_proj: "",
    ln_proj: "",
    scale_2: "",
};

/// CLIP and SigLIP in transformers.
pub(crate) const HUGGING_FACE: Names = Names {
    ln_1: "layer_norm1",
    qkv: Qkv::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    out: "self_attn.out_proj",
    ln_2: "layer_norm2",
    fc: "mlp.fc1",
    proj: "mlp.fc2",
    ..OPEN_AI
};

/// DINOv2 in transformers.
pub(crate) const DINOV2: Names = Names {
    ln_1: "norm1",
    qkv: Qkv::Apart([
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ]),
    out: "attention.output.dense",
    scale_1: "layer_scale1.lambda1",
    ln_2: "norm2",
    fc: "mlp.fc1",
    proj: "mlp.fc2",
    swiglu: &["mlp.weights_in"],
    swiglu_proj: "mlp.weights_out",
    scale_2: "layer_scale2.lambda1",
    ..OPEN_AI
};

/// Vision transformers of timm.
pub(crate) const TIMM: Names = Names {
    ln_1: "norm1",
    qkv: Qkv::Packed {
        weight: "attn.qkv.weight",
        bias: "attn.qkv.bias",
    },
    out: "attn.proj",
    ln_2: "norm2",
    fc: "mlp.fc1",
    proj: "mlp.fc2",
    ..OPEN_AI
};

/// EVA02 of timm.
pub(crate) const EVA02: Names = Names {
    qkv: Qkv::WithoutKeyBias(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
    ln_out: "attn.norm",
    swiglu: &["mlp.fc1_g", "mlp.fc1_x"],
    swiglu_proj: "mlp.fc2",
    ln_proj: "mlp.norm",
    ..TIMM
};

/// The paths of this crate's parameters.
pub(crate) const OWN: Names = Names {
    ln_1: "ln_1",
    qkv: Qkv::Packed {
        weight: "qkv.weight",
        bias: "qkv.bias",
    },
    ln_out: "ln_out",
    out: "out",
    scale_1: "scale_1",
    ln_2: "ln_2",
    fc: "fc",
    proj: "proj",
    swiglu: &["fc"],
    swiglu_proj: "proj",
    ln_proj: "ln_proj",
    scale_2: "scale_2",
};
