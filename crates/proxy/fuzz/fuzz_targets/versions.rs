#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trundle_proxy::fuzzing::versions(bytes));
