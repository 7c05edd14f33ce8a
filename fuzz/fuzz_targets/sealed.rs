#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vexfs_vector::fuzzing::sealed(bytes));
