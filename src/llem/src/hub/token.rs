use std::fmt;

/// An access token. It prints as `***`, has no serialised form, and leaves only through [`Token::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from what the user gave, without surrounding white space. `None` for an empty one, and for one with
    /// characters that no HTTP header may carry.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then(|| Self(text.to_owned()))
    }

    /// The secret itself: for a request header or a container's secret file, never for a log or a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_prints_itself() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.expose(), "hf_secret");
        assert_eq!(format!("{token} {token:?} {:#?}", Some(&token)), "*** Token(***) Some(\n    Token(***),\n)");
    }

    #[test]
    fn what_no_header_may_carry_is_no_token() {
        for text in ["", "  \n", "two words", "line\nbreak", "ümlaut"] {
            assert_eq!(Token::new(text), None, "{text:?}");
        }
    }
}
