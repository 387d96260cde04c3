//! Several gateways on one table, and somebody else.

use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{At, Server};
use crate::backend::conformance::names;
use crate::backend::conformance::walk::{Behind, agrees_with_a_map};
use crate::backend::dynamodb::item::{Path, number, string};
use crate::backend::{Backend, Conditions, NewEntry, Precondition, WriteError};
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Life};
use crate::placement::PhysicalName;

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

impl Behind for At {
    async fn change(&self, tenant: &VerifiedTenant, name: &PhysicalName, stands: Option<Etag>, value: Option<&str>) {
        let (table, client) = (super::TABLE, self.client());
        let sk = string(Path(&super::super::path(name)).current());
        let pk = string(format!("TENANT#{}", tenant.id()));
        let Some(value) = value else {
            let delete = client.delete_item().table_name(table);
            delete.key("pk", pk).key("sk", sk).send().await.unwrap();
            return;
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
    }
}

#[tokio::test]
async fn two_gateways_and_somebody_else_agree_with_a_map() {
    for server in Server::both() {
        let at = At::new(server.endpoint()).await;
        at.provision().await;
        for seed in [1, fastrand::u64(..)] {
            agrees_with_a_map([Arc::new(at.store()), Arc::new(at.store())], &at, seed, 400).await;
        }
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
