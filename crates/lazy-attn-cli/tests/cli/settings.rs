//! `config`, and settings that cannot work.

use super::{command, folder, lazyattn, write};

#[test]
fn a_printed_setting_tells_where_its_value_comes_from() {
    let folder = folder("printed-settings");
    let file = write(&folder, "a.toml", "grpc-port = 7\nseed = 7\n");
    let mut printing = command(&["config", "print", "--config", &file, "--json", "--host", "::1"]);
    let output = printing.env("LAZYATTN_SEED", "8").output().unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let find = |wanted: &str| {
        let settings = printed["settings"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["name"] == wanted).unwrap();
        (setting["value"].as_str().map(str::to_owned), setting["origin"].as_str().unwrap().to_owned())
    };
    let given = |value: &str, origin: &str| (Some(value.to_owned()), origin.to_owned());
    assert_eq!(find("host"), given("::1", "command line"));
    assert_eq!(find("seed"), given("8", "LAZYATTN_SEED"));
    assert_eq!(find("grpc-port"), given("7", &format!("{file}:1")));
    assert_eq!(find("max-num-seqs"), given("64", "default"));
    assert_eq!(find("tls-key"), (None, "default".to_owned()));
    let table = lazyattn(&["config", "print", "--config", &file]).stdout;
    let line = table.lines().find(|line| line.starts_with("grpc-port ")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["grpc-port", "7", &format!("{file}:1")]);
}

#[test]
fn a_file_is_checked_without_a_server() {
    let folder = folder("checked-settings");
    let good = write(&folder, "good.toml", "host = \"::1\"\nmetrics-port = 0\n");
    let checked = lazyattn(&["config", "check", &good]);
    assert_eq!((checked.code, checked.stdout), (0, format!("{good}: 2 settings, all right\n")));
    for (text, word) in
        [("hots = 1", "did you mean host?"), ("\nseed = \"x\"", "bad.toml:2: invalid value 'x'")]
    {
        let bad = write(&folder, "bad.toml", text);
        lazyattn(&["config", "check", &bad]).assert_error(2, &[word]);
    }
    lazyattn(&["config", "check", "no-such.toml"]).assert_error(2, &["no-such.toml"]);
}

#[test]
fn settings_that_cannot_work_are_refused_before_the_model_is_loaded() {
    let serve =
        |more: &[&str]| lazyattn(&[&["serve", "--grpc-port", "0", "--model", "absent.gguf"], more].concat());
    serve(&["--max-num-seqs", "512"]).assert_error(2, &["--max-num-seqs is 512", "--max-num-batched-tokens"]);
    serve(&["--metrics-port", "0", "--metrics-host", "0.0.0.0"]).assert_error(2, &["--insecure-bind"]);
    let mut unknown = command(&["models"]);
    let output = unknown.env("LAZYATTN_SEEED", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean LAZYATTN_SEED?"));
    // An error is for the program that reads the log as well.
    let ended = serve(&["--log-format", "json", "--max-num-seqs", "512"]);
    let line: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!((ended.code, &line["level"]), (2, &"ERROR".into()));
    assert!(line["message"].as_str().unwrap().contains("--max-num-seqs is 512"));
}
