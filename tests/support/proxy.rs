//! A TCP proxy on loopback that fails on command: cuts, stalls, delays, turns a bit.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the side that dialled.
    Out,
    /// To the side that dialled.
    Back,
}

#[derive(Default)]
struct Faults {
    /// Per way: nothing is passed on while this is set. Connections stay open.
    stalled: [AtomicBool; 2],
    /// Per way: milliseconds before each piece is passed on.
    delay_ms: [AtomicU64; 2],
    /// Per way: how many more bytes pass before one bit of the next byte is turned, plus one; 0: never.
    corrupt_at: [AtomicU64; 2],
    refuse: AtomicBool,
    stop: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// The proxy. Dropping it cuts everything.
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<Faults>,
}

impl Proxy {
    /// Passes connections on to `target`.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { continue };
                if shared.stop.load(SeqCst) {
                    return;
                }
                if shared.refuse.load(SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(target) else { continue };
                let pair = (near.try_clone().unwrap(), far.try_clone().unwrap());
                shared.open.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let (out, back) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || pass(near, far, &out, Way::Out));
                std::thread::spawn(move || pass(pair.1, pair.0, &back, Way::Back));
            }
        });
        Self { address, faults }
    }

    /// Where to dial instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections now.
    pub fn cut(&self) {
        for socket in self.faults.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.faults.refuse.store(refuse, SeqCst);
    }

    /// Holds everything back that goes this way, or lets it go on.
    pub fn stall(&self, way: Way, stalled: bool) {
        self.faults.stalled[way as usize].store(stalled, SeqCst);
    }

    /// Passes each piece on after this time.
    pub fn delay(&self, way: Way, time: Duration) {
        self.faults.delay_ms[way as usize].store(time.as_millis() as u64, SeqCst);
    }

    /// Turns one bit of the byte that follows `after` more bytes. Once.
    pub fn corrupt(&self, way: Way, after: u64) {
        self.faults.corrupt_at[way as usize].store(after + 1, SeqCst);
    }

    /// Whether the bit that was to be turned has been.
    pub fn has_corrupted(&self, way: Way) -> bool {
        self.faults.corrupt_at[way as usize].load(SeqCst) == 0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.faults.stop.store(true, SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, faults: &Faults, way: Way) {
    let way = way as usize;
    let mut buf = vec![0; 16 << 10];
    while let Ok(got) = from.read(&mut buf) {
        if got == 0 {
            break;
        }
        while faults.stalled[way].load(SeqCst) && !faults.stop.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(faults.delay_ms[way].load(SeqCst)));
        let at = faults.corrupt_at[way].load(SeqCst);
        if at > got as u64 {
            faults.corrupt_at[way].store(at - got as u64, SeqCst);
        } else if at > 0 {
            buf[at as usize - 1] ^= 0x10;
            faults.corrupt_at[way].store(0, SeqCst);
        }
        if to.write_all(&buf[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
