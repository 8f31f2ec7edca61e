//! An explanation as people read it.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Explanation, OpenWorkflow, Remedy, WaitsFor};
use crate::{Failure, Subject, WorkflowState};

type Time = DateTime<Utc>;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "=== {}", self.app)?;
        self.standing(f)?;
        for workflow in &self.open {
            workflow.tell(f, self.at)?;
        }
        if self.open.is_empty() {
            let well = self.processes.iter().all(|count| count.up >= count.wanted);
            let calm =
                if well && self.live.is_some() && self.neglect.is_none() { ". Things Just Work" } else { "" };
            writeln!(f, "       Nothing is under way{calm}")?;
        }
        Ok(())
    }
}

impl Explanation {
    fn standing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.live {
            None => writeln!(f, "       Nothing is live yet")?,
            Some(live) => {
                let (version, description) = (live.version, &live.description);
                writeln!(f, "       {version} is live {}: {description}", Since(live.since, self.at))?;
            }
        }
        for count in &self.processes {
            let mark = if count.up < count.wanted { " !     " } else { "       " };
            write!(f, "{mark}{}: {} of {} up", count.process, count.up, count.wanted)?;
            let reason = count.reason.as_ref().map(|reason| format!(": {reason}"));
            writeln!(f, "{}", reason.unwrap_or_default())?;
        }
        if let Some(neglect) = &self.neglect {
            let (since, cause) = (Since(neglect.since, self.at), Cause(&neglect.last));
            let times = if neglect.times == 1 { "once".into() } else { format!("{} times", neglect.times) };
            writeln!(f, " !     It can't be looked after {since}; tried {times}: {cause}")?;
        }
        if self.maintenance {
            writeln!(f, " !     Users see the maintenance page; set_maintenance ends that")?;
        }
        if let Some(freeze) = &self.freeze {
            writeln!(f, " !     Nothing new goes live: {freeze}; unfreeze ends that")?;
        }
        if self.ahead && self.open.is_empty() {
            writeln!(f, " !     Config or add-ons changed since; the next release takes that over")?;
        }
        if let Some(last) = &self.last_deploy {
            let (mark, ended) = match last.state {
                WorkflowState::Succeeded => ("       ", "succeeded".to_owned()),
                WorkflowState::Failed => (" !     ", "failed".to_owned()),
                state => (" !     ", format!("was {state}")),
            };
            let why = last.failure.as_ref().map(|failure| format!(": {}", Cause(failure)));
            let ago = Ago(last.at, self.at);
            writeln!(f, "{mark}The last deploy {ended} {ago}{}", why.unwrap_or_default())?;
        }
        Ok(())
    }
}

impl OpenWorkflow {
    fn tell(&self, f: &mut fmt::Formatter<'_>, now: Time) -> fmt::Result {
        let of = match &self.subject {
            Subject::Addon(addon) => format!(" of the add-on {addon}"),
            Subject::App(_) | Subject::Platform => String::new(),
        };
        let Self { kind, id, by, .. } = self;
        writeln!(f, "-----> {kind}{of} ({id}), which {by} asked for {}", Ago(self.asked_at, now))?;
        let mark = if self.stuck { " !     " } else { "       " };
        writeln!(f, "{mark}{} {}", self.waiting(now), Since(self.since, now))?;
        if let Some(failure) = &self.failure {
            let times =
                if self.attempts == 1 { "once".to_owned() } else { format!("{} times", self.attempts) };
            writeln!(f, "       Tried {times}; failed {}: {}", Ago(failure.at, now), Cause(failure))?;
        }
        if self.takeovers > 0 {
            writeln!(f, "       Engines that died in the middle of it: {}", self.takeovers)?;
        }
        match &self.waits_for {
            WaitsFor::Attempt { at } => writeln!(f, "       Next attempt {}", In(*at, now))?,
            WaitsFor::Look { at, .. } => writeln!(f, "       Looks again {}", In(*at, now))?,
            WaitsFor::Step { until, .. } => {
                writeln!(f, "       If its engine dies, another one goes on {}", In(*until, now))?;
            }
            WaitsFor::Turn(ahead) => {
                for other in ahead {
                    writeln!(f, "       Before it: {} ({}), {}", other.kind, other.id, other.state)?;
                }
            }
            WaitsFor::Client
            | WaitsFor::Engine
            | WaitsFor::Takeover { .. }
            | WaitsFor::Answer { .. }
            | WaitsFor::Program { .. } => {}
        }
        if let Some(freeze) = &self.freeze {
            writeln!(f, " !     Refused when its turn comes, unless that is ended before: {freeze}")?;
        }
        for remedy in &self.remedies {
            writeln!(f, "       {remedy}")?;
        }
        Ok(())
    }

    /// `build waits for its next attempt`
    fn waiting(&self, now: Time) -> String {
        let step = self.step.as_ref().map_or("it", |step| step.as_str());
        let undo = match self.state {
            WorkflowState::Undoing | WorkflowState::Rewinding => "the undo of ",
            _ => "",
        };
        match &self.waits_for {
            WaitsFor::Turn(_) => "Waits for its turn".into(),
            WaitsFor::Client => {
                "Waits until whoever went before has said that it is done, such as git of a push".into()
            }
            WaitsFor::Engine => "Due: the next free engine takes it".into(),
            WaitsFor::Step { engine, here: true, .. } => {
                format!("This engine ({engine}) works on {undo}{step}")
            }
            WaitsFor::Step { engine, here: false, .. } => {
                format!("Another engine ({engine}) works on {undo}{step}")
            }
            WaitsFor::Takeover { engine } => {
                format!(
                    "The engine that worked on {undo}{step} ({engine}) is gone; the next free one goes on"
                )
            }
            WaitsFor::Attempt { at } if *at <= now => format!("Due: {undo}{step} is tried again"),
            WaitsFor::Attempt { .. } if self.stuck => {
                format!("Stuck: {undo}{step} fails each time and can't be left out; somebody has to help")
            }
            WaitsFor::Attempt { .. } => format!("Waits to try {undo}{step} again"),
            WaitsFor::Look { why, .. } => format!("{step} waits: {why}"),
            WaitsFor::Answer { why } => format!("{step} waits for {why}"),
            WaitsFor::Program { version } => {
                format!("Waits for a program that knows {} {version}: this one doesn't", self.kind)
            }
        }
    }
}

/// `retry    tries it again now`
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retry => "retry    has it go on now",
            Self::Signal => "signal   gives the answer",
            Self::Cancel => "cancel   ends it and undoes what it started",
            Self::Abandon => "abandon  gives it up and names what it leaves",
        })
    }
}

/// `[unavailable] the disk is away`
struct Cause<'a>(&'a Failure);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { code, message, step, .. } = self.0;
        match step {
            Some(step) => write!(f, "[{code}] {step}: {message}"),
            None => write!(f, "[{code}] {message}"),
        }
    }
}

/// `since 13:20:05 UTC, for 3 min`
struct Since(Time, Time);

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "since {}, for {}", Clock(self.0, self.1), Span(self.1 - self.0))
    }
}

/// `3 min ago`
struct Ago(Time, Time);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ago", Span(self.1 - self.0))
    }
}

/// `at 13:20:05 UTC, in 3 min`
struct In(Time, Time);

impl fmt::Display for In {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}, in {}", Clock(self.0, self.1), Span(self.0 - self.1))
    }
}

/// The time, with its day where that is another one than today.
struct Clock(Time, Time);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let today = self.0.date_naive() == self.1.date_naive();
        let form = if today { "%H:%M:%S UTC" } else { "%Y-%m-%d %H:%M:%S UTC" };
        write!(f, "{}", self.0.format(form))
    }
}

/// `5 s`, `3 min`, `2 h 5 min`, `3 d 2 h`
struct Span(TimeDelta);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.num_seconds().max(0);
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, _) => write!(f, "{minutes} min"),
            (0, _, _) => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}
