//! Image processors neither panic nor request huge amounts of memory, whatever the settings and images.

use image::RgbImage;
use sgm_models::{Error, ImageBackend, ImageProcessor};

const SMALL: [&str; 12] = [
    r#"{"image_processor_type": "CLIPImageProcessor", "size": 28, "crop_size": 28}"#,
    r#"{"image_processor_type": "LlavaImageProcessor", "size": 28, "crop_size": 28, "do_pad": true}"#,
    r#"{"image_processor_type": "SiglipImageProcessor", "size": {"height": 28, "width": 28}, "do_pad": true}"#,
    r#"{"image_processor_type": "BlipImageProcessor", "size": [30, 20], "resample": 1}"#,
    r#"{"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 28, "width": 28}}"#,
    r#"{"image_processor_type": "LlavaNextImageProcessor", "size": 14, "crop_size": 14,
        "image_grid_pinpoints": [[14, 28], [28, 14], [42, 42]]}"#,
    r#"{"image_processor_type": "LlavaOnevisionImageProcessor", "size": {"height": 14, "width": 14},
        "image_grid_pinpoints": [[14, 28], [28, 14], [42, 42]]}"#,
    r#"{"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 14, "width": 14}, "crop_to_patches": true}"#,
    r#"{"image_processor_type": "MllamaImageProcessor", "size": {"height": 14, "width": 14}, "max_image_tiles": 6}"#,
    r#"{"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 784, "max_pixels": 3136}"#,
    r#"{"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 16}}"#,
    r#"{"image_processor_type": "SmolVLMImageProcessor", "do_resize": false, "max_image_size": {"longest_edge": 16}}"#,
];

#[test]
fn degenerate_images_are_processed_or_refused() {
    let sizes = [(1, 1), (1, 2), (2, 1), (1, 200), (200, 1), (1, 5000), (5000, 1), (13, 14), (28, 28), (29, 27), (3, 600)];
    let mut processed = 0;
    for json in SMALL {
        for backend in [ImageBackend::Torchvision, ImageBackend::Pillow] {
            let processor = ImageProcessor::from_json(json.as_bytes()).unwrap().with_backend(backend);
            for (width, height) in sizes {
                let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x, y, x ^ y].map(|n| (n % 256).try_into().unwrap())));
                match processor.process(&[vec![&image, &image], vec![], vec![&image]]) {
                    Ok(out) => {
                        let pixels = out.tensors["pixel_values"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
                        assert!(!pixels.is_empty() && pixels.iter().all(|v| v.abs() < 4.0), "{json} {width}x{height}");
                        assert_eq!(out.images.len(), 3);
                        processed += 1;
                    }
                    Err(Error::Inputs { .. }) => {}
                    Err(other) => panic!("{json} {width}x{height}: {other}"),
                }
            }
        }
    }
    // CLIP refuses 1x5000 (its short edge would be 28, the long one 140,000), Qwen-VL ratios above 200.
    assert!(processed >= SMALL.len() * 2 * sizes.len() - 16, "{processed}");
}

#[test]
fn empty_images_are_an_error() {
    for json in SMALL {
        let processor = ImageProcessor::from_json(json.as_bytes()).unwrap();
        for image in [RgbImage::new(0, 0), RgbImage::new(0, 5), RgbImage::new(5, 0)] {
            assert!(matches!(processor.process(&[vec![&image]]), Err(Error::Inputs { .. })), "{json}");
        }
        assert!(matches!(processor.process(&[]), Err(Error::Inputs { .. })), "{json}");
        assert!(matches!(processor.process(&[vec![], vec![]]), Err(Error::Inputs { .. })), "{json}");
    }
}

#[test]
fn images_that_do_not_fit_one_tensor_are_an_error() {
    let (wide, tall) = (RgbImage::new(40, 20), RgbImage::new(20, 40));
    for json in [
        r#"{"size": 28, "do_center_crop": false}"#,
        r#"{"size": 28, "do_center_crop": false, "do_pad": true, "pad_size": 30}"#,
        r#"{"image_processor_type": "LlavaNextImageProcessor", "do_pad": false, "size": 14, "crop_size": 14,
            "image_grid_pinpoints": [[14, 28], [28, 28]]}"#,
        r#"{"image_processor_type": "Qwen2VLImageProcessor", "do_resize": false}"#,
        r#"{"image_processor_type": "PixtralImageProcessor", "do_pad": false}"#,
        r#"{"image_processor_type": "SmolVLMImageProcessor", "do_pad": false, "size": {"longest_edge": 48},
            "max_image_size": {"longest_edge": 16}}"#,
    ] {
        let processor = ImageProcessor::from_json(json.as_bytes()).unwrap();
        let square = RgbImage::new(41, 41);
        let result = processor.process(&[vec![&wide, &tall], vec![&square]]);
        assert!(matches!(result, Err(Error::Inputs { .. })), "{json}");
    }
}

#[test]
fn settings_out_of_range_are_typed_errors() {
    for (json, key) in [
        (r#"{"size": "large"}"#, "size"),
        (r#"{"size": {"height": 48}}"#, "size"),
        (r#"{"size": {"longest_edge": 48}}"#, "size"),
        (r#"{"size": {"height": 48, "width": 48, "shortest_edge": 48}}"#, "size"),
        (r#"{"size": {"shortest_edge": 0}}"#, "size.shortest_edge"),
        (r#"{"size": [1, 2, 3]}"#, "size"),
        (r#"{"size": 4294967295}"#, "size"),
        (r#"{"crop_size": [16384, 16384]}"#, "crop_size"),
        (r#"{"crop_size": {"shortest_edge": 14}}"#, "crop_size"),
        (r#"{"image_std": [0, 1, 1]}"#, "image_std"),
        (r#"{"image_std": [1e-60, 1, 1]}"#, "image_std"),
        (r#"{"image_mean": [0.5]}"#, "image_mean"),
        (r#"{"resample": 9}"#, "resample"),
        (r#"{"rescale_factor": 0}"#, "rescale_factor"),
        (r#"{"rescale_factor": 1e-200}"#, "rescale_factor"),
        (r#"{"do_resize": "yes"}"#, "do_resize"),
        (r#"{"image_processor_type": "SiglipImageProcessor", "do_center_crop": true}"#, "crop_size"),
        (r#"{"image_processor_type": "LlavaImageProcessor", "do_pad": true, "image_mean": [2, 0, 0]}"#, "image_mean"),
        (r#"{"image_processor_type": "Gemma3ImageProcessor", "do_pan_and_scan": true}"#, "do_pan_and_scan"),
        (r#"{"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": []}"#, "image_grid_pinpoints"),
        (r#"{"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": [[336]]}"#, "image_grid_pinpoints"),
        (r#"{"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": "(1x1),...,(6x6)"}"#, "image_grid_pinpoints"),
        (r#"{"image_processor_type": "LlavaNextImageProcessor", "crop_size": 1}"#, "image_grid_pinpoints"),
        (r#"{"image_processor_type": "LlavaNextImageProcessor", "size": {"longest_edge": 9}}"#, "size"),
        (r#"{"image_processor_type": "LlavaOnevisionImageProcessor", "image_mean": [-0.5, 0, 0]}"#, "image_mean"),
        (r#"{"image_processor_type": "LlavaOnevisionImageProcessor", "do_center_crop": true}"#, "crop_size"),
        (r#"{"image_processor_type": "GotOcr2ImageProcessor", "size": {"shortest_edge": 9}}"#, "size"),
        (r#"{"image_processor_type": "GotOcr2ImageProcessor", "max_patches": 0}"#, "max_patches"),
        (r#"{"image_processor_type": "GotOcr2ImageProcessor", "max_patches": 1000000}"#, "max_patches"),
        (r#"{"image_processor_type": "MllamaImageProcessor", "size": {"height": 9, "width": 10}}"#, "size"),
        (r#"{"image_processor_type": "MllamaImageProcessor", "do_pad": false}"#, "do_pad"),
        (r#"{"image_processor_type": "MllamaImageProcessor", "max_image_tiles": 0}"#, "max_image_tiles"),
        (r#"{"image_processor_type": "MllamaImageProcessor", "max_image_tiles": 1000000000}"#, "max_image_tiles"),
        (r#"{"image_processor_type": "Qwen2VLImageProcessor", "size": {"shortest_edge": 3136}}"#, "size"),
        (r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 0}"#, "patch_size"),
        (r#"{"image_processor_type": "Qwen2VLImageProcessor", "merge_size": 10000}"#, "merge_size"),
        (r#"{"image_processor_type": "Qwen2VLImageProcessor", "temporal_patch_size": 2000000000}"#, "temporal_patch_size"),
        (r#"{"image_processor_type": "PixtralImageProcessor", "size": {"shortest_edge": 9}}"#, "size"),
        (r#"{"image_processor_type": "PixtralImageProcessor", "patch_size": {"height": 16, "width": 0}}"#, "patch_size.width"),
        (r#"{"image_processor_type": "PixtralImageProcessor", "do_center_crop": true}"#, "do_center_crop"),
        (r#"{"image_processor_type": "Idefics3ImageProcessor", "size": {"shortest_edge": 9}}"#, "size"),
        (r#"{"image_processor_type": "Idefics3ImageProcessor", "max_image_size": {}}"#, "max_image_size"),
        (r#"{"image_processor_type": "Idefics3ImageProcessor", "max_image_size": {"longest_edge": -1}}"#, "max_image_size.longest_edge"),
        ("[]", "(file)"),
    ] {
        match ImageProcessor::from_json(json.as_bytes()) {
            Err(Error::Config { key: named, .. }) => assert_eq!(named, key, "{json}"),
            other => panic!("{json}: {other:?}"),
        }
    }
    let error = ImageProcessor::from_json(br#"{"image_processor_type": "FuyuImageProcessor"}"#).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
    assert!(error.to_string().contains("Qwen2VLImageProcessor"), "{error}");
}

#[test]
fn results_that_would_be_huge_are_refused() {
    let image = RgbImage::new(1, 16_000);
    for json in [
        r#"{"size": {"shortest_edge": 56}, "crop_size": 56}"#,
        r#"{"size": [16384, 16384]}"#,
        r#"{"image_processor_type": "LlavaImageProcessor", "do_pad": true}"#,
        r#"{"image_processor_type": "LlavaNextImageProcessor", "crop_size": 1000, "image_grid_pinpoints": [[16000, 16000]]}"#,
        r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#,
        r#"{"image_processor_type": "Idefics3ImageProcessor", "do_resize": false, "max_image_size": {"longest_edge": 1}}"#,
    ] {
        let processor = ImageProcessor::from_json(json.as_bytes()).unwrap();
        assert!(matches!(processor.process(&[vec![&image]]), Err(Error::Inputs { .. })), "{json}");
    }
    let frames = br#"{"image_processor_type": "Qwen2VLImageProcessor", "temporal_patch_size": 16000, "min_pixels": 1000000}"#;
    let result = ImageProcessor::from_json(frames).unwrap().process(&[vec![&RgbImage::new(100, 100)]]);
    assert!(matches!(result, Err(Error::Inputs { .. })));
}
