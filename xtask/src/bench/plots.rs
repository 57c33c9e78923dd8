//! Results as charts.

use anyhow::Result;
use lazy_attn_plot::{Axis, BarChart, BarSeries, LineChart, Mark, Series, distribution};
use lazy_attn_workload::KvBudget;
use lazy_attn_workload::theory::Demand;

use super::results::{Figures, Group, RunFile};

/// A chart, and what it is called.
pub(super) struct Plot {
    /// Name of the file, without the ending.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) svg: String,
}

/// Requests over which a hit ratio is averaged.
const WINDOW: usize = 20;

/// The charts of a group, in the order of the page; those for which too little was measured are left out.
pub(super) fn all(group: &Group) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for run in group.runs.iter().filter(|run| matches!(run.workload(), "ttft" | "reorder")) {
        plots.push(first_tokens(run)?);
    }
    for workload in workloads(group) {
        let runs: Vec<&RunFile> = group.runs.iter().filter(|run| run.workload() == workload).collect();
        plots.extend(each_alike(
            &runs,
            |run| (of_pool(run), run.trace.seed),
            |alike| by_rate(&workload, alike),
        )?);
        plots.extend(each_alike(
            &runs,
            |run| (of_pool(run), run.trace.seed, per_client(run)),
            |alike| by_clients(&workload, alike),
        )?);
        plots.extend(each_alike(&runs, load, |alike| by_alpha(&workload, alike))?);
    }
    let is_long = |run: &&RunFile| matches!(run.workload(), "hit" | "churn") && run.num_requests > WINDOW;
    for run in group.runs.iter().filter(is_long) {
        plots.push(over_time(run)?);
    }
    plots.extend(closed_forms(group)?);
    Ok(plots)
}

/// What else must be the same where the load differs.
fn of_pool(run: &RunFile) -> (String, String) {
    (run.trace.alpha.to_string(), run.kv_budget.clone())
}

/// Requests, unless there is one for each client.
fn per_client(run: &RunFile) -> Option<usize> {
    let clients = run.clients().map(|clients| clients as usize);
    Some(run.num_requests).filter(|&requests| Some(requests) != clients)
}

/// What else must be the same where skew and budget differ.
fn load(run: &RunFile) -> (String, usize, u64) {
    (format!("{:?}", run.trace.load), run.num_requests, run.trace.seed)
}

/// A chart of those of `runs` that have the same key, for each key; numbered from the second on.
fn each_alike<K: PartialEq>(
    runs: &[&RunFile],
    key: impl Fn(&RunFile) -> K,
    draw: impl Fn(&[&RunFile]) -> Result<Option<Plot>>,
) -> Result<Vec<Plot>> {
    let mut plots: Vec<Plot> = Vec::new();
    let mut left = runs.to_vec();
    while let Some(first) = left.first().map(|&run| key(run)) {
        let (alike, others): (Vec<&RunFile>, Vec<&RunFile>) =
            left.into_iter().partition(|run| key(run) == first);
        if let Some(mut plot) = draw(&alike)? {
            if !plots.is_empty() {
                plot.name = format!("{}-{}", plot.name, plots.len() + 1);
            }
            plots.push(plot);
        }
        left = others;
    }
    Ok(plots)
}

fn workloads(group: &Group) -> Vec<String> {
    let mut names: Vec<String> = group.runs.iter().map(|run| run.workload().to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

fn first_tokens(run: &RunFile) -> Result<Plot> {
    let series = run.results.iter().map(|one| {
        let ms: Vec<f64> = one.ttfts.iter().map(|seconds| seconds * 1e3).filter(|&ms| ms > 0.0).collect();
        Series::new(&one.policy, Mark::Line, distribution(&ms))
    });
    let title = format!("Time to the first token, {}", run.name);
    chart(
        format!("{}-ttft", run.name),
        title,
        (Axis::log("time to the first token, ms"), share("requests")),
        series.collect(),
    )
}

/// Time to the first token by the rate of an open load, where several were measured.
fn by_rate(workload: &str, runs: &[&RunFile]) -> Result<Option<Plot>> {
    let points = |policy: &str| {
        let points = runs.iter().filter_map(|run| Some((run.rate()?, run.of(policy)?.ttft_ms?.p50)));
        sorted(points.collect())
    };
    let axes = (Axis::linear("requests per second"), Axis::log("time to the first token, p50, ms"));
    swept(
        format!("{workload}-rate"),
        format!("Time to the first token by load, {workload}, {}", pool(runs)),
        axes,
        runs,
        &points,
    )
}

/// Throughput by the number of clients, where several were measured.
fn by_clients(workload: &str, runs: &[&RunFile]) -> Result<Option<Plot>> {
    let points = |policy: &str| {
        let points = runs
            .iter()
            .filter_map(|run| Some((f64::from(run.clients()?), run.of(policy)?.output_throughput)));
        sorted(points.collect())
    };
    let axes = (Axis::log("clients"), Axis::log("output tokens per second"));
    let title = format!("Throughput by clients, {workload}, {}", pool(runs));
    swept(format!("{workload}-clients"), title, axes, runs, &points)
}

/// Skew and budget of `runs`, which have them in common.
fn pool(runs: &[&RunFile]) -> String {
    runs.first()
        .map_or(String::new(), |run| format!("alpha {}, KV budget {}", run.trace.alpha, run.kv_budget))
}

/// A line per policy, if there are two places at least.
fn swept(
    name: String,
    title: String,
    axes: (Axis, Axis),
    runs: &[&RunFile],
    points: &dyn Fn(&str) -> Vec<(f64, f64)>,
) -> Result<Option<Plot>> {
    let series: Vec<Series> = policies(runs)
        .iter()
        .map(|policy| Series::new(policy, Mark::LineAndDots, points(policy)))
        .filter(|series| series.points.first().map(|p| p.0) != series.points.last().map(|p| p.0))
        .collect();
    if series.is_empty() { Ok(None) } else { chart(name, title, axes, series).map(Some) }
}

/// Time to the first token by skew and budget, where several were measured.
fn by_alpha(workload: &str, runs: &[&RunFile]) -> Result<Option<Plot>> {
    let mut alphas: Vec<f64> = runs.iter().map(|run| run.trace.alpha).collect();
    alphas.sort_unstable_by(f64::total_cmp);
    alphas.dedup();
    if alphas.len() < 2 {
        return Ok(None);
    }
    let mut groups: Vec<&&RunFile> = runs.iter().collect();
    groups
        .sort_by(|a, b| a.trace.alpha.total_cmp(&b.trace.alpha).then_with(|| b.kv_budget.cmp(&a.kv_budget)));
    let value = |run: &RunFile, policy: &str| Some(run.of(policy)?.ttft_ms?.p50);
    let series = policies(runs).into_iter().map(|policy| {
        let values = groups.iter().map(|run| value(run, &policy)).collect();
        BarSeries { name: policy, values }
    });
    let load = match (runs[0].clients(), runs[0].rate()) {
        (Some(clients), _) => format!("{clients} clients"),
        (None, rate) => format!("{} requests/s", rate.unwrap_or_default()),
    };
    let requests = runs[0].num_requests;
    let title = format!("TTFT p50 by skew and KV budget, {workload}, {load}, {requests} requests");
    let chart = BarChart {
        title: title.clone(),
        y: Axis::log("time to the first token, p50, ms"),
        groups: groups.iter().map(|run| format!("{} / {}", run.trace.alpha, run.kv_budget)).collect(),
        series: series.collect(),
    };
    Ok(Some(Plot { name: format!("{workload}-alpha"), title, svg: chart.to_svg()? }))
}

/// Part of the document tokens found, over a window that moves through the requests.
fn over_time(run: &RunFile) -> Result<Plot> {
    let all = f64::from(run.trace.shape.documents_per_request) * f64::from(run.trace.shape.document_tokens);
    let series = run.results.iter().map(|one| {
        let ratios = one.hit_tokens.windows(WINDOW).enumerate();
        let ratios = ratios.map(|(at, hits)| {
            let hits: u64 = hits.iter().sum();
            ((at + WINDOW) as f64, hits as f64 / (all * WINDOW as f64))
        });
        Series::new(&one.policy, Mark::Line, ratios.collect())
    });
    let title = format!("Document tokens found, mean of {WINDOW} requests, {}", run.name);
    let axes = (Axis::linear("number of the request"), share("document tokens"));
    chart(format!("{}-hits", run.name), title, axes, series.collect())
}

/// Hit ratios by the budget, beside what a cache of documents can have: a chart for each load under which several budgets were
/// measured.
fn closed_forms(group: &Group) -> Result<Vec<Plot>> {
    let is_hit = |run: &&RunFile| run.workload() == "hit" && budget_percent(run).is_some();
    let mut left: Vec<&RunFile> = group.runs.iter().filter(is_hit).collect();
    let mut plots = Vec::new();
    while let Some(&first) = left.first() {
        let is_like = |run: &&RunFile| {
            (&run.trace.shape, run.trace.alpha, run.trace.load)
                == (&first.trace.shape, first.trace.alpha, first.trace.load)
        };
        let (like, others): (Vec<&RunFile>, Vec<&RunFile>) = left.iter().partition(|run| is_like(run));
        if like.iter().any(|run| run.kv_budget != first.kv_budget) {
            plots.push(closed_form(&like, plots.len())?);
        }
        left = others;
    }
    Ok(plots)
}

/// Percent of the pool that there is room for.
fn budget_percent(run: &RunFile) -> Option<f64> {
    let shape = &run.trace.shape;
    let tokens = run.kv_budget.parse::<KvBudget>().ok()?.tokens(shape)?;
    Some(100.0 * tokens as f64 / shape.pool_tokens() as f64)
}

/// `runs` differ in their budget only.
fn closed_form(runs: &[&RunFile], index: usize) -> Result<Plot> {
    let (shape, alpha) = (runs[0].trace.shape, runs[0].trace.alpha);
    let demand = Demand::new(shape.num_documents, alpha, shape.documents_per_request);
    let curve = |name: &str, ratio: &dyn Fn(f64) -> f64| {
        let points = (1..=shape.num_documents).map(|documents| {
            let part = f64::from(documents) / f64::from(shape.num_documents);
            (100.0 * part, ratio(f64::from(documents)))
        });
        Series::new(name, Mark::Dashes, points.collect())
    };
    let places = f64::from(shape.documents_per_request);
    let mut series = vec![
        curve("top C", &|documents| demand.best_hit_ratio(documents)),
        curve("LRU (Che)", &|documents| demand.lru_hit_ratio(documents)),
        curve("top C/D", &|documents| demand.best_hit_ratio(documents / places)),
    ];
    for policy in policies(runs) {
        let warm = |one: &Figures| one.hit_ratio_last_100;
        let points = runs.iter().filter_map(|run| Some((budget_percent(run)?, warm(run.of(&policy)?))));
        series.push(Series::new(&policy, Mark::Dots, sorted(points.collect())));
    }
    series.retain(|series| !series.points.is_empty());
    let clients = runs[0].clients().map_or(String::new(), |clients| format!(", {clients} clients"));
    let title = format!(
        "Document tokens found by the last 100 requests, alpha {alpha}{clients}, and the closed forms"
    );
    let axes = (Axis::linear("KV budget, percent of the pool").over(0.0, 100.0), share("document tokens"));
    let suffix = if index == 0 { String::new() } else { format!("-{}", index + 1) };
    chart(format!("hit-closed-form{suffix}"), title, axes, series)
}

fn share(of: &str) -> Axis {
    Axis::linear(&format!("part of the {of}")).over(0.0, 1.0)
}

fn policies(runs: &[&RunFile]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for figures in runs.iter().flat_map(|run| &run.results) {
        if !names.contains(&figures.policy) {
            names.push(figures.policy.clone());
        }
    }
    names
}

fn sorted(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn chart(name: String, title: String, (x, y): (Axis, Axis), series: Vec<Series>) -> Result<Plot> {
    let chart = LineChart { title: title.clone(), x, y, series };
    Ok(Plot { name, title, svg: chart.to_svg()? })
}
