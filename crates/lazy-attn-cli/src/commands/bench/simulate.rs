//! `bench simulate`: clusters of H100s on a simulated clock.

use lazy_attn_sim::study::Section;

use crate::args::SimulateArgs;
use crate::exit::{Exit, Failure};
use crate::ui::{Out, print_json};

pub(super) fn simulate(args: &SimulateArgs) -> Result<Exit, Failure> {
    let is_wanted = |section: &Section| args.sections.is_empty() || args.sections.contains(section);
    for section in Section::ALL.into_iter().filter(is_wanted) {
        let table = section.table(args.requests).map_err(Failure::usage)?;
        if args.json {
            print_json(&table)?;
            continue;
        }
        let mut out = Out::new();
        for line in table.to_string().lines() {
            out.line(line)?;
        }
        out.line("")?;
    }
    Ok(Exit::Success)
}
