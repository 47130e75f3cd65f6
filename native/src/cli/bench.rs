//! `bench`: times a series of requests.

use super::args::{Cache, HostArgs, MAX_INT, MAX_OFFSET, bytes_in, number};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on};
use super::output::print;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use sectora_core::format::Layer;
use sectora_core::io::{Access, BlockDevice, Segments, WriteFlags};
use sectora_core::{Error, ErrorKind};
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print nothing but what was measured, which is what is printed anyway
    #[arg(short, long)]
    quiet: bool,

    /// Format of the image; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    format: Option<String>,

    /// Cache mode: none, writeback, writethrough, directsync or unsafe
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "writeback",
        allow_hyphen_values = true
    )]
    cache: String,

    /// Number of requests
    #[arg(short, long, value_name = "COUNT", default_value = "75000", allow_hyphen_values = true)]
    count: String,

    /// Requests in flight at a time
    #[arg(short, long, value_name = "DEPTH", default_value = "64", allow_hyphen_values = true)]
    depth: String,

    /// Where the first request begins
    #[arg(short, long, value_name = "OFFSET", default_value = "0", allow_hyphen_values = true)]
    offset: String,

    /// Bytes of a request
    #[arg(
        short = 's',
        long,
        value_name = "BUFFER_SIZE",
        default_value = "4096",
        allow_hyphen_values = true
    )]
    buffer_size: String,

    /// From the beginning of a request to that of the next; as much as a request has by default
    #[arg(
        short = 'S',
        long,
        value_name = "STEP_SIZE",
        default_value = "0",
        allow_hyphen_values = true
    )]
    step_size: String,

    /// How file operations are run: threads, native or io_uring
    #[arg(short = 'i', long = "aio-backend", value_name = "AIO", allow_hyphen_values = true)]
    backend: Option<String>,

    /// The same as -i native
    #[arg(short, long)]
    native: bool,

    /// Write; the image's contents are lost
    #[arg(short, long)]
    write: bool,

    /// Write this byte
    #[arg(long, value_name = "PATTERN", default_value = "0", allow_hyphen_values = true)]
    pattern: String,

    /// Flush after so many writes
    #[arg(long, value_name = "FLUSH_INTERVAL", default_value = "0", allow_hyphen_values = true)]
    flush_interval: String,

    /// Do not wait for the writes in flight before a flush
    #[arg(long)]
    no_drain: bool,

    /// Read the image although another program writes to it
    #[arg(short = 'U', long)]
    force_share: bool,

    #[command(flatten)]
    host: HostArgs,

    /// The image
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

/// The series.
#[derive(Clone, Copy, Debug)]
struct Series {
    count: u64,
    depth: u64,
    offset: u64,
    len: u64,
    step: u64,
    /// The byte that is written; `None` to read.
    pattern: Option<u8>,
    /// 0: no flushes.
    flush_interval: u64,
    drain: bool,
}

impl Series {
    fn parse(args: &Args) -> Result<Self, Failure> {
        let count = number("request count", &args.count, 1..=MAX_INT)?;
        let depth = number("queue depth", &args.depth, 1..=MAX_INT)?;
        let offset = bytes_in("offset", &args.offset, 0..=MAX_OFFSET)?;
        let len = bytes_in("buffer size", &args.buffer_size, 1..=MAX_INT)?;
        let step = bytes_in("step size", &args.step_size, 0..=MAX_INT)?;
        let pattern = number("pattern byte", &args.pattern, 0..=0xff)?;
        let flush_interval = number("flush interval", &args.flush_interval, 0..=MAX_INT)?;
        Ok(Self {
            count,
            depth,
            offset,
            len,
            step: if step == 0 { len } else { step },
            // Within a byte, as was just checked.
            pattern: args.write.then_some(pattern as u8),
            flush_interval,
            drain: !args.no_drain,
        })
    }

    fn words(&self) -> String {
        let kind = if self.pattern.is_some() { "write" } else { "read" };
        let mut text = format!(
            "Sending {} {kind} requests, {} bytes each, {} in parallel (starting at offset {}, \
             step size {})\n",
            self.count, self.len, self.depth, self.offset, self.step
        );
        if self.flush_interval > 0 {
            let drain = if self.drain { "" } else { "without draining " };
            text.push_str(&format!(
                "Sending flush {drain}every {} requests\n",
                self.flush_interval
            ));
        }
        text
    }
}

pub(super) fn run(mut args: Args) -> Outcome {
    args.host.check()?;
    let direct_needed = choose_backend(&mut args)?;
    let series = Series::parse(&args)?;
    let [filename] = &args.filenames[..] else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let cache = Cache::parse(&args.cache).ok_or_else(|| Failure::new("Invalid cache mode"))?;
    if series.pattern.is_none() && series.flush_interval > 0 {
        return Err(Failure::new("--flush-interval is only available in write tests"));
    }
    if series.flush_interval > 0 && series.flush_interval < series.depth {
        return Err(Failure::new("Flush interval can't be smaller than depth"));
    }
    let failed = |what: &str| Failure::new(format!("Could not open '{filename}': {what}"));
    if direct_needed && !cache.direct {
        return Err(failed(
            "aio=native was specified, but it requires cache.direct=on, which was not specified.",
        ));
    }
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &args.host, args.force_share);
        let args = &args;
        async move {
            let access = if args.write { Access::ReadWrite } else { Access::ReadOnly };
            let how = Opening { access, ..Opening::to_read(args.format.as_deref(), cache) };
            let image = host.open(filename, how).await?;
            print(&series.words())?;
            let began = Instant::now();
            // A request that does not fit is refused before it is sent: an error of the disk.
            let done = send(&image, series).await.map_err(|e| match e.kind() {
                ErrorKind::InvalidInput => Failure::new("Failed request: Input/output error"),
                _ => Failure::of("Failed request", &e),
            });
            let took = began.elapsed();
            done?;
            if args.write {
                image.close().await?;
            }
            print(&format!("Run completed in {:.3} seconds.\n", took.as_secs_f64()))?;
            Ok(0)
        }
    })
}

/// Takes the choice of `-i` and `-n` over; true where it works around the page cache only.
fn choose_backend(args: &mut Args) -> Result<bool, Failure> {
    use super::args::AioArg;
    let backend = match args.native {
        true => Some("native"),
        false => args.backend.as_deref(),
    };
    let Some(backend) = backend else { return Ok(false) };
    args.host.aio = match backend {
        "threads" => AioArg::Threads,
        "native" => AioArg::Auto,
        "io_uring" => AioArg::IoUring,
        other => return Err(Failure::new(format!("Invalid aio option: {other}"))),
    };
    Ok(backend == "native")
}

/// The offsets of a series: they go round where the image ends.
struct Offsets {
    next: u64,
    step: u64,
    size: u64,
}

impl Offsets {
    fn take(&mut self) -> u64 {
        let at = self.next;
        self.next = self.next.saturating_add(self.step);
        if self.size > 0 {
            self.next %= self.size;
        }
        at
    }
}

async fn send(image: &Layer, series: Series) -> Result<(), Error> {
    let mut offsets = Offsets { next: series.offset, step: series.step, size: image.len() };
    // Cannot be longer than memory is addressed with: at most `MAX_INT`.
    let pattern = series.pattern.map(|byte| Bytes::from(vec![byte; series.len as usize]));
    let request = |at: u64| {
        let pattern = pattern.clone();
        async move {
            match pattern {
                None => image.read(at, series.len).await.map(drop),
                Some(data) => image.write(at, Segments::from(data), WriteFlags::empty()).await,
            }
        }
    };
    let due = |sent: u64| series.flush_interval > 0 && sent.is_multiple_of(series.flush_interval);
    if series.depth == 1 {
        for sent in 1..=series.count {
            request(offsets.take()).await?;
            if due(sent) {
                image.flush().await?;
            }
        }
        return Ok(());
    }
    let mut writes = FuturesUnordered::new();
    let mut flushes = FuturesUnordered::new();
    let mut sent = 0;
    while sent < series.count || !writes.is_empty() {
        while sent < series.count && (writes.len() as u64) < series.depth {
            writes.push(request(offsets.take()));
            sent += 1;
            if !due(sent) {
                continue;
            }
            if series.drain {
                while let Some(done) = writes.next().await {
                    done?;
                }
                image.flush().await?;
            } else {
                flushes.push(image.flush());
            }
        }
        if let Some(done) = writes.next().await {
            done?;
        }
    }
    while let Some(done) = flushes.next().await {
        done?;
    }
    Ok(())
}
