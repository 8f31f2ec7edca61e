//! Hears of what other engines change.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Connection, Socket, tls::NoTlsStream};

use super::session::Connector;
use crate::Result;
use crate::store::changes::{Change, Changes};

/// Wakes those who look at `changes` whenever somebody but `me` tells of a change, and after each time that it may
/// have missed one. Never ends.
pub(super) async fn listen(connector: Arc<Connector>, me: String, changes: Changes) {
    let first = Duration::from_millis(50);
    let mut pause = first;
    loop {
        let opened = timeout(connector.options.connect_timeout, connector.raw()).await;
        let ended = match opened {
            Ok(Ok((client, connection))) => {
                pause = first;
                hear(&client, connection, &connector.options.schema, &me, &changes).await
            }
            Ok(Err(e)) => Err(e),
            Err(_) => Err(super::error::lost("the store's database can't be reached in time")),
        };
        if let Err(e) = ended {
            tracing::warn!(error = %e, "not hearing of other engines' changes; polling finds them meanwhile");
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// Until the connection ends.
async fn hear(
    client: &Client,
    mut connection: Connection<Socket, NoTlsStream>,
    channel: &str,
    me: &str,
    changes: &Changes,
) -> Result<()> {
    let listen = format!("LISTEN {channel}");
    let mut listening = std::pin::pin!(client.batch_execute(&listen));
    let mut heard = false;
    loop {
        tokio::select! {
            message = poll_fn(|cx| connection.poll_message(cx)) => match message {
                Some(Ok(AsyncMessage::Notification(note))) => {
                    if let Some(change) = heard_of(note.payload(), me) {
                        changes.tell(change);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.into()),
                None => return Ok(()),
            },
            listens = &mut listening, if !heard => {
                listens?;
                heard = true;
                // What was told before this moment was told to nobody here.
                changes.tell(Change::Queue);
            }
        }
    }
}

/// What follows the teller's name where only rows were changed.
const ROWS: &str = " rows";

/// How `me` tells of this change.
pub(super) fn note(me: &str, change: Change) -> String {
    format!("{me}{}", if change == Change::Rows { ROWS } else { "" })
}

/// What this note tells, to everybody but its teller.
fn heard_of(note: &str, me: &str) -> Option<Change> {
    match note.strip_suffix(ROWS) {
        Some(teller) if teller != me => Some(Change::Rows),
        None if note != me => Some(Change::Queue),
        _ => None,
    }
}
