//! The forward pass of Llama and Qwen2.
//!
//! The tokens of all sequences of a batch stand one after the other in one matrix, without padding. Projections run over
//! that matrix; attention runs for each sequence over its own cache. So a sequence's result does not depend on what else
//! is in the batch, up to the rounding of matrix products of another height.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::rope_thd;
use candle_nn::{Module, RmsNorm};
use llem_model::Geometry;

use crate::error::DriverError;
use crate::weights::Weights;

/// A model in memory.
pub(crate) struct Model {
    geometry: Geometry,
    dtype: DType,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Tensor,
    cos: Tensor,
    sin: Tensor,
}

/// Keys and values of one sequence.
pub(crate) struct Cache {
    /// For each layer keys as `[kv_heads, head_dim, capacity]` and values as `[kv_heads, capacity, head_dim]`: the
    /// orders in which candle multiplies a few queries with them fastest.
    layers: Vec<(Tensor, Tensor)>,
    length: usize,
}

/// New tokens of one sequence: its prompt, or the token generated last.
pub(crate) struct Step<'a> {
    /// The tokens; at least one.
    pub(crate) ids: &'a [u32],
    /// The sequence so far.
    pub(crate) cache: &'a mut Cache,
}

struct Layer {
    input_norm: RmsNorm,
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    feed_forward_norm: RmsNorm,
    gate: Projection,
    up: Projection,
    down: Projection,
}

/// A linear layer. The weight is kept as `[input, output]`: with the few rows of a decoding batch candle's product is
/// then faster than over the `[output, input]` of the checkpoint.
struct Projection {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// What the attention of every layer shares in one pass.
struct Pass {
    cos: Tensor,
    sin: Tensor,
    /// Causal masks of the sequences that have more than one new token.
    masks: Vec<Option<Tensor>>,
}

impl Model {
    /// Assembles a model that can hold sequences of up to `positions` tokens.
    pub(crate) fn new(
        geometry: Geometry,
        mut weights: Weights,
        dtype: DType,
        positions: usize,
    ) -> std::result::Result<Self, DriverError> {
        let embedding = weights.take("model.embed_tokens.weight")?;
        let layers = (0..geometry.layers)
            .map(|layer| Layer::new(&geometry, &mut weights, &format!("model.layers.{layer}")))
            .collect::<std::result::Result<_, _>>()?;
        let norm = RmsNorm::new(weights.take("model.norm.weight")?, geometry.rms_norm_eps);
        let head = if geometry.tie_word_embeddings { embedding.clone() } else { weights.take("lm_head.weight")? };
        let (cos, sin) = rotary_tables(&geometry, positions, dtype)?;
        Ok(Self { geometry, dtype, embedding, layers, norm, head, cos, sin })
    }

    /// An empty cache for a sequence of at most `capacity` tokens.
    pub(crate) fn cache(&self, capacity: usize) -> Result<Cache> {
        let Geometry { kv_heads, head_dim, .. } = self.geometry;
        let zeros = |rows, columns| Tensor::zeros((kv_heads, rows, columns), self.dtype, &Device::Cpu);
        let layer = |_| Ok((zeros(head_dim, capacity)?, zeros(capacity, head_dim)?));
        let layers = (0..self.geometry.layers).map(layer).collect::<Result<_>>()?;
        Ok(Cache { layers, length: 0 })
    }

    /// Runs the new tokens of all sequences and returns the logits after the last token of each, in float32.
    pub(crate) fn forward(&self, steps: &mut [Step<'_>]) -> Result<Vec<Vec<f32>>> {
        let pass = self.pass(steps)?;
        let ids: Vec<u32> = steps.iter().flat_map(|step| step.ids).copied().collect();
        let mut states = self.embedding.index_select(&indices(ids)?, 0)?;
        for (layer, weights) in self.layers.iter().enumerate() {
            let attention = self.attention(layer, weights, &states, &pass, steps)?;
            states = (states + attention)?;
            states = (&states + weights.feed_forward(&states)?)?;
        }
        let mut end = 0;
        let last = steps.iter_mut().map(|step| {
            step.cache.length += step.ids.len();
            end += step.ids.len() as u32;
            end - 1
        });
        let last = states.index_select(&indices(last.collect())?, 0)?;
        // The table stays as it is, because it may be the embedding's; this order of the product suits that.
        let logits = self.head.matmul(&self.norm.forward(&last)?.t()?)?;
        logits.t()?.to_dtype(DType::F32)?.to_vec2()
    }

    fn pass(&self, steps: &[Step<'_>]) -> Result<Pass> {
        let positions = |step: &Step<'_>| (step.cache.length as u32..).take(step.ids.len());
        let positions = indices(steps.iter().flat_map(positions).collect())?;
        Ok(Pass {
            cos: self.cos.index_select(&positions, 0)?,
            sin: self.sin.index_select(&positions, 0)?,
            masks: steps.iter().map(|step| causal_mask(step.cache.length, step.ids.len())).collect::<Result<_>>()?,
        })
    }

    /// Attention of one layer over all sequences, before the residual sum.
    fn attention(
        &self,
        layer: usize,
        weights: &Layer,
        states: &Tensor,
        pass: &Pass,
        steps: &mut [Step<'_>],
    ) -> Result<Tensor> {
        let Geometry { heads, kv_heads, head_dim, .. } = self.geometry;
        let tokens = states.dim(0)?;
        let normed = weights.input_norm.forward(states)?;
        let split = |projection: &Projection, heads| projection.forward(&normed)?.reshape((1, tokens, heads, head_dim));
        let queries = rope_thd(&split(&weights.query, heads)?, &pass.cos, &pass.sin)?.squeeze(0)?;
        let keys = rope_thd(&split(&weights.key, kv_heads)?, &pass.cos, &pass.sin)?.squeeze(0)?;
        let values = split(&weights.value, kv_heads)?.squeeze(0)?;
        let scale = 1.0 / (head_dim as f64).sqrt();
        let queries = (queries * scale)?;
        let (mut begin, mut mixed) = (0, Vec::with_capacity(steps.len()));
        for (step, mask) in steps.iter_mut().zip(&pass.masks) {
            let count = step.ids.len();
            let rows = |tensor: &Tensor| tensor.narrow(0, begin, count);
            let (keys, values) = step.cache.append(layer, &rows(&keys)?, &rows(&values)?)?;
            mixed.push(attend(&rows(&queries)?, &keys, &values, mask.as_ref())?);
            begin += count;
        }
        weights.output.forward(&Tensor::cat(&mixed, 0)?)
    }
}

impl Layer {
    fn new(geometry: &Geometry, weights: &mut Weights, prefix: &str) -> std::result::Result<Self, DriverError> {
        let norm = |weights: &mut Weights, name: &str| {
            let weight = weights.take(&format!("{prefix}.{name}.weight"))?;
            Ok::<_, DriverError>(RmsNorm::new(weight, geometry.rms_norm_eps))
        };
        let linear = |weights: &mut Weights, name: &str| {
            let weight = weights.take(&format!("{prefix}.{name}.weight"))?.t()?.contiguous()?;
            Ok::<_, DriverError>(Projection { weight, bias: weights.take_optional(&format!("{prefix}.{name}.bias")) })
        };
        Ok(Self {
            input_norm: norm(weights, "input_layernorm")?,
            query: linear(weights, "self_attn.q_proj")?,
            key: linear(weights, "self_attn.k_proj")?,
            value: linear(weights, "self_attn.v_proj")?,
            output: linear(weights, "self_attn.o_proj")?,
            feed_forward_norm: norm(weights, "post_attention_layernorm")?,
            gate: linear(weights, "mlp.gate_proj")?,
            up: linear(weights, "mlp.up_proj")?,
            down: linear(weights, "mlp.down_proj")?,
        })
    }

    /// The gated feed-forward layer (SwiGLU), before the residual sum.
    fn feed_forward(&self, states: &Tensor) -> Result<Tensor> {
        let normed = self.feed_forward_norm.forward(states)?;
        let gated = (self.gate.forward(&normed)?.silu()? * self.up.forward(&normed)?)?;
        self.down.forward(&gated)
    }
}

impl Projection {
    fn forward(&self, states: &Tensor) -> Result<Tensor> {
        let product = states.matmul(&self.weight)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

impl Cache {
    /// Stores new keys and values of a layer and returns all of the sequence: `[kv_heads, head_dim, length]` and
    /// `[kv_heads, length, head_dim]`.
    fn append(&self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let Some((all_keys, all_values)) = self.layers.get(layer) else {
            candle_core::bail!("the cache has {} layers, layer {layer} was asked for", self.layers.len());
        };
        all_keys.slice_set(&keys.permute((1, 2, 0))?.contiguous()?, 2, self.length)?;
        all_values.slice_set(&values.transpose(0, 1)?.contiguous()?, 1, self.length)?;
        let length = self.length + keys.dim(0)?;
        Ok((all_keys.narrow(2, 0, length)?, all_values.narrow(1, 0, length)?))
    }
}

/// Attention of one sequence. The heads that share keys and values are rows of one product, so nothing is repeated.
fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let (count, heads, head_dim) = queries.dims3()?;
    let (kv_heads, length, _) = values.dims3()?;
    let group = heads / kv_heads;
    let queries = queries.reshape((count, kv_heads, group, head_dim))?.transpose(0, 1)?;
    let scores = queries.reshape((kv_heads, count * group, head_dim))?.matmul(keys)?;
    // Half precision is too coarse for the sum over a long context.
    let mut scores = scores.to_dtype(DType::F32)?;
    if let Some(mask) = mask {
        scores = scores.reshape((kv_heads, count, group, length))?.broadcast_add(mask)?;
        scores = scores.reshape((kv_heads, count * group, length))?;
    }
    let mixed = softmax_last_dim(&scores)?.to_dtype(values.dtype())?.matmul(values)?;
    mixed.reshape((kv_heads, count, group, head_dim))?.transpose(0, 1)?.reshape((count, heads * head_dim))
}

/// `[count, 1, past + count]`: minus infinity where a key is later than the query. One new token sees everything.
fn causal_mask(past: usize, count: usize) -> Result<Option<Tensor>> {
    if count == 1 {
        return Ok(None);
    }
    let length = past + count;
    let row = |query: usize| (0..length).map(move |key| if key <= past + query { 0.0 } else { f32::NEG_INFINITY });
    let mask: Vec<f32> = (0..count).flat_map(row).collect();
    Tensor::from_vec(mask, (count, 1, length), &Device::Cpu).map(Some)
}

/// Cosines and sines of every position and frequency, `[positions, head_dim / 2]`.
fn rotary_tables(geometry: &Geometry, positions: usize, dtype: DType) -> Result<(Tensor, Tensor)> {
    let frequencies: Vec<f32> = geometry.rotary_frequencies().into_iter().map(|frequency| frequency as f32).collect();
    let angles = |position: usize| frequencies.iter().map(move |frequency| position as f32 * frequency);
    let angles: Vec<f32> = (0..positions).flat_map(angles).collect();
    let angles = Tensor::from_vec(angles, (positions, frequencies.len()), &Device::Cpu)?;
    Ok((angles.cos()?.to_dtype(dtype)?, angles.sin()?.to_dtype(dtype)?))
}

fn indices(values: Vec<u32>) -> Result<Tensor> {
    let count = values.len();
    Tensor::from_vec(values, count, &Device::Cpu)
}
