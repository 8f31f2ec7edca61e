//! Buffers that requests lend each other, so that idle connections hold none.

use std::cell::RefCell;

/// How many are kept by each thread.
const KEPT: usize = 64;
/// A larger one isn't kept.
const LARGE: usize = 64 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}

/// What a request on its way needs.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// To the app.
    pub(super) request: Vec<u8>,
    /// From the app.
    pub(super) input: Vec<u8>,
    /// To the client.
    pub(super) answer: Vec<u8>,
}

/// Buffers, until it is dropped.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) Buffers);

impl Scratch {
    pub(super) fn take() -> Self {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Self(spare.unwrap_or_else(|| Buffers {
            request: Vec::with_capacity(2 * 1024),
            input: Vec::with_capacity(8 * 1024),
            answer: Vec::with_capacity(8 * 1024),
        }))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Buffers { request, input, answer } = &self.0;
        if [request, input, answer].iter().all(|buffer| buffer.capacity() <= LARGE) {
            let buffers = std::mem::take(&mut self.0);
            // A thread that is ending keeps none.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < KEPT {
                    spare.push(buffers);
                }
            });
        }
    }
}
