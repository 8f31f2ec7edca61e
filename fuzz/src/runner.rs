//! Runs a target: its corpus first, then what can be made of it until the time is up.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;
#[expect(
    clippy::disallowed_types,
    reason = "a budget of real time; nothing here has a clock of its own"
)]
use std::time::Instant;

use crate::Target;
use crate::mutate::{Random, mutate};

/// At most this many inputs that answered in a new way are kept to make others of.
const KEPT: usize = 2000;
/// How often a failing input is tried to be made smaller.
const SMALLER: usize = 2000;

/// For how long, and from where.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Budget {
    /// Time to mutate; none: the corpus alone.
    pub time: Duration,
    /// Decides on every mutation.
    pub seed: u64,
}

impl Budget {
    /// This long from this seed.
    pub fn new(time: Duration, seed: u64) -> Self {
        Self { time, seed }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Inputs of the corpus.
    pub corpus: usize,
    /// Inputs that were made.
    pub made: u64,
    /// Kinds of answers.
    pub kinds: usize,
}

/// The kept inputs of a target, in the order of their names.
///
/// # Errors
/// When its folder can't be read.
pub fn corpus(target: &Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    paths.into_iter().map(|path| Ok((path.clone(), fs::read(path)?))).collect()
}

/// Replays the corpus, then mutates it within the budget.
///
/// # Errors
/// What failed, where its input lies and how to try it again.
#[expect(clippy::disallowed_types, reason = "as above")]
pub fn run(target: &Target, budget: Budget) -> Result<Report, String> {
    let kept = corpus(target).map_err(|e| format!("the corpus of {} can't be read: {e}", target.name))?;
    let mut report = Report { corpus: kept.len(), ..Report::default() };
    let mut kinds = HashSet::new();
    for (path, input) in &kept {
        kinds.insert(attempt(target, input).map_err(|why| {
            format!("{why}\nThe input is {}: cargo xtask fuzz {} tries it again", path.display(), target.name)
        })?);
    }
    let mut pool: Vec<Vec<u8>> = kept.into_iter().map(|(_, input)| input).collect();
    let mut random = Random::new(budget.seed);
    let started = Instant::now();
    while started.elapsed() < budget.time {
        let mut input = random.pick(&pool).cloned().unwrap_or_default();
        mutate(&mut input, &pool, target.words, &mut random);
        report.made += 1;
        match attempt(target, &input) {
            Ok(kind) => {
                if kinds.len() < KEPT && kinds.insert(kind) {
                    pool.push(input);
                }
            }
            Err(why) => return Err(failure(target, budget.seed, &input, &why)),
        }
    }
    report.kinds = kinds.len();
    Ok(report)
}

/// What kind of answer the input gets: without figures, which would make each answer a kind of its own.
fn attempt(target: &Target, input: &[u8]) -> Result<String, String> {
    silence();
    TRYING.set(true);
    let tried = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    TRYING.set(false);
    let mut kind = tried.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    })?;
    kind.retain(|c| !c.is_ascii_digit());
    Ok(kind)
}

thread_local! {
    static TRYING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics that are caught here from being printed: while an input is made smaller there are thousands.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            if !TRYING.get() {
                others(panic);
            }
        }));
    });
}

/// Makes the input smaller, writes it down and says how to go on.
fn failure(target: &Target, seed: u64, input: &[u8], why: &str) -> String {
    let (input, why) = smaller(target, input, why);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let path = path.join(format!("failed-{seed}"));
    let kept = match fs::write(&path, &input) {
        Ok(()) => path.display().to_string(),
        Err(e) => format!("not kept, since {} can't be written ({e})", path.display()),
    };
    let name = target.name;
    let shown = input[..input.len().min(500)].escape_ascii();
    format!(
        "{why}\nThe input: {kept}\n    {shown}\nTo try it again: cargo xtask fuzz {name}; the whole run: PAAS_SEED={seed} cargo xtask fuzz {name}.\n\
         Keep the file under a better name once it passes."
    )
}

/// Leaves out of the input what isn't needed for it to fail: halves first, single bytes last.
fn smaller(target: &Target, input: &[u8], why: &str) -> (Vec<u8>, String) {
    let (mut best, mut says) = (input.to_vec(), why.to_owned());
    let (mut size, mut tries) = (best.len() / 2, 0);
    while size > 0 && tries < SMALLER {
        let mut at = 0;
        while at < best.len() && tries < SMALLER {
            let mut less = best.clone();
            less.drain(at..(at + size).min(less.len()));
            tries += 1;
            match attempt(target, &less) {
                Err(why) => (best, says) = (less, why),
                Ok(_) => at += size,
            }
        }
        size /= 2;
    }
    (best, says)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAGILE: Target = Target {
        name: "names",
        run: |input| {
            assert!(!input.windows(2).any(|two| two == b"zZ"), "it holds zZ");
            String::new()
        },
        words: &[],
    };

    #[test]
    fn a_failing_input_is_made_as_small_as_it_can_be() {
        let (input, why) = smaller(&FRAGILE, b"a long text with zZ in its middle and more", "?");
        assert_eq!((input.as_slice(), why.as_str()), (&b"zZ"[..], "it holds zZ"));
    }
}
