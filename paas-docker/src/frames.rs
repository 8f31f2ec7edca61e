//! What a container without a terminal prints, as the daemon sends it.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;

/// At most so much of a frame is held at once, in bytes.
const PIECE: usize = 16 << 10;

/// The bytes of both streams of a container without a terminal. Docker frames them: one byte that says which stream,
/// three of nothing, four of length.
pub fn unframed(from: impl AsyncRead + Send + Unpin + 'static) -> impl AsyncBufRead + Send + Unpin + 'static {
    let pieces = stream::try_unfold((from, 0), |(mut from, mut left)| async move {
        while left == 0 {
            let mut head = [0; 8];
            match from.read_exact(&mut head).await {
                Ok(_) => left = (&head[4..]).get_u32() as usize,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        let mut piece = BytesMut::zeroed(left.min(PIECE));
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        Ok::<_, io::Error>(Some((Bytes::from(piece), (from, left - read))))
    });
    StreamReader::new(Box::pin(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_streams_come_as_one_and_a_frame_that_breaks_off_is_an_error() {
        let framed = [
            &[1, 0, 0, 0, 0, 0, 0, 3][..],
            b"one",
            &[2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 3],
            b"two",
        ];
        let framed = framed.concat();
        let mut text = String::new();
        unframed(io::Cursor::new(framed.clone())).read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "onetwo");
        let cut = framed[..framed.len() - 1].to_vec();
        let error = unframed(io::Cursor::new(cut)).read_to_string(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
