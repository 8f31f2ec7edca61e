//! Ports for web processes: which to try, and whose socket it is in the end.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use paas_core::{Error, ErrorCode, Result};

/// Below the kernel's own range for outgoing connections, which would take ports away under our hands.
pub(super) const RANGE: Range<u16> = 12_000..32_000;

/// Hands out ports, each round the range before one comes again: a router that still talks to an old port must
/// not meet another app there.
#[derive(Debug)]
pub(super) struct Ports {
    range: Range<u16>,
    next: AtomicU32,
}

impl Ports {
    pub(super) fn new(range: Range<u16>) -> Self {
        // Two engines on one machine begin in different places.
        let (start, _) = uuid::Uuid::new_v4().as_u64_pair();
        let count = u64::from(range.end - range.start).max(1);
        let next = AtomicU32::new(u32::try_from(start % count).unwrap_or_default());
        Self { range, next }
    }

    /// A port on which nobody listens now. Somebody may soon, which is why [`listening`] asks whose socket it is.
    pub(super) fn free(&self) -> Result<u16> {
        let count = u32::from(self.range.end - self.range.start);
        for _ in 0..count {
            let offset = self.next.fetch_add(1, Ordering::Relaxed) % count;
            let port = self.range.start + u16::try_from(offset).unwrap_or_default();
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Ok(port);
            }
        }
        let Range { start, end } = self.range;
        Err(Error::new(ErrorCode::LimitExceeded, format!("no port from {start} to {end} is free")))
    }
}

/// Where one of these processes listens on this port.
pub(super) fn listening(processes: &[u32], port: u16) -> Option<SocketAddr> {
    // The processes may have a network of their own: ask one of them.
    let first = processes.first()?;
    let mut sockets: Vec<(IpAddr, u64)> = Vec::new();
    for table in ["tcp", "tcp6"] {
        let Ok(file) = fs::File::open(format!("/proc/{first}/net/{table}")) else { continue };
        // Listeners come first, and the kernel writes the rest only if it is read.
        let lines = BufReader::new(file).lines().skip(1).map_while(|line| line.ok().filter(|l| listens(l)));
        sockets.extend(lines.filter_map(|line| listener(&line, port)));
    }
    if sockets.is_empty() {
        return None;
    }
    let own = inodes(processes);
    let (ip, _) = sockets.into_iter().find(|(_, inode)| own.contains(inode))?;
    Some(SocketAddr::new(reachable(ip), port))
}

/// Whether a line of `/proc/net/tcp` is a listener's.
fn listens(line: &str) -> bool {
    const LISTEN: &str = "0A";
    line.split_ascii_whitespace().nth(3) == Some(LISTEN)
}

/// The address and inode of a listener's line if it is on this port.
fn listener(line: &str, port: u16) -> Option<(IpAddr, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, local_port) = fields.nth(1)?.split_once(':')?;
    let inode = fields.nth(7)?.parse().ok()?;
    (u16::from_str_radix(local_port, 16).ok()? == port).then_some((address(ip)?, inode))
}

/// The kernel prints addresses as words in the machine's own byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let words: Vec<u32> = (0..hex.len() / 8)
        .map(|word| hex.get(word * 8..word * 8 + 8).and_then(|text| u32::from_str_radix(text, 16).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// Where to reach a socket that is bound to this address.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// The sockets that these processes hold.
fn inodes(processes: &[u32]) -> HashSet<u64> {
    let files = processes.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
    let links = files.flatten().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbours_socket_on_the_port_does_not_count() {
        let mine = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = mine.local_addr().unwrap().port();
        let me = std::process::id();
        assert_eq!(listening(&[me], port), Some(([127, 0, 0, 1], port).into()));
        let parent = std::os::unix::process::parent_id();
        assert_eq!(listening(&[parent], port), None);
        drop(mine);
        assert_eq!(listening(&[me], port), None);
    }

    #[test]
    fn whoever_listens_everywhere_is_reached_on_loopback_and_v6_alone_on_its_own() {
        let everywhere = TcpListener::bind("[::]:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        assert_eq!(listening(&[std::process::id()], port), Some(([127, 0, 0, 1], port).into()));
        let six = TcpListener::bind("[::1]:0").unwrap();
        let port = six.local_addr().unwrap().port();
        assert_eq!(listening(&[std::process::id()], port), Some((Ipv6Addr::LOCALHOST, port).into()));
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = Ports::new(port..port + 1);
        assert!(ports.free().is_err());
        drop(taken);
        assert_eq!(ports.free().unwrap(), port);
    }
}
