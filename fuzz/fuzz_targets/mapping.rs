#![no_main]

#[path = "../bodies/mod.rs"]
#[allow(dead_code)]
mod bodies;
#[path = "../bodies/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    oracle::within(16 << 20, oracle::TIME, || bodies::mapping::mapping(bytes));
});
