//! All commands of the human monitor.

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    BlockResize,
    Commit,
    Cont,
    Help,
    Info,
    InfoBlock,
    InfoBlockJobs,
    InfoBlockstats,
    InfoStatus,
    QemuIo,
    Stop,
}

/// A word that a command takes.
#[derive(Debug)]
pub(super) struct Word {
    /// What is said to be missing.
    pub(super) noun: &'static str,
    pub(super) optional: bool,
}

/// A command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Another name; empty where there is none.
    alias: &'static str,
    /// Letters of its options.
    pub(super) flags: &'static str,
    pub(super) words: &'static [Word],
    /// Its words, for help.
    usage: &'static str,
    help: &'static str,
    pub(super) verb: Verb,
}

const DEVICE: Word = Word { noun: "block device name", optional: false };
const SOME_DEVICE: Word = Word { noun: "block device name", optional: true };
const TEXT: Word = Word { noun: "string", optional: false };
const NAME: Word = Word { noun: "string", optional: true };

const fn command(
    name: &'static str,
    alias: &'static str,
    words: &'static [Word],
    usage: &'static str,
    help: &'static str,
    verb: Verb,
) -> Command {
    Command { name, alias, flags: "", words, usage, help, verb }
}

/// By name.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "block_resize",
        "",
        &[DEVICE, TEXT],
        "device size",
        "resize a block image",
        Verb::BlockResize,
    ),
    command(
        "commit",
        "",
        &[DEVICE],
        "device|all",
        "commit changes to the disk images (if -snapshot is used) or backing files",
        Verb::Commit,
    ),
    command("cont", "c", &[], "", "resume emulation", Verb::Cont),
    command("help", "?", &[NAME, NAME], "[cmd]", "show the help", Verb::Help),
    command(
        "info",
        "",
        &[NAME],
        "[subcommand]",
        "show various information about the system state",
        Verb::Info,
    ),
    Command {
        name: "qemu-io",
        alias: "",
        flags: "d",
        words: &[DEVICE, TEXT],
        usage: "[-d] [device] \"[command]\"",
        help: "run a qemu-io command on a block device\n\t\t\t-d: [device] is a device ID rather than \
               a drive ID or node name",
        verb: Verb::QemuIo,
    },
    command("stop", "s", &[], "", "stop emulation", Verb::Stop),
];

/// What can be asked for, by name.
pub(super) const INFO: &[Command] = &[
    Command {
        name: "block",
        alias: "",
        flags: "nv",
        words: &[SOME_DEVICE],
        usage: "[-n] [-v] [device]",
        help: "show info of one block device or all block devices (-n: show named nodes; -v: show \
               details)",
        verb: Verb::InfoBlock,
    },
    command(
        "block-jobs",
        "",
        &[],
        "",
        "show progress of ongoing block device operations",
        Verb::InfoBlockJobs,
    ),
    command("blockstats", "", &[], "", "show block device statistics", Verb::InfoBlockstats),
    command("status", "", &[], "", "show the current VM status (running|paused)", Verb::InfoStatus),
];

impl Command {
    /// Its line of help; `before` stands before its name.
    pub(super) fn line(&self, before: &str) -> String {
        let names = match self.alias {
            "" => self.name.to_owned(),
            alias => format!("{}|{alias}", self.name),
        };
        format!("{before}{names} {} -- {}\n", self.usage, self.help)
    }
}

/// The command of that name.
pub(super) fn find(list: &'static [Command], name: &str) -> Option<&'static Command> {
    list.iter().find(|command| command.name == name || command.alias == name && !name.is_empty())
}

/// Help on all of them.
pub(super) fn lines(list: &[Command], before: &str) -> String {
    list.iter().map(|command| command.line(before)).collect()
}
