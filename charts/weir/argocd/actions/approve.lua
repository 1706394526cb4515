-- Allows the upgrade to the spec as it is now.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["weir.dev/approve"] = string.format("%d", obj.metadata.generation)
return obj
