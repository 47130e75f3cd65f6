//! `read`, `readv`, `write`, `writev`, `aio_read`, `aio_write`, `aio_flush`.

use super::super::failure::reason;
use super::super::output::{complain, print};
use super::commands::Command;
use super::disk::Disk;
use super::getopt::{Found, Options};
use super::numbers::{LONGEST, Report, bytes, dump, pattern};
use super::session::{Done, Session, Stop, say};
use bytes::Bytes;
use sectora_core::Result;
use sectora_core::io::{Segment, Segments, WriteFlags, ZeroFlags};
use std::time::Instant;

/// What a buffer holds where nothing else is asked for.
const FILL: u8 = 0xcd;

/// A buffer is made of shared pieces of about this size.
const PIECE: usize = 1 << 20;

/// Options of reads and writes.
#[derive(Clone, Debug, Default)]
struct Request {
    terse: bool,
    quiet: bool,
    dump: bool,
    durable: bool,
    compressed: bool,
    zero: bool,
    unmap: bool,
    no_fallback: bool,
    vm_state: bool,
    invalid: bool,
    pattern: Option<u8>,
    /// The part of a read that is compared with the pattern: where it begins, and its length.
    from: Option<u64>,
    only: Option<u64>,
    source: Option<String>,
}

/// Says `text` and ends the command, where it is not right.
fn right<T>(result: std::result::Result<T, String>) -> Done<T> {
    result.map_err(say)
}

impl Request {
    /// Reads the options of a line. Gives the other words too.
    fn parse<'a>(
        letters: &'a str,
        command: &Command,
        words: &[&'a str],
    ) -> Done<(Self, Vec<&'a str>)> {
        let mut request = Self::default();
        let mut options = Options::new(words[0], letters, &[], &words[1..]);
        for option in options.by_ref() {
            let Found { letter, value } = option.map_err(|text| {
                complain(&text);
                usage(command)
            })?;
            let value = value.unwrap_or_default();
            match letter {
                'C' => request.terse = true,
                'q' => request.quiet = true,
                'v' => request.dump = true,
                'f' => request.durable = true,
                'c' => request.compressed = true,
                'z' => request.zero = true,
                'u' => request.unmap = true,
                'n' => request.no_fallback = true,
                'b' => request.vm_state = true,
                'i' => request.invalid = true,
                'P' => request.pattern = Some(right(pattern(&value))?),
                's' if command.writes => request.source = Some(value),
                's' => request.from = Some(right(bytes(&value))?),
                'l' => request.only = Some(right(bytes(&value))?),
                // `-p` and `-r` choose among calls that are one here.
                _ => {}
            }
        }
        Ok((request, options.operands()))
    }

    /// What a read shows: a mismatch with the pattern, the bytes, the numbers. False with a
    /// mismatch.
    fn shown(&self, offset: u64, len: u64, parts: &[Segments], started: Instant) -> (String, bool) {
        let took = started.elapsed();
        let mut text = String::new();
        let mut matches = true;
        if let Some(wanted) = self.pattern {
            let from = self.from.unwrap_or(0);
            let only = self.only.unwrap_or(len - from.min(len));
            matches = holds(parts, from, only, wanted);
            if !matches {
                text = format!(
                    "Pattern verification failed at offset {}, {only} bytes\n",
                    offset + from
                );
            }
        }
        if self.quiet {
            return (text, matches);
        }
        if self.dump {
            let data: Vec<u8> = parts.iter().flat_map(Segments::to_vec).collect();
            text.push_str(&dump(offset, &data));
        }
        let terse = self.terse;
        text.push_str(&Report { verb: "read", offset, bytes: len, took, terse }.text());
        (text, matches)
    }

    fn wrote(&self, offset: u64, len: u64, started: Instant) -> String {
        let report = Report {
            verb: "wrote",
            offset,
            bytes: len,
            took: started.elapsed(),
            terse: self.terse,
        };
        if self.quiet { String::new() } else { report.text() }
    }

    fn zero_flags(&self) -> ZeroFlags {
        let mut flags = ZeroFlags::empty();
        flags.set(ZeroFlags::MAY_UNMAP, self.unmap);
        flags.set(ZeroFlags::NO_FALLBACK, self.no_fallback);
        flags
    }

    fn write_flags(&self) -> WriteFlags {
        let mut flags = WriteFlags::empty();
        flags.set(WriteFlags::FUA, self.durable);
        flags.set(WriteFlags::COMPRESSED, self.compressed);
        flags
    }
}

/// The command in a line, as the answer to words that make no sense.
fn usage(command: &Command) -> Stop {
    say(command.line(command.name).trim_end())
}

/// True where `len` bytes at `from` of the parts, one after the other, are `wanted`.
fn holds(parts: &[Segments], from: u64, len: u64, wanted: u8) -> bool {
    let (mut at, end) = (0, from + len);
    for part in parts {
        let (start, stop) = (from.max(at), end.min(at + part.len()));
        if start < stop {
            let inside = part.slice(start - at, stop - start);
            let same = inside.as_slice().iter().all(|segment| match segment {
                Segment::Zero(_) => wanted == 0,
                Segment::Data(bytes) => bytes.iter().all(|byte| *byte == wanted),
            });
            if !same {
                return false;
            }
        }
        at += part.len();
    }
    true
}

/// `len` bytes of `piece` over and over. The pieces are shared: it takes the memory of one.
fn repeated(piece: &Bytes, len: u64) -> Segments {
    let mut data = Segments::new();
    while data.len() < len {
        let left = usize::try_from(len - data.len()).unwrap_or(usize::MAX).min(piece.len());
        data.push_data(piece.slice(..left));
    }
    data
}

fn filled(byte: u8, len: u64) -> Segments {
    let piece = PIECE.min(usize::try_from(len).unwrap_or(PIECE));
    repeated(&vec![byte; piece].into(), len)
}

/// `len` bytes of what the file called `name` holds, over and over.
fn from_file(name: &str, len: u64) -> Done<Segments> {
    use std::io::Read;
    let failed = |e: std::io::Error| {
        let text = e.to_string();
        let words = text.rsplit_once(" (os error").map_or(text.as_str(), |(words, _)| words);
        complain(&format!("{name}: {words}"));
        Stop::Failed
    };
    let mut file = std::fs::File::open(name).map_err(failed)?.take(len);
    let mut data = Vec::new();
    file.read_to_end(&mut data).map_err(failed)?;
    if data.is_empty() && len > 0 {
        complain(&format!("{name}: file is empty"));
        return Err(Stop::Failed);
    }
    // Larger pieces make fewer of them; whole repetitions keep the order.
    let whole = data.len();
    while data.len() < PIECE / 2 && (data.len() as u64) < len {
        data.extend_from_within(..whole);
    }
    Ok(repeated(&data.into(), len))
}

/// One length.
fn length(text: &str, most_says: &str) -> Done<u64> {
    let len = right(bytes(text))?;
    if len > LONGEST {
        return Err(say(format!("length cannot exceed {LONGEST}{most_says}, given {text}")));
    }
    Ok(len)
}

/// The sum of several lengths.
fn lengths(texts: &[&str]) -> Done<u64> {
    let mut sum: u64 = 0;
    for text in texts {
        let len = right(bytes(text))?;
        if len > LONGEST {
            return Err(say(format!("Argument '{text}' exceeds maximum size {LONGEST}")));
        }
        sum += len;
        if sum > LONGEST {
            let what = "The total number of bytes exceed the maximum size";
            return Err(say(format!("{what} {LONGEST}")));
        }
    }
    Ok(sum)
}

fn whole_sectors(what: &str, value: u64) -> Done {
    match value.is_multiple_of(512) {
        true => Ok(()),
        false => Err(say(format!("{value} is not a sector-aligned value for '{what}'"))),
    }
}

/// `read` and `readv`.
pub(super) async fn read(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let vector = command.name == "readv";
    let letters = if vector { "CP:qrv" } else { "bCl:pP:qrs:v" };
    let (request, operands) = Request::parse(letters, command, words)?;
    if vector && operands.len() < 2 || !vector && operands.len() != 2 {
        return Err(usage(command));
    }
    let offset = right(bytes(operands[0]))?;
    let len = match vector {
        true => lengths(&operands[1..])?,
        false => length(operands[1], "")?,
    };
    if request.pattern.is_none() && (request.from.is_some() || request.only.is_some()) {
        return Err(usage(command));
    }
    let from = request.from.unwrap_or(0);
    let only = request.only.unwrap_or(len.saturating_sub(from));
    if from.checked_add(only).is_none_or(|end| end > len) {
        return Err(say("pattern verification range exceeds end of read data"));
    }
    if request.vm_state {
        whole_sectors("offset", offset)?;
        whole_sectors("count", len)?;
    }
    let disk = session.disk()?.clone();
    let started = Instant::now();
    let result = match request.vm_state {
        true => session.wait(disk.load_vm_state(offset, len)).await?,
        false => session.wait(disk.read(offset, len)).await?,
    };
    let doing = if vector { "readv" } else { "read" };
    let parts = result.map_err(|e| session.failed(doing, &e))?;
    let (text, matches) = request.shown(offset, len, &parts, started);
    print(&text)?;
    if matches { Ok(()) } else { Err(Stop::Failed) }
}

/// `write`.
pub(super) async fn write(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let (request, operands) = Request::parse("bcCfnpP:qrs:uz", command, words)?;
    let Request { vm_state, compressed, zero, .. } = request;
    let [offset, count] = operands[..] else { return Err(usage(command)) };
    if vm_state && zero {
        return Err(say("-b and -z cannot be specified at the same time"));
    }
    if (vm_state || compressed) && request.durable {
        return Err(say("-f and -b or -c cannot be specified at the same time"));
    }
    if request.no_fallback && !zero {
        return Err(say("-n requires -z to be specified"));
    }
    if request.unmap && !zero {
        return Err(say("-u requires -z to be specified"));
    }
    let fillings = [zero, request.pattern.is_some(), request.source.is_some()];
    if fillings.into_iter().filter(|given| *given).count() > 1 {
        return Err(say("Only one of -z, -P, and -s can be specified at the same time"));
    }
    let offset = right(bytes(offset))?;
    let len = match request.no_fallback {
        true => right(bytes(count))?,
        false => length(count, " without -n")?,
    };
    if vm_state || compressed {
        whole_sectors("offset", offset)?;
        whole_sectors("count", len)?;
    }
    let data = match (&request.source, zero) {
        (_, true) => Segments::new(),
        (Some(name), _) => from_file(name, len)?,
        _ => filled(request.pattern.unwrap_or(FILL), len),
    };
    let disk = session.disk()?.clone();
    let started = Instant::now();
    let work = async {
        match () {
            () if vm_state => disk.save_vm_state(offset, &data).await,
            () if zero => {
                disk.write_zeroes(offset, len, request.zero_flags(), request.durable).await
            }
            () => disk.write(offset, &data, request.write_flags()).await,
        }
    };
    session.wait(work).await?.map_err(|e| session.failed("write", &e))?;
    print(&request.wrote(offset, len, started))?;
    Ok(())
}

/// `writev`.
pub(super) async fn writev(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let (request, operands) = Request::parse("CfqrP:", command, words)?;
    if operands.len() < 2 {
        return Err(usage(command));
    }
    let offset = right(bytes(operands[0]))?;
    let len = lengths(&operands[1..])?;
    let disk = session.disk()?.clone();
    let data = filled(request.pattern.unwrap_or(FILL), len);
    let started = Instant::now();
    let work = disk.write(offset, &data, request.write_flags());
    session.wait(work).await?.map_err(|e| session.failed("writev", &e))?;
    print(&request.wrote(offset, len, started))?;
    Ok(())
}

/// `aio_read`.
pub(super) async fn aio_read(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let (request, operands) = Request::parse("CP:iqrv", command, words)?;
    if request.invalid {
        print("injecting invalid read request\n")?;
        return Ok(());
    }
    if operands.len() < 2 {
        return Err(usage(command));
    }
    let offset = right(bytes(operands[0]))?;
    let len = lengths(&operands[1..])?;
    let disk = session.disk()?.clone();
    let started = Instant::now();
    let flight = async move {
        match disk.read(offset, len).await {
            Ok(parts) => request.shown(offset, len, &parts, started).0,
            Err(error) => format!("readv failed: {}\n", reason(&error)),
        }
    };
    session.launch(Box::pin(flight)).await;
    Ok(())
}

/// `aio_write`.
pub(super) async fn aio_write(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let (request, operands) = Request::parse("CfiP:qruz", command, words)?;
    if request.invalid {
        print("injecting invalid write request\n")?;
        return Ok(());
    }
    if operands.len() < 2 {
        return Err(usage(command));
    }
    if request.zero && operands.len() != 2 {
        return Err(say("-z supports only a single length parameter"));
    }
    if request.unmap && !request.zero {
        return Err(say("-u requires -z to be specified"));
    }
    let offset = right(bytes(operands[0]))?;
    let (len, data) = match request.zero {
        true => (right(bytes(operands[1]))?, Segments::new()),
        false => {
            let len = lengths(&operands[1..])?;
            (len, filled(request.pattern.unwrap_or(FILL), len))
        }
    };
    let disk = session.disk()?.clone();
    let started = Instant::now();
    let flight = async move {
        match aio_written(&disk, &request, offset, len, &data).await {
            Ok(()) => request.wrote(offset, len, started),
            Err(error) => format!("aio_write failed: {}\n", reason(&error)),
        }
    };
    session.launch(Box::pin(flight)).await;
    Ok(())
}

async fn aio_written(
    disk: &Disk,
    request: &Request,
    offset: u64,
    len: u64,
    data: &Segments,
) -> Result<()> {
    match request.zero {
        true => disk.write_zeroes(offset, len, request.zero_flags(), request.durable).await,
        false => disk.write(offset, data, request.write_flags()).await,
    }
}
