//! Who may use a server: `authz-simple` and `authz-list`.

use super::{Definition, not_accepted};
use crate::cli::failure::Failure;
use crate::export::nbd::Authorize;
use std::sync::Arc;

/// One identity may.
#[derive(Debug)]
struct Simple(String);

impl Authorize for Simple {
    fn is_allowed(&self, identity: &str) -> bool {
        self.0 == identity
    }
}

/// The first rule that matches decides.
#[derive(Debug)]
struct List {
    rules: Vec<Rule>,
    otherwise: bool,
}

#[derive(Debug)]
struct Rule {
    pattern: String,
    glob: bool,
    allow: bool,
}

impl Authorize for List {
    fn is_allowed(&self, identity: &str) -> bool {
        let matches = |rule: &&Rule| match rule.glob {
            true => glob(rule.pattern.as_bytes(), identity.as_bytes()),
            false => rule.pattern == identity,
        };
        self.rules.iter().find(matches).map_or(self.otherwise, |rule| rule.allow)
    }
}

/// `*` is any text, `?` any byte. Takes time in the product of the lengths at most.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((from, at)) => {
                    retry = Some((from, at + 1));
                    (p, t) = (from, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// `authz-simple`.
pub(super) fn simple(definition: &mut Definition) -> Result<Arc<dyn Authorize>, Failure> {
    let identity = definition.need("identity")?;
    definition.end()?;
    Ok(Arc::new(Simple(identity)))
}

/// `authz-list`.
pub(super) fn list(definition: &mut Definition) -> Result<Arc<dyn Authorize>, Failure> {
    let otherwise = match definition.take("policy") {
        Some(value) => policy(&value)?,
        None => false,
    };
    let mut rules = Vec::new();
    while definition.0.has_child(&format!("rules.{}", rules.len())) {
        let path = format!("rules.{}", rules.len());
        let mut need = |name: &str| definition.need(&format!("{path}.{name}"));
        let (pattern, allow) = (need("match")?, policy(&need("policy")?)?);
        let glob = match definition.take(&format!("{path}.format")).as_deref() {
            None | Some("exact") => false,
            Some("glob") => true,
            Some(other) => return Err(not_accepted("format", other)),
        };
        rules.push(Rule { pattern, glob, allow });
    }
    definition.end()?;
    Ok(Arc::new(List { rules, otherwise }))
}

fn policy(value: &str) -> Result<bool, Failure> {
    match value {
        "allow" => Ok(true),
        "deny" => Ok(false),
        _ => Err(not_accepted("policy", value)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Objects;

    #[test]
    fn the_first_matching_rule_decides() {
        let text = "authz-list,id=a,policy=deny,rules.0.match=CN=bad*,rules.0.policy=deny,\
                    rules.0.format=glob,rules.1.match=CN=b*d?,rules.1.policy=allow,\
                    rules.1.format=glob,rules.2.match=*,rules.2.policy=allow";
        let objects = Objects::new(&[text.to_owned()]).unwrap();
        let authz = objects.authz("a").unwrap();
        for (identity, allowed) in
            [("CN=bad1", false), ("CN=bold1", true), ("CN=bold", false), ("x", false), ("*", true)]
        {
            assert_eq!(authz.is_allowed(identity), allowed, "{identity}");
        }
    }
}
