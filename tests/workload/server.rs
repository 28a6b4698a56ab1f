use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

/// What a server does with a request.
pub(crate) enum Reply {
    /// Status, headers, body.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Nothing, with the connection open.
    Stall,
    /// A promise of 40 bytes, then one, then nothing with the connection open.
    StallInBody,
    /// A promise of 40 bytes, one of them, end of connection.
    BreakOff,
    /// One byte every 50 ms without end.
    Drip,
    /// Not HTTP.
    Garbage,
}

impl Reply {
    pub(crate) fn file(bytes: &[u8]) -> Self {
        Self::Full(200, vec![("x-repo-commit", "ab".repeat(20))], bytes.to_vec())
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Full(status, Vec::new(), b"no".to_vec())
    }

    pub(crate) fn redirect(location: &str) -> Self {
        let headers = vec![("location", location.to_owned()), ("x-repo-commit", "cd".repeat(20))];
        Self::Full(302, headers, Vec::new())
    }
}

/// An HTTP server on this machine, one thread a connection. Ends with the test process.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || serve(stream.unwrap(), &*answer, &log));
            }
        });
        Self { url, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// An address of this machine where nothing listens.
pub(crate) fn closed_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn serve(mut stream: TcpStream, answer: &(impl Fn(&str) -> Reply + ?Sized), log: &Mutex<Vec<Seen>>) {
    let Some(seen) = read_request(&stream) else { return };
    let reply = answer(&seen.path);
    log.lock().unwrap().push(seen);
    // The client may have left: what is written then goes nowhere, and that is its right.
    let _ = send(&mut stream, reply);
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut authorization = None;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            authorization = Some(value.to_owned());
        }
    }
    Some(Seen { path, authorization })
}

fn send(stream: &mut TcpStream, reply: Reply) -> std::io::Result<()> {
    const PROMISE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\nx";
    match reply {
        Reply::Full(status, headers, body) => {
            let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
            for (name, value) in headers {
                head.extend([name, ": ", &value, "\r\n"]);
            }
            stream.write_all(format!("{head}\r\n").as_bytes())?;
            stream.write_all(&body)
        }
        Reply::Stall => {
            std::thread::sleep(Duration::from_secs(20));
            Ok(())
        }
        Reply::StallInBody => {
            stream.write_all(PROMISE)?;
            std::thread::sleep(Duration::from_secs(20));
            Ok(())
        }
        Reply::BreakOff => stream.write_all(PROMISE),
        Reply::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(b"x")?;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Reply::Garbage => stream.write_all(b"220 mail ready\r\n\r\n"),
    }
}
