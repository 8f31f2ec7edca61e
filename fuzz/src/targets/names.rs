//! Names: what is parsed prints as what was parsed, and never as something that means more to a shell or a path.

use std::fmt::Display;
use std::str::FromStr;

use paas_core::{
    AddonService, AppName, ConfigKey, Digest, DomainName, PlanName, PrincipalName, ProcessType, StepName,
    Version,
};

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "names",
    run,
    words: &[
        "sha256:",
        "web",
        "release",
        "v1",
        ".example.com",
        "xn--",
        "*.",
        "..",
        "/",
        "--",
        "_",
        "\u{130}",
        "\u{feff}",
    ],
};

fn run(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let parsed = [
        round_trip::<AddonService>(&text),
        round_trip::<AppName>(&text),
        round_trip::<ConfigKey>(&text),
        round_trip::<Digest>(&text),
        round_trip::<DomainName>(&text),
        round_trip::<PlanName>(&text),
        round_trip::<PrincipalName>(&text),
        round_trip::<ProcessType>(&text),
        round_trip::<StepName>(&text),
        round_trip::<Version>(&text),
    ];
    if text.parse::<AppName>().is_ok() || text.parse::<ProcessType>().is_ok() {
        let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        assert!(text.chars().all(harmless) && !text.starts_with('-'), "{text:?} is no name for a path");
    }
    parsed.concat()
}

fn round_trip<T: FromStr<Err: Display> + Display + PartialEq>(text: &str) -> String {
    match text.parse::<T>() {
        Ok(name) => {
            let again = name.to_string().parse::<T>();
            assert!(again.is_ok_and(|again| again == name), "{text:?} prints as something else");
            "+".to_owned()
        }
        Err(error) => {
            let words = error.to_string();
            assert!(words.len() < 1000, "an error of {} bytes", words.len());
            let rule = words.rsplit(':').next().unwrap_or_default();
            rule.chars().filter(char::is_ascii_alphabetic).take(30).collect()
        }
    }
}
