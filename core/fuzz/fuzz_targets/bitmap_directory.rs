//! The bitmap directory.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sectora_fuzz::bitmap_directory(data));
