use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::geometry::{Geometry, TensorShape};

/// Values that are made and written at a time.
const CHUNK_VALUES: usize = 1 << 18;
/// Chunks of one maker that may wait for the disk.
const CHUNKS_AHEAD: usize = 4;
/// Bytes of one bfloat16 value.
const VALUE_BYTES: u64 = 2;

/// Writes a safetensors file with the tensors of a geometry. Values are made on all processors and written in order; only a few
/// chunks are in memory at a time. The bytes depend on geometry and seed alone.
pub(super) fn write_safetensors(geometry: &Geometry, seed: u64, out: &mut impl Write) -> io::Result<()> {
    let tensors = geometry.tensors();
    let header = header(&tensors)?;
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let chunks: Vec<Chunk<'_>> = tensors.iter().flat_map(Chunk::all_of).collect();
    let makers = thread::available_parallelism().map_or(1, NonZero::get).min(chunks.len().max(1));
    thread::scope(|scope| {
        let made: Vec<Receiver<Vec<u8>>> = (0..makers)
            .map(|maker| {
                let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
                let own = chunks.iter().skip(maker).step_by(makers);
                scope.spawn(move || {
                    // A receiver that is gone means that writing failed; the error is the writer's.
                    let _ = own.map(|chunk| chunk.make(geometry, seed)).try_for_each(|bytes| sender.send(bytes));
                });
                receiver
            })
            .collect();
        let mut in_order = made.iter().cycle().take(chunks.len());
        in_order.try_for_each(|maker| out.write_all(&maker.recv().map_err(io::Error::other)?))
    })
}

/// The JSON header, padded with spaces to a multiple of 8 as the format advises.
fn header(tensors: &[TensorShape]) -> io::Result<Vec<u8>> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + elements(tensor) * VALUE_BYTES;
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]});
        entries.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let mut bytes = Vec::new();
    serde_json_canonicalizer::to_writer(&Value::Object(entries), &mut bytes)?;
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

/// Consecutive values of one tensor.
struct Chunk<'a> {
    tensor: &'a TensorShape,
    first: u64,
    count: usize,
}

impl<'a> Chunk<'a> {
    fn all_of(tensor: &'a TensorShape) -> impl Iterator<Item = Self> {
        let total = elements(tensor);
        let firsts = (0..total).step_by(CHUNK_VALUES);
        firsts.map(move |first| Self { tensor, first, count: (total - first).min(CHUNK_VALUES as u64) as usize })
    }

    fn make(&self, geometry: &Geometry, seed: u64) -> Vec<u8> {
        let name = &self.tensor.name;
        Values::starting_at(self.first, seed, name, distribution(geometry, name)).take(self.count)
    }
}

/// Words of 32 bits that the generator gives for one value.
const WORDS_PER_VALUE: u128 = 2;

/// What a tensor is filled with.
#[derive(Clone, Copy)]
enum Distribution {
    One,
    Normal { deviation: f64 },
}

/// Deviations under which random layers neither fade nor explode and the next token depends on the whole context:
/// small embeddings, so that the model does not echo its last token; wide queries, keys and attention output, so that
/// attention picks single positions and counts.
fn distribution(geometry: &Geometry, name: &str) -> Distribution {
    let per_root = |gain: f64, fan_in: usize| Distribution::Normal { deviation: gain / (fan_in as f64).sqrt() };
    let part = name.trim_end_matches(".weight").rsplit('.').next().unwrap_or(name);
    match part {
        "input_layernorm" | "post_attention_layernorm" | "norm" => Distribution::One,
        "bias" => Distribution::Normal { deviation: 0.2 },
        "q_proj" | "k_proj" | "gate_proj" | "up_proj" => per_root(1.5, geometry.hidden),
        "o_proj" => per_root(2.0, geometry.query_width()),
        "down_proj" => per_root(1.0, geometry.intermediate),
        "lm_head" => per_root(3.0, geometry.hidden),
        _ => per_root(1.0, geometry.hidden),
    }
}

/// The stream of values of one tensor, seeded by model seed and tensor name.
struct Values {
    random: ChaCha8Rng,
    distribution: Distribution,
}

impl Values {
    /// The stream from its value number `first` on.
    fn starting_at(first: u64, seed: u64, name: &str, distribution: Distribution) -> Self {
        let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
        let mut random = ChaCha8Rng::from_seed(digest.into());
        random.set_word_pos(u128::from(first) * WORDS_PER_VALUE);
        Self { random, distribution }
    }

    /// The next values in little-endian bfloat16. Normal values are sums of four uniform 16-bit integers (Irwin-Hall):
    /// all is integer arithmetic up to one multiplication, so that every machine makes the same bytes, which a
    /// logarithm of the C library would not grant.
    fn take(&mut self, count: usize) -> Vec<u8> {
        match self.distribution {
            Distribution::One => bf16::ONE.to_le_bytes().repeat(count),
            Distribution::Normal { deviation } => {
                let scale = (deviation / SUM_DEVIATION) as f32;
                let mut uniform = vec![0; count * 8];
                self.random.fill_bytes(&mut uniform);
                uniform
                    .chunks_exact(8)
                    .flat_map(|eight| bf16::from_f32(centred_sum(eight) * scale).to_le_bytes())
                    .collect()
            }
        }
    }
}

/// Standard deviation of the sum of four uniform integers of 0 to 65535: `sqrt(4 (2^32 - 1) / 12)`.
const SUM_DEVIATION: f64 = 37_837.227_231_6;

/// The sum of four 16-bit integers less its mean.
fn centred_sum(eight: &[u8]) -> f32 {
    let sum: i32 = eight.chunks_exact(2).map(|pair| i32::from(u16::from_le_bytes([pair[0], pair[1]]))).sum();
    (sum - 2 * 65_535) as f32
}

fn elements(tensor: &TensorShape) -> u64 {
    tensor.shape.iter().map(|dimension| *dimension as u64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(bytes: &[u8]) -> Vec<f64> {
        bytes.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f64()).collect()
    }

    #[test]
    fn values_have_the_asked_deviation_and_no_mean() {
        let mut values = Values::starting_at(0, 7, "x", Distribution::Normal { deviation: 0.5 });
        let sample = floats(&values.take(100_000));
        let mean = sample.iter().sum::<f64>() / sample.len() as f64;
        let variance = sample.iter().map(|value| value * value).sum::<f64>() / sample.len() as f64;
        assert!(mean.abs() < 0.006, "{mean}");
        assert!((variance.sqrt() - 0.5).abs() < 0.005, "{}", variance.sqrt());
    }

    #[test]
    fn tensors_of_one_model_differ_and_chunks_do_not_matter() {
        let normal = Distribution::Normal { deviation: 1.0 };
        let whole = Values::starting_at(0, 7, "x", normal).take(1000);
        let mut parts = Values::starting_at(0, 7, "x", normal);
        assert_eq!(whole, [parts.take(300), parts.take(700)].concat());
        assert_eq!(whole[2 * 301..], Values::starting_at(301, 7, "x", normal).take(699));
        assert_ne!(whole, Values::starting_at(0, 7, "y", normal).take(1000));
        assert_ne!(whole, Values::starting_at(0, 8, "x", normal).take(1000));
    }
}
