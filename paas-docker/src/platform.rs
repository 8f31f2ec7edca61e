//! What a platform is called on its daemon.

use std::fmt;
use std::str::FromStr;

use paas_core::{AppName, Error, ErrorCode};

/// What a platform is called on its daemon: the value of [`label::PLATFORM`](crate::label::PLATFORM), and how the names
/// of its containers and networks begin. 1 to 30 of a-z, 0-9 and dashes, as an app's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlatformName(AppName);

impl PlatformName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Default for PlatformName {
    /// `paas`.
    fn default() -> Self {
        Self("paas".parse().expect("four small letters are a name"))
    }
}

impl FromStr for PlatformName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let name = text.parse::<AppName>();
        name.map(Self).map_err(|e| {
            let why = format!("the platform's name on Docker, {text:?}, is not valid at {}", e.position);
            Error::new(ErrorCode::InvalidParams, format!("{why}: it is {}", e.rule))
        })
    }
}

impl fmt::Display for PlatformName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platforms_name_can_stand_in_a_containers_name() {
        assert_eq!(PlatformName::default().to_string(), "paas");
        assert_eq!("prod-eu1".parse::<PlatformName>().unwrap().as_str(), "prod-eu1");
        for bad in ["", "-a", "a_b", "A", "a/b", "a=b", "a,b"] {
            assert_eq!(bad.parse::<PlatformName>().unwrap_err().code(), ErrorCode::InvalidParams, "{bad}");
        }
    }
}
