//! Reads `defaults`, `tiers` and `tenants` and merges them for each tenant.
//!
//! Not here: finding a tenant's block (`plan`). Invariant: a block says everything; nothing is merged
//! while requests wait.

use std::collections::HashMap;
use std::sync::Arc;

use super::glob::Glob;
use super::limits;
use super::matching::unknown_tier;
use super::plan::{Block, Blocks};
use super::queue_block;
use super::reader::{At, Keys, STAGE_2, STAGE_3};
use crate::identity::{BadTenantId, TenantId};
use crate::yaml::{Entry, Problems};

const BLOCK: Keys = Keys { known: &["tier", "sampling", "limits", "queue"], later: &[("tail", STAGE_3)] };
const TIER: Keys = Keys { known: &["sampling", "limits", "queue"], later: BLOCK.later };

/// A block as written.
#[derive(Default, Clone)]
struct Written<'n> {
    tier: Option<&'n str>,
    rate: Option<f64>,
    limits: limits::Written,
    queue: queue_block::Written,
}

/// Reads all blocks; also returns the names of the tiers.
pub(super) fn read<'n>(root: &At<'n>, problems: &mut Problems) -> (Vec<&'n str>, Blocks) {
    let mut tiers: HashMap<&str, Written<'_>> = HashMap::new();
    let mut names = Vec::new();
    for (entry, at) in root.key("tiers").map(|tiers| tiers.entries(problems)).unwrap_or_default() {
        check_tier_name(entry, &at.path, problems);
        names.push(entry.key.as_str());
        at.check_keys(&TIER, problems);
        tiers.insert(&entry.key, read_block(&at, &[], problems));
    }
    let mut defaults = Written::default();
    if let Some(at) = root.key("defaults") {
        at.check_keys(&BLOCK, problems);
        defaults = read_block(&at, &names, problems);
    }
    let merged = |tenant: &Written<'_>| {
        let tier = tenant.tier.or(defaults.tier);
        let of_tier = tier.and_then(|tier| tiers.get(tier)).cloned().unwrap_or_default();
        let rate = tenant.rate.or(of_tier.rate).or(defaults.rate).unwrap_or(1.0);
        let queue = tenant.queue.over(of_tier.queue).over(defaults.queue).share();
        let limits = tenant.limits.or(&of_tier.limits).or(&defaults.limits).merged();
        Arc::new(Block { tier: tier.map(Into::into), rate, limits, queue })
    };
    let mut blocks = Blocks { fallback: merged(&Written::default()), ..Blocks::default() };
    for name in &names {
        blocks.tiers.insert((*name).to_owned(), merged(&Written { tier: Some(name), ..Written::default() }));
    }
    let mut globs: Vec<(Glob, &Entry, At<'_>, Arc<Block>)> = Vec::new();
    for (entry, at) in root.key("tenants").map(|tenants| tenants.entries(problems)).unwrap_or_default() {
        at.check_keys(&BLOCK, problems);
        let own = merged(&read_block(&at, &names, problems));
        // One that only names its tier is the tier's: many tenants then read the same memory.
        let of_tier = own.tier.as_deref().and_then(|tier| blocks.tiers.get(tier));
        let block = of_tier.filter(|block| **block == own).cloned().unwrap_or(own);
        let Some(glob) = tenant_pattern(entry, &at, problems) else { continue };
        match glob.literal() {
            Some(id) => {
                blocks.exact.insert(id, block);
            }
            None => globs.push((glob, entry, at, block)),
        }
    }
    globs.sort_by(|a, b| {
        b.0.literal_characters().cmp(&a.0.literal_characters()).then_with(|| a.1.key.cmp(&b.1.key))
    });
    warn_about_equal_rank(&globs, problems);
    blocks.globs = globs.into_iter().map(|(glob, _, _, block)| (glob, block)).collect();
    (names, blocks)
}

fn read_block<'n>(at: &At<'n>, tiers: &[&str], problems: &mut Problems) -> Written<'n> {
    let tier = at.key("tier").and_then(|value| {
        let name = value.text(problems)?;
        if !tiers.contains(&name) {
            unknown_tier(name, tiers, &value, problems);
        }
        Some(name)
    });
    let rate = at.key("sampling").and_then(|sampling| {
        let is_map = sampling.check_keys(&Keys { known: &["rate"], later: &[("target", STAGE_2)] }, problems);
        if is_map && !sampling.has("rate") && !sampling.has("target") {
            sampling.error(problems, "`rate` is missing");
        }
        sampling.key("rate")?.probability(problems)
    });
    let limits = at.key("limits").map(|limits| limits::read(&limits, problems)).unwrap_or_default();
    Written { tier, rate, limits, queue: queue_block::read(at, problems) }
}

fn check_tier_name(entry: &Entry, path: &str, problems: &mut Problems) {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !(1..=64).contains(&entry.key.len()) || !entry.key.bytes().all(allowed) {
        problems.error(&entry.key_location, path, "names of tiers are 1 to 64 of A-Z a-z 0-9 - _ .", None);
    }
}

fn tenant_pattern(entry: &Entry, at: &At<'_>, problems: &mut Problems) -> Option<Glob> {
    let report = |problems: &mut Problems, message: String| {
        problems.error(&entry.key_location, &at.path, message, None);
    };
    let glob = match Glob::new(&entry.key) {
        Ok(glob) => glob,
        Err(bad) => {
            report(problems, bad.to_string());
            return None;
        }
    };
    let overflow = TenantId::overflow();
    match glob.literal().map(|id| TenantId::check(&id).map_err(|bad| (id, bad))) {
        Some(Err((id, BadTenantId::Reserved))) if id == overflow.as_str() => {}
        Some(Err((_, bad))) => {
            report(problems, bad.to_string());
            return None;
        }
        _ => {}
    }
    Some(glob)
}

/// Globs of equal rank that can both match one tenant are told apart by byte order, which nobody means.
fn warn_about_equal_rank(globs: &[(Glob, &Entry, At<'_>, Arc<Block>)], problems: &mut Problems) {
    for (i, (glob, entry, at, _)) in globs.iter().enumerate() {
        let same_rank = |other: &Glob| other.literal_characters() == glob.literal_characters();
        let before = globs[..i].iter().rev().take_while(|(other, ..)| same_rank(other));
        for (other, other_entry, ..) in before {
            if other.overlaps(glob) {
                let message =
                    format!("`{}` and `{}` match some tenants with equal rank", other_entry.key, entry.key);
                let help = format!("`{}` wins by byte order; make one more specific", other_entry.key);
                problems.warning(&entry.key_location, &at.path, message, Some(help));
                break;
            }
        }
    }
}
