//! The page of all results, from their files alone.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::results::{self, Group, RunFile};
use super::{claims, plots, simulated, tables};

/// Where results are kept, and the page of them.
const FOLDER: &str = "docs/results";
const PAGE: &str = "docs/results.md";

const HEAD: &str = "# Results

Made by `cargo xtask bench report` from the files under `docs/results`, which `lazyattn bench` wrote; do not edit. What the
workloads are stands in [workloads.md](workloads.md), what the policies are in `lazyattn bench offline --help`. Within a table
all policies ran in one process, one after the other, on the same trace, each with an empty cache and the same KV budget. TTFT is
the time to the first token: of all requests, of those that computed a document themselves (*encoding*), and of those that found
all of them (*resident*). *Hits* are document tokens found as they are needed, and behind a plus those that `reencode` found at
another position and rotated. *Shared* is how many sequences read one resident document token in a decoding step. `reencode-copy` is `reencode`
without moving: every place takes a copy of its own. With `-ungrouped` behind a policy, the kernels read a document once for each sequence
that has it, as they do where a context is one list of blocks.

In the tables of claims, *1.37x: 2 of 3* says that two of three runs reach 1.37x; runs that differ in their seed only are one entry.
The cache is empty when a run begins, so that runs of `ttft` of fewer than 120 requests measure how it is filled: they
stand apart and are held against nothing.
";

const LIMITS: &str = "
## What limits the ratios

Against `prefix` and `none` the ratio is that of computing a prompt to computing a question. Against `reencode` it is smaller, because
ours is as good as it can honestly be: a copy that nobody holds moves where it lies, for one read and one write of its keys, which is
little beside encoding a document. What is left to `lazy` is memory (one copy where `reencode` keeps one per position in use: peak KV
and hits under a small budget) and sharing (sequences of a step that read one copy instead of several: *shared*).

`reencode-copy` keeps a copy for each place and never moves one. It is nearer to what a serving engine with position-specific copies does
(the authors of Block-Attention published none that keeps documents between requests), and `reencode` is our improvement on it. Moving is
worth little under load, where documents are held: the two differ by less than seeds do.

With skewed documents and the 8B shape, from the runs of 120 requests and more:

* **Room for a quarter of the pool, alpha 2.1:** both of the paper's claims hold, against `reencode` with each of three seeds and against
  `reencode-copy` with one, and so does our 2x for TTFT. Our 2x for requests/s takes 32 clients, and one seed misses it by two
  hundredths. Encoding takes most of the time under every policy, so requests/s follow the tokens that are *not* found: `lazy` misses
  1.7 to 2.0 times fewer, and there is not much more to gain.
* **The same, alpha 1.1:** the claims on TTFT hold (2x against `reencode`, 1.95x against `reencode-copy`), those on requests/s do not. A
  quarter of the pool holds too little of what is asked for, whoever keeps it: `lazy` misses 38 % where `reencode` misses 44 %. A store
  that always held the most popular documents would still miss 26 %, so that no way to evict could make it more than about 1.7x.
* **Room for a tenth, alpha 2.1:** with 8 clients the paper's TTFT holds, our 2x does not, and the paper's requests/s are missed by two
  hundredths. Both miss a quarter of the tokens; what is left is that copies leave `reencode` room for two sequences at once, where
  `lazy` runs six.
* **Room for all:** the ratio is about 1.1 and neither claim holds. Nothing is missed but what nobody asked for before, and most of such
  a run is filling the empty cache, which is the same for all. With a full store and 128 tokens of output the simulator says 1.6x with
  128 clients and 1.8x with 256 ([capacity.md](capacity.md#closed-loads-on-an-h200)), from sharing alone. `lazy` holds the pool in 26 to
  28 GiB, `reencode` its copies in 74 to 97.
* **Short runs from an empty cache** (the last column): about 1 with room for all, 1.05x to 2.3x with less.
* **What moves them:** the order in which those who wait are admitted. Since these runs it weighs tokens to compute more; simulated, with 32
  clients and a store that is full, that takes requests/s against `reencode` from 1.28x to 1.41x at alpha 1.1 with room for a quarter, and from
  1.5x to 1.9x at 2.1 with room for a tenth ([capacity.md](capacity.md#every-skew-with-every-budget-once-the-store-is-full), which has every
  skew with every budget). It has not been measured on a device.

TTFT gains more than requests/s because a median request waits: for documents before its own to be computed, and, under copies, for room.
In a closed load with many clients most of that is queueing.

On a device, contenders that compute the same are compared in bf16, which rounds 8 times as coarsely as the f16 of the CPU's keys: a
token that leads by little more than 0.05 may differ once keys were rotated again, as one of 260 did that led by 0.055. The rule that none may is held on the CPU.

In `shared` every policy but `none` finds the one document at the one position it ever has, and our kernels read it once for all
sequences under each of them: against those the ratio is 1, because grouping is no matter of the policy. What grouping itself is worth is the
ratio to the rows `-ungrouped`, which run the same kernels on the same plan but for that: every sequence reads the document on its own.

## What this does not show

* **Quality.** Prompts are random tokens. Whether answers are as good is another measurement; `prefix` and `none` compute another
  (exact) attention than the policies that encode each document alone.
* **Other engines.** All policies are this engine's. `reencode` is our best effort at Block-Attention in it, not the code of its
  authors; the ratios say what the policy costs, not how fast somebody else's program is.
* **Real weights at real sizes.** Models named `random:..` have the shape of the model they name and seeded random weights. Time does
  not depend on the values, but what is generated means nothing.
* **Traffic of real users.** Documents of a workload have one length, popularity is Zipf's and does not drift, questions are new each
  time, and nobody goes away.
* **Rare events.** With a few hundred requests a point, a 99th percentile is the second or third largest sample. Nothing here was
  repeated with other seeds unless a table says so, and three seeds are three samples.
* **A store that is warm.** Every run begins with an empty one. What a server gives after hours is nearer to the last requests of a run.
* **One version.** Rows of different commits were measured with different kernels; ratios are within a row.
* **Several machines, network.** One process on one device. Where a load came over a socket (`bench serve`), it came from the same host.
* **A processor that is idle.** On the CPU the figures of one table were taken one after the other while other work ran where the note says so:
  ratios of neighbours are worth more than the figures.
";

pub(super) fn run(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    let groups = results::read(&folder)?;
    let mut page = HEAD.to_owned();
    for group in &groups {
        write_group(&mut page, group, &folder.join(&group.name))?;
    }
    page.push_str(&simulated::section(&folder)?.unwrap_or_default());
    page.push_str(LIMITS);
    fs::write(root.join(PAGE), page).with_context(|| format!("cannot write {PAGE}"))?;
    println!("{PAGE}: {} sets of results", groups.len());
    Ok(())
}

fn write_group(page: &mut String, group: &Group, folder: &Path) -> Result<()> {
    let Some(first) = group.runs.first() else { return Ok(()) };
    let setting = &first.setting;
    let _ = writeln!(page, "\n## {} on {}\n", setting.model_id, setting.device);
    let mut settings: Vec<String> = group.runs.iter().map(setting_line).collect();
    settings.sort();
    settings.dedup();
    settings.iter().for_each(|line| page.push_str(line));
    let _ = writeln!(page, "\n{}", claims::table(group));
    for run in &group.runs {
        page.push_str(&section(run));
    }
    clear_charts(folder)?;
    for plot in plots::all(group)? {
        let file = format!("{}.svg", plot.name);
        fs::write(folder.join(&file), &plot.svg)?;
        let _ = writeln!(page, "![{}](results/{}/{file})\n", plot.title, group.name);
    }
    Ok(())
}

/// Charts of files that are gone would stay.
fn clear_charts(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "svg") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// What measured.
fn setting_line(run: &RunFile) -> String {
    let setting = &run.setting;
    let note = if setting.note.is_empty() { String::new() } else { format!(" {}.", setting.note) };
    format!("Commit {}, version {}.{note}\n", setting.commit, setting.version)
}

fn section(run: &RunFile) -> String {
    let (shape, trace) = (&run.trace.shape, &run.trace);
    let load = match (run.clients(), run.rate()) {
        (Some(1), _) => "1 client".to_owned(),
        (Some(clients), _) => format!("{clients} clients"),
        (None, rate) => format!("{} requests/s, Poisson", rate.unwrap_or_default()),
    };
    let mut text = format!(
        "### {}\n\n    {}\n\n{} documents of {} tokens, {} a request, question of {}, {} tokens of output; alpha {}, {load}, KV budget {}, \
         {} requests after {} to warm up, seed {}; commit {}.\n\n",
        run.name,
        run.setting.command,
        shape.num_documents,
        shape.document_tokens,
        shape.documents_per_request,
        shape.query_tokens,
        shape.output_tokens,
        trace.alpha,
        run.kv_budget,
        run.num_requests,
        run.warmup_requests,
        trace.seed,
        run.setting.commit,
    );
    text.push_str(&tables::figures(run));
    text.push_str(&tables::agreements(run));
    if run.workload() == "churn" {
        let _ = write!(text, "\n{}", tables::decay(run));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{
        "setting": {"unix_seconds": 1, "model_id": "m", "device": "d", "commit": "c", "version": "v", "command": "lazyattn bench"},
        "trace": {"format": "lazyattn-trace-1", "workload": "reorder-small", "seed": 7, "alpha": 0.0,
            "shape": {"num_documents": 5, "document_tokens": 128, "documents_per_request": 5, "query_tokens": 32, "output_tokens": 1},
            "load": {"closed": {"clients": 1}}},
        "num_requests": 2, "warmup_requests": 2, "kv_budget": "all", "results": [LAZY, PREFIX]}"#;

    fn figures(policy: &str, ms: f64) -> String {
        let summary = format!(
            r#"{{"count": 2, "mean": {ms}, "std": 0, "p50": {ms}, "p90": {ms}, "p99": {ms}, "max": {ms}}}"#
        );
        format!(
            r#"{{"policy": "{policy}", "ttft_ms": {summary}, "ttft_encoding_ms": null, "ttft_resident_ms": {summary},
            "tpot_ms": null, "itl_ms": null, "hit_ratio": 0.5, "reencoded_ratio": 0.0, "hit_ratio_first_100": 0.5, "hit_ratio_last_100": 0.5,
            "hit_tokens": [0, 640], "request_throughput": 2.0, "output_throughput": 2.0, "ttfts": [0.001, 0.002]}}"#
        )
    }

    fn run_file() -> RunFile {
        let text = RUN.replace("LAZY", &figures("lazy", 2.0)).replace("PREFIX", &figures("prefix", 20.0));
        let mut run: RunFile = serde_json::from_str(&text).unwrap();
        run.name = "reorder-small".into();
        run
    }

    #[test]
    fn a_page_has_the_ratio_the_setting_the_figures_and_a_chart() {
        let group = Group { name: "cpu".into(), runs: vec![run_file()] };
        assert!(claims::table(&group).contains("| 3.3x: 1 of 1 | 8x: 1 of 1 | 10.00x (reorder-small) | - |"));
        assert!(claims::table(&group).contains("not measured"));
        assert_eq!(setting_line(&group.runs[0]), "Commit c, version v.\n");
        let section = section(&group.runs[0]);
        assert!(
            section.contains("5 documents of 128 tokens")
                && section.contains("| `lazy` | 2.00 ms | 2.00 ms |"),
            "{section}"
        );
        let plots = plots::all(&group).unwrap();
        assert_eq!(plots.iter().map(|plot| plot.name.as_str()).collect::<Vec<_>>(), ["reorder-small-ttft"]);
        assert!(plots[0].svg.contains(">lazy</text>"));
    }

    /// Copies every result under `from` to `to`, and nothing else.
    fn copy_results(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy_results(&path, &target);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                fs::create_dir_all(to).unwrap();
                fs::copy(&path, target).unwrap();
            }
        }
    }

    #[test]
    fn the_page_follows_from_the_files_of_results_alone() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let copy = std::env::temp_dir().join(format!("lazyattn-report-{}", std::process::id()));
        copy_results(&root.join(FOLDER), &copy.join(FOLDER));
        run(&copy).unwrap();
        let [made, kept] = [copy.as_path(), root].map(|root| fs::read_to_string(root.join(PAGE)).unwrap());
        fs::remove_dir_all(&copy).unwrap();
        assert!(made == kept, "{PAGE} is not what its files make; run `cargo xtask bench report`");
    }
}
