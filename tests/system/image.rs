//! The image holds all that a gateway needs and nothing else: one starts in it, as a user who owns nothing, with one folder to
//! write to. No engine is asked: what the Dockerfile assembles is assembled here, and entered as an engine would.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tagway_servers::hadolint;
use tagway_tests::gateway::{Gateway, binary, settings};
use tagway_tests::issuer::{Key, key_set};
use tempfile::TempDir;

use super::process::http;

/// Makes of this process one in the image: the root read-only, settings and data mounted, no more privileges than its user has.
/// Takes the root, the folders that are mounted, and how to become the user.
const ENTER: &str = r#"
    set -eu
    root=$1 settings=$2 data=$3 user=$4
    shift 4
    mount --bind "$root" "$root"
    mount --rbind /proc "$root/proc"
    mount --bind "$data" "$root/var/lib/tagway"
    mount --bind "$settings" "$root/etc/tagway"
    mount -o remount,bind,ro "$root/etc/tagway"
    mount -o remount,bind,ro "$root"
    exec setpriv --no-new-privs unshare --root="$root" --wd=/etc/tagway $user /usr/bin/tagway "$@"
"#;

fn container() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/deploy/container")
}

fn dockerfile() -> String {
    fs::read_to_string(container().join("Dockerfile")).unwrap()
}

/// What the image is told by this word: what its stage says comes last.
pub(crate) fn says(word: &str) -> String {
    let text = dockerfile();
    let said = text.lines().rev().find_map(|line| line.strip_prefix(word));
    said.unwrap().trim().to_owned()
}

/// Whom the image runs as: a user and a group.
pub(crate) fn user() -> (u32, u32) {
    let says = says("USER");
    let (user, group) = says.split_once(':').unwrap();
    (user.parse().unwrap(), group.parse().unwrap())
}

/// An image, and the one volume of its container.
struct Image {
    root: TempDir,
    data: TempDir,
}

impl Image {
    fn assemble() -> Self {
        let (root, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut assemble = Command::new(container().join("assemble"));
        let made = assemble.arg(binary()).arg(root.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        // As Kubernetes gives a volume to a pod's group.
        if is_root() {
            chown(data.path(), None, Some(user().1)).unwrap();
        }
        fs::set_permissions(data.path(), Permissions::from_mode(0o2770)).unwrap();
        Self { root, data }
    }

    /// What becomes a gateway in it, with these settings and what lies beside them. Whoever is not root is it in a namespace alone,
    /// and the same nobody outside.
    fn enter(&self, settings: &Path) -> Command {
        let (namespace, become_user) = if is_root() {
            let (user, group) = user();
            ("--mount", format!("--setgid={group} --setuid={user}"))
        } else {
            ("--map-root-user", String::new())
        };
        let mut program = Command::new("unshare");
        program.args([namespace, "--mount", "sh", "-c", ENTER, "enter"]);
        program
            .args([self.root.path(), settings, self.data.path()])
            .arg(become_user);
        program
    }
}

/// Whether this process may become another user.
fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| {
        if path.is_dir() {
            files(&path)
        } else {
            BTreeSet::from([path])
        }
    };
    entries.flat_map(below).collect()
}

#[test]
fn the_dockerfile_is_clean_and_builds_with_our_toolchain() {
    let output = hadolint(&container().join("Dockerfile"));
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let toolchain = fs::read_to_string(container().join("../../../rust-toolchain.toml")).unwrap();
    let toolchain: serde_json::Value = toml::from_str(&toolchain).unwrap();
    let version = toolchain["toolchain"]["channel"].as_str().unwrap();
    assert!(dockerfile().contains(&format!("\nFROM rust:{version}-")));
}

#[test]
fn an_image_is_the_gateway_and_what_it_is_linked_with() {
    let root = Image::assemble().root;
    let mut files = files(root.path());
    for file in [
        "etc/group",
        "etc/nsswitch.conf",
        "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/bin/tagway",
    ] {
        assert!(files.remove(&root.path().join(file)), "{file}");
    }
    let is_library = |file: &PathBuf| {
        let file = file.strip_prefix(root.path()).unwrap().to_str().unwrap();
        file.starts_with("lib") && file.contains(".so")
    };
    assert!(files.iter().all(is_library), "{files:?}");
}

#[tokio::test]
async fn a_gateway_serves_in_the_image_with_a_root_that_nobody_can_write_to() {
    let (image, folder, key) = (Image::assemble(), TempDir::new().unwrap(), Key::ed("first"));
    // Engines do, for what they mount.
    fs::create_dir(image.root.path().join("proc")).unwrap();
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    // What is mounted is another's.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let settings = settings("file:keys.json", "[cache]\nsnapshot = \"/var/lib/tagway/snapshot\"")
        .replace("store.redb", "/var/lib/tagway/store.redb")
        .replace("[server]", "[server]\nstate = \"/var/lib/tagway/state\"");
    let (folder, key) = (Arc::new(folder), Arc::new(key));
    let start = || {
        Gateway::start_by(
            image.enter(folder.path()),
            Arc::clone(&folder),
            Arc::clone(&key),
            &settings,
        )
    };

    let mut gateway = start();
    let ready = http(&gateway.ops, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200"), "{}", gateway.log());
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    if is_root() {
        assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
    }
    gateway.client("acme").await.put("tenant_config_a", "1").await.unwrap();
    gateway.signal("TERM");
    assert!(gateway.wait().success(), "{}", gateway.log());

    // And again on what it left there.
    let gateway = start();
    let found = gateway.client("acme").await.get("tenant_config_a").await.unwrap();
    assert_eq!(found.value, "1");
    for own in ["state", "snapshot"] {
        let mode = fs::metadata(image.data.path().join(own)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{own}");
    }
}
