//! JSON values for serde, with messages in the words of people who write YAML: what is a struct to the program is a
//! mapping to them. A list is never taken for a mapping, as serde's derived code would.

use std::fmt::Display;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

#[derive(Clone, Copy)]
pub(super) struct Plain<'de>(pub(super) &'de Value);

/// A value as people would call it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => crate::shown::value(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

impl<'de> Plain<'de> {
    fn expected(self, expected: impl Display) -> Error {
        Error::custom(format_args!("found {}, expected {expected}", shown(self.0)))
    }

    fn whole_number<T>(self, max: u64, visit: impl FnOnce(u64) -> Result<T, Error>) -> Result<T, Error> {
        let number = self.0.as_u64().filter(|number| *number <= max);
        number.map_or_else(|| Err(self.expected(format_args!("a whole number of 0 to {max}"))), visit)
    }
}

impl<'de> Deserializer<'de> for Plain<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items(items.iter())),
            Value::Object(fields) => visitor.visit_map(Fields { fields: fields.iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.as_bool().map_or_else(|| Err(self.expected("true or false")), |value| visitor.visit_bool(value))
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.whole_number(u32::MAX.into(), |number| visitor.visit_u64(number))
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.whole_number(u64::MAX, |number| visitor.visit_u64(number))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.as_str().map_or_else(|| Err(self.expected("a text")), |text| visitor.visit_borrowed_str(text))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_array() { self.deserialize_any(visitor) } else { Err(self.expected("a list")) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_object() { self.deserialize_any(visitor) } else { Err(self.expected("a mapping")) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(word) => visitor.visit_enum(Choice { word, value: None }),
            Value::Object(fields) => visitor.visit_enum(Choice::only(fields, words)?),
            _ => Err(self.expected(format_args!("one of {}", words.join(", ")))),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct
        identifier ignored_any
    }
}

struct Items<'de>(std::slice::Iter<'de, Value>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.0.next().map(|item| seed.deserialize(Plain(item))).transpose()
    }
}

struct Fields<'de> {
    fields: serde_json::map::Iter<'de>,
    /// Of the key that was read last.
    value: Option<&'de Value>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((key, value)) = self.fields.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(Plain(self.value.take().unwrap_or(&Value::Null)))
    }
}

/// One of several words, with a value where it is a field.
struct Choice<'de> {
    word: &'de str,
    value: Option<&'de Value>,
}

impl<'de> Choice<'de> {
    fn only(fields: &'de Map<String, Value>, words: &'static [&'static str]) -> Result<Self, Error> {
        let mut fields = fields.iter();
        match (fields.next(), fields.len()) {
            (Some((word, value)), 0) => Ok(Self { word, value: Some(value) }),
            (_, others) => {
                let found = if others == 0 { "an empty mapping" } else { "several fields" };
                Err(Error::custom(format_args!("found {found}, expected exactly one of {}", words.join(", "))))
            }
        }
    }
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let word = seed.deserialize(BorrowedStrDeserializer::<Error>::new(self.word));
        word.map(|word| (word, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value {
            None => Ok(()),
            Some(_) => Err(Error::custom(format_args!("is a word without a value: expected `{}` alone", self.word))),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        match self.value {
            Some(value) => seed.deserialize(Plain(value)),
            None => Err(Error::custom(format_args!("is a field: expected `{}:` and its value", self.word))),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("has more than one value"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        Plain(self.value.unwrap_or(&Value::Null)).deserialize_map(visitor)
    }
}
