//! How pipelines are connected by connectors: what leads where, and whether everything that is needed on
//! the way is there.
//!
//! Not here: the lists of one pipeline (`pipelines`), the keys of one connector (`connector`). Invariant: a
//! configuration without errors has no cycles, and every connector knows where data of each signal goes.

use std::collections::{BTreeMap, BTreeSet};

use super::Pipeline;
use super::connector::Connector;
use super::exporter::Exporter;
use super::id::{ComponentId, PipelineId};
use crate::otlp::Signal;
use crate::yaml::{Location, Node, Problems, join_key};

/// The parts that are connected.
pub(super) struct Parts<'a> {
    pub(super) tree: &'a Node,
    pub(super) connectors: &'a BTreeMap<ComponentId, Connector>,
    pub(super) exporters: &'a BTreeMap<ComponentId, Exporter>,
    pub(super) pipelines: &'a BTreeMap<PipelineId, Pipeline>,
}

/// Reports everything that does not fit together.
pub(super) fn check(parts: &Parts<'_>, problems: &mut Problems) {
    let mut wiring = Wiring { parts, problems };
    for (id, connector) in parts.connectors {
        wiring.signals(id);
        wiring.lists(id, connector);
        if let Connector::Failover(_) = connector {
            wiring.levels(id, connector);
        }
    }
    if !wiring.cycles() {
        wiring.tenants();
    }
}

struct Wiring<'a, 'p> {
    parts: &'a Parts<'a>,
    problems: &'p mut Problems,
}

impl<'a> Wiring<'a, '_> {
    /// The pipelines that lead to a connector.
    fn before(
        &self,
        connector: &ComponentId,
    ) -> impl Iterator<Item = (&'a PipelineId, &'a Pipeline)> + use<'a> {
        let connector = connector.clone();
        self.parts.pipelines.iter().filter(move |(_, pipeline)| pipeline.exporters.contains(&connector))
    }

    /// The pipelines a connector leads to.
    fn behind(
        &self,
        connector: &ComponentId,
    ) -> impl Iterator<Item = (&'a PipelineId, &'a Pipeline)> + use<'a> {
        let connector = connector.clone();
        self.parts.pipelines.iter().filter(move |(_, pipeline)| pipeline.receivers.contains(&connector))
    }

    /// Data that comes to a connector must leave it, and the other way round.
    fn signals(&mut self, connector: &ComponentId) {
        for signal in Signal::ALL {
            let is_of = |(id, _): &(&PipelineId, &Pipeline)| id.signal == signal;
            let (from, to) = (self.before(connector).find(is_of), self.behind(connector).find(is_of));
            let message = match (from, to) {
                (Some((from, _)), None) => {
                    format!("takes {signal} from `{from}`, but no pipeline of {signal} receives from it")
                }
                (None, Some((to, _))) => {
                    format!("gives {signal} to `{to}`, but no pipeline of {signal} exports to it")
                }
                _ => continue,
            };
            self.at_connector(connector, "", message);
        }
    }

    /// The pipelines a connector names are there, receive from it, and take every signal that comes.
    fn lists(&mut self, id: &ComponentId, connector: &Connector) {
        let mut named = Vec::new();
        for (path, list) in connector.lists() {
            let mut signals = Vec::new();
            for (n, text) in list.iter().enumerate() {
                let at = format!("{path}[{n}]");
                match PipelineId::parse(text) {
                    Err(bad) => self.at_connector(id, &at, bad.to_string()),
                    Ok(pipeline) => match self.parts.pipelines.get(&pipeline) {
                        None => self.at_connector(id, &at, format!("pipeline `{pipeline}` is not defined")),
                        Some(found) if !found.receivers.contains(id) => {
                            let message = format!("pipeline `{pipeline}` does not receive from `{id}`");
                            self.at_connector(id, &at, message);
                        }
                        Some(_) => {
                            signals.push(pipeline.signal);
                            named.push(pipeline);
                        }
                    },
                }
            }
            let missing = self.before(id).find(|(from, _)| !signals.contains(&from.signal));
            if let Some((from, _)) = missing.filter(|_| signals.len() == list.len() && !list.is_empty()) {
                let message = format!("names no pipeline of {}, which `{from}` brings", from.signal);
                self.at_connector(id, &path, message);
            }
        }
        let unnamed: Vec<_> = self.behind(id).filter(|(pipeline, _)| !named.contains(pipeline)).collect();
        for (pipeline, _) in unnamed {
            let message = format!("connector `{id}` never gives anything to this pipeline");
            self.problems.warning(&self.place_of(pipeline), &path_of(pipeline), message, None);
        }
    }

    /// What a failover needs: each level is one exporter, and nothing happens to the data on its way there.
    fn levels(&mut self, id: &ComponentId, connector: &Connector) {
        for (path, list) in connector.lists() {
            let pipelines = list.iter().filter_map(|text| PipelineId::parse(text).ok());
            let found: Vec<_> = pipelines.filter_map(|p| self.parts.pipelines.get_key_value(&p)).collect();
            let mut exporters: Vec<&ComponentId> = found.iter().flat_map(|(_, p)| &p.exporters).collect();
            exporters.sort();
            exporters.dedup();
            if let [one] = exporters[..] {
                if !self.parts.exporters.contains_key(one) && self.parts.connectors.contains_key(one) {
                    let message = format!("a level leads to an exporter, and `{one}` is a connector");
                    self.at_connector(id, &path, message);
                }
                self.storage_of_level(id, one);
            } else if exporters.len() > 1 {
                let names: Vec<_> = exporters.iter().map(|id| id.as_str()).collect();
                let message = format!("a level leads to one exporter, this one to {}", names.join(", "));
                self.at_connector(id, &path, message);
            }
            for (pipeline, body) in found {
                let path = path_of(pipeline);
                if !body.processors.is_empty() {
                    let message = format!("a pipeline behind `{id}` has no processors");
                    let help = format!("move them to the pipeline that exports to `{id}`");
                    self.problems.error(&self.place_of(pipeline), &path, message, Some(help));
                }
                if body.receivers.len() > 1 {
                    let message = format!("a pipeline behind `{id}` receives from nothing else");
                    self.problems.error(&self.place_of(pipeline), &path, message, None);
                }
            }
        }
    }

    /// A level has no queue of its own: whoever wrote that it is on disk must know.
    fn storage_of_level(&mut self, connector: &ComponentId, exporter: &ComponentId) {
        let mut users = self.parts.pipelines.values().filter(|p| p.exporters.contains(exporter));
        let is_failover = |id: &ComponentId| {
            self.parts.connectors.get(id).is_some_and(|found| matches!(found, Connector::Failover(_)))
        };
        if !users.all(|pipeline| pipeline.receivers.iter().all(is_failover)) {
            return;
        }
        let is_it = |key: &str| ComponentId::parse(key).is_ok_and(|key| key == *exporter);
        let exporters = self.parts.tree.get("exporters").map(Node::entries).unwrap_or_default();
        let entry = exporters.iter().find(|entry| is_it(&entry.key));
        if let Some(node) = entry.and_then(|entry| entry.value.at("sending_queue.storage")) {
            let path = format!("exporters.{exporter}.sending_queue.storage");
            let message = format!("is not used: what waits for `{exporter}` waits in `{connector}`");
            let help = format!("write it in `connectors.{connector}.sending_queue`");
            self.problems.warning(&node.location, &path, message, Some(help));
        }
    }

    /// Reports a cycle; whether there is one.
    fn cycles(&mut self) -> bool {
        for start in self.parts.pipelines.keys() {
            let mut way = vec![start];
            if self.leads_back(start, &mut way, &mut BTreeSet::new()) {
                let names: Vec<_> = way.iter().map(|id| format!("`{id}`")).collect();
                let message = format!("data would go round for ever: {}", names.join(" to "));
                self.problems.error(&self.place_of(start), &path_of(start), message, None);
                return true;
            }
        }
        false
    }

    /// Whether a way from its last pipeline leads to `start`; then the way ends there.
    fn leads_back(
        &self,
        start: &'a PipelineId,
        way: &mut Vec<&'a PipelineId>,
        seen: &mut BTreeSet<&'a PipelineId>,
    ) -> bool {
        let Some(here) = way.last().and_then(|id| self.parts.pipelines.get_key_value(*id)) else {
            return false;
        };
        // An exporter may be called as a receiver is.
        let connectors = here.1.exporters.iter().filter(|id| self.parts.connectors.contains_key(id));
        for next in connectors.flat_map(|connector| self.behind(connector)) {
            if next.0.signal != here.0.signal {
                continue;
            }
            if next.0 == start {
                way.push(start);
                return true;
            }
            if seen.insert(next.0) {
                way.push(next.0);
                if self.leads_back(start, way, seen) {
                    return true;
                }
                way.pop();
            }
        }
        false
    }

    /// Whatever goes by tenant stands behind a `tenant`, of which there is one on each way.
    fn tenants(&mut self) {
        let mut known = BTreeMap::new();
        for (id, pipeline) in self.parts.pipelines {
            let behind: Vec<_> = self.connectors_before(pipeline).cloned().collect();
            let is = |name: &'static str| move |processor: &&ComponentId| processor.type_name() == name;
            if let (Some(connector), Some(_)) =
                (behind.first(), pipeline.processors.iter().find(is("tenant")))
            {
                let message = format!("`tenant` stands behind the connector `{connector}`");
                let help = format!("write it in the pipelines that export to `{connector}`");
                self.problems.error(&self.place_of(id), &path_of(id), message, Some(help));
                continue;
            }
            if self.knows_tenants((id, pipeline), &mut known) {
                continue;
            }
            if !behind.is_empty() && pipeline.processors.iter().any(|p| p.type_name() == "sampling") {
                self.needs_tenant(id, "`sampling` goes by tenant".into());
            }
            for exporter in &pipeline.exporters {
                if self.parts.exporters.get(exporter).is_some_and(|e| !e.tenant_headers().is_empty()) {
                    self.needs_tenant(id, format!("`{exporter}` has tenant_headers"));
                }
                if self.parts.connectors.get(exporter).is_some_and(Connector::goes_by_tenant) {
                    self.needs_tenant(id, format!("`{exporter}` routes by tenant"));
                }
            }
        }
    }

    fn needs_tenant(&mut self, id: &PipelineId, why: String) {
        let message = format!("{why}, and no `tenant` stands before it");
        let help = "write for example `processors: [tenant]` in the pipeline of the receivers".to_owned();
        self.problems.error(&self.place_of(id), &path_of(id), message, Some(help));
    }

    fn connectors_before<'s>(&'s self, pipeline: &'s Pipeline) -> impl Iterator<Item = &'s ComponentId> {
        pipeline.receivers.iter().filter(|id| self.parts.connectors.contains_key(id))
    }

    /// Whether all data at the end of a pipeline has its tenant.
    fn knows_tenants(
        &self,
        (id, pipeline): (&'a PipelineId, &'a Pipeline),
        known: &mut BTreeMap<&'a PipelineId, bool>,
    ) -> bool {
        if let Some(known) = known.get(id) {
            return *known;
        }
        let mut knows = pipeline.processors.iter().any(|processor| processor.type_name() == "tenant");
        if !knows {
            let is_connector = |id: &ComponentId| self.parts.connectors.contains_key(id);
            let all = pipeline.receivers.iter().flat_map(|receiver| self.before(receiver));
            let before: Vec<_> = all.filter(|(from, _)| from.signal == id.signal).collect();
            knows = pipeline.receivers.iter().all(is_connector)
                && before.into_iter().all(|before| self.knows_tenants(before, known));
        }
        known.insert(id, knows);
        knows
    }

    fn at_connector(&mut self, id: &ComponentId, at: &str, message: String) {
        let section = self.parts.tree.get("connectors");
        let is_it = |key: &str| ComponentId::parse(key).is_ok_and(|key| key == *id);
        let entry = section.and_then(|node| node.entries().iter().find(|entry| is_it(&entry.key)));
        let Some(entry) = entry else { return };
        let (place, path) = match at {
            "" => (&entry.key_location, join_key("connectors", &entry.key)),
            at => {
                let place = entry.value.at(at).map_or(&entry.key_location, |node| &node.location);
                (place, format!("{}.{at}", join_key("connectors", &entry.key)))
            }
        };
        self.problems.error(place, &path, message, None);
    }

    fn place_of(&self, id: &PipelineId) -> Location {
        let pipelines = self.parts.tree.at("service.pipelines");
        let is_it = |key: &str| PipelineId::parse(key).is_ok_and(|key| key == *id);
        let entry = pipelines.and_then(|node| node.entries().iter().find(|entry| is_it(&entry.key)));
        entry.map_or_else(|| self.parts.tree.location.clone(), |entry| entry.key_location.clone())
    }
}

fn path_of(id: &PipelineId) -> String {
    join_key("service.pipelines", &id.to_string())
}

impl Connector {
    fn goes_by_tenant(&self) -> bool {
        match self {
            Connector::Routing(routing) => {
                routing.table.iter().any(|route| !route.tenants.is_empty() || !route.tiers.is_empty())
            }
            Connector::Failover(_) => false,
        }
    }
}
