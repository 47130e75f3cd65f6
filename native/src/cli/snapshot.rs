//! `snapshot`: lists, makes, applies and removes internal snapshots; and what `-l` of other verbs
//! means.

use super::args::{Cache, HostArgs};
use super::failure::{Failure, Outcome, told};
use super::host::{Host, Opening, Threads, block_on, driver_name};
use super::info::snapshot_list;
use super::output::{self, Program, print};
use sectora_core::format::{Layer, NewSnapshot, Snapshots};
use sectora_core::io::Access;
use sectora_core::qapi::SnapshotInfo;
use sectora_core::{Error, ErrorKind};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Format of the image; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    format: Option<String>,

    /// Read the image although another program writes to it
    #[arg(short = 'U', long)]
    force_share: bool,

    /// List the snapshots (what is done if nothing else is said)
    #[arg(short, long, action = clap::ArgAction::Count)]
    list: u8,

    /// Make a snapshot
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true, action = clap::ArgAction::Append)]
    create: Vec<String>,

    /// Make the disk what it was when the snapshot was made
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true, action = clap::ArgAction::Append)]
    apply: Vec<String>,

    /// Remove a snapshot
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true, action = clap::ArgAction::Append)]
    delete: Vec<String>,

    #[command(flatten)]
    host: HostArgs,

    /// The image
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

/// What is to be done.
#[derive(Clone, Copy)]
enum Action<'a> {
    List,
    Create(&'a str),
    Apply(&'a str),
    Delete(&'a str),
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    let mut actions: Vec<Action<'_>> = vec![Action::List; args.list.into()];
    actions.extend(args.create.iter().map(|name| Action::Create(name)));
    actions.extend(args.apply.iter().map(|name| Action::Apply(name)));
    actions.extend(args.delete.iter().map(|name| Action::Delete(name)));
    let action = match &actions[..] {
        [] => Action::List,
        [action] => *action,
        _ => return Err(Failure::usage("Cannot mix '-l', '-a', '-c', '-d'")),
    };
    let [filename] = &args.filenames[..] else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let access = match action {
        Action::List => Access::ReadOnly,
        _ => Access::ReadWrite,
    };
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &args.host, args.force_share);
        let format = args.format.as_deref();
        async move {
            let how = Opening { access, ..Opening::to_read(format, Cache::default()) };
            let image = host.open(filename, how).await?;
            perform(&host, &image, action).await?;
            image.close().await?;
            Ok(0)
        }
    })
}

async fn perform(host: &Host, image: &Layer, action: Action<'_>) -> Result<(), Failure> {
    let snapshots = image.driver().snapshots();
    match action {
        Action::List => {
            let list = snapshots.map(Snapshots::list).unwrap_or_default();
            if !list.is_empty() {
                print(&snapshot_list("", &list))?;
            }
        }
        Action::Create(name) => {
            let failed = |why: &str| format!("Could not create snapshot '{name}': {why}");
            let snapshots =
                snapshots.ok_or_else(|| Failure::new(failed("Operation not supported")))?;
            let now = host.runtime.wall_clock();
            let new = NewSnapshot {
                name: name.to_owned(),
                date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
                date_nsec: now.subsec_nanos(),
                icount: Some(0),
                ..NewSnapshot::default()
            };
            snapshots.create(new).await.map_err(|e| Failure::new(failed(&reason(&e))))?;
        }
        Action::Apply(name) => {
            let failed = |why: &str| format!("Could not apply snapshot '{name}': {why}");
            let snapshots = snapshots
                .ok_or_else(|| Failure::new(failed("Block driver does not support snapshots")))?;
            let list = snapshots.list();
            let applied = snapshots.apply(find(&list, name).unwrap_or(name)).await;
            applied.map_err(|e| match e.kind() {
                ErrorKind::InUse => Failure::new(failed(e.what())),
                _ => Failure::new(failed(&format!("Failed to load snapshot: {}", reason(&e)))),
            })?;
        }
        Action::Delete(name) => {
            let failed = |why: &str| format!("Could not delete snapshot '{name}': {why}");
            let missing = || Failure::new(failed("snapshot not found"));
            let snapshots = snapshots.ok_or_else(missing)?;
            let list = snapshots.list();
            let found = list.iter().find(|s| s.name == name).ok_or_else(missing)?;
            snapshots.delete(&found.id).await.map_err(|e| Failure::new(failed(&reason(&e))))?;
        }
    }
    Ok(())
}

/// The id of the snapshot with that id, or else with that name.
fn find<'a>(list: &'a [SnapshotInfo], wanted: &str) -> Option<&'a str> {
    let by_id = list.iter().find(|s| s.id == wanted);
    by_id.or_else(|| list.iter().find(|s| s.name == wanted)).map(|s| s.id.as_str())
}

/// Why the engine refuses, in the system's words where those say all there is.
fn reason(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Unsupported => "Operation not supported".to_owned(),
        ErrorKind::InvalidInput => "Invalid argument".to_owned(),
        ErrorKind::NotFound => "No such file or directory".to_owned(),
        ErrorKind::Limit => "File too large".to_owned(),
        ErrorKind::NoSpace => "No space left on device".to_owned(),
        _ => told(error),
    }
}

/// Which snapshot a `-l` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SnapshotParam {
    /// The one with this id, or else with this name.
    Either(String),
    /// The one with this id and this name, as far as they are given.
    Exactly { id: Option<String>, name: Option<String> },
}

impl SnapshotParam {
    /// `snapshot.id=ID,snapshot.name=NAME`, or an id or name.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if !text.starts_with("snapshot.") {
            return Ok(Self::Either(text.to_owned()));
        }
        let (mut id, mut name) = (None, None);
        for item in text.split(',') {
            let (key, value) = item.split_once('=').unwrap_or((item, "on"));
            match key {
                "snapshot.id" => id = Some(value.to_owned()),
                "snapshot.name" => name = Some(value.to_owned()),
                _ => {
                    let quote = if output::is(Program::QemuNbd) { '`' } else { '\'' };
                    return Err(Failure::new(format!("Invalid parameter '{key}'"))
                        .and_again(&format!("Failed in parsing snapshot param {quote}{text}'")));
                }
            }
        }
        Ok(Self::Exactly { id, name })
    }

    fn find<'a>(&self, list: &'a [SnapshotInfo]) -> Option<&'a str> {
        match self {
            Self::Either(wanted) => find(list, wanted),
            Self::Exactly { id, name } => list
                .iter()
                .find(|s| {
                    id.as_ref().is_none_or(|id| *id == s.id)
                        && name.as_ref().is_none_or(|name| *name == s.name)
                })
                .map(|s| s.id.as_str()),
        }
    }
}

/// Opens the image `name` to read a snapshot of it, or its active state where none is given.
pub(super) async fn open_state(
    host: &Host,
    name: &str,
    how: Opening<'_>,
    snapshot: Option<&str>,
) -> Result<Arc<Layer>, Failure> {
    let Some(text) = snapshot else { return host.open(name, how).await };
    let param = SnapshotParam::parse(text)?;
    let active = host.open(name, how.clone()).await?;
    open_snapshot(host, name, how, &active, &param).await
}

/// Opens the image `name`, which is open already, to read a snapshot of it.
pub(super) async fn open_snapshot(
    host: &Host,
    name: &str,
    how: Opening<'_>,
    active: &Layer,
    param: &SnapshotParam,
) -> Result<Arc<Layer>, Failure> {
    let Some(snapshots) = active.driver().snapshots() else {
        return Err(Failure::new(format!(
            "Failed to load snapshot: Block format '{}' used by device '' does not support \
             temporarily loading internal snapshots",
            driver_name(active).await?
        )));
    };
    let list = snapshots.list();
    let Some(id) = param.find(&list) else {
        return Err(Failure::new("Failed to load snapshot: Can't find snapshot"));
    };
    host.open(name, Opening { snapshot: Some(id), ..how }).await
}
