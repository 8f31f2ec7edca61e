//! The `Date` of answers whose app says none, as RFC 9110 section 6.6.1 wants it. It is written once a second.

use std::sync::{Mutex, PoisonError};

use paas_core::Clock;

#[derive(Debug, Default)]
pub(super) struct Dates(Mutex<(i64, String)>);

impl Dates {
    /// Adds the header's line.
    pub(super) fn write(&self, clock: &dyn Clock, out: &mut Vec<u8>) {
        let now = clock.now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (second, line) = &mut *known;
        if *second != now.timestamp() || line.is_empty() {
            *second = now.timestamp();
            *line = now.format("Date: %a, %d %b %Y %H:%M:%S GMT\r\n").to_string();
        }
        out.extend_from_slice(line.as_bytes());
    }
}
