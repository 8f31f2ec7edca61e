//! Proxies in front of this one, whose word on who the client is and how it came is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use ipnet::IpNet;
use tokio::io::{self, AsyncRead, AsyncReadExt as _};

use super::client::Client;

/// The proxies in front of this one: load balancers, a CDN, nginx. Nobody, unless they are named.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Front {
    /// From where they connect. What anybody else says of itself is no more than a claim.
    pub peers: Vec<IpNet>,
    /// Whether they pass on connections, and not requests: each begins with a PROXY header then, of version 1 or 2, which says
    /// who the client is (HAProxy's `doc/proxy-protocol.txt`), and what comes behind it is the client's own word. A connection of
    /// theirs without one is closed.
    pub proxy_protocol: bool,
}

impl Front {
    /// Trusts who connects from these networks.
    pub fn trusting(peers: impl IntoIterator<Item = IpNet>) -> Self {
        Self { peers: peers.into_iter().collect(), proxy_protocol: false }
    }

    /// And expects a PROXY header of them.
    #[must_use]
    pub fn with_proxy_protocol(mut self) -> Self {
        self.proxy_protocol = true;
        self
    }

    pub(super) fn is_trusted(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.peers.iter().any(|network| network.contains(&peer))
    }
}

/// The port on which HTTPS is spoken: whoever came there came by TLS, which a proxy in front has ended.
const HTTPS: u16 = 443;

/// Both versions have at least so many bytes.
const SHORTEST: usize = 15;
/// The longest of version 1, with its end.
const LONGEST: usize = 107;
/// More than any proxy says in version 2.
const MOST: usize = 4096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a proxy says of the client's TLS (section 2.2.6).
const TLV_SSL: u8 = 0x20;

/// Reads a PROXY header, and not a byte more: who the client is that this peer speaks for. A peer that speaks for itself
/// (`LOCAL`, `UNKNOWN`) stays the client.
pub(super) async fn announced(stream: &mut (impl AsyncRead + Unpin), peer: Client) -> io::Result<Client> {
    let mut head = [0; LONGEST];
    stream.read_exact(&mut head[..SHORTEST]).await?;
    if head.starts_with(SIGNATURE) {
        stream.read_exact(&mut head[SHORTEST..=SHORTEST]).await?;
        let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
        if length > MOST {
            return Err(wrong("it is longer than any is"));
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return binary(head[12], head[13], &rest, peer);
    }
    if !head.starts_with(b"PROXY ") {
        return Err(wrong("it doesn't begin with one"));
    }
    let mut length = SHORTEST;
    while !head[..length].ends_with(b"\r\n") {
        if length == LONGEST {
            return Err(wrong("its line has no end"));
        }
        // One by one, since what follows is the client's.
        stream.read_exact(&mut head[length..=length]).await?;
        length += 1;
    }
    let line = std::str::from_utf8(&head[6..length - 2]).map_err(|_| wrong("its line isn't text"))?;
    text(line, peer)
}

/// `TCP4 192.0.2.1 198.51.100.1 56324 443`.
fn text(line: &str, peer: Client) -> io::Result<Client> {
    let words: Vec<&str> = line.split(' ').collect();
    let [family, from, to, from_port, to_port] = words[..] else {
        return if words[0] == "UNKNOWN" { Ok(peer) } else { Err(wrong("its line says something else")) };
    };
    let address = |text: &str| -> io::Result<IpAddr> {
        let address = match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from),
            "UNKNOWN" => return Ok(peer.address.ip()),
            _ => return Err(wrong("it knows neither TCP4 nor TCP6")),
        };
        address.map_err(|_| wrong("an address isn't one"))
    };
    let port = |text: &str| text.parse::<u16>().map_err(|_| wrong("a port isn't one"));
    let (from, _) = (SocketAddr::new(address(from)?, port(from_port)?), address(to)?);
    if family == "UNKNOWN" { Ok(peer) } else { Ok(client(from, port(to_port)?, peer.secure)) }
}

fn binary(version: u8, family: u8, rest: &[u8], peer: Client) -> io::Result<Client> {
    match version {
        0x20 => return Ok(peer),
        0x21 => {}
        _ => return Err(wrong("its version or command is unknown")),
    }
    let short = || wrong("its addresses are cut off");
    let port = |at: usize| rest.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let (ip, ports): (IpAddr, usize) = match family {
        0x11 => (IpAddr::from(rest.first_chunk::<4>().copied().ok_or_else(short)?), 8),
        0x21 => (IpAddr::from(rest.first_chunk::<16>().copied().ok_or_else(short)?), 32),
        // A socket of its own machine, or what has no address at all.
        _ => return Ok(peer),
    };
    let (from, to) = (port(ports).ok_or_else(short)?, port(ports + 2).ok_or_else(short)?);
    let secure = peer.secure || said_tls(&rest[ports + 4..]);
    Ok(client(SocketAddr::new(ip, from), to, secure))
}

fn client(address: SocketAddr, port: u16, secure: bool) -> Client {
    Client { secure: secure || port == HTTPS, ..Client::new(address, port) }
}

/// Whether one of the values behind the addresses says that the client came by TLS.
fn said_tls(mut values: &[u8]) -> bool {
    while let [kind, high, low, rest @ ..] = values {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, others)) = rest.split_at_checked(length) else { return false };
        if *kind == TLV_SSL && value.first().is_some_and(|client| client & 1 == 1) {
            return true;
        }
        values = others;
    }
    false
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a PROXY header: {why}"))
}

/// What a proxy in front says of how the client came: `X-Forwarded-Proto`. Of several the first is the client's.
pub(super) fn proto(value: &[u8]) -> Option<&'static str> {
    let first = value.split(|byte| *byte == b',').next()?.trim_ascii();
    ["https", "http"].into_iter().find(|proto| first.eq_ignore_ascii_case(proto.as_bytes()))
}

/// What a proxy in front says of where the client came to: `X-Forwarded-Port`.
pub(super) fn port(value: &[u8]) -> Option<u16> {
    let first = value.split(|byte| *byte == b',').next()?.trim_ascii();
    std::str::from_utf8(first).ok()?.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Client {
        Client::new("10.0.0.9:4711".parse().unwrap(), 5080)
    }

    async fn read(bytes: &[u8]) -> (io::Result<Client>, Vec<u8>) {
        let mut stream = bytes;
        let client = announced(&mut stream, peer()).await;
        (client, stream.to_vec())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, rest].concat()
    }

    const TO_443: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    #[tokio::test]
    async fn both_versions_say_who_the_client_is_and_leave_its_own_bytes() {
        let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 80\r\n";
        for (header, from, port, secure) in [
            (&b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"[..], "192.0.2.1:56324", 443, true),
            (six, "[2001:db8::1]:56324", 80, false),
            (b"PROXY UNKNOWN\r\n", "10.0.0.9:4711", 5080, false),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "10.0.0.9:4711", 5080, false),
            (&v2(0x21, 0x11, &TO_443), "192.0.2.1:56324", 443, true),
            (&v2(0x20, 0x00, &[]), "10.0.0.9:4711", 5080, false),
            (&v2(0x21, 0x31, &[0; 216]), "10.0.0.9:4711", 5080, false),
        ] {
            let (client, rest) = read(&[header, b"GET / HTTP/1.1\r\n"].concat()).await;
            let client = client.unwrap();
            assert_eq!(
                (client.address.to_string().as_str(), client.port, client.secure),
                (from, port, secure)
            );
            assert_eq!(rest, b"GET / HTTP/1.1\r\n");
        }
    }

    #[tokio::test]
    async fn a_client_that_came_by_tls_is_told_by_its_value_too() {
        let to_8443 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x20, 0xfb];
        for (said, secure) in [(1, true), (0, false)] {
            let values = [&to_8443[..], &[0x02, 0, 1, b'x'], &[TLV_SSL, 0, 5, said, 0, 0, 0, 0]].concat();
            assert_eq!(read(&v2(0x21, 0x11, &values)).await.0.unwrap().secure, secure);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_and_never_waited_for_without_end() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 5\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 66666 443\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
            &long,
            &v2(0x11, 0x11, &TO_443),
            &v2(0x21, 0x11, &TO_443[..6]),
            &[SIGNATURE, &[0x21, 0x11, 0xff, 0xff][..]].concat(),
            b"PROXY",
        ] {
            assert!(read(bytes).await.0.is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn only_what_is_meant_is_taken_from_a_header() {
        assert_eq!(
            ["https", "HTTP", "https, http", "ftp", ""].map(|v| proto(v.as_bytes())),
            [Some("https"), Some("http"), Some("https"), None, None]
        );
        assert_eq!(
            ["443", " 80 ", "0", "x", "99999"].map(|v| port(v.as_bytes())),
            [Some(443), Some(80), None, None, None]
        );
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_listener_is_known_by_its_ipv4_network() {
        let front = Front::trusting(["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        for (peer, trusted) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("11.0.0.1", false), ("2001:db8::7", true)]
        {
            assert_eq!(front.is_trusted(peer.parse().unwrap()), trusted, "{peer}");
        }
    }
}
