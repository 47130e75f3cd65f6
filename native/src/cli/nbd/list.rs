//! `--list`: what another server has.

use super::args::{List, Place};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::host::{Threads, block_on};
use crate::cli::output::print;
use crate::protocol::nbd::{NbdOptions, Server, handshake};
use sectora_core::nbd::client::{Context, ExportInfo, Greeted};
use sectora_core::nbd::layout::TransmissionFlags;
use sectora_core::nbd::message::Mode;
use std::fmt::Write;

/// Flags as they are printed, in the order of their bits.
const FLAGS: [(TransmissionFlags, &str); 12] = [
    (TransmissionFlags::READ_ONLY, "readonly"),
    (TransmissionFlags::SEND_FLUSH, "flush"),
    (TransmissionFlags::SEND_FUA, "fua"),
    (TransmissionFlags::ROTATIONAL, "rotational"),
    (TransmissionFlags::SEND_TRIM, "trim"),
    (TransmissionFlags::SEND_WRITE_ZEROES, "zeroes"),
    (TransmissionFlags::SEND_DF, "df"),
    (TransmissionFlags::CAN_MULTI_CONN, "multi"),
    (TransmissionFlags::SEND_RESIZE, "resize"),
    (TransmissionFlags::SEND_CACHE, "cache"),
    (TransmissionFlags::SEND_FAST_ZERO, "fast-zero"),
    (TransmissionFlags::BLOCK_STATUS_PAYLOAD, "block-status-payload"),
];

struct Found {
    name: String,
    description: Option<String>,
    info: Option<ExportInfo>,
    contexts: Vec<Context>,
}

pub(super) fn run(how: List) -> Outcome {
    block_on(Threads::One, |_| async move {
        let (found, mode) = look(how).await?;
        print(&text(&found, mode))?;
        Ok(0)
    })
}

async fn look(how: List) -> Result<(Vec<Found>, Mode), Failure> {
    let server = match how.place {
        Place::Unix(path) => Server::Unix { path },
        Place::Inet { host, port } => {
            let port = port.parse().map_err(|_| {
                Failure::new(format!(
                    "address resolution failed for {host}:{port}: Servname not supported for \
                     ai_socktype"
                ))
            })?;
            Server::Inet { host, port }
        }
        Place::Activated => {
            return Err(Failure::new("List mode is incompatible with socket activation"));
        }
    };
    let options =
        NbdOptions { tls: how.tls, tls_hostname: how.tls_hostname, ..NbdOptions::new(server, "") };
    let mut client = match handshake(&options).await? {
        Greeted::Oldstyle(mut channel, info) => {
            let only = Found {
                name: String::new(),
                description: None,
                info: Some(info),
                contexts: Vec::new(),
            };
            // The server need not hear that there is nothing more.
            let _ = channel.close().await;
            return Ok((vec![only], Mode::Simple));
        }
        Greeted::Newstyle(client) => client,
    };
    if !client.is_fixed() {
        return Err(Failure::new("Server does not support export lists"));
    }
    let mode = client.choose_mode(Mode::Extended).await?;
    let mut found = Vec::new();
    for (name, description) in client.list().await? {
        let info = client.info(&name).await?;
        let contexts = match info {
            Some(_) => client.list_contexts(&name, &[]).await?,
            None => Vec::new(),
        };
        let told = info.as_ref().and_then(|info| info.description.clone());
        let description = told.or(Some(description)).filter(|text| !text.is_empty());
        found.push(Found { name, description, info, contexts });
    }
    client.abort().await;
    Ok((found, mode))
}

fn text(found: &[Found], mode: Mode) -> String {
    let mut text = format!("exports available: {}\n", found.len());
    for one in found {
        // Writing to a string cannot fail.
        let _ = write_one(&mut text, one, mode);
    }
    text
}

fn write_one(text: &mut String, one: &Found, mode: Mode) -> std::fmt::Result {
    writeln!(text, " export: '{}'", one.name)?;
    if let Some(description) = &one.description {
        writeln!(text, "  description: {description}")?;
    }
    let Some(info) = &one.info else { return Ok(()) };
    writeln!(text, "  size:  {}", info.size)?;
    if info.flags.contains(TransmissionFlags::HAS_FLAGS) {
        write!(text, "  flags: 0x{:x} (", info.flags.bits())?;
        for (_, name) in FLAGS.iter().filter(|(flag, _)| info.flags.contains(*flag)) {
            write!(text, " {name}")?;
        }
        writeln!(text, " )")?;
    }
    if let Some(block) = info.block {
        writeln!(text, "  min block: {}", block.minimum)?;
        writeln!(text, "  opt block: {}", block.preferred)?;
        writeln!(text, "  max block: {}", block.maximum)?;
    }
    let bits = if mode == Mode::Extended { 64 } else { 32 };
    writeln!(text, "  transaction size: {bits}-bit")?;
    if !one.contexts.is_empty() {
        writeln!(text, "  available meta contexts: {}", one.contexts.len())?;
        for context in &one.contexts {
            writeln!(text, "   {}", context.name)?;
        }
    }
    Ok(())
}
