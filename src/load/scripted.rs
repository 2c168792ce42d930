//! For the tests of this layer: a server that reads nothing and says what it was given, in pieces.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Serve one connection with `answer`, cut into pieces, then close. The thread ends when the client
/// has taken everything or has gone.
pub(super) fn answering(answer: &[u8], piece_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = answer.to_vec();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        for piece in answer.chunks(piece_bytes) {
            if stream.write_all(piece).is_err() {
                return;
            }
        }
        // Half a close: a whole one would reset the connection where requests lie unread.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    };
    std::thread::Builder::new().name("scripted".into()).spawn(serve).unwrap();
    address
}
