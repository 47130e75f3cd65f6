//! Where lines come from when no command is given: a person at a terminal, or a pipe.

use super::session::{Done, Session};
use crate::cli::output::print;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};
use std::io::{BufRead, IsTerminal, stdin, stdout};
use tokio::sync::{mpsc, oneshot};

/// The longest line that is read; what is longer is no command.
const LONGEST_LINE: u64 = 1 << 20;

/// Reads lines in a thread of its own, so that requests in flight go on meanwhile.
pub(super) struct Prompt {
    ask: mpsc::UnboundedSender<oneshot::Sender<Option<String>>>,
    /// What stands before each line; printed here where nothing edits the line.
    text: Option<&'static str>,
}

impl Prompt {
    /// A prompt that shows `text`.
    pub(super) fn new(text: &'static str) -> Self {
        let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<Option<String>>>();
        let edited = stdin().is_terminal() && stdout().is_terminal();
        std::thread::spawn(move || {
            let mut lines = if edited { editor(text) } else { plain() };
            while let Some(answer) = asked.blocking_recv() {
                // Nobody waits any more where the program ends.
                let _ = answer.send(lines());
            }
        });
        Self { ask, text: (!edited).then_some(text) }
    }

    /// The next line; `None` at the end.
    pub(super) async fn line(&self, session: &mut Session) -> Done<Option<String>> {
        if let Some(text) = self.text {
            print(text)?;
        }
        let (answer, line) = oneshot::channel();
        // Should the thread be gone, so is the answer's sender.
        let _ = self.ask.send(answer);
        Ok(session.wait(line).await?.unwrap_or(None))
    }
}

type Lines = Box<dyn FnMut() -> Option<String>>;

fn editor(prompt: &'static str) -> Lines {
    let config = Config::builder().auto_add_history(true).build();
    let Ok(mut editor) = Editor::<(), DefaultHistory>::with_config(config) else { return plain() };
    Box::new(move || match editor.readline(prompt) {
        Ok(line) => Some(line),
        // An interrupt gives up the line, not the program.
        Err(ReadlineError::Interrupted) => Some(String::new()),
        Err(_) => None,
    })
}

fn plain() -> Lines {
    Box::new(|| {
        let mut line = Vec::new();
        let mut input = std::io::Read::take(stdin().lock(), LONGEST_LINE);
        match input.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                Some(text.trim_end_matches(['\n', '\r']).to_owned())
            }
        }
    })
}
