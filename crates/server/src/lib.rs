//! The asynchronous rim: the engine's verbs as JSON over HTTP on a Unix socket.
//!
//! The caller of a request is the peer of its connection as the kernel names it (`SO_PEERCRED`), so answers are
//! filtered as they are through the mount. Over TCP the kernel tells nothing: there a key opens, and stands for a user.
//! Every verb runs on a blocking thread; nothing of the engine is async.

mod api;
mod key;
mod peer;

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use vexfs_core::knowledge::Knowledge;

pub use key::Key;

/// Verbs that run at once; more wait. A search takes milliseconds, an index request up to its own time limit.
const BLOCKING_THREADS_MAX: usize = 16;

/// A server on a socket. Dropping it stops it.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the verbs of `knowledge` on a bound socket, from a thread of its own.
    pub fn start(listener: UnixListener, knowledge: Arc<Knowledge>) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let runtime = runtime()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::UnixListener::from_std(listener)?
        };
        let routes = api::routes(knowledge).into_make_service_with_connect_info::<peer::Peer>();
        Server::run(runtime, axum::serve(listener, routes))
    }

    /// Serves the verbs over TCP, to whoever has the key.
    pub fn start_tcp(listener: TcpListener, knowledge: Arc<Knowledge>, key: Key) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let runtime = runtime()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let routes = api::routes(knowledge).layer(axum::middleware::from_fn_with_state(key, key::admit));
        Server::run(runtime, axum::serve(listener, routes))
    }

    fn run(
        runtime: Runtime,
        serving: impl IntoFuture<Output = io::Result<()>> + Send + 'static,
    ) -> io::Result<Server> {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("vexfs-server".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        result = serving.into_future() => {
                            if let Err(error) = result {
                                tracing::error!("the API socket failed: {error}");
                            }
                        }
                        _ = stopped => {}
                    }
                });
                // Requests in flight end with their connection; none of them is waited for.
                runtime.shutdown_background();
            })?;
        Ok(Server {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("vexfs-api")
        .enable_all()
        .build()
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
