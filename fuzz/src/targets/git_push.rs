//! A push's inside: what the hook says at the socket, what it is told, and git's answer on its way to the client.

use std::io::{Cursor, Read};

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "git_push",
    run,
    words: &[
        "refs/heads/main",
        "refs/heads/master",
        "refs/heads/main/x",
        "refs/tags/v1",
        "refs/notes/x",
        "\0",
        "\n",
        " ",
        "0000000000000000000000000000000000000000",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "0000",
        "0001",
        "fff0",
        "/tmp/objects",
    ],
};

fn run(input: &[u8]) -> String {
    answers(input);
    let deploying = ["main".to_owned(), "master".to_owned()];
    let Some(said) = paas_build::fuzzing::order(input, &deploying) else { return "nobody".to_owned() };
    let (key, variables, deploy, kept) = match said {
        Ok(said) => said,
        Err(error) => return super::refused(&error),
    };
    // What was read is what was said, byte for byte.
    let said: Vec<&[u8]> = input.splitn(2, |byte| *byte == b'\n').collect();
    assert_eq!(said[0], key.as_bytes());
    let parts: Vec<&[u8]> = said[1].splitn(3, |byte| *byte == 0).collect();
    assert_eq!(parts[..2], variables.each_ref().map(Vec::as_slice));
    if let Some((branch, to)) = &deploy {
        assert!(deploying.contains(branch), "{branch} doesn't deploy");
        assert!(to.bytes().any(|digit| digit != b'0'), "nothing is deployed");
        let lines = String::from_utf8_lossy(parts[2]);
        let found =
            lines.lines().filter(|line| line.ends_with(&format!(" {to} refs/heads/{branch}"))).count();
        assert_eq!(found, 1, "{branch} at {to} is not what was pushed");
    }
    assert!(!kept.iter().any(|branch| deploying.contains(branch)), "{kept:?} should deploy");
    format!("deploys {}, keeps {}", deploy.is_some(), super::few(kept.len()))
}

fn answers(input: &[u8]) {
    let (size, rest) =
        input.split_first().map_or((1, &b""[..]), |(size, rest)| (usize::from(*size) + 1, rest));
    // The hook prints all up to the end, and ends as it is told.
    let (printed, ended) = paas_build::fuzzing::repeat(InPieces(Cursor::new(rest), size));
    let end = rest.iter().position(|byte| *byte == 0);
    assert_eq!(printed, rest[..end.unwrap_or(rest.len())]);
    let status = end.and_then(|end| rest.get(end + 1)).map(|status| i32::from(*status));
    assert_eq!(ended.ok(), status);
    // git's answer gets through whole, and only its end waits.
    let pieces = rest.chunks(size).map(<[u8]>::to_vec).collect();
    let (passed, held) = super::block_on(paas_build::fuzzing::relay(pieces));
    assert_eq!([&passed[..], &held[..]].concat(), rest);
    let zeros = rest.iter().rev().take(4).take_while(|byte| **byte == b'0').count();
    assert_eq!(held, rest[rest.len() - zeros..]);
    // A message is one pkt-line that git's clients take.
    let message = String::from_utf8_lossy(rest);
    let line = paas_build::fuzzing::band(&message);
    let length =
        std::str::from_utf8(&line[..4]).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
    assert_eq!(length, Some(line.len()));
    assert!(line.len() <= 65_520 && line[4] == 2, "{} bytes for band {}", line.len(), line[4]);
    let shown = std::str::from_utf8(&line[5..]).expect("a message is cut between characters");
    assert!(message.starts_with(shown) && (message.len() < 60_000) <= (message == shown), "a message is cut");
}

/// Gives at most so many bytes at once.
struct InPieces<R>(R, usize);

impl<R: Read> Read for InPieces<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}
