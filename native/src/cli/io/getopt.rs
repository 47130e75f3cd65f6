//! Options in the words of a line, as the C library's `getopt_long` takes them: letters together
//! (`-qv`), values attached or apart (`-P5`, `-P 5`), options after operands, `--` to end them,
//! long names cut short.
//!
//! The command language reports mistakes in that function's words and in the order in which it
//! meets them, which a parser that looks at the whole line first cannot do.

use std::collections::VecDeque;

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Value {
    None,
    Required,
    /// Only attached (`-Tx`, `--trace=x`).
    Optional,
}

/// An option with a long name.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Long {
    pub(in crate::cli) name: &'static str,
    pub(in crate::cli) value: Value,
    /// What the option is called when it is found.
    pub(in crate::cli) letter: char,
}

/// An option that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Found {
    pub(in crate::cli) letter: char,
    pub(in crate::cli) value: Option<String>,
}

/// Goes through the words of a line.
#[derive(Debug)]
pub(in crate::cli) struct Options<'a> {
    program: &'a str,
    /// Letters, each followed by `:` where it has a value, by `::` where the value is optional.
    letters: &'a str,
    long: &'a [Long],
    words: VecDeque<&'a str>,
    /// What is left of a word of letters.
    cluster: &'a str,
    operands: Vec<&'a str>,
}

impl<'a> Options<'a> {
    /// `words` without the name of the program.
    pub(in crate::cli) fn new(
        program: &'a str,
        letters: &'a str,
        long: &'a [Long],
        words: &[&'a str],
    ) -> Self {
        let words = words.iter().copied().collect();
        Self { program, letters, long, words, cluster: "", operands: Vec::new() }
    }

    /// The words that are no options. Complete once [`next`](Iterator::next) has ended.
    pub(in crate::cli) fn operands(self) -> Vec<&'a str> {
        self.operands
    }

    fn value_of(&self, letter: char) -> Option<Value> {
        let at = self.letters.find(letter).filter(|_| letter != ':')?;
        let rest = &self.letters[at + letter.len_utf8()..];
        Some(match () {
            () if rest.starts_with("::") => Value::Optional,
            () if rest.starts_with(':') => Value::Required,
            () => Value::None,
        })
    }

    fn short(&mut self) -> Result<Found, String> {
        let mut rest = self.cluster.chars();
        let letter = rest.next().unwrap_or('?');
        let attached = rest.as_str();
        self.cluster = attached;
        let kind = self
            .value_of(letter)
            .ok_or_else(|| format!("{}: invalid option -- '{letter}'", self.program))?;
        let value = match kind {
            Value::None => None,
            _ if !attached.is_empty() => {
                self.cluster = "";
                Some(attached.to_owned())
            }
            Value::Optional => None,
            Value::Required => {
                Some(self.words.pop_front().map(str::to_owned).ok_or_else(|| {
                    format!("{}: option requires an argument -- '{letter}'", self.program)
                })?)
            }
        };
        Ok(Found { letter, value })
    }

    fn long(&mut self, word: &str) -> Result<Found, String> {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        let program = self.program;
        let mut fitting = self.long.iter().filter(|long| long.name.starts_with(name));
        let exact = self.long.iter().find(|long| long.name == name);
        let option = match (exact, fitting.next(), fitting.next()) {
            (Some(option), ..) | (None, Some(option), None) => option,
            (None, None, _) => return Err(format!("{program}: unrecognized option '--{word}'")),
            (None, Some(_), Some(_)) => {
                let names: Vec<String> = self
                    .long
                    .iter()
                    .filter(|long| long.name.starts_with(name))
                    .map(|long| format!("'--{}'", long.name))
                    .collect();
                return Err(format!(
                    "{program}: option '--{word}' is ambiguous; possibilities: {}",
                    names.join(" ")
                ));
            }
        };
        let value = match option.value {
            Value::None if attached.is_some() => {
                return Err(format!(
                    "{program}: option '--{}' doesn't allow an argument",
                    option.name
                ));
            }
            Value::Required if attached.is_none() => {
                Some(self.words.pop_front().map(str::to_owned).ok_or_else(|| {
                    format!("{program}: option '--{}' requires an argument", option.name)
                })?)
            }
            _ => attached,
        };
        Ok(Found { letter: option.letter, value })
    }
}

impl Iterator for Options<'_> {
    /// An option, or what is wrong with the line in a sentence.
    type Item = Result<Found, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.cluster.is_empty() {
            return Some(self.short());
        }
        loop {
            let word = self.words.pop_front()?;
            match word {
                "--" => self.operands.extend(self.words.drain(..)),
                "-" => self.operands.push(word),
                _ => match (word.strip_prefix("--"), word.strip_prefix('-')) {
                    (Some(name), _) if !self.long.is_empty() => return Some(self.long(name)),
                    (_, Some(letters)) => {
                        self.cluster = letters;
                        return Some(self.short());
                    }
                    _ => self.operands.push(word),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: [Long; 3] = [
        Long { name: "native-aio", value: Value::None, letter: 'k' },
        Long { name: "nocache", value: Value::None, letter: 'n' },
        Long { name: "format", value: Value::Required, letter: 'f' },
    ];

    fn parse(words: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut options = Options::new("p", "qvP:T::", &LONG, words);
        let mut found = Vec::new();
        for option in options.by_ref() {
            found.push(match option {
                Ok(Found { letter, value: Some(value) }) => format!("{letter}={value}"),
                Ok(Found { letter, value: None }) => letter.to_string(),
                Err(text) => text,
            });
        }
        (found, options.operands().into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn options_stand_anywhere_and_together() {
        let (found, operands) = parse(&["-qv", "1", "-P5", "-P", "-6", "-", "-T", "--", "-q"]);
        assert_eq!(found, ["q", "v", "P=5", "P=-6", "T"]);
        assert_eq!(operands, ["1", "-", "-q"]);
        let (found, operands) = parse(&["--form", "raw", "--format=x", "--nocache", "a"]);
        assert_eq!(found, ["f=raw", "f=x", "n"]);
        assert_eq!(operands, ["a"]);
    }

    #[test]
    fn mistakes_in_the_words_of_the_c_library() {
        for (words, text) in [
            (&["-x"][..], "p: invalid option -- 'x'"),
            (&["-P"][..], "p: option requires an argument -- 'P'"),
            (&["--foo"][..], "p: unrecognized option '--foo'"),
            (
                &["--n"][..],
                "p: option '--n' is ambiguous; possibilities: '--native-aio' '--nocache'",
            ),
            (&["--format"][..], "p: option '--format' requires an argument"),
            (&["--nocache=1"][..], "p: option '--nocache' doesn't allow an argument"),
        ] {
            assert_eq!(parse(words).0, [text]);
        }
        // Without long names two dashes are letters too.
        assert_eq!(
            Options::new("p", "q", &[], &["--q"]).collect::<Vec<_>>()[0],
            Err("p: invalid option -- '-'".to_owned())
        );
    }
}
