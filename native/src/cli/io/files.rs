//! `open`, `close`, `reopen`.

use super::super::failure::told;
use super::super::host::{listed, spelled_out};
use super::super::output::complain;
use super::commands::Command;
use super::disk::{AioMode, CacheMode, Disk, Settings};
use super::getopt::{Found, Options};
use super::session::{Done, Session, Stop, say};
use sectora_core::graph::Options as NodeOptions;

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
    let unnamed = name.is_empty() && !settings.options.is_empty();
    match Disk::open(&runtime, &session.objects, name, settings).await {
        Ok(disk) => {
            session.disk = Some(disk);
            Ok(())
        }
        Err(error) => Err(session.complain(&match unnamed {
            true => format!("can't open: {}", told(&error)),
            false => format!("can't open device {name}: {}", told(&error)),
        })),
    }
}

/// Opens what options describe.
pub(super) async fn open_described(
    session: &mut Session,
    text: &str,
    mut settings: Settings,
) -> Done {
    settings.options = listed(NodeOptions::parse_flags(text));
    if settings.options.is_empty() {
        return Err(session.complain("can't open: Must specify either driver or file"));
    }
    open_into(session, "", settings).await
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
            if session.image_opts {
                return Err(say("--image-opts and 'open -o' are mutually exclusive"));
            }
            node.merge(listed(NodeOptions::parse_flags(&value.unwrap_or_default())));
        } else if let Err(text) = setting(&mut settings, letter, value.as_deref()) {
            return Err(session.complain(&text));
        }
    }
    let operands = options.operands();
    let name = match operands.as_slice() {
        [name] if session.image_opts => {
            node = listed(NodeOptions::parse_flags(name));
            ""
        }
        [name] => name,
        [] if !node.is_empty() => "",
        [] if words.len() > 1 => {
            return Err(session.complain("can't open: Must specify either driver or file"));
        }
        _ => return Err(say(command.line(command.name).trim_end())),
    };
    settings.options = node;
    open_into(session, name, settings).await
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
            let mode =
                AioMode::parse(value).ok_or_else(|| format!("Invalid aio option: {value}"))?;
            // Once asked for it stays, as with the reference.
            if settings.aio != AioMode::Native {
                settings.aio = mode;
            }
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
    let (mut access, mut cache) = (None, None);
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
                cache = CacheMode::parse(&value);
                if cache.is_none() {
                    return Err(session.complain(&format!("Invalid cache option: {value}")));
                }
            }
            _ => node.merge(spelled_out(NodeOptions::parse_flags(&value))),
        }
    }
    if !options.operands().is_empty() {
        return Err(usage());
    }
    if access.is_some() && node.has("read-only") {
        return Err(session.complain("Cannot set both -r/-w and 'read-only'"));
    }
    if cache.is_some() && node.names().any(|name| name.starts_with("cache.")) {
        return Err(session.complain("Cannot set both -c and the cache options"));
    }
    let disk = session.disk()?;
    let was_read_only = settings.read_only;
    let read_only = match changed(&mut settings, node, cache, disk) {
        Ok(read_only) => read_only,
        Err(text) => return Err(session.complain(&text)),
    };
    if read_only == Some(true) && !was_read_only {
        // `-r` gives up writing as well; the option alone does not.
        let what = format!("Read-only block node '{}' cannot support read-write users", disk.name);
        return Err(session.complain(&what));
    }
    settings.read_only = access.or(read_only).unwrap_or(was_read_only);
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
    let failed = match Disk::open(&runtime, &session.objects, &name, settings).await {
        Ok(disk) => {
            session.disk = Some(disk);
            return Ok(());
        }
        Err(error) => told(&error),
    };
    match Disk::open(&runtime, &session.objects, &name, before).await {
        Ok(disk) => session.disk = Some(disk),
        Err(error) => {
            let _: Stop = session.complain(&format!("'{name}' is closed now: {}", told(&error)));
        }
    }
    // Whatever is not understood is nothing that can be changed.
    let unknown =
        failed.split_once("support the option '").and_then(|(_, rest)| rest.split_once('\''));
    Err(session.complain(&match unknown {
        Some((name, _)) => cannot_change(name),
        None => failed,
    }))
}

fn cannot_change(name: &str) -> String {
    format!("Cannot change the option '{name}'")
}

/// Puts new options into the settings of an open image; gives what they say of `read-only`.
fn changed(
    settings: &mut Settings,
    mut given: NodeOptions,
    cache: Option<CacheMode>,
    disk: &Disk,
) -> Result<Option<bool>, String> {
    let read_only = given.take_flag("read-only").map_err(|e| told(&e))?;
    if let Some(cache) = cache {
        settings.cache = cache;
        settings.options.remove("cache.direct");
        settings.options.remove("cache.no-flush");
    }
    let names: Vec<String> = given.names().map(str::to_owned).collect();
    for name in &names {
        let value = given.peek(name).unwrap_or_default();
        let before = settings.options.peek(name);
        let driver = disk.driver();
        let same =
            before == Some(value) || (name == "driver" && before.is_none() && value == driver);
        if same {
            given.remove(name);
            continue;
        }
        match name.rsplit_once('.') {
            Some((parent, last))
                if CHILDREN.contains(&parent.split('.').next().unwrap_or(parent)) =>
            {
                return Err(cannot_change(last));
            }
            _ if CHILDREN.contains(&name.as_str()) => {
                return Err(format!("Cannot find device='' nor node-name='{value}'"));
            }
            _ if FIXED.contains(&name.as_str()) => return Err(cannot_change(name)),
            _ => {}
        }
    }
    if !given.is_empty() && settings.format.is_none() && !settings.options.has("driver") {
        // What was probed stays.
        settings.format = Some(disk.driver().to_owned());
    }
    settings.options.merge(given);
    Ok(read_only)
}

/// The nodes that a node has below it.
const CHILDREN: [&str; 3] = ["file", "backing", "data-file"];
/// What every node has and none changes.
const FIXED: [&str; 4] = ["driver", "node-name", "force-share", "filename"];
