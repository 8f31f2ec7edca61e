//! No text panics a name's parser, and what is parsed prints as what was parsed.
#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use paas_core::{AppName, ConfigKey, Digest, DomainName, PrincipalName, ProcessType, StepName, Version};

fn round_trip<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(name) = text.parse::<T>() {
        let again = name.to_string().parse::<T>();
        assert!(again.is_ok_and(|again| again == name), "{text:?}");
    }
}

fuzz_target!(|text: &str| {
    round_trip::<AppName>(text);
    round_trip::<ConfigKey>(text);
    round_trip::<Digest>(text);
    round_trip::<DomainName>(text);
    round_trip::<PrincipalName>(text);
    round_trip::<ProcessType>(text);
    round_trip::<StepName>(text);
    round_trip::<Version>(text);
});
