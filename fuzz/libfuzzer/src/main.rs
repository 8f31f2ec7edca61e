//! The target that `PAAS_FUZZ_TARGET` names, below libFuzzer, which sees which branches an input takes.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use paas_fuzz::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("PAAS_FUZZ_TARGET").expect("PAAS_FUZZ_TARGET names a target");
    paas_fuzz::target(&name).expect("a target of this name")
});

fuzz_target!(|input: &[u8]| drop((TARGET.run)(input)));
