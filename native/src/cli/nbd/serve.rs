//! The server's life.

use super::args::{Place, Serve, connect};
use super::image::{Image, not_found, open_image};
use super::listen::{listen, words};
use crate::cli::background::{self, CHILD};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::host::Host;
use crate::cli::output::complain;
use crate::cli::signal::Endings;
use crate::export::nbd::{Ended, ServerOptions, run as run_server};
use sectora_core::bitmap::DirtyBitmap;
use sectora_core::io::{BlockDevice, Runtime};
use sectora_core::nbd::{BitmapContext, Export, ExportOptions};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use tokio::sync::mpsc;

pub(super) fn run(how: Serve, command_line: &[OsString]) -> Outcome {
    let child = how.fork && std::env::var_os(CHILD).is_some();
    if how.fork && !child {
        // A child does not know by itself that its socket came from its parent.
        let activated = matches!(how.place, Place::Activated);
        return background::start(command_line, if activated { "activated" } else { "alone" });
    }
    if child {
        // Fails where it leads a session already, which is all that is wanted.
        let _ = rustix::process::setsid();
    }
    let started = crate::runtime::block_on(|runtime| serve(how, runtime.into(), child));
    started.map_err(|e| Failure::new(format!("cannot start: {e}")))?
}

fn write_pid(path: &str) -> Result<(), Failure> {
    let cannot =
        |e: std::io::Error| Failure::new(format!("Could not create '{path}': {}", words(&e)));
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).map_err(cannot)?;
    writeln!(file, "{}", std::process::id()).map_err(cannot)
}

async fn serve(how: Serve, runtime: Arc<dyn Runtime>, child: bool) -> Outcome {
    // From here on a signal ends the program the way an end does.
    let mut signals = Endings::new();
    let mut listening = listen(&how.place, how.selinux_label.as_deref()).await?;
    if how.image_opts && how.format.is_some() {
        return Err(Failure::new("--image-opts and -f are mutually exclusive"));
    }
    let host = Host::by_itself(runtime, how.objects.clone(), how.aio, false)
        .with_image_opts(how.image_opts);
    let image = open_image(&host, &how).await?;
    let layer = image.layer.clone();
    let (containing, offset) = (layer.len(), how.offset);
    if offset > i64::MAX as u64 {
        let given = offset.cast_signed();
        let text = format!("Value '{given}' is out of range for parameter 'offset'");
        return Err(Failure::new(text));
    }
    if offset > containing {
        let text = format!(
            "Offset ({offset}) cannot be greater than size of the containing file ({containing})"
        );
        return Err(Failure::new(text));
    }
    let options = ExportOptions {
        description: how.description.clone(),
        read_only: how.read_only,
        shared: how.shared != 1,
        allocation_depth: how.allocation_depth,
        offset: how.offset,
        length: Some(containing - how.offset),
        writethrough: how.writethrough,
        discard: how.discard,
        detect_zeroes: how.detect_zeroes,
    };
    let mut export = Export::new(&how.name, layer.clone(), options)?;
    let bitmaps = bitmaps(&image, &how).await?;
    for bitmap in &bitmaps {
        export.add_context(Box::new(BitmapContext::new(bitmap.clone())))?;
    }
    let export = Arc::new(export);
    if let Some(path) = &how.pid_file {
        write_pid(path)?;
    }
    if let Some(device) = &how.connect {
        connect(device)?;
    }
    if child {
        background::detach(how.verbose)?;
    }
    let options = ServerOptions {
        tls: how.tls.clone(),
        authz: how.authz.clone(),
        handshake_limit: how.handshake_limit,
        max_connections: how.shared,
    };
    let (tell, mut ended) = mpsc::unbounded_channel();
    let listeners = std::mem::take(&mut listening.listeners);
    {
        let mut server = std::pin::pin!(run_server(listeners, Arc::from([export]), options, tell));
        loop {
            tokio::select! {
                result = &mut server => result?,
                () = signals.any() => break,
                Some(end) = ended.recv() => {
                    if how.verbose || matches!(&end.error, Some(e) if is_worth_a_line(e)) {
                        tell_of(&end);
                    }
                    if end.negotiated && end.last && !how.persistent {
                        break;
                    }
                }
            }
        }
    }
    drop(listening);
    bitmaps.iter().for_each(|bitmap| bitmap.set_busy(false));
    layer.close().await?;
    Ok(0)
}

/// The bitmaps to serve, the last one first, as they are listed. They are busy from here on.
async fn bitmaps(image: &Image, how: &Serve) -> Result<Vec<Arc<DirtyBitmap>>, Failure> {
    let mut found = Vec::new();
    for name in &how.bitmaps {
        // A part of a disk is another disk, which has none.
        let bitmap = match how.offset {
            0 => image.bitmap(name).await?,
            _ => return Err(not_found(name)),
        };
        found.insert(0, bitmap);
    }
    found.iter().for_each(|bitmap| bitmap.set_busy(true));
    Ok(found)
}

/// Clients that broke off are nobody's concern; those that broke rules may be.
fn is_worth_a_line(error: &sectora_core::Error) -> bool {
    error.kind() != sectora_core::ErrorKind::Io
}

fn tell_of(end: &Ended) {
    let Some(error) = &end.error else { return };
    let what = if end.negotiated { "disconnected client" } else { "option negotiation failed" };
    complain(&format!("qemu-nbd: {what}: {error}"));
}
