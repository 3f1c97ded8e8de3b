//! What this program says it is: the resource of its own telemetry.

use crate::config::service::{BadResource, Resource};

/// `service.name`, `service.version`, `service.instance.id` and what the configuration adds or removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnResource(Vec<(String, String)>);

impl OwnResource {
    /// The automatic attributes changed as configured; the instance id is new at every call.
    ///
    /// # Errors
    /// [`BadResource`]: the configuration is refused.
    pub fn new(configured: &Resource) -> Result<Self, BadResource> {
        let Self(mut attributes) = Self::automatic();
        for (key, value) in configured.attributes()? {
            attributes.retain(|(existing, _)| *existing != key);
            attributes.extend(value.map(|value| (key, value)));
        }
        Ok(Self(attributes))
    }

    /// Only what every collector has.
    pub fn automatic() -> Self {
        Self(vec![
            ("service.name".to_owned(), "tollgate".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id".to_owned(), random_uuid()),
        ])
    }

    /// Keys and values, the automatic ones first.
    pub fn attributes(&self) -> &[(String, String)] {
        &self.0
    }
}

/// A version 4 UUID; it tells instances apart and guards nothing.
fn random_uuid() -> String {
    let random = fastrand::u128(..);
    let versioned = random & !(0xf << 76) | (4 << 76);
    let hex = format!("{:032x}", versioned & !(0b11 << 62) | (0b10 << 62));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_attributes_replace_and_remove_automatic_ones() {
        let json = r#"{"service.name":"gate","service.version":null,"pod":"p"}"#;
        let own = OwnResource::new(&serde_json::from_str(json).unwrap()).unwrap();
        let keys: Vec<_> = own.attributes().iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["service.instance.id", "pod", "service.name"]);
    }

    #[test]
    fn instance_ids_are_version_4_uuids_and_differ() {
        let (a, b) = (random_uuid(), random_uuid());
        assert_ne!(a, b);
        assert_eq!((a.len(), &a[14..15]), (36, "4"));
        assert!("89ab".contains(&a[19..20]), "{a}");
    }
}
