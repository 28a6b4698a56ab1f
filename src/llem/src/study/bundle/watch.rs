//! Looks for the access token in what is packed.

use memchr::memmem;

use crate::hub::Token;

/// The shortest token that is looked for, in bytes: programs and weights hold every shorter text by chance.
const SHORTEST: usize = 8;

/// Reads along with one file, piece by piece.
pub(super) struct Watch {
    token: Option<Token>,
    /// The end of what was read, as long as a token may have begun in it.
    end: Vec<u8>,
}

impl Watch {
    pub(super) fn new(token: Option<Token>) -> Self {
        Self { token, end: Vec::new() }
    }

    /// Whether the token is in the file up to and with this piece.
    pub(super) fn sees_token(&mut self, piece: &[u8]) -> bool {
        let token = self.token.as_ref().map(|token| token.expose().as_bytes());
        let Some(token) = token.filter(|token| token.len() >= SHORTEST) else { return false };
        let may_begin = token.len() - 1;
        self.end.extend(piece.iter().take(may_begin));
        let is_there = memmem::find(&self.end, token).is_some() || memmem::find(piece, token).is_some();
        if piece.len() >= may_begin {
            self.end.clear();
            self.end.extend(piece.iter().skip(piece.len() - may_begin));
        } else {
            self.end.drain(..self.end.len().saturating_sub(may_begin));
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;
    use crate::hub::Token;

    #[test]
    fn a_token_is_seen_wherever_the_pieces_end() {
        let text = b"xx hf_secret xx";
        for length in 1..text.len() {
            let mut watch = Watch::new(Token::new("hf_secret"));
            assert!(text.chunks(length).any(|piece| watch.sees_token(piece)), "{length}");
            let mut watch = Watch::new(Token::new("hf_sacret"));
            assert!(!text.chunks(length).any(|piece| watch.sees_token(piece)), "{length}");
            let mut watch = Watch::new(None);
            assert!(!text.chunks(length).any(|piece| watch.sees_token(piece)), "{length}");
        }
    }
}
