//! Structs: members, bases, and the branches of unions.

use crate::attributes::Attributes;
use proc_macro2::TokenStream;
use quote::quote;
use syn::{GenericArgument, ItemStruct, PathArguments, Type, parse_quote};

pub(crate) fn expand(container: &Attributes, mut item: ItemStruct) -> syn::Result<TokenStream> {
    let mut parts = Vec::new();
    for field in &mut item.fields {
        let attributes = Attributes::take(&mut field.attrs)?;
        let Some(ident) = &field.ident else {
            return Err(syn::Error::new_spanned(field, "members have names"));
        };
        let ty = &field.ty;
        if attributes.base || attributes.branches {
            field.attrs.push(parse_quote!(#[serde(flatten)]));
            let part = if attributes.base { quote!(Base) } else { quote!(Branches) };
            parts.push(quote!(schema::Part::#part(<#ty as schema::Qapi>::schema)));
            continue;
        }
        let name = attributes.wire_name(&ident.to_string(), container);
        let inner = argument(ty, "Option");
        let optional = inner.is_some();
        let reference = reference(inner.unwrap_or(ty));
        field.attrs.push(parse_quote!(#[serde(rename = #name)]));
        if optional {
            // Null is not absence: it is a value of some types, and wrong for all others.
            field.attrs.push(parse_quote!(#[serde(
                default,
                deserialize_with = "crate::qapi::schema::present",
                skip_serializing_if = "Option::is_none"
            )]));
        }
        let (features, condition) = (attributes.features(), attributes.condition());
        parts.push(quote!(schema::Part::Member(schema::Member {
            name: #name,
            optional: #optional,
            kind: #reference,
            features: #features,
            condition: #condition,
        })));
    }
    let ident = &item.ident;
    let described =
        describe(container, &ident.to_string(), &quote!(schema::Shape::Object(&[#(#parts),*])));
    Ok(quote! {
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #item
        impl crate::qapi::schema::Qapi for #ident { #described }
    })
}

/// The body of an implementation of `Qapi`.
pub(crate) fn describe(container: &Attributes, name: &str, shape: &TokenStream) -> TokenStream {
    let (features, condition) = (container.features(), container.condition());
    quote! {
        fn schema() -> &'static crate::qapi::schema::Schema {
            use crate::qapi::schema;
            static SCHEMA: schema::Schema = schema::Schema {
                name: #name,
                module: module_path!(),
                features: #features,
                condition: #condition,
                shape: #shape,
            };
            &SCHEMA
        }
    }
}

/// The function that gives the description of a Rust type. Aliases that say which integer is meant
/// are known by their names.
pub(crate) fn reference(ty: &Type) -> TokenStream {
    match last_ident(ty).as_deref() {
        Some("Size") => quote!(schema::size),
        Some("Natural") => quote!(schema::int),
        _ => quote!(<#ty as schema::Qapi>::schema),
    }
}

fn last_ident(ty: &Type) -> Option<String> {
    let Type::Path(path) = ty else { return None };
    path.path.segments.last().map(|s| s.ident.to_string())
}

/// `T` of `Wrapper<T>`.
fn argument<'a>(ty: &'a Type, wrapper: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|s| s.ident == wrapper)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().find_map(|a| match a {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}
