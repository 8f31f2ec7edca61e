//! Why a request got no answer from the app, by Heroku's codes.

use http::StatusCode;

/// How a request ended where the app didn't answer it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No app has this host.
    NoSuchApp,
    /// The request can't be forwarded safely; says why.
    BadRequest(&'static str),
    /// An `Expect` that nobody can meet.
    BadExpectation,
    /// `CONNECT`: this is no forward proxy.
    Connect,
    /// One client asks for too much; it may come again after so many seconds.
    TooMany(u16),
    /// The connection was made for another host, and its certificate isn't for this one.
    Misdirected,
    /// Too many requests of the app wait already.
    Backlog,
    AppCrashed,
    RequestTimeout,
    ClosedWithoutResponse,
    NoWebProcesses,
    IdleBackend,
    MalformedResponse,
    ResponseInterrupted,
    ConnectTimeout,
    BootTimeout,
    ForcedClose,
    ResponseTooLarge,
    ConnectRefused,
    ClientGone,
    ClientIdle,
    Maintenance,
    BlankApp,
    Platform,
}

/// What a fault is called and who is told what.
#[derive(Debug)]
pub(super) struct Facts {
    /// `H10`; empty where Heroku has none.
    pub(super) code: &'static str,
    /// What the log says.
    pub(super) desc: &'static str,
    /// How grave it is, and whose socket broke, as the log says it.
    pub(super) at: &'static str,
    pub(super) status: StatusCode,
    /// What the page says.
    pub(super) title: &'static str,
    pub(super) text: &'static str,
}

impl Facts {
    /// How the log's line begins.
    pub(super) fn as_said(&self, fault: Fault) -> String {
        let mut said = self.at.to_owned();
        if !self.code.is_empty() {
            said = format!("{said} code={}", self.code);
        }
        said = format!("{said} desc=\"{}\"", self.desc);
        if let Fault::BadRequest(cause) = fault {
            said = format!("{said} cause=\"{cause}\"");
        }
        said
    }
}

const OWNER: &str = "If you own this app, its log says more.";

impl Fault {
    /// Codes, descriptions and statuses are those of Heroku's article "Heroku Error Codes".
    pub(super) fn facts(self) -> Facts {
        let error =
            |code, desc, status, title, text| Facts { code, desc, at: "at=error", status, title, text };
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        // nginx's status for a client that is gone: nobody receives it, but the log needs one.
        let gone = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        match self {
            Self::NoSuchApp => error(
                "",
                "No such app",
                StatusCode::NOT_FOUND,
                "There is nothing here yet",
                "No app answers to this name. If it is yours, check its domains and spelling.",
            ),
            Self::BadRequest(text) => {
                error("H26", "Request Error", StatusCode::BAD_REQUEST, "This request isn't valid", text)
            }
            Self::BadExpectation => error(
                "H26",
                "Request Error",
                StatusCode::EXPECTATION_FAILED,
                "This request isn't valid",
                "The only expectation that can be met is 100-continue.",
            ),
            Self::Connect => error(
                "H26",
                "Request Error",
                StatusCode::METHOD_NOT_ALLOWED,
                "This request isn't valid",
                "CONNECT is not allowed here.",
            ),
            Self::TooMany(_) => Facts {
                at: "at=warning",
                ..error(
                    "",
                    "Too many requests of one client",
                    StatusCode::TOO_MANY_REQUESTS,
                    "Too many requests",
                    "You sent more requests than this site takes from one client. Try again in a moment.",
                )
            },
            Self::Misdirected => error(
                "H31",
                "Misdirected Request",
                StatusCode::MISDIRECTED_REQUEST,
                "This request came by the wrong connection",
                "The certificate of its connection is not for this name.",
            ),
            Self::Backlog => error(
                "H11",
                "Backlog too deep",
                unavailable,
                "Too many visitors at once",
                "This app has more requests than it can answer right now. Try again in a moment.",
            ),
            Self::AppCrashed => error("H10", "App crashed", unavailable, "Application error", OWNER),
            Self::RequestTimeout => error(
                "H12",
                "Request timeout",
                unavailable,
                "Application error",
                "The app took too long to answer. If you own it, its log says more.",
            ),
            Self::ClosedWithoutResponse => {
                error("H13", "Connection closed without response", unavailable, "Application error", OWNER)
            }
            Self::NoWebProcesses => error(
                "H14",
                "No web processes running",
                unavailable,
                "This app is switched off",
                "It has no web processes. If you own it, scale web to 1 or more.",
            ),
            Self::IdleBackend => error("H15", "Idle connection", unavailable, "Application error", OWNER),
            Self::MalformedResponse => {
                error("H17", "Poorly formatted HTTP response", unavailable, "Application error", OWNER)
            }
            Self::ResponseInterrupted => Facts {
                at: "sock=backend at=error",
                ..error("H18", "Server Request Interrupted", unavailable, "Application error", OWNER)
            },
            Self::ConnectTimeout => {
                error("H19", "Backend connection timeout", unavailable, "Application error", OWNER)
            }
            Self::BootTimeout => error(
                "H20",
                "App boot timeout",
                unavailable,
                "Application error",
                "The app took too long to start. If you own it, its log says more.",
            ),
            Self::ConnectRefused => {
                error("H21", "Backend connection refused", unavailable, "Application error", OWNER)
            }
            Self::ForcedClose => error("H24", "Forced close", unavailable, "Application error", OWNER),
            Self::ResponseTooLarge => error(
                "H25",
                "HTTP restriction: oversized header",
                StatusCode::BAD_GATEWAY,
                "Application error",
                OWNER,
            ),
            Self::ClientGone => Facts {
                at: "sock=client at=warning",
                ..error("H27", "Client Request Interrupted", gone, "Request interrupted", "")
            },
            Self::ClientIdle => Facts {
                at: "sock=client at=warning",
                ..error("H28", "Client Connection Idle", gone, "Request interrupted", "")
            },
            Self::Maintenance => Facts {
                at: "at=info",
                ..error(
                    "H80",
                    "Maintenance mode",
                    unavailable,
                    "Back in a moment",
                    "This app is being worked on. Try again soon.",
                )
            },
            Self::BlankApp => Facts {
                at: "at=info",
                ..error(
                    "H81",
                    "Blank app",
                    unavailable,
                    "Nothing was deployed yet",
                    "This app is waiting for its first git push.",
                )
            },
            Self::Platform => error(
                "H99",
                "Platform error",
                unavailable,
                "Application error",
                "The app can't be reached right now. Try again soon.",
            ),
        }
    }
}
