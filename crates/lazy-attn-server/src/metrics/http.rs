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

/// Scrapes at once; the next connection waits in the system's queue.
const MAX_CONNECTIONS: usize = 8;
/// A connection serves one request and ends, at the latest after this long, however slow its peer.
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(10);
/// The request line and headers have to be there by then.
const MAX_HEADER_TIME: Duration = Duration::from_secs(5);
/// Largest request line and headers together.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Most headers.
const MAX_HEADERS: usize = 64;
/// When accepting fails, as it does while file descriptors are short.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Serves `metrics` on `listener` until the future is dropped. Anyone who can connect may read: bind with
/// [`bind`](crate::bind), which keeps to the loopback unless told otherwise.
pub async fn serve_metrics(listener: TcpListener, metrics: Arc<Metrics>) -> Infallible {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Nobody closes the semaphore.
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = Arc::clone(&metrics);
                tokio::spawn(async move {
                    let _slot = slot;
                    // Of a scraper that is too slow or gone nobody needs to know.
                    let _ = timeout(MAX_CONNECTION_TIME, connection(stream, metrics)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, metrics: Arc<Metrics>) -> hyper::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(MAX_HEADER_TIME)
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
