//! Quantised checkpoints in the Hugging Face layout: what `config.json` and the tensors say of it.
//!
//! The formats are those of transformers (`quantization_config`, and `compression_config` in older files) and of MLX (`quantization`).

use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Weights in 8-bit floats, e4m3, each to be multiplied by the scale of its block: the `quant_method`s `fp8`, `fbgemm_fp8` and
/// `compressed-tensors` with format `float-quantized`.
///
/// Engines that compute in 8 bits also quantise activations; that is not part of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp8 {
    /// The rows and columns that share a scale; `None` if the shape of the scales says so: one scale for the whole matrix, or one for
    /// each row.
    pub block: Option<[usize; 2]>,
}

/// The places of a quantisation in a configuration.
const KEYS: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

/// The endings of tensors that only quantised layers have.
const ENDINGS: [&str; 14] = [
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_zero_point",
    ".absmax",
    ".quant_map",
    ".SCB",
    ".scales",
    ".scale_b",
    "_proj_blocks",
    "_proj_scales",
];

/// Reads the quantisation in a `config.json`, at its root or in the configuration of a part of the model; `None` if the weights are not
/// quantised.
///
/// # Errors
///
/// [`Error::Quantised`] for any other quantisation than [`Fp8`].
pub fn of_config(config: &Map<String, Value>) -> Result<Option<Fp8>> {
    let parts = config.values().filter_map(Value::as_object);
    let mut found = None;
    for part in std::iter::once(config).chain(parts) {
        for (key, value) in KEYS.iter().filter_map(|key| part.get_key_value(*key)) {
            match value {
                Value::Null => {}
                Value::Object(settings) if settings.is_empty() => {}
                Value::Object(settings) => found = Some(fp8(key, settings)?),
                other => return Err(refused(format!("(`{key}` is {other})"))),
            }
        }
    }
    Ok(found)
}

/// Checks that a tensor is what the configuration announces.
///
/// # Errors
///
/// [`Error::Quantised`] if the tensor belongs to a quantised layer, and the configuration announces none, or not of this type.
pub fn check_tensor(name: &str, dtype: Dtype, declared: Option<Fp8>) -> Result<()> {
    use Dtype::{BF16, F8_E4M3, F16, F32, F64};
    let part = ENDINGS.iter().any(|ending| name.ends_with(ending));
    let bits = dtype.bitsize() <= 8 && !matches!(dtype, Dtype::BOOL | Dtype::U8 | Dtype::I8);
    let weight = name.ends_with(".weight") && !matches!(dtype, F64 | F32 | F16 | BF16);
    if !(part || bits || weight) {
        return Ok(());
    }
    match declared {
        Some(_) if is_scale(name) || dtype == F8_E4M3 => Ok(()),
        Some(_) => Err(refused(format!("(tensor `{name}` is of type {dtype:?}, config.json says 8-bit floats of type e4m3)"))),
        None => Err(refused(format!("(tensor `{name}` of type {dtype:?} shows it), though config.json does not say how"))),
    }
}

/// The tensors that may hold the scales of a weight, by its name.
pub fn scales_of(weight: &str) -> [String; 2] {
    [format!("{weight}_scale_inv"), format!("{weight}_scale")]
}

/// Whether a tensor holds scales of a weight.
fn is_scale(name: &str) -> bool {
    name.ends_with(".weight_scale_inv") || name.ends_with(".weight_scale")
}

fn refused(how: String) -> Error {
    Error::Quantised { how }
}

/// The block of 8-bit floats, if the settings are of such a method.
fn fp8(key: &str, settings: &Map<String, Value>) -> Result<Fp8> {
    let text = |key: &str| settings.get(key).and_then(Value::as_str);
    let bits = |key: &str| settings.get(key).and_then(Value::as_u64).map(|bits| format!(", {bits} bits"));
    match text("quant_method") {
        Some("fp8") if text("fmt").is_none_or(|fmt| fmt.starts_with("e4m3")) => Ok(Fp8 { block: block(settings, "weight_block_size")? }),
        Some("fp8") => Err(refused(format!("by fp8 ({})", text("fmt").unwrap_or_default()))),
        Some("fbgemm_fp8") => Ok(Fp8 { block: None }),
        Some("compressed-tensors") => compressed_tensors(settings),
        Some(method @ "bitsandbytes") => {
            let on = |key: &str| settings.get(key).and_then(Value::as_bool).unwrap_or(false);
            let bits = if on("load_in_8bit") { "8 bits" } else { "4 bits" };
            Err(refused(format!("by {method} ({bits}{})", text("bnb_4bit_quant_type").map(|t| format!(", {t}")).unwrap_or_default())))
        }
        Some(method) => {
            let details = bits("bits").or_else(|| text("quant_algo").map(|algorithm| format!(", {algorithm}"))).unwrap_or_default();
            Err(refused(format!("by {method}{details}")))
        }
        None if settings.contains_key("load_in_4bit") || settings.contains_key("load_in_8bit") => {
            Err(refused("by bitsandbytes".to_owned()))
        }
        None if key == "quantization" || settings.contains_key("group_size") => {
            Err(refused(format!("by MLX{}", bits("bits").unwrap_or_default())))
        }
        None if settings.contains_key("config_groups") || settings.contains_key("format") => compressed_tensors(settings),
        None => Err(refused(format!("by a method that `{key}` does not name"))),
    }
}

/// The block of `compressed-tensors`, whose groups of layers may each have a scheme of their own.
fn compressed_tensors(settings: &Map<String, Value>) -> Result<Fp8> {
    let refuse = |detail: &str| Err(refused(format!("by compressed-tensors ({detail})")));
    let text = |settings: &Map<String, Value>, key: &str| settings.get(key).and_then(Value::as_str).map(str::to_owned);
    let sparse = settings.get("sparsity_config").and_then(Value::as_object).and_then(|sparsity| text(sparsity, "format"));
    if let Some(format) = sparse.filter(|format| format != "dense") {
        return refuse(&format);
    }
    let float = |format: &str| matches!(format, "float-quantized" | "naive-quantized");
    match text(settings, "format") {
        Some(format) if float(&format) => {}
        format => return refuse(format.as_deref().unwrap_or("no format given")),
    }
    let mut blocks = Vec::new();
    for group in settings.get("config_groups").and_then(Value::as_object).into_iter().flat_map(Map::values) {
        if let Some(format) = group.get("format").and_then(Value::as_str).filter(|format| !float(format)) {
            return refuse(format);
        }
        let Some(weights) = group.get("weights").and_then(Value::as_object) else { continue };
        let bits = weights.get("num_bits").and_then(Value::as_u64).unwrap_or(8);
        let kind = text(weights, "type").unwrap_or_else(|| "int".to_owned());
        if kind != "float" || bits != 8 || weights.get("symmetric").and_then(Value::as_bool) == Some(false) {
            return refuse(&format!("{kind}, {bits} bits"));
        }
        blocks.push(block(weights, "block_structure")?);
    }
    blocks.dedup();
    match blocks.as_slice() {
        [] => Ok(Fp8 { block: None }),
        [block] => Ok(Fp8 { block: *block }),
        _ => refuse("several block sizes"),
    }
}

fn block(settings: &Map<String, Value>, key: &str) -> Result<Option<[usize; 2]>> {
    let size = |value: &Value| value.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
    let value = settings.get(key).filter(|value| !value.is_null());
    let pair = |value: &Value| match value.as_array()?.as_slice() {
        [rows, columns] => Some([size(rows)?, size(columns)?]),
        _ => None,
    };
    value.map(|value| pair(value).ok_or_else(|| refused(format!("in blocks (`{key}` is {value}, expected two sizes)")))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: Value) -> Result<Option<Fp8>> {
        of_config(config.as_object().unwrap())
    }

    #[test]
    fn floats_of_8_bits_are_read_wherever_they_are_declared() {
        use serde_json::json;
        let block = json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 64]});
        assert_eq!(read(json!({"quantization_config": block})).unwrap(), Some(Fp8 { block: Some([128, 64]) }));
        assert_eq!(read(json!({"text_config": {"quantization_config": block}})).unwrap(), Some(Fp8 { block: Some([128, 64]) }));
        let whole = json!({"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": null});
        assert_eq!(read(json!({"quantization_config": whole})).unwrap(), Some(Fp8 { block: None }));
        let weights = |changes: Value| {
            let mut weights = json!({"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true});
            weights.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            json!({"compression_config": {"quant_method": "compressed-tensors", "format": "float-quantized",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}})
        };
        assert_eq!(read(weights(json!({}))).unwrap(), Some(Fp8 { block: None }));
        assert_eq!(read(weights(json!({"block_structure": [128, 128]}))).unwrap(), Some(Fp8 { block: Some([128, 128]) }));
        for changes in [json!({"type": "int"}), json!({"num_bits": 4}), json!({"symmetric": false})] {
            assert!(read(weights(changes)).unwrap_err().to_string().contains("compressed-tensors"));
        }
        for none in [json!({}), json!({"quantization_config": null}), json!({"quantization_config": {}})] {
            assert_eq!(read(none).unwrap(), None);
        }
    }

    #[test]
    fn other_methods_are_refused_by_name() {
        use serde_json::json;
        for (settings, name) in [
            (json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}), "bitsandbytes (4 bits, nf4)"),
            (json!({"load_in_8bit": true}), "bitsandbytes"),
            (json!({"quant_method": "awq", "bits": 4}), "awq, 4 bits"),
            (json!({"quant_method": "gptq", "bits": 8}), "gptq, 8 bits"),
            (json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}), "compressed-tensors (pack-quantized)"),
            (json!({"quant_method": "compressed-tensors", "format": "int-quantized"}), "compressed-tensors (int-quantized)"),
            (json!({"quant_method": "compressed-tensors", "format": "mixed-precision"}), "compressed-tensors (mixed-precision)"),
            (json!({"quant_method": "fp8", "fmt": "e5m2"}), "fp8 (e5m2)"),
            (json!({"quant_method": "fp8", "weight_block_size": [0, 128]}), "weight_block_size"),
            (json!({"quant_method": "mxfp4"}), "mxfp4"),
            (json!({"quant_method": "a_new_one"}), "a_new_one"),
            (json!({"group_size": 64, "bits": 4}), "MLX, 4 bits"),
            (json!({"something": 1}), "does not name"),
            (json!("int8"), "int8"),
        ] {
            let error = read(json!({"quantization_config": settings})).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("model.dequantize()"), "{settings}: {error}");
        }
        let error = read(json!({"quantization": {"group_size": 64, "bits": 8, "mode": "affine"}})).unwrap_err().to_string();
        assert!(error.contains("MLX, 8 bits"), "{error}");
    }

    #[test]
    fn quantised_tensors_are_recognised_without_a_declaration() {
        let fp8 = Some(Fp8 { block: None });
        for (name, dtype) in [
            ("model.layers.0.mlp.up_proj.weight", Dtype::F8_E4M3),
            ("model.layers.0.mlp.up_proj.weight", Dtype::U8),
            ("model.layers.0.mlp.up_proj.weight", Dtype::I8),
            ("model.layers.0.mlp.up_proj.weight", Dtype::U32),
            ("model.layers.0.mlp.up_proj.qweight", Dtype::I32),
            ("model.layers.0.mlp.up_proj.weight.absmax", Dtype::F32),
            ("model.layers.0.mlp.up_proj.weight_scale", Dtype::F32),
            ("model.layers.0.mlp.up_proj.scales", Dtype::BF16),
            ("model.layers.0.mlp.experts.gate_up_proj_blocks", Dtype::U8),
        ] {
            assert!(check_tensor(name, dtype, None).is_err(), "{name}");
            let read = dtype == Dtype::F8_E4M3 || name.ends_with("weight_scale");
            assert_eq!(check_tensor(name, dtype, fp8).is_ok(), read, "{name}");
        }
        assert!(check_tensor("model.layers.0.mlp.up_proj.weight", Dtype::F8_E5M2, fp8).is_err());
        for (name, dtype) in [
            ("model.layers.0.mlp.up_proj.weight", Dtype::BF16),
            ("vision_model.embeddings.position_ids", Dtype::I64),
            ("model.layers.0.self_attn.mask", Dtype::BOOL),
        ] {
            assert!(check_tensor(name, dtype, None).is_ok(), "{name}");
        }
    }
}
