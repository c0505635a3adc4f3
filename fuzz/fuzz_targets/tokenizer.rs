#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| data::fuzzing::fuzz_tokenizer(bytes));
