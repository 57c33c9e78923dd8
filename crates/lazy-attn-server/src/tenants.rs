//! Who asks: API keys name a tenant, and a tenant's salt keeps its documents from every other tenant.

use std::sync::Arc;

use lazy_attn_types::TenantSalt;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::{ServeError, status};

/// The tenant of a server without keys.
const ONLY_TENANT: &str = "default";
/// Longest name of a tenant in bytes.
const MAX_TENANT_BYTES: usize = 64;

/// Secret of a server, from which the salts of its tenants are derived.
#[derive(Clone)]
pub struct TenantSecret([u8; 32]);

impl TenantSecret {
    /// Fewest bytes of a secret that is given.
    pub const MIN_BYTES: usize = 32;

    /// A new secret: content keys differ from those of every other start.
    ///
    /// # Errors
    /// [`ServeError::Random`] if the system has no random numbers.
    pub fn random() -> Result<TenantSecret, ServeError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(ServeError::Random)?;
        Ok(TenantSecret(secret))
    }

    /// A secret that stays the same over starts.
    ///
    /// # Errors
    /// [`ServeError::ShortSecret`] for fewer than [`TenantSecret::MIN_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<TenantSecret, ServeError> {
        if bytes.len() < TenantSecret::MIN_BYTES {
            return Err(ServeError::ShortSecret { num_bytes: bytes.len() });
        }
        Ok(TenantSecret(blake3::derive_key("lazy-attention tenant secret v1", bytes)))
    }

    /// The salt of `tenant`: without the secret nobody can tell it from noise.
    #[must_use]
    pub fn salt(&self, tenant: &str) -> TenantSalt {
        TenantSalt(*blake3::keyed_hash(&self.0, tenant.as_bytes()).as_bytes())
    }
}

impl std::fmt::Debug for TenantSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TenantSecret(..)")
    }
}

/// Hashes of API keys, each with its tenant.
#[derive(Clone)]
pub struct ApiKeys(Vec<(blake3::Hash, String)>);

impl ApiKeys {
    /// Reads lines of `tenant:hash`, where the hash is the BLAKE3 of the key in hexadecimal. Empty lines and lines that
    /// start with `#` are skipped; a tenant may have several keys.
    ///
    /// # Errors
    /// [`ServeError::Keys`] for the first line that is something else or repeats a key, or if there is no key.
    pub fn parse(text: &str) -> Result<ApiKeys, ServeError> {
        let mut keys: Vec<(blake3::Hash, String)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_problem = |problem| ServeError::Keys { line: index + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (tenant, hash) = line.split_once(':').ok_or(line_problem("is not `tenant:hash`"))?;
            if !is_tenant_name(tenant) {
                return Err(line_problem("the tenant is not 1 to 64 letters, digits, `-`, `_` or `.`"));
            }
            let hash = blake3::Hash::from_hex(hash)
                .map_err(|_| line_problem("the hash is not 64 hexadecimal digits"))?;
            if keys.iter().any(|(known, _)| *known == hash) {
                return Err(line_problem("the key stands in an earlier line"));
            }
            keys.push((hash, tenant.to_owned()));
        }
        if keys.is_empty() {
            return Err(ServeError::Keys { line: 0, problem: "there is no key" });
        }
        Ok(ApiKeys(keys))
    }

    /// The tenant of `key`. The time it takes depends on the length of `key` and the number of keys, not on whether
    /// one of them matches.
    #[must_use]
    pub fn tenant_of(&self, key: &str) -> Option<&str> {
        let given = blake3::hash(key.as_bytes());
        // Hashes compare in constant time, and no match ends the loop early.
        self.0.iter().fold(None, |found, (hash, tenant)| if *hash == given { Some(tenant) } else { found })
    }
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

fn is_tenant_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_TENANT_BYTES).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Decides whose request it is, in front of every service but health.
#[derive(Debug, Clone)]
pub struct Tenants(Arc<(TenantSecret, Option<ApiKeys>)>);

/// The salt of the caller, in the extensions of a request that passed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller(pub(crate) TenantSalt);

impl Caller {
    /// The caller of a request that came through [`Tenants`].
    pub(crate) fn of<T>(request: &Request<T>) -> Result<TenantSalt, Status> {
        request.extensions().get::<Caller>().map(|caller| caller.0).ok_or_else(status::wrong_api_key)
    }
}

impl Tenants {
    /// Without `keys` everybody who reaches the server is one tenant.
    #[must_use]
    pub fn new(secret: TenantSecret, keys: Option<ApiKeys>) -> Tenants {
        Tenants(Arc::new((secret, keys)))
    }

    fn caller(&self, authorization: Option<&str>) -> Option<Caller> {
        let (secret, keys) = &*self.0;
        let tenant = match keys {
            None => ONLY_TENANT,
            Some(keys) => keys.tenant_of(bearer_key(authorization?)?)?,
        };
        Some(Caller(secret.salt(tenant)))
    }
}

impl Interceptor for Tenants {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let caller = self.caller(authorization).ok_or_else(status::wrong_api_key)?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

fn bearer_key(authorization: &str) -> Option<&str> {
    let (scheme, key) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tenant: &str, key: &str) -> String {
        format!("{tenant}:{}\n", blake3::hash(key.as_bytes()).to_hex())
    }

    #[test]
    fn a_key_names_its_tenant_and_nothing_else_does() {
        let text = format!("# keys\n\n{}{}{}", line("a", "k1"), line("b", "k2"), line("a", "k3"));
        let keys = ApiKeys::parse(&text).unwrap();
        let found = ["k1", "k2", "k3", "", "k", "k11"].map(|key| keys.tenant_of(key));
        assert_eq!(found, [Some("a"), Some("b"), Some("a"), None, None, None]);
    }

    #[test]
    fn every_bad_line_of_a_key_file_is_refused_with_its_number() {
        let hash = "0".repeat(64);
        let twice = format!("a:{hash}\nb:{hash}");
        let long = format!("\n{}:{hash}", "t".repeat(65));
        let longest = format!("{}:{hash}", "t".repeat(64));
        let space = format!("a b:{hash}");
        let nameless = format!(":{hash}");
        let cases =
            [("", 0), ("a", 1), ("a:12", 1), (&twice, 2), (&long, 2), (&space, 1), (nameless.as_str(), 1)];
        for (text, expected) in cases {
            let error = ApiKeys::parse(text).unwrap_err();
            assert!(matches!(error, ServeError::Keys { line, .. } if line == expected), "{text:?}: {error}");
        }
        assert!(ApiKeys::parse(&longest).is_ok());
    }

    #[test]
    fn salts_differ_between_tenants_and_between_secrets() {
        let secret = TenantSecret::from_bytes(&[7; 32]).unwrap();
        let again = TenantSecret::from_bytes(&[7; 32]).unwrap();
        let other = TenantSecret::from_bytes(&[8; 32]).unwrap();
        assert_eq!(secret.salt("a"), again.salt("a"));
        assert_ne!(secret.salt("a"), secret.salt("b"));
        assert_ne!(secret.salt("a"), other.salt("a"));
        assert_ne!(TenantSecret::random().unwrap().salt("a"), TenantSecret::random().unwrap().salt("a"));
    }

    #[test]
    fn a_secret_one_byte_too_short_is_refused() {
        assert!(TenantSecret::from_bytes(&[1; 31]).is_err());
        assert!(TenantSecret::from_bytes(&[1; 32]).is_ok());
    }

    #[test]
    fn only_a_bearer_header_carries_a_key() {
        let cases = [
            ("Bearer k", Some("k")),
            ("bearer  k ", Some("k")),
            ("Basic k", None),
            ("Bearer", None),
            ("k", None),
        ];
        for (header, key) in cases {
            assert_eq!(bearer_key(header), key, "{header:?}");
        }
    }
}
