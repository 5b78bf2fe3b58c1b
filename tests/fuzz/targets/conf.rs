//! See [`pctd_fuzz::conf`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pctd_fuzz::conf(data));
