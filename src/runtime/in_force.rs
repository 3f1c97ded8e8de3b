//! The policies in force: from the watched file to the directory requests load.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::effective::effective;
use super::prepare::{Bounds, Checked};
use crate::config::extensions::ConfigMap;
use crate::internal_telemetry::Telemetry;
use crate::kubernetes::pods::Pods;
use crate::kubernetes::{Client, Followed, announce};
use crate::pipeline::Lasting;
use crate::policies::watch::{Place, Status};
use crate::policies::{InForce, Plan};
use crate::tasks::Scope;
use crate::tenant::{Directory, Tenants};

/// How many budgets have a gauge of their threshold.
const THRESHOLDS: usize = 20;

/// The one place that knows which policies hold.
#[derive(Clone)]
pub(super) struct Policies(Arc<Shared>);

struct Shared {
    current: ArcSwap<Current>,
    lasting: Lasting,
    table: Arc<Tenants>,
    telemetry: Telemetry,
}

struct Current {
    file: Arc<InForce>,
    place: Option<Place>,
    config_map: Option<ConfigMap>,
    bounds: Bounds,
    scope: Scope,
}

impl Policies {
    /// Puts the checked policies in force and follows their file.
    pub(super) fn start(checked: &Checked, telemetry: &Telemetry, scope: &Scope) -> Self {
        let current = Current::new(checked, scope);
        let table = checked.table(telemetry);
        let caps = Arc::<crate::sampling::Caps>::default();
        let policies = Self(Arc::new(Shared {
            current: ArcSwap::from_pointee(current),
            lasting: Lasting {
                directory: Arc::new(ArcSwap::from_pointee(Directory::new(checked.plan(), &table))),
                caps: caps.clone(),
                pods: Pods::new(telemetry),
            },
            table,
            telemetry: telemetry.clone(),
        }));
        telemetry.sampling().watch_thresholds(move || caps.thresholds(Instant::now(), THRESHOLDS));
        policies.pods().serve(&checked.plan());
        policies.follow();
        if checked.place.is_none() {
            tracing::warn!(
                name: "policies.embedded",
                "no policies file: anybody who can connect may name any tenant (x-scope-orgid, x-tenant-id, \
                 resource tenant.id). Require client certificates (tls.client_ca_file of the receiver) and \
                 state with --policies which claims are believed (identity.claims)"
            );
        }
        policies
    }

    /// Follows another file, if the configuration names one.
    pub(super) async fn switch(&self, checked: &Checked, client: Option<Client>, scope: &Scope) {
        let old = self.0.current.load_full();
        self.0.table.set_max_dynamic(checked.max_dynamic_tenants());
        if old.place == checked.place {
            old.bounds.follow(&checked.bounds);
        }
        if (&old.place, &old.config_map) == (&checked.place, &checked.config_map) {
            return;
        }
        // The API server may be followed no more, or tell of another object.
        old.file.api_lost();
        old.scope.close(Instant::now() + super::STOP_GRACE).await;
        self.0.current.store(Arc::new(Current::new(checked, scope)));
        self.put_in_force(checked.plan());
        self.follow();
        self.follow_api(client);
    }

    /// Follows the ConfigMap through the API server, if the configuration names one.
    pub(super) fn follow_api(&self, client: Option<Client>) {
        let current = self.0.current.load_full();
        let (Some(client), Some(keys)) = (client, &current.config_map) else { return };
        let followed = Followed::new(client, keys, &current.file);
        let (stop, metrics) =
            (current.scope.token().clone(), self.0.telemetry.kubernetes_watch("configmaps"));
        let (announcing, silent) = (followed.clone(), stop.clone());
        current.scope.spawn("policies.api", async move {
            let up = metrics.up.clone();
            stop.run_until_cancelled(followed.follow(metrics)).await;
            up.set(0);
        });
        let pod = std::env::var("OTEL_K8S_POD_NAME").or_else(|_unset| std::env::var("HOSTNAME"));
        let pod = pod.unwrap_or_else(|_unset| "tollgate".to_owned());
        current.scope.spawn("policies.announce", async move {
            silent.run_until_cancelled(announce(announcing, pod)).await;
        });
    }

    /// What outlives configurations.
    pub(super) fn lasting(&self) -> &Lasting {
        &self.0.lasting
    }

    /// The pods that are known.
    pub(super) fn pods(&self) -> &Pods {
        &self.0.lasting.pods
    }

    fn directory(&self) -> &ArcSwap<Directory> {
        &self.0.lasting.directory
    }

    fn put_in_force(&self, plan: Arc<Plan>) {
        self.pods().serve(&plan);
        self.directory().store(Arc::new(Directory::new(plan, &self.0.table)));
    }

    /// The file that is followed.
    pub(super) fn source(&self) -> (Option<Place>, Arc<InForce>) {
        let current = self.0.current.load();
        (current.place.clone(), current.file.clone())
    }

    /// The revision in force, and what is wrong with the file if it is refused.
    pub(super) fn revision(&self) -> (String, Option<String>) {
        let status = self.0.current.load().file.status();
        let refused = status.refused.as_ref().map(|refused| refused.problems.lines().join("\n"));
        (self.directory().load().plan().revision_name().to_owned(), refused)
    }

    /// `GET /v1/revisions`.
    pub(super) fn revisions(&self) -> Value {
        let status = self.0.current.load().file.status();
        let directory = self.directory().load();
        let plan = directory.plan();
        let refused = status.refused.as_ref().map(|refused| {
            json!({
                "sha256": refused.sha256,
                "origin": refused.origin.name,
                "at": refused.at.to_string(),
                "problems": refused.problems.lines(),
            })
        });
        json!({
            "in_force": {
                "revision": plan.revision_name(),
                "sha256": plan.sha256,
                "since": status.since.to_string(),
                "warnings": status.warnings.lines(),
            },
            "origin": status.origin.name,
            "resource_version": status.origin.version,
            "last_reload_success": status.last_reload_success,
            "refused": refused,
        })
    }

    /// `GET /v1/policies/effective?tenant=`.
    pub(super) fn effective(&self, tenant: &str) -> Option<Value> {
        effective(&self.directory().load(), tenant)
    }

    /// Watches the file and puts each good revision in force; the first one at once.
    fn follow(&self) {
        let current = self.0.current.load_full();
        self.report(&current.file.status(), None);
        current.file.watch(&current.scope);
        let (policies, stop) = (self.clone(), current.scope.token().clone());
        let mut statuses = current.file.subscribe();
        let mut before = statuses.borrow_and_update().clone();
        let scope = current.scope.clone();
        scope.spawn("policies", async move {
            while let Some(Ok(())) = stop.run_until_cancelled(statuses.changed()).await {
                let status = statuses.borrow_and_update().clone();
                if status.revisions != before.revisions {
                    policies.put_in_force(current.file.plan_arc());
                }
                policies.report(&status, Some(&before));
                before = status;
            }
        });
    }

    /// Where nothing authenticates, a claim is all it takes.
    fn warn_of_belief(&self, plan: &Plan) {
        let embedded = self.0.current.load().place.is_none();
        if !embedded && plan.identity.authenticate.is_empty() && !plan.claims.is_empty() {
            let revision = plan.revision_name();
            tracing::warn!(
                name: "identity.claims_believed",
                revision,
                "claims are believed without authentication: whoever can connect may name any tenant; list \
                 in identity.authenticate how senders prove who they are"
            );
        }
    }

    /// Says in metrics and log what became of the file.
    fn report(&self, status: &Status, before: Option<&Status>) {
        let metrics = self.0.telemetry.policies();
        let directory = self.directory().load();
        let revision = directory.plan().revision_name();
        let took = status.reload_duration;
        if before.is_none_or(|before| before.revisions != status.revisions) {
            let sha256 = &status.sha256;
            metrics.loaded(revision, sha256, took);
            tracing::info!(name: "policies.loaded", revision, %sha256, ?took, "policies in force");
            for warning in status.warnings.lines() {
                tracing::warn!(name: "policies.warning", revision, "{warning}");
            }
            let plan = directory.plan();
            self.warn_of_belief(plan);
            self.0.telemetry.sampling().retain_rules(|rule| plan.has_rule(rule));
        }
        let refused = status.refused.as_ref();
        let known = before.and_then(|before| before.refused.as_ref());
        match refused {
            Some(refused) if known.is_none_or(|known| known != refused) => {
                metrics.refused(took);
                let problems = refused.problems.lines().join("\n");
                tracing::error!(name: "policies.refused", in_force = revision, "policies refused, the last good revision stays in force:\n{problems}");
            }
            None if known.is_some() && before.is_some_and(|before| before.revisions == status.revisions) => {
                metrics.loaded(revision, &status.sha256, took);
                tracing::info!(name: "policies.restored", revision, "the file is again the revision in force");
            }
            _ => {}
        }
    }
}

impl Current {
    fn new(checked: &Checked, scope: &Scope) -> Self {
        Self {
            file: checked.policies.clone(),
            place: checked.place.clone(),
            config_map: checked.config_map.clone(),
            bounds: checked.bounds.clone(),
            scope: scope.child("policies"),
        }
    }
}
