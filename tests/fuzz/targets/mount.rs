//! See [`pctd_fuzz::mount`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pctd_fuzz::mount(data));
