//! L2 entries, plain and extended.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sectora_fuzz::l2_entries(data));
