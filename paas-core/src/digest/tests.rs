use proptest::prelude::*;

use super::{Digest, Hasher};

#[test]
fn a_digest_is_the_sha_256_of_its_content() {
    // FIPS 180-2, appendix B.1.
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Digest::of("abc").to_string(), abc);
    assert_eq!(abc.parse::<Digest>().unwrap(), Digest::of("abc"));
    assert_eq!(Digest::of("abc").hex(), abc.strip_prefix("sha256:").unwrap());
    assert_eq!(format!("{:?}", Digest::of("abc")), format!("Digest({abc})"));
}

#[test]
fn parts_do_not_run_together() {
    let of = |parts: &[&str]| Digest::of_parts(parts);
    assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
    assert_ne!(of(&["abc"]), of(&["abc", ""]));
    assert_ne!(of(&[]), of(&[""]));
}

proptest! {
    #[test]
    fn content_has_one_digest_however_it_is_read(content: Vec<u8>, cut: prop::sample::Index) {
        let digest = Digest::of(&content);
        let (one, two) = content.split_at(cut.index(content.len() + 1));
        let mut hasher = Hasher::new();
        hasher.update(one);
        hasher.update(two);
        prop_assert_eq!(hasher.finish(), digest);
        prop_assert_eq!(Digest::of_reader(&mut &content[..]).unwrap(), digest);
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn only_the_one_way_of_writing_a_digest_is_read(
        text in prop_oneof![".{0,90}", "sha256:[0-9a-fA-Fg]{60,66}", "[0-9a-f]{64}", "SHA256:[0-9a-f]{64}"],
    ) {
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text);
        }
    }
}
