//! Vision towers of open_clip that are timm's: their settings give a name, timm's source gives the sizes.

use super::OpenError;
use super::settings::Settings;
use crate::blocks::{Gelu, StackConfig};
use crate::vision::{VitConfig, VitFamily};

/// The tower of a name; `s` is the rest of `vision_cfg`.
pub(super) fn vision(name: &str, mut s: Settings, dim: usize) -> Result<VitConfig, OpenError> {
    let Some((patch, stack, family)) = siglip(name).or_else(|| toklip(name)).or_else(|| eva02(name)) else {
        let what = format!("the tower \"{name}\"");
        let advice = "take a SigLIP, TokLIP or EVA02-CLIP (base or large) tower, or ask for it in an issue";
        return Err(OpenError::unsupported(s.path(), what, advice));
    };
    if family != VitFamily::Eva02 {
        s.only("timm_pool", "map".to_owned())?;
        s.only("timm_proj", "none".to_owned())?;
    } else {
        s.only("timm_pool", "token".to_owned())?;
    }
    let config = VitConfig {
        family,
        antialias: true,
        ..VitConfig::clip(s.take("image_size")?.unwrap_or(224), patch, dim, stack)
    };
    s.refuse_rest(&["timm_model_pretrained"])?;
    Ok(config)
}

/// `vit_{size}_patch{p}_siglip_{image}`: patch and blocks.
fn siglip(name: &str) -> Option<(usize, StackConfig, VitFamily)> {
    let (tower, image) = name.strip_prefix("vit_")?.split_once("_siglip_")?;
    let (size, patch) = tower.split_once("_patch")?;
    let (width, layers, heads, mlp) = match size {
        "base" => (768, 12, 12, 3072),
        "large" => (1024, 24, 16, 4096),
        "so400m" => (1152, 27, 16, 4304),
        "giantopt" => (1536, 40, 16, 6144),
        _ => return None,
    };
    // the authors trained with the tanh form; timm has it where SigLIP 2 added a tower
    let gelu = match (size, patch, image) {
        ("base", "32", _) | ("large", _, "512") | ("so400m", "16", _) | ("giantopt", ..) => Gelu::Tanh,
        _ => Gelu::Erf,
    };
    let stack = StackConfig {
        eps: 1e-6,
        ..StackConfig::new(width, layers, heads, mlp, gelu)
    };
    Some((patch.parse().ok()?, stack, VitFamily::SigLip))
}

/// `vit_so400m_patch{p}_toklip_{image}`, as TokLIP's authors added them to timm: SigLIP's blocks on codes of 16 pixels, whatever the name says.
fn toklip(name: &str) -> Option<(usize, StackConfig, VitFamily)> {
    let (tower, image) = name.split_once("_toklip_")?;
    tower.strip_prefix("vit_so400m_patch")?;
    let (_, stack, _) = siglip(&format!("{tower}_siglip_{image}"))?;
    Some((16, stack, VitFamily::TokLip))
}

/// The SigLIP towers that timm has: size, patch, sides of images.
const SIGLIPS: [(&str, usize, &[usize]); 6] = [
    ("base", 16, &[224, 256, 384, 512]),
    ("base", 32, &[256]),
    ("large", 16, &[256, 384, 512]),
    ("so400m", 14, &[224, 378, 384]),
    ("so400m", 16, &[256, 384, 512]),
    ("giantopt", 16, &[256, 384]),
];

/// What timm calls a SigLIP of these sizes, and the activation that its tower of this name has.
pub(crate) fn siglip_name(config: &VitConfig) -> Option<(String, Gelu)> {
    let found = SIGLIPS
        .iter()
        .filter(|(_, patch, sides)| *patch == config.patch && sides.contains(&config.image_size));
    found
        .filter_map(|(size, patch, _)| {
            let name = format!("vit_{size}_patch{patch}_siglip_{}", config.image_size);
            let (_, stack, _) = siglip(&name)?;
            let gelu = stack.gelu;
            let same = StackConfig {
                gelu: config.stack.gelu,
                ..stack
            };
            (same == config.stack).then_some((name, gelu))
        })
        .next()
}

/// `eva02_{size}_patch{p}_clip_{image}`: patch and blocks. The enormous size has other blocks.
fn eva02(name: &str) -> Option<(usize, StackConfig, VitFamily)> {
    let (tower, _) = name.strip_prefix("eva02_")?.split_once("_clip_")?;
    let (patch, width, layers, heads, mlp) = match tower {
        "base_patch16" => (16, 768, 12, 12, 2048),
        "large_patch14" => (14, 1024, 24, 16, 2730),
        _ => return None,
    };
    let stack = StackConfig {
        eps: 1e-6,
        swiglu: true,
        sub_norms: true,
        ..StackConfig::new(width, layers, heads, mlp, Gelu::Erf)
    };
    Some((patch, stack, VitFamily::Eva02))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn towers_of_toklip_are_siglips_on_codes() {
        let (patch, stack, family) = toklip("vit_so400m_patch16_toklip_256").unwrap();
        assert_eq!((patch, stack.gelu, family), (16, Gelu::Tanh, VitFamily::TokLip));
        let (patch, stack, _) = toklip("vit_so400m_patch14_toklip_384").unwrap();
        assert_eq!((patch, stack.width, stack.mlp, stack.gelu), (16, 1152, 4304, Gelu::Erf));
        assert!(toklip("vit_base_patch16_siglip_224").is_none());
    }

    /// Sizes that timm's own models have (scripts/fixtures/timm_towers.py).
    #[test]
    fn sizes_are_those_of_timm() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/timm_sizes.json");
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let all = all.as_object().unwrap();
        assert_eq!(all.len(), 19);
        for (name, sizes) in all {
            let (patch, stack, family) = siglip(name).or_else(|| eva02(name)).expect(name);
            let gelu = match stack.gelu {
                _ if stack.swiglu => "silu",
                Gelu::Tanh => "tanh",
                _ => "erf",
            };
            let found = serde_json::json!({
                "patch": patch, "width": stack.width, "layers": stack.layers, "heads": stack.heads, "mlp": stack.mlp,
                "act": gelu, "eps": 1e-6, "class": family != VitFamily::SigLip,
            });
            assert_eq!(&found, sizes, "{name}");
            assert_eq!(stack.eps, 1e-6);
            if family == VitFamily::SigLip {
                let side = name.rsplit('_').next().and_then(|side| side.parse().ok()).unwrap();
                let config = VitConfig::clip(side, patch, stack.width, stack.clone());
                assert_eq!(siglip_name(&config), Some((name.clone(), stack.gelu)));
                assert_eq!(siglip_name(&VitConfig::clip(side + 1, patch, stack.width, stack)), None);
            }
        }
        assert_eq!(SIGLIPS.map(|(_, _, sides)| sides.len()).iter().sum::<usize>(), 16);
        assert!(siglip("vit_base_patch16_224").is_none() && eva02("eva02_enormous_patch14_clip_224").is_none());
    }
}
