//! What was last known good, over a start.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::cache::snapshot::{Snapshot, SnapshotError};
use crate::clock::Clock;
use crate::folder::{FolderError, PrivateFolder};

fn snapshot(folder: &TempDir, shape: &str) -> Snapshot {
    let folder = PrivateFolder::open(&folder.path().join("cache")).unwrap();
    Snapshot::new(folder, shape, Clock::system())
}

impl World {
    /// The same stores, and a gateway that was just started.
    fn restarted(self) -> Self {
        Self {
            cache: Cache::new(1 << 20, POLICY, POLICY),
            ..self
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_known_is_served_after_a_start_while_the_store_is_away() {
    let folder = TempDir::new().unwrap();
    let world = World::new();
    let [_, shared] = names(&world.tenant, "ns", "t_a").map(place);
    world.write("one").await;
    world.store.put(&shared, "all");
    let read = async |world: &World, place: &Place| {
        let read = world
            .cache
            .read(&world.tenant, &world.backend, place, POLICY, Consistency::Cached);
        let read = read.await?;
        Ok::<_, BackendError>((text(read.found), read.freshness.source))
    };
    let absent = place(names(&world.tenant, "ns", "t_b")[0].clone());
    assert_eq!(read(&world, &absent).await.unwrap().0, None);
    read(&world, &shared).await.unwrap();
    assert_eq!(snapshot(&folder, "stores").write(&world.cache).unwrap(), 3);

    let world = world.restarted();
    assert_eq!(snapshot(&folder, "stores").restore(&world.cache).unwrap(), 3);
    world.store.fail(true);
    assert_eq!(world.read().await.unwrap(), some("one", Source::Stale));
    assert_eq!(read(&world, &shared).await.unwrap(), some("all", Source::Stale));
    assert_eq!(read(&world, &absent).await.unwrap(), (None, Source::Stale));
    world.read_as(Consistency::Latest).await.unwrap_err();
    let globex = VerifiedTenant::for_tests("globex");
    let foreign = world
        .cache
        .read(&globex, &world.backend, &world.place, POLICY, Consistency::Cached);
    assert!(matches!(foreign.await, Err(BackendError::Foreign)));
    // It is as old as it was, and older than its policy says it is not served.
    advance(POLICY.ttl + POLICY.stale).await;
    world.read().await.unwrap_err();
    // Where the store answers, it is asked.
    let world = world.restarted();
    snapshot(&folder, "stores").restore(&world.cache).unwrap();
    world.store.fail(false);
    world.store.put(&world.place, "two");
    assert_eq!(world.read().await.unwrap(), some("two", Source::Backend));
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_written() {
    let folder = TempDir::new().unwrap();
    let world = World::new();
    let secret = NewEntry {
        secret: true,
        ..entry("hunter2")
    };
    let write = world.cache.write(
        &world.tenant,
        &world.backend,
        &world.place,
        secret,
        Conditions::default(),
    );
    write.await.unwrap();
    let snapshot = snapshot(&folder, "stores");
    assert_eq!(snapshot.write(&world.cache).unwrap(), 0);
    let file = fs::read(snapshot.folder().join("known")).unwrap();
    assert!(!file.windows(7).any(|bytes| bytes == b"hunter2"));
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_or_of_others_is_not_taken() {
    let folder = TempDir::new().unwrap();
    let world = World::new();
    let snapshot = snapshot(&folder, "stores");
    assert_eq!(snapshot.restore(&world.cache).unwrap(), 0, "the first start");
    world.write("one").await;
    snapshot.write(&world.cache).unwrap();
    let path = snapshot.folder().join("known");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let whole = fs::read(&path).unwrap();
    let world = world.restarted();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        snapshot.restore(&world.cache).unwrap_err();
        fs::write(&path, &whole[..at]).unwrap();
        snapshot.restore(&world.cache).unwrap_err();
    }
    fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    snapshot.restore(&world.cache).unwrap_err();
    fs::write(&path, &whole).unwrap();
    let others = Snapshot::new(
        PrivateFolder::open(snapshot.folder()).unwrap(),
        "others",
        Clock::system(),
    );
    assert!(matches!(others.restore(&world.cache), Err(SnapshotError::Other)));
    assert_eq!(world.cache.known.len(), 0, "nothing of any of these");
    assert_eq!(snapshot.restore(&world.cache).unwrap(), 1);
    // Nobody else may look into it.
    fs::set_permissions(snapshot.folder(), Permissions::from_mode(0o750)).unwrap();
    let opened = PrivateFolder::open(snapshot.folder());
    assert!(matches!(opened, Err(FolderError::Open(0o750))));
}
