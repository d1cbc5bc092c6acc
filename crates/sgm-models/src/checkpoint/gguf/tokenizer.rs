//! The tokenizer that the metadata of a GGUF file describe.
//!
//! candle-core can build one too (`TokenizerFromGguf`), but only of the kind `gpt2`. It splits text as GPT-2 does for
//! every `tokenizer.ggml.pre` that it does not know, among them `llama-bpe` and `smollm`, and it does not add the
//! beginning-of-sequence token where a file leaves that to the default of its tokenizer kind.

use serde_json::{Value, json};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::checkpoint::gguf::header::Gguf;
use crate::error::{Error, Result};

/// The character for a space in SentencePiece vocabularies.
const SPACE: &str = "▁";

/// A pre-tokenizer, which splits text before the merges, by the names in `tokenizer.ggml.pre`.
struct PreTokenizer {
    names: &'static [&'static str],
    /// The regular expression for the split; `None` for that of GPT-2.
    pattern: Option<&'static str>,
    /// Whether every digit is split off.
    digits: bool,
    nfc: bool,
    /// Whether a piece that is a token is taken without merges.
    ignore_merges: bool,
    /// Whether sequences begin with the beginning-of-sequence token, unless the file says otherwise.
    bos: bool,
}

const LLAMA_3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const GPT_2: PreTokenizer =
    PreTokenizer { names: &["default", "gpt-2"], pattern: None, digits: false, nfc: false, ignore_merges: false, bos: false };
const PRE_TOKENIZERS: [PreTokenizer; 7] = [
    GPT_2,
    PreTokenizer { names: &["smollm"], digits: true, ..GPT_2 },
    PreTokenizer { names: &["qwen2", "deepseek-r1-qwen"], pattern: Some(QWEN_2), nfc: true, ..GPT_2 },
    PreTokenizer { names: &["llama-bpe", "llama3", "llama-v3"], pattern: Some(LLAMA_3), ignore_merges: true, bos: true, ..GPT_2 },
    // Phi-4 and Phi-4-mini.
    PreTokenizer { names: &["dbrx"], pattern: Some(LLAMA_3), ..GPT_2 },
    PreTokenizer { names: &["gpt-4o"], pattern: Some(GPT_4O), ..GPT_2 },
    // Mistral Nemo and later.
    PreTokenizer { names: &["tekken"], pattern: Some(TEKKEN), ignore_merges: true, bos: true, ..GPT_2 },
];
const PRE_TOKENIZER_NAMES: &[&str] =
    &["default", "gpt-2", "smollm", "qwen2", "deepseek-r1-qwen", "llama-bpe", "llama3", "llama-v3", "dbrx", "gpt-4o", "tekken"];

/// The special tokens of Phi-3 that, unlike its turn tokens, leave the white space behind them alone.
const PHI_3_PLAIN: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// The type of a token, from `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    /// Matched in text before anything else, and omitted from decoded text.
    Control,
    /// Matched in text before anything else.
    UserDefined,
    Other,
}

/// The tokens of a vocabulary with their types.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<TokenType>,
}

impl Vocabulary {
    fn read(text: &Gguf) -> Result<Self> {
        let metadata = text.metadata();
        let tokens = strings(text, "tokens")?;
        if u32::try_from(tokens.len()).is_err() {
            return Err(metadata.error("tokenizer.ggml.tokens", "more than 2^32 tokens"));
        }
        let kind = |number: f64| match number {
            1.0 => TokenType::Normal,
            2.0 | 3.0 => TokenType::Control,
            4.0 => TokenType::UserDefined,
            _ => TokenType::Other,
        };
        let types = match text.numbers("tokenizer.ggml.token_type")? {
            None => vec![TokenType::Normal; tokens.len()],
            Some(types) if types.len() == tokens.len() => types.into_iter().map(kind).collect(),
            Some(types) => {
                return Err(metadata.error("tokenizer.ggml.token_type", format!("{} types of {} tokens", types.len(), tokens.len())));
            }
        };
        Ok(Self { tokens, types })
    }

    /// The ids of the tokens.
    fn ids(&self) -> Vocab {
        self.tokens.iter().cloned().zip(0..).collect()
    }

    /// The token whose id is under a key of the metadata; `None` if the file has no such key.
    fn special(&self, text: &Gguf, name: &str) -> Result<Option<(u32, String)>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = text.metadata().u32(&key)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id));
        let token = token.ok_or_else(|| text.metadata().error(&key, format!("{id} is not one of {} tokens", self.tokens.len())))?;
        Ok(Some((id, token.clone())))
    }
}

fn strings(text: &Gguf, key: &str) -> Result<Vec<String>> {
    let key = format!("tokenizer.ggml.{key}");
    text.strings(&key)?.ok_or_else(|| text.metadata().error(&key, "expected a list of strings; is this a whole model?"))
}

/// Derives `tokenizer_config.json`.
pub(crate) fn config(text: &Gguf) -> Result<Value> {
    let vocabulary = Vocabulary::read(text)?;
    let token = |name| vocabulary.special(text, name).map(|token| token.map(|(_, token)| token));
    Ok(json!({
        "bos_token": token("bos")?,
        "eos_token": token("eos")?,
        "pad_token": token("padding")?,
        "unk_token": token("unknown")?,
        "chat_template": text.metadata().string("tokenizer.chat_template")?,
    }))
}

/// The token ids that end an answer: those named in the metadata, and control tokens known to end a turn.
pub(crate) fn end_of_turn(text: &Gguf) -> Result<Vec<u32>> {
    const TURN_ENDS: [&str; 6] = ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|endoftext|>"];
    let vocabulary = Vocabulary::read(text)?;
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(vocabulary.special(text, name)?.map(|(id, _)| id));
    }
    let ends = |token: &str, kind| kind == TokenType::Control && TURN_ENDS.contains(&token);
    let tokens = (0..).zip(&vocabulary.tokens).zip(&vocabulary.types);
    ids.extend(tokens.filter(|((_, token), kind)| ends(token, **kind)).map(|((id, _), _)| id));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Whether the vocabulary has a token.
pub(crate) fn has_token(text: &Gguf, token: &str) -> Result<bool> {
    Ok(strings(text, "tokens")?.iter().any(|known| known == token))
}

/// The id of a token, or the one after the last if the vocabulary does not have it: that of the first LLaVA is extended
/// by an image token.
pub(crate) fn token_or_next(text: &Gguf, token: &str) -> Result<usize> {
    let tokens = strings(text, "tokens")?;
    Ok(tokens.iter().position(|known| known == token).unwrap_or(tokens.len()))
}

/// Builds the tokenizer. An image token, if given, is added if the file has none.
pub(crate) fn tokenizer(text: &Gguf, image_token: Option<&str>) -> Result<Tokenizer> {
    let metadata = text.metadata();
    let mut vocabulary = Vocabulary::read(text)?;
    let kind = metadata.string("tokenizer.ggml.model")?.unwrap_or_default();
    let (mut tokenizer, bos) = match kind {
        "gpt2" => byte_level(text, &vocabulary)?,
        "llama" => (sentence_piece(text, &mut vocabulary)?, true),
        _ => return Err(Error::Unsupported { what: "GGUF tokenizer", got: kind.to_owned(), supported: &["gpt2", "llama"] }),
    };
    tokenizer.with_post_processor(Some(post_processor(text, &vocabulary, bos)?));
    // No file says it. llama.cpp, too, knows it by the model.
    let turns_strip = kind == "llama" && metadata.string("general.architecture")? == Some("phi3");
    for kind in [TokenType::Control, TokenType::UserDefined] {
        let tokens = vocabulary.tokens.iter().zip(&vocabulary.types).filter(|(_, k)| **k == kind);
        let tokens = tokens.map(|(token, _)| {
            let added = AddedToken::from(token.clone(), kind == TokenType::Control).normalized(false);
            added.rstrip(turns_strip && !PHI_3_PLAIN.contains(&token.as_str()))
        });
        if kind == TokenType::Control { tokenizer.add_special_tokens(tokens) } else { tokenizer.add_tokens(tokens) }.map_err(error)?;
    }
    if let Some(image) = image_token {
        tokenizer.add_special_tokens([AddedToken::from(image, true).normalized(false)]).map_err(error)?;
        if tokenizer.token_to_id(image).and_then(|id| usize::try_from(id).ok()) != Some(token_or_next(text, image)?) {
            return Err(metadata.error("tokenizer.ggml.tokens", "some tokens are there twice, which leaves no id for images"));
        }
    }
    Ok(tokenizer)
}

/// Builds a byte-level BPE tokenizer like that of GPT-2. Returns it with the default for adding the
/// beginning-of-sequence token.
fn byte_level(text: &Gguf, vocabulary: &Vocabulary) -> Result<(Tokenizer, bool)> {
    let metadata = text.metadata();
    let pre = metadata.string("tokenizer.ggml.pre")?.unwrap_or("default");
    let rules = PRE_TOKENIZERS.iter().find(|rules| rules.names.contains(&pre)).ok_or_else(|| Error::Unsupported {
        what: "GGUF pre-tokenizer",
        got: pre.to_owned(),
        supported: PRE_TOKENIZER_NAMES,
    })?;
    let pair = |merge: String| merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    let merges = strings(text, "merges")?.into_iter().map(pair).collect::<Option<Vec<_>>>();
    let merges = merges.ok_or_else(|| metadata.error("tokenizer.ggml.merges", "expected pairs of tokens"))?;
    let bpe = BPE::builder().vocab_and_merges(vocabulary.ids(), merges).ignore_merges(rules.ignore_merges);
    let mut tokenizer = Tokenizer::new(bpe.build().map_err(error)?);
    if rules.nfc {
        tokenizer.with_normalizer(Some(NFC)).map_err(error)?;
    }
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    if rules.digits {
        steps.push(Digits::new(true).into());
    }
    if let Some(pattern) = rules.pattern {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(error)?.into());
    }
    steps.push(ByteLevel::new(false, true, rules.pattern.is_none()).into());
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok((tokenizer, rules.bos))
}

/// Builds a SentencePiece tokenizer: merges over characters, with a fallback to bytes.
///
/// A space is put in front of the text and after each special token, as in llama.cpp and in the tokenizers that these
/// models came with. (transformers' reader of GGUF files adds it at the beginning only.)
fn sentence_piece(text: &Gguf, vocabulary: &mut Vocabulary) -> Result<Tokenizer> {
    for (token, kind) in vocabulary.tokens.iter_mut().zip(&mut vocabulary.types) {
        // Gemma's files contain tokens of several plain spaces.
        if !token.is_empty() && token.chars().all(|c| c == ' ') {
            (*token, *kind) = (SPACE.repeat(token.len()), TokenType::Normal);
        }
    }
    let ids = vocabulary.ids();
    let mut bpe = BPE::builder().byte_fallback(true).fuse_unk(true);
    if let Some((_, unknown)) = vocabulary.special(text, "unknown")? {
        bpe = bpe.unk_token(unknown);
    }
    let bpe = bpe.vocab_and_merges(ids.clone(), merges(text, vocabulary, &ids)?);
    let mut tokenizer = Tokenizer::new(bpe.build().map_err(error)?);
    let prefix = text.metadata().bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let spaces = Replace::new(" ", SPACE).map_err(error)?;
    let mut decoders: Vec<DecoderWrapper> =
        vec![Replace::new(SPACE, " ").map_err(error)?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        tokenizer.with_normalizer(Some(Normalizers::new(vec![Prepend::new(SPACE.to_owned()).into(), spaces.into()]))).map_err(error)?;
        decoders.push(Strip::new(' ', 1, 0).into());
    } else {
        tokenizer.with_normalizer(Some(spaces)).map_err(error)?;
    }
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(tokenizer)
}

/// The merges, which the file does not contain: every pair of tokens whose concatenation is a token. Merges are ordered
/// by the score of the result, highest first, or for Gemma by its id, lowest first; merges into the same token are
/// ordered by the length of the left part, longest first.
fn merges(text: &Gguf, vocabulary: &Vocabulary, ids: &Vocab) -> Result<Vec<(String, String)>> {
    /// The length limit of SentencePiece tokens in bytes.
    const LONGEST: usize = 2048;
    let metadata = text.metadata();
    let tokens = &vocabulary.tokens;
    let scores = match text.numbers("tokenizer.ggml.scores")? {
        _ if metadata.string("general.architecture")?.is_some_and(|name| name.starts_with("gemma")) => {
            (0..tokens.len()).map(|id| -(id as f64)).collect()
        }
        Some(scores) if scores.len() == tokens.len() => scores,
        _ => return Err(metadata.error("tokenizer.ggml.scores", format!("expected a list of {} numbers", tokens.len()))),
    };
    let usable = |part: &str| {
        let id = ids.get(part)?;
        let kind = usize::try_from(*id).ok().and_then(|id| vocabulary.types.get(id));
        (kind == Some(&TokenType::Normal)).then_some(*id)
    };
    let mut merges = Vec::new();
    for ((token, kind), score) in tokens.iter().zip(&vocabulary.types).zip(scores) {
        if *kind != TokenType::Normal || token.len() > LONGEST {
            continue;
        }
        let splits = token.char_indices().skip(1).filter_map(|(at, _)| token.split_at_checked(at));
        let mut parts: Vec<_> = splits.filter_map(|(a, b)| Some((usable(a)?, usable(b)?, a, b))).collect();
        parts.sort_unstable();
        merges.extend(parts.into_iter().map(|(.., a, b)| (score, a.chars().count(), b.chars().count(), a, b)));
    }
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then_with(|| (y.1, y.2).cmp(&(x.1, x.2))));
    Ok(merges.into_iter().map(|(.., a, b)| (a.to_owned(), b.to_owned())).collect())
}

/// Builds the post-processor, which adds the beginning and the end of the sequence.
fn post_processor(text: &Gguf, vocabulary: &Vocabulary, bos: bool) -> Result<TemplateProcessing> {
    let (mut template, mut tokens) = (vec!["$A".to_owned()], Vec::new());
    for (name, default) in [("bos", bos), ("eos", false)] {
        let wanted = text.metadata().bool(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(default);
        let Some((id, token)) = vocabulary.special(text, name)?.filter(|_| wanted) else { continue };
        tokens.push(SpecialToken::new(name.to_owned(), vec![id], vec![token]).map_err(error)?);
        let at = if name == "bos" { 0 } else { template.len() };
        template.insert(at, name.to_owned());
    }
    let template = TemplateProcessing::builder().try_single(template).map_err(|e| error(e.into()))?.special_tokens(tokens).build();
    template.map_err(|e| error(e.into()))
}

fn error(error: tokenizers::Error) -> Error {
    Error::Tokenizer { reason: error.to_string() }
}
