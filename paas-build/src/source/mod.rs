//! Sources: where code comes from.
