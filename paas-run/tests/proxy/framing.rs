//! Requests that two servers could read in two ways end here.

use crate::support::{World, echo, header, origin};

#[tokio::test]
async fn an_ambiguous_request_is_refused() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let post = "POST / HTTP/1.1\r\nHost: hello.test\r\n";
    let long = format!("GET / HTTP/1.1\r\nHost: hello.test\r\nX-Long: {}\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: hello.test\r\n{}\r\n", "X-Many: 1\r\n".repeat(200));
    let cases = [
        ("CL + TE", format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("TE + CL", format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"), 400),
        ("TE identity, chunked", format!("{post}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"), 400),
        ("TE xchunked", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400),
        ("TE chunked, gzip", format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 400),
        (
            "two TE",
            format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            400,
        ),
        ("two equal CL", format!("{post}Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"), 400),
        ("two CL", format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\nok"), 400),
        ("CL +5", format!("{post}Content-Length: +5\r\n\r\n12345"), 400),
        (
            "TE on 1.0",
            "POST / HTTP/1.0\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            400,
        ),
        ("no Host", "GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("no Host on 1.0", "GET / HTTP/1.0\r\n\r\n".into(), 400),
        ("two Hosts", "GET / HTTP/1.1\r\nHost: hello.test\r\nHost: hello.test\r\n\r\n".into(), 400),
        ("empty Host", "GET / HTTP/1.1\r\nHost: \r\n\r\n".into(), 400),
        ("Host with a path", "GET / HTTP/1.1\r\nHost: hello.test/x\r\n\r\n".into(), 400),
        ("folded header", "GET / HTTP/1.1\r\nHost: hello.test\r\nX: 1\r\n 2\r\n\r\n".into(), 400),
        ("space before colon", "GET / HTTP/1.1\r\nHost: hello.test\r\nX : 1\r\n\r\n".into(), 400),
        ("CL list", format!("{post}Content-Length: 2, 2\r\n\r\nok"), 400),
        ("negative CL", format!("{post}Content-Length: -2\r\n\r\nok"), 400),
        ("empty CL", format!("{post}Content-Length: \r\n\r\nok"), 400),
        ("space in a header's name", "GET / HTTP/1.1\r\nHost: hello.test\r\nX Y: 1\r\n\r\n".into(), 400),
        ("NUL in a header", "GET / HTTP/1.1\r\nHost: hello.test\r\nX: a\0b\r\n\r\n".into(), 400),
        ("CR in a header", "GET / HTTP/1.1\r\nHost: hello.test\r\nX: a\rb\r\n\r\n".into(), 400),
        ("bare LF lines", "GET / HTTP/1.1\nHost: hello.test\n\n".into(), 400),
        ("one bare LF", "GET / HTTP/1.1\r\nHost: hello.test\r\nX: 1\nY: 2\r\n\r\n".into(), 400),
        ("bare LF at the end", "GET / HTTP/1.1\r\nHost: hello.test\r\n\n".into(), 400),
        ("two spaces in the first line", "GET  / HTTP/1.1\r\nHost: hello.test\r\n\r\n".into(), 400),
        ("HTTP/0.9", "GET /\r\n\r\n".into(), 400),
        ("user in the Host", "GET / HTTP/1.1\r\nHost: a@hello.test\r\n\r\n".into(), 400),
        ("two hosts in a Host", "GET / HTTP/1.1\r\nHost: hello.test, b.test\r\n\r\n".into(), 400),
        (
            "LF at the end of a chunk",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n2\r\nok\n0\r\n\r\n"),
            400,
        ),
        (
            "LF after a chunk's size",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n"),
            400,
        ),
        ("too long a chunk", format!("{post}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n"), 400),
        ("bad chunk size", format!("{post}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), 400),
        (
            "LF in a chunk extension",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n2;a\nb\r\nok\r\n0\r\n\r\n"),
            400,
        ),
        ("strange Expect", format!("{post}Expect: magic\r\nContent-Length: 0\r\n\r\n"), 417),
        ("CONNECT", "CONNECT hello.test:443 HTTP/1.1\r\nHost: hello.test\r\n\r\n".into(), 405),
        ("40 KB of header", long, 431),
        ("200 headers", many, 431),
    ];
    for (what, request, status) in cases {
        let mut conn = world.connect().await;
        conn.send(&request).await;
        let answer = conn.answer().await.unwrap_or_else(|| panic!("{what} gets an answer"));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn a_refused_request_is_in_the_log_of_its_app() {
    let world = World::serving(&[echo().await], |_| {}).await;
    world
        .ask("POST /x HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
        .await;
    let line = world.logged("code=H26 desc=\"Request Error\" cause=").await;
    assert!(line.contains("path=\"/x\"") && line.contains("status=400"), "{line}");
}

#[tokio::test]
async fn a_body_that_looks_like_a_request_is_a_body() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let body = "POST /other HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut conn = world.connect().await;
    for _ in 0..3 {
        let length = body.len();
        conn.send(format!("POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        let answer = conn.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.text().ends_with(body), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_request_reaches_its_app_in_one_framing_only() {
    let world = World::serving(
        &[origin(|mut conn, _| async move {
            let head = conn.head().await.unwrap();
            let mut body = Vec::new();
            while let Some(chunk) = conn.chunk().await.filter(|chunk| !chunk.is_empty()) {
                body.extend(chunk);
            }
            let seen = format!("{head}{}", String::from_utf8(body).unwrap());
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{seen}", seen.len())).await;
        })
        .await],
        |_| {},
    )
    .await;
    for method in ["POST", "GET", "DELETE"] {
        let answer = world
            .ask(&format!(
                "{method} / HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ))
            .await;
        let seen = answer.text();
        assert_eq!(header(seen, "transfer-encoding"), Some("chunked"), "{seen}");
        assert_eq!(header(seen, "content-length"), None, "{seen}");
        assert!(seen.ends_with("\r\n\r\nabc"), "{seen}");
    }
}
