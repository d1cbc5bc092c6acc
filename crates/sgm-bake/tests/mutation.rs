//! Ten million damaged files, for the header walkers; too long for every day:
//!
//!     cargo test --release -p sgm-bake --test mutation -- --ignored --nocapture
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "test code")]

mod made;

use std::path::Path;
use std::time::Instant;

use made::{Gguf, floats, read_and_bake, safetensors, string};
use sgm_bake::SiteTensors;

const EXECUTIONS: u64 = 10_000_000;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).unwrap()
    }
}

const NUMBERS: [u64; 12] = [0, 1, 2, 3, 7, 31, 255, 65_536, u32::MAX as u64, 1 << 32, 1 << 63, u64::MAX];

/// One to four changes: a bit, a byte, a number, some bytes doubled or gone, the end cut off.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next().to_le_bytes()[0],
            2 | 3 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let size = [4, 8][random.below(2)];
                bytes.iter_mut().skip(at).zip(&number[..size]).for_each(|(byte, new)| *byte = *new);
            }
            4 => {
                let end = (at + random.below(16)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            // Digits of a JSON header.
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = b"0123456789[]{}\",:"[random.below(17)]),
        }
    }
}

fn run(seeds: &[Vec<u8>], read: impl Fn(&[u8]) -> sgm_bake::Result<SiteTensors>) {
    let (start, mut random, mut accepted) = (Instant::now(), Random(0x5367_6d42_616b_6531), 0u64);
    for i in 0..EXECUTIONS {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        damage(&mut bytes, &mut random);
        let result = read(&bytes);
        accepted += u64::from(result.is_ok());
        // Baking is slower than reading.
        if i % 8 == 0 {
            read_and_bake(result, &bytes);
        }
    }
    println!("{EXECUTIONS} files, {accepted} of them read, {:.0?}", start.elapsed());
    assert!(accepted > 0 && accepted < EXECUTIONS);
}

#[test]
#[ignore = "takes minutes"]
fn gguf_headers() {
    let list = [8u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), string("x"), string("")].concat();
    let seeds = [
        Gguf::new("llama").counting("blk.0.ffn_up.weight", &[2, 3]).counting("blk.0.ffn_up.bias", &[3]),
        Gguf::new("phi3").with("general.alignment", 4, 32u32.to_le_bytes().to_vec()).counting("blk.0.ffn_up.weight", &[1, 4]),
        Gguf::new("x").with("list", 9, list).tensor("blk.0.ffn_down_exps.weight", &[32, 1, 2], 2, vec![3; 36]),
    ];
    let seeds = seeds.map(|seed| seed.bytes());
    run(&seeds, |bytes| SiteTensors::read_gguf(Path::new("test"), bytes, bytes.len() as u64));
}

#[test]
#[ignore = "takes minutes"]
fn safetensors_headers() {
    let weight = r#"{"model.layers.0.mlp.up_proj.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#;
    let bias = r#"{"__metadata__":{"a":"b"},"model.layers.0.mlp.gate_up_proj.bias":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}"#;
    let seeds = [weight, bias].map(|header| safetensors(header, &floats([1.0, 2.0])));
    run(&seeds, |bytes| SiteTensors::read_safetensors(Path::new("test"), bytes, bytes.len() as u64));
}
