//! Settings: what is good is reported, and what is wrong is named with its file, line and key.

use super::{GOOD, check, folder_with, read, run, tagway};

#[test]
fn a_good_file_is_reported() {
    let (code, out, err) = check(GOOD);
    assert_eq!((code, err.as_str()), (0, ""));
    for part in [
        "127.0.0.1:0",
        "https://issuer.test",
        "file:keys.json",
        "local: embedded",
        "tag-prefix 0.1.0: tenant_config_, sha256:",
    ] {
        assert!(out.contains(part), "{part} in {out}");
    }
}

/// Who has exported what clients and operators need runs what reads settings in the same shell.
#[test]
fn variables_of_the_command_line_are_no_settings() {
    let folder = folder_with(GOOD);
    let help = ["get", "status", "serve"].map(|command| run(folder.path(), &[command, "--help"]).1);
    let named = help.iter().flat_map(|help| help.split("[env: ").skip(1));
    let variables: Vec<(&str, &str)> = named
        .filter_map(|rest| Some((rest.split(['=', ']']).next()?, "x")))
        .collect();
    for name in ["TAGWAY_TOKEN", "TAGWAY_ADMIN_TOKEN", "TAGWAY_TLS_CA", "TAGWAY_CONFIG"] {
        assert!(variables.contains(&(name, "x")), "{name} in {variables:?}");
    }
    let (code, _, err) = read(&tagway(folder.path(), &["check", "tagway.toml"], &variables));
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn what_is_wrong_is_named_with_file_line_and_key() {
    let changed = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replace(from, to)
    };
    let hot = |keys: &str| format!("{GOOD}[backends.hot]\nkind = \"dynamodb\"\n{keys}\n");
    let params = |keys: &str| format!("{GOOD}[backends.params]\nkind = \"ssm\"\n{keys}\n");
    let cases = [
        ("[server", changed("[server]", "[server"), "tagway.toml:2: "),
        (
            "an unknown key",
            changed("listen =", "lisen ="),
            "tagway.toml:3: server.lisen: unknown field",
        ),
        (
            "an unknown table",
            format!("{GOOD}[nosuch]\n"),
            "tagway.toml:21: nosuch: unknown field",
        ),
        (
            "a key twice",
            changed("issuer =", "issuer = \"\"\nissuer ="),
            "tagway.toml:7: ",
        ),
        (
            "a number for a text",
            changed("\"https://issuer.test\"", "7"),
            "tagway.toml:6: identity.issuer: invalid type",
        ),
        (
            "no address",
            changed("127.0.0.1:0", "localhost"),
            "tagway.toml:3: server.listen: ",
        ),
        (
            "plaintext beyond loopback",
            changed("127.0.0.1:0", "0.0.0.0:0"),
            "tagway.toml:3: server.listen: beyond loopback",
        ),
        (
            "no issuer",
            changed("issuer = \"https://issuer.test\"\n", ""),
            "tagway.toml:5: identity.issuer: name the issuer",
        ),
        (
            "no audience",
            changed("[\"tagway\"]", "[]"),
            "tagway.toml:7: identity.audiences: ",
        ),
        (
            "a symmetric algorithm",
            changed("jwks =", "algorithms = [\"HS256\"]\njwks ="),
            "tagway.toml:8: identity.algorithms: unknown variant `HS256`",
        ),
        (
            "keys over plaintext",
            changed("file:keys.json", "http://issuer.test/keys"),
            "tagway.toml:8: identity.jwks: ",
        ),
        (
            "an hour of leeway",
            changed("jwks =", "leeway = \"1h\"\njwks ="),
            "tagway.toml:8: identity.leeway: at most 5m",
        ),
        (
            "a duration without a unit",
            changed("jwks =", "leeway = \"30\"\njwks ="),
            "tagway.toml:8: identity.leeway: ",
        ),
        (
            "a refresh that no clock reaches",
            changed("jwks =", "jwks_refresh = \"1000000000 years\"\njwks ="),
            "tagway.toml:8: identity.jwks_refresh: at most 100 years",
        ),
        (
            "a rest that no clock reaches",
            changed("backends = ", "breaker = { rest = \"1000000000 years\" }\nbackends = "),
            "tagway.toml:17: strategies.tag-prefix.breaker.rest: at most 100 years",
        ),
        (
            "a permission that is none",
            changed("jwks =", "permissions = { reed = [\"r\"] }\njwks ="),
            "tagway.toml:8: identity.permissions.reed: ",
        ),
        (
            "a store without a path",
            changed("path = \"store.redb\"\n", ""),
            "tagway.toml:10: backends.local.path: ",
        ),
        (
            "a path of parameters",
            changed("\"embedded\"", "\"ssm\""),
            "tagway.toml:12: backends.local.path: a store of the kind ssm has no such key",
        ),
        (
            "a root that AWS keeps for itself",
            params("root = \"/aws/x\""),
            "tagway.toml:23: backends.params.root: ",
        ),
        (
            "a root without its slash",
            params("root = \"tagway\""),
            "tagway.toml:23: backends.params.root: ",
        ),
        (
            "a root in another",
            format!(
                "{}[backends.more]\nkind = \"ssm\"\nroot = \"/tagway/more\"\n",
                params("")
            ),
            "tagway.toml:26: backends.more.root: lies in the root of backends.params",
        ),
        (
            "a root twice",
            format!("{}[backends.again]\nkind = \"ssm\"\n", params("")),
            "backends.params.root: lies in the root of backends.again",
        ),
        (
            "no key",
            params("kms_key = \"my key\""),
            "tagway.toml:23: backends.params.kms_key: ",
        ),
        (
            "no requests",
            params("requests_per_second = 0"),
            "tagway.toml:23: backends.params.requests_per_second: ",
        ),
        (
            "lists of nothing",
            params("list_names = 0"),
            "tagway.toml:23: backends.params.list_names: ",
        ),
        (
            "a key of another kind of store",
            changed("\"embedded\"", "\"embedded\"\ntable = \"tagway\""),
            "tagway.toml:12: backends.local.table: a store of the kind embedded has no such key",
        ),
        (
            "a store at AWS without a table",
            hot(""),
            "tagway.toml:21: backends.hot.table: ",
        ),
        (
            "a table that is none",
            hot("table = \"a b\""),
            "tagway.toml:23: backends.hot.table: ",
        ),
        (
            "a path of a table",
            hot("table = \"tagway\"\npath = \"x\""),
            "tagway.toml:24: backends.hot.path: a store of the kind dynamodb has no such key",
        ),
        (
            "a role that is none",
            hot("table = \"tagway\"\ntenant_role = \"tagway-tenant\""),
            "tagway.toml:24: backends.hot.tenant_role: ",
        ),
        (
            "items over plaintext",
            hot("table = \"tagway\"\nendpoint_url = \"http://dynamodb.test\""),
            "tagway.toml:24: backends.hot.endpoint_url: ",
        ),
        (
            "no time for a call",
            hot("table = \"tagway\"\ntimeout = \"1ms\""),
            "tagway.toml:24: backends.hot.timeout: at least 100ms",
        ),
        (
            "no room for a call",
            hot("table = \"tagway\"\nin_flight = 0"),
            "tagway.toml:24: backends.hot.in_flight: between 1 and",
        ),
        (
            "history for a moment",
            hot("table = \"tagway\"\nhistory_ttl = \"1s\""),
            "tagway.toml:24: backends.hot.history_ttl: between 1h and",
        ),
        (
            "one table for two stores",
            hot("table = \"tagway\"\n[backends.cold]\nkind = \"dynamodb\"\ntable = \"tagway\""),
            "tagway.toml:23: backends.hot.table: is the table of backends.cold too",
        ),
        (
            "one file for two stores",
            format!("{GOOD}[backends.other]\nkind = \"embedded\"\npath = \"store.redb\"\n"),
            "tagway.toml:23: backends.other.path: ",
        ),
        (
            "a tag that is none",
            changed("[\"tenant_config_\"]", "[\"tenant_config\"]"),
            "tagway.toml:16: strategies.tag-prefix.tags: ",
        ),
        (
            "a backend that is none",
            changed("[\"local\"]", "[\"hot\"]"),
            "tagway.toml:17: strategies.tag-prefix.backends: `hot` is not in [backends]",
        ),
        (
            "a digest that is none",
            changed("tags =", "digest = \"sha256:…\"\ntags ="),
            "tagway.toml:16: strategies.tag-prefix.digest: ",
        ),
        (
            "a source that is none",
            changed("builtin:tag-prefix", "router.wasm"),
            "tagway.toml:15: strategies.tag-prefix.source: ",
        ),
        (
            "a built-in that is none",
            changed("builtin:tag-prefix", "builtin:layered"),
            "tagway.toml:15: strategies.tag-prefix.source: ",
        ),
        (
            "a certificate without its key",
            changed("listen =", "tls = { cert = \"c\" }\nlisten ="),
            "tagway.toml:3: server.tls: missing field `key`",
        ),
        (
            "no connections",
            format!("{GOOD}[limits]\nconnections = 0\n"),
            "tagway.toml:22: limits.connections: 0 would refuse",
        ),
        (
            "no time for a handshake",
            format!("{GOOD}[limits]\nhandshake = \"0s\"\n"),
            "tagway.toml:22: limits.handshake: ",
        ),
        (
            "a class that is not there",
            changed("source =", "class = \"large\"\nsource ="),
            "strategies.tag-prefix.class: unknown variant `large`",
        ),
        (
            "traces that go nowhere",
            format!("{GOOD}[telemetry]\notlp_endpoint = \"collector\"\n"),
            "tagway.toml:22: telemetry.otlp_endpoint: a collector",
        ),
        (
            "more traces than requests",
            format!("{GOOD}[telemetry]\ntrace_share = 2.0\n"),
            "tagway.toml:22: telemetry.trace_share: between 0.0 and 1.0",
        ),
        (
            "a cache of nothing",
            format!("{GOOD}[cache]\nmax_bytes = \"1KiB\"\n"),
            "tagway.toml:22: cache.max_bytes: at least 1MiB",
        ),
        (
            "a quota that lets nothing pass",
            format!("{GOOD}[quota]\nrequests_per_second = 0\n"),
            "tagway.toml:22: quota.requests_per_second: ",
        ),
        (
            "events of a kind that is none",
            format!("{GOOD}[events]\nkind = \"kafka\"\n"),
            "events.kind",
        ),
        (
            "a queue without events",
            format!("{GOOD}[events]\nqueue = \"auto\"\n"),
            "tagway.toml:22: events.queue: needs events.kind = \"sqs\"",
        ),
        (
            "a queue that is none",
            format!("{GOOD}[events]\nkind = \"sqs\"\nqueue = \"mine\"\n"),
            "`mine` is neither \"auto\" nor the URL of an SQS queue",
        ),
        (
            "a bus that is none",
            format!("{GOOD}[events]\nkind = \"sqs\"\nbus = \"my bus\"\n"),
            "events.bus: the name of an event bus",
        ),
        (
            "events in plaintext",
            format!("{GOOD}[events]\nkind = \"sqs\"\nendpoint_url = \"http://sqs.test\"\n"),
            "events.endpoint_url: https://",
        ),
        (
            "operators beyond loopback",
            changed("listen =", "admin_listen = \"0.0.0.0:1\"\nlisten ="),
            "server.admin_listen: beyond loopback",
        ),
        (
            "one tag of two strategies",
            GOOD.to_owned()
                + &GOOD[GOOD.find("[strategies.tag-prefix]").unwrap()..]
                    .replace("strategies.tag-prefix", "strategies.second"),
            "`tenant_config_` belongs to strategies.second too",
        ),
    ];
    for (what, settings, expected) in cases {
        let (code, _, err) = check(&settings);
        assert_eq!(code, 2, "{what}: {err}");
        assert!(err.contains(expected), "{what}: {expected:?} is not in: {err}");
        assert!(!err.contains("panicked"), "{what}: {err}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let (_, _, err) = check("[server]\nlisten = \"0.0.0.0:1\"\n[events]\nsweep = \"0s\"\n");
    for key in [
        "server.listen",
        "events.sweep",
        "identity.issuer",
        "identity.jwks",
        "backends",
        "strategies",
    ] {
        assert!(err.contains(key), "{key} in {err}");
    }
}

#[test]
fn the_contracts_whole_file_parses() {
    let (code, _, err) = check(include_str!("contract.toml"));
    assert_eq!(code, 2);
    // The contract's digest is an ellipsis; nothing else in it is wrong.
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.contains("strategies.tag-prefix.digest"), "{err}");
}

#[test]
fn variables_override_and_are_named_when_they_are_wrong() {
    let folder = folder_with(GOOD);
    let check = |variables: &[(&str, &str)]| read(&tagway(folder.path(), &["check", "tagway.toml"], variables));
    let (code, out, _) = check(&[
        ("TAGWAY_SERVER__LISTEN", "127.0.0.1:7"),
        ("TAGWAY_TOKEN", "x"),
        ("TAGWAYS", "x"),
        // What Kubernetes tells every pod of a service called tagway, and of one called tagway-admin.
        ("TAGWAY_SERVICE_HOST", "10.0.0.1"),
        ("TAGWAY_SERVICE_PORT_GRPC", "50051"),
        ("TAGWAY_PORT", "tcp://10.0.0.1:50051"),
        ("TAGWAY_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("TAGWAY_ADMIN_SERVICE_HOST", "10.0.0.1"),
    ]);
    assert_eq!(code, 0);
    assert!(out.contains("127.0.0.1:7"));
    for (name, value, expected) in [
        (
            "TAGWAY_SERVER__LISTEN",
            "here",
            "TAGWAY_SERVER__LISTEN: server.listen: ",
        ),
        (
            "TAGWAY_SERVER__LISEN",
            "x",
            "TAGWAY_SERVER__LISEN: server.lisen: unknown field",
        ),
        (
            "TAGWAY_LIMITS__IN_FLIGHT",
            "many",
            "TAGWAY_LIMITS__IN_FLIGHT: limits.in_flight: ",
        ),
        (
            "TAGWAY_LIMITS__IN_FLIGHT",
            "0",
            "TAGWAY_LIMITS__IN_FLIGHT: limits.in_flight: ",
        ),
        (
            "TAGWAY_SERVER_LISTEN",
            "127.0.0.1:7",
            "TAGWAY_SERVER_LISTEN: names no setting",
        ),
        (
            "TAGWAY_SERVER__LISTEN__PORT",
            "7",
            "TAGWAY_SERVER__LISTEN__PORT: server.listen.port: `listen` is not a table",
        ),
        (
            "TAGWAY_TELEMETRY__OTLP_ENDPOINT",
            "x",
            "TAGWAY_TELEMETRY__OTLP_ENDPOINT: telemetry.otlp_endpoint: a collector",
        ),
        (
            "TAGWAY_IDENTITY__AUDIENCES",
            "[\"a\"",
            "TAGWAY_IDENTITY__AUDIENCES: identity.audiences: ",
        ),
        (
            "TAGWAY_IDENTITY__ALGORITHMS",
            "[\"RS256\", \"HS256\"]",
            "TAGWAY_IDENTITY__ALGORITHMS: identity.algorithms: unknown variant `HS256`",
        ),
        ("TAGWAY_", "x", "TAGWAY_: names no setting"),
    ] {
        let (code, _, err) = check(&[(name, value)]);
        assert_eq!(code, 2, "{name}: {err}");
        assert!(err.contains(expected), "{expected:?} is not in: {err}");
    }
    let (code, _, err) = check(&[
        ("TAGWAY_IDENTITY__AUDIENCES", "[\"a\", \"b\"]"),
        ("TAGWAY_STRATEGIES__TAG-PREFIX__LIMITS__FUEL", "1_000_000"),
    ]);
    assert_eq!((code, err.as_str()), (0, ""));
}
