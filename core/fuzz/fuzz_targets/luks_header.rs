//! The LUKS header.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sectora_fuzz::luks_header(data));
