//! What the types of the schema are, as data: made from the types themselves.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A whole number of bytes (the schema's `size`): on the command line it may have a suffix.
pub type Size = u64;

/// The schema's `int` where it is told and never negative.
pub type Natural = u64;

/// A type of the schema.
pub trait Qapi {
    /// What it is.
    fn schema() -> &'static Schema;
}

/// Gives a description. Types refer to each other in circles, so a reference is a function.
pub type TypeRef = fn() -> &'static Schema;

/// The description of a type.
#[derive(Debug)]
pub struct Schema {
    /// The schema's name; of types that have none there, our own or an empty one.
    pub name: &'static str,
    /// The Rust module in which it is defined.
    pub module: &'static str,
    /// `deprecated`, `unstable` and what programs may ask for.
    pub features: &'static [&'static str],
    /// What must hold for it to be there; see [`holds`].
    pub condition: Option<&'static str>,
    /// What values of it look like.
    pub shape: Shape,
}

/// What values of a type look like.
#[derive(Debug)]
pub enum Shape {
    /// A plain JSON value.
    Builtin(Builtin),
    /// One of these strings.
    Enum(&'static [EnumValue]),
    /// An object of members.
    Object(&'static [Part]),
    /// An object of a tag and the members that go with its value.
    Union {
        /// The member that decides.
        tag: Member,
        /// What goes with each of its values; with those not listed, nothing.
        variants: &'static [Variant],
    },
    /// A list of such elements.
    Array(TypeRef),
    /// One of several types; the kind of JSON value tells which.
    Alternate(&'static [Choice]),
}

/// The types that the schema does not define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// A string.
    Str,
    /// A truth value.
    Bool,
    /// Null.
    Null,
    /// Any number.
    Number,
    /// A whole number of 64 bits, with a sign.
    Int,
    /// A whole number of 64 bits without a sign, of bytes.
    Size,
    /// Another whole number: its range, and the name that messages have for it.
    Ranged(i64, i64, &'static str),
    /// A whole number of 64 bits without a sign.
    Uint64,
    /// Whatever JSON has.
    Any,
}

/// A value of an enumeration.
#[derive(Debug)]
pub struct EnumValue {
    /// Its text.
    pub name: &'static str,
    /// `deprecated` and the like.
    pub features: &'static [&'static str],
    /// What must hold for it to be accepted.
    pub condition: Option<&'static str>,
}

/// A piece of an object, in the order in which the schema has it.
#[derive(Debug)]
pub enum Part {
    /// All members of another type. They come before all others.
    Base(TypeRef),
    /// A member.
    Member(Member),
    /// The tag of a union; what goes with its value comes last.
    Branches(TypeRef),
}

/// A member of an object.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Whether it may be absent.
    pub optional: bool,
    /// Its type.
    pub kind: TypeRef,
    /// `deprecated`, `unstable`.
    pub features: &'static [&'static str],
    /// What must hold for it to be accepted.
    pub condition: Option<&'static str>,
}

/// What goes with a value of a tag.
#[derive(Debug)]
pub struct Variant {
    /// The value.
    pub case: &'static str,
    /// The type whose members come along; none where there are none.
    pub kind: Option<TypeRef>,
    /// What must hold for it to be there.
    pub condition: Option<&'static str>,
}

/// One type of an alternate.
#[derive(Debug)]
pub struct Choice {
    /// The schema's word for it; it is never on the wire.
    pub name: &'static str,
    /// Its type.
    pub kind: TypeRef,
}

/// Conditions of the schema that do not hold here. All others do: the schema is that of a Linux host
/// with everything but the drivers of libblkio, as distributions build the reference.
const NOT_HELD: &[&str] = &["CONFIG_BLKIO", "CONFIG_BLKIO_VHOST_VDPA_FD"];

/// True where a condition of the schema holds; no condition always does.
#[must_use]
pub fn holds(condition: Option<&str>) -> bool {
    condition.is_none_or(|c| !NOT_HELD.contains(&c))
}

impl Schema {
    /// The members of an object that do not depend on a tag, and the tag, in the schema's order:
    /// those of the base first. What is not an object has none.
    #[must_use]
    pub fn members(&'static self) -> Vec<&'static Member> {
        let mut out = Vec::new();
        self.collect(&mut out);
        out
    }

    fn collect(&'static self, out: &mut Vec<&'static Member>) {
        match &self.shape {
            Shape::Object(parts) => {
                for part in *parts {
                    if let Part::Base(base) = part {
                        base().collect(out);
                    }
                }
                for part in *parts {
                    match part {
                        Part::Base(_) => {}
                        Part::Member(member) => out.push(member),
                        Part::Branches(union) => union().collect(out),
                    }
                }
            }
            Shape::Union { tag, .. } => out.push(tag),
            _ => {}
        }
    }

    /// The tag and what goes with its values, of an object that has one.
    #[must_use]
    pub fn branches(&'static self) -> Option<(&'static Member, &'static [Variant])> {
        match &self.shape {
            Shape::Union { tag, variants } => Some((tag, variants)),
            Shape::Object(parts) => parts.iter().find_map(|part| match part {
                Part::Branches(union) => union().branches(),
                _ => None,
            }),
            _ => None,
        }
    }

    /// What identifies it among all types: its name, or how it is put together.
    #[must_use]
    pub fn key(&'static self) -> String {
        match (&self.shape, self.name) {
            (Shape::Array(element), _) => format!("[{}]", element().key()),
            (_, "") => {
                let members = self.members();
                let keys: Vec<_> = members.iter().map(|m| (m.kind)().key()).collect();
                format!("{{{}}}", keys.join(","))
            }
            (_, name) => name.into(),
        }
    }
}

/// A value inside an object of one member, as the older unions of the schema wrap their branches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapper<T> {
    /// The value.
    pub data: T,
}

/// Reads an optional member that is there.
pub(crate) fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A description without features or condition.
const fn plain(name: &'static str, shape: Shape) -> Schema {
    Schema { name, module: module_path!(), features: &[], condition: None, shape }
}

const fn builtin(name: &'static str, builtin: Builtin) -> Schema {
    plain(name, Shape::Builtin(builtin))
}

/// The schema's `size`.
pub fn size() -> &'static Schema {
    const { &builtin("size", Builtin::Size) }
}

/// The schema's `int`.
pub fn int() -> &'static Schema {
    const { &builtin("int", Builtin::Int) }
}

macro_rules! builtins {
    ($($type:ty => $name:literal, $builtin:expr;)+) => {
        $(impl Qapi for $type {
            fn schema() -> &'static Schema {
                const { &builtin($name, $builtin) }
            }
        })+
    };
}

builtins! {
    String => "str", Builtin::Str;
    bool => "bool", Builtin::Bool;
    () => "null", Builtin::Null;
    f64 => "number", Builtin::Number;
    i64 => "int", Builtin::Int;
    u64 => "uint64", Builtin::Uint64;
    i32 => "int32", Builtin::Ranged(i32::MIN as i64, i32::MAX as i64, "int32_t");
    u32 => "uint32", Builtin::Ranged(0, u32::MAX as i64, "uint32_t");
    u16 => "uint16", Builtin::Ranged(0, u16::MAX as i64, "uint16_t");
    u8 => "uint8", Builtin::Ranged(0, u8::MAX as i64, "uint8_t");
    Value => "any", Builtin::Any;
}

impl<T: Qapi> Qapi for Vec<T> {
    fn schema() -> &'static Schema {
        const { &plain("", Shape::Array(T::schema)) }
    }
}

impl<T: Qapi> Qapi for Box<T> {
    fn schema() -> &'static Schema {
        T::schema()
    }
}

impl<T: Qapi> Qapi for Wrapper<T> {
    fn schema() -> &'static Schema {
        const {
            &plain(
                "",
                Shape::Object(&[Part::Member(Member {
                    name: "data",
                    optional: false,
                    kind: T::schema,
                    features: &[],
                    condition: None,
                })]),
            )
        }
    }
}
