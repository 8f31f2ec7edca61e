//! Each target over its kept corpus, and for `PAAS_FUZZ_SECONDS` more with inputs made of it, from `PAAS_SEED`.

use std::time::Duration;

use paas_fuzz::{Budget, TARGETS, corpus, run, target};

fn fuzz(name: &str) {
    let target = target(name).expect("a target of this name");
    let number = |variable| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("PAAS_FUZZ_SECONDS").unwrap_or_default();
    let seed = number("PAAS_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    // Said before, so that it is known even where a stack overflow ends the process.
    println!("{name}: PAAS_SEED={seed}");
    let outcome = run(target, Budget::new(Duration::from_secs(seconds), seed));
    let report = outcome.unwrap_or_else(|why| panic!("{name} (PAAS_SEED={seed}): {why}"));
    let rate = report.made.checked_div(seconds).unwrap_or_default();
    println!(
        "{name}: {} kept, {} made ({rate}/s), {} kinds of answers",
        report.corpus, report.made, report.kinds
    );
}

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        $(#[test] fn $name() { fuzz(stringify!($name)); })+

        #[test]
        fn every_target_has_a_test_and_a_small_corpus() {
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$(stringify!($name)),+]);
            for target in TARGETS {
                let kept = corpus(target).expect("its corpus");
                assert!(!kept.is_empty(), "{} has no corpus", target.name);
                let size: usize = kept.iter().map(|(_, input)| input.len()).sum();
                assert!(size < 200 << 10, "{}: {size} bytes are no small corpus", target.name);
            }
        }
    };
}

targets!(
    app_json,
    archive,
    build_output,
    build_result,
    config,
    git_push,
    git_request,
    names,
    procfile,
    proxy_answer,
    proxy_request
);
