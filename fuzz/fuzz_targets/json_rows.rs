#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| formats::rows::fuzzing::fuzz_json_rows(bytes));
