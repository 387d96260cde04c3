//! Random operations of two gateways beside a map, with changes made behind their backs.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;

use super::{entry, names, only, page, tenant};
use crate::backend::{Backend, Deleted, Precondition, ReadMany, WriteError};
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Life};
use crate::placement::PhysicalName;

const KEYS: usize = 5;

/// What somebody with the SDK or the console does to a key that stands so, or does not: a new value, or none any more.
pub(crate) trait Behind {
    /// Another program's write.
    async fn change(&self, tenant: &VerifiedTenant, name: &PhysicalName, stands: Option<Etag>, value: Option<&str>);
}

/// Walks so many steps of this seed.
#[allow(clippy::too_many_lines, reason = "one arm a kind of step")]
pub(crate) async fn agrees_with_a_map(gateways: [Arc<dyn Backend>; 2], behind: &impl Behind, seed: u64, steps: usize) {
    let can = gateways[0].capabilities().clone();
    let mut random = Rng::with_seed(seed);
    let namespace = format!("walk-{seed}");
    let tenants = ["acme", "globex"].map(tenant);
    let mut model: [BTreeMap<String, (Etag, String)>; 2] = Default::default();
    let mut etags: Vec<Etag> = vec![Etag {
        life: Life::begin(crate::clock::Clock::system().now(), None),
        version: 1,
    }];
    for step in 0..steps {
        let context = format!("seed {seed}, step {step}");
        let store = &gateways[random.usize(..2)];
        let whose = random.usize(..2);
        let (tenant, model) = (&tenants[whose], &mut model[whose]);
        let key = format!("k{}", random.usize(..KEYS));
        let [name, _] = names(tenant, &namespace, &format!("t_{key}"));
        let stands = model.get(&key).map(|(etag, _)| *etag);
        let precondition = match random.u8(..4) {
            0 if can.if_absent => Precondition::Absent,
            1 if can.if_match => Precondition::Match(stands.unwrap_or(etags[0])),
            2 if can.if_match => Precondition::Match(etags[random.usize(..etags.len())]),
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
                    assert!(holds && deleted.something() == stands.is_some(), "{context}");
                    if let Deleted::Stood(told) = deleted {
                        assert!(told.is_none() || told == stands, "{context}");
                        assert!(told.is_some() || !store.capabilities().if_match, "{context}");
                    }
                    model.remove(&key);
                }
                Err(WriteError::PreconditionFailed) => assert!(!holds, "{context}"),
                Err(error) => panic!("{context}: {error}"),
            },
            4 => {
                let value = random.bool().then_some(context.as_str());
                behind.change(tenant, &name, stands, value).await;
                let found = store.read(tenant, &name).await.unwrap();
                assert_eq!(found.is_some(), value.is_some(), "{context}");
                match found {
                    Some(found) => {
                        let follows = stands.map_or(1, |etag| etag.version + 1);
                        assert_eq!(found.etag.version, follows, "{context}");
                        etags.push(found.etag);
                        model.insert(key, (found.etag, context));
                    }
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
                let listed = store.list(tenant, page(&name, "", "")).await.unwrap().entries;
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
