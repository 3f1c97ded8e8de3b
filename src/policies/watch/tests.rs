use super::*;
use crate::policies::parse;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn prepare(source: &Source) -> Result<(Plan, Problems), Problems> {
    parse(source, Timestamp::UNIX_EPOCH)
}

fn text(revision: &str) -> String {
    format!("version: 1\nrevision: {revision}\nrules: []\n")
}

fn place(directory: &Path) -> Place {
    Place {
        path: directory.join("policies.yaml"),
        // Longer than any test: what is seen in time was told by the directory.
        poll_interval: Duration::from_secs(3600),
        last_good: Some(directory.join("last-good.yaml")),
    }
}

struct Watched {
    in_force: Arc<InForce>,
    scope: Scope,
    status: watch::Receiver<Arc<Status>>,
}

impl Watched {
    fn start(place: Place) -> Self {
        let in_force = InForce::load(place, Box::new(prepare)).unwrap();
        let scope = Scope::root("test");
        in_force.watch(&scope);
        Self { status: in_force.subscribe(), in_force, scope }
    }

    async fn eventually(&mut self, wanted: impl Fn(&Status) -> bool) {
        let found = tokio::time::timeout(PATIENCE, self.status.wait_for(|status| wanted(status))).await;
        assert!(found.is_ok(), "{:?}", self.in_force.status());
    }

    async fn in_force(&mut self, revision: &str) {
        self.eventually(|status| status.revision.as_deref() == Some(revision)).await;
        assert_eq!(self.in_force.plan().revision.as_deref(), Some(revision));
    }

    async fn stop(self) {
        self.scope.close(Instant::now() + PATIENCE).await;
        assert_eq!((self.scope.alive(), self.scope.aborted()), (0, 0));
    }
}

/// Swaps the link `..data` to a new directory and removes the old, as the kubelet does.
fn swap_config_map(directory: &Path, revision: &str) {
    let new = directory.join(format!("..{revision}"));
    fs::create_dir(&new).unwrap();
    fs::write(new.join("policies.yaml"), text(revision)).unwrap();
    let (link, temporary) = (directory.join("..data"), directory.join("..data_tmp"));
    let old = fs::read_link(&link).ok();
    symlink(format!("..{revision}"), &temporary).unwrap();
    fs::rename(&temporary, &link).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(directory.join(old)).unwrap();
    }
}

#[tokio::test]
async fn a_config_map_is_followed_over_many_swaps() {
    let directory = tempfile::tempdir().unwrap();
    swap_config_map(directory.path(), "r0");
    symlink("..data/policies.yaml", directory.path().join("policies.yaml")).unwrap();
    let mut watched = Watched::start(Place { last_good: None, ..place(directory.path()) });
    for i in 1..=30 {
        let revision = format!("r{i}");
        swap_config_map(directory.path(), &revision);
        watched.in_force(&revision).await;
    }
    assert_eq!(watched.in_force.status().revisions, 31);
    watched.stop().await;
}

#[tokio::test]
async fn a_bad_file_leaves_the_last_good_in_force_until_a_good_one_comes() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    fs::write(&place.path, text("one")).unwrap();
    let mut watched = Watched::start(place.clone());
    fs::write(&place.path, "version: 1\nrulez: []\n").unwrap();
    watched.eventually(|status| status.refused.is_some()).await;
    let status = watched.in_force.status();
    assert_eq!((status.revision.as_deref(), status.last_reload_success), (Some("one"), false));
    let refused = status.refused.clone().unwrap();
    assert!(refused.problems.lines()[1].contains("did you mean `rules`?"), "{}", refused.problems);
    assert!(refused.sha256.is_some());
    fs::write(&place.path, text("two")).unwrap();
    watched.in_force("two").await;
    let status = watched.in_force.status();
    assert_eq!((status.last_reload_success, &status.refused), (true, &None));
    watched.stop().await;
}

#[tokio::test]
async fn a_file_that_comes_back_as_it_was_is_no_new_revision() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    fs::write(&place.path, text("one")).unwrap();
    let mut watched = Watched::start(place.clone());
    fs::remove_file(&place.path).unwrap();
    watched.eventually(|status| status.refused.is_some()).await;
    let refused = watched.in_force.status().refused.clone().unwrap();
    assert_eq!(refused.sha256, None);
    assert!(refused.problems.lines()[0].contains("cannot be read"), "{}", refused.problems);
    fs::write(&place.path, text("one")).unwrap();
    watched.eventually(|status| status.last_reload_success).await;
    assert_eq!(watched.in_force.status().revisions, 1);
    watched.stop().await;
}

#[tokio::test]
async fn an_empty_file_is_not_no_rules() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    fs::write(&place.path, text("one")).unwrap();
    let mut watched = Watched::start(place.clone());
    fs::write(&place.path, "").unwrap();
    watched.eventually(|status| status.refused.is_some()).await;
    assert_eq!(watched.in_force.plan().revision.as_deref(), Some("one"));
    watched.stop().await;
}

#[tokio::test]
async fn an_editor_that_renames_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    fs::write(&place.path, text("one")).unwrap();
    let mut watched = Watched::start(place.clone());
    for i in 0..10 {
        let revision = format!("edit-{i}");
        let swap = directory.path().join(".policies.yaml.swp");
        fs::write(&swap, text(&revision)).unwrap();
        fs::rename(&place.path, directory.path().join("policies.yaml~")).unwrap();
        fs::rename(&swap, &place.path).unwrap();
        watched.in_force(&revision).await;
        assert!(watched.in_force.status().refused.is_none(), "the moment without a file is not reported");
    }
    watched.stop().await;
}

#[tokio::test]
async fn without_events_the_poll_finds_the_change() {
    let directory = tempfile::tempdir().unwrap();
    let real = tempfile::tempdir().unwrap();
    // A link to another directory, in which nothing is watched.
    let target = real.path().join("policies.yaml");
    fs::write(&target, text("one")).unwrap();
    let place = Place { poll_interval: Duration::from_millis(20), ..place(directory.path()) };
    symlink(&target, &place.path).unwrap();
    let mut watched = Watched::start(place);
    fs::write(&target, text("two")).unwrap();
    watched.in_force("two").await;
    watched.stop().await;
}

#[test]
fn a_start_with_a_bad_file_falls_back_to_the_last_good() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let load = || InForce::load(place.clone(), Box::new(prepare));
    assert!(load().is_err(), "there is no last good");
    fs::write(&place.path, text("one")).unwrap();
    assert_eq!(load().unwrap().status().revision.as_deref(), Some("one"));
    for bad in ["", "version: 1", "version: 2\nrules: []"] {
        fs::write(&place.path, bad).unwrap();
        let status = load().unwrap().status();
        assert_eq!((status.revision.as_deref(), status.last_reload_success), (Some("one"), false), "{bad:?}");
    }
    fs::remove_file(&place.path).unwrap();
    let in_force = load().unwrap();
    assert_eq!(in_force.status().revision.as_deref(), Some("one"));
    fs::write(&place.path, text("two")).unwrap();
    assert_eq!((in_force.reload(), in_force.reload()), (Look::Swapped, Look::Same));
    assert_eq!(fs::read_to_string(place.last_good.as_ref().unwrap()).unwrap(), text("two"));
}

#[test]
fn a_plan_without_file_is_never_reloaded() {
    let in_force = InForce::fixed(crate::policies::default_plan());
    assert_eq!(in_force.reload(), Look::Same);
    assert_eq!(in_force.status().revision.as_deref(), Some("embedded-default"));
}
