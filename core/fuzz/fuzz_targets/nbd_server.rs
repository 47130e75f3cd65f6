//! The server of NBD.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sectora_fuzz::nbd::server(data));
