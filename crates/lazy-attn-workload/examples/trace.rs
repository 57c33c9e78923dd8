//! Writes the trace of a named workload: `cargo run -p lazy-attn-workload --example trace ttft-small 7 > trace.jsonl`.

use std::error::Error;
use std::io::{self, Write};

use lazy_attn_workload::{Trace, Workload};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "reorder-small".to_owned());
    let seed = arguments.next().map_or(Ok(0), |seed| seed.parse())?;
    let workload = Workload::named(&name).ok_or("no such workload")?;
    let mut out = io::stdout().lock();
    Trace::generate(&workload, seed)?.write(&mut out)?;
    out.flush()?;
    Ok(())
}
