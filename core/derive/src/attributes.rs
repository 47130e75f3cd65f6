//! What is written in `#[qapi(…)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Ident, LitStr, Type};

/// The attributes of an item, a field or a variant.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) tag: Option<String>,
    pub(crate) by: Option<Type>,
    pub(crate) content: bool,
    pub(crate) ordered: bool,
    pub(crate) alternate: bool,
    pub(crate) snake: bool,
    pub(crate) what: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) base: bool,
    pub(crate) branches: bool,
    features: Vec<String>,
    condition: Option<String>,
}

impl Attributes {
    /// Takes the `qapi` attributes out of a list.
    pub(crate) fn take(list: &mut Vec<Attribute>) -> syn::Result<Self> {
        let mut out = Self::default();
        for attribute in list.iter().filter(|a| a.path().is_ident("qapi")) {
            attribute.parse_nested_meta(|meta| out.read(&meta))?;
        }
        list.retain(|a| !a.path().is_ident("qapi"));
        Ok(out)
    }

    pub(crate) fn read(&mut self, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
        let text = || meta.value()?.parse::<LitStr>().map(|t| t.value());
        let key = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
        match key.as_str() {
            "tag" => self.tag = Some(text()?),
            "by" => self.by = Some(meta.value()?.parse()?),
            "content" => self.content = true,
            "ordered" => self.ordered = true,
            "alternate" => self.alternate = true,
            "snake" => self.snake = true,
            "what" => self.what = Some(text()?),
            "name" => self.name = Some(text()?),
            "base" => self.base = true,
            "branches" => self.branches = true,
            "deprecated" | "unstable" => self.features.push(key),
            "features" => self.features.extend(text()?.split(' ').map(str::to_owned)),
            "cond" => self.condition = Some(text()?),
            _ => return Err(meta.error("not known here")),
        }
        Ok(())
    }

    /// The features as an expression.
    pub(crate) fn features(&self) -> TokenStream {
        let features = &self.features;
        quote!(&[#(#features),*])
    }

    /// The condition as an expression.
    pub(crate) fn condition(&self) -> TokenStream {
        match &self.condition {
            Some(condition) => quote!(Some(#condition)),
            None => quote!(None),
        }
    }

    /// The name on the wire of a Rust name in snake case.
    pub(crate) fn wire_name(&self, ident: &str, container: &Self) -> String {
        let ident = ident.strip_prefix("r#").unwrap_or(ident);
        self.name.clone().unwrap_or_else(|| {
            if container.snake { ident.to_owned() } else { ident.replace('_', "-") }
        })
    }
}
