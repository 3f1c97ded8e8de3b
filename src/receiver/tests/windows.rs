//! HTTP/2 flow control: a stream that nobody finishes must not hold up its neighbours.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Half of a message of 3 MiB, more than one stream window, on a stream that is left open.
async fn half_a_message(client: &mut Client) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let (response, mut stream) = client.open("POST", path(Signal::Traces), &headers).await.unwrap();
    let mut frame = framed(false, &vec![0; 3 << 20]);
    frame.truncate(2 << 20);
    send(&mut stream, frame, false).await.unwrap();
    (response, stream)
}

async fn a_hundred_small_calls(client: &mut Client) {
    for i in 0..100 {
        let answer = client.grpc(Signal::Logs, &[], framed(false, b"")).await;
        assert_eq!(answer.code(), 0, "call {i}");
    }
}

#[tokio::test]
async fn a_body_that_never_ends_does_not_stall_its_neighbours() {
    let server = start(defaults(), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let _unfinished = half_a_message(&mut client).await;
    a_hundred_small_calls(&mut client).await;
    assert_eq!(server.seen.lock().unwrap().len(), 100);
    server.stop().await;
}

#[tokio::test]
async fn a_blocked_pipeline_does_not_stall_its_neighbours() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let (hang, accept) = (hangs(&waiting), accepts());
    let of_signal: Accept = Arc::new(move |request| match request.signal {
        Signal::Traces => hang(request),
        _ => accept(request),
    });
    let server = start(defaults(), of_signal).await;
    let mut client = server.h2(server.grpc()).await;
    // 60 of 1 MiB are more than all windows together, were they not read.
    let message = framed(false, &vec![0; 1 << 20]);
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let mut blocked = Vec::new();
    for _ in 0..60 {
        let (response, mut stream) = client.open("POST", path(Signal::Traces), &headers).await.unwrap();
        send(&mut stream, message.clone(), true).await.unwrap();
        blocked.push((response, stream));
    }
    eventually("60 calls wait in the pipeline", || waiting.load(Ordering::SeqCst) == 60).await;
    a_hundred_small_calls(&mut client).await;
    drop((blocked, client));
    server.stop().await;
}

#[tokio::test]
async fn refused_bodies_give_their_window_back() {
    let admit: Admit = Arc::new(|arrival| match arrival.signal {
        Signal::Traces => Err(Refusal::ShuttingDown { retry_after: Duration::from_secs(1) }),
        _ => Ok(()),
    });
    let server = start_with(defaults(), admit, accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let message = framed(false, &vec![0; 1 << 20]);
    for _ in 0..40 {
        let answer = client.grpc(Signal::Traces, &[], message.clone()).await;
        assert_eq!(answer.code(), 14);
    }
    a_hundred_small_calls(&mut client).await;
    assert_eq!(server.metrics.grpc.requests_refused.get(), 40);
    server.stop().await;
}

#[tokio::test]
async fn a_message_in_one_frame_is_not_copied_and_one_in_many_is_whole() {
    let server = start(defaults(), accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    for size in [0, 1, 100, 16_379, 16_380, 100_000, 262_139, 262_144, 3_000_000] {
        let message: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let answer = client.grpc(Signal::Traces, &[], framed(false, &message)).await;
        assert_eq!(answer.code(), 0, "{size}");
        assert!(server.request().body == message, "{size}");
    }
    server.stop().await;
}

/// Asks somebody about whoever sends traces, and waits for the answer until the test gives it.
fn asks(answered: &tokio_util::sync::CancellationToken) -> Authenticate {
    let answered = answered.clone();
    Arc::new(move |credentials| {
        let plan = Arc::new(crate::policies::default_plan());
        let caller = Arc::new(crate::authentication::Caller::anonymous(&plan));
        let tenants = crate::tenant::Tenants::new(&Arc::default(), &plan, 10);
        let directory = Arc::new(crate::tenant::Directory::new(plan, &tenants));
        let admitted = crate::pipeline::Admitted { caller, directory };
        match credentials.headers.contains_key("authorization") {
            false => Authentication::Ready(Ok(admitted)),
            true => {
                let answered = answered.clone();
                Authentication::Waiting(Box::pin(async move {
                    answered.cancelled().await;
                    Ok(admitted)
                }))
            }
        }
    })
}

#[tokio::test]
async fn senders_who_are_asked_about_do_not_stall_their_neighbours() {
    let answered = tokio_util::sync::CancellationToken::new();
    let admit: Admit = Arc::new(|_| Ok(()));
    let server = start_asking(defaults(), Some(asks(&answered)), admit, accepts()).await;
    let mut client = server.h2(server.grpc()).await;
    let headers =
        [("content-type", "application/grpc"), ("te", "trailers"), ("authorization", "Bearer unknown")];
    // 100 of 1 MiB are more than the window of the connection holds, were they not read or let go; more
    // than there are places, too.
    let message = framed(false, &vec![0; (1 << 20) - 5]);
    let mut asked = Vec::new();
    for _ in 0..100 {
        let (response, mut stream) = client.open("POST", path(Signal::Traces), &headers).await.unwrap();
        tokio::time::timeout(PATIENCE, send(&mut stream, message.clone(), true))
            .await
            .expect("the body is taken or let go")
            .unwrap();
        asked.push(response);
    }
    let (large, mut stream) = client.open("POST", path(Signal::Traces), &headers).await.unwrap();
    // What the window of the stream takes; nobody will read it.
    let begun = framed(false, &vec![0; 3 << 20]).slice(..1 << 20);
    let sending = send(&mut stream, begun, false);
    tokio::time::timeout(PATIENCE, sending).await.expect("the body is let go").unwrap();
    a_hundred_small_calls(&mut client).await;
    answered.cancel();
    let (mut taken, mut again) = (0, 0);
    for response in asked {
        match read_answer(response).await.unwrap().code() {
            0 => taken += 1,
            14 => again += 1,
            code => panic!("{code}"),
        }
    }
    assert_eq!((taken, again), (64, 36));
    let answer = read_answer(large).await.unwrap();
    assert_eq!((answer.code(), answer.details().retry_after.is_some()), (14, true));
    server.stop().await;
}
