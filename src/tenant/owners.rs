//! Whose parts a request has: the tenants of one request, numbered.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Directory, Tenant};
use crate::identity::TenantId;
use crate::outcome::RefusedReason;

/// Up to so many tenants are found by looking through them all.
const FEW: usize = 8;

/// The tenants of one request. Group 0 is that of data no `tenant` processor has looked at.
#[derive(Debug)]
pub struct Owners {
    groups: Vec<Group>,
    /// The groups behind the first [`FEW`].
    others: HashMap<TenantId, u32>,
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
        Self { groups: vec![nobody], others: HashMap::new() }
    }

    /// Everything belongs to a tenant that is known.
    pub fn of(tenant: &Arc<Tenant>) -> Self {
        let known = Group { tenant: tenant.clone(), sampled_out: 0, refused: None };
        Self { groups: vec![known], others: HashMap::new() }
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
        let few = self.groups.iter().take(FEW);
        let place = few.map(|group| &group.tenant.id).position(|id| id == tenant);
        place.map(|place| place as u32).or_else(|| self.others.get(tenant).copied())
    }

    /// The group of a tenant, opened at first sight.
    pub(super) fn group_of(&mut self, tenant: &Arc<Tenant>) -> u32 {
        // Resources of one tenant stand together.
        let last = self.groups() - 1;
        if self.owner(last).id == tenant.id {
            return last;
        }
        if let Some(group) = self.find(&tenant.id) {
            return group;
        }
        let group = self.groups();
        if self.groups.len() >= FEW {
            self.others.insert(tenant.id.clone(), group);
        }
        self.groups.push(Group { tenant: tenant.clone(), sampled_out: 0, refused: None });
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Ledger;
    use crate::policies;
    use crate::tenant::Tenants;
    use crate::yaml::Source;

    #[test]
    fn each_tenant_has_one_group_however_many_there_are() {
        let source = Source::new("test", "version: 1\nrules: []\n".to_owned());
        let plan = Arc::new(policies::parse(&source, jiff::Timestamp::UNIX_EPOCH).unwrap().0);
        let directory = Directory::new(plan.clone(), &Tenants::new(&Arc::<Ledger>::default(), &plan, 10));
        let mut owners = Owners::new(&directory);
        let tenant = |n: usize| directory.named(&format!("tenant-{n}"), false).unwrap();
        for n in (0..3 * FEW).chain((0..3 * FEW).rev()).chain([0, 0, FEW, FEW]) {
            assert_eq!(owners.group_of(&tenant(n)), n as u32 + 1);
            assert_eq!(owners.find(&tenant(n).id), Some(n as u32 + 1));
            assert_eq!(owners.owner(n as u32 + 1).id, tenant(n).id);
        }
        assert_eq!(owners.groups() as usize, 3 * FEW + 1);
        assert_eq!(owners.group_of(directory.unattributed()), 0);
        assert_eq!(owners.find(&TenantId::overflow()), None);
    }
}
