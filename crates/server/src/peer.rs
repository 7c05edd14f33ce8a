//! Who is at the other end of a connection.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;
use vexfs_core::fs::ops::Caller;

/// The peer's credentials, or none when the kernel would not tell; then the request is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) Option<Caller>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        let peer = stream.io().peer_cred().ok();
        Peer(peer.map(|cred| Caller {
            uid: cred.uid(),
            gid: cred.gid(),
            pid: cred.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        }))
    }
}
