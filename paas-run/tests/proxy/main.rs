//! The proxy with real sockets: conformance, every code, framing, upgrades, swaps.

mod conformance;
