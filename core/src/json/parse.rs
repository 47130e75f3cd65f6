//! A value out of a text that is all there.

use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::iter::Peekable;
use core::str::CharIndices;
use serde_json::{Map, Number, Value};

/// Objects and arrays nest at most so deep.
pub(super) const MAX_DEPTH: usize = 1024;
/// What is said of deeper ones.
pub(super) const TOO_DEEP: &str = "JSON nesting depth limit exceeded";
/// The longest text of a character that is shown as it was escaped: a pair, and one alone.
const SHOWN: [usize; 2] = [12, 6];

/// Reads one value that is all of `text`.
///
/// # Errors
/// `InvalidInput`, saying what is wrong.
pub fn parse(text: &str) -> Result<Value> {
    let mut parser = Parser { text, chars: text.char_indices().peekable() };
    let Some(first) = parser.token()? else {
        return Err(Error::invalid("Expecting a JSON value"));
    };
    let value = parser.value(first, 0)?;
    match parser.token()? {
        None => Ok(value),
        Some(_) => Err(Error::invalid("Expecting at most one JSON value")),
    }
}

/// A word of the language.
#[derive(Debug)]
enum Token {
    /// One of `{}[]:,`.
    Mark(char),
    Text(String),
    /// A text that is complete, and wrong inside: a mistake where a value has to be.
    Wrong(Error),
    Number(Number),
    Keyword(String),
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl Parser<'_> {
    fn value(&mut self, token: Token, depth: usize) -> Result<Value> {
        match token {
            Token::Mark('{' | '[') if depth >= MAX_DEPTH => Err(broken(TOO_DEEP)),
            Token::Mark('{') => self.object(depth),
            Token::Mark('[') => self.array(depth),
            Token::Mark(_) => Err(broken("JSON parse error, expecting value")),
            Token::Text(text) => Ok(Value::String(text)),
            Token::Wrong(error) => Err(error),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Keyword(word) => match &*word {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                "null" => Ok(Value::Null),
                _ => Err(broken(format!("JSON parse error, invalid keyword '{word}'"))),
            },
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        let mut members = Map::new();
        let mut token = self.expect()?;
        if matches!(token, Token::Mark('}')) {
            return Ok(Value::Object(members));
        }
        loop {
            let key = match self.value(token, depth + 1)? {
                Value::String(key) => key,
                _ => return Err(broken("JSON parse error, key is not a string in object")),
            };
            if !matches!(self.expect()?, Token::Mark(':')) {
                return Err(broken("JSON parse error, missing : in object pair"));
            }
            let first = self.expect()?;
            let value = self.value(first, depth + 1)?;
            if members.insert(key, value).is_some() {
                return Err(broken("JSON parse error, duplicate key"));
            }
            match self.expect()? {
                Token::Mark('}') => return Ok(Value::Object(members)),
                Token::Mark(',') => token = self.expect()?,
                _ => return Err(broken("JSON parse error, expected separator in dict")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        let mut items = Vec::new();
        let mut token = self.expect()?;
        if matches!(token, Token::Mark(']')) {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(token, depth + 1)?);
            match self.expect()? {
                Token::Mark(']') => return Ok(Value::Array(items)),
                Token::Mark(',') => token = self.expect()?,
                _ => return Err(broken("JSON parse error, expected separator in list")),
            }
        }
    }

    /// The next token of a value that has begun.
    fn expect(&mut self) -> Result<Token> {
        self.token()?.ok_or_else(|| broken("JSON parse error, premature EOI"))
    }

    fn token(&mut self) -> Result<Option<Token>> {
        while self.chars.next_if(|(_, c)| matches!(c, ' ' | '\t' | '\r' | '\n')).is_some() {}
        let Some((at, c)) = self.chars.next() else { return Ok(None) };
        match c {
            '{' | '}' | '[' | ']' | ':' | ',' => Ok(Some(Token::Mark(c))),
            '"' | '\'' => self.string(at, c).map(Some),
            '-' | '0'..='9' => self.number(at, c).map(Some),
            'a'..='z' => {
                while self.chars.next_if(|(_, c)| c.is_ascii_lowercase()).is_some() {}
                Ok(Some(Token::Keyword(self.since(at).into())))
            }
            _ => Err(self.stray(at)),
        }
    }

    fn string(&mut self, start: usize, quote: char) -> Result<Token> {
        let mut out = String::new();
        while let Some((at, c)) = self.chars.next() {
            match c {
                _ if c == quote => return Ok(Token::Text(out)),
                '\\' if self.chars.peek().is_none() => break,
                '\\' => match self.escape(at, quote) {
                    Ok(c) => out.push(c),
                    Err(error) => return Ok(Token::Wrong(error)),
                },
                '\0'..='\x1f' => return Err(self.stray(start)),
                _ if is_noncharacter(c) => {
                    let text = "JSON parse error, invalid UTF-8 sequence in string";
                    return Ok(Token::Wrong(broken(text)));
                }
                _ => out.push(c),
            }
        }
        Err(broken("JSON parse error, premature EOI"))
    }

    fn escape(&mut self, start: usize, quote: char) -> Result<char> {
        let Some((_, c)) = self.chars.next() else {
            return Err(broken("JSON parse error, premature EOI"));
        };
        Ok(match c {
            '"' | '\'' | '\\' | '/' => c,
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode(start, quote),
            _ => return Err(broken("JSON parse error, invalid escape sequence in string")),
        })
    }

    /// `\uXXXX`, or a pair of them for what lies beyond 16 bits.
    fn unicode(&mut self, start: usize, quote: char) -> Result<char> {
        let high = self.four_digits().ok_or_else(|| self.no_character(start, quote, false))?;
        let (code, pair) = match high {
            0xd800..=0xdbff => {
                let low = match (self.chars.next(), self.chars.next()) {
                    (Some((_, '\\')), Some((_, 'u'))) => self.four_digits(),
                    _ => None,
                };
                let low = low.filter(|low| (0xdc00..=0xdfff).contains(low));
                let low = low.ok_or_else(|| self.no_character(start, quote, false))?;
                (0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), true)
            }
            code => (code, false),
        };
        let found = char::from_u32(code).filter(|c| !is_noncharacter(*c));
        found.ok_or_else(|| self.no_character(start, quote, pair))
    }

    /// What stands at `start` is no character; as much of it is shown as belongs to the string.
    fn no_character(&self, start: usize, quote: char, pair: bool) -> Error {
        let [long, short] = SHOWN;
        let most = if pair { long } else { short };
        let mut end = start;
        for (at, c) in self.text[start..].char_indices() {
            if at + c.len_utf8() > most {
                break;
            }
            end = start + at + c.len_utf8();
            if c == quote {
                break;
            }
        }
        let shown = &self.text[start..end];
        broken(format!("JSON parse error, {shown} is not a valid Unicode character"))
    }

    fn four_digits(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |code, _| {
            let (_, digit) = self.chars.next_if(|(_, c)| c.is_ascii_hexdigit())?;
            Some(code << 4 | digit.to_digit(16)?)
        })
    }

    fn number(&mut self, start: usize, first: char) -> Result<Token> {
        let digits = |parser: &mut Self| {
            let from = parser.position();
            while parser.chars.next_if(|(_, c)| c.is_ascii_digit()).is_some() {}
            parser.position() > from
        };
        let leading = match first {
            '-' => match self.chars.next_if(|(_, c)| c.is_ascii_digit()) {
                Some((_, digit)) => digit,
                None => return Err(self.stray_after(start)),
            },
            digit => digit,
        };
        if leading != '0' {
            digits(self);
        } else if self.chars.peek().is_some_and(|(_, c)| c.is_ascii_digit()) {
            return Err(self.stray_after(start));
        }
        let mut float = false;
        if self.chars.next_if(|(_, c)| *c == '.').is_some() {
            float = true;
            if !digits(self) {
                return Err(self.stray_after(start));
            }
        }
        if self.chars.next_if(|(_, c)| matches!(c, 'e' | 'E')).is_some() {
            float = true;
            self.chars.next_if(|(_, c)| matches!(c, '+' | '-'));
            if !digits(self) {
                return Err(self.stray_after(start));
            }
        }
        let text = self.since(start);
        let whole = match float {
            true => None,
            // Beyond 64 bits a whole number is a number with rounding.
            false => match text.parse::<i64>() {
                Ok(n) => Some(n.into()),
                Err(_) => text.parse::<u64>().ok().map(Number::from),
            },
        };
        // One that no number can hold is the largest there is.
        let rounded = |n: f64| Number::from_f64(n.clamp(f64::MIN, f64::MAX));
        let number = whole.or_else(|| text.parse().ok().and_then(rounded));
        number.map(Token::Number).ok_or_else(|| self.stray(start))
    }

    /// Where the next character begins.
    fn position(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn since(&mut self, start: usize) -> &str {
        let end = self.position();
        &self.text[start..end]
    }

    /// What has been taken since `start` is no token.
    fn stray(&mut self, start: usize) -> Error {
        let text: String = self.since(start).into();
        broken(format!("JSON parse error, stray '{text}'"))
    }

    /// The same with the character that makes it none.
    fn stray_after(&mut self, start: usize) -> Error {
        match self.chars.next() {
            Some(_) => self.stray(start),
            None => broken("JSON parse error, premature EOI"),
        }
    }
}

fn broken(what: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::invalid(what)
}

/// Code points that stand for nothing and never will.
fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code)
}
