//! Names of services: each is the one address at which all coordinators are played.

use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const HEAD_BYTES: usize = 12;
/// Longer questions are not asked here.
const QUESTION_BYTES: usize = 512;
const A: [u8; 2] = [0, 1];

/// Serves until it is dropped with the runtime.
pub async fn serve(address: &str) -> Result<JoinHandle<()>> {
    let socket = UdpSocket::bind((address, 53)).await.with_context(|| format!("cannot listen on {address}:53"))?;
    let target: Ipv4Addr = address.parse()?;
    Ok(tokio::spawn(async move {
        let mut buffer = [0; QUESTION_BYTES];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            if let Some(answer) = answer(&buffer[..length], target) {
                socket.send_to(&answer, from).await.ok();
            }
        }
    }))
}

/// The address for whoever asks for one of IPv4, nothing for any other kind.
fn answer(question: &[u8], target: Ipv4Addr) -> Option<Vec<u8>> {
    let name = question.get(HEAD_BYTES..)?;
    let mut end = 0;
    while *name.get(end)? != 0 {
        end += usize::from(name[end]) + 1;
    }
    // The name's end, its type and its class.
    let asked = name.get(..end + 5)?;
    let has_answer = asked[end + 1..end + 3] == A;
    let mut out = question[..2].to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    out.extend(asked);
    if has_answer {
        // The name again, by where it stands; A, IN, good for a minute, four bytes.
        out.extend([0xc0, HEAD_BYTES as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(target.octets());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_the_one_address() {
        let head = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let name = b"\x08orders-c\x02ns\x03svc\x00";
        let ask = |kind: u8| [&head[..], name, &[0, kind, 0, 1]].concat();
        let found = answer(&ask(1), Ipv4Addr::new(127, 53, 0, 1)).unwrap();
        assert_eq!((&found[..2], found[7]), (&[7, 9][..], 1));
        assert_eq!(found[found.len() - 4..], [127, 53, 0, 1]);
        let other = answer(&ask(28), Ipv4Addr::new(127, 53, 0, 1)).unwrap();
        assert_eq!((other[7], other.len()), (0, ask(28).len()));
        assert_eq!(answer(&head, Ipv4Addr::LOCALHOST), None);
    }
}
