#![no_main]

#[path = "../bodies/image.rs"]
#[allow(dead_code)]
mod body;
#[path = "../bodies/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // What is decoded inside the stage keeps its caps by itself. Everything else keeps them in a
    // helper, so that here only libFuzzer's own limits count.
    oracle::within(64 << 20, oracle::TIME, || body::plain(bytes));
    body::image(bytes);
});
