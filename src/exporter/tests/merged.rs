//! What is merged: whose data goes together, and what a refusal of it costs.

use super::*;

/// A span export request of one span that cannot be mistaken for others.
fn request(name: &str) -> Bytes {
    let text = |field: u8, bytes: &[u8]| [&[field, bytes.len() as u8], bytes].concat();
    text(0x0a, &text(0x12, &text(0x12, &text(0x2a, name.as_bytes())))).into()
}

fn contains(seen: &fake::Seen, name: &str) -> bool {
    seen.body.windows(name.len()).any(|part| part == name.as_bytes())
}

/// A world in which everything that is put at once is merged.
fn merging(fake: &Fake) -> World {
    let batch = json!({"min_size": 100_000, "flush_timeout": "50ms"});
    World::grpc(fake, json!({"sending_queue": {"batch": batch}}))
}

#[tokio::test]
async fn only_what_the_destination_refuses_of_a_merged_request_is_dropped() {
    let bad = |seen: &fake::Seen| ["n017;", "n500;", "n999;"].iter().any(|name| contains(seen, name));
    let fake = Fake::judging(move |seen| Reply::grpc(if bad(seen) { 3 } else { 0 })).await;
    let world = merging(&fake);
    world.put((0..1000).map(|n| world.batch(1, request(&format!("n{n:03};")))).collect());
    world.empty().await;
    assert_eq!((world.books().sent, world.dropped(DroppedReason::Permanent)), (997, 3));
    assert_eq!(world.metrics.send_failed[Signal::Traces].get(), 3);
    let requests = fake.seen().len();
    assert!(requests <= 1 + 2 * 32, "{requests} requests");
    world.end().await;
}

#[tokio::test]
async fn a_destination_that_refuses_everything_gets_a_bounded_number_of_requests() {
    for (code, most) in [(3, 1 + 2 * 32), (7, 1), (12, 1), (16, 1)] {
        let fake = Fake::start(move |_| Reply::grpc(code)).await;
        let world = merging(&fake);
        world.put((0..1000).map(|_| world.batch(1, REQUEST)).collect());
        world.empty().await;
        assert_eq!(world.dropped(DroppedReason::Permanent), 1000);
        assert_eq!(fake.seen().len(), most, "{code}");
        world.end().await;
    }
}

#[tokio::test]
async fn headers_name_the_tenant_whose_data_is_sent() {
    let names = json!({"tenant_headers": ["X-Scope-OrgID", "x-tenant"]});
    for is_grpc in [true, false] {
        let fake = Fake::start(move |_| if is_grpc { Reply::ok() } else { Reply::http(200) }).await;
        let world =
            if is_grpc { World::grpc(&fake, names.clone()) } else { World::http(&fake, names.clone()) };
        let of = |tenant: &str| {
            world.account.signal(Signal::Traces).add_received(1);
            let id = TenantId::new(tenant).unwrap();
            Batch::new(Signal::Traces, id, world.account.clone(), (1, request(tenant)))
        };
        world.put((0..40).map(|n| of(["acme", "a!-_.*'()z"][n % 2])).collect());
        world.empty().await;
        for seen in &fake.seen() {
            let tenant = seen.header("x-scope-orgid");
            assert_eq!(tenant, seen.header("x-tenant"));
            let other = if tenant == "acme" { "a!-_.*'()z" } else { "acme" };
            assert!(contains(seen, tenant) && !contains(seen, other), "{tenant}");
        }
        assert_eq!(world.end().await.sent, 40);
    }
}
