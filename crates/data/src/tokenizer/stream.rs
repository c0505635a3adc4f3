//! Text of a growing list of ids, given out as soon as no later id can change it.
//!
//! The deltas joined are the decode of all ids, and each is valid UTF-8: neither holds for the usual way of decoding a
//! window and cutting off what was shown.

use super::Tokenizer;
use crate::DataError;

/// How the decoder of a tokenizer can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tokens spell bytes: text is certain once its characters are complete.
    Bytes,
    /// Anything else: decoded as a whole each time, held back where a later id may change the end.
    Whole,
}

impl Kind {
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        match tokenizer.get_decoder() {
            Some(tokenizers::DecoderWrapper::ByteLevel(_)) => Self::Bytes,
            _ => Self::Whole,
        }
    }
}

/// See [`Tokenizer::stream`].
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    /// Bytes that are not a complete character yet ([`Kind::Bytes`]).
    pending: Vec<u8>,
    /// All ids so far ([`Kind::Whole`]).
    ids: Vec<u32>,
    /// How much of their text was given out ([`Kind::Whole`]).
    given: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special_tokens: bool) -> Self {
        Self {
            tokenizer,
            skip_special_tokens,
            pending: Vec::new(),
            ids: Vec::new(),
            given: 0,
        }
    }

    /// Begins behind `ids`, whose text is known: what comes is what the decode of all ids adds to theirs.
    ///
    /// # Errors
    /// [`DataError::Encode`], where the decoder fails.
    pub fn behind(mut self, ids: &[u32]) -> Result<Self, DataError> {
        match self.tokenizer.stream {
            Kind::Bytes => {
                for &id in ids {
                    self.push(id)?;
                }
            }
            Kind::Whole => {
                self.ids = ids.to_vec();
                let text = self.tokenizer.decode(ids, self.skip_special_tokens)?;
                self.given = text.len();
            }
        }
        Ok(self)
    }

    /// Takes the next id; the text that is certain now, often empty.
    ///
    /// # Errors
    /// [`DataError::Encode`], where the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        match self.tokenizer.stream {
            Kind::Bytes => {
                self.pending.extend(self.bytes_of(id));
                Ok(self.complete_characters())
            }
            Kind::Whole => {
                self.ids.push(id);
                // A run of byte tokens is decoded as one, and a bad byte turns all of it into replacement characters;
                // an id without text does not end the run.
                if self.token(id).is_none_or(|token| is_byte_token(&token)) {
                    return Ok(String::new());
                }
                let text = self.tokenizer.decode(&self.ids, self.skip_special_tokens)?;
                // The end may be part of a character, or a space that the next token takes away.
                let certain = text
                    .trim_end_matches([char::REPLACEMENT_CHARACTER, ' '])
                    .len();
                Ok(self.give(&text[..certain]))
            }
        }
    }

    /// What was held back; call it once, after the last id.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(mut self) -> Result<String, DataError> {
        match self.tokenizer.stream {
            Kind::Bytes => Ok(String::from_utf8_lossy(&self.pending).into_owned()),
            Kind::Whole => {
                let text = self.tokenizer.decode(&self.ids, self.skip_special_tokens)?;
                Ok(self.give(&text))
            }
        }
    }

    fn give(&mut self, text: &str) -> String {
        // Bad bytes behind a prompt that ends in byte tokens turn its end into longer characters.
        let fresh = text[text.ceil_char_boundary(self.given)..].to_owned();
        self.given = self.given.max(text.len());
        fresh
    }

    /// The token of an id that gives text.
    fn token(&self, id: u32) -> Option<String> {
        let inner = &self.tokenizer.inner;
        let skipped = |token: &String| {
            self.skip_special_tokens && inner.get_added_vocabulary().is_special_token(token)
        };
        inner.id_to_token(id).filter(|token| !skipped(token))
    }

    /// As the crate's byte-level decoder: a token with a character that spells no byte stands for itself.
    fn bytes_of(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.token(id) else {
            return Vec::new();
        };
        let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
        bytes.unwrap_or_else(|| token.into_bytes())
    }

    /// Takes all complete characters off the front; bytes that can begin none become U+FFFD as in the full decode.
    fn complete_characters(&mut self) -> String {
        let mut text = String::new();
        let mut kept = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            kept += chunk.valid().len();
            let broken = chunk.invalid();
            if kept + broken.len() == self.pending.len() && is_beginning(broken) {
                break;
            }
            if !broken.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                kept += broken.len();
            }
        }
        self.pending.drain(..kept);
        text
    }
}

/// `<0x0A>`: a byte of a text that the vocabulary cannot spell.
fn is_byte_token(token: &str) -> bool {
    let hex = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

/// Whether more bytes can make a character of these.
fn is_beginning(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => false,
        Err(error) => error.error_len().is_none(),
    }
}

/// The byte that a character of GPT-2's byte alphabet spells: printable Latin-1 stands for itself, the 68 other bytes are
/// U+0100 onwards in their order.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::byte_of;

    #[test]
    fn byte_alphabet_is_gpt2s() {
        for byte in 0..=255u8 {
            let spelled = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
            assert_eq!(
                spelled
                    .iter()
                    .filter(|&&c| byte_of(c) == Some(byte))
                    .count(),
                1,
                "byte {byte}"
            );
        }
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('ł'), byte_of('\u{144}')),
            (Some(b' '), Some(b'\n'), Some(0xa0), None)
        );
    }
}
