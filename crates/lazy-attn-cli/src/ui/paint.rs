//! Colours, where somebody sees them.

use std::env;
use std::io::IsTerminal;

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Colours,
    Plain,
}

impl Paint {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub(crate) fn of(stream: &impl IsTerminal) -> Paint {
        let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !is_unwanted { Paint::Colours } else { Paint::Plain }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with(text, 1)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with(text, 2)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with(text, 31)
    }

    fn with(self, text: &str, code: u8) -> String {
        match self {
            Paint::Colours => format!("\x1b[{code}m{text}\x1b[0m"),
            Paint::Plain => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        assert_eq!(Paint::Plain.red("no"), "no");
        assert_eq!(Paint::Colours.red("no"), "\x1b[31mno\x1b[0m");
    }
}
