//! Rungs and placements, both ways, and how documents are looked at.

use lazy_attn_proto::v1::{self, DocumentAttention, DocumentPlacement, ExactnessRung};
use lazy_attn_types::{AttentionMode, DocumentFocus, Exactness, ParamError, Placement};

use crate::convert::ConvertError;

/// The rung that the fields `attention` and `exactness` name together; `default` if neither names one.
pub(super) fn exactness(
    attention: i32,
    exactness: Option<v1::Exactness>,
    default: Exactness,
) -> Result<Exactness, ConvertError> {
    let attention = mode(attention)?;
    let Some(rung) = rung(exactness.unwrap_or_default())? else {
        return Ok(attention.map_or(default, Exactness::from));
    };
    match attention {
        Some(attention) if attention != rung.attention() => {
            let (attention, rung) = (document_attention(attention), api_rung(rung));
            let problem = format!(
                "is {}, but attention is {}; leave one out",
                rung.as_str_name(),
                attention.as_str_name()
            );
            Err(ConvertError::field("exactness.rung", problem))
        }
        _ => Ok(rung),
    }
}

fn mode(attention: i32) -> Result<Option<AttentionMode>, ConvertError> {
    match DocumentAttention::try_from(attention) {
        Ok(DocumentAttention::Unspecified) => Ok(None),
        Ok(DocumentAttention::Block) => Ok(Some(AttentionMode::Block)),
        Ok(DocumentAttention::Full) => Ok(Some(AttentionMode::Full)),
        Err(_) => Err(ConvertError::field(
            "attention",
            format!("is {attention}, but must be BLOCK (1) or FULL (2)"),
        )),
    }
}

fn rung(exactness: v1::Exactness) -> Result<Option<Exactness>, ConvertError> {
    let v1::Exactness { rung, head_tokens, selective_percent, edge_tokens } = exactness;
    let found = match ExactnessRung::try_from(rung) {
        Ok(ExactnessRung::Unspecified) => None,
        Ok(ExactnessRung::Block) => Some(Exactness::Block),
        Ok(ExactnessRung::Head) => Some(Exactness::Head { num_tokens: head_tokens }),
        Ok(ExactnessRung::Edges) => Some(Exactness::Edges { num_tokens: edge_tokens }),
        Ok(ExactnessRung::Preamble) => Some(Exactness::Preamble),
        Ok(ExactnessRung::Selective) => Some(Exactness::Selective { percent: selective_percent }),
        Ok(ExactnessRung::Full) => Some(Exactness::Full),
        Err(_) => {
            let problem =
                format!("is {rung}, but must be BLOCK, HEAD, PREAMBLE, SELECTIVE, FULL or EDGES (1 to 6)");
            return Err(ConvertError::field("exactness.rung", problem));
        }
    };
    let numbers = [
        ("exactness.head_tokens", head_tokens, "HEAD", matches!(found, Some(Exactness::Head { .. }))),
        ("exactness.edge_tokens", edge_tokens, "EDGES", matches!(found, Some(Exactness::Edges { .. }))),
        (
            "exactness.selective_percent",
            selective_percent,
            "SELECTIVE",
            matches!(found, Some(Exactness::Selective { .. })),
        ),
    ];
    match numbers.into_iter().find(|&(_, number, _, is_used)| number != 0 && !is_used) {
        None => Ok(found),
        Some((field, number, rung, _)) => {
            Err(ConvertError::field(field, format!("is {number}, but belongs to the rung {rung}")))
        }
    }
}

pub(super) fn placement(placement: i32) -> Result<Placement, ConvertError> {
    match DocumentPlacement::try_from(placement) {
        Ok(DocumentPlacement::Unspecified | DocumentPlacement::Consecutive) => Ok(Placement::Consecutive),
        Ok(DocumentPlacement::Local) => Ok(Placement::Local),
        Ok(DocumentPlacement::Parallel) => Ok(Placement::Parallel),
        Err(_) => {
            let problem = format!("is {placement}, but must be CONSECUTIVE, LOCAL or PARALLEL (1 to 3)");
            Err(ConvertError::field("placement", problem))
        }
    }
}

pub(super) fn focus(focus: Option<v1::DocumentFocus>) -> Result<DocumentFocus, ParamError> {
    let v1::DocumentFocus { temperature, scale } = focus.unwrap_or_default();
    DocumentFocus::new(temperature.unwrap_or(1.0), scale.unwrap_or(1.0))
}

/// The attention mode as the API names it.
#[must_use]
pub fn document_attention(mode: AttentionMode) -> DocumentAttention {
    match mode {
        AttentionMode::Block => DocumentAttention::Block,
        AttentionMode::Full => DocumentAttention::Full,
    }
}

fn api_rung(exactness: Exactness) -> ExactnessRung {
    match exactness {
        Exactness::Block => ExactnessRung::Block,
        Exactness::Head { .. } => ExactnessRung::Head,
        Exactness::Edges { .. } => ExactnessRung::Edges,
        Exactness::Preamble => ExactnessRung::Preamble,
        Exactness::Selective { .. } => ExactnessRung::Selective,
        Exactness::Full => ExactnessRung::Full,
    }
}

/// The rung as the API names it.
#[must_use]
pub fn api_exactness(exactness: Exactness) -> v1::Exactness {
    let mut named = v1::Exactness { rung: api_rung(exactness).into(), ..v1::Exactness::default() };
    match exactness {
        Exactness::Head { num_tokens } => named.head_tokens = num_tokens,
        Exactness::Edges { num_tokens } => named.edge_tokens = num_tokens,
        Exactness::Selective { percent } => named.selective_percent = percent,
        Exactness::Block | Exactness::Preamble | Exactness::Full => {}
    }
    named
}
