use proptest::prelude::*;

use super::{AppId, ReleaseId, Version, WorkflowId};

#[test]
fn ids_sort_by_the_time_of_their_making() {
    let ids: Vec<_> = (0..2_000).map(|_| WorkflowId::new()).collect();
    assert!(ids.is_sorted());
    let mut texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
    assert!(texts.is_sorted(), "as text, too, as stores sort them");
    texts.dedup();
    assert_eq!(texts.len(), ids.len());
}

#[test]
fn an_id_shows_as_the_bare_uuid_and_debug_says_its_kind() {
    let id = AppId::new();
    assert_eq!(id.to_string(), id.uuid().to_string());
    assert_eq!(format!("{id:?}"), format!("AppId({id})"));
    assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
    assert_eq!(id.to_string().parse::<AppId>().unwrap(), id);
    assert!("nonsense".parse::<ReleaseId>().is_err());
}

#[test]
fn versions_count_from_one_and_show_as_heroku_shows_them() {
    assert_eq!(Version::FIRST.to_string(), "v1");
    assert_eq!(Version::FIRST.next().to_string(), "v2");
    assert_eq!(Version::new(0), None);
    assert_eq!("12".parse::<Version>().unwrap(), "v12".parse().unwrap());
    for bad in [
        "",
        "v",
        "v0",
        "0",
        "-1",
        "v-1",
        "v+1",
        "+1",
        "v1.0",
        "V1",
        "vv1",
        " v1",
        "v1 ",
        "v99999999999",
        "v١",
    ] {
        assert!(bad.parse::<Version>().is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn versions_read_as_they_show(number in 1_u32..) {
        let version = Version::new(number).unwrap();
        prop_assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
    }

    #[test]
    fn any_text_is_a_version_or_refused(text in ".{0,20}") {
        if let Ok(version) = text.parse::<Version>() {
            prop_assert!(version.number() > 0);
        }
    }
}
