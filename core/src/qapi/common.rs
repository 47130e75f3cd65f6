//! Types of `common.json`.

use alloc::string::String;
use sectora_derive::qapi;

/// The direction of a request.
#[qapi]
pub enum IoOperationType {
    /// Reads.
    Read,
    /// Writes.
    Write,
}

/// A switch that can be left to the program.
#[qapi]
#[derive(Default)]
pub enum OnOffAuto {
    /// The program decides.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// A switch, or something divided.
#[qapi]
pub enum OnOffSplit {
    /// On.
    On,
    /// Off.
    Off,
    /// Divided.
    Split,
}

/// A string or nothing.
#[qapi(alternate)]
pub enum StrOrNull {
    /// A string.
    S(String),
    /// Nothing.
    N,
}

/// Which base address register of a PCI device, if any.
#[qapi]
pub enum OffAutoPCIBAR {
    /// Off.
    Off,
    /// The program decides.
    Auto,
    /// Register 0.
    Bar0,
    /// Register 1.
    Bar1,
    /// Register 2.
    Bar2,
    /// Register 3.
    Bar3,
    /// Register 4.
    Bar4,
    /// Register 5.
    Bar5,
}

/// The speed of a PCI Express link, in GT/s.
#[qapi]
pub enum PCIELinkSpeed {
    /// 2.5.
    #[qapi(name = "2_5")]
    Gt2_5,
    /// 5.
    #[qapi(name = "5")]
    Gt5,
    /// 8.
    #[qapi(name = "8")]
    Gt8,
    /// 16.
    #[qapi(name = "16")]
    Gt16,
    /// 32.
    #[qapi(name = "32")]
    Gt32,
    /// 64.
    #[qapi(name = "64")]
    Gt64,
}

/// The lanes of a PCI Express link.
#[qapi]
pub enum PCIELinkWidth {
    /// 1.
    #[qapi(name = "1")]
    X1,
    /// 2.
    #[qapi(name = "2")]
    X2,
    /// 4.
    #[qapi(name = "4")]
    X4,
    /// 8.
    #[qapi(name = "8")]
    X8,
    /// 12.
    #[qapi(name = "12")]
    X12,
    /// 16.
    #[qapi(name = "16")]
    X16,
    /// 32.
    #[qapi(name = "32")]
    X32,
}

/// From which nodes of the host memory comes.
#[qapi]
pub enum HostMemPolicy {
    /// As the system does it.
    Default,
    /// From these first.
    Preferred,
    /// From these alone.
    Bind,
    /// From these in turn.
    Interleave,
}

/// The packets that a filter sees.
#[qapi]
pub enum NetFilterDirection {
    /// Both directions.
    All,
    /// Received ones.
    Rx,
    /// Sent ones.
    Tx,
}

/// The keys that give input back to the host.
#[qapi]
pub enum GrabToggleKeys {
    /// Both control keys.
    CtrlCtrl,
    /// Both alt keys.
    AltAlt,
    /// Both shift keys.
    ShiftShift,
    /// Both meta keys.
    MetaMeta,
    /// Scroll lock.
    Scrolllock,
    /// Control and scroll lock.
    CtrlScrolllock,
}

/// Text for people.
#[qapi]
pub struct HumanReadableText {
    /// The text.
    pub human_readable_text: String,
}

/// The order of bytes.
#[qapi]
pub enum EndianMode {
    /// Not said.
    Unspecified,
    /// The lowest first.
    Little,
    /// The highest first.
    Big,
}
