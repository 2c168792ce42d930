//! etcd's JSON: what is asked, and what of the answers is looked at. Bytes are in base64, numbers
//! of 64 bits are texts, and what is 0 or empty is left out. (etcd's api/etcdserverpb/rpc.proto, by
//! the rules of proto3's JSON.)

use super::Fault;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};
use std::io;

/// What comes with every answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Of all that etcd has.
    #[serde(deserialize_with = "number")]
    pub revision: u64,
}

/// A key, as far as it is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    /// When it was made; 0 for none.
    #[serde(deserialize_with = "number")]
    pub create_revision: u64,
    /// When it was written last.
    #[serde(deserialize_with = "number")]
    pub mod_revision: u64,
    /// The lease with which it ends; 0: none.
    #[serde(deserialize_with = "number")]
    pub lease: u64,
    /// What it has.
    #[serde(deserialize_with = "bytes")]
    pub value: Vec<u8>,
}

impl KeyValue {
    /// What it has, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }
}

/// The answer to a look at keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Range {
    pub header: Header,
    pub kvs: Vec<KeyValue>,
}

/// The answer to a transaction.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Txn {
    pub header: Header,
    pub succeeded: bool,
    responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: Option<Range>,
}

impl Txn {
    /// The two keys that were looked at, because it has not succeeded.
    pub fn looked(self) -> (Option<KeyValue>, Option<KeyValue>) {
        let first = |response: Response| response.response_range?.kvs.into_iter().next();
        let mut looked = self.responses.into_iter().map(first);
        (looked.next().flatten(), looked.next().flatten())
    }
}

/// A lease that was granted or renewed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    /// Which.
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: u64,
    /// In seconds; 0: it has ended.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: u64,
}

/// A line of an answer that goes on.
#[derive(Debug, Default, Deserialize)]
pub struct Streamed<T> {
    pub result: T,
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Within a transaction: look at a key.
pub fn range(key: &str) -> Value {
    json!({ "request_range": { "key": key } })
}

/// Within a transaction: write a key, which ends with the lease.
pub fn put(key: &str, value: &[u8], lease: Option<u64>) -> Value {
    let lease = lease.unwrap_or(0).to_string();
    json!({ "request_put": { "key": key, "value": base64(value), "lease": lease } })
}

/// Whether the key was made at this revision; 0: it is not there.
pub fn created(key: &str, revision: u64) -> Value {
    json!({ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": revision.to_string() })
}

/// Whether the key was written last at this revision; 0: it is not there.
pub fn modified(key: &str, revision: u64) -> Value {
    json!({ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string() })
}

/// Of an answer that is no success.
pub fn refusal(status: u16, body: &[u8]) -> Fault {
    #[derive(Deserialize)]
    struct Told {
        code: u32,
        message: String,
    }
    match serde_json::from_slice(body) {
        Ok(Told { code, message }) => Fault::Refused(code, message),
        Err(_) => Fault::Silent(io::Error::other(format!("it answers with the status {status}, as etcd does not"))),
    }
}

/// The first two numbers of etcd's version.
pub fn version(body: &[u8]) -> Option<(u32, u32)> {
    #[derive(Deserialize)]
    struct Told {
        etcdserver: String,
    }
    let told: Told = serde_json::from_slice(body).ok()?;
    let mut numbers = told.etcdserver.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn number<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    let text = String::deserialize(input)?;
    text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")))
}

fn bytes<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(input)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.5.30 has told it.
    #[test]
    fn answers_are_read() {
        let failed = br#"{"header":{"cluster_id":"14841639068965178418", "revision":"2", "raft_term":"2"}, "responses":[
            {"response_range":{"header":{"revision":"2"}, "kvs":[{"key":"Zm9v", "create_revision":"2", "mod_revision":"3",
            "version":"1", "value":"YmFy", "lease":"7587899217157497861"}], "count":"1"}},
            {"response_range":{"header":{"revision":"2"}}}]}"#;
        let txn: Txn = serde_json::from_slice(failed).expect("it is etcd's");
        assert!(!txn.succeeded && txn.header.revision == 2);
        let (Some(leader), None) = txn.looked() else { panic!("the first key is there, and not the second") };
        assert_eq!((leader.create_revision, leader.mod_revision, leader.text()), (2, 3, "bar".into()));
        assert_eq!(leader.lease, 7_587_899_217_157_497_861);
        let ended = br#"{"result":{"header":{"revision":"2"},"ID":"77"}}"#;
        let ended: Streamed<Lease> = serde_json::from_slice(ended).expect("it is etcd's");
        assert_eq!((ended.result.id, ended.result.ttl), (77, 0));
        assert_eq!(version(br#"{"etcdserver":"3.5.30","etcdcluster":"3.5.0"}"#), Some((3, 5)));
        assert_eq!(version(b"{}"), None);
        let gone = refusal(404, br#"{"code":5, "message":"etcdserver: requested lease not found"}"#);
        assert!(matches!(gone, Fault::Refused(5, words) if words.ends_with("not found")));
        assert!(matches!(refusal(502, b"<html>"), Fault::Silent(_)));
        assert!(serde_json::from_str::<Range>(r#"{"kvs":[{"mod_revision":"x"}]}"#).is_err());
    }
}
