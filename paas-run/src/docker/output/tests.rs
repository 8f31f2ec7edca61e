use super::*;

fn at(nanos: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(nanos)
}

fn said(pieces: &[&str], redactor: &Redactor) -> Vec<(DateTime<Utc>, String)> {
    let (mut line, mut all) = (Line::default(), Vec::new());
    for piece in pieces {
        line.add(piece.as_bytes(), redactor, |at, text| {
            all.push((at, String::from_utf8_lossy(text).into_owned()));
        });
    }
    line.finish(|at, text| all.push((at, String::from_utf8_lossy(text).into_owned())));
    all
}

#[test]
fn the_pieces_of_a_line_become_one_line_with_its_time() {
    let all = said(
        &["1970-01-01T00:00:00.000000005Z one ", "1970-01-01T00:00:00.000000005Z and two\n", "no time\n"],
        &Redactor::new(),
    );
    assert_eq!(all, [(at(5), "one and two\n".into()), (at(5), "no time\n".into())]);
}

#[test]
fn a_line_without_an_end_is_said_in_parts_and_never_cuts_a_secret() {
    let secret = "s3cret-0123456789";
    let mut redactor = Redactor::new();
    redactor.learn_value(secret);
    let (first, second) = secret.split_at(6);
    let begin = format!("1970-01-01T00:00:00.000000005Z {}{first}", "x".repeat(LogLine::MAX_BYTES - 3));
    let end = format!("1970-01-01T00:00:00.000000005Z {second}{}", "y".repeat(10));
    let all = said(&[&begin, &end], &redactor);
    assert_eq!(all.len(), 2);
    assert!(all[1].1.starts_with(secret), "{:?}", all[1]);
}

#[test]
fn what_the_log_has_is_left_out_and_from_the_first_new_line_on_all_are_new() {
    let had = BTreeMap::from([(at(1), 1), (at(2), 2)]);
    let mut again = Again::of(&had);
    assert_eq!([1, 2, 2].map(|time| again.had(at(time))), [true; 3]);
    // Times may go back, as when somebody sets the clock.
    assert_eq!([2, 1, 3].map(|time| again.had(at(time))), [false; 3]);
}
