//! A TCP tunnel to a server that can cut its connections the hard way.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Carries connections until they are reset.
pub(crate) struct Tunnel {
    pub(crate) url: String,
    resets: watch::Sender<()>,
}

impl Tunnel {
    /// A tunnel to the server at `url`.
    pub(crate) async fn to(url: &str) -> Tunnel {
        let address = url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let resets = watch::Sender::new(());
        let of_listener = resets.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let reset = of_listener.subscribe();
                let server = TcpStream::connect(&address).await.unwrap();
                // Small writes go at once, as they do without the tunnel.
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                tokio::spawn(carry(client, server, reset));
            }
        });
        Tunnel { url: own, resets }
    }

    /// Ends every connection with a TCP reset, on both sides.
    pub(crate) fn reset(&self) {
        self.resets.send_replace(());
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, mut reset: watch::Receiver<()>) {
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = reset.changed() => {
            for socket in [client, server] {
                socket.set_zero_linger().unwrap();
            }
        }
    }
}
