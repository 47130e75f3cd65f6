//! The table of commands: names, limits, and what the help says of them.

/// Which command it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Abort,
    AioFlush,
    AioRead,
    AioWrite,
    Alloc,
    Break,
    Close,
    Discard,
    Flush,
    Help,
    Info,
    Length,
    Map,
    Open,
    Quit,
    Read,
    Readv,
    RemoveBreak,
    Reopen,
    Resume,
    Sigraise,
    Sleep,
    Truncate,
    WaitBreak,
    Write,
    Writev,
    ZoneAppend,
    ZoneClose,
    ZoneFinish,
    ZoneOpen,
    ZoneReport,
    ZoneReset,
}

/// A command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// A shorter name; empty where there is none.
    pub(super) alternative: &'static str,
    /// The least number of words after the name.
    pub(super) least: usize,
    /// The largest number of words after the name, if there is one.
    pub(super) most: Option<usize>,
    /// It does not need an open image.
    pub(super) without_file: bool,
    /// It changes the image.
    pub(super) writes: bool,
    pub(super) arguments: Option<&'static str>,
    /// One line.
    pub(super) summary: &'static str,
    /// All that there is to say; may be empty.
    pub(super) help: &'static str,
    pub(super) verb: Verb,
}

impl Command {
    /// The command of that name.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        let named = |command: &&Self| {
            command.name == name || (!command.alternative.is_empty() && command.alternative == name)
        };
        COMMANDS.iter().find(named)
    }

    /// The command in a line, under the name it was called by.
    pub(super) fn line(&self, called: &str) -> String {
        let arguments = self.arguments.map_or(String::new(), |text| format!(" {text}"));
        format!("{called}{arguments} -- {}\n", self.summary)
    }

    /// What is wrong with `given` words after the name, if anything.
    pub(super) fn check_count(&self, called: &str, given: usize) -> Option<String> {
        let (least, most) = (self.least, self.most);
        if given >= least && most.is_none_or(|most| given <= most) {
            return None;
        }
        let expected = match most {
            None => format!("at least {least}"),
            Some(most) if most == least => format!("{least}"),
            Some(most) => format!("between {least} and {most}"),
        };
        Some(format!("bad argument count {given} to {called}, expected {expected} arguments"))
    }
}

/// All commands, in the order of the help.
pub(super) static COMMANDS: [Command; 32] = [
    Command {
        name: "abort",
        alternative: "",
        least: 0,
        most: Some(0),
        without_file: true,
        writes: false,
        arguments: None,
        summary: "simulate a program crash using abort(3)",
        help: "",
        verb: Verb::Abort,
    },
    Command {
        name: "aio_flush",
        alternative: "",
        least: 0,
        most: Some(0),
        without_file: false,
        writes: false,
        arguments: None,
        summary: "completes all outstanding aio requests",
        help: "",
        verb: Verb::AioFlush,
    },
    Command {
        name: "aio_read",
        alternative: "",
        least: 2,
        most: None,
        without_file: false,
        writes: false,
        arguments: Some("[-Ciqrv] [-P pattern] off len [len..]"),
        summary: "asynchronously reads a number of bytes",
        help: "\
                   \n\
                   \x20asynchronously reads a range of bytes from the given offset\n\
                   \n\
                   \x20Example:\n\
                   \x20'aio_read -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file\n\
                   \n\
                   \x20Reads a segment of the currently open file, optionally dumping it to the\n\
                   \x20standard output stream (with -v option) for subsequent inspection.\n\
                   \x20The read is performed asynchronously and the aio_flush command must be\n\
                   \x20used to ensure all outstanding aio requests have been completed.\n\
                   \x20Note that due to its asynchronous nature, this command will be\n\
                   \x20considered successful once the request is submitted, independently\n\
                   \x20of potential I/O errors or pattern mismatches.\n\
                   \x20-C, -- report statistics in a machine parsable format\n\
                   \x20-i, -- treat request as invalid, for exercising stats\n\
                   \x20-P, -- use a pattern to verify read data\n\
                   \x20-q, -- quiet mode, do not show I/O statistics\n\
                   \x20-r, -- register I/O buffer\n\
                   \x20-v, -- dump buffer to standard output\n\
                   \n\
                   ",
        verb: Verb::AioRead,
    },
    Command {
        name: "aio_write",
        alternative: "",
        least: 2,
        most: None,
        without_file: false,
        writes: true,
        arguments: Some("[-Cfiqruz] [-P pattern] off len [len..]"),
        summary: "asynchronously writes a number of bytes",
        help: "\
                   \n\
                   \x20asynchronously writes a range of bytes from the given offset source\n\
                   \x20from multiple buffers\n\
                   \n\
                   \x20Example:\n\
                   \x20'aio_write 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file\n\
                   \n\
                   \x20Writes into a segment of the currently open file, using a buffer\n\
                   \x20filled with a set pattern (0xcdcdcdcd).\n\
                   \x20The write is performed asynchronously and the aio_flush command must be\n\
                   \x20used to ensure all outstanding aio requests have been completed.\n\
                   \x20Note that due to its asynchronous nature, this command will be\n\
                   \x20considered successful once the request is submitted, independently\n\
                   \x20of potential I/O errors or pattern mismatches.\n\
                   \x20-C, -- report statistics in a machine parsable format\n\
                   \x20-f, -- use Force Unit Access semantics\n\
                   \x20-i, -- treat request as invalid, for exercising stats\n\
                   \x20-P, -- use different pattern to fill file\n\
                   \x20-q, -- quiet mode, do not show I/O statistics\n\
                   \x20-r, -- register I/O buffer\n\
                   \x20-u, -- with -z, allow unmapping\n\
                   \x20-z, -- write zeroes using blk_aio_pwrite_zeroes\n\
                   \n\
                   ",
        verb: Verb::AioWrite,
    },
    Command {
        name: "alloc",
        alternative: "a",
        least: 1,
        most: Some(2),
        without_file: false,
        writes: false,
        arguments: Some("offset [count]"),
        summary: "checks if offset is allocated in the file",
        help: "",
        verb: Verb::Alloc,
    },
    Command {
        name: "break",
        alternative: "",
        least: 2,
        most: Some(2),
        without_file: false,
        writes: false,
        arguments: Some("event tag"),
        summary: "sets a breakpoint on event and tags the stopped request as tag",
        help: "",
        verb: Verb::Break,
    },
    Command {
        name: "close",
        alternative: "c",
        least: 0,
        most: Some(0),
        without_file: false,
        writes: false,
        arguments: None,
        summary: "close the current open file",
        help: "",
        verb: Verb::Close,
    },
    Command {
        name: "discard",
        alternative: "d",
        least: 2,
        most: None,
        without_file: false,
        writes: true,
        arguments: Some("[-Cq] off len"),
        summary: "discards a number of bytes at a specified offset",
        help: "\
                   \n\
                   \x20discards a range of bytes from the given offset\n\
                   \n\
                   \x20Example:\n\
                   \x20'discard 512 1k' - discards 1 kilobyte from 512 bytes into the file\n\
                   \n\
                   \x20Discards a segment of the currently open file.\n\
                   \x20-C, -- report statistics in a machine parsable format\n\
                   \x20-q, -- quiet mode, do not show I/O statistics\n\
                   \n\
                   ",
        verb: Verb::Discard,
    },
    Command {
        name: "flush",
        alternative: "f",
        least: 0,
        most: Some(0),
        without_file: false,
        writes: false,
        arguments: None,
        summary: "flush all in-core file state to disk",
        help: "",
        verb: Verb::Flush,
    },
    Command {
        name: "help",
        alternative: "?",
        least: 0,
        most: Some(1),
        without_file: true,
        writes: false,
        arguments: Some("[command]"),
        summary: "help for one or all commands",
        help: "",
        verb: Verb::Help,
    },
    Command {
        name: "info",
        alternative: "i",
        least: 0,
        most: Some(0),
        without_file: false,
        writes: false,
        arguments: None,
        summary: "prints information about the current file",
        help: "",
        verb: Verb::Info,
    },
    Command {
        name: "length",
        alternative: "l",
        least: 0,
        most: Some(0),
        without_file: false,
        writes: false,
        arguments: None,
        summary: "gets the length of the current file",
        help: "",
        verb: Verb::Length,
    },
    Command {
        name: "map",
        alternative: "",
        least: 0,
        most: Some(0),
        without_file: false,
        writes: false,
        arguments: Some(""),
        summary: "prints the allocated areas of a file",
        help: "",
        verb: Verb::Map,
    },
    Command {
        name: "open",
        alternative: "o",
        least: 1,
        most: None,
        without_file: true,
        writes: false,
        arguments: Some("[-rsCnkU] [-t cache] [-d discard] [-o options] [path]"),
        summary: "open the file specified by path",
        help: "\
                   \n\
                   \x20opens a new file in the requested mode\n\
                   \n\
                   \x20Example:\n\
                   \x20'open -n -o driver=raw /tmp/data' - opens raw data file read-write, uncached\n\
                   \n\
                   \x20Opens a file for subsequent use by all of the other qemu-io commands.\n\
                   \x20-r, -- open file read-only\n\
                   \x20-s, -- use snapshot file\n\
                   \x20-C, -- use copy-on-read\n\
                   \x20-n, -- disable host cache, short for -t none\n\
                   \x20-U, -- force shared permissions\n\
                   \x20-k, -- use kernel AIO implementation (Linux only, prefer use of -i)\n\
                   \x20-i, -- use AIO mode (threads, native or io_uring)\n\
                   \x20-t, -- use the given cache mode for the image\n\
                   \x20-d, -- use the given discard mode for the image\n\
                   \x20-o, -- options to be given to the block driver\n\
                   ",
        verb: Verb::Open,
    },
    Command {
        name: "quit",
        alternative: "q",
        least: 0,
        most: None,
        without_file: true,
        writes: false,
        arguments: None,
        summary: "exit the program",
        help: "",
        verb: Verb::Quit,
    },
    Command {
        name: "read",
        alternative: "r",
        least: 2,
        most: None,
        without_file: false,
        writes: false,
        arguments: Some("[-abCqrv] [-P pattern [-s off] [-l len]] off len"),
        summary: "reads a number of bytes at a specified offset",
        help: "\
                   \n\
                   \x20reads a range of bytes from the given offset\n\
                   \n\
                   \x20Example:\n\
                   \x20'read -v 512 1k' - dumps 1 kilobyte read from 512 bytes into the file\n\
                   \n\
                   \x20Reads a segment of the currently open file, optionally dumping it to the\n\
                   \x20standard output stream (with -v option) for subsequent inspection.\n\
                   \x20-b, -- read from the VM state rather than the virtual disk\n\
                   \x20-C, -- report statistics in a machine parsable format\n\
                   \x20-l, -- length for pattern verification (only with -P)\n\
                   \x20-p, -- ignored for backwards compatibility\n\
                   \x20-P, -- use a pattern to verify read data\n\
                   \x20-q, -- quiet mode, do not show I/O statistics\n\
                   \x20-r, -- register I/O buffer\n\
                   \x20-s, -- start offset for pattern verification (only with -P)\n\
                   \x20-v, -- dump buffer to standard output\n\
                   \n\
                   ",
        verb: Verb::Read,
    },
    Command {
        name: "readv",
        alternative: "",
        least: 2,
        most: None,
        without_file: false,
        writes: false,
        arguments: Some("[-Cqrv] [-P pattern] off len [len..]"),
        summary: "reads a number of bytes at a specified offset",
        help: "\
                   \n\
                   \x20reads a range of bytes from the given offset into multiple buffers\n\
                   \n\
                   \x20Example:\n\
                   \x20'readv -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file\n\
                   \n\
                   \x20Reads a segment of the currently open file, optionally dumping it to the\n\
                   \x20standard output stream (with -v option) for subsequent inspection.\n\
                   \x20Uses multiple iovec buffers if more than one byte range is specified.\n\
                   \x20-C, -- report statistics in a machine parsable format\n\
                   \x20-P, -- use a pattern to verify read data\n\
                   \x20-q, -- quiet mode, do not show I/O statistics\n\
                   \x20-r, -- register I/O buffer\n\
                   \x20-v, -- dump buffer to standard output\n\
                   \n\
                   ",
        verb: Verb::Readv,
    },
    Command {
        name: "remove_break",
        alternative: "",
        least: 1,
        most: Some(1),
        without_file: false,
        writes: false,
        arguments: Some("tag"),
        summary: "remove a breakpoint by tag",
        help: "",
        verb: Verb::RemoveBreak,
    },
    Command {
        name: "reopen",
        alternative: "",
        least: 0,
        most: None,
        without_file: false,
        writes: false,
        arguments: Some("[(-r|-w)] [-c cache] [-o options]"),
        summary: "reopens an image with new options",
        help: "\
                   \n\
                   \x20Changes the open options of an already opened image\n\
                   \n\
                   \x20Example:\n\
                   \x20'reopen -o lazy-refcounts=on' - activates lazy refcount writeback on a qcow2 image\n\
                   \n\
                   \x20-r, -- Reopen the image read-only\n\
                   \x20-w, -- Reopen the image read-write\n\
                   \x20-c, -- Change the cache mode to the given value\n\
                   \x20-o, -- Changes block driver options (cf. 'open' command)\n\
                   \n\
                   ",
        verb: Verb::Reopen,
    },
    Command {
        name: "resume",
        alternative: "",
        least: 1,
        most: Some(1),
        without_file: false,
        writes: false,
        arguments: Some("tag"),
        summary: "resumes the request tagged as tag",
        help: "",
        verb: Verb::Resume,
    },
    Command {
        name: "sigraise",
        alternative: "",
        least: 1,
        most: Some(1),
        without_file: true,
        writes: false,
        arguments: Some("signal"),
        summary: "raises a signal",
        help: "\
                   \n\
                   \x20raises the given signal\n\
                   \n\
                   \x20Example:\n\
                   \x20'sigraise 15' - raises SIGTERM\n\
                   \n\
                   \x20Invokes raise(signal), where \"signal\" is the mandatory integer argument\n\
                   \x20given to sigraise.\n\
                   \n\
                   ",
        verb: Verb::Sigraise,
    },
    Command {
        name: "sleep",
        alternative: "",
        least: 1,
        most: Some(1),
        without_file: true,
        writes: false,
        arguments: None,
        summary: "waits for the given value in milliseconds",
        help: "",
        verb: Verb::Sleep,
    },
    Command {
        name: "truncate",
        alternative: "t",
        least: 1,
        most: Some(3),
        without_file: false,
        writes: true,
        arguments: Some("[-m prealloc_mode] off"),
        summary: "truncates the current file at the given offset",
        help: "",
        verb: Verb::Truncate,
    },
    Command {
        name: "wait_break",
        alternative: "",
        least: 1,
        most: Some(1),
        without_file: false,
        writes: false,
        arguments: Some("tag"),
        summary: "waits for the suspension of a request",
        help: "",
        verb: Verb::WaitBreak,
    },
    Command {
        name: "write",
        alternative: "w",
        least: 2,
        most: None,
        without_file: false,
        writes: true,
        arguments: Some("[-bcCfnqruz] [-P pattern | -s source_file] off len"),
        summary: "writes a number of bytes at a specified offset",
        help: "\
                   \n\
                   \x20writes a range of bytes from the given offset\n\
                   \n\
                   \x20Example:\n\
                   \x20'write 512 1k' - writes 1 kilobyte at 512 bytes into the open file\n\
                   \n\
                   \x20Writes into a segment of the currently open file, using a buffer\n\
                   \x20filled with a set pattern (0xcdcdcdcd).\n\
                   \x20-b, -- write to the VM state rather than the virtual disk\n\
                   \x20-c, -- write compressed data with blk_write_compressed\n\
                   \x20-C, -- report statistics in a machine parsable format\n\
                   \x20-f, -- use Force Unit Access semantics\n\
                   \x20-n, -- with -z, don't allow slow fallback\n\
                   \x20-p, -- ignored for backwards compatibility\n\
                   \x20-P, -- use different pattern to fill file\n\
                   \x20-q, -- quiet mode, do not show I/O statistics\n\
                   \x20-r, -- register I/O buffer\n\
                   \x20-s, -- use a pattern file to fill the write buffer\n\
                   \x20-u, -- with -z, allow unmapping\n\
                   \x20-z, -- write zeroes using blk_pwrite_zeroes\n\
                   \n\
                   ",
        verb: Verb::Write,
    },
    Command {
        name: "writev",
        alternative: "",
        least: 2,
        most: None,
        without_file: false,
        writes: true,
        arguments: Some("[-Cfqr] [-P pattern] off len [len..]"),
        summary: "writes a number of bytes at a specified offset",
        help: "\
                   \n\
                   \x20writes a range of bytes from the given offset source from multiple buffers\n\
                   \n\
                   \x20Example:\n\
                   \x20'writev 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file\n\
                   \n\
                   \x20Writes into a segment of the currently open file, using a buffer\n\
                   \x20filled with a set pattern (0xcdcdcdcd).\n\
                   \x20-C, -- report statistics in a machine parsable format\n\
                   \x20-f, -- use Force Unit Access semantics\n\
                   \x20-P, -- use different pattern to fill file\n\
                   \x20-q, -- quiet mode, do not show I/O statistics\n\
                   \x20-r, -- register I/O buffer\n\
                   \n\
                   ",
        verb: Verb::Writev,
    },
    Command {
        name: "zone_append",
        alternative: "zap",
        least: 3,
        most: Some(4),
        without_file: false,
        writes: true,
        arguments: Some("offset len [len..]"),
        summary: "append write a number of bytes at a specified offset",
        help: "",
        verb: Verb::ZoneAppend,
    },
    Command {
        name: "zone_close",
        alternative: "zc",
        least: 2,
        most: Some(2),
        without_file: false,
        writes: false,
        arguments: Some("offset len"),
        summary: "close a range of zones in zone block device",
        help: "",
        verb: Verb::ZoneClose,
    },
    Command {
        name: "zone_finish",
        alternative: "zf",
        least: 2,
        most: Some(2),
        without_file: false,
        writes: false,
        arguments: Some("offset len"),
        summary: "finish a range of zones in zone block device",
        help: "",
        verb: Verb::ZoneFinish,
    },
    Command {
        name: "zone_open",
        alternative: "zo",
        least: 2,
        most: Some(2),
        without_file: false,
        writes: false,
        arguments: Some("offset len"),
        summary: "explicit open a range of zones in zone block device",
        help: "",
        verb: Verb::ZoneOpen,
    },
    Command {
        name: "zone_report",
        alternative: "zrp",
        least: 2,
        most: Some(2),
        without_file: false,
        writes: false,
        arguments: Some("offset number"),
        summary: "report zone information",
        help: "",
        verb: Verb::ZoneReport,
    },
    Command {
        name: "zone_reset",
        alternative: "zrs",
        least: 2,
        most: Some(2),
        without_file: false,
        writes: false,
        arguments: Some("offset len"),
        summary: "reset a zone write pointer in zone block device",
        help: "",
        verb: Verb::ZoneReset,
    },
];
