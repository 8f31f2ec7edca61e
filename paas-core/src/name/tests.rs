use proptest::prelude::*;

use super::{
    AddonService, AppName, ConfigKey, DomainName, KindName, NameError, PlanName, PrincipalName, ProcessType,
    ProviderName, StepName,
};

/// The position at which it is refused.
fn refused<T: std::str::FromStr<Err = NameError>>(text: &str) -> usize {
    match text.parse::<T>() {
        Err(error) => error.position,
        Ok(_) => panic!("{text:?} is taken for a name"),
    }
}

#[test]
fn app_names_are_dns_labels_of_at_most_30_characters() {
    for good in ["a", "hello", "hello-world-2", "a--b", &"a".repeat(30)] {
        assert_eq!(AppName::new(good).unwrap().as_str(), good);
    }
    assert_eq!(refused::<AppName>(""), 1);
    assert_eq!(refused::<AppName>("Hello"), 1);
    assert_eq!(refused::<AppName>("1app"), 1);
    assert_eq!(refused::<AppName>("-app"), 1);
    assert_eq!(refused::<AppName>("app-"), 4);
    assert_eq!(refused::<AppName>("my_app"), 3);
    assert_eq!(refused::<AppName>("café"), 4);
    assert_eq!(refused::<AppName>(&"a".repeat(31)), 31);
}

#[test]
fn no_name_is_a_path_a_glob_an_option_or_shell_text() {
    for bad in [
        "..",
        ".",
        "/",
        "a/b",
        "a\\b",
        "a b",
        "a\tb",
        "a\nb",
        "a\0b",
        "*",
        "a*",
        "a?",
        "[a]",
        "$a",
        "`a`",
        "a;b",
        "a|b",
        "a&b",
        "a'b",
        "a\"b",
        "-rf",
        "--",
        "~",
        "a.b",
        "a:b",
        "a%b",
        "a,b",
        "{a,b}",
        "a=b",
        "\u{202e}a",
        "ａ",
    ] {
        assert!(bad.parse::<AppName>().is_err(), "{bad:?}");
        assert!(bad.parse::<ProcessType>().is_err(), "{bad:?}");
        assert!(bad.parse::<ConfigKey>().is_err(), "{bad:?}");
        assert!(bad.parse::<StepName>().is_err(), "{bad:?}");
        assert!(bad.parse::<KindName>().is_err(), "{bad:?}");
        assert!(bad.parse::<AddonService>().is_err(), "{bad:?}");
        assert!(bad.parse::<PlanName>().is_err(), "{bad:?}");
        assert!(bad.parse::<ProviderName>().is_err(), "{bad:?}");
    }
}

#[test]
fn config_vars_are_names_of_an_environment() {
    for good in ["A", "_x", "DATABASE_URL", "a1"] {
        assert!(good.parse::<ConfigKey>().is_ok(), "{good}");
    }
    assert_eq!(refused::<ConfigKey>("1A"), 1);
    assert_eq!(refused::<ConfigKey>("__A"), 1);
    assert_eq!(refused::<ConfigKey>("A-B"), 2);
    assert_eq!(refused::<ConfigKey>("A=B"), 2);
    assert_eq!(refused::<ConfigKey>(&"A".repeat(256)), 256);
    for reserved in ["PORT", "DYNO", "HOME", "PAAS_X"] {
        assert!(reserved.parse::<ConfigKey>().unwrap().is_reserved());
    }
    assert!(!"PATH".parse::<ConfigKey>().unwrap().is_reserved());
}

#[test]
fn domains_are_lower_case_host_names_with_at_most_one_wildcard() {
    for (text, domain) in [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("*.example.com", "*.example.com"),
        ("xn--caf-dma.fr", "xn--caf-dma.fr"),
        ("localhost", "localhost"),
    ] {
        assert_eq!(text.parse::<DomainName>().unwrap().as_str(), domain);
    }
    for bad in [
        "", ".", "*", "*.", "a..b", ".a", "-a.b", "a-.b", "a.*.b", "a*.b", "a_b.c", "a b", "a/b", "a:80",
        "café.fr",
    ] {
        assert!(bad.parse::<DomainName>().is_err(), "{bad:?}");
    }
    assert_eq!(refused::<DomainName>("ab.c_d"), 5);
    assert!(format!("{}.com", "a".repeat(64)).parse::<DomainName>().is_err());
    assert!(
        ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)]
            .join(".")
            .parse::<DomainName>()
            .is_err()
    );
}

#[test]
fn an_error_says_what_where_and_which_rule() {
    let error = "my_app".parse::<AppName>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "app name \"my_app\" is not valid at character 3: 1 to 30 of a-z, 0-9 and dashes, beginning with a letter \
         and ending with a letter or digit"
    );
    assert_eq!("x".repeat(5000).parse::<AppName>().unwrap_err().text.len(), 80);
}

#[test]
fn stored_names_are_checked_when_they_are_read() {
    assert_eq!(serde_json::from_str::<AppName>("\"hello\"").unwrap().as_str(), "hello");
    assert!(serde_json::from_str::<AppName>("\"../etc\"").is_err());
    assert_eq!(serde_json::to_string(&AppName::new("hello").unwrap()).unwrap(), "\"hello\"");
    assert_eq!(format!("{:?}", AppName::new("hello").unwrap()), "AppName(hello)");
}

/// Display and parse are inverse, serde goes through both, and whatever is refused says a place inside the text
/// or just after it.
macro_rules! any_text {
    ($($test:ident: $name:ty),* $(,)?) => { proptest! { $(
        #[test]
        fn $test(text in prop_oneof![
            ".{0,40}", "[a-zA-Z0-9_.*-]{0,40}", "[a-z][a-z0-9-]{0,30}", "[A-Z_]{1,10}", "([a-z0-9-]{1,10}\\.){1,6}",
            "[a-z]{0,300}",
        ]) {
            match text.parse::<$name>() {
                Ok(name) => {
                    prop_assert_eq!(&name.to_string().parse::<$name>().unwrap(), &name);
                    let json = serde_json::to_string(&name).unwrap();
                    prop_assert_eq!(serde_json::from_str::<$name>(&json).unwrap(), name);
                }
                Err(error) => {
                    prop_assert!(error.position >= 1);
                    prop_assert!(error.position <= text.chars().count() + 1, "{error}");
                }
            }
        }
    )* } };
}

any_text! {
    any_text_is_an_app_name_or_refused: AppName,
    any_text_is_a_process_type_or_refused: ProcessType,
    any_text_is_a_config_var_or_refused: ConfigKey,
    any_text_is_a_domain_or_refused: DomainName,
    any_text_is_a_step_name_or_refused: StepName,
    any_text_is_a_principal_or_refused: PrincipalName,
}
