//! The files that `lazyattn bench` writes, as far as the page shows them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lazy_attn_workload::{Load, TraceHeader};
use serde::Deserialize;

use super::simulated;

/// A file.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RunFile {
    /// Its name without the ending.
    #[serde(skip)]
    pub(super) name: String,
    pub(super) setting: Setting,
    pub(super) trace: TraceHeader,
    pub(super) num_requests: usize,
    pub(super) warmup_requests: usize,
    pub(super) kv_budget: String,
    pub(super) results: Vec<Figures>,
    #[serde(default)]
    pub(super) agreements: Vec<Agreement>,
}

/// How far the tokens of two policies agree.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Agreement {
    pub(super) base: String,
    pub(super) other: String,
    pub(super) num_clear: u64,
    pub(super) num_clear_differing: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Setting {
    pub(super) model_id: String,
    pub(super) device: String,
    pub(super) commit: String,
    pub(super) version: String,
    pub(super) command: String,
    #[serde(default)]
    pub(super) note: String,
}

/// The figures of one policy.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Figures {
    pub(super) policy: String,
    pub(super) ttft_ms: Option<Summary>,
    pub(super) ttft_encoding_ms: Option<Summary>,
    pub(super) ttft_resident_ms: Option<Summary>,
    pub(super) tpot_ms: Option<Summary>,
    pub(super) itl_ms: Option<Summary>,
    pub(super) hit_ratio: f64,
    pub(super) reencoded_ratio: f64,
    pub(super) hit_ratio_first_100: f64,
    pub(super) hit_ratio_last_100: f64,
    pub(super) hit_tokens: Vec<u64>,
    pub(super) peak_kv_bytes: Option<u64>,
    pub(super) shared_kv_factor: Option<f64>,
    #[serde(default)]
    pub(super) completed: u64,
    pub(super) request_throughput: f64,
    pub(super) output_throughput: f64,
    /// Seconds.
    pub(super) ttfts: Vec<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Summary {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl RunFile {
    pub(super) fn of(&self, policy: &str) -> Option<&Figures> {
        self.results.iter().find(|figures| figures.policy == policy)
    }

    /// Clients, for a closed load.
    pub(super) fn clients(&self) -> Option<u32> {
        match self.trace.load {
            Load::Closed { clients } => Some(clients),
            Load::Open { .. } => None,
        }
    }

    /// Requests per second, for an open load.
    pub(super) fn rate(&self) -> Option<f64> {
        match self.trace.load {
            Load::Open { rate_per_second } => Some(rate_per_second),
            Load::Closed { .. } => None,
        }
    }

    /// The workload without its size.
    pub(super) fn workload(&self) -> &str {
        self.trace.workload.trim_end_matches("-small")
    }
}

/// Files that were measured with one model on one device: a folder.
#[derive(Debug)]
pub(super) struct Group {
    /// Name of the folder.
    pub(super) name: String,
    pub(super) runs: Vec<RunFile>,
}

/// Every folder under `folder` with results in it, sorted.
pub(super) fn read(folder: &Path) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let is_measured = |path: &PathBuf| path.is_dir() && stem(path) != simulated::FOLDER;
    for path in sorted(folder)?.into_iter().filter(is_measured) {
        let runs = runs(&path)?;
        if !runs.is_empty() {
            groups.push(Group { name: stem(&path), runs });
        }
    }
    Ok(groups)
}

/// The results in `folder`, sorted.
pub(super) fn runs(folder: &Path) -> Result<Vec<RunFile>> {
    let files = sorted(folder)?.into_iter().filter(|file| file.extension().is_some_and(|e| e == "json"));
    files.map(|file| read_file(&file)).collect()
}

fn read_file(path: &Path) -> Result<RunFile> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut run: RunFile =
        serde_json::from_str(&text).with_context(|| format!("{} is no result of a bench", path.display()))?;
    run.name = stem(path);
    Ok(run)
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no results in {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const RUN: &str = r#"{
        "setting": {"unix_seconds": 1, "model_id": "m", "device": "d", "commit": "c", "version": "v", "command": "lazyattn bench"},
        "trace": {"format": "lazyattn-trace-1", "workload": "WORKLOAD", "seed": 7, "alpha": 1.1,
            "shape": {"num_documents": 100, "document_tokens": 128, "documents_per_request": 5, "query_tokens": 16, "output_tokens": 8},
            "load": {"closed": {"clients": CLIENTS}}},
        "num_requests": 200, "warmup_requests": 2, "kv_budget": "all", "results": []}"#;

    /// A run of 200 requests that no policy has played.
    pub(in crate::bench) fn run_file(workload: &str, clients: u32) -> RunFile {
        let text = RUN.replace("WORKLOAD", workload).replace("CLIENTS", &clients.to_string());
        let run: RunFile = serde_json::from_str(&text).unwrap();
        RunFile { name: workload.to_owned(), ..run }
    }

    /// What a policy would have written of it.
    pub(in crate::bench) fn figures(policy: &str, hit_tokens: &[u64]) -> Figures {
        let summary = Summary { mean: 1.0, p50: 1.0, p99: 1.0 };
        Figures {
            policy: policy.to_owned(),
            ttft_ms: Some(summary),
            ttft_encoding_ms: None,
            ttft_resident_ms: Some(summary),
            tpot_ms: None,
            itl_ms: None,
            hit_ratio: 0.5,
            reencoded_ratio: 0.0,
            hit_ratio_first_100: 0.5,
            hit_ratio_last_100: 0.5,
            hit_tokens: hit_tokens.to_vec(),
            peak_kv_bytes: None,
            shared_kv_factor: None,
            completed: 200,
            request_throughput: 2.0,
            output_throughput: 2.0,
            ttfts: vec![0.001, 0.002],
        }
    }
}
