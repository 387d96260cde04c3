//! One key of a tenant's: what is done with it, and what shows.

use serde_json::{Value, json};

use super::{entry, reader, writer};
use crate::backend::Precondition;
use crate::cache::Consistency;
use crate::config::{Config, ConfigError, Configs, ListRequest, PAGE_BYTES, Scope, WriteOptions};
use crate::strategy::Context;

pub(super) const KEY: &str = "t_a";

pub(super) async fn get(configs: &Configs) -> Option<Config> {
    get_in(configs, Scope::Own).await
}

pub(super) async fn get_in(configs: &Configs, scope: Scope) -> Option<Config> {
    match configs
        .get(&reader("acme"), KEY, 0, &Context::default(), scope, Consistency::Cached)
        .await
    {
        Ok(read) => Some(read.found),
        Err(ConfigError::NotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

pub(super) async fn value(configs: &Configs) -> Option<String> {
    let config = get(configs).await?;
    Some(String::from_utf8(config.entry.value.to_vec()).unwrap())
}

pub(super) fn options(precondition: Precondition, scope: Scope) -> WriteOptions {
    WriteOptions {
        precondition,
        scope,
        ..WriteOptions::default()
    }
}

pub(super) async fn put(configs: &Configs, value: &str) -> Config {
    let options = WriteOptions::default();
    configs.put(&writer("acme"), KEY, entry(value), &options).await.unwrap()
}

pub(super) async fn put_if(configs: &Configs, value: &str, precondition: Precondition) -> Result<Config, ConfigError> {
    let options = options(precondition, Scope::Own);
    configs.put(&writer("acme"), KEY, entry(value), &options).await
}

pub(super) async fn delete_if(configs: &Configs, precondition: Precondition) -> Result<bool, ConfigError> {
    let options = options(precondition, Scope::Own);
    configs.delete(&writer("acme"), KEY, &options).await
}

pub(super) async fn keys(configs: &Configs) -> Vec<String> {
    let (prefix, context) = ("".parse().unwrap(), Context::default());
    let request = ListRequest {
        prefix: &prefix,
        page_size: 100,
        page_token: "",
        keys_only: false,
        bytes: PAGE_BYTES,
        context: &context,
        under_way: None,
    };
    let listed = configs.list(&reader("acme"), request).await.unwrap();
    listed.configs.into_iter().map(|config| config.key).collect()
}

/// Home in `a`, once in `b` or `c`.
pub(super) fn moved() -> Value {
    json!({ "home": ["a", ""], "former": [["b", "old"], ["c", ""]] })
}
