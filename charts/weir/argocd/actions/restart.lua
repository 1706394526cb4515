-- From a last checkpoint; a failed job from its latest.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["weir.dev/restart"] = os.date("!%Y-%m-%dT%H:%M:%SZ")
return obj
