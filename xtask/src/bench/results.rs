//! The files that `lazyattn bench` writes, as far as the page shows them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lazy_attn_workload::{Load, TraceHeader};
use serde::Deserialize;

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
    for path in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
        let files = sorted(&path)?.into_iter().filter(|file| file.extension().is_some_and(|e| e == "json"));
        let runs = files.map(|file| read_file(&file)).collect::<Result<Vec<_>>>()?;
        if !runs.is_empty() {
            groups.push(Group { name: stem(&path), runs });
        }
    }
    Ok(groups)
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
