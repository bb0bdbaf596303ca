//! Which objects of a kind a list or watch is about: namespace, labels, fields.
use crate::object;
use crate::query::Query;
use machinery::meta;
use machinery::resource::Resource;
use machinery::selector::{FieldSelector, LabelSelector};
use machinery::status::Status;
use serde_json::Value;
use store::Kv;

/// What selectors look at in an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traits {
    pub(crate) namespace: String,
    pub(crate) name: String,
    labels: Value,
    /// Values of the row's selectable fields, in its order.
    fields: Vec<String>,
}

impl Traits {
    pub(crate) fn of(row: &Resource, object: &Value) -> Self {
        Self {
            namespace: meta::namespace(object).to_owned(),
            name: meta::name(object).to_owned(),
            labels: object.pointer("/metadata/labels").cloned().unwrap_or_default(),
            fields: if row.selectable_fields.is_empty() {
                Vec::new()
            } else {
                row.strategy.fields(row, object)
            },
        }
    }
}

/// Parsed selectors.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Empty: every namespace.
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(crate) fn parse(row: &Resource, namespace: &str, query: &Query) -> Result<Self, Status> {
        let labels = query.get("labelSelector").unwrap_or("");
        let fields = query.get("fieldSelector").unwrap_or("");
        let bad = |why: String| {
            Status::bad_request(format!(
                "Unable to find {:?} that match label selector {labels:?}, field selector {fields:?}: {why}",
                format!("{}, Resource={}", row.api_version(), row.plural)
            ))
        };
        let selection = Self {
            namespace: namespace.to_owned(),
            labels: LabelSelector::parse(labels).map_err(|e| bad(e.to_string()))?,
            fields: FieldSelector::parse(fields).map_err(|e| bad(e.to_string()))?,
        };
        for (field, _, _) in &selection.fields.terms {
            let known = field == "metadata.name"
                || (field == "metadata.namespace" && row.namespaced())
                || row.selectable_fields.contains(&field.as_str());
            if !known {
                return Err(bad(format!("field label not supported: {field}")));
            }
        }
        Ok(selection)
    }

    /// Whether only the namespace selects.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one name that can match.
    pub(crate) fn single_name(&self) -> Option<&str> {
        let mut names = self.fields.terms.iter().filter(|(f, equal, _)| f == "metadata.name" && *equal);
        match (names.next(), names.next()) {
            (Some((_, _, name)), None) if !name.is_empty() && !name.contains('/') => Some(name),
            _ => None,
        }
    }

    pub(crate) fn matches(&self, row: &Resource, traits: &Traits) -> bool {
        (self.namespace.is_empty() || self.namespace == traits.namespace)
            && self.fields.matches(|field| match field {
                "metadata.name" => traits.name.clone(),
                "metadata.namespace" => traits.namespace.clone(),
                other => {
                    let index = row.selectable_fields.iter().position(|f| *f == other);
                    index.and_then(|i| traits.fields.get(i).cloned()).unwrap_or_default()
                }
            })
            && self.labels.matches(&traits.labels)
    }

    /// Whether a stored object of a list matches; the namespace is known from its key.
    pub(crate) fn selects(&self, row: &Resource, kv: &Kv) -> Result<bool, Status> {
        if self.is_everything() {
            return Ok(true);
        }
        let object = object::decode(row, &kv.value, kv.mod_revision)?;
        Ok(self.matches(row, &Traits::of(row, &object)))
    }
}
