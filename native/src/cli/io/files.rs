//! `open`, `close`, `reopen`.

use super::super::failure::told;
use super::super::output::{complain, warn_of_guess};
use super::commands::Command;
use super::disk::{AioMode, CacheMode, Disk, Settings};
use super::getopt::{Found, Options};
use super::session::{Done, Session, Stop, say};
use sectora_core::Error;

/// The setting of a discard mode: whether discards reach the image.
pub(super) fn discard_mode(text: &str) -> Option<bool> {
    match text {
        "ignore" | "off" => Some(false),
        "unmap" | "on" => Some(true),
        _ => None,
    }
}

/// Opens an image into the session, where none is open.
pub(super) async fn open_into(session: &mut Session, name: &str, settings: Settings) -> Done {
    if session.disk.is_some() {
        return Err(session.complain("file open already, try 'help close'"));
    }
    let runtime = session.runtime.clone();
    let unspecified = settings.format.is_none() && !settings.read_only;
    match Disk::open(&runtime, name, settings).await {
        Ok(disk) => {
            if unspecified && disk.layer.guessed_raw() {
                warn_of_guess(name);
            }
            session.disk = Some(disk);
            Ok(())
        }
        Err(error) => {
            Err(session.complain(&format!("can't open device {name}: {}", cause(&error))))
        }
    }
}

fn cause(error: &Error) -> String {
    told(error)
}

/// Options of a node: what of them this program knows.
#[derive(Debug, Default)]
struct NodeOptions(Vec<(String, String)>);

impl NodeOptions {
    /// Adds a list `name=value,…`, in which `,,` is a comma.
    fn add(&mut self, list: &str) {
        let joined = list.replace(",,", "\0");
        for part in joined.split(',').filter(|part| !part.is_empty()) {
            let part = part.replace('\0', ",");
            let (name, value) = part.split_once('=').unwrap_or((&part, "on"));
            self.0.retain(|(known, _)| known != name);
            self.0.push((name.to_owned(), value.to_owned()));
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    fn take_flag(&mut self, name: &str) -> Result<Option<bool>, String> {
        match self.take(name).as_deref() {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(_) => Err(format!("Parameter '{name}' expects 'on' or 'off'")),
        }
    }

    /// Moves what is known into `settings`; refuses the rest.
    fn apply(
        &mut self,
        settings: &mut Settings,
        unknown: impl Fn(&str) -> String,
    ) -> Result<(), String> {
        if let Some(on) = self.take_flag("read-only")? {
            settings.read_only = on;
        }
        if let Some(on) = self.take_flag("force-share")? {
            settings.force_share = on;
        }
        if let Some(on) = self.take_flag("cache.direct")? {
            settings.cache.direct = on;
        }
        if let Some(on) = self.take_flag("cache.no-flush")? {
            settings.cache.no_flush = on;
        }
        if let Some(mode) = self.take("discard") {
            settings.unmap =
                discard_mode(&mode).ok_or_else(|| format!("Invalid discard option: {mode}"))?;
        }
        match self.0.first() {
            Some((name, _)) => Err(unknown(name)),
            None => Ok(()),
        }
    }
}

/// `open`.
pub(super) async fn open(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let mut settings = Settings::default();
    let mut node = NodeOptions::default();
    let mut options = Options::new(words[0], "snCro:ki:t:d:U", &[], &words[1..]);
    for option in options.by_ref() {
        let Found { letter, value } = option.map_err(|text| {
            complain(&text);
            say(command.line(command.name).trim_end())
        })?;
        if letter == 'o' {
            node.add(&value.unwrap_or_default());
        } else if let Err(text) = setting(&mut settings, letter, value.as_deref()) {
            return Err(session.complain(&text));
        }
    }
    let operands = options.operands();
    if session.disk.is_some() {
        return Err(session.complain("file open already, try 'help close'"));
    }
    let driver = node.take("driver");
    let named = node.take("file.filename").or_else(|| node.take("filename"));
    let name = match (operands.as_slice(), named) {
        ([name], None) => (*name).to_owned(),
        ([], Some(name)) => name,
        ([], None) => {
            return Err(session.complain("can't open: Must specify either driver or file"));
        }
        ([_], Some(_)) => {
            let what = "can't open: the file is named twice";
            return Err(session.complain(what));
        }
        _ => return Err(say(command.line(command.name).trim_end())),
    };
    settings.format = driver;
    let was_read_only = settings.read_only;
    let format = settings.format.clone().unwrap_or_else(|| "raw".to_owned());
    let unknown =
        |name: &str| format!("Block format '{format}' does not support the option '{name}'");
    if let Err(text) = node.apply(&mut settings, unknown) {
        return Err(session.complain(&format!("can't open device {name}: {text}")));
    }
    if settings.read_only && !was_read_only {
        // The program wants to write where `-r` does not say otherwise.
        let what = format!("can't open device {name}: Block node is read-only");
        return Err(session.complain(&what));
    }
    open_into(session, &name, settings).await
}

/// An option that the program and `open` have in common.
pub(super) fn setting(
    settings: &mut Settings,
    letter: char,
    value: Option<&str>,
) -> Result<(), String> {
    let value = value.unwrap_or_default();
    match letter {
        's' => settings.snapshot = true,
        'C' => settings.copy_on_read = true,
        'r' => settings.read_only = true,
        'U' => settings.force_share = true,
        'n' => settings.cache = CacheMode { direct: true, ..CacheMode::default() },
        'k' => settings.aio = AioMode::Native,
        'i' => {
            settings.aio =
                AioMode::parse(value).ok_or_else(|| format!("Invalid aio option: {value}"))?;
        }
        't' => {
            settings.cache =
                CacheMode::parse(value).ok_or_else(|| format!("Invalid cache option: {value}"))?;
        }
        'd' => {
            settings.unmap =
                discard_mode(value).ok_or_else(|| format!("Invalid discard option: {value}"))?;
        }
        _ => {}
    }
    Ok(())
}

/// `reopen`: closes the image and opens it again with other settings. Where that fails it is
/// opened as it was.
pub(super) async fn reopen(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let usage = || say(command.line(command.name).trim_end());
    let mut settings = session.disk()?.settings.clone();
    let (mut access, mut cache) = (None, false);
    let mut node = NodeOptions::default();
    let mut options = Options::new(words[0], "c:o:rw", &[], &words[1..]);
    for option in options.by_ref() {
        let Found { letter, value } = option.map_err(|text| {
            complain(&text);
            usage()
        })?;
        let value = value.unwrap_or_default();
        match letter {
            'r' | 'w' if access.is_some() => {
                return Err(session.complain("Only one -r/-w option may be given"));
            }
            'r' | 'w' => access = Some(letter == 'r'),
            'c' => {
                cache = true;
                settings.cache = match CacheMode::parse(&value) {
                    Some(mode) => mode,
                    None => {
                        return Err(session.complain(&format!("Invalid cache option: {value}")));
                    }
                };
            }
            _ => node.add(&value),
        }
    }
    if !options.operands().is_empty() {
        return Err(usage());
    }
    let given = |name: &str| node.0.iter().any(|(known, _)| known == name);
    if access.is_some() && given("read-only") {
        return Err(session.complain("Cannot set both -r/-w and 'read-only'"));
    }
    if cache && node.0.iter().any(|(name, _)| name.starts_with("cache.")) {
        return Err(session.complain("Cannot set both -c and the cache options"));
    }
    let was_read_only = settings.read_only;
    let unknown = |name: &str| format!("Cannot change the option '{name}'");
    if let Err(text) = node.apply(&mut settings, unknown) {
        return Err(session.complain(&text));
    }
    if settings.read_only && !was_read_only {
        // `-r` gives up writing as well; the option alone does not.
        let what = format!(
            "Read-only block node '{}' cannot support read-write users",
            session.disk()?.name
        );
        return Err(session.complain(&what));
    }
    if let Some(read_only) = access {
        settings.read_only = read_only;
    }
    let disk = session.disk()?;
    if settings == disk.settings {
        return Ok(());
    }
    if disk.settings.snapshot {
        return Err(session.complain("a temporary snapshot cannot be reopened"));
    }
    let (name, before) = (disk.name.clone(), disk.settings.clone());
    session.close().await?;
    let runtime = session.runtime.clone();
    // What was probed is known by now, and stays.
    let failed = match Disk::open(&runtime, &name, settings).await {
        Ok(disk) => {
            session.disk = Some(disk);
            return Ok(());
        }
        Err(error) => cause(&error),
    };
    match Disk::open(&runtime, &name, before).await {
        Ok(disk) => session.disk = Some(disk),
        Err(error) => {
            let _: Stop = session.complain(&format!("'{name}' is closed now: {}", cause(&error)));
        }
    }
    Err(session.complain(&failed))
}
