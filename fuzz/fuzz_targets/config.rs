#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| model::fuzzing::fuzz_config(bytes));
