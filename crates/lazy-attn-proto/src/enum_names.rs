//! JSON names of enum values: printed without the prefix of their type, read with or without it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::v1::{
    CacheOutcome, DocumentAttention, DocumentPlacement, ExactnessRung, FinishReason, KvResidency,
    PrefillMode, Role, ServerState,
};

/// What stands in JSON for an enum value.
#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Number(i32),
    Name(String),
    Other(serde::de::IgnoredAny),
}

fn unknown<E: serde::de::Error>(given: &str, prefix: &str, names: &[&str]) -> E {
    let short: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(prefix)).collect();
    E::custom(format!("{given} is not one of {}", short.join(", ")))
}

macro_rules! short_names {
    ($enum:ident, $prefix:literal, [$($variant:ident),+]) => {
        impl Serialize for $enum {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let name = self.as_str_name();
                serializer.serialize_str(name.strip_prefix($prefix).unwrap_or(name))
            }
        }

        impl<'de> Deserialize<'de> for $enum {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let names = [$($enum::$variant.as_str_name()),+];
                let (value, given) = match Raw::deserialize(deserializer)? {
                    Raw::Number(number) => ($enum::try_from(number).ok(), number.to_string()),
                    Raw::Name(name) => {
                        let value = $enum::from_str_name(&name)
                            .or_else(|| $enum::from_str_name(&format!("{}{name}", $prefix)));
                        (value, format!("{name:?}"))
                    }
                    Raw::Other(_) => (None, "this value".to_owned()),
                };
                value.ok_or_else(|| unknown(&given, $prefix, &names))
            }
        }
    };
}

short_names!(DocumentAttention, "DOCUMENT_ATTENTION_", [Block, Full]);
short_names!(ExactnessRung, "EXACTNESS_RUNG_", [Block, Head, Preamble, Selective, Full, Edges]);
short_names!(DocumentPlacement, "DOCUMENT_PLACEMENT_", [Consecutive, Local, Parallel]);
short_names!(FinishReason, "FINISH_REASON_", [Stop, Length, StopText]);
short_names!(CacheOutcome, "CACHE_OUTCOME_", [Hit, Miss, Joined, Reencoded]);
short_names!(Role, "ROLE_", [System, User, Assistant]);
short_names!(KvResidency, "KV_RESIDENCY_", [Pending, Device, Evicted]);
short_names!(PrefillMode, "PREFILL_MODE_", [Eager, Async, Lazy]);
short_names!(ServerState, "SERVER_STATE_", [Serving, Draining]);
