//! A command with somebody at its terminal.

use std::fmt;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Result;

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Window {
    /// So many characters in so many lines: `Window::new(80, 24)`.
    pub fn new(columns: u16, rows: u16) -> Self {
        Self { columns, rows }
    }
}

/// Both ends of a command that [`Runtime::attach`](crate::Runtime::attach) started.
///
/// Dropping `control` says that whoever sat there is gone: the command is told so by SIGHUP, as on Heroku, and ended if it
/// stays. [`Control::detach`] leaves it to itself instead.
#[non_exhaustive]
pub struct Console {
    /// What is typed: bytes as a terminal sends them, so Ctrl-C is `0x03`. Without a terminal, shutting it down is the end
    /// of the command's input.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it prints, standard output and error as they come; ends with the command.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
    /// What else can be done to it.
    pub control: Box<dyn Control>,
}

impl Console {
    /// Of these parts.
    pub fn new(
        input: impl AsyncWrite + Send + Unpin + 'static,
        output: impl AsyncRead + Send + Unpin + 'static,
        control: impl Control,
    ) -> Self {
        Self { input: Box::new(input), output: Box::new(output), control: Box::new(control) }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("control", &self.control).finish_non_exhaustive()
    }
}

/// What can be done to a command beside typing.
#[async_trait]
pub trait Control: fmt::Debug + Send + Sync + 'static {
    /// Tells the terminal's new size. Of a command that has ended, or has no terminal, it is no error.
    ///
    /// # Errors
    /// `unavailable` when the backend doesn't answer.
    async fn resize(&self, window: Window) -> Result<()>;

    /// Leaves the command to itself: it goes on, and what it prints from now on is in the app's log.
    ///
    /// # Errors
    /// `unavailable` when the backend doesn't answer: it is still attached.
    async fn detach(&self) -> Result<()>;
}
