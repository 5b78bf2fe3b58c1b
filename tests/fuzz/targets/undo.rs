//! See [`pctd_fuzz::undo`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pctd_fuzz::undo(data));
