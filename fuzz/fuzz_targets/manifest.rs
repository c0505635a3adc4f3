#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| durable::fuzzing::fuzz_manifest(bytes));
