use serde_json::{Map, Value, json};

/// Token that begins a sequence.
pub(super) const BOS: &str = "<s>";
/// Token that ends a sequence.
pub(super) const EOS: &str = "</s>";
/// Token that fills a batch. The name is that which transformers' tokenizer of Qwen2 adds when it is missing.
pub(super) const PAD: &str = "<|endoftext|>";
/// Id of [`BOS`].
pub(super) const BOS_ID: u32 = 0;
/// Id of [`EOS`].
pub(super) const EOS_ID: u32 = 1;
/// Id of [`PAD`].
pub(super) const PAD_ID: u32 = 2;
/// Three special tokens and the 256 bytes.
pub(super) const MIN_VOCAB: u32 = 3 + 256;

/// Letters in the order in which they get merges.
const LETTERS: &str = "etaoinsrhldcumfpgwybvkxjqz";
/// The symbol of the space in byte-level vocabularies.
const SPACE: char = 'Ġ';

/// A byte-level BPE vocabulary of exactly `vocab` tokens in the format of the `tokenizers` library: special tokens,
/// bytes, merged pairs of letters as far as there is room, and fillers that no text leads to.
pub(super) fn tokenizer_json(vocab: u32) -> Value {
    let mut tokens: Vec<String> = [BOS, EOS, PAD].map(str::to_owned).to_vec();
    tokens.extend((0..=u8::MAX).map(|byte| byte_symbol(byte).to_string()));
    let room = (vocab as usize).saturating_sub(tokens.len());
    let merges: Vec<(char, char)> = letter_pairs().take(room).collect();
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    tokens.extend((tokens.len()..vocab as usize).map(|id| format!("<unused_{id}>")));
    let vocabulary: Map<String, Value> =
        tokens.into_iter().zip(0_u32..).map(|(token, id)| (token, id.into())).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(BOS, BOS_ID), special(EOS, EOS_ID), special(PAD, PAD_ID)],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges.iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>(),
        },
    })
}

/// The file that tells transformers how to wrap the tokenizer.
pub(super) fn tokenizer_config_json(max_positions: u32) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "add_bos_token": false,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": max_positions,
    })
}

fn special(content: &str, id: u32) -> Value {
    json!({
        "id": id, "content": content, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

/// Space and letter first, so that words keep their beginning, then two letters.
fn letter_pairs() -> impl Iterator<Item = (char, char)> {
    let beginnings = LETTERS.chars().map(|letter| (SPACE, letter));
    beginnings.chain(LETTERS.chars().flat_map(|left| LETTERS.chars().map(move |right| (left, right))))
}

/// The printable character that stands for a byte: itself where it is printable Latin-1, else one from U+0100 on in the
/// order of the bytes. This is the byte-level alphabet that GPT-2 introduced.
fn byte_symbol(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_printable(byte) {
        return char::from(byte);
    }
    let unprintable_before = (0..byte).filter(|byte| !is_printable(*byte)).count() as u32;
    char::from_u32(0x100 + unprintable_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_has_its_usual_symbol_and_no_two_bytes_share_one() {
        assert_eq!(byte_symbol(b' '), SPACE);
        let symbols: std::collections::HashSet<char> = (0..=u8::MAX).map(byte_symbol).collect();
        assert_eq!(symbols.len(), 256);
    }
}
