#![no_main]

libfuzzer_sys::fuzz_target!(
    // Its hook ends the process at any panic; the upstream reader's, which the target catches, must not.
    init: drop(std::panic::take_hook()),
    |bytes: &[u8]| formats::rows::fuzzing::fuzz_arrow(bytes)
);
