//! WebSockets between two ends that implement RFC 6455 with a library: each end receives what the
//! other sends, by HTTP/1.1 with and without TLS.

use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{accept_hdr_async, client_async};

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::tls::{Authority, tls_address};

/// What the server saw: the header of a handshake, and the code with which a client closed.
#[derive(Debug, PartialEq)]
enum Seen {
    Handshake { path: String, extensions: String },
    Closed(u16, String),
}

/// Echoes what it receives; at `close` it closes with a code of its own.
async fn serve(stream: TcpStream, seen: UnboundedSender<Seen>) {
    let handshakes = seen.clone();
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let agree = move |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let field = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        assert_eq!(field("sec-websocket-protocol"), "chat, superchat");
        let (path, extensions) = (request.uri().to_string(), field("sec-websocket-extensions"));
        handshakes.send(Seen::Handshake { path, extensions }).unwrap();
        response.headers_mut().insert("sec-websocket-protocol", "superchat".parse().unwrap());
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, agree).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Close(Some(frame)) => {
                seen.send(Seen::Closed(frame.code.into(), frame.reason.to_string())).unwrap();
            }
            Message::Text(text) if text.as_str() == "close" => {
                let frame = CloseFrame { code: CloseCode::from(4001), reason: "enough".into() };
                socket.close(Some(frame)).await.unwrap();
            }
            Message::Text(_) | Message::Binary(_) => socket.send(message).await.unwrap(),
            _ => {}
        }
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, goodbye: bool) {
    let mut request = "ws://shop.example/chat?a=b".into_client_request().unwrap();
    let fields = request.headers_mut();
    fields.insert("sec-websocket-protocol", "chat, superchat".parse().unwrap());
    fields.insert("sec-websocket-extensions", "permessage-deflate; client_max_window_bits".parse().unwrap());
    let (mut socket, response) = client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "superchat");
    let large: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
    for message in
        [Message::text("h\u{e9}llo"), Message::binary(vec![0, 255, 10]), Message::binary(large), Message::text("")]
    {
        socket.send(message.clone()).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap() == message, "another message came back");
    }
    socket.send(Message::Ping("are you there?".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("are you there?".into()));
    if goodbye {
        let frame = CloseFrame { code: CloseCode::Away, reason: "good night".into() };
        socket.close(Some(frame)).await.unwrap();
    } else {
        socket.send(Message::text("close")).await.unwrap();
        let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else { panic!("no close") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "enough"));
    }
    // The rest of the closing handshake.
    match socket.next().await {
        None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_conversation_passes_whole_with_and_without_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let (seen, mut receiver) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, seen.clone()));
        }
    });
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]).argument();
    let sidecar = Sidecar::forwarding_with(upstream, &["--tls-listen", "127.0.0.1:0", "--tls-certificates", &pair]);
    let tls = tls_address(&sidecar);
    let plain = {
        let line = sidecar.wait_for_log("\"tls\":false");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        line["address"].as_str().unwrap().to_owned()
    };
    for goodbye in [true, false] {
        for by_tls in [false, true] {
            let conversation = async {
                if by_tls {
                    let connector = TlsConnector::from(Arc::new(authority.client(&["http/1.1"])));
                    let name = ServerName::try_from("shop.example").unwrap();
                    let stream = connector.connect(name, TcpStream::connect(tls).await.unwrap()).await.unwrap();
                    converse(stream, goodbye).await;
                } else {
                    converse(TcpStream::connect(&plain).await.unwrap(), goodbye).await;
                }
            };
            timeout(PATIENCE, conversation).await.expect("in time");
            let (path, extensions) = ("/chat?a=b".into(), "permessage-deflate; client_max_window_bits".into());
            assert_eq!(receiver.recv().await, Some(Seen::Handshake { path, extensions }));
            // The echo of a close frame is a close frame.
            let closed =
                if goodbye { Seen::Closed(1001, "good night".into()) } else { Seen::Closed(4001, "enough".into()) };
            assert_eq!(timeout(PATIENCE, receiver.recv()).await.expect("in time"), Some(closed));
        }
    }
}
