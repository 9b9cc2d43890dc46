//! Clients that read slowly, or not at all.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use super::*;

/// The service on a socket.
async fn listen(server: &Server) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = server.app.clone();
    tokio::spawn(async move {
        let (never, none) = (std::future::pending(), std::future::pending());
        crate::connections::accept(listener, &app, never, none, || ()).await
    });
    address
}

/// Asks often enough on one connection that the answers fit into no buffer of the system, then reads with `pause` between pieces; whether all came.
fn read_all(address: SocketAddr, pause: Duration) -> bool {
    const TIMES: usize = 1200;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let ask = "GET /assets/style.css HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(ask.repeat(TIMES).as_bytes()).unwrap();
    std::thread::sleep(pause);
    let (mut heads, mut seen, mut piece) = (0, Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(n) => seen.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return false,
            Err(e) => panic!("{e}"),
        }
        // a head may be cut in two by the end of a piece
        let ends = |seen: &[u8]| seen.windows(15).filter(|w| w == b"HTTP/1.1 200 OK").count();
        heads += ends(&seen);
        if heads == TIMES {
            return true;
        }
        seen.drain(..seen.len().saturating_sub(14));
    }
}

#[test]
fn an_answer_that_nobody_takes_ends_its_connection() {
    run(async {
        let limits = Limits {
            answer_time: Duration::from_secs(1),
            connections: 2,
            ..Limits::default()
        };
        let server = Server::new(limits, 0);
        let address = listen(&server).await;
        let read = |pause| tokio::task::spawn_blocking(move || read_all(address, pause));
        assert!(read(Duration::ZERO).await.unwrap(), "who reads gets everything");
        // more of them than there are places, and yet all have their turn
        let idle: Vec<_> = (0..3).map(|_| read(Duration::from_secs(5))).collect();
        for one in idle {
            assert!(!one.await.unwrap(), "a connection outlived the patience with it");
        }
        assert!(read(Duration::ZERO).await.unwrap());
    });
}

#[test]
fn large_answers_that_are_not_taken_have_a_limit_together() {
    run(async {
        let limits = Limits {
            answers: 400 << 10,
            ..Limits::default()
        };
        let server = Server::new(limits, 0);
        let ask = || {
            let body = json!({ "input": vec!["a dog"; 2000] }).to_string();
            let request = Request::post("/v1/embeddings").header(header::CONTENT_TYPE, "application/json");
            server.router.clone().oneshot(request.body(Body::from(body)).unwrap())
        };
        let mut taken = Vec::new();
        let refused = loop {
            let answer = ask().await.unwrap();
            if answer.status() != StatusCode::OK {
                break answer;
            }
            taken.push(answer);
            assert!(taken.len() < 20, "answers are not counted");
        };
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.headers().contains_key(header::RETRY_AFTER) && !taken.is_empty());
        // small ones are not affected
        server.post("/v1/embeddings", &json!({ "input": "a" })).await.good();
        for answer in taken {
            let length = answer.headers().get(header::CONTENT_LENGTH).cloned();
            let size = axum::body::HttpBody::size_hint(answer.body()).exact().unwrap();
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(bytes.len() as u64, size);
            assert!(length.is_none_or(|length| length == size.to_string().as_str()));
            let rows = serde_json::from_slice::<Value>(&bytes).unwrap()["data"]
                .as_array()
                .map(Vec::len);
            assert_eq!(rows, Some(2000));
        }
        assert_eq!(server.app.answers.available_permits(), 400);
        assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
    });
}
