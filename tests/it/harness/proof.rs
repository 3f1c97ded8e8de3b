//! Proofs of identity: a client with a certificate, an issuer of tokens, an API server that reviews them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};

use super::certificates::Pair;

/// A TLS connection to `localhost` at an address, with a client's certificate; none if there is no handshake.
pub async fn secured(
    address: &str,
    (authorities, own): (&str, Option<&Pair>),
) -> Option<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()
}

/// POSTs a protobuf body to `/v1/traces` over TLS with a client's certificate; none if there is no handshake.
pub async fn post_with(
    address: &str,
    proof: (&str, Option<&Pair>),
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Option<u16> {
    let stream = secured(address, proof).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post("/v1/traces").header("host", "localhost");
    request = request.header("content-type", "application/x-protobuf");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.ok();
    connection.abort();
    Some(answer?.status().as_u16())
}

/// A signing key.
pub struct Signer {
    id: String,
    key: EncodingKey,
}

impl Signer {
    pub fn new(id: &str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Self { id: id.to_owned(), key: EncodingKey::from_ec_der(&pair.serialize_der()) }
    }

    fn jwk(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        jwk
    }

    /// A token for `https://issuer.example` and `tollgate`, with some claims changed.
    pub fn token(&self, change: Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims(change), &self.key).unwrap()
    }

    /// The same without a signature.
    pub fn unsigned(&self, change: Value) -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(json!({ "alg": "none", "kid": self.id })), part(claims(change)))
    }
}

fn claims(change: Value) -> Value {
    let mut claims = json!({
        "iss": "https://issuer.example",
        "aud": "tollgate",
        "sub": "agent",
        "exp": jsonwebtoken::get_current_timestamp() + 3600,
    });
    for (key, value) in change.as_object().unwrap() {
        claims[key] = value.clone();
    }
    claims
}

/// Serves a set of keys and reviews tokens; it ends with the test.
#[derive(Clone)]
pub struct Keeper {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    keys: Mutex<Vec<Jwk>>,
    /// Audiences of every token that is reviewed; none: the API server is broken.
    audiences: Mutex<Option<Vec<String>>>,
    asked: AtomicUsize,
    own_tokens: Mutex<Vec<String>>,
}

impl Keeper {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keeper = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = keeper.state.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = state.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(state.clone(), request));
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        keeper
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on these are the keys.
    pub fn publish(&self, signers: &[&Signer]) {
        *self.state.keys.lock().unwrap() = signers.iter().map(|signer| signer.jwk()).collect();
    }

    /// From now on tokens are good for these audiences; none: reviews fail.
    pub fn review_for(&self, audiences: Option<&[&str]>) {
        let audiences = audiences.map(|all| all.iter().map(|&one| one.to_owned()).collect());
        *self.state.audiences.lock().unwrap() = audiences;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// What those who asked for reviews presented themselves.
    pub fn own_tokens(&self) -> Vec<String> {
        self.state.own_tokens.lock().unwrap().clone()
    }
}

async fn answer(
    state: Arc<State>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    state.asked.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let json = match head.uri.path() {
        "/jwks" => Some(json!({ "keys": *state.keys.lock().unwrap() })),
        "/apis/authentication.k8s.io/v1/tokenreviews" => {
            let own = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            state.own_tokens.lock().unwrap().extend(own);
            // Long enough for requests at the same time to find the review under way.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let review: Value = serde_json::from_slice(&body).unwrap();
            let audiences = state.audiences.lock().unwrap().clone();
            audiences.map(|audiences| json!({ "status": status(&review, &audiences) }))
        }
        _ => None,
    };
    let (status, text) = json.map_or((500, String::new()), |json| (200, json.to_string()));
    Ok(http::Response::builder().status(status).body(Full::new(Bytes::from(text))).unwrap())
}

/// The review of a token whose claims name its account.
fn status(review: &Value, audiences: &[String]) -> Value {
    let token = review["spec"]["token"].as_str().unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let asked = review["spec"]["audiences"].as_array().unwrap();
    let common: Vec<_> =
        asked.iter().filter(|one| audiences.iter().any(|own| *one == own.as_str())).collect();
    match common.is_empty() {
        true => json!({ "authenticated": false, "error": "not for this audience" }),
        false => json!({
            "authenticated": true, "audiences": common, "user": { "username": claims["sub"] },
        }),
    }
}
