//! See [`pctd_fuzz::pmxcfs`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pctd_fuzz::pmxcfs(data));
