//! The server's life.

use super::args::{Place, Serve};
use super::image::{Image, not_found, open_image};
use super::listen::{listen, words};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::host::Host;
use crate::cli::output::complain;
use crate::export::nbd::{Ended, ServerOptions, run as run_server};
use rustix::stdio;
use sectora_core::bitmap::DirtyBitmap;
use sectora_core::io::{BlockDevice, Runtime};
use sectora_core::nbd::{BitmapContext, Export, ExportOptions};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Set in the environment of a daemon; `activated` where it got its socket from its parent.
pub(in crate::cli) const CHILD: &str = "SECTORA_NBD_DAEMON";
/// What a daemon tells its parent when it is running.
const READY: &[u8] = b"ready\n";

pub(super) fn run(how: Serve, command_line: &[OsString]) -> Outcome {
    let child = how.fork && std::env::var_os(CHILD).is_some();
    if how.fork && !child {
        return start_daemon(&how, command_line);
    }
    if child {
        // Fails where it leads a session already, which is all that is wanted.
        let _ = rustix::process::setsid();
    }
    let started = crate::runtime::block_on(|runtime| serve(how, runtime.into(), child));
    started.map_err(|e| Failure::new(format!("cannot start: {e}")))?
}

/// Starts this program once more, in the background, and waits until it is running.
fn start_daemon(how: &Serve, command_line: &[OsString]) -> Outcome {
    let cannot = |e: std::io::Error| Failure::new(format!("Failed to fork: {}", words(&e)));
    let program = std::env::current_exe().map_err(cannot)?;
    let mut command = Command::new(program);
    if let Some((name, rest)) = command_line.split_first() {
        command.arg0(name).args(rest);
    }
    let activated = matches!(how.place, Place::Activated);
    command.env(CHILD, if activated { "activated" } else { "alone" });
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut daemon = command.spawn().map_err(cannot)?;
    let mut told = Vec::new();
    if let Some(out) = daemon.stdout.as_mut() {
        // Its end, early or late, says the same as an error.
        let _ = out.read_to_end(&mut told);
    }
    if told == READY {
        return Ok(0);
    }
    let status = daemon.wait().map_err(cannot)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    Ok(code.unwrap_or(1))
}

/// Tells the parent, and lets go of its terminal.
fn detach(verbose: bool) -> std::io::Result<()> {
    std::io::stdout().write_all(READY)?;
    std::io::stdout().flush()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    stdio::dup2_stdout(&null)?;
    if !verbose {
        stdio::dup2_stderr(&null)?;
    }
    Ok(())
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
    let mut signals = Signals::new();
    let mut listening = listen(&how.place).await?;
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
    if child {
        detach(how.verbose).map_err(|e| Failure::new(format!("cannot detach: {}", words(&e))))?;
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

/// The signals that end the server.
struct Signals(Vec<Signal>);

impl Signals {
    fn new() -> Self {
        // One that cannot be caught ends the process, as it always did.
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Self(kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect())
    }

    async fn any(&mut self) {
        std::future::poll_fn(|cx| {
            match self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }
}
