//! Whose parts a request has: the tenants of one request, numbered.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Directory, Tenant};
use crate::identity::TenantId;
use crate::outcome::RefusedReason;

/// The tenants of one request. Group 0 is that of data no `tenant` processor has looked at.
#[derive(Debug)]
pub struct Owners {
    groups: Vec<Group>,
    by_id: HashMap<TenantId, u32>,
}

#[derive(Debug)]
struct Group {
    tenant: Arc<Tenant>,
    sampled_out: u64,
    refused: Option<(RefusedReason, u64)>,
}

impl Owners {
    /// Everything belongs to nobody yet.
    pub fn new(directory: &Directory) -> Self {
        let nobody = Group { tenant: directory.unattributed().clone(), sampled_out: 0, refused: None };
        Self { groups: vec![nobody], by_id: HashMap::new() }
    }

    /// Everything belongs to a tenant that is known.
    pub fn of(tenant: &Arc<Tenant>) -> Self {
        let known = Group { tenant: tenant.clone(), sampled_out: 0, refused: None };
        Self { groups: vec![known], by_id: HashMap::new() }
    }

    /// How many groups there are; they are numbered from 0.
    pub fn groups(&self) -> u32 {
        self.groups.len() as u32
    }

    /// The tenant of a group.
    pub fn owner(&self, group: u32) -> &Arc<Tenant> {
        &self.groups[group as usize].tenant
    }

    /// How many items of a group were left out by policy.
    pub fn sampled_out(&self, group: u32) -> u64 {
        self.groups[group as usize].sampled_out
    }

    /// Counts items of a group that were left out by policy.
    pub fn count_sampled_out(&mut self, group: u32, items: u64) {
        self.groups[group as usize].sampled_out += items;
    }

    /// How many items of a group were refused while others are taken, and why.
    pub fn refused(&self, group: u32) -> Option<(RefusedReason, u64)> {
        self.groups[group as usize].refused
    }

    /// Counts items of a group that were refused while others are taken.
    pub(super) fn count_refused(&mut self, group: u32, reason: RefusedReason, items: u64) {
        self.groups[group as usize].refused = Some((reason, items));
    }

    /// The group of a tenant, if it has one.
    pub(super) fn find(&self, tenant: &TenantId) -> Option<u32> {
        let first = (self.groups[0].tenant.id == *tenant).then_some(0);
        first.or_else(|| self.by_id.get(tenant).copied())
    }

    /// The group of a tenant, opened at first sight.
    pub(super) fn group_of(&mut self, tenant: &Arc<Tenant>) -> u32 {
        let last = self.groups() - 1;
        // Most requests have one tenant, and resources of one tenant stand together.
        if let Some(near) = [last, 0].into_iter().find(|group| self.owner(*group).id == tenant.id) {
            return near;
        }
        if self.owner(0).id == tenant.id {
            return 0;
        }
        let next = self.groups();
        let group = *self.by_id.entry(tenant.id.clone()).or_insert(next);
        if group == next {
            self.groups.push(Group { tenant: tenant.clone(), sampled_out: 0, refused: None });
        }
        group
    }
}
