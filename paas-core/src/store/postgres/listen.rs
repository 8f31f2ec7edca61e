//! Hears of what other engines change.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Connection, Socket, tls::NoTlsStream};

use super::session::Connector;
use crate::Result;

/// Wakes those who look at `changes` whenever somebody but `me` tells of a change, and after each time that it may
/// have missed one. Never ends.
pub(super) async fn listen(connector: Arc<Connector>, me: String, changes: watch::Sender<u64>) {
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
    changes: &watch::Sender<u64>,
) -> Result<()> {
    let listen = format!("LISTEN {channel}");
    let mut listening = std::pin::pin!(client.batch_execute(&listen));
    let mut heard = false;
    loop {
        tokio::select! {
            message = poll_fn(|cx| connection.poll_message(cx)) => match message {
                Some(Ok(AsyncMessage::Notification(note))) if note.payload() == me => {}
                Some(Ok(AsyncMessage::Notification(_))) => changes.send_modify(|n| *n = n.wrapping_add(1)),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.into()),
                None => return Ok(()),
            },
            listens = &mut listening, if !heard => {
                listens?;
                heard = true;
                // What was told before this moment was told to nobody here.
                changes.send_modify(|n| *n = n.wrapping_add(1));
            }
        }
    }
}
