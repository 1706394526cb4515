//! Watched objects as compressed text: a hundredth of the memory that their types take, which have room for everything
//! that a pod can be. One is unpacked when its job is looked at.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

use kube::runtime::reflector::Lookup;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use lz4_flex::block;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::names::JOB_LABEL;

const PACKED_HERE: &str = "it was packed here";

#[derive(Debug)]
pub struct Packed<K> {
    name: Box<str>,
    namespace: Box<str>,
    /// That it belongs to.
    job: Option<Box<str>>,
    /// JSON, as it differs from the pattern.
    text: Box<[u8]>,
    pattern: Arc<[u8]>,
    of: PhantomData<fn() -> K>,
}

/// Packs the objects of one watch, which are much like one another: the first is the pattern of all.
#[derive(Debug, Default)]
pub struct Packer {
    pattern: Option<Arc<[u8]>>,
}

impl<K> Clone for Packed<K> {
    fn clone(&self) -> Self {
        let Packed { name, namespace, job, text, pattern, of } = self;
        Packed {
            name: name.clone(),
            namespace: namespace.clone(),
            job: job.clone(),
            text: text.clone(),
            pattern: Arc::clone(pattern),
            of: *of,
        }
    }
}

impl<K: DeserializeOwned> Packed<K> {
    pub fn unpacked(&self) -> K {
        let text = block::decompress_size_prepended_with_dict(&self.text, &self.pattern).expect(PACKED_HERE);
        serde_json::from_slice(&text).expect(PACKED_HERE)
    }
}

impl<K> Packed<K> {
    /// Namespace and name.
    pub fn job(&self) -> Option<(&str, &str)> {
        Some((&self.namespace, self.job.as_deref()?))
    }
}

impl Packer {
    pub fn pack<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) -> Packed<K> {
        let text = serde_json::to_vec(object).expect("an object of Kubernetes can be written as JSON");
        let pattern = Arc::clone(self.pattern.get_or_insert_with(|| text.as_slice().into()));
        Packed {
            name: object.meta().name.clone().unwrap_or_default().into(),
            namespace: object.meta().namespace.clone().unwrap_or_default().into(),
            job: object.labels().get(JOB_LABEL).map(|job| job.as_str().into()),
            text: block::compress_prepend_size_with_dict(&text, &pattern).into(),
            pattern,
            of: PhantomData,
        }
    }

    pub fn event<K: Resource<DynamicType = ()> + Serialize>(&mut self, event: Event<K>) -> Event<Packed<K>> {
        match event {
            Event::Apply(object) => Event::Apply(self.pack(&object)),
            Event::Delete(object) => Event::Delete(self.pack(&object)),
            Event::Init => Event::Init,
            Event::InitApply(object) => Event::InitApply(self.pack(&object)),
            Event::InitDone => Event::InitDone,
        }
    }
}

/// By namespace and name.
impl<K: Resource<DynamicType = ()>> Lookup for Packed<K> {
    type DynamicType = ();

    fn kind((): &()) -> Cow<'_, str> {
        <K as Resource>::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        <K as Resource>::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        <K as Resource>::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        <K as Resource>::plural(&())
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.name))
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.namespace))
    }

    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn uid(&self) -> Option<Cow<'_, str>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(job: usize) -> Pod {
        let pod = json!({
            "metadata": {
                "name": format!("job-{job}-coordinator"), "namespace": "data", "uid": format!("{:032x}", job * 7919),
                "resourceVersion": job.to_string(),
                "labels": {JOB_LABEL: format!("job-{job}"), "app.kubernetes.io/managed-by": "weir"},
                "annotations": {"weir.dev/run": "3"},
            },
            "status": {
                "phase": "Running", "podIP": format!("10.0.{}.{}", job / 256, job % 256),
                "containerStatuses": [{"name": "weir", "ready": true, "restartCount": job, "image": "", "imageID": ""}],
            },
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn objects_come_out_as_they_went_in_and_take_little() {
        let mut packer = Packer::default();
        let mut bytes = 0;
        for job in 0..1_000 {
            let packed = packer.pack(&pod(job));
            assert_eq!(packed.job(), Some(("data", format!("job-{job}").as_str())));
            assert_eq!(packed.unpacked(), pod(job));
            bytes += packed.text.len();
        }
        let plain = 1_000 * serde_json::to_vec(&pod(7)).unwrap().len();
        assert!(bytes * 3 < plain, "{bytes} of {plain} bytes");
    }
}
