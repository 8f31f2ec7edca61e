//! Starts hostile commands apart.
