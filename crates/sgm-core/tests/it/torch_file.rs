//! The reader of torch files: views as torch wrote them, and errors for damaged files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use sgm_core::Error;
use sgm_core::torch_file::{TorchTensor, read_torch_file};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

fn read(bytes: &[u8]) -> Result<BTreeMap<String, Result<TorchTensor, String>>, Error> {
    read_torch_file(Path::new("views.bin"), bytes)
}

fn half(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
    let magnitude = if exponent == 0 { mantissa * 2f64.powi(-14) } else { (1.0 + mantissa) * 2f64.powi(exponent - 15) };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[allow(clippy::cast_precision_loss, reason = "the values are exact")]
fn values(tensor: &TorchTensor, file: &[u8]) -> (&'static str, Vec<f64>) {
    let bytes = tensor.gather(file);
    let of = |width: usize, value: &dyn Fn(&[u8]) -> f64| bytes.chunks(width).map(value).collect();
    match tensor.dtype {
        Dtype::F64 => ("float64", of(8, &|b| f64::from_le_bytes(b.try_into().unwrap()))),
        Dtype::F32 => ("float32", of(4, &|b| f32::from_le_bytes(b.try_into().unwrap()).into())),
        Dtype::F16 => ("float16", of(2, &|b| half(u16::from_le_bytes(b.try_into().unwrap())))),
        Dtype::BF16 => ("bfloat16", of(2, &|b| f32::from_bits(u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16).into())),
        Dtype::I64 => ("int64", of(8, &|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)),
        Dtype::U8 => ("uint8", of(1, &|b| b[0].into())),
        Dtype::BOOL => ("bool", of(1, &|b| b[0].into())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn views_have_the_values_that_torch_gives_them() {
    let (file, golden): (_, serde_json::Value) = (golden("views.bin"), serde_json::from_slice(&golden("views.json")).unwrap());
    let tensors = read(&file).unwrap();
    let expected = golden.as_object().unwrap();
    assert!(tensors.keys().eq(expected.keys().collect::<std::collections::BTreeSet<_>>()) && tensors.len() == 16);
    for (name, tensor) in tensors {
        let tensor = tensor.unwrap();
        let (dtype, values) = values(&tensor, &file);
        let expected = &expected[&name];
        assert_eq!(serde_json::json!({"dtype": dtype, "shape": tensor.shape, "values": values}), *expected, "{name}");
        let rows = ["whole", "shared", "row", "parameter", "f64", "i64", "u8", "flags", "number"];
        assert!(tensor.is_contiguous() == rows.contains(&name.as_str()) || name == "empty", "{name}");
    }
}

#[test]
fn damaged_files_are_refused_or_read_within_their_bounds() {
    let file = golden("views.bin");
    for cut in 0..file.len() {
        assert!(matches!(read(&file[..cut]), Err(Error::NotTorch { .. })), "{cut}");
    }
    // Every byte changed in turn.
    let mut read_on = 0;
    for at in 0..file.len() {
        for change in [0x01, 0x80, 0xFF] {
            let mut file = file.clone();
            file[at] ^= change;
            for tensor in read(&file).into_iter().flatten().filter_map(|(_, tensor)| tensor.ok()) {
                assert!(tensor.bytes.end <= file.len());
                let width = tensor.dtype.bitsize() / 8;
                assert_eq!(tensor.gather(&file).len(), tensor.shape.iter().product::<usize>() * width);
                read_on += 1;
            }
        }
    }
    assert!(read_on > 1000, "{read_on}");
    // The format before torch 1.6, and no torch file.
    for other in [&b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."[..], b"PK\x05\x06", b""] {
        let text = read(other).unwrap_err().to_string();
        assert!(text.contains("views.bin") && text.contains("torch.save"), "{text}");
    }
}

/// The archive with its places and sizes in 64 bits, as archives above 4 GiB have them.
#[test]
fn places_in_64_bits_are_read() {
    let file = golden("views.bin");
    let end = file.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let u16_at = |at: usize| usize::from(u16::from_le_bytes(file[at..at + 2].try_into().unwrap()));
    let (count, start) = (u16_at(end + 10), u32_at(end + 16) as usize);
    let (mut at, mut directory) = (start, Vec::new());
    for _ in 0..count {
        let (name, extra, comment) = (u16_at(at + 28), u16_at(at + 30), u16_at(at + 32));
        let mut header = file[at..at + 46].to_vec();
        let wide: Vec<u8> = [at + 24, at + 20, at + 42].iter().flat_map(|at| u64::from(u32_at(*at)).to_le_bytes()).collect();
        [20, 24, 42].iter().for_each(|at| header[*at..at + 4].fill(0xFF));
        header[30..32].copy_from_slice(&(28 + 4u16).to_le_bytes());
        header[32..34].fill(0);
        // An unknown field, then that of the sizes.
        directory.extend([&header[..], &file[at + 46..at + 46 + name], &[9, 9, 0, 0], &[1, 0, 24, 0], &wide].concat());
        at += 46 + name + extra + comment;
    }
    let record_at = (start + directory.len()) as u64;
    let mut record = [&b"PK\x06\x06"[..], &44u64.to_le_bytes(), &[0; 12]].concat();
    record.extend([count as u64, count as u64, directory.len() as u64, start as u64].iter().flat_map(|n| n.to_le_bytes()));
    let locator = [&b"PK\x06\x07"[..], &[0; 4], &record_at.to_le_bytes(), &[1, 0, 0, 0]].concat();
    let last = [&b"PK\x05\x06"[..], &[0; 4], &[0xFF; 12], &[0; 2]].concat();
    let wide = [&file[..start], &directory, &record, &locator, &last].concat();
    assert_eq!(read(&wide).unwrap(), read(&file).unwrap());
    assert!(read(&wide[..wide.len() - 1]).is_err());
}
