//! Writes the log on its own thread, so that logging never waits for whoever reads it.
//!
//! The thread writes the pending events in one piece: under load a hundred times a second,
//! otherwise each line at once. If the reader stalls (a pipe whose reader hangs, a stuck journal),
//! events beyond the buffer are dropped and counted; no request waits for its line.

use std::io::{self, Write as _};
use std::mem;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// Bytes that may be pending, besides as many that are being written: about 20,000 lines.
const ROOM: usize = 4 << 20;

/// The pause between two writes under load. A killed process loses at most the lines of this time,
/// if the reader keeps up.
const REST: Duration = Duration::from_millis(10);

/// How long the end of the program waits for pending lines.
const LAST: Duration = Duration::from_secs(1);

/// Where the log is written.
#[derive(Debug)]
pub enum Sink {
    /// To standard error, many lines in one piece.
    Stderr,
    /// To journald, one datagram per event.
    Journal(UnixDatagram),
}

/// A handle to a [`Sink`]. Clones share it.
#[derive(Clone, Debug)]
pub struct Outlet {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Signalled when there are events to write, or a caller waits for them to be written.
    filled: Condvar,
    /// Signalled when everything is written.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Events,
    /// Events dropped because the buffer was full.
    lost: u64,
    /// Whether the thread is writing events that it has taken.
    is_writing: bool,
    /// Whether a caller waits for the last line.
    is_urgent: bool,
}

/// A sequence of events.
#[derive(Debug, Default)]
struct Events {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Outlet {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start(sink: Sink) -> io::Result<Self> {
        let outlet = Outlet { shared: Arc::default() };
        let writer = outlet.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || writer.keep_writing(&sink))?;
        Ok(outlet)
    }

    /// Adds an event. Never waits until it is written.
    pub fn put(&self, event: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.events.bytes.len() + event.len() > ROOM {
            waiting.lost += 1;
            return;
        }
        waiting.events.push(event);
        let sleeps = waiting.events.ends.len() == 1 && !waiting.is_writing;
        drop(waiting);
        if sleeps {
            self.shared.filled.notify_one();
        }
    }

    /// Waits until everything is written, at most a second.
    pub fn flush(&self) {
        let until = Instant::now() + LAST;
        let mut waiting = self.waiting();
        waiting.is_urgent = true;
        self.shared.filled.notify_one();
        while waiting.is_writing || !waiting.events.ends.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.shared.emptied.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn keep_writing(&self, sink: &Sink) {
        let mut events = Events::default();
        loop {
            let mut waiting = self.waiting();
            while waiting.events.ends.is_empty() {
                (waiting.is_writing, waiting.is_urgent) = (false, false);
                self.shared.emptied.notify_all();
                waiting = self.shared.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.is_writing = true;
            mem::swap(&mut waiting.events, &mut events);
            let lost = mem::take(&mut waiting.lost);
            drop(waiting);
            if lost > 0 {
                // There is room for this line now, after the pending ones.
                warn!(lines = lost, "the log was not taken in time, and lines were lost");
            }
            sink.write(&events);
            events.clear();
            let resting = self.waiting();
            let rested = self.shared.filled.wait_timeout_while(resting, REST, |waiting| !waiting.is_urgent);
            drop(rested);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    fn push(&mut self, event: &[u8]) {
        self.bytes.extend_from_slice(event);
        self.ends.push(self.bytes.len());
    }

    /// Empties it, and frees memory that only a burst needs.
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes.shrink_to(ROOM / 16);
        self.ends.shrink_to(ROOM / 1024);
    }
}

impl Sink {
    /// Events that cannot be written are dropped: reporting the error would lead here again.
    fn write(&self, events: &Events) {
        match self {
            Sink::Stderr => write_all(&events.bytes),
            Sink::Journal(socket) => {
                let mut begin = 0;
                for end in &events.ends {
                    let _ = socket.send(events.bytes.get(begin..*end).unwrap_or_default());
                    begin = *end;
                }
            }
        }
    }
}

/// Writes to standard error, which may have been made non-blocking by another process that shares
/// it.
fn write_all(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match io::stderr().write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(REST),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlet() -> (Outlet, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        (Outlet::start(Sink::Journal(ours)).unwrap(), theirs)
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut datagram = [0; 1024];
        let length = socket.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    }

    #[test]
    fn every_event_comes_in_its_order() {
        let (outlet, socket) = outlet();
        let reader = std::thread::spawn(move || (0..1000).map(|_| received(&socket)).collect::<Vec<_>>());
        for number in 0..1000 {
            outlet.put(number.to_string().as_bytes());
        }
        outlet.flush();
        let expected: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[test]
    fn lines_that_are_not_read_delay_no_caller() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        // The pipe is full from the start.
        ours.set_nonblocking(true).unwrap();
        let mut before = 0;
        while ours.send(b"before").is_ok() {
            before += 1;
        }
        ours.set_nonblocking(false).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let outlet = Outlet::start(Sink::Journal(ours)).unwrap();
        let event = [b'x'; 1000];
        outlet.put(&event);
        while !outlet.waiting().is_writing {
            std::thread::yield_now();
        }
        let room = ROOM / event.len();
        for _ in 0..room + 7 {
            outlet.put(&event);
        }
        let waiting = outlet.waiting();
        assert_eq!((waiting.events.ends.len(), waiting.lost), (room, 7));
        drop(waiting);
        for _ in 0..before {
            assert_eq!(received(&theirs), "before");
        }
        for _ in 0..1 + room {
            assert_eq!(received(&theirs).len(), event.len());
        }
        outlet.put(b"again");
        assert_eq!(received(&theirs), "again");
    }
}
