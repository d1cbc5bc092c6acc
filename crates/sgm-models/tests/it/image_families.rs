//! Image processors of all families are bit-equal to those of transformers, in both backends.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde_json::Value;
use sgm_models::{ImageBackend, ImageProcessor, load_image};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

fn little_endian(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F32 => flat.to_vec1::<f32>().unwrap().into_iter().flat_map(f32::to_le_bytes).collect(),
        DType::I64 => flat.to_vec1::<i64>().unwrap().into_iter().flat_map(i64::to_le_bytes).collect(),
        other => panic!("{other:?}"),
    }
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap().try_into().unwrap()).collect()
}

#[test]
fn tensors_and_grids_are_those_of_transformers() {
    let cases: Value = serde_json::from_slice(&std::fs::read(directory().join("families.json")).unwrap()).unwrap();
    let stored: HashMap<String, Tensor> = candle_core::safetensors::load(directory().join("families.safetensors"), &Device::Cpu).unwrap();
    let mut images: HashMap<String, RgbImage> = HashMap::new();
    for name in ["rgb_wide", "rgb_tall", "tiny", "line", "dot"] {
        images.insert(name.to_owned(), load_image(directory().join(format!("{name}.png"))).unwrap());
    }
    let mut compared = 0;
    for (name, case) in cases.as_object().unwrap() {
        let rows = case["rows"].as_array().unwrap().iter().map(|row| row.as_array().unwrap());
        let rows: Vec<Vec<&RgbImage>> = rows.map(|row| row.iter().map(|image| &images[image.as_str().unwrap()]).collect()).collect();
        let processor = ImageProcessor::from_json(case["config"].to_string().as_bytes()).unwrap();
        assert_eq!(processor.backend(), ImageBackend::Torchvision);
        for (key, backend) in [("torchvision", ImageBackend::Torchvision), ("pillow", ImageBackend::Pillow)] {
            let expected = &case["results"][key];
            let processed = processor.clone().with_backend(backend).process(&rows).unwrap();
            if let Some(pixels) = stored.get(&format!("{name}.{key}")) {
                let ours = processed.tensors["pixel_values"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let theirs = pixels.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let differing = ours.iter().zip(&theirs).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!((ours.len(), differing), (theirs.len(), 0), "{name} {key}");
            }
            let tensors = expected["tensors"].as_object().unwrap();
            assert!(processed.tensors.keys().filter(|k| *k != "num_tiles").all(|k| tensors.contains_key(k)), "{name} {key}");
            for (tensor, expected) in tensors {
                let ours = &processed.tensors[tensor];
                let dtype = if expected["dtype"] == "float32" { DType::F32 } else { DType::I64 };
                assert_eq!((ours.dtype(), ours.dims().to_vec()), (dtype, numbers(&expected["shape"])), "{name} {key} {tensor}");
                let hash = sgm_core::sha256::hex_digest(little_endian(ours));
                assert_eq!(hash, expected["sha256"].as_str().unwrap(), "{name} {key} {tensor}");
                compared += 1;
            }
            let grids: Vec<Vec<usize>> = expected["grid"].as_array().unwrap().iter().map(numbers).collect();
            let ours: Vec<Vec<usize>> = processed.images.iter().map(|i| vec![i.rows, i.cols]).collect();
            assert_eq!(ours, grids, "{name} {key}");
            let sizes: Vec<(u32, u32)> = processed.images.iter().map(|i| (i.width, i.height)).collect();
            assert_eq!(sizes, rows.iter().flatten().map(|i| i.dimensions()).collect::<Vec<_>>(), "{name} {key}");
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn the_backend_follows_the_type_unless_set() {
    let backend = |kind: &str| {
        let json = format!(r#"{{"image_processor_type": "{kind}"}}"#);
        ImageProcessor::from_json(json.as_bytes()).unwrap().backend()
    };
    for kind in ["CLIPImageProcessor", "SmolVLMImageProcessorFast", "Qwen2VLImageProcessorFast", "MllamaImageProcessor"] {
        assert_eq!(backend(kind), ImageBackend::Torchvision, "{kind}");
    }
    for kind in ["BlipImageProcessorPil", "Idefics3ImageProcessorPil", "LlavaNextImageProcessorPil"] {
        assert_eq!(backend(kind), ImageBackend::Pillow, "{kind}");
    }
}
