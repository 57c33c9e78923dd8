//! Models on the hub: from the cache, and from a hub that runs in the test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use lazy_attn_models::weights::{HubAccess, HubOptions};
use lazy_attn_models::{LoadOptions, ModelRef, describe, list, load};
use lazy_attn_types::TokenId;
use support::testing::TempDir;
use support::{safetensors_file, tiny_config, tiny_tensors, tiny_tokenizer};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn options(cache: &TempDir, access: HubAccess, endpoint: &str) -> LoadOptions<'static> {
    LoadOptions {
        hub: HubOptions {
            cache: cache.path().to_owned(),
            endpoint: endpoint.to_owned(),
            token: None,
            access,
        },
        ..LoadOptions::default()
    }
}

fn offline(cache: &TempDir) -> LoadOptions<'static> {
    options(cache, HubAccess::CacheOnly, "http://127.0.0.1:1")
}

/// A cache that holds the tiny model as `org/tiny`.
fn filled_cache(label: &str) -> TempDir {
    let cache = TempDir::new(label);
    let write = |name: &str, bytes: Vec<u8>| {
        cache.write(&format!("models--org--tiny/snapshots/{COMMIT}/{name}"), bytes);
    };
    write("config.json", tiny_config().to_string().into());
    write("tokenizer.json", tiny_tokenizer().to_string().into());
    write("model.safetensors", safetensors_file(&tiny_tensors(&tiny_config())));
    cache.write("models--org--tiny/refs/main", COMMIT);
    cache
}

fn reference(text: &str) -> ModelRef {
    text.parse().unwrap()
}

#[test]
fn a_cached_model_loads_without_the_network() {
    let cache = filled_cache("cached");
    for text in ["org/tiny".to_owned(), format!("org/tiny@{COMMIT}")] {
        let model = load(&reference(&text), &offline(&cache)).unwrap();
        assert_eq!((model.name.as_str(), model.config.hidden_size), (text.as_str(), 32));
        assert_eq!(model.special.end, [TokenId(2)]);
    }
}

#[test]
fn a_file_that_is_not_cached_is_named_offline() {
    let cache = filled_cache("not-cached");
    let error = load(&reference("org/other"), &offline(&cache)).unwrap_err().to_string();
    assert!(error.starts_with("model `org/other`: config.json is not in the cache"), "{error}");
    std::fs::remove_file(cache.path().join(format!("models--org--tiny/snapshots/{COMMIT}/tokenizer.json")))
        .unwrap();
    let error = load(&reference("org/tiny"), &offline(&cache)).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json is not in the cache") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
}

#[test]
fn a_cached_model_loads_when_the_hub_cannot_be_reached() {
    let cache = filled_cache("unreachable");
    // Nothing listens on port 1: the optional files cannot be asked for, and are done without.
    load(&reference("org/tiny"), &options(&cache, HubAccess::Online, "http://127.0.0.1:1")).unwrap();
}

#[test]
fn the_list_says_what_loads_and_why_the_rest_does_not() {
    let cache = filled_cache("list");
    cache.write("models--org--broken/refs/main", COMMIT);
    let all = list(cache.path(), &offline(&cache));
    let find = |name: &str| all.iter().find(|entry| entry.reference == name).unwrap();
    assert_eq!(find("embedded").outcome.as_ref().unwrap().num_parameters, 47_200_320);
    assert_eq!(find("org/tiny").outcome.as_ref().unwrap().weight_bytes, 2 * 6496);
    assert_eq!(find("random:0:llama-3.1-8b").outcome.as_ref().unwrap().config.num_layers, 32);
    let error = find("org/broken").outcome.as_ref().unwrap_err().to_string();
    assert!(error.contains("config.json is not in the cache"), "{error}");
    assert!(describe("no-such-model", &offline(&cache)).outcome.is_err());
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_build_without_the_feature_says_how_to_get_it() {
    let cache = TempDir::new("no-feature");
    let online = options(&cache, HubAccess::Online, "http://127.0.0.1:1");
    let error = load(&reference("org/tiny"), &online).unwrap_err().to_string();
    assert!(error.ends_with("rebuild with `--features hub`"), "{error}");
}

#[cfg(feature = "hub")]
mod online {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use lazy_attn_models::Progress;

    /// A hub with one model; serves until the test ends.
    struct Hub {
        endpoint: String,
        requests: Arc<Mutex<Vec<String>>>,
    }

    impl Hub {
        fn start(files: Vec<(&'static str, Vec<u8>)>) -> Hub {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let requests = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&requests);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    serve(stream.unwrap(), &files, &log);
                }
            });
            Hub { endpoint, requests }
        }

        fn count(&self) -> usize {
            self.requests.lock().unwrap().len()
        }
    }

    /// Answers one request and closes the connection.
    fn serve(mut stream: TcpStream, files: &[(&str, Vec<u8>)], log: &Mutex<Vec<String>>) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let Some(request) = lines.next() else { return };
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        log.lock().unwrap().push(request.clone());
        let path = request.split(' ').nth(1).unwrap();
        let found = files.iter().find(|(name, _)| path == format!("/org/tiny/resolve/main/{name}"));
        let Some((name, bytes)) = found else {
            write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .unwrap();
            return;
        };
        let range = headers
            .iter()
            .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let (start, end) = match range.as_deref().and_then(|range| range.split_once('-')) {
            Some((start, "")) => (start.parse().unwrap(), bytes.len()),
            Some((start, end)) => (start.parse().unwrap(), end.parse::<usize>().unwrap() + 1),
            None => (0, bytes.len()),
        };
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\n\
             ETag: \"etag-{name}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
            end - start,
            end - 1,
            bytes.len()
        )
        .unwrap();
        stream.write_all(&bytes[start..end]).unwrap();
    }

    fn tiny_hub(without: &str) -> Hub {
        let files = [
            ("config.json", tiny_config().to_string().into_bytes()),
            ("tokenizer.json", tiny_tokenizer().to_string().into_bytes()),
            ("generation_config.json", br#"{"eos_token_id": 5}"#.to_vec()),
            ("model.safetensors", safetensors_file(&tiny_tensors(&tiny_config()))),
        ];
        Hub::start(files.into_iter().filter(|(name, _)| *name != without).collect())
    }

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Progress for Count {
        fn begin(&self, _task: &str, _total_bytes: u64) {}
        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
        fn finish(&self) {}
    }

    #[test]
    fn a_model_is_downloaded_once_and_then_loads_offline() {
        let (hub, cache) = (tiny_hub(""), TempDir::new("download"));
        let count = Count::default();
        let online = LoadOptions { progress: &count, ..options(&cache, HubAccess::Online, &hub.endpoint) };
        let model = load(&reference("org/tiny"), &online).unwrap();
        assert_eq!(model.special.end, [TokenId(5), TokenId(2)]);
        assert!(count.0.load(Ordering::Relaxed) >= model.tensors.total_bytes());
        let before = hub.count();
        load(&reference("org/tiny"), &online).unwrap();
        // Files the hub does not have are remembered as well.
        assert_eq!(hub.count(), before);
        load(&reference("org/tiny"), &offline(&cache)).unwrap();
    }

    #[test]
    fn a_file_the_hub_does_not_have_is_named() {
        let (hub, cache) = (tiny_hub("model.safetensors"), TempDir::new("absent"));
        let online = options(&cache, HubAccess::Online, &hub.endpoint);
        let error = load(&reference("org/tiny"), &online).unwrap_err().to_string();
        assert_eq!(error, "model `org/tiny`: the hub has no model.safetensors at revision main");
    }

    #[test]
    fn a_hub_that_cannot_be_reached_is_an_error_that_names_the_file() {
        let cache = TempDir::new("no-hub");
        let online = options(&cache, HubAccess::Online, "http://127.0.0.1:1");
        let error = load(&reference("org/tiny"), &online).unwrap_err().to_string();
        assert!(error.starts_with("model `org/tiny`: cannot download config.json: "), "{error}");
    }
}
