//! The rotary embedding of a Hugging Face config, in its old spelling (`rope_theta`, `rope_scaling` with `type` or
//! `rope_type`) and its new one (`rope_parameters`).

use super::fields::{Fields, missing};
use super::rope::{LENGTH_DEPENDENT, yarn_mscale};
use super::{RopeConfig, RopePairing, RopeScaling};
use crate::ModelError;

const KNOWN: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
];

/// The embedding, and the context it extends the model to.
pub(super) fn rope(config: &Fields<'_>, head_dim: usize) -> Result<(RopeConfig, usize), ModelError> {
    let parameters = parameters(config)?;
    let either = |key: &str| match parameters.map(|parameters| parameters.number(key)).transpose()?.flatten()
    {
        Some(number) => Ok::<_, ModelError>(Some(number)),
        None => config.number(key),
    };
    let rotated = either("partial_rotary_factor")?.unwrap_or(1.0);
    if !(rotated > 0.0 && rotated <= 1.0) {
        let problem = format!("is {rotated}, but must be above 0 and at most 1");
        return Err(ModelError::config("partial_rotary_factor", problem));
    }
    let scaling = match parameters {
        Some(parameters) => scaling(&parameters, config)?,
        None => RopeScaling::Default,
    };
    let extended_context = match scaling {
        RopeScaling::Yarn { factor, original_context, .. } => {
            // A float to integer conversion saturates; the bound on contexts is checked with the other sizes.
            (f64::from(factor) * f64::from(original_context)) as usize
        }
        _ => 0,
    };
    let pairing = match config.flag("rope_interleaved")? {
        Some(true) => RopePairing::Interleaved,
        _ => RopePairing::HalfSplit,
    };
    let rope = RopeConfig {
        theta: either("rope_theta")?.unwrap_or(10_000.0),
        rotary_dim: (head_dim as f32 * rotated) as usize,
        pairing,
        scaling,
    };
    Ok((rope, extended_context))
}

fn parameters<'a>(config: &Fields<'a>) -> Result<Option<Fields<'a>>, ModelError> {
    let (old, new) = (config.object("rope_scaling")?, config.object("rope_parameters")?);
    if old.is_some() && new.is_some() {
        return Err(ModelError::config("rope_scaling", "is given beside rope_parameters; keep one of them"));
    }
    let parameters = new.or(old);
    let unknown = parameters.and_then(|parameters| parameters.keys().find(|key| !KNOWN.contains(key)));
    match unknown {
        // Their configs carry keys of their own; the reason below is the useful one.
        Some("long_factor" | "short_factor") => Err(ModelError::config("rope_scaling", LENGTH_DEPENDENT)),
        Some(key) => {
            Err(ModelError::config(key, "is unknown in the RoPE parameters, and may change the angles"))
        }
        None => Ok(parameters),
    }
}

fn scaling(parameters: &Fields<'_>, config: &Fields<'_>) -> Result<RopeScaling, ModelError> {
    let kind = match parameters.text("rope_type")? {
        Some(kind) => kind,
        None => parameters.text("type")?.unwrap_or("default"),
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: parameters.required_number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: parameters.required_number("factor")?,
            low_freq_factor: parameters.required_number("low_freq_factor")?,
            high_freq_factor: parameters.required_number("high_freq_factor")?,
            original_context: parameters.required_number("original_max_position_embeddings")?,
        }),
        "yarn" => yarn(parameters, config),
        "dynamic" | "longrope" | "su" => {
            let problem = format!("is `{kind}`: it {LENGTH_DEPENDENT}");
            Err(ModelError::config("rope_type", problem))
        }
        other => {
            let problem =
                format!("is `{other}`, an unknown RoPE type; default, linear, llama3 and yarn are supported");
            Err(ModelError::config("rope_type", problem))
        }
    }
}

fn yarn(parameters: &Fields<'_>, config: &Fields<'_>) -> Result<RopeScaling, ModelError> {
    let factor = parameters.required_number("factor")?;
    let original = match parameters.number("original_max_position_embeddings")? {
        Some(tokens) => Some(tokens),
        None => config.number("original_max_position_embeddings")?,
    };
    let original_context = match original {
        Some(tokens) => tokens,
        None => {
            config.number("max_position_embeddings")?.ok_or_else(|| missing("max_position_embeddings"))?
        }
    };
    // Zero means "not given" here, as in `transformers`.
    let given = |key: &str| Ok::<_, ModelError>(parameters.number(key)?.filter(|number| *number != 0.0));
    let attention_factor = match parameters.number("attention_factor")? {
        Some(attention_factor) => attention_factor,
        None => match (given("mscale")?, given("mscale_all_dim")?) {
            (Some(mscale), Some(all_dim)) => yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dim),
            _ => yarn_mscale(factor, 1.0),
        },
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: given("beta_fast")?.unwrap_or(32.0),
        beta_slow: given("beta_slow")?.unwrap_or(1.0),
        attention_factor,
        truncate: parameters.flag("truncate")?.unwrap_or(true),
    })
}
