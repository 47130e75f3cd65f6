//! A line in words, held against what its command takes.

use super::table::{COMMANDS, Command, INFO, Verb, find};

/// What a line gives its command.
#[derive(Debug, Default)]
pub(super) struct Given {
    flags: String,
    words: Vec<String>,
}

impl Given {
    /// True where the option is there.
    pub(super) fn flag(&self, letter: char) -> bool {
        self.flags.contains(letter)
    }

    /// The word at that place.
    pub(super) fn word(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(String::as_str)
    }
}

/// Reads a line: its command and what it is given; nothing for an empty line.
///
/// # Errors
/// What is wrong with it, in the reference's words.
pub(super) fn read(line: &str) -> Result<Option<(&'static Command, Given)>, String> {
    let mut rest = line.trim_start();
    let name = plain_word(&mut rest);
    if name.is_empty() {
        return Ok(None);
    }
    let command = find(COMMANDS, name);
    let mut command = command.ok_or_else(|| format!("unknown command: '{name}'\n"))?;
    let mut path = String::new();
    if command.verb == Verb::Info {
        let of = plain_word(&mut rest);
        if !of.is_empty() {
            command = find(INFO, of).ok_or_else(|| format!("unknown command: 'info {of}'\n"))?;
            path.push_str("info ");
        }
    }
    let wrong = |what: &str| {
        let name = command.name;
        format!("{name}: {what}\nTry \"help {path}{name}\" for more information\n")
    };
    let mut given = Given::default();
    while let Some(options) = rest.strip_prefix('-') {
        let mut options = options;
        for letter in plain_word(&mut options).chars() {
            if !command.flags.contains(letter) {
                return Err(wrong(&format!("unsupported option -{letter}")));
            }
            given.flags.push(letter);
        }
        rest = options;
    }
    for word in command.words {
        match next_word(&mut rest) {
            Ok(Some(text)) => given.words.push(text),
            Ok(None) if word.optional => break,
            Ok(None) => return Err(wrong(&format!("{} expected", word.noun))),
            Err(what) => {
                return Err(format!("{what}\n{}", wrong(&format!("{} expected", word.noun))));
            }
        }
    }
    match rest.trim_start().is_empty() {
        true => Ok(Some((command, given))),
        false => Err(wrong("extraneous characters at the end of line")),
    }
}

/// The next word up to a space; `rest` begins with what follows.
fn plain_word<'a>(rest: &mut &'a str) -> &'a str {
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after.trim_start();
    word
}

/// The next word, which may stand in quotation marks.
fn next_word(rest: &mut &str) -> Result<Option<String>, &'static str> {
    *rest = rest.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let word = plain_word(rest);
        return Ok((!word.is_empty()).then(|| word.to_owned()));
    };
    let mut out = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                *rest = quoted[at + 1..].trim_start();
                return Ok(Some(out));
            }
            '\\' => match letters.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, other @ ('\\' | '\'' | '"'))) => out.push(other),
                Some(_) => return Err("unsupported escape code"),
                None => return Err("unterminated string"),
            },
            other => out.push(other),
        }
    }
    *rest = "";
    Err("unterminated string")
}

#[cfg(test)]
mod tests {
    use super::read;

    fn told(line: &str) -> String {
        match read(line) {
            Ok(Some((command, given))) => {
                let words: Vec<&str> = (0..9).map_while(|at| given.word(at)).collect();
                format!("{:?} -{} {words:?}", command.verb, given.flags)
            }
            Ok(None) => String::new(),
            Err(text) => text,
        }
    }

    #[test]
    fn lines_are_read_as_the_reference_reads_them() {
        for (line, want) in [
            ("", ""),
            ("  ", ""),
            ("foo 1", "unknown command: 'foo'\n"),
            ("info zz", "unknown command: 'info zz'\n"),
            ("info", "Info - []"),
            ("info block", "InfoBlock - []"),
            ("info block -v", "InfoBlock -v []"),
            ("info block -n -v x", "InfoBlock -nv [\"x\"]"),
            (
                "info block -x",
                "block: unsupported option -x\nTry \"help info block\" for more information\n",
            ),
            (
                "info block \"drv",
                "unterminated string\nblock: block device name expected\nTry \"help info block\" \
                 for more information\n",
            ),
            (
                "commit",
                "commit: block device name expected\nTry \"help commit\" for more information\n",
            ),
            (
                "commit drv extra",
                "commit: extraneous characters at the end of line\nTry \"help commit\" for more \
                 information\n",
            ),
            (
                "qemu-io drv",
                "qemu-io: string expected\nTry \"help qemu-io\" for more information\n",
            ),
            ("qemu-io -d d \"write -P 1 0 4k\"", "QemuIo -d [\"d\", \"write -P 1 0 4k\"]"),
            ("qemu-io d \"a \\\"b\\\" \\\\\"", "QemuIo - [\"d\", \"a \\\"b\\\" \\\\\"]"),
            ("?", "Help - []"),
            ("c", "Cont - []"),
        ] {
            assert_eq!(told(line), want, "{line}");
        }
    }
}
