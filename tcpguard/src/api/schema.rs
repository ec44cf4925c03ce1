//! Schemas of values whose Rust type does not describe their format.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat,
        schema::{SchemaType, Type},
    },
};

use crate::events::MAX_ID;

/// IPv4 networks that are accepted without `force`.
const IPV4_NETWORK: &str = "^(([1-9]?[0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])[.]){3}([1-9]?[0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])/([89]|[12][0-9]|3[0-2])$";
/// IPv6 networks: complete, with trailing zeros omitted, and with zeros omitted in the middle.
const IPV6_NETWORKS: [&str; 3] = [
    "^[1-9a-f][0-9a-f]{0,3}(:[0-9a-f]{1,4}){7}/(1[6-9]|[2-9][0-9]|1[01][0-9]|12[0-8])$",
    "^[1-9a-f][0-9a-f]{0,3}(:[0-9a-f]{1,4}){0,6}::/(1[6-9]|[2-9][0-9]|1[01][0-9]|12[0-8])$",
    "^[1-9a-f][0-9a-f]{0,3}(:[0-9a-f]{1,4}){0,2}:(:[0-9a-f]{1,4}){1,4}/(1[6-9]|[2-9][0-9]|1[01][0-9]|12[0-8])$",
];
/// "1h 30m" and a future point in time are accepted too.
const LENGTH_OF_TIME: &str = "^([1-9][0-9]{0,5}s|[1-9][0-9]{0,3}m|[1-9][0-9]{0,2}h|[1-9][0-9]?d)$";
const MAX_SECONDS: u32 = 366 * 24 * 3600;

fn of_type(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(kind))
}

fn text(format: KnownFormat) -> ObjectBuilder {
    of_type(Type::String).format(Some(SchemaFormat::KnownFormat(format)))
}

fn matching(pattern: &str) -> ObjectBuilder {
    of_type(Type::String).pattern(Some(pattern))
}

fn any_address() -> OneOfBuilder {
    OneOfBuilder::new().item(text(KnownFormat::Ipv4)).item(text(KnownFormat::Ipv6))
}

macro_rules! schemas {
    ($($(#[$doc:meta])* $name:ident => $schema:expr;)*) => {
        $(
            $(#[$doc])*
            pub(super) struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    $schema.into()
                }
            }

            impl ToSchema for $name {}
        )*
    };
}

schemas! {
    /// An IPv4 or IPv6 address.
    AnyAddress => any_address();
    /// An address, or a network in CIDR notation.
    AnyNetwork => IPV6_NETWORKS.iter().fold(any_address().item(matching(IPV4_NETWORK)), |any, one| any.item(matching(one)));
    /// A frame of 14 bytes or more, in hexadecimal.
    FrameDigits => matching("^([0-9a-f]{2}){14,512}$");
    /// An event id, or a point in time.
    IdOrTime => OneOfBuilder::new()
        .item(of_type(Type::Integer).minimum(Some(0u64)).maximum(Some(MAX_ID)))
        .item(text(KnownFormat::DateTime));
    /// Seconds, a text such as "10m", or null.
    LengthOfTime => OneOfBuilder::new()
        .item(of_type(Type::Number).minimum(Some(1u32)).maximum(Some(MAX_SECONDS)))
        .item(matching(LENGTH_OF_TIME))
        .item(of_type(Type::Null));
}
