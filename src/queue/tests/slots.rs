//! Leases of one tenant, slots nobody gets beyond, and how requests are counted.

use super::*;
use crate::flow::{Flow, Share};
use crate::outcome::RefusedReason;

fn flow(label: &str, share: Share) -> Flow {
    Flow::new(TenantId::new(label).unwrap(), share)
}

impl World {
    fn of(&self, tenant: &str, flow: &Flow) -> Batch {
        self.account.signal(Signal::Logs).add_received(1);
        let data = (1, Bytes::from(vec![0; 10]));
        let tenant = TenantId::new(tenant).unwrap();
        Batch::new(Signal::Logs, tenant, self.account.clone(), data).in_flow(flow.clone())
    }
}

fn tenants(lease: &Lease) -> Vec<String> {
    lease.batches().map(|batch| batch.tenant().to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_one_tenant_has_all_of_it_that_waits_and_nothing_of_others() {
    let wanted = Wanted { merging: Merging::Tenant, ..Wanted::up_to(MIB) };
    let world = World::new(Sizer::Items, 100, wanted);
    let (own, shared) = (flow("own", Share::WHOLE), flow("shared", Share::WHOLE));
    for (tenant, flow) in
        [("a", &own), ("b", &shared), ("a", &own), ("c", &shared), ("c", &shared), ("b", &shared)]
    {
        world.put(world.of(tenant, flow)).unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let lease = world.queue.lease().await.unwrap();
        seen.push(tenants(&lease).join(""));
        end(lease);
    }
    seen.sort();
    assert_eq!(seen, ["aa", "b", "b", "cc"], "tenants that share a line are told apart as well");
    assert_eq!((world.queue.items(), world.books(Signal::Logs).sent), (0, 6));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_never_has_more_leases_than_it_may_and_holds_up_nobody() {
    let world = World::new(Sizer::Items, 1000, Wanted { merging: Merging::Nothing, ..Wanted::up_to(MIB) });
    let two_at_a_time = Share { export_in_flight: 2, ..Share::WHOLE };
    let (held, free) = (flow("held", two_at_a_time), flow("free", Share::WHOLE));
    (0..5).for_each(|_| world.put(world.of("held", &held)).unwrap());
    let mut leases = vec![world.queue.lease().await.unwrap(), world.queue.lease().await.unwrap()];
    let soon = |n| tokio::time::timeout(seconds(n), world.queue.lease());
    assert!(soon(1).await.is_err(), "two are under way, and nobody else waits");
    world.put(world.of("free", &free)).unwrap();
    assert_eq!(tenants(&soon(1).await.unwrap().unwrap()), ["free"]);
    end(leases.remove(0));
    leases.push(soon(1).await.unwrap().unwrap());
    // What came back of `free` is leased again; of `held` two are under way.
    let again = soon(1).await.unwrap().unwrap();
    assert_eq!((tenants(&leases[1]), tenants(&again)), (vec!["held".to_owned()], vec!["free".to_owned()]));
    end(again);
    world.queue.close();
    let draining = async {
        let mut count = 0;
        while let Some(lease) = world.queue.lease().await {
            end(lease);
            count += 1;
        }
        count
    };
    let ending = async {
        tokio::time::sleep(seconds(1)).await;
        leases.into_iter().for_each(end);
        0
    };
    let ended = tokio::time::timeout(seconds(60), async { tokio::join!(draining, ending) }).await;
    assert_eq!(ended.unwrap(), (2, 0), "who waited for a slot is told when the queue is empty");
    assert_eq!(world.books(Signal::Logs).sent, 6);
}

#[tokio::test(start_paused = true)]
async fn a_share_that_changes_frees_those_who_were_held() {
    let world = World::new(Sizer::Items, 1000, Wanted { merging: Merging::Nothing, ..Wanted::up_to(MIB) });
    let board = Arc::new(Board::default());
    world.queue.follow(&board);
    let held = flow("held", Share { export_in_flight: 1, ..Share::WHOLE });
    (0..3).for_each(|_| world.put(world.of("held", &held)).unwrap());
    let first = world.queue.lease().await.unwrap();
    assert!(tokio::time::timeout(seconds(1), world.queue.lease()).await.is_err());
    held.set_share(Share::WHOLE);
    board.publish(0);
    let second = tokio::time::timeout(seconds(1), world.queue.lease()).await.unwrap().unwrap();
    [first, second].into_iter().for_each(end);
    world.queue.take_all().for_each(|(batch, _)| batch.sent(0));
}

#[tokio::test(start_paused = true)]
async fn a_request_of_many_tenants_counts_as_one_request() {
    let world = World::new(Sizer::Requests, 2, Wanted::up_to(MIB));
    let request = |tenants: usize| -> Vec<Batch> {
        let share = Share::DEFAULT;
        let batch = |n: usize| world.of("t", &flow(&format!("t{n}"), share));
        let join = |n: usize| if n == 0 { batch(n) } else { batch(n).joins_request() };
        (0..tenants).map(join).collect()
    };
    for tenants in [1500, 3] {
        let batches = request(tenants);
        world.queue.reserve(&batches).unwrap().commit(batches);
    }
    assert_eq!((world.queue.size(), world.queue.items()), (2, 1503));
    let third = request(1);
    assert!(!world.queue.reserve(&third).unwrap_err().never_fits);
    third.into_iter().for_each(|batch| batch.refused(RefusedReason::QueueFull));
    let mut leased = 0;
    while world.queue.items() > 0 {
        let lease = world.queue.lease().await.unwrap();
        leased += lease.count();
        end(lease);
    }
    assert_eq!((leased, world.queue.size(), world.queue.bytes()), (1503, 0, 0));
    world.books(Signal::Logs);
}

#[tokio::test(start_paused = true)]
async fn pieces_of_a_lease_end_on_their_own_and_the_rest_goes_back_in_order() {
    let world = World::new(Sizer::Items, 100, Wanted::up_to(MIB));
    (1..=8).for_each(|items| world.put(world.logs(items)).unwrap());
    let mut pieces = Pieces::new(world.queue.lease().await.unwrap());
    pieces.halve();
    pieces.halve();
    let first = pieces.take_oldest().unwrap();
    assert_eq!((items_of(&first), first.size().items), (vec![1, 2], 3));
    end(first);
    let second = pieces.oldest().unwrap();
    assert_eq!((items_of(second), second.size().items), (vec![3, 4], 7));
    assert_eq!((world.queue.size(), world.queue.bytes()), (33, 60));
    drop(pieces);
    let lease = world.queue.lease().await.unwrap();
    assert_eq!((items_of(&lease), lease.size().items), ((3..=8).collect(), 33), "back in their order");
    end(lease);
    assert_eq!(world.queue.size(), 0);
    world.books(Signal::Logs);
}

/// With a part of them still out, somebody else would lease what is younger than that part.
#[test]
fn pieces_go_back_all_at_once() {
    let wanted = Wanted { sizer: Sizer::Items, max: 20, ..Wanted::up_to(MIB) };
    let world = World::new(Sizer::Items, 1000, wanted);
    (0..100).for_each(|_| world.put(world.logs(1)).unwrap());
    let lease = || match world.queue.next(None) {
        crate::queue::Next::Taken(load) => Some(Lease::new(world.queue.clone(), load)),
        _ => None,
    };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..5000 {
                let mut pieces = Pieces::new(lease().unwrap());
                (0..3).for_each(|_| pieces.halve());
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            let lease = lease().unwrap();
            let sequences: Vec<u64> = lease.sequences().collect();
            let all = sequences[0]..sequences[0] + 20;
            assert!(all.start % 20 == 0 && sequences.iter().copied().eq(all), "{sequences:?}");
        }
    });
    world.queue.take_all().for_each(|(batch, _)| batch.sent(0));
}

#[tokio::test(start_paused = true)]
async fn of_what_only_the_disk_has_nobody_waits_for_more() {
    let wanted = Wanted { sizer: Sizer::Items, min: 1000, flush_timeout: seconds(60), ..Wanted::up_to(MIB) };
    let world = World::new(Sizer::Items, 1000, wanted);
    let start = Instant::now();
    (0..3).for_each(|n| super::model::put_down(&world, world.logs(1), n).unwrap());
    let lease = world.queue.lease().await.unwrap();
    assert_eq!((items_of(&lease), start.elapsed()), (vec![1, 1, 1], Duration::ZERO));
    end(lease);
    super::model::put_down(&world, world.logs(2), 3).unwrap();
    let lease = world.queue.lease().await.unwrap();
    assert_eq!((items_of(&lease), start.elapsed()), (vec![2], seconds(60)), "a single one is not packed");
    end(lease);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_is_told_whoever_was_served_meanwhile() {
    let wanted = Wanted { merging: Merging::Nothing, ..Wanted::up_to(MIB) };
    let world = World::new(Sizer::Items, 1000, wanted);
    let held = flow("held", Share { export_in_flight: 1, ..Share::WHOLE });
    let quick = flow("quick", Share::WHOLE);
    tokio::time::advance(seconds(200)).await;
    for (name, flow, ago) in [("held", &held, 100), ("quick", &quick, 50)] {
        for n in 0..5 {
            let batch = world.of(name, flow).received(seconds(ago));
            super::model::put_down(&world, batch, n).unwrap();
        }
    }
    let first = world.queue.lease().await.unwrap();
    assert_eq!(first.tenant().as_str(), "held");
    for _ in 0..3 {
        let lease = world.queue.lease().await.unwrap();
        assert_eq!(lease.tenant().as_str(), "quick");
        end(lease);
    }
    end(first);
    assert_eq!(world.queue.oldest_age(), seconds(100));
    while world.queue.items() > 0 {
        end(world.queue.lease().await.unwrap());
    }
    assert_eq!(world.queue.oldest_age(), Duration::ZERO);
}
