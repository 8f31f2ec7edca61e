//! Something outside that builds and apps ask, such as a registry: it is why the same commit fails now and works later.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::until;

const OR_END: &str = r#"[ "$word" = open ] || { echo "the registry says $word"; exit 1; }"#;

/// What a gate answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    Open,
    Shut,
    /// Nothing, for as long as it stays so: who asks waits.
    Hold,
}

/// It answers everybody who connects with one word.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    says: Mutex<Says>,
    waiting: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

impl Gate {
    pub(crate) fn new(says: Says) -> Self {
        // Containers come in by their network's gateway.
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let (says, waiting) = (Mutex::new(says), Mutex::default());
        let state = Arc::new(State { says, waiting, over: AtomicBool::new(false) });
        let thread = std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                for caller in listener.incoming().flatten() {
                    if state.over.load(Ordering::SeqCst) {
                        break;
                    }
                    state.answer(caller);
                }
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    pub(crate) fn says(&self, says: Says) {
        *self.state.says.lock().unwrap() = says;
        let waiting: Vec<_> = self.state.waiting.lock().unwrap().drain(..).collect();
        for caller in waiting {
            self.state.answer(caller);
        }
    }

    /// Until somebody waits for an answer.
    pub(crate) fn until_asked(&self) {
        until("somebody at the gate", || (!self.state.waiting.lock().unwrap().is_empty()).then_some(()));
    }

    /// Shell that ends with status 1, and says so, unless the gate is open.
    pub(crate) fn shell(&self) -> String {
        let ask =
            format!("exec 3<>/dev/tcp/127.0.0.1/{} && read -r word <&3; exec 3>&-", self.address.port());
        format!("{ask}; {OR_END}")
    }

    /// As [`Gate::shell`], in a container that has busybox.
    #[cfg(feature = "docker")]
    pub(crate) fn shell_in_container(&self) -> String {
        let port = self.address.port();
        let gateway = "ip route | awk '/^default/ { print $3 }'";
        format!("word=$(nc \"$({gateway})\" {port}); {OR_END}")
    }
}

impl State {
    fn answer(&self, mut caller: TcpStream) {
        let word: &[u8] = match *self.says.lock().unwrap() {
            Says::Open => b"open\n",
            Says::Shut => b"shut\n",
            Says::Hold => {
                self.waiting.lock().unwrap().push(caller);
                return;
            }
        };
        // Whoever asked may be gone: some are killed while they wait.
        let _ = caller.write_all(word);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        // Wakes the thread; if that fails it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            // Its panic would have shown itself as an answer that never came.
            let _ = thread.join();
        }
    }
}
