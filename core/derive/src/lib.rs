//! `#[qapi]`: one Rust definition of a schema's type gives its wire form (serde) and its description
//! (`sectora_core::qapi::schema`), so the two cannot drift apart.
//!
//! | item | what it is in the schema |
//! | --- | --- |
//! | `struct` | a struct; `Option` members are optional |
//! | `enum` of names | an enumeration; gets `ALL`, `as_str`, `Display`, `FromStr` |
//! | `enum` with `tag = "t", by = T` | a union whose base is the member `t` alone |
//! | `enum` with `alternate` | an alternate |
//!
//! A union whose base has more members is a struct with one field `#[qapi(branches)]` that holds
//! the enum; the field stands where the base has the tag.
//!
//! For items: `tag`, `by`, `content` (branches are wrapped in a member `data`), `ordered` (`Serialize` is
//! written by hand, for the order of its members), `alternate`, `snake` (names with underscores, not
//! dashes), `what` (the word for a value in messages). For fields and variants: `name`, `base`, `branches`. For all: `deprecated`, `unstable`, `features = "a b"`,
//! `cond = "C"` (the schema's condition).
//!
//! The code it makes names `crate::qapi`: it is for `sectora-core` alone.

mod attributes;
mod enums;
mod structs;

use proc_macro::TokenStream;
use syn::{Item, parse_macro_input};

/// Makes a struct or enum a type of the schema; see the module's text.
#[proc_macro_attribute]
pub fn qapi(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut container = attributes::Attributes::default();
    let parser = syn::meta::parser(|meta| container.read(&meta));
    parse_macro_input!(arguments with parser);
    let made = match parse_macro_input!(item as Item) {
        Item::Struct(item) => structs::expand(&container, item),
        Item::Enum(item) if container.tag.is_some() => enums::union(&container, item),
        Item::Enum(item) if container.alternate => enums::alternate(&container, item),
        Item::Enum(item) => enums::names(&container, item),
        other => Err(syn::Error::new_spanned(other, "neither a struct nor an enum")),
    };
    made.unwrap_or_else(|e| e.to_compile_error()).into()
}
