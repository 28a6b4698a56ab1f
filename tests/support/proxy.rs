//! A socket in front of the engine's that can be cut.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The engine's own socket.
const ENGINE: &str = "/var/run/docker.sock";

/// Forwards connections while it is open.
pub(crate) struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
}

struct State {
    is_open: bool,
    streams: Vec<UnixStream>,
}

impl Proxy {
    /// Listens at `path`, open.
    pub(crate) fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::new(Mutex::new(State { is_open: true, streams: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || listener.incoming().flatten().for_each(|client| accept(client, &shared)));
        Self { address: format!("unix://{}", path.display()), state }
    }

    /// Value for `DOCKER_HOST`.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Breaks all connections and accepts no new one.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_open = false;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Accepts connections again.
    pub(crate) fn mend(&self) {
        self.state.lock().unwrap().is_open = true;
    }
}

/// Joins a client with the engine, or drops it when the socket is cut.
fn accept(client: UnixStream, state: &Mutex<State>) {
    let mut state = state.lock().unwrap();
    if !state.is_open {
        return;
    }
    let engine = UnixStream::connect(ENGINE).unwrap();
    for (from, to) in [(&client, &engine), (&engine, &client)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    state.streams.extend([client, engine]);
}
