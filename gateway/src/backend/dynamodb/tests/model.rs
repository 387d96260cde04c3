//! Random operations of several gateways beside a map, with changes made behind their backs.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{At, Server, page};
use crate::backend::conformance::names;
use crate::backend::dynamodb::item::{Path, number, string};
use crate::backend::{Backend, Conditions, NewEntry, Precondition, ReadMany, WriteError};
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Life};
use crate::placement::PhysicalName;

const STEPS: usize = 400;
const KEYS: usize = 5;

fn entry(value: &str) -> NewEntry {
    NewEntry {
        value: value.to_owned().into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    }
}

fn only(precondition: Precondition) -> Conditions {
    Conditions {
        precondition,
        once: None,
    }
}

/// What somebody with the SDK or the console does: a new version of what stands, or an end, or a beginning.
async fn behind_the_back(
    at: &At,
    tenant: &str,
    name: &PhysicalName,
    stands: Option<Etag>,
    value: Option<&str>,
) -> Option<Etag> {
    let (table, client) = (super::TABLE, at.client());
    let sk = string(Path(&super::super::path(name)).current());
    let pk = string(format!("TENANT#{tenant}"));
    let Some(value) = value else {
        let delete = client.delete_item().table_name(table);
        delete.key("pk", pk).key("sk", sk).send().await.unwrap();
        return None;
    };
    let etag = match stands {
        Some(etag) => Etag {
            version: etag.version + 1,
            ..etag
        },
        None => Etag {
            life: Life::begin(crate::clock::Clock::system().now(), None),
            version: 1,
        },
    };
    // Text, as a person would type it, and nothing that only describes it.
    let put = client.put_item().table_name(table).item("pk", pk).item("sk", sk);
    let put = put.item("value", AttributeValue::S(value.to_owned()));
    let put = put
        .item("life", string(etag.life.0.to_string()))
        .item("version", number(etag.version));
    put.send().await.unwrap();
    Some(etag)
}

async fn walk(server: &Server, seed: u64) {
    let at = At::new(server.endpoint()).await;
    at.provision().await;
    let gateways = [at.store(), at.store()];
    let mut random = fastrand::Rng::with_seed(seed);
    let namespace = format!("walk-{seed}");
    let tenants = ["acme", "globex"].map(VerifiedTenant::for_tests);
    let mut model: [BTreeMap<String, (Etag, String)>; 2] = Default::default();
    let mut etags: Vec<Etag> = vec![Etag {
        life: Life::begin(crate::clock::Clock::system().now(), None),
        version: 1,
    }];
    for step in 0..STEPS {
        let context = format!("seed {seed}, step {step}");
        let store = &gateways[random.usize(..2)];
        let whose = random.usize(..2);
        let (tenant, model) = (&tenants[whose], &mut model[whose]);
        let key = format!("k{}", random.usize(..KEYS));
        let [name, _] = names(tenant, &namespace, &format!("t_{key}"));
        let stands = model.get(&key).map(|(etag, _)| *etag);
        let precondition = match random.u8(..4) {
            0 => Precondition::Absent,
            1 => Precondition::Match(stands.unwrap_or(etags[0])),
            2 => Precondition::Match(etags[random.usize(..etags.len())]),
            _ => Precondition::None,
        };
        let holds = match precondition {
            Precondition::Absent => stands.is_none(),
            Precondition::Match(etag) => stands == Some(etag),
            _ => true,
        };
        match random.u8(..8) {
            0..3 => match store.write(tenant, &name, entry(&context), only(precondition)).await {
                Ok(written) => {
                    assert!(holds, "{context}");
                    let follows = stands.map_or(1, |etag| etag.version + 1);
                    assert_eq!(written.etag.version, follows, "{context}");
                    assert!(!etags.contains(&written.etag), "{context}: no two states have one etag");
                    etags.push(written.etag);
                    model.insert(key, (written.etag, context));
                }
                Err(WriteError::PreconditionFailed) => assert!(!holds, "{context}"),
                Err(error) => panic!("{context}: {error}"),
            },
            3 => match store.delete(tenant, &name, false, only(precondition)).await {
                Ok(deleted) => {
                    assert!(holds && deleted == stands.is_some(), "{context}");
                    model.remove(&key);
                }
                Err(WriteError::PreconditionFailed) => assert!(!holds, "{context}"),
                Err(error) => panic!("{context}: {error}"),
            },
            4 => {
                let value = random.bool().then_some(context.as_str());
                let etag = behind_the_back(&at, tenant.id().as_str(), &name, stands, value).await;
                etags.extend(etag);
                match etag {
                    Some(etag) => _ = model.insert(key, (etag, context)),
                    None => _ = model.remove(&key),
                }
            }
            5 => {
                let found = store.read(tenant, &name).await.unwrap();
                let found = found.map(|found| (found.etag, String::from_utf8(found.value.to_vec()).unwrap()));
                assert_eq!(found.as_ref(), model.get(&key), "{context}");
            }
            6 => {
                let all: Vec<_> = (0..KEYS)
                    .map(|i| names(tenant, &namespace, &format!("t_k{i}"))[0].clone())
                    .collect();
                let found = store.read_many(tenant, &all.iter().collect::<Vec<_>>(), 1 << 20).await;
                for (i, found) in found.into_iter().enumerate() {
                    let found = match found.unwrap() {
                        ReadMany::Found(found) => Some(found.etag),
                        ReadMany::Nothing => None,
                        ReadMany::Unread => panic!("{context}: there was room"),
                    };
                    assert_eq!(found, model.get(&format!("k{i}")).map(|(etag, _)| *etag), "{context}");
                }
            }
            _ => {
                let listed = store.list(tenant, page(&name, 100)).await.unwrap().entries;
                let listed = listed.into_iter().map(|(name, entry)| {
                    (
                        name.to_string(),
                        (entry.etag, String::from_utf8(entry.value.to_vec()).unwrap()),
                    )
                });
                assert_eq!(listed.collect::<BTreeMap<_, _>>(), *model, "{context}");
                if let Some(stands) = stands {
                    let past = store.history(tenant, &name, "", 1, 1 << 20).await.unwrap();
                    assert_eq!(past.entries[0].etag, stands, "{context}: what stands comes first");
                }
            }
        }
    }
}

#[tokio::test]
async fn two_gateways_and_somebody_else_agree_with_a_map() {
    for server in Server::both() {
        walk(&server, 1).await;
        walk(&server, fastrand::u64(..)).await;
    }
}

/// Of writers on two gateways none overwrites what it has not seen.
#[tokio::test]
async fn two_gateways_count_together() {
    for server in Server::both() {
        let at = At::new(server.endpoint()).await;
        at.provision().await;
        let acme = VerifiedTenant::for_tests("acme");
        let [counted, _] = names(&acme, "ns", "t_counted");
        let [written, _] = names(&acme, "ns", "t_written");
        let gateways = [Arc::new(at.store()), Arc::new(at.store())];
        let first = gateways[0]
            .write(&acme, &counted, entry("0"), Conditions::default())
            .await;
        first.unwrap();
        let writers: Vec<_> = (0..8)
            .map(|i| {
                let (store, acme) = (Arc::clone(&gateways[i % 2]), acme.clone());
                let (counted, written) = (counted.clone(), written.clone());
                tokio::spawn(async move {
                    for _ in 0..5 {
                        loop {
                            let stands = store.read(&acme, &counted).await.unwrap().unwrap();
                            let count: u32 = String::from_utf8(stands.value.to_vec()).unwrap().parse().unwrap();
                            let more = entry(&(count + 1).to_string());
                            match store
                                .write(&acme, &counted, more, only(Precondition::Match(stands.etag)))
                                .await
                            {
                                Ok(_) => break,
                                Err(WriteError::PreconditionFailed) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                        // Without a precondition each write is done, and follows another.
                        store
                            .write(&acme, &written, entry("x"), Conditions::default())
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(gateways[0].read(&acme, &counted).await.unwrap().unwrap().value, "40");
        let past = gateways[1]
            .history(&acme, &written, "", 100, 1 << 20)
            .await
            .unwrap()
            .entries;
        let versions: Vec<u64> = past.iter().map(|state| state.etag.version).collect();
        assert_eq!(versions, (1..=40).rev().collect::<Vec<_>>());
    }
}
