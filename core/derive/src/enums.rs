//! Enumerations, unions and alternates.

use crate::attributes::Attributes;
use crate::structs::{describe, reference};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{ItemEnum, parse_quote};

/// An enumeration: its values in the schema's order, and their names as text.
pub(crate) fn names(container: &Attributes, mut item: ItemEnum) -> syn::Result<TokenStream> {
    let (mut idents, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for variant in &mut item.variants {
        if !variant.fields.is_empty() {
            return Err(syn::Error::new_spanned(
                variant,
                "a value of an enumeration holds nothing",
            ));
        }
        let attributes = Attributes::take(&mut variant.attrs)?;
        let name = attributes.wire_name(&snake(&variant.ident.to_string()), container);
        variant.attrs.push(parse_quote!(#[serde(rename = #name)]));
        let (features, condition) = (attributes.features(), attributes.condition());
        values.push(quote!(schema::EnumValue {
            name: #name,
            features: #features,
            condition: #condition,
        }));
        idents.push(variant.ident.clone());
        names.push(name);
    }
    let ident = &item.ident;
    let message = format!(
        "unknown {} '{{name}}', expected one of: {}",
        container.what.as_deref().unwrap_or("value"),
        names.join(", ")
    );
    let described =
        describe(container, &ident.to_string(), &quote!(schema::Shape::Enum(&[#(#values),*])));
    Ok(quote! {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #item

        impl #ident {
            /// Every value, in the schema's order.
            pub const ALL: &'static [Self] = &[#(Self::#idents),*];

            /// The name as it stands on the wire and in options.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    #(Self::#idents => #names,)*
                }
            }
        }

        impl core::fmt::Display for #ident {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl core::str::FromStr for #ident {
            type Err = crate::Error;

            fn from_str(name: &str) -> crate::Result<Self> {
                match name {
                    #(#names => Ok(Self::#idents),)*
                    _ => Err(crate::Error::invalid(alloc::format!(#message))),
                }
            }
        }

        impl crate::qapi::schema::Qapi for #ident { #described }
    })
}

/// A union: a tag, and for each of its values what else there is.
pub(crate) fn union(container: &Attributes, mut item: ItemEnum) -> syn::Result<TokenStream> {
    let (Some(tag), Some(by)) = (&container.tag, &container.by) else {
        return Err(syn::Error::new_spanned(&item.ident, "`tag` needs `by`: the tag's type"));
    };
    let mut variants = Vec::new();
    for variant in &mut item.variants {
        let attributes = Attributes::take(&mut variant.attrs)?;
        let name = attributes.wire_name(&snake(&variant.ident.to_string()), container);
        variant.attrs.push(parse_quote!(#[serde(rename = #name)]));
        let condition = attributes.condition();
        let kind = match variant.fields.iter().next().map(|f| &f.ty) {
            None => quote!(None),
            Some(ty) if container.content => {
                quote!(Some(<schema::Wrapper<#ty> as schema::Qapi>::schema))
            }
            Some(ty) => quote!(Some(<#ty as schema::Qapi>::schema)),
        };
        variants.push(quote!(schema::Variant { case: #name, kind: #kind, condition: #condition }));
    }
    let ident = &item.ident;
    let shape = quote!(schema::Shape::Union {
        tag: schema::Member {
            name: #tag,
            optional: false,
            kind: <#by as schema::Qapi>::schema,
            features: &[],
            condition: None,
        },
        variants: &[#(#variants),*],
    });
    let described = describe(container, &ident.to_string(), &shape);
    let content = container.content.then(|| quote!(, content = "data"));
    let serialize = (!container.ordered).then(|| quote!(serde::Serialize,));
    Ok(quote! {
        // There are few of these at a time: boxes would only be in the way.
        #[allow(clippy::large_enum_variant)]
        #[derive(Clone, Debug, PartialEq, #serialize serde::Deserialize)]
        #[serde(tag = #tag #content)]
        #item
        impl crate::qapi::schema::Qapi for #ident { #described }
    })
}

/// An alternate: the kind of JSON value tells which of its types is meant.
pub(crate) fn alternate(container: &Attributes, mut item: ItemEnum) -> syn::Result<TokenStream> {
    let mut choices = Vec::new();
    for variant in &mut item.variants {
        let attributes = Attributes::take(&mut variant.attrs)?;
        let name = attributes.wire_name(&snake(&variant.ident.to_string()), container);
        let kind = match variant.fields.iter().next() {
            None => quote!(<() as schema::Qapi>::schema),
            Some(field) => reference(&field.ty),
        };
        choices.push(quote!(schema::Choice { name: #name, kind: #kind }));
    }
    let ident = &item.ident;
    let described = describe(
        container,
        &ident.to_string(),
        &quote!(schema::Shape::Alternate(&[#(#choices),*])),
    );
    Ok(quote! {
        // There are few of these at a time: boxes would only be in the way.
        #[allow(clippy::large_enum_variant)]
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(untagged)]
        #item
        impl crate::qapi::schema::Qapi for #ident { #described }
    })
}

/// `InUse` as `in_use`.
fn snake(ident: &str) -> String {
    let mut out = String::new();
    for (i, c) in ident.char_indices() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
