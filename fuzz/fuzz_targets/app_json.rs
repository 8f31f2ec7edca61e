//! No app.json panics its parser.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    let _ = paas_build::app_json::parse(content);
});
