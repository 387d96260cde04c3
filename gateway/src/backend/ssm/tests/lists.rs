//! Lists are gathered whole and cut into pages: whose pages go on with what, and who waits for whom.

use futures_util::FutureExt as _;
use tagway_servers::Ministack;
use tokio::join;
use tokio::time::Instant;

use super::others::{acme, all, name};
use super::{At, ParameterStore, entry, put};
use crate::backend::aws::stand_in::proxy::Proxy;
use crate::backend::{Backend as _, BackendError, Page, PageRequest};
use crate::identity::VerifiedTenant;

async fn write(store: &ParameterStore, key: &str) {
    put(store, &acme(), &name(key), entry(key, "text/plain")).await.unwrap();
}

/// A page of so many after that name, of a list that began then.
async fn page(store: &ParameterStore, after: &str, since: Option<Instant>, entries: usize) -> Page {
    let x = name("t_x");
    let request = PageRequest {
        after,
        since,
        entries,
        ..all(&x)
    };
    store.list(&acme(), request).await.unwrap()
}

fn names(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn they_go_on_where_they_were_and_begin_anew() {
    let server = Ministack::start();
    let at = At::new(server.endpoint()).await;
    let (store, elsewhere) = (at.parameters(), at.parameters());
    for i in 0..60 {
        write(&store, &format!("t_{i:02}")).await;
    }
    let first = page(&store, "", None, 2).await;
    assert_eq!(names(&first), ["00", "01"]);
    // Somebody else's write is seen by the next list, and not by this one.
    write(&elsewhere, "t_015").await;
    let began = Some(first.as_of);
    assert_eq!(names(&page(&store, "01", began, 2).await), ["02", "03"]);
    assert_eq!(names(&page(&store, "", None, 3).await), ["00", "01", "015"]);
    // Our own is seen at once.
    write(&store, "t_025").await;
    assert_eq!(names(&page(&store, "02", began, 2).await), ["025", "03"]);
    for i in 60..99 {
        write(&store, &format!("t_{i:02}")).await;
    }
    let x = name("t_x");
    let refused = store.list(&acme(), all(&x)).await;
    assert!(matches!(refused, Err(BackendError::TooManyNames(100))), "{refused:?}");
    for i in 0..20 {
        write(&store, &format!("t_deep/er/{i:02}")).await;
    }
    let within = PageRequest {
        prefix: "deep/er/1",
        ..all(&x)
    };
    let found = store.list(&acme(), within).await.unwrap();
    assert_eq!(
        (found.entries.len(), found.more),
        (10, false),
        "a longer prefix has room"
    );
}

/// The soak found a list whose second page was older than its first: the first was not kept, since another tenant wrote meanwhile, and what
/// was kept came from a list before. A list that another gateway goes on with could meet the same.
#[tokio::test]
async fn none_goes_on_with_what_is_older_than_its_beginning() {
    let server = Ministack::start();
    let at = At::new(server.endpoint()).await;
    let (store, elsewhere) = (at.parameters(), at.parameters());
    for key in ["t_a", "t_b", "t_d"] {
        write(&store, key).await;
    }
    assert_eq!(names(&page(&store, "", None, 1).await), ["a"], "and all of it is kept");
    write(&elsewhere, "t_c").await;
    let begun = page(&elsewhere, "", None, 2).await;
    assert_eq!(names(&begun), ["a", "b"]);
    assert_eq!(names(&page(&store, "b", Some(begun.as_of), 1).await), ["c"]);
}

#[tokio::test]
async fn what_another_tenant_writes_meanwhile_is_no_matter() {
    let server = Ministack::start();
    let calls = Proxy::start(server.endpoint(), |_| None).await;
    let store = At::new(&calls.endpoint()).await.parameters();
    for key in ["t_a", "t_b"] {
        write(&store, key).await;
    }
    let globex = VerifiedTenant::for_tests("globex");
    let [theirs, _] = crate::backend::conformance::names(&globex, "ns", "t_x");
    let writing = put(&store, &globex, &theirs, entry("x", "text/plain"));
    let (begun, written) = join!(page(&store, "", None, 1), writing);
    written.unwrap();
    calls.take();
    assert_eq!(names(&page(&store, "a", Some(begun.as_of), 1).await), ["b"]);
    assert_eq!(calls.take().len(), 0, "it was kept");
}

/// Those that nobody waits for any more go on, so who asks for ever new ones is refused.
#[tokio::test]
async fn a_tenant_has_no_more_under_way_than_there_are_turns_for() {
    let server = Ministack::start();
    let store = At::new(server.endpoint()).await.parameters_at(1);
    let x = name("t_x");
    let mut refused = 0;
    for number in 0..50 {
        let prefix = format!("{number}/");
        let request = PageRequest {
            prefix: &prefix,
            ..all(&x)
        };
        let asked = store.list(&acme(), request).now_or_never();
        refused += usize::from(matches!(asked, Some(Err(BackendError::Busy { .. }))));
    }
    // One a second, and twenty that come before an operation is out of time.
    assert!((25..50).contains(&refused), "{refused}");
    let globex = VerifiedTenant::for_tests("globex");
    let [theirs, _] = crate::backend::conformance::names(&globex, "ns", "t_x");
    let other = store.list(&globex, all(&theirs)).now_or_never();
    assert!(other.is_none(), "another's are its own: {other:?}");
}

#[tokio::test]
async fn who_asks_meanwhile_waits_for_the_same_unless_that_began_too_early() {
    let server = Ministack::start();
    let calls = Proxy::start(server.endpoint(), |_| None).await;
    let store = At::new(&calls.endpoint()).await.parameters();
    write(&store, "t_a").await;
    for (is_later, asked) in [(false, 1), (true, 2)] {
        calls.take();
        join!(page(&store, "", None, 1), async {
            let since = is_later.then(Instant::now);
            let other = page(&store, "", since, 1).await;
            assert!(since.is_none_or(|since| other.as_of >= since));
        });
        assert_eq!(calls.take().len(), asked);
    }
}
