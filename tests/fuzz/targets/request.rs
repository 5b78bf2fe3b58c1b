//! See [`pctd_fuzz::request`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pctd_fuzz::request(data));
