//! What is checked of a template before minijinja parses it.
//!
//! Its parser counts brackets and blocks within each other, but `not not …`, a chain of filters and a row of `elif` make
//! a tree as deep as they are long, and walking that tree takes the stack.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// Tokens between `{{` and `}}`, or `{%` and `%}`; a long tag has some dozens.
pub const MAX_TAG_TOKENS: usize = 1_000;
/// Branches of all `if` together.
pub const MAX_BRANCHES: usize = 500;

/// Bytes of a line: minijinja counts columns in 16 bits, and one more is a panic where overflow is checked.
pub const MAX_LINE_BYTES: usize = 65_000;

/// Says why a template is refused, and in which line. What is no Jinja at all is left to the parser.
pub(super) fn check(source: &str, syntax: SyntaxConfig) -> Result<(), (usize, String)> {
    if let Some(line) = source.lines().position(|line| line.len() > MAX_LINE_BYTES) {
        return Err((
            line + 1,
            format!("the line is longer than {MAX_LINE_BYTES} bytes"),
        ));
    }
    let (mut tokens, mut branches) = (0, 0);
    for (token, span) in tokenize(source, false, syntax).map_while(Result::ok) {
        match token {
            Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("elif") => branches += 1,
            _ => {}
        }
        tokens += 1;
        let line = usize::from(span.start_line);
        if tokens > MAX_TAG_TOKENS {
            let why = format!("a tag has more than {MAX_TAG_TOKENS} words and signs");
            return Err((line, why));
        }
        if branches > MAX_BRANCHES {
            return Err((line, format!("it has more than {MAX_BRANCHES} `elif`")));
        }
    }
    Ok(())
}
