//! What the assembler says of every kernel: registers, and bytes spilled to memory. A spill nobody knows of fails, and so do
//! products of warpgroups that it runs one by one.

use anyhow::{Result, bail};

/// One kernel on one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Usage {
    architecture: String,
    kernel: String,
    registers: u32,
    shared_bytes: u32,
    spill_bytes: u32,
}

/// Reads the verbose output of the assembler.
pub(super) fn parse(said: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in said.lines() {
        if let Some(rest) = line.split_once("Compiling entry function '").map(|(_, rest)| rest) {
            let mut quoted = rest.split('\'');
            let kernel = quoted.next().unwrap_or_default().to_owned();
            let architecture = quoted.nth(1).unwrap_or_default().to_owned();
            usages.push(Usage { architecture, kernel, ..Usage::default() });
        }
        let Some(usage) = usages.last_mut() else { continue };
        usage.spill_bytes +=
            number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
        usage.shared_bytes += number_before(line, " bytes smem");
        usage.registers += number_before(line, " registers");
    }
    usages
}

/// Fails if warpgroups wait for each product: the assembler's way out where registers or the shape of the code leave it no other, at
/// half the speed and without a warning.
pub(super) fn check_products(said: &str) -> Result<()> {
    let lines: Vec<&str> =
        said.lines().filter(|line| line.contains("wgmma") && line.contains("serialized")).collect();
    if !lines.is_empty() {
        bail!(
            "products run one by one; change what lives, or branches, between their start and their end:\n{}",
            lines.join("\n")
        );
    }
    Ok(())
}

/// The number that stands before `unit`, or zero.
fn number_before(line: &str, unit: &str) -> u32 {
    let before = line.split_once(unit).map(|(before, _)| before);
    let word = before.and_then(|before| before.rsplit(' ').next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Prints the table.
pub(super) fn print(usages: &[Usage]) {
    println!("{:8} {:32} {:>9} {:>12} {:>11}", "", "kernel", "registers", "shared bytes", "spill bytes");
    for usage in usages {
        println!(
            "{:8} {:32} {:>9} {:>12} {:>11}",
            usage.architecture, usage.kernel, usage.registers, usage.shared_bytes, usage.spill_bytes
        );
    }
}

/// Fails on a spill that `known` does not allow, and on an allowance that nothing needs.
///
/// `known` has lines `architecture kernel bytes`, and comments behind `#`.
pub(super) fn check(usages: &[Usage], known: &str) -> Result<()> {
    let lines = known.lines().map(|line| line.split('#').next().unwrap_or_default());
    let entries: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    let allowed = |usage: &Usage| {
        let entry =
            entries.iter().find(|e| e.len() == 3 && e[0] == usage.architecture && e[1] == usage.kernel);
        entry.and_then(|entry| entry[2].parse::<u32>().ok()).unwrap_or(0)
    };
    let mut problems = Vec::new();
    for usage in usages.iter().filter(|usage| usage.spill_bytes > allowed(usage)) {
        let Usage { architecture, kernel, spill_bytes, .. } = usage;
        let limit = allowed(usage);
        problems.push(format!("{kernel} for {architecture} spills {spill_bytes} bytes; {limit} are known"));
    }
    let is_compiled = |architecture: &str| usages.iter().any(|usage| usage.architecture == architecture);
    for entry in entries.iter().filter(|entry| entry.first().is_some_and(|first| is_compiled(first))) {
        let spills = |usage: &Usage| usage.spill_bytes > 0;
        let found =
            usages.iter().find(|u| entry.len() == 3 && entry[0] == u.architecture && entry[1] == u.kernel);
        if !found.is_some_and(spills) {
            problems.push(format!("`{}` allows a spill that does not exist", entry.join(" ")));
        }
    }
    if !problems.is_empty() {
        bail!("{}\n(known spills are in {})", problems.join("\n"), super::SPILLS);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'la_a' for 'sm_90a'\n\
        ptxas info    : Function properties for la_a\n\
        \x20   40 bytes stack frame, 60 bytes spill stores, 64 bytes spill loads\n\
        ptxas info    : Used 168 registers, used 2 barriers, 512 bytes smem, 40 bytes cumulative stack size\n\
        ptxas info    : Compiling entry function 'la_b' for 'sm_90a'\n\
        ptxas info    : Function properties for la_b\n\
        \x20   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 32 registers, used 0 barriers\n";

    #[test]
    fn the_assembler_is_read() {
        let usages = parse(SAID);
        assert_eq!((usages[0].registers, usages[0].spill_bytes, usages[0].shared_bytes), (168, 124, 512));
        assert_eq!((usages[1].kernel.as_str(), usages[1].registers), ("la_b", 32));
        assert_eq!(usages[1].architecture, "sm_90a");
    }

    #[test]
    fn products_that_run_one_by_one_fail() {
        assert!(check_products(SAID).is_ok());
        let warned = "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to \
            insufficient register resources for the wgmma pipeline in the function 'la_a'\n";
        assert!(check_products(&format!("{SAID}{warned}")).is_err());
    }

    #[test]
    fn unknown_spills_larger_ones_and_allowances_without_a_spill_fail() {
        let usages = parse(SAID);
        // What was not compiled for cannot be checked.
        assert!(check(&usages, "# why\nsm_90a la_a 124 # once per item\nsm_80 la_a 9\n").is_ok());
        for known in ["", "sm_90a la_a 123", "sm_90a la_a 124\nsm_90a la_b 4"] {
            assert!(check(&usages, known).is_err(), "{known}");
        }
    }
}
