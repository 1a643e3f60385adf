#![no_main]

#[path = "../bodies/image.rs"]
#[allow(dead_code)]
mod body;
#[path = "../bodies/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    oracle::within(64 << 20, oracle::TIME, || body::decoders(bytes));
});
