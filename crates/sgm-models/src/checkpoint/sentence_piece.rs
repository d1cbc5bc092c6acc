//! Tokenizers of directories that have a SentencePiece model (`tokenizer.model`) and no `tokenizer.json`.
//!
//! Read are models of byte-pair encoding as Llama, Vicuna, Mistral and Gemma have them, into the tokenizer that transformers 5 builds from
//! them (`LlamaTokenizer`, `GemmaTokenizer`).

use serde_json::Value;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, DecoderWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::checkpoint::section::Section;

/// The character for a space.
const SPACE: &str = "▁";

/// The remedy for what is not read.
const REMEDY: &str = "write tokenizer.json with transformers: AutoTokenizer.from_pretrained(directory).save_pretrained(directory)";

/// Builds the tokenizer of a SentencePiece model with the settings of `tokenizer_config.json` and the ids of
/// `added_tokens.json`.
///
/// # Errors
///
/// The reason, with the remedy, if the model is damaged or of a kind that is not read.
pub(crate) fn tokenizer(model: &[u8], settings: &Section, added: Option<&Section>) -> Result<Tokenizer, String> {
    let remedied = |reason: String| format!("tokenizer.model: {reason}; {REMEDY}");
    let class = settings.get("tokenizer_class").and_then(Value::as_str).unwrap_or("LlamaTokenizer");
    let gemma = match class.trim_end_matches("Fast") {
        "LlamaTokenizer" => false,
        "GemmaTokenizer" => true,
        _ => return Err(remedied(format!("the class {class} is not read from it"))),
    };
    let model = Model::read(model).ok_or_else(|| remedied("it is no SentencePiece model, or is damaged".to_owned()))?;
    if model.kind != BYTE_PAIRS {
        return Err(remedied("it is no model of byte-pair encoding".to_owned()));
    }
    build(&model, gemma, settings, added).map_err(|error| remedied(error.to_string()))
}

fn build(model: &Model<'_>, gemma: bool, settings: &Section, added: Option<&Section>) -> tokenizers::Result<Tokenizer> {
    let vocabulary: Vocab = model.pieces.iter().map(|piece| piece.text.to_owned()).zip(0..).collect();
    let named = |name: &str| {
        let value = settings.get(&format!("{name}_token"));
        value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str())).map(str::to_owned)
    };
    let default = |name: &str| match (gemma, name) {
        (_, "unk") => Some("<unk>"),
        (false, "bos") => Some("<s>"),
        (false, "eos") => Some("</s>"),
        (true, "bos") => Some("<bos>"),
        (true, "eos") => Some("<eos>"),
        (true, "pad") => Some("<pad>"),
        _ => None,
    };
    let special = |name: &str| named(name).or_else(|| Some(default(name)?.to_owned()).filter(|_| !settings.has(&format!("{name}_token"))));
    let mut bpe = BPE::builder().vocab_and_merges(vocabulary.clone(), merges(&vocabulary)).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = special("unk").filter(|_| gemma) {
        bpe = bpe.unk_token(unknown);
    }
    let mut tokenizer = Tokenizer::new(bpe.build()?);
    let mut decoders: Vec<DecoderWrapper> = vec![Replace::new(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if gemma {
        tokenizer.with_normalizer(Some(Replace::new(" ", SPACE)?))?;
        let spaces = SplitPattern::String(" ".to_owned());
        tokenizer.with_pre_tokenizer(Some(Split::new(spaces, SplitDelimiterBehavior::MergedWithPrevious, false)?));
    } else {
        let flag = |key: &str, default| settings.get(key).and_then(Value::as_bool).unwrap_or(default);
        let scheme = match (flag("add_prefix_space", true), flag("legacy", false)) {
            (false, _) => PrependScheme::Never,
            (true, true) => PrependScheme::Always,
            (true, false) => PrependScheme::First,
        };
        tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
        if scheme != PrependScheme::Never {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
    }
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    add_tokens(&mut tokenizer, model, settings, added, ["bos", "eos", "unk", "pad"].into_iter().filter_map(special))?;

    let (mut template, mut ends) = (vec!["$A".to_owned()], Vec::new());
    for (name, at_start) in [("bos", true), ("eos", false)] {
        let wanted = settings.get(&format!("add_{name}_token")).and_then(Value::as_bool).unwrap_or(at_start);
        let Some((token, id)) = special(name).filter(|_| wanted).and_then(|t| Some((t.clone(), tokenizer.token_to_id(&t)?))) else {
            continue;
        };
        ends.push(SpecialToken::new(name.to_owned(), vec![id], vec![token])?);
        template.insert(if at_start { 0 } else { template.len() }, name.to_owned());
    }
    let template = TemplateProcessing::builder().try_single(template)?.special_tokens(ends).build()?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

/// Adds the tokens that are found in text before anything else: those of `tokenizer_config.json` or
/// `added_tokens.json`, which must get the ids given there, the special tokens, and the model's own.
fn add_tokens(
    tokenizer: &mut Tokenizer,
    model: &Model<'_>,
    settings: &Section,
    added: Option<&Section>,
    special: impl Iterator<Item = String>,
) -> tokenizers::Result<()> {
    let mut given: Vec<(u32, AddedToken)> = Vec::new();
    for (id, token) in settings.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = token.get("content").and_then(Value::as_str).ok_or("added_tokens_decoder has an entry without content")?;
        let token = AddedToken::from(text, flag("special")).normalized(flag("normalized")).single_word(flag("single_word"));
        given.push((id.parse()?, token.lstrip(flag("lstrip")).rstrip(flag("rstrip"))));
    }
    if given.is_empty() {
        let special: Vec<_> =
            settings.map().iter().filter(|(key, _)| key.ends_with("_token")).filter_map(|(_, token)| token.as_str()).collect();
        for (text, id) in added.map(Section::map).into_iter().flatten() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or("added_tokens.json has an entry that is no id")?;
            given.push((id, AddedToken::from(text.as_str(), special.contains(&text.as_str()))));
        }
    }
    given.sort_by_key(|(id, _)| *id);
    for (id, token) in given {
        let text = token.content.clone();
        tokenizer.add_tokens([token])?;
        if tokenizer.token_to_id(&text) != Some(id) {
            return Err(format!("the added token `{text}` cannot have the id {id}").into());
        }
    }
    tokenizer.add_special_tokens(special.map(|text| AddedToken::from(text, true)))?;
    for piece in &model.pieces {
        if matches!(piece.kind, CONTROL | USER_DEFINED) {
            tokenizer.add_tokens([AddedToken::from(piece.text, piece.kind == CONTROL).normalized(false)])?;
        }
    }
    Ok(())
}

/// The merges, which the model does not contain: every pair of pieces whose concatenation is a piece, in the order of
/// the ids of the results, then of the lengths of the left parts.
fn merges(vocabulary: &Vocab) -> Vec<(String, String)> {
    /// The length limit of pieces in bytes.
    const LONGEST: usize = 2048;
    let mut merges = Vec::new();
    for (piece, id) in vocabulary.iter().filter(|(piece, _)| piece.len() <= LONGEST) {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if vocabulary.contains_key(left) && vocabulary.contains_key(right) {
                merges.push((*id, at, left, right));
            }
        }
    }
    merges.sort_unstable();
    merges.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect()
}

/// What is read of a SentencePiece model: fields of the Protocol Buffers message `ModelProto`.
#[derive(Debug, Default)]
struct Model<'a> {
    pieces: Vec<Piece<'a>>,
    /// The `model_type` of the trainer; 1 (unigram) if it is not given.
    kind: u64,
}

#[derive(Debug)]
struct Piece<'a> {
    text: &'a str,
    kind: u64,
}

/// The model type of byte-pair encoding, and the types of pieces that are found before anything else.
const BYTE_PAIRS: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

impl<'a> Model<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut model = Self { kind: 1, ..Self::default() };
        for (number, field) in fields(bytes)? {
            match (number, field) {
                (1, Field::Bytes(piece)) => {
                    let (mut text, mut kind) = (None, 1);
                    for (number, field) in fields(piece)? {
                        match (number, field) {
                            (1, Field::Bytes(bytes)) => text = Some(std::str::from_utf8(bytes).ok()?),
                            (3, Field::Number(number)) => kind = number,
                            _ => {}
                        }
                    }
                    model.pieces.push(Piece { text: text?, kind });
                }
                (2, Field::Bytes(trainer)) => {
                    let kind = fields(trainer)?.into_iter().find_map(|field| match field {
                        (3, Field::Number(kind)) => Some(kind),
                        _ => None,
                    });
                    model.kind = kind.unwrap_or(model.kind);
                }
                _ => {}
            }
        }
        (!model.pieces.is_empty() && u32::try_from(model.pieces.len()).is_ok()).then_some(model)
    }
}

/// A field of a Protocol Buffers message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A number of fixed width.
    Other,
}

/// The fields of a message with their numbers; none if it is damaged.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            2 => Field::Bytes({
                let length = varint(&mut bytes)?;
                take(&mut bytes, usize::try_from(length).ok()?)?
            }),
            1 => take(&mut bytes, 8).map(|_| Field::Other)?,
            5 => take(&mut bytes, 4).map(|_| Field::Other)?,
            _ => return None,
        };
        fields.push((key >> 3, field));
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// A number in 7 bits of each byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}
