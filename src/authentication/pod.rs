//! Who sends, told by the address it connects from: the pod that has it.
//!
//! The API server knows which pod has which address, and no pod can change that. Not here: finding the pod
//! (`kubernetes::pods`). Invariants: nothing the request carries has a say; an address that is no pod's
//! proves nothing, and is no offence either.

use std::net::IpAddr;

use super::walk::Asked;
use super::{Callers, Key, OF_CERTIFICATE, Proven, Verdict};
use crate::kubernetes::pods::{Found, Known, Pods, Sender};
use crate::policies::PodText;

/// What the places that may name the tenant say.
enum Named {
    /// The first that is there; none of them may be.
    Tenant(Option<String>),
    /// The API server has not told everything that is asked.
    NotYet,
}

pub(super) fn ask(
    callers: &Callers,
    index: usize,
    (pods, places): (&Pods, &[PodText]),
    address: Option<IpAddr>,
) -> Asked {
    let found = match pods.identify(address) {
        Sender::Unknown => return Asked::Absent,
        Sender::ComeBack => return Asked::Unavailable,
        Sender::Pod(found) => found,
    };
    let of_namespace = found.namespace.as_ref().map_or(0, |namespace| namespace.stamp);
    // A stamp is one state of one pod or namespace; the two together are no digest, but as unique.
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&of_namespace.to_be_bytes());
    let key = Key { source: index, stamp: found.pod.stamp, digest };
    let tenant = match named(&found, places) {
        Named::NotYet => return Asked::Unavailable,
        Named::Tenant(tenant) => tenant,
    };
    callers.remembered(key, || {
        let principal = format!("{}/{}", found.pod.namespace, found.pod.name);
        Verdict::Proven(Proven { principal, tenant, lifetime: OF_CERTIFICATE })
    })
}

fn named(found: &Found, places: &[PodText]) -> Named {
    for place in places {
        let known = match (place, &found.namespace) {
            (PodText::Namespace, _) => Known::Value(&found.pod.namespace),
            (PodText::PodLabel(key), _) => found.pod.label(key),
            (PodText::PodAnnotation(key), _) => found.pod.annotation(key),
            (PodText::NamespaceLabel(key), Some(namespace)) => namespace.label(key),
            (PodText::NamespaceAnnotation(key), Some(namespace)) => namespace.annotation(key),
            // Pods and namespaces are told separately: that of a new pod may come a moment later.
            (PodText::NamespaceLabel(_) | PodText::NamespaceAnnotation(_), None) => Known::NotYet,
        };
        match known {
            Known::Value(value) if !value.is_empty() => return Named::Tenant(Some(value.to_owned())),
            Known::Value(_) | Known::Absent => {}
            Known::NotYet => return Named::NotYet,
        }
    }
    Named::Tenant(None)
}
