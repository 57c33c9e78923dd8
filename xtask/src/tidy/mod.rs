//! The rules of ARCHITECTURE.md and STYLE.md that a machine can check.
//!
//! * [`tree`]: the files that are checked.
//! * [`source`]: Rust text with comments or strings blanked.
//! * [`architecture`]: the tables of ARCHITECTURE.md.
//! * [`dag`]: every dependency between crates is an arrow of the crate table, and the other way round.
//! * [`size`]: lengths of files and functions.
//! * [`words`]: the glossary, and text that must not be published.
//! * [`code`]: where `unsafe` may be, and what a `lib.rs` may hold.
//! * [`crates`]: every library crate explains and demonstrates itself.
//! * [`links`]: relative links of documents lead somewhere.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

mod architecture;
mod code;
mod crates;
mod dag;
mod links;
mod size;
mod source;
mod tree;
mod words;

use tree::Tree;

/// One place where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    path: String,
    /// 1-based; 0 when the rule is about the file as a whole.
    line: usize,
    rule: &'static str,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { path, line, rule, message } = self;
        match line {
            0 => write!(f, "{path}: [{rule}] {message}"),
            _ => write!(f, "{path}:{line}: [{rule}] {message}"),
        }
    }
}

pub(crate) fn run(root: &Path) -> Result<()> {
    let tree = Tree::load(root)?;
    let architecture = tree.text("ARCHITECTURE.md").unwrap_or_default();
    let workspace = dag::Workspace::load(root)?;
    let mut violations = dag::check(&architecture::crate_rows(architecture), &workspace);
    violations.extend(size::check(&tree));
    violations.extend(words::check(&tree));
    violations.extend(code::check(&tree, &architecture::unsafe_paths(architecture)));
    violations.extend(crates::check(&tree));
    violations.extend(links::check(&tree));
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} rules are broken, listed above", violations.len());
    }
    println!("tidy: {} files follow the rules", tree.files().len());
    Ok(())
}
