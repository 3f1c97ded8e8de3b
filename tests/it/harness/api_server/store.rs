//! Objects, their history, and who sees what of it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// In the plural: `configmaps`.
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    /// Reads a path, without its query.
    pub fn parse(path: &str) -> Option<Self> {
        let words: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (api_version, rest) = match words.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let owned = |i: usize| rest.get(i).map(|word| (*word).to_owned());
        let resource = owned(0)?;
        Some(Self { api_version, resource, namespace, name: owned(1), subresource: owned(2) })
    }

    /// The same for the object of this name.
    pub fn named(&self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self.clone() }
    }

    pub fn kind(&self) -> String {
        match self.resource.as_str() {
            "configmaps" => "ConfigMap".to_owned(),
            "replicasets" => "ReplicaSet".to_owned(),
            plural => {
                let singular = plural.strip_suffix('s').unwrap_or(plural);
                singular[..1].to_uppercase() + &singular[1..]
            }
        }
    }

    /// Whether an object belongs to this list.
    fn holds(&self, object: &Target) -> bool {
        let in_namespace = self.namespace.is_none() || self.namespace == object.namespace;
        self.api_version == object.api_version && self.resource == object.resource && in_namespace
    }
}

/// One change: what is there since, and what was there before.
struct Change {
    version: u64,
    target: Option<Target>,
    before: Option<Value>,
    after: Option<Value>,
}

/// All objects and what became of them.
pub struct Store {
    version: u64,
    /// Watches from before this version are too late.
    oldest: u64,
    objects: BTreeMap<Target, Value>,
    history: Vec<Change>,
    created: u64,
}

/// One page of a list.
pub struct Page {
    pub items: Vec<Value>,
    pub version: u64,
    /// Where the next one begins.
    pub next: Option<String>,
}

/// The watch or the list begins too early in history.
pub struct Gone;

impl Store {
    pub fn new() -> Self {
        Self { version: 1000, oldest: 0, objects: BTreeMap::new(), history: Vec::new(), created: 0 }
    }

    pub fn put(&mut self, target: &Target, object: Value) -> u64 {
        self.version += 1;
        self.put_at(target, object, self.version);
        self.version
    }

    pub fn put_at(&mut self, target: &Target, mut object: Value, version: u64) {
        let before = self.objects.get(target).cloned();
        self.created += 1;
        let uid = match &before {
            Some(before) => before["metadata"]["uid"].clone(),
            None => format!("00000000-0000-4000-8000-{:012}", self.created).into(),
        };
        object["apiVersion"] = target.api_version.clone().into();
        object["kind"] = target.kind().into();
        if !object["metadata"].is_object() {
            object["metadata"] = Value::Object(Map::new());
        }
        let metadata = &mut object["metadata"];
        metadata["name"] = target.name.clone().into();
        if let Some(namespace) = &target.namespace {
            metadata["namespace"] = namespace.clone().into();
        }
        metadata["resourceVersion"] = version.to_string().into();
        if metadata["uid"].is_null() {
            metadata["uid"] = uid;
        }
        self.objects.insert(target.clone(), object.clone());
        self.note(Change { version, target: Some(target.clone()), before, after: Some(object) });
    }

    pub fn delete(&mut self, target: &Target) -> Option<Value> {
        let mut before = self.objects.remove(target)?;
        self.version += 1;
        // As a real server does, the object that is deleted carries the version of its end.
        before["metadata"]["resourceVersion"] = self.version.to_string().into();
        let change = Change {
            version: self.version,
            target: Some(target.clone()),
            before: Some(before.clone()),
            after: None,
        };
        self.note(change);
        Some(before)
    }

    pub fn bookmark(&mut self) {
        self.version += 1;
        self.note(Change { version: self.version, target: None, before: None, after: None });
    }

    fn note(&mut self, change: Change) {
        self.history.push(change);
    }

    pub fn expire(&mut self) {
        self.version += 1;
        self.oldest = self.version;
    }

    pub fn get(&self, target: &Target) -> Option<Value> {
        self.objects.get(target).cloned()
    }

    pub fn of(&self, resource: &str) -> Vec<Value> {
        self.objects
            .iter()
            .filter(|(t, _)| t.resource == resource)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// A page of at most `limit` objects, from where the one before ended.
    pub fn list(
        &self,
        of: &Target,
        selectors: &Selectors,
        limit: usize,
        from: Option<&str>,
    ) -> Result<Page, Gone> {
        let (version, skip) = match from {
            None => (self.version, 0),
            Some(token) => {
                let (version, skip) = token.split_once('-').ok_or(Gone)?;
                (version.parse().map_err(|_| Gone)?, skip.parse().map_err(|_| Gone)?)
            }
        };
        if version < self.oldest {
            return Err(Gone);
        }
        let all = self.objects.iter().filter(|(target, object)| of.holds(target) && selectors.select(object));
        let mut rest = all.skip(skip).map(|(_, object)| object.clone());
        let items: Vec<_> = rest.by_ref().take(limit).collect();
        let next = rest.next().map(|_| format!("{version}-{}", skip + items.len()));
        Ok(Page { items, version, next })
    }

    /// The events after a version, as a watch tells them, and the place in history to go on from.
    pub fn events(
        &self,
        of: &Target,
        selectors: &Selectors,
        (since, place): (u64, usize),
    ) -> Result<(Vec<Value>, usize), Gone> {
        if since < self.oldest && place == 0 {
            return Err(Gone);
        }
        let fresh = self.history.iter().skip(place).filter(|change| change.version > since || place > 0);
        Ok((fresh.filter_map(|change| told(change, of, selectors)).collect(), self.history.len()))
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn unused_name(&mut self, prefix: &str) -> String {
        self.created += 1;
        format!("{prefix}{:05}", self.created)
    }
}

/// How one change looks through a selector: who leaves it is deleted, who enters is added.
fn told(change: &Change, of: &Target, selectors: &Selectors) -> Option<Value> {
    let Some(target) = &change.target else {
        let metadata = json!({ "resourceVersion": change.version.to_string() });
        let object = json!({ "apiVersion": of.api_version, "kind": of.kind(), "metadata": metadata });
        return Some(json!({ "type": "BOOKMARK", "object": object }));
    };
    if !of.holds(target) {
        return None;
    }
    let seen = |object: &Option<Value>| object.clone().filter(|object| selectors.select(object));
    let (kind, object) = match (seen(&change.before), seen(&change.after)) {
        (None, None) => return None,
        (None, Some(after)) => ("ADDED", after),
        (Some(_), Some(after)) => ("MODIFIED", after),
        (Some(mut before), None) => {
            before["metadata"]["resourceVersion"] = change.version.to_string().into();
            ("DELETED", before)
        }
    };
    Some(json!({ "type": kind, "object": object }))
}

/// What of a list or watch is wanted.
#[derive(Debug, Clone, Default)]
pub struct Selectors {
    /// `metadata.name=x,spec.nodeName!=y`.
    pub fields: String,
    /// The same of labels.
    pub labels: String,
}

impl Selectors {
    fn select(&self, object: &Value) -> bool {
        let field = |path: &str| object.pointer(&format!("/{}", path.replace('.', "/")));
        let label = |key: &str| object["metadata"]["labels"].get(key);
        holds(&self.fields, field) && holds(&self.labels, label)
    }
}

/// Whether every term `key=value`, `key==value` or `key!=value` is so.
fn holds<'o>(selector: &str, of: impl Fn(&str) -> Option<&'o Value>) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (key, wanted) = term.split_once('=').unwrap_or((term, ""));
        let found = of(key.trim_end_matches('!')).and_then(Value::as_str).unwrap_or_default();
        (found == wanted.trim_start_matches('=')) != key.ends_with('!')
    })
}
