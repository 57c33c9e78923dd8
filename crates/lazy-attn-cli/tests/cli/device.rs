//! Where a model runs, and models of random weights.

use serde_json::Value;

use crate::lazyattn;

fn answer(model: &str) -> Value {
    lazyattn(&["--model", model, "run", "--json", "--max-tokens", "5", "Who?"]).json()
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_this_build_cannot_have_is_refused_before_the_model_is_read() {
    let ran = lazyattn(&["--device", "cuda:1", "--model", "absent.gguf", "run", "Who?"]);
    ran.assert_error(2, &["--device cuda:1", "--features cuda"]);
}

#[test]
fn devices_and_memory_that_cannot_be_are_refused() {
    let run = |more: &[&str]| lazyattn(&[more, &["--model", "absent.gguf", "run", "Who?"]].concat());
    run(&["--device", "gpu"]).assert_error(2, &["'gpu'", "cuda:0"]);
    run(&["--gpu-memory-fraction", "1.5"]).assert_error(2, &["'1.5'", "at most 1"]);
    run(&["--gpu-memory-fraction", "0.5", "--kv-cache-memory", "1GiB"])
        .assert_error(2, &["--gpu-memory-fraction", "cannot be used with", "--kv-cache-memory"]);
    run(&["--device", "cpu", "--block-size", "3"]).assert_error(2, &["--block-size is 3"]);
    // The processor has no such kernels, whatever the model.
    let f16 =
        lazyattn(&["--device", "cpu", "--weight-dtype", "f16", "--model", "random:1:tiny", "run", "Who?"]);
    f16.assert_error(2, &["--weight-dtype f16", "CUDA"]);
    let fp8 = lazyattn(&["--device", "cpu", "--kv-dtype", "fp8", "--model", "random:1:tiny", "run", "Who?"]);
    fp8.assert_error(2, &["--kv-dtype fp8", "CUDA"]);
}

#[test]
fn random_weights_answer_with_the_tokens_of_their_seed() {
    let [first, again, other] = ["random:7:tiny", "random:7:tiny", "random:8:tiny"].map(answer);
    assert_eq!(first["usage"]["completionTokens"], 5, "{first}");
    assert_eq!(first["text"], again["text"]);
    assert_ne!(first["text"], other["text"]);
}

#[test]
fn doctor_tells_of_gpus_also_where_there_is_none() {
    let report = lazyattn(&["--model", "random:1:tiny", "doctor", "--json"]).json();
    let details = |name: &str| -> Vec<String> {
        let checks = report["checks"].as_array().unwrap().iter();
        let named = checks.filter(|check| check["name"] == name && check["status"] == "ok");
        named.map(|check| check["detail"].as_str().unwrap().to_owned()).collect()
    };
    assert!(!details("gpu").is_empty() && !details("gpu kernels").is_empty(), "{report}");
    let fit = details("gpu fit");
    assert!(fit.iter().all(|fit| fit.contains("weights")) && !fit.is_empty(), "{fit:?}");
    let num_gpus = report["figures"]["gpus"].as_array().unwrap().len();
    assert!(num_gpus == 0 || num_gpus == fit.len());
    if num_gpus == 0 {
        // The device that was asked for is not there.
        let ran = lazyattn(&["--model", "random:1:tiny", "--device", "cuda:0", "doctor"]);
        assert_eq!(ran.code, 1, "{}", ran.stdout);
        assert!(
            ran.stdout.lines().any(|line| line.starts_with("gpu ") && line.contains("FAILED")),
            "{}",
            ran.stdout
        );
    }
}
