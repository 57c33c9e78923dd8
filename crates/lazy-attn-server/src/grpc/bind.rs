//! Which addresses are listened on.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::ServeError;

/// From where the server may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exposure {
    /// From this machine.
    #[default]
    LoopbackOnly,
    /// From anywhere: connections are encrypted, or somebody said that they need not be.
    Anywhere,
}

/// Listens on `address`; port 0 takes any free port.
///
/// # Errors
/// [`ServeError::NotLoopback`] if `exposure` forbids the address, [`ServeError::Bind`] if the system does.
pub async fn bind(address: SocketAddr, exposure: Exposure) -> Result<TcpListener, ServeError> {
    if exposure == Exposure::LoopbackOnly && !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback { address });
    }
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}
