//! A value for each type of resources.

use std::ops::{Index, IndexMut};

use super::resource::ResourceType;

/// One value for each [`ResourceType`]. Every type has its value, so that a look-up cannot fail, and no answer that is
/// empty by mistake can be taken for one that is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerType<T> {
    cluster: T,
    endpoint: T,
    secret: T,
    extension: T,
    runtime: T,
    listener: T,
    route: T,
}

impl<T> PerType<T> {
    pub fn from_fn(mut value: impl FnMut(ResourceType) -> T) -> Self {
        Self {
            cluster: value(ResourceType::Cluster),
            endpoint: value(ResourceType::Endpoint),
            secret: value(ResourceType::Secret),
            extension: value(ResourceType::Extension),
            runtime: value(ResourceType::Runtime),
            listener: value(ResourceType::Listener),
            route: value(ResourceType::Route),
        }
    }

    /// The values with their types, in the order of [`ResourceType::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (ResourceType, &T)> {
        ResourceType::ALL.into_iter().map(|resource_type| (resource_type, &self[resource_type]))
    }
}

impl<T> Index<ResourceType> for PerType<T> {
    type Output = T;

    fn index(&self, resource_type: ResourceType) -> &T {
        match resource_type {
            ResourceType::Cluster => &self.cluster,
            ResourceType::Endpoint => &self.endpoint,
            ResourceType::Secret => &self.secret,
            ResourceType::Extension => &self.extension,
            ResourceType::Runtime => &self.runtime,
            ResourceType::Listener => &self.listener,
            ResourceType::Route => &self.route,
        }
    }
}

impl<T> IndexMut<ResourceType> for PerType<T> {
    fn index_mut(&mut self, resource_type: ResourceType) -> &mut T {
        match resource_type {
            ResourceType::Cluster => &mut self.cluster,
            ResourceType::Endpoint => &mut self.endpoint,
            ResourceType::Secret => &mut self.secret,
            ResourceType::Extension => &mut self.extension,
            ResourceType::Runtime => &mut self.runtime,
            ResourceType::Listener => &mut self.listener,
            ResourceType::Route => &mut self.route,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_a_value_of_its_own() {
        let mut names = PerType::from_fn(|resource_type| resource_type.to_string());
        for resource_type in ResourceType::ALL {
            assert_eq!(names[resource_type], resource_type.as_str());
            names[resource_type] = format!("changed {resource_type}");
        }
        let changed: Vec<_> = names.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(changed, ResourceType::ALL.map(|resource_type| format!("changed {resource_type}")));
    }
}
