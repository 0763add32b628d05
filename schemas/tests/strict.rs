//! What a body may not hold: no message, record or request takes a field that it does not know,
//! at any depth (IAM-06, ZT-04). A field that a reader drops is a field that a sender can lie in.

#![allow(clippy::unwrap_used, reason = "tests")]

mod samples;

use hotcell_schemas::{Message, Role, envelope::OpenError};
use samples::{See, rest::Look};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::fmt;

/// Every value that has one map of `value` with one more field.
fn with_one_more_field(value: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    match value {
        Value::Object(map) => {
            let mut more = map.clone();
            more.insert("zz_unknown".to_owned(), Value::from(1));
            out.push(Value::Object(more));
            for (name, inner) in map {
                for changed in with_one_more_field(inner) {
                    let mut map: Map<_, _> = map.clone();
                    map.insert(name.clone(), changed);
                    out.push(Value::Object(map));
                }
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                for changed in with_one_more_field(inner) {
                    let mut items = items.clone();
                    *items.get_mut(index).unwrap() = changed;
                    out.push(Value::Array(items));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    out
}

fn signer_of(row: &str, reply: bool) -> Role {
    let route = samples::subject(row).route();
    *if reply { route.consumers } else { route.publishers }.first().unwrap()
}

/// Opens every sample with one more field somewhere, correctly signed, and with a byte behind it.
#[derive(Default)]
struct Strict {
    maps: usize,
}

impl See for Strict {
    fn see<T: Message + PartialEq + fmt::Debug>(&mut self, case: &str, row: &str, value: &T) {
        let reply = samples::is_reply::<T>();
        let key = samples::key(signer_of(row, reply));
        let sealed = samples::seal(row, value);
        let open = |body: &[u8]| samples::open::<T>(&samples::resigned(&sealed, body, &key, reply));
        let body: Value = rmp_serde::from_slice(&sealed.body).unwrap();
        let same = rmp_serde::to_vec_named(&body).unwrap();
        assert_eq!(open(&same).as_ref(), Ok(value), "{} {case}: order is free", T::TYPE);
        for changed in with_one_more_field(&body) {
            let bytes = rmp_serde::to_vec_named(&changed).unwrap();
            let result = open(&bytes);
            assert_eq!(result, Err(OpenError::Malformed), "{} {case}: {changed}", T::TYPE);
            self.maps += 1;
        }
        let longer = [sealed.body.as_slice(), &[0xc0]].concat();
        assert_eq!(open(&longer), Err(OpenError::Malformed), "{} {case}: trailing", T::TYPE);
        let (cut, _) = sealed.body.split_at(sealed.body.len() - 1);
        assert_eq!(open(cut), Err(OpenError::Malformed), "{} {case}: cut", T::TYPE);
    }
}

#[test]
fn zt_04_messages_refuse_unknown_fields_at_every_depth() {
    let mut strict = Strict::default();
    samples::each(&mut strict);
    assert!(strict.maps > 500, "only {} maps were tried", strict.maps);
}

struct StrictJson;

impl Look for StrictJson {
    fn look<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(
        &mut self,
        name: &str,
        value: &T,
    ) {
        let json = serde_json::to_value(value).unwrap();
        assert_eq!(&serde_json::from_value::<T>(json.clone()).unwrap(), value, "{name}");
        for changed in with_one_more_field(&json) {
            let text = changed.to_string();
            assert!(serde_json::from_str::<T>(&text).is_err(), "{name} in JSON: {text}");
            let bytes = rmp_serde::to_vec_named(&changed).unwrap();
            assert!(rmp_serde::from_slice::<T>(&bytes).is_err(), "{name} in MessagePack: {text}");
        }
    }
}

#[test]
fn iam_06_http_bodies_refuse_unknown_fields_at_every_depth() {
    samples::rest::http(&mut StrictJson);
}

#[test]
fn records_at_rest_refuse_unknown_fields_at_every_depth() {
    samples::rest::at_rest(&mut StrictJson);
}

/// The version and the type are inside the signature, and another of either is refused.
struct OtherFrame;

impl See for OtherFrame {
    fn see<T: Message + PartialEq + fmt::Debug>(&mut self, case: &str, row: &str, value: &T) {
        let reply = samples::is_reply::<T>();
        let key = samples::key(signer_of(row, reply));
        let sealed = samples::seal(row, value);
        for (field, other) in [("v", Value::from(T::VERSION + 1)), ("type", Value::from("other"))] {
            let mut body: Value = rmp_serde::from_slice(&sealed.body).unwrap();
            body.as_object_mut().unwrap().insert(field.to_owned(), other);
            let bytes = rmp_serde::to_vec_named(&body).unwrap();
            let result = samples::open::<T>(&samples::resigned(&sealed, &bytes, &key, reply));
            assert_eq!(result, Err(OpenError::WrongType), "{} {case} {field}", T::TYPE);
        }
    }
}

#[test]
fn another_version_or_type_is_refused() {
    samples::each(&mut OtherFrame);
}
