//! Operations on an image, against a flat copy.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sectora_fuzz::ops_against_model(data));
