//! No Procfile panics its parser.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    let _ = paas_build::procfile::parse(content);
});
