//! What a push wants to change, and which of it deploys.

use std::fmt;

use paas_core::{Error, ErrorCode, Result};

/// The name of a git object: 40 or 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Oid(String);

impl Oid {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (matches!(text.len(), 40 | 64) && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// git's word for "nothing": what a new branch was, and what a deleted one becomes.
    pub(crate) fn is_nothing(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// As people see it.
    pub(crate) fn short(&self) -> &str {
        &self.0[..7]
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of what git gives to the pre-receive hook: a reference, what the pusher saw there, what it should become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) old: Oid,
    pub(crate) new: Oid,
    pub(crate) reference: String,
}

impl Update {
    /// Reads `OLD NEW REFERENCE` lines.
    pub(crate) fn parse_all(text: &str) -> Result<Vec<Self>> {
        let broken = || Error::new(ErrorCode::BadSource, "git told of an update that can't be read");
        let parse = |line: &str| {
            let mut parts = line.splitn(3, ' ');
            let (old, new, reference) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Self { old: Oid::parse(old)?, new: Oid::parse(new)?, reference: reference.to_owned() })
        };
        text.lines().map(|line| parse(line).ok_or_else(broken)).collect()
    }

    fn branch(&self) -> Option<&str> {
        self.reference.strip_prefix("refs/heads/")
    }
}

/// A push, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is deployed: the branch's name and its update.
    pub(crate) deploy: Option<(String, Update)>,
    /// Branches that are only kept.
    pub(crate) kept: Vec<String>,
}

/// Sorts a push. All that git would refuse after the hook, and so after a whole deploy, is refused here.
///
/// # Errors
/// `invalid_params`: the push is refused as a whole.
pub(crate) fn plan(updates: Vec<Update>, deploying: &[String]) -> Result<Plan> {
    let refused = |what: String| Err(Error::new(ErrorCode::InvalidParams, what));
    let mut plan = Plan { deploy: None, kept: Vec::new() };
    for update in updates {
        if update.new.is_nothing() {
            return refused(format!(
                "{} can't be deleted here: what is pushed stays, and destroying the app removes it all",
                update.reference
            ));
        }
        let Some(branch) = update.branch().map(str::to_owned) else {
            if update.reference.starts_with("refs/tags/") {
                continue;
            }
            return refused(format!(
                "{} is neither a branch nor a tag, and only those can be pushed here",
                update.reference
            ));
        };
        // git can't have a branch and a folder of branches under one name.
        let above = deploying.iter().find(|deploys| branch.starts_with(&format!("{deploys}/")));
        if let Some(above) = above {
            return refused(format!("the branch {branch} would stand in the way of {above}: rename it"));
        }
        if !deploying.contains(&branch) {
            plan.kept.push(branch);
        } else if let Some((other, _)) = &plan.deploy {
            return refused(format!("{other} and {branch} both deploy: push one of them"));
        } else {
            plan.deploy = Some((branch, update));
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const NONE: &str = "0000000000000000000000000000000000000000";

    fn planned(lines: &[(&str, &str)]) -> Result<Plan> {
        let lines: Vec<String> = lines.iter().map(|(new, name)| format!("{NONE} {new} {name}")).collect();
        plan(Update::parse_all(&lines.join("\n"))?, &["main".to_owned(), "master".to_owned()])
    }

    #[test]
    fn only_a_deploy_branch_deploys() {
        let plan =
            planned(&[(A, "refs/heads/feature"), (A, "refs/heads/main"), (A, "refs/tags/v1")]).unwrap();
        assert_eq!(plan.deploy.unwrap().0, "main");
        assert_eq!(plan.kept, ["feature"]);
        assert_eq!(planned(&[(A, "refs/tags/v1")]).unwrap().deploy, None);
    }

    #[test]
    fn what_git_would_refuse_after_the_deploy_is_refused_before() {
        for (wrong, says) in [
            (vec![(NONE, "refs/heads/old"), (A, "refs/heads/main")], "can't be deleted"),
            (vec![(A, "refs/heads/main"), (A, "refs/heads/master")], "both deploy"),
            (vec![(A, "refs/heads/main/sub")], "in the way of main"),
            (vec![(A, "refs/notes/x")], "neither a branch nor a tag"),
        ] {
            let error = planned(&wrong).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn an_update_that_is_none_is_refused() {
        for text in ["x\n", "a b refs/heads/main\n", &format!("{A} {A}\n"), &format!("{A} {} m\n", &A[1..])] {
            assert!(Update::parse_all(text).is_err(), "{text:?}");
        }
    }
}
