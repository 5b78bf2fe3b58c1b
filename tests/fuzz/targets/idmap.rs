//! See [`pctd_fuzz::idmap`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pctd_fuzz::idmap(data));
