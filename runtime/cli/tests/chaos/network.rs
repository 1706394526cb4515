//! A network of a run's own: each process in a network namespace, all of them on one bridge, so that links can be cut
//! and slowed for real. Nothing leads out of it but a relay to the S3 server of the tests.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

const RELAY_PORT: u16 = 9000;
const ACCEPT_EVERY: Duration = Duration::from_millis(5);

pub struct Network {
    /// Unique on this machine.
    name: String,
    members: usize,
    relay: Option<Relay>,
}

impl Network {
    /// `members` processes, and one more for the relay.
    ///
    /// # Errors
    /// This machine doesn't let the test make namespaces: it isn't root, or there is no `ip`.
    pub fn new(name: &str, members: usize) -> Result<Self, String> {
        let network = Network { name: name.to_owned(), members: members + 1, relay: None };
        let bridge = network.bridge();
        ip(&["netns", "add", &bridge])?;
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &bridge, "link", "set", "br0", "up"])?;
        for member in 0..network.members {
            let (own, port) = (network.namespace(member), port(member));
            ip(&["netns", "add", &own])?;
            ip(&["link", "add", &port, "netns", &bridge, "type", "veth", "peer", "name", "eth0", "netns", &own])?;
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &own, "addr", "add", &format!("{}/24", network.address(member)), "dev", "eth0"])?;
            ip(&["-n", &own, "link", "set", "eth0", "up"])?;
            ip(&["-n", &own, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    pub fn namespace(&self, member: usize) -> String {
        format!("{}m{member}", self.name)
    }

    pub fn address(&self, member: usize) -> String {
        format!("10.77.0.{}", member + 1)
    }

    /// Nothing comes or goes, and nobody is told.
    pub fn cut(&self, member: usize) {
        self.link(member, "down");
    }

    pub fn mend(&self, member: usize) {
        self.link(member, "up");
    }

    /// What either of them sends to the other is lost; everybody else hears both.
    pub fn part(&self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            // An address on the bridge that nobody has.
            let neighbour = ["neigh", "replace", &self.address(to), "lladdr", "02:00:00:00:00:01", "nud", "permanent"];
            ip(&[&["-n", &self.namespace(from)], &neighbour[..], &["dev", "eth0"]].concat()).ok();
        }
    }

    pub fn join(&self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            ip(&["-n", &self.namespace(from), "neigh", "del", &self.address(to), "dev", "eth0"]).ok();
        }
    }

    /// Both directions take no more than this, and what is too much waits or is lost.
    pub fn slow(&self, member: usize, kbit: u32) {
        let rate = format!("{kbit}kbit");
        for (namespace, device) in self.ends(member) {
            let limit = ["root", "tbf", "rate", &rate, "burst", "32kbit", "latency", "200ms"];
            run("tc", &[&["-n", &namespace, "qdisc", "replace", "dev", &device], &limit[..]].concat()).ok();
        }
    }

    pub fn speed_up(&self, member: usize) {
        for (namespace, device) in self.ends(member) {
            run("tc", &["-n", &namespace, "qdisc", "del", "dev", &device, "root"]).ok();
        }
    }

    /// Where members reach the server that listens at `upstream` (host:port) on this machine.
    pub fn relay_to(&mut self, upstream: &str) -> Result<String, String> {
        let member = self.members - 1;
        let address = format!("{}:{RELAY_PORT}", self.address(member));
        self.relay = Some(Relay::start(&self.namespace(member), &address, upstream)?);
        Ok(address)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn link(&self, member: usize, state: &str) {
        ip(&["-n", &self.bridge(), "link", "set", &port(member), state]).ok();
    }

    fn ends(&self, member: usize) -> [(String, String); 2] {
        [(self.bridge(), port(member)), (self.namespace(member), "eth0".to_owned())]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.relay = None;
        for member in 0..self.members {
            ip(&["netns", "del", &self.namespace(member)]).ok();
        }
        ip(&["netns", "del", &self.bridge()]).ok();
    }
}

fn port(member: usize) -> String {
    format!("port{member}")
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let shown = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("`{shown}`: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("`{shown}`: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Takes connections in a namespace and passes them on outside of it.
struct Relay {
    is_over: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Relay {
    fn start(namespace: &str, address: &str, upstream: &str) -> Result<Self, String> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (accepted, connections) = channel::<TcpStream>();
        // A thread is in the namespace of the one that started it: this one stays outside.
        let upstream = upstream.to_owned();
        std::thread::spawn(move || {
            for inside in connections {
                if let Ok(outside) = TcpStream::connect(&upstream) {
                    pump(&inside, &outside);
                    pump(&outside, &inside);
                }
            }
        });
        let (started, is_listening) = channel();
        let (namespace, address, ended) = (namespace.to_owned(), address.to_owned(), Arc::clone(&is_over));
        let listening = std::thread::spawn(move || {
            let listener = enter(&namespace).and_then(|()| TcpListener::bind(&address));
            let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
            let listener = match listener {
                Ok(listener) => listener,
                Err(error) => return drop(started.send(Err(error.to_string()))),
            };
            started.send(Ok(())).ok();
            while !ended.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).ok();
                        accepted.send(stream).ok();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(ACCEPT_EVERY),
                    Err(_) => return,
                }
            }
        });
        is_listening.recv().map_err(|error| error.to_string())??;
        Ok(Relay { is_over, listening: Some(listening) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(listening) = self.listening.take() {
            listening.join().ok();
        }
    }
}

/// Moves this thread into a network namespace.
fn enter(namespace: &str) -> std::io::Result<()> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    // SAFETY: setns(2) takes a descriptor, which is open here, and a number.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// One direction of a connection, until it ends.
fn pump(from: &TcpStream, to: &TcpStream) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        to.shutdown(Shutdown::Write).ok();
        from.shutdown(Shutdown::Read).ok();
    });
}
