//! `bitmap`: changes the bitmaps that are stored with an image.

use super::args::{Cache, HostArgs, bytes};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use sectora_core::image::{BitmapAction, bitmap};
use sectora_core::io::Access;

#[derive(Debug, clap::Args)]
#[command(after_help = "Actions are done in the order in which they are given.")]
pub(super) struct Args {
    #[command(flatten)]
    actions: Actions,

    /// Format of the image; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    format: Option<String>,

    /// The image that has the bitmap to merge, where it is another
    #[arg(short = 'b', long = "source-file", value_name = "SRC_FILENAME")]
    source: Option<String>,

    /// Format of that image
    #[arg(short = 'F', long, value_name = "SRC_FMT", allow_hyphen_values = true)]
    source_format: Option<String>,

    /// Granularity of a new bitmap: a power of two from 512 to 2G
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    granularity: Option<String>,

    #[command(flatten)]
    host: HostArgs,

    /// The image, and the name of the bitmap
    #[arg(value_name = "FILENAME BITMAP")]
    arguments: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(String),
}

/// What is to be done, in order.
#[derive(Debug)]
struct Actions(Vec<Action>);

const FLAGS: [(&str, Action, &str); 5] = [
    ("add", Action::Add, "Make the bitmap, to record writes from now on"),
    ("remove", Action::Remove, "Remove the bitmap"),
    ("clear", Action::Clear, "Mark everything in the bitmap as clean"),
    ("enable", Action::Enable, "Let the bitmap record writes"),
    ("disable", Action::Disable, "Let the bitmap record no more writes"),
];

impl clap::Args for Actions {
    fn augment_args(command: Command) -> Command {
        let command = FLAGS.iter().fold(command, |command, (name, _, help)| {
            let arg = Arg::new(*name).long(*name).help(*help).action(ArgAction::Append);
            command.arg(arg.num_args(0).default_missing_value("yes"))
        });
        let merge = Arg::new("merge").long("merge").value_name("SOURCE");
        let help = "Add what is dirty in another bitmap, of this image or of that of -b";
        command.arg(merge.help(help).action(ArgAction::Append).allow_hyphen_values(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Actions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found: Vec<(usize, Action)> = Vec::new();
        for (name, action, _) in &FLAGS {
            let places = matches.indices_of(name).into_iter().flatten();
            found.extend(places.map(|at| (at, action.clone())));
        }
        let places = matches.indices_of("merge").into_iter().flatten();
        let names = matches.get_many::<String>("merge").into_iter().flatten();
        found.extend(places.zip(names).map(|(at, name)| (at, Action::Merge(name.clone()))));
        found.sort_by_key(|(at, _)| *at);
        Ok(Self(found.into_iter().map(|(_, action)| action).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    let granularity = match &args.granularity {
        Some(text) => Some(bytes("granularity", text)?),
        None => None,
    };
    let actions = &args.actions.0;
    if actions.is_empty() {
        let actions = "--add, --remove, --clear, --enable, --disable, or --merge";
        return Err(Failure::new(format!("Need at least one of {actions}")));
    }
    if granularity.is_some() && !actions.contains(&Action::Add) {
        return Err(Failure::new("granularity only supported with --add"));
    }
    if args.source_format.is_some() && args.source.is_none() {
        return Err(Failure::new("-F only supported with -b"));
    }
    if args.source.is_some() && !actions.iter().any(|a| matches!(a, Action::Merge(_))) {
        return Err(Failure::new("Merge bitmap source file only supported with --merge"));
    }
    let [filename, name] = &args.arguments[..] else {
        return Err(Failure::new("Expecting filename and bitmap name"));
    };
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &args.host, false);
        let args = &args;
        async move {
            let opening = Opening {
                access: Access::ReadWrite,
                shares_raw: false,
                ..Opening::to_read(args.format.as_deref(), Cache::default())
            };
            let image = host.open(filename, opening).await?;
            let source = match &args.source {
                None => image.clone(),
                Some(source) => {
                    let format = args.source_format.as_deref();
                    let opening = Opening::to_read(format, Cache::default());
                    let source = host.open(source, opening).await?;
                    source.driver().load_bitmaps().await?;
                    source
                }
            };
            let mut result = Ok(0);
            for action in actions {
                let action = match action {
                    Action::Add => BitmapAction::Add { granularity },
                    Action::Remove => BitmapAction::Remove,
                    Action::Clear => BitmapAction::Clear,
                    Action::Enable => BitmapAction::Enable,
                    Action::Disable => BitmapAction::Disable,
                    Action::Merge(from) => BitmapAction::Merge { source: &source, name: from },
                };
                if let Err(e) = bitmap(&image, name, action) {
                    let what = format!("Operation {} on bitmap {name} failed", action.name());
                    result = Err(Failure::from(e).context(&what));
                    break;
                }
            }
            // What was done before a failure stays done.
            let closed = image.close().await;
            let code = result?;
            closed?;
            Ok(code)
        }
    })
}
