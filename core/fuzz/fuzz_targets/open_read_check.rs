//! Whole images: opened, described, mapped, read, checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sectora_fuzz::open_read_check(data));
