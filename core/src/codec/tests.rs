//! Round trips, agreement of the implementations with each other, and damage.

use super::*;
use crate::ErrorKind;
use std::string::String;
use std::vec;
use zlib_rs::{Inflate, InflateFlush, Status};

/// One implementation, whatever features are on.
struct Codec {
    name: &'static str,
    kind: Compression,
    compress: fn(&[u8]) -> Result<Option<Vec<u8>>>,
    decompress: fn(&[u8], usize) -> Result<Vec<u8>>,
}

const CODECS: [Codec; 4] = [
    Codec {
        name: "zlib-rs",
        kind: Compression::Deflate,
        compress: deflate_zlib::compress,
        decompress: deflate_zlib::decompress,
    },
    Codec {
        name: "miniz_oxide",
        kind: Compression::Deflate,
        compress: deflate_miniz::compress,
        decompress: deflate_miniz::decompress,
    },
    Codec {
        name: "C zstd",
        kind: Compression::Zstd,
        compress: zstd_c::compress,
        decompress: zstd_c::decompress,
    },
    Codec {
        name: "zrip",
        kind: Compression::Zstd,
        compress: zstd_zrip::compress,
        decompress: zstd_zrip::decompress,
    },
];

/// The other implementation of the same format.
fn other(codec: &Codec) -> &'static Codec {
    CODECS.iter().find(|c| c.kind == codec.kind && c.name != codec.name).unwrap()
}

/// A small generator of reproducible numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// Data of `len` bytes as clusters have it: words, records, runs and noise in turn.
fn cluster(len: usize, seed: u64) -> Vec<u8> {
    let random = &mut Random(seed | 1);
    let words: Vec<Vec<u8>> = (0..300)
        .map(|_| {
            let n = 2 + random.below(9);
            (0..n).map(|_| b'a' + u8::try_from(random.below(26)).unwrap()).collect()
        })
        .collect();
    let mut out = Vec::with_capacity(len + 4096);
    while out.len() < len {
        match random.below(4) {
            0 => {
                for _ in 0..random.below(600) {
                    out.extend_from_slice(&words[random.below(words.len())]);
                    out.push(b' ');
                }
            }
            1 => {
                for i in 0..random.below(200) {
                    out.extend_from_slice(&(0x0040_1000 + 16 * i as u64).to_le_bytes());
                    out.extend_from_slice(&random.next().to_le_bytes()[..3]);
                }
            }
            2 => {
                let (n, byte) = (random.below(5000), random.next().to_le_bytes()[0]);
                out.resize(out.len() + n, byte);
            }
            _ => {
                let n = random.below(700);
                out.extend(random.bytes(n));
            }
        }
    }
    out.truncate(len);
    out
}

const SIZES: [usize; 17] = [
    1,
    2,
    3,
    7,
    31,
    255,
    512,
    1000,
    4096,
    4097,
    32_768,
    65_535,
    65_536,
    131_072,
    131_073,
    1 << 20,
    2 << 20,
];

#[test]
fn every_size_round_trips_through_both_implementations() {
    let mut compressed = 0;
    for codec in &CODECS {
        for (size, seed) in SIZES.iter().flat_map(|&size| (1..4).map(move |seed| (size, seed))) {
            for data in [cluster(size, seed), vec![0; size], vec![0xe5; size]] {
                let Some(payload) = (codec.compress)(&data).unwrap() else {
                    assert!(size < 600, "{} does not compress {size} bytes", codec.name);
                    continue;
                };
                assert!(payload.len() < data.len(), "{} {size}", codec.name);
                compressed += 1;
                for reader in [codec, other(codec)] {
                    let back = (reader.decompress)(&payload, size).unwrap();
                    assert!(back == data, "{} to {} {size} {seed}", codec.name, reader.name);
                }
            }
        }
    }
    assert!(compressed > 300);
}

#[test]
fn public_calls_round_trip_and_know_their_limits() {
    for kind in [Compression::Deflate, Compression::Zstd] {
        let data = cluster(65_536, 5);
        let payload = compress(kind, &data).unwrap().unwrap();
        assert_eq!(decompress(kind, &payload, data.len()).unwrap(), data);
        assert_eq!(decompress(kind, &payload, 0).unwrap(), b"");
        assert_eq!(compress(kind, b"").unwrap(), None);
        assert_eq!(compress(kind, b"x").unwrap(), None);
        let e = decompress(kind, &payload, MAX_LEN + 1).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Limit);
    }
}

#[test]
fn noise_is_left_as_it_is_and_leaves_no_trace_in_the_kept_state() {
    for codec in &CODECS {
        let data = cluster(65_536, 9);
        let before = (codec.compress)(&data).unwrap().unwrap();
        for size in [2, 100, 4096, 65_536, 2 << 20] {
            let noise = Random(77).bytes(size);
            assert!((codec.compress)(&noise).unwrap().is_none(), "{} {size}", codec.name);
        }
        let half = (codec.decompress)(&before[..before.len() / 2], data.len());
        assert!(half.is_err(), "{}", codec.name);
        assert_eq!((codec.compress)(&data).unwrap().unwrap(), before, "{}", codec.name);
        assert_eq!((codec.decompress)(&before, data.len()).unwrap(), data, "{}", codec.name);
    }
}

#[test]
fn deflate_stays_within_a_window_of_4_kib() {
    let data = cluster(200_000, 3);
    for codec in CODECS.iter().filter(|c| c.kind == Compression::Deflate) {
        let payload = (codec.compress)(&data).unwrap().unwrap();
        // In small steps, so that the decoder has nothing but its window to look back into.
        let (mut back, mut state) = (Vec::new(), Inflate::new(false, 12));
        let mut room = [0; 500];
        loop {
            let (used, given) = (state.total_in(), state.total_out());
            let rest = &payload[usize::try_from(used).unwrap()..];
            let status = state.decompress(rest, &mut room, InflateFlush::NoFlush).unwrap();
            let got = usize::try_from(state.total_out() - given).unwrap();
            back.extend_from_slice(&room[..got]);
            if status == Status::StreamEnd {
                break;
            }
            assert!(got > 0, "{}", codec.name);
        }
        assert!(back == data, "{}", codec.name);
    }
}

#[test]
fn deflate_of_any_window_is_read() {
    let data = cluster(100_000, 12);
    for window_bits in 9..=15 {
        for level in [1, 6, 9] {
            let config = zlib_rs::DeflateConfig {
                window_bits: -window_bits,
                level,
                ..zlib_rs::DeflateConfig::default()
            };
            let mut out = vec![0; 200_000];
            let (payload, status) = zlib_rs::compress_slice(&mut out, &data, config);
            assert_eq!(status, zlib_rs::ReturnCode::Ok);
            for codec in CODECS.iter().filter(|c| c.kind == Compression::Deflate) {
                let back = (codec.decompress)(payload, data.len()).unwrap();
                assert!(back == data, "{} window {window_bits} level {level}", codec.name);
            }
        }
    }
}

#[test]
fn zstd_of_any_level_is_read_by_both() {
    for (size, level) in
        [1000, 65_536, 300_000].iter().flat_map(|&s| (-7..=19).map(move |l| (s, l)))
    {
        let data = cluster(size, 21);
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(size));
        zstd_safe::compress(&mut frame, &data, level).unwrap();
        for codec in CODECS.iter().filter(|c| c.kind == Compression::Zstd) {
            let back = (codec.decompress)(&frame, size).unwrap();
            assert!(back == data, "{} size {size} level {level}", codec.name);
        }
    }
}

#[test]
fn bytes_after_the_stream_do_not_matter() {
    for codec in &CODECS {
        let data = cluster(65_536, 2);
        let payload = (codec.compress)(&data).unwrap().unwrap();
        let another = (codec.compress)(&vec![7; 3000]).unwrap().unwrap();
        for tail in [vec![0; 1], vec![0; 511], vec![0xff; 511], Random(4).bytes(400), another] {
            let long = [payload.clone(), tail].concat();
            for reader in [codec, other(codec)] {
                assert!((reader.decompress)(&long, data.len()).unwrap() == data, "{}", codec.name);
            }
        }
    }
}

#[test]
fn a_stream_that_ends_early_is_corrupt_and_says_how_far_it_went() {
    for codec in &CODECS {
        let data = cluster(65_536, 8);
        let payload = (codec.compress)(&data).unwrap().unwrap();
        let steps = (0..payload.len() - 8).step_by(97).chain([payload.len() - 8]);
        for end in steps {
            let e = (codec.decompress)(&payload[..end], data.len()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{} {end} {e}", codec.name);
        }
        let e = (codec.decompress)(&payload, data.len() + 1).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{} {e}", codec.name);
        assert!(e.what().contains("0x10000 of 0x10001 bytes"), "{} {e}", codec.name);
    }
}

#[test]
fn a_longer_stream_is_cut_by_deflate_and_refused_by_zstd() {
    let data = cluster(65_636, 8);
    for codec in &CODECS {
        let payload = (codec.compress)(&data).unwrap().unwrap();
        let result = (codec.decompress)(&payload, 65_536);
        if codec.kind == Compression::Deflate {
            assert_eq!(result.unwrap(), &data[..65_536], "{}", codec.name);
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt, "{}", codec.name);
        }
    }
}

#[test]
fn damaged_streams_give_an_error_or_bytes_and_both_implementations_agree() {
    let random = &mut Random(0x5eed);
    let (mut accepted, mut refused, mut apart) = (0, 0, String::new());
    for round in 0..25_000 {
        let codec = &CODECS[round % CODECS.len()];
        let data = cluster(1 + random.below(12_000), random.next());
        let Some(mut payload) = (codec.compress)(&data).unwrap() else { continue };
        for _ in 0..=random.below(3) {
            let at = random.below(payload.len());
            match random.below(4) {
                0 => payload[at] ^= 1 << random.below(8),
                1 => payload[at] = random.next().to_le_bytes()[0],
                2 => payload.truncate(at.max(1)),
                _ => payload[..at.min(12)].fill(0xff),
            }
        }
        let out_len = if round % 5 == 0 { 1 + random.below(40_000) } else { data.len() };
        let [a, b] = [codec, other(codec)].map(|c| {
            let result = (c.decompress)(&payload, out_len);
            if let Ok(bytes) = &result {
                assert_eq!(bytes.len(), out_len);
                assert!(bytes.capacity() <= out_len + 128, "{} {}", c.name, bytes.capacity());
            }
            result.ok()
        });
        match (a, b) {
            (Some(a), Some(b)) => {
                assert!(a == b, "round {round}: {} and the other read other bytes", codec.name);
                accepted += 1;
            }
            (None, None) => refused += 1,
            // Where the checks of damaged tables differ, one may refuse what the other reads.
            _ if codec.kind == Compression::Zstd => refused += 1,
            (a, _) => {
                let yes = if a.is_some() { codec } else { other(codec) };
                apart += &format!("round {round}: only {} accepts\n", yes.name);
            }
        }
    }
    assert!(apart.is_empty(), "{apart}");
    assert!(accepted > 500 && refused > 10_000, "{accepted} {refused}");
}

#[test]
fn random_bytes_are_never_more_than_an_error() {
    let random = &mut Random(99);
    for round in 0..20_000 {
        let codec = &CODECS[round % CODECS.len()];
        let n = random.below(600);
        let mut payload = random.bytes(n);
        if codec.kind == Compression::Zstd {
            payload.splice(..0, [0x28, 0xb5, 0x2f, 0xfd]);
        }
        if let Ok(bytes) = (codec.decompress)(&payload, 4096) {
            assert_eq!(bytes.len(), 4096);
        }
    }
}

/// A zstd frame from its parts: descriptor and what follows it, then raw blocks.
fn frame(header: &[u8], blocks: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd];
    out.extend_from_slice(header);
    for (i, (kind, size, bytes)) in blocks.iter().enumerate() {
        let last = u32::from(i + 1 == blocks.len());
        out.extend_from_slice(&(size << 3 | kind << 1 | last).to_le_bytes()[..3]);
        out.extend_from_slice(bytes);
    }
    out
}

fn zstd_both(payload: &[u8], out_len: usize) -> [Result<Vec<u8>>; 2] {
    [zstd_c::decompress(payload, out_len), zstd_zrip::decompress(payload, out_len)]
}

#[test]
fn several_zstd_frames_make_one_cluster() {
    let skip = [&0x184D_2A57u32.to_le_bytes()[..], &[5, 0, 0, 0], b"aside"].concat();
    let empty = frame(&[0x20, 0], &[(0, 0, b"")]);
    let (one, two) =
        (frame(&[0x20, 3], &[(0, 3, b"abc")]), frame(&[0, 0], &[(0, 2, b"de"), (1, 4, b"f")]));
    let all = [&skip[..], &empty, &one, &skip, &empty, &two, &skip].concat();
    for result in zstd_both(&all, 9) {
        assert_eq!(result.unwrap(), b"abcdeffff");
    }
    // The third frame is behind the last byte wanted, whatever it is.
    for result in zstd_both(&[&one[..], &two, &[0x28, 0xb5]].concat(), 9) {
        assert_eq!(result.unwrap(), b"abcdeffff");
    }
    for result in zstd_both(&[&one[..], &two].concat(), 8) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    for result in zstd_both(&[&one[..], &two].concat(), 10) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn zstd_frames_that_ask_for_too_much_are_refused() {
    use ErrorKind::{Corrupt, Limit, Unsupported};
    let data = &[(0, 3, &b"abc"[..])][..];
    let cases: [(&str, Vec<u8>, ErrorKind); 10] = [
        ("a window of 144 MiB", frame(&[0x00, 17 << 3 | 1], data), Limit),
        ("the largest window", frame(&[0x00, 0xff], data), Limit),
        ("2^63 bytes of contents", frame(&[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80], data), Corrupt),
        ("one byte more than there is room", frame(&[0x20, 4], data), Corrupt),
        ("a dictionary", frame(&[0x21, 9, 3], data), Unsupported),
        ("the reserved bit", frame(&[0x28, 3], data), Corrupt),
        ("the reserved block type", frame(&[0x20, 3], &[(3, 3, b"abc")]), Corrupt),
        ("a block past the end", frame(&[0x20, 3], &[(0, 0x1f_ffff, b"abc")]), Corrupt),
        ("a run of 128 KiB", frame(&[0x00, 0], &[(1, 0x2_0000, b"a")]), Corrupt),
        ("another format", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0], Corrupt),
    ];
    for (what, payload, kind) in cases {
        for result in zstd_both(&payload, 3) {
            let e = result.expect_err(what);
            assert_eq!(e.kind(), kind, "{what}: {e}");
        }
    }
    // The largest window that is allowed needs no memory of that size.
    for result in zstd_both(&frame(&[0x00, 17 << 3], data), 3) {
        assert_eq!(result.unwrap(), b"abc");
    }
}

#[test]
fn a_bomb_ends_at_the_cluster() {
    // Deflate: 64 MiB of zeroes in 64 KiB; zstd: 16 MiB of runs in 500 bytes.
    let bomb = zlib_bomb();
    for codec in CODECS.iter().filter(|c| c.kind == Compression::Deflate) {
        assert_eq!((codec.decompress)(&bomb, 65_536).unwrap(), vec![0; 65_536]);
    }
    let runs = vec![(1, 0x2_0000, &b"z"[..]); 128];
    for result in zstd_both(&frame(&[0x00, 0x50], &runs), 65_536) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

fn zlib_bomb() -> Vec<u8> {
    let config =
        zlib_rs::DeflateConfig { window_bits: -15, level: 9, ..zlib_rs::DeflateConfig::default() };
    let mut out = vec![0; 1 << 20];
    let (payload, status) = zlib_rs::compress_slice(&mut out, &vec![0; 64 << 20], config);
    assert_eq!(status, zlib_rs::ReturnCode::Ok);
    payload.to_vec()
}
