//! `GET /metrics` on a listener of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::record::Metrics;
use super::text::METRICS_CONTENT_TYPE;

/// What slow or many scrapers can take.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Scrapes at once; the next connection waits in the system's queue.
    max_connections: usize,
    /// A connection serves one request and ends, at the latest after this long, however slow its peer.
    max_connection_time: Duration,
    /// The request line and headers have to be there by then.
    max_header_time: Duration,
}

const BOUNDS: Bounds = Bounds {
    max_connections: 8,
    max_connection_time: Duration::from_secs(10),
    max_header_time: Duration::from_secs(5),
};
/// Largest request line and headers together.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Most headers.
const MAX_HEADERS: usize = 64;
/// When accepting fails, as it does while file descriptors are short.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Serves `metrics` on `listener` until the future is dropped. Anyone who can connect may read: bind with
/// [`bind`](crate::bind), which keeps to the loopback unless told otherwise.
pub async fn serve_metrics(listener: TcpListener, metrics: Arc<Metrics>) -> Infallible {
    serve_bounded(&listener, metrics, BOUNDS).await
}

async fn serve_bounded(listener: &TcpListener, metrics: Arc<Metrics>, bounds: Bounds) -> Infallible {
    let slots = Arc::new(Semaphore::new(bounds.max_connections));
    loop {
        // Nobody closes the semaphore.
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = Arc::clone(&metrics);
                tokio::spawn(async move {
                    let _slot = slot;
                    // Of a scraper that is too slow or gone nobody needs to know.
                    let serving = connection(stream, metrics, bounds.max_header_time);
                    let _ = timeout(bounds.max_connection_time, serving).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    metrics: Arc<Metrics>,
    max_header_time: Duration,
) -> hyper::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(max_header_time)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn respond(method: &Method, path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    let plain = |status, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_CONTENT_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    };
    if path != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is only /metrics here\n".to_owned());
    }
    if *method != Method::GET && *method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET is all there is\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    plain(StatusCode::OK, metrics.render())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Long enough for any machine, short enough to fail rather than hang.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_scraper_that_stalls_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let second = Duration::from_secs(1);
        // The first bound that passes ends the connection, whichever it is; there is one slot.
        for (header_millis, connection_millis) in [(10, 600_000), (600_000, 10)] {
            let bounds = Bounds {
                max_connections: 1,
                max_header_time: second * header_millis / 1000,
                max_connection_time: second * connection_millis / 1000,
            };
            let serving = serve_bounded(&listener, Arc::new(Metrics::of_nothing()), bounds);
            let scrape = async {
                let mut stalled = TcpStream::connect(address).await.unwrap();
                stalled.write_all(b"GET /metr").await.unwrap();
                let mut rest = Vec::new();
                // Closed or reset: either way it is over.
                let _ = stalled.read_to_end(&mut rest).await;
                assert!(!String::from_utf8(rest).unwrap().contains("lazyattn_"));
            };
            tokio::select! {
                never = serving => match never {},
                over = timeout(PATIENCE, scrape) => over.unwrap(),
            }
        }
    }
}
