//! See [`pctd_fuzz::mode`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pctd_fuzz::mode(data));
