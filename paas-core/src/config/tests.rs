use proptest::prelude::*;

use super::{ConfigValue, ConfigVars, Redactor};
use crate::ErrorCode;

const SECRET: &str = "correct horse battery staple";

fn vars(pairs: &[(&str, &str)]) -> ConfigVars {
    pairs.iter().fold(ConfigVars::new(), |vars, (key, value)| vars.with(key, value).unwrap())
}

#[test]
fn debug_shows_names_and_no_values() {
    let vars = vars(&[("A", SECRET), ("B", "")]);
    let shown = format!("{vars:?} {:?} {:?}", vars.get("A"), Redactor::knowing(&vars));
    assert!(shown.contains("\"A\": [redacted]") && !shown.contains("horse"), "{shown}");
}

#[test]
fn a_value_may_be_anything_an_environment_can_hold() {
    for value in ["", " ", "a=b", "several\nlines", "é🦀", "'; rm -rf /"] {
        assert_eq!(ConfigValue::new(value).unwrap().expose(), value);
    }
    let error = ConfigValue::new("secret\0value").unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidParams);
    assert!(!format!("{error} {error:?}").contains("secret"), "a refused value isn't shown, either");
    assert!(ConfigVars::new().with("no-name", "x").is_err());
}

#[test]
fn all_config_vars_of_an_app_have_64_kib() {
    let most = vars(&[("A", &"x".repeat(ConfigVars::MAX_BYTES - 1))]);
    most.check_size().unwrap();
    let error = most.with("B", "").unwrap().check_size().unwrap_err();
    assert_eq!(error.code(), ErrorCode::LimitExceeded);
    assert!(error.message().contains("65537"), "{error}");
}

#[test]
fn later_config_vars_win() {
    let mut all = vars(&[("A", "1"), ("B", "1")]);
    all.extend(vars(&[("B", "2"), ("C", "2")]));
    assert_eq!(all, vars(&[("A", "1"), ("B", "2"), ("C", "2")]));
    assert_eq!(all.len(), 3);
    assert_eq!(all.remove(&"A".parse().unwrap()).unwrap().expose(), "1");
    assert_eq!(all.keys().map(crate::ConfigKey::as_str).collect::<Vec<_>>(), ["B", "C"]);
}

#[test]
fn known_values_are_taken_out_of_text() {
    let redactor = Redactor::knowing(&vars(&[("URL", "postgres://u:pass@h/db"), ("SHORT", "true")]));
    assert_eq!(redactor.redact("url=postgres://u:pass@h/db!"), "url=[redacted]!");
    assert_eq!(redactor.redact("it is true"), "it is true", "short values would make text unreadable");
    assert_eq!(Redactor::new().redact("nothing is known"), "nothing is known");
}

#[test]
fn a_value_inside_another_leaves_nothing_of_the_longer_one() {
    for order in [["password", "password-and-more"], ["password-and-more", "password"]] {
        let mut redactor = Redactor::new();
        for value in order {
            redactor.learn_value(value);
        }
        assert_eq!(redactor.redact("x password-and-more y password z"), "x [redacted] y [redacted] z");
    }
}

#[test]
fn a_value_of_several_lines_is_known_by_each_line() {
    let key = "-----BEGIN KEY-----\n  MIIEvQIBADANBg\n\nshort\r\nabcdefghijkl\r\n";
    let redactor = Redactor::knowing(&vars(&[("KEY", key)]));
    assert_eq!(redactor.redact("line: MIIEvQIBADANBg;"), "line: [redacted];");
    assert_eq!(redactor.redact("abcdefghijkl"), "[redacted]");
    assert_eq!(redactor.redact("short"), "short");
}

#[test]
fn the_password_in_a_url_is_known_by_itself() {
    let mut redactor = Redactor::new();
    redactor.learn_value("postgres://user:s3cret-s3cret@db.example:5432/app");
    assert_eq!(redactor.redact("password=s3cret-s3cret user"), "password=[redacted] user");
    assert_eq!(redactor.redact("db.example"), "db.example");
}

proptest! {
    #[test]
    fn no_known_value_is_left_in_any_text(
        values in prop::collection::vec("[a-e]{8,12}", 1..4),
        before in "[a-e ]{0,20}",
        after in "[a-e ]{0,20}",
    ) {
        let mut redactor = Redactor::new();
        for value in &values {
            redactor.learn_value(value);
        }
        for value in &values {
            let text = redactor.redact(&format!("{before}{value}{after}"));
            prop_assert!(values.iter().all(|value| !text.contains(value)), "{text}");
        }
    }
}
