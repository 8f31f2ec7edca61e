//! What happens to containers, as Docker tells it, and a reminder now and then to look at all, since events may be missed.

use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use paas_core::{Error, ErrorCode, Result};
use tokio::time::{MissedTickBehavior, interval};

use crate::{Docker, failed};

/// How often everything is looked at, whatever the events say.
const TRUTH: Duration = Duration::from_secs(15);

/// As long as a daemon can be listened to.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// What came of listening.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Happened {
    /// This, to one container.
    Event(Box<EventMessage>),
    /// It is time to look at all: at once, and then every fifteen seconds.
    Look,
}

impl Docker {
    /// Listens to what happens to our containers that have all these labels, of these kinds of events (`die`, `destroy`);
    /// `since`: told again from this second on, since 1970.
    ///
    /// Ends with an error, when Docker went away or tells no more; whoever still wants to hear listens anew.
    pub fn follow(
        &self,
        labels: &[(&str, &str)],
        events: &[&str],
        since: Option<i64>,
    ) -> BoxStream<'static, Result<Happened>> {
        let mut filters = self.ours(labels);
        filters.insert("type".into(), vec!["container".into()]);
        filters.insert("event".into(), events.iter().map(|event| (*event).to_owned()).collect());
        let since = since.map(|second| second.to_string());
        let options = EventsOptions { since, filters: Some(filters), ..EventsOptions::default() };
        let events = self.patient(FOR_EVER).events(Some(options)).map(|event| match event {
            Ok(event) => Ok(Happened::Event(Box::new(event))),
            Err(e) => Err(failed("can't hear what happens to containers", e)),
        });
        let end = || {
            let text = "Docker tells no more of what happens to containers";
            Err(Error::new(ErrorCode::Unavailable, text))
        };
        let events = events.chain(stream::once(async move { end() }));
        let looks = stream::unfold(None, |ticks| async {
            let mut ticks = ticks.unwrap_or_else(|| {
                let mut ticks = interval(TRUTH);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks
            });
            ticks.tick().await;
            Some((Ok(Happened::Look), Some(ticks)))
        });
        stream::select(events, looks).boxed()
    }
}
