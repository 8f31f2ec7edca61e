//! Header lines.

/// What a header is to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Accept,
    Connection,
    ContentLength,
    Date,
    ForwardedFor,
    ForwardedPort,
    ForwardedProto,
    /// Told by us, whatever a client says.
    Ours,
    Host,
    KeepAlive,
    RequestId,
    TransferEncoding,
    Upgrade,
    Via,
    /// Another one that is for one hop only, or asks something of it.
    Hop,
    Other,
}

impl Field {
    pub(super) fn of(name: &str) -> Self {
        // By length first: nearly every name is told apart from these without being read.
        let known: &[(&str, Self)] = match name.len() {
            2 => &[("te", Self::Hop)],
            3 => &[("via", Self::Via)],
            4 => &[("host", Self::Host), ("date", Self::Date)],
            6 => &[("accept", Self::Accept), ("expect", Self::Hop)],
            7 => &[("upgrade", Self::Upgrade), ("trailer", Self::Hop)],
            10 => &[("connection", Self::Connection), ("keep-alive", Self::KeepAlive)],
            12 => &[("x-request-id", Self::RequestId)],
            14 => &[("content-length", Self::ContentLength)],
            15 => &[("x-forwarded-for", Self::ForwardedFor), ("x-request-start", Self::Ours)],
            16 => &[("x-forwarded-port", Self::ForwardedPort), ("proxy-connection", Self::Hop)],
            17 => {
                &[("x-forwarded-proto", Self::ForwardedProto), ("transfer-encoding", Self::TransferEncoding)]
            }
            18 => &[("proxy-authenticate", Self::Hop)],
            19 => &[("proxy-authorization", Self::Hop)],
            _ => &[],
        };
        let found = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or(Self::Other, |(_, field)| *field)
    }
}

/// Adds a line.
pub(super) fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Adds a number in digits, without the machinery of formatting.
pub(super) fn number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}
