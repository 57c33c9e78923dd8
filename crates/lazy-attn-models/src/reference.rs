//! What a user may write for `--model`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::ModelError;

/// A model by name or place. Parsed from text; `Display` writes text that parses to the same reference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelRef {
    /// `embedded`: the small model that comes with this crate.
    #[default]
    Embedded,
    /// A path that ends in `.gguf`.
    Gguf(PathBuf),
    /// A path that ends in `.safetensors`; its config and tokenizer lie beside it.
    Safetensors(PathBuf),
    /// A directory with a `config.json` and safetensors, or with one `.gguf`.
    Directory(PathBuf),
    /// `random:SEED` or `random:SEED:SHAPE`: no training, for measuring and testing.
    Random {
        /// Decides every weight.
        seed: u64,
        /// A name [`ModelConfig::named`](crate::ModelConfig::named) knows, or the path of a `config.json`.
        shape: String,
    },
    /// `organisation/name`, `organisation/name@revision` or `organisation/name/file.gguf` on the Hugging Face hub.
    Hub(HubId),
}

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `organisation/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The GGUF file to load; `None` loads config and safetensors.
    pub file: Option<String>,
}

impl HubId {
    /// The branch used where none is given.
    pub const DEFAULT_REVISION: &str = "main";

    fn parse(text: &str) -> Option<HubId> {
        let (place, revision) = text.split_once('@').unwrap_or((text, Self::DEFAULT_REVISION));
        let mut parts = place.splitn(3, '/');
        let (organisation, name, file) = (parts.next()?, parts.next()?, parts.next());
        let word = |word: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !word.is_empty() && word.len() <= 96 && word.chars().all(plain) && !word.starts_with('.')
        };
        let file_is_gguf = file.is_none_or(|file| file.split('/').all(word) && has_extension(file, "gguf"));
        let valid = word(organisation) && word(name) && revision.split('/').all(word) && file_is_gguf;
        valid.then(|| HubId {
            repository: format!("{organisation}/{name}"),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

impl FromStr for ModelRef {
    type Err = ModelError;

    /// Existing paths win over hub ids; whatever looks like a path (begins with `.`, `/` or `~`) is never a hub id.
    fn from_str(text: &str) -> Result<ModelRef, ModelError> {
        if text.is_empty() || text == "embedded" {
            return Ok(ModelRef::Embedded);
        }
        if let Some(random) = text.strip_prefix("random:") {
            return parse_random(text, random);
        }
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(ModelRef::Directory(path));
        }
        let looks_like_path = path.exists() || text.starts_with(['.', '/', '~', '\\']) || !text.contains('/');
        match HubId::parse(text).filter(|_| !looks_like_path) {
            Some(id)
                if id.file.is_some()
                    || !has_extension(text, "gguf") && !has_extension(text, "safetensors") =>
            {
                Ok(ModelRef::Hub(id))
            }
            _ if has_extension(text, "gguf") => Ok(ModelRef::Gguf(path)),
            _ if has_extension(text, "safetensors") => Ok(ModelRef::Safetensors(path)),
            _ => Err(ModelError::reference(
                text,
                "is no directory, and neither a .gguf nor a .safetensors file; other models are `embedded`, \
                 `random:SEED[:SHAPE]` and hub ids like `organisation/name`",
            )),
        }
    }
}

fn parse_random(text: &str, random: &str) -> Result<ModelRef, ModelError> {
    let (seed, shape) = random.split_once(':').unwrap_or((random, "tiny"));
    let seed = seed.parse().map_err(|_| {
        ModelError::reference(text, format!("has the seed `{seed}`, but a seed is a whole number below 2^64"))
    })?;
    Ok(ModelRef::Random { seed, shape: shape.to_owned() })
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelRef::Embedded => f.write_str("embedded"),
            ModelRef::Gguf(path) | ModelRef::Safetensors(path) | ModelRef::Directory(path) => {
                path.display().fmt(f)
            }
            ModelRef::Random { seed, shape } => write!(f, "random:{seed}:{shape}"),
            ModelRef::Hub(id) => id.fmt(f),
        }
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != Self::DEFAULT_REVISION {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn hub(repository: &str, revision: &str, file: Option<&str>) -> ModelRef {
        ModelRef::Hub(HubId {
            repository: repository.into(),
            revision: revision.into(),
            file: file.map(str::to_owned),
        })
    }

    #[test]
    fn references_are_told_apart_by_their_form() {
        let random = |seed, shape: &str| ModelRef::Random { seed, shape: shape.into() };
        let cases = [
            ("", ModelRef::Embedded),
            ("embedded", ModelRef::Embedded),
            ("a.gguf", ModelRef::Gguf("a.gguf".into())),
            ("./dir/a.GGUF", ModelRef::Gguf("./dir/a.GGUF".into())),
            ("dir/a.gguf", ModelRef::Gguf("dir/a.gguf".into())),
            ("/dir/a.safetensors", ModelRef::Safetensors("/dir/a.safetensors".into())),
            ("random:7", random(7, "tiny")),
            ("random:7:llama-3.2-1b", random(7, "llama-3.2-1b")),
            ("random:0:./config.json", random(0, "./config.json")),
            ("org/name", hub("org/name", "main", None)),
            ("org/name@v1.0", hub("org/name", "v1.0", None)),
            ("org/name/a.gguf", hub("org/name", "main", Some("a.gguf"))),
            ("org/name/q4/a.gguf@dev", hub("org/name", "dev", Some("q4/a.gguf"))),
        ];
        for (text, expected) in cases {
            let parsed: ModelRef = text.parse().unwrap();
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(
                parsed.to_string().parse::<ModelRef>().unwrap(),
                expected,
                "{text} is written as {parsed}"
            );
        }
    }

    #[test]
    fn what_exists_is_a_path() {
        let directory = TempDir::new("reference");
        let text = directory.path().to_str().unwrap();
        assert_eq!(text.parse::<ModelRef>().unwrap(), ModelRef::Directory(directory.path().into()));
    }

    #[test]
    fn what_names_nothing_is_refused_with_the_forms_that_would() {
        for text in
            ["llama", "./org/name", "org/../name", "org/name/file.bin", "org/na me", "/no/such/directory"]
        {
            let error = text.parse::<ModelRef>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("model `{text}`: is no directory")), "{error}");
        }
        let error = "random:x".parse::<ModelRef>().unwrap_err().to_string();
        assert_eq!(error, "model `random:x`: has the seed `x`, but a seed is a whole number below 2^64");
    }
}
