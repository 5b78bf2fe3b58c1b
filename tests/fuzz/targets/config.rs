//! See [`pctd_fuzz::config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pctd_fuzz::config(data));
