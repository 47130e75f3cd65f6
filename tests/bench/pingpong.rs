//! What a read over a socket costs at the least: one process asks with as many bytes as an NBD
//! request has, the other reads a block of a file (from the page cache) and sends it with a header,
//! both by system calls that wait. `run.mjs` compiles and runs it.
//!
//! `pingpong FILE COUNT` is who asks, and starts the other.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, exit};

const REQUEST: usize = 32;
const HEADER: usize = 40;
const BLOCK: usize = 4096;

fn answer(socket: &str, file: &str) -> std::io::Result<()> {
    let file = File::open(file)?;
    let blocks = file.metadata()?.len() / BLOCK as u64;
    let mut stream = UnixStream::connect(socket)?;
    let (mut request, mut reply) = ([0; REQUEST], [0; HEADER + BLOCK]);
    let mut at = 0;
    while stream.read_exact(&mut request).is_ok() {
        // An odd number of blocks, so that neighbours come late.
        at = (at + 104_729) % blocks;
        file.read_exact_at(&mut reply[HEADER..], at * BLOCK as u64)?;
        stream.write_all(&reply)?;
    }
    Ok(())
}

fn ask(file: &str, count: u64) -> std::io::Result<()> {
    let socket = std::env::temp_dir().join(format!("pingpong-{}", std::process::id()));
    let listener = UnixListener::bind(&socket)?;
    let mut other =
        Command::new(std::env::current_exe()?).arg("answer").arg(&socket).arg(file).spawn()?;
    let (mut stream, _) = listener.accept()?;
    std::fs::remove_file(&socket)?;
    let (request, mut reply) = ([0; REQUEST], [0; HEADER + BLOCK]);
    for _ in 0..count {
        stream.write_all(&request)?;
        stream.read_exact(&mut reply)?;
    }
    drop(stream);
    other.wait().map(drop)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let done = match &args[1..] {
        [first, socket, file] if first == "answer" => answer(socket, file),
        [file, count] => ask(file, count.parse().unwrap_or(20_000)),
        _ => exit(2),
    };
    if let Err(error) = done {
        eprintln!("pingpong: {error}");
        exit(1);
    }
}
