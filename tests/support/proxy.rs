//! A socket in front of the engine's that can be cut or go silent.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The engine's own socket.
const ENGINE: &str = "/var/run/docker.sock";

/// Forwards connections as long as it is told to.
pub(crate) struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
}

struct State {
    mode: Mode,
    streams: Vec<UnixStream>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Cut,
    Silent,
    WithoutGpus,
    BusyOnce,
}

/// The part of a request for a container that asks for device nodes, and a name that no engine knows.
const GPUS: (&[u8], &[u8]) = (br#""Devices""#, br#""Device_""#);

/// What an engine says that cannot work now.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 22\r\nConnection: close\r\n\r\n{\"message\":\"starting\"}";

impl Proxy {
    /// Listens at `path`, open.
    pub(crate) fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::new(Mutex::new(State { mode: Mode::Open, streams: Vec::new() }));
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
        state.mode = Mode::Cut;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Accepts connections again.
    pub(crate) fn mend(&self) {
        self.state.lock().unwrap().mode = Mode::Open;
    }

    /// Takes the device nodes of GPUs out of every request for a container: what is left of it is as on a machine that has them.
    pub(crate) fn without_gpus(self) -> Self {
        self.state.lock().unwrap().mode = Mode::WithoutGpus;
        self
    }

    /// Answers the next request for a container with 503, as an engine that is just starting does.
    pub(crate) fn be_busy_once(&self) {
        self.state.lock().unwrap().mode = Mode::BusyOnce;
    }

    /// Keeps and accepts connections, and lets nothing through.
    pub(crate) fn silence(&self) {
        self.state.lock().unwrap().mode = Mode::Silent;
    }
}

/// Joins a client with the engine, or drops it when the socket is cut.
fn accept(client: UnixStream, shared: &Arc<Mutex<State>>) {
    let mut state = shared.lock().unwrap();
    if state.mode == Mode::Cut {
        return;
    }
    let engine = UnixStream::connect(ENGINE).unwrap();
    for (from, to) in [(&client, &engine), (&engine, &client)] {
        let (from, to, shared) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(shared));
        std::thread::spawn(move || forward(from, to, &shared));
    }
    state.streams.extend([client, engine]);
}

/// Copies one direction to its end. What comes while the socket is silent is swallowed.
fn forward(mut from: UnixStream, mut to: UnixStream, state: &Mutex<State>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        let mode = state.lock().unwrap().mode;
        if mode == Mode::WithoutGpus {
            rename(&mut chunk[..length]);
        }
        if mode == Mode::BusyOnce && is_create(&chunk[..length]) {
            state.lock().unwrap().mode = Mode::Open;
            let _ = from.write_all(BUSY);
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
        if mode != Mode::Silent && to.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Whether a client asks for a container.
fn is_create(bytes: &[u8]) -> bool {
    bytes.starts_with(b"POST ") && bytes.windows(18).take(64).any(|part| part == b"/containers/create")
}

/// Of the same length, so that the request keeps its own. Small requests come in one piece.
fn rename(bytes: &mut [u8]) {
    let (from, to) = GPUS;
    let is_there = |bytes: &[u8], place: usize| bytes[place..].starts_with(from);
    for place in (0..bytes.len()).rev() {
        if is_there(bytes, place) {
            bytes[place..place + to.len()].copy_from_slice(to);
        }
    }
}
