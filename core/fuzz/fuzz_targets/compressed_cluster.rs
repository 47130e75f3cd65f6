//! Compressed clusters, of both codecs.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sectora_fuzz::compressed_cluster(data));
